//! Handlers: what the macro wrote about each, and the table that is read at start.

use std::any::{Any, TypeId, type_name};
use std::fmt;
use std::num::NonZeroU16;
use std::panic::Location;
use std::sync::Arc;
use std::time::Duration;

use catga_core::{Codecs, Kind, Message, QoS};

use crate::Requirements;
use crate::invoke::{self, Invoke};
use crate::layer::Call;
use crate::seat::{self, Caller};
use crate::serve::{self, Begun};

/// Where a handler stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Site {
    /// The function's module.
    pub module: &'static str,
    /// The function's name.
    pub name: &'static str,
    /// The source file.
    pub file: &'static str,
    /// The line in it.
    pub line: u32,
}

impl Site {
    /// Where this is written.
    #[must_use]
    #[track_caller]
    pub const fn here(name: &'static str, module: &'static str) -> Self {
        let location = Location::caller();
        Self {
            module,
            name,
            file: location.file(),
            line: location.line(),
        }
    }
}

impl fmt::Display for Site {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "`{}::{}` ({}:{})",
            self.module, self.name, self.file, self.line
        )
    }
}

/// What `#[handler(..)]` says.
#[derive(Clone, Copy, Debug, Default)]
pub struct HandlerOptions {
    /// The consumer group.
    pub group: Option<&'static str>,
    /// The most calls at once, on this node.
    pub concurrency: Option<u32>,
    /// The attempts before a message is dead-lettered.
    pub attempts: Option<u32>,
    /// The longest that one attempt may take.
    pub timeout: Option<Duration>,
    /// The least and the most delay between attempts.
    pub backoff: Option<(Duration, Duration)>,
    /// The most calls in a time, on this node.
    pub rate: Option<Rate>,
    /// When to leave what fails alone for a while.
    pub breaker: Option<Breaker>,
    /// Whether every node handles every message.
    pub each_node: bool,
    /// Whether messages of one routing key are handled in order.
    pub ordered: bool,
    /// Whether a new group skips what was published before.
    pub start_new: bool,
}

impl HandlerOptions {
    /// Those of `#[handler]` alone.
    pub const NONE: Self = Self {
        group: None,
        concurrency: None,
        attempts: None,
        timeout: None,
        backoff: None,
        rate: None,
        breaker: None,
        each_node: false,
        ordered: false,
        start_new: false,
    };

    /// `group = ".."`
    #[must_use]
    pub const fn group(mut self, group: &'static str) -> Self {
        self.group = Some(group);
        self
    }

    /// `concurrency = ..`
    #[must_use]
    pub const fn concurrency(mut self, calls: u32) -> Self {
        self.concurrency = Some(calls);
        self
    }

    /// `attempts = ..`
    #[must_use]
    pub const fn attempts(mut self, attempts: u32) -> Self {
        self.attempts = Some(attempts);
        self
    }

    /// `timeout = ".."`
    #[must_use]
    pub const fn timeout_ns(mut self, timeout: u64) -> Self {
        self.timeout = Some(Duration::from_nanos(timeout));
        self
    }

    /// `backoff = ".."`
    #[must_use]
    pub const fn backoff_ns(mut self, least: u64, most: u64) -> Self {
        self.backoff = Some((Duration::from_nanos(least), Duration::from_nanos(most)));
        self
    }

    /// `rate = ".."`
    #[must_use]
    pub const fn rate_per_ns(mut self, calls: u64, per: u64) -> Self {
        let per = Duration::from_nanos(per);
        self.rate = Some(Rate { calls, per });
        self
    }

    /// `breaker(..)`
    #[must_use]
    pub const fn breaker_ns(mut self, failures: u32, open: u64) -> Self {
        let open = Duration::from_nanos(open);
        self.breaker = Some(Breaker { failures, open });
        self
    }

    /// `each_node`
    #[must_use]
    pub const fn each_node(mut self) -> Self {
        self.each_node = true;
        self
    }

    /// `ordered`
    #[must_use]
    pub const fn ordered(mut self) -> Self {
        self.ordered = true;
        self
    }

    /// `start = "new"`
    #[must_use]
    pub const fn start_new(mut self) -> Self {
        self.start_new = true;
        self
    }
}

/// `rate = "100/s"`: so many calls in a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// The calls.
    pub calls: u64,
    /// The time.
    pub per: Duration,
}

/// `breaker(failures = 5, open = "30s")`: opens after failures in a row, and tries again after a while.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Breaker {
    /// The failures in a row that open it.
    pub failures: u32,
    /// How long it stays open before one call is let through.
    pub open: Duration,
}

/// What a message type says of itself, and how its handlers are called, without the type.
#[derive(Clone, Copy)]
pub struct MessageDef {
    pub(crate) name: &'static str,
    pub(crate) version: u32,
    pub(crate) qos: QoS,
    pub(crate) kind: Kind,
    pub(crate) partitions: Option<NonZeroU16>,
    pub(crate) type_id: fn() -> TypeId,
    pub(crate) type_name: fn() -> &'static str,
    pub(crate) response: fn() -> TypeId,
    /// That of an encoded response, where it has to be said.
    pub(crate) response_content_type: fn(&Codecs) -> Option<&'static str>,
    pub(crate) caller: MakeCaller,
    pub(crate) begin: Begin,
    pub(crate) requires: Requires,
}

impl MessageDef {
    /// Of a message type.
    #[must_use]
    pub const fn of<M: Message>() -> Self {
        Self {
            name: M::NAME,
            version: M::VERSION,
            qos: M::QOS,
            kind: M::KIND,
            partitions: M::PARTITIONS,
            type_id: TypeId::of::<M>,
            type_name: type_name::<M>,
            response: TypeId::of::<M::Response>,
            response_content_type: Codecs::content_type::<M::Response>,
            caller: seat::caller::<M>,
            begin: serve::begin::<M>,
            requires: invoke::requires::<M>,
        }
    }
}

impl fmt::Debug for MessageDef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.name)
    }
}

/// A handler as the macro describes it.
#[derive(Clone)]
pub struct HandlerDef {
    /// Where it stands.
    pub site: Site,
    /// What its attribute says.
    pub options: HandlerOptions,
    /// What it handles.
    pub message: MessageDef,
    /// An `Invoke` of the message's type.
    pub call: Arc<dyn Any + Send + Sync>,
}

impl HandlerDef {
    /// Of a handler of `M`.
    pub(crate) fn new<M: Message>(site: Site, options: HandlerOptions, call: Invoke<M>) -> Self {
        Self {
            site,
            options,
            message: MessageDef::of::<M>(),
            call: Arc::new(call),
        }
    }
}

/// Makes who calls the handler with what arrives.
type MakeCaller = fn(&(dyn Any + Send + Sync)) -> Box<dyn Caller>;

/// Calls the handler within its layers.
type Begin = fn(Call) -> Begun;

/// Adds what the arguments of the handler need.
type Requires = fn(&(dyn Any + Send + Sync), &mut Requirements);

impl fmt::Debug for HandlerDef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} handles {}", self.site, self.message.name)
    }
}

/// The function's own name, as a type that leads to its definition.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a handler",
    label = "not a handler",
    note = "write `#[handler]` above the function"
)]
pub trait HandlerItem {
    /// The handler's definition; the default is that of a function with a mistake, which is not compiled any further.
    #[must_use]
    fn def() -> HandlerDef {
        unreachable!("it is not compiled any further")
    }
}

/// A handler that was linked into the program.
#[derive(Debug)]
pub struct Registered(pub fn() -> HandlerDef);

inventory::collect!(Registered);

/// Handlers that were named one by one: see [`handlers!`](crate::handlers!).
#[derive(Clone, Debug, Default)]
pub struct Handlers(Vec<Arc<HandlerDef>>);

impl Handlers {
    /// The handlers that the macro named.
    #[doc(hidden)]
    #[must_use]
    pub fn new(defs: impl IntoIterator<Item = HandlerDef>) -> Self {
        let mut handlers: Vec<_> = defs.into_iter().map(Arc::new).collect();
        sort(&mut handlers);
        Self(handlers)
    }

    /// Every handler that was linked into the program.
    pub(crate) fn linked() -> Self {
        Self::new(inventory::iter::<Registered>().map(|registered| registered.0()))
    }

    /// Both: one that is named twice counts once.
    #[must_use]
    pub fn and(mut self, other: Self) -> Self {
        self.0.extend(other.0);
        sort(&mut self.0);
        self
    }

    /// How many handlers there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn defs(&self) -> &[Arc<HandlerDef>] {
        &self.0
    }
}

/// By message and place, since the order of registration differs even between builds; the same entry twice counts once.
/// Handlers that a `macro_rules!` macro makes may have one place.
fn sort(handlers: &mut Vec<Arc<HandlerDef>>) {
    handlers.sort_by_key(|def| (def.message.name, def.site));
    handlers.dedup_by_key(|def| (def.message.name, def.site));
}

/// Names handlers one by one, to register these and no others: `.handlers(handlers![create_order, billing::bill])`.
///
/// # Examples
/// ```
/// # use catga::prelude::*;
/// # use serde::{Deserialize, Serialize};
/// #[derive(Event, Serialize, Deserialize)]
/// struct Pinged;
///
/// #[handler]
/// async fn on_pinged(_: Pinged) {}
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<()> {
/// let catga = Catga::builder().connect("memory://").handlers(handlers![on_pinged]).start().await?;
/// assert_eq!(catga.handlers().len(), 1);
/// # catga.shutdown().await?;
/// # Ok(())
/// # }
/// ```
#[macro_export]
macro_rules! handlers {
    ($($handler:path),* $(,)?) => {
        $crate::Handlers::new([$(<$handler as $crate::__private::HandlerItem>::def()),*])
    };
}

#[cfg(all(test, feature = "macros"))]
mod tests {
    use serde::{Deserialize, Serialize};

    use super::*;
    use crate::prelude::{Event, handler};

    #[derive(Event, Serialize, Deserialize)]
    struct First;

    #[derive(Event, Serialize, Deserialize)]
    struct Second;

    macro_rules! made_at_one_place {
        ($($message:ty),*) => {$(
            const _: () = {
                #[handler]
                async fn same(_: $message) {}
            };
        )*};
    }

    made_at_one_place!(First, Second);

    #[test]
    fn handlers_of_one_place_are_told_apart_by_their_message() {
        let linked = Handlers::linked();
        let same = linked.defs().iter().filter(|def| def.site.name == "same");
        let mut names: Vec<_> = same.map(|def| def.message.name).collect();
        names.sort_unstable();
        assert_eq!(names, ["First", "Second"]);
        assert_eq!(linked.clone().and(linked.clone()).len(), linked.len());
    }
}
