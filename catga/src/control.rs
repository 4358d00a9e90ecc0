//! Handlers while they run: how many at once, and whether at all.

use std::fmt;
use std::sync::Arc;

use catga_core::{Error, ErrorKind};

use crate::health::HandlerInfo;
use crate::table::{Entry, Table};

/// One handler of this node, to be slowed down, sped up or paused while it runs: from
/// [`Catga::handler`](crate::Catga::handler).
///
/// What is set holds for this node until it is set again or the application ends; other nodes of the
/// group go on as they are. Clones control the same handler.
///
/// # Examples
/// ```
/// # use catga::prelude::*;
/// # use serde::{Deserialize, Serialize};
/// #[derive(Event, Serialize, Deserialize)]
/// #[qos(at_least_once)]
/// struct InvoiceDue { customer: String }
///
/// #[handler(concurrency = 16)]
/// async fn send_invoice(_: InvoiceDue) {}
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<()> {
/// let catga = Catga::builder().connect("memory://").handlers(handlers![send_invoice]).start().await?;
/// let invoices = catga.handler("send_invoice")?;
///
/// // The mail server is slow today.
/// invoices.concurrency(2)?;
/// assert_eq!(invoices.info().concurrency, 2);
///
/// // Now it is gone: the invoices stay at the broker.
/// invoices.pause();
/// catga.publish(InvoiceDue { customer: "c1".into() }).await?;
/// assert!(invoices.info().paused);
/// assert_eq!(invoices.info().stats.handled, 0);
///
/// invoices.resume();
/// while invoices.info().stats.handled == 0 {
///     tokio::task::yield_now().await;
/// }
/// # catga.shutdown().await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct HandlerControl(Arc<Entry>);

impl HandlerControl {
    /// Finds a handler by its function's name, or by as much of its path as tells it from others.
    pub(crate) fn find(table: &Table, name: &str) -> Result<Self, Error> {
        let entries = &table.entries;
        // Otherwise a path that ends another could not be said.
        let exact: Vec<_> = entries.iter().filter(|e| path(e) == name).collect();
        let found = if exact.is_empty() {
            entries.iter().filter(|e| ends_with(e, name)).collect()
        } else {
            exact
        };
        match found.as_slice() {
            [entry] => Ok(Self(Arc::clone(entry))),
            [] if entries.is_empty() => Err(not_found(name, "no handler is registered here")),
            [] => {
                let names = listed(entries, |entry| format!("`{}`", path(entry)));
                Err(not_found(name, &format!("registered here: {names}")))
            }
            several => {
                let sites = listed(several.iter().copied(), |entry| entry.def.site.to_string());
                let text =
                    format!("`{name}` is the name of several handlers, add the module: {sites}");
                Err(Error::new(ErrorKind::Config, "handler", text))
            }
        }
    }

    /// Sets the most calls at once, on this node. With more, those who wait begin at once; with fewer,
    /// what runs goes on, and nothing is begun until there is a place.
    ///
    /// For an `ordered` handler no more than its message's partitions run at once, whatever is set here.
    ///
    /// # Errors
    /// [`Config`](ErrorKind::Config) for 0: [`pause`](Self::pause) says what is meant.
    pub fn concurrency(&self, calls: u32) -> Result<(), Error> {
        if calls == 0 {
            let text = format!(
                "`concurrency` of `{}` must be at least 1: call `pause()` to stop it for a while",
                self.0.def.site.name
            );
            return Err(Error::new(ErrorKind::Config, "handler", text));
        }
        let limit = usize::try_from(calls).unwrap_or(usize::MAX);
        self.0.slots.set_limit(limit);
        Ok(())
    }

    /// Begins no call from now on, until [`resume`](Self::resume); what runs goes on to its end, and
    /// [`in_flight`](crate::HandlerStats::in_flight) says when that is. Pausing twice is pausing once.
    ///
    /// Meanwhile
    /// - events at QoS 1 and 2 stay at the broker, for other nodes of the group to handle; what this node
    ///   was just being handed goes back;
    /// - events at QoS 0 go on filling the buffer, which drops the oldest when it is full
    ///   ([`dropped`](crate::HandlerStats::dropped));
    /// - requests wait, and fail with [`Timeout`](ErrorKind::Timeout) at their callers' deadlines: the
    ///   node still answers for them. To send them elsewhere, shut the node down.
    pub fn pause(&self) {
        self.0.slots.pause();
        tracing::info!(handler = self.0.def.site.name, "handler paused");
    }

    /// Goes on, with the concurrency that was set before or during the pause.
    pub fn resume(&self) {
        self.0.slots.resume();
        tracing::info!(handler = self.0.def.site.name, "handler resumed");
    }

    /// Whether it is paused.
    #[must_use]
    pub fn is_paused(&self) -> bool {
        self.0.slots.is_paused()
    }

    /// What it is, and what it counted.
    #[must_use]
    pub fn info(&self) -> HandlerInfo {
        HandlerInfo::of(&self.0)
    }
}

impl fmt::Debug for HandlerControl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HandlerControl")
            .field("handler", &path(&self.0))
            .field("message", &self.0.message)
            .field("concurrency", &self.0.slots.limit())
            .field("paused", &self.is_paused())
            .finish_non_exhaustive()
    }
}

fn path(entry: &Entry) -> String {
    format!("{}::{}", entry.def.site.module, entry.def.site.name)
}

/// Whether `name` is the end of the handler's path, in whole segments.
fn ends_with(entry: &Entry, name: &str) -> bool {
    let path = path(entry);
    let before = path.strip_suffix(name);
    !name.is_empty() && before.is_some_and(|before| before.ends_with("::"))
}

fn not_found(name: &str, there: &str) -> Error {
    let text = format!("there is no handler `{name}`; {there}");
    Error::new(ErrorKind::NotFound, "handler", text)
}

fn listed<'a>(
    entries: impl IntoIterator<Item = &'a Arc<Entry>>,
    show: impl Fn(&Entry) -> String,
) -> String {
    let shown: Vec<_> = entries.into_iter().map(|entry| show(entry)).collect();
    shown.join(", ")
}

#[cfg(all(test, feature = "macros", feature = "memory"))]
mod tests {
    use std::time::Duration;

    use serde::{Deserialize, Serialize};
    use tokio::sync::watch;

    use super::HandlerControl;
    use crate::prelude::{Catga, Event, Request, Result, State, handler};
    use crate::{ErrorKind, HealthStatus, handlers};

    #[derive(Event, Serialize, Deserialize)]
    #[qos(at_least_once)]
    struct Paid(u32);

    #[derive(Request, Serialize, Deserialize)]
    #[response(u32)]
    #[request(idempotent = false)]
    struct Double(u32);

    #[derive(Event, Serialize, Deserialize)]
    struct Tick;

    /// How many calls of `on_paid` may end.
    type Gate = watch::Sender<u32>;

    #[handler(concurrency = 1)]
    async fn on_paid(paid: Paid, gate: State<Gate>) -> Result<()> {
        gate.subscribe()
            .wait_for(|may_end| paid.0 < *may_end)
            .await?;
        Ok(())
    }

    #[handler]
    async fn double(request: Double) -> Result<u32> {
        Ok(request.0 * 2)
    }

    #[handler(group = "a")]
    async fn on_tick(_: Tick) {}

    mod others {
        use super::Tick;
        use crate::prelude::handler;

        #[handler(group = "b")]
        pub(super) async fn on_tick(_: Tick) {}
    }

    async fn node(gate: &Gate) -> Catga {
        let handlers = handlers![on_paid, double, on_tick, others::on_tick];
        let node = Catga::builder().connect("memory://").service("test");
        let node = node.handlers(handlers).state(gate.clone());
        node.start().await.expect("memory is always there")
    }

    async fn until(what: &str, there: impl Fn() -> bool) {
        let there = async {
            while !there() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        let there = tokio::time::timeout(Duration::from_secs(10), there).await;
        assert!(there.is_ok(), "{what} never came");
    }

    fn in_flight(handler: &HandlerControl) -> usize {
        handler.info().stats.in_flight
    }

    #[tokio::test(start_paused = true)]
    async fn handlers_are_found_by_as_much_of_their_path_as_is_needed() {
        let node = node(&Gate::default()).await;
        for name in ["double", "tests::double", "catga::control::tests::double"] {
            assert_eq!(node.handler(name).unwrap().info().name, "double");
        }
        let other = node.handler("others::on_tick").unwrap().info();
        assert_eq!(other.module, "catga::control::tests::others");
        assert_eq!(
            node.handler("catga::control::tests::on_tick")
                .unwrap()
                .info()
                .group
                .as_str(),
            "a"
        );

        let ambiguous = node.handler("on_tick").unwrap_err();
        assert_eq!(ambiguous.kind(), ErrorKind::Config);
        for path in ["control::tests::on_tick", "tests::others::on_tick"] {
            assert!(ambiguous.message().contains(path), "{ambiguous}");
        }
        for name in ["ouble", "::double", "", "doubles"] {
            let missing = node.handler(name).unwrap_err();
            assert_eq!(missing.kind(), ErrorKind::NotFound);
            for path in ["tests::double`", "tests::on_paid`", "others::on_tick`"] {
                assert!(missing.message().contains(path), "{missing}");
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn observed_parallelism_follows_the_concurrency() {
        let gate = Gate::default();
        let node = node(&gate).await;
        let handler = node.handler("on_paid").unwrap();
        for i in 0..10 {
            node.publish(Paid(i)).await.unwrap();
        }
        until("the first call", || in_flight(&handler) == 1).await;
        assert_eq!(
            handler.concurrency(0).unwrap_err().kind(),
            ErrorKind::Config
        );
        assert_eq!(handler.info().concurrency, 1);
        handler.concurrency(4).unwrap();
        until("the fourth call", || in_flight(&handler) == 4).await;

        handler.concurrency(2).unwrap();
        assert_eq!(handler.info().concurrency, 2);
        assert_eq!(in_flight(&handler), 4);
        gate.send_replace(3);
        until("three to end", || handler.info().stats.handled == 3).await;
        until("the second call", || in_flight(&handler) == 2).await;
        gate.send_replace(10);
        until("all to end", || handler.info().stats.handled == 10).await;
        node.shutdown().await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_paused_handler_finishes_what_runs_and_begins_nothing() {
        let gate = Gate::default();
        let node = node(&gate).await;
        let handler = node.handler("on_paid").unwrap();
        for i in 0..3 {
            node.publish(Paid(i)).await.unwrap();
        }
        until("the first call", || in_flight(&handler) == 1).await;
        handler.pause();
        handler.clone().pause();
        gate.send_replace(3);
        until("it to end", || handler.info().stats.handled == 1).await;
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!((handler.info().stats.handled, in_flight(&handler)), (1, 0));
        assert!(handler.info().paused && handler.is_paused());
        assert!(format!("{handler:?}").contains("paused: true"));
        let health = node.health();
        let part = health.parts.iter().find(|part| part.name == "handlers");
        assert_eq!(part.unwrap().detail, "paused: on_paid");
        assert_eq!(health.status, HealthStatus::Up);

        handler.resume();
        until("the rest", || handler.info().stats.handled == 3).await;
        assert!(!handler.info().paused);
        node.shutdown().await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_waits_for_a_paused_handler_until_its_deadline() {
        let node = node(&Gate::default()).await;
        let handler = node.handler("double").unwrap();
        handler.pause();
        let late = node.send(Double(1)).await.unwrap_err();
        assert_eq!(late.kind(), ErrorKind::Timeout, "{late:?}");
        assert_eq!(handler.info().stats.handled, 0);

        let resumed = async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            handler.resume();
        };
        let (answer, ()) = tokio::join!(node.send(Double(2)), resumed);
        assert_eq!(answer.unwrap(), 4);
    }

    #[tokio::test(start_paused = true)]
    async fn an_application_ends_while_a_handler_is_paused() {
        let node = node(&Gate::default()).await;
        let handler = node.handler("on_paid").unwrap();
        handler.pause();
        node.publish(Paid(1)).await.unwrap();
        assert_eq!(node.shutdown().await.unwrap().unfinished, 0);
        assert!(handler.is_paused());
    }
}
