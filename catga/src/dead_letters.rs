//! The messages that were given up, for those who run the application.

use std::fmt;
use std::sync::Arc;
use std::vec;

use catga_core::{DeadLetter, DeadLetterFilter, DeadLetterId, DeadLetters, Error, ErrorKind, Page};

use crate::app::Inner;

/// The most letters in one page: few enough to hold them with their payloads.
const PAGE: usize = 100;

/// The messages that handlers gave up, of all groups and nodes: to be listed, looked at, handed to their
/// handler again, or deleted. From [`Catga::dead_letters`](crate::Catga::dead_letters).
///
/// Clones are cheap; none of them keeps the application alive.
///
/// # Errors
/// Every call fails with
/// - [`Unsupported`](ErrorKind::Unsupported) when the backend keeps no dead letters;
/// - [`Closed`](ErrorKind::Closed) once the application shuts down;
/// - whatever the backend fails with: [`Unavailable`](ErrorKind::Unavailable), [`Timeout`](ErrorKind::Timeout) ..
///
/// # Examples
/// ```
/// use std::io;
/// use std::sync::Arc;
/// use std::sync::atomic::{AtomicBool, Ordering};
///
/// use catga::prelude::*;
/// use catga::{DeadLetterFilter, Message, ReasonKind};
/// use serde::{Deserialize, Serialize};
///
/// #[derive(Event, Serialize, Deserialize)]
/// #[qos(at_least_once)]
/// struct OrderPaid { order_id: String }
///
/// /// Whether the tax table is in its place.
/// type TaxTable = Arc<AtomicBool>;
///
/// #[handler]
/// async fn invoice(order: OrderPaid, taxes: State<TaxTable>) -> Result<()> {
///     if !taxes.load(Ordering::Relaxed) {
///         Err(io::Error::other(format!("no tax rate for {}", order.order_id))).terminal()?;
///     }
///     Ok(())
/// }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<()> {
/// let taxes = TaxTable::default();
/// let catga = Catga::builder()
///     .connect("memory://")
///     .handlers(handlers![invoice])
///     .state(Arc::clone(&taxes))
///     .start()
///     .await?;
/// catga.publish(OrderPaid { order_id: "17".into() }).await?;
///
/// // The handler gives it up: here it is.
/// let dead_letters = catga.dead_letters();
/// let filter = DeadLetterFilter::all();
/// let letter = loop {
///     if let Some(letter) = dead_letters.walk(&filter).next().await? {
///         break letter;
///     }
///     tokio::task::yield_now().await;
/// };
/// assert_eq!(letter.envelope.name().as_str(), OrderPaid::NAME);
/// assert_eq!(letter.reason.kind, ReasonKind::Terminal);
/// assert!(letter.reason.detail.contains("no tax rate for 17"));
///
/// // Mended: once more.
/// taxes.store(true, Ordering::Relaxed);
/// dead_letters.redrive(&letter.id).await?;
/// let handler = catga.handler("invoice")?;
/// while handler.info().stats.handled == 0 {
///     tokio::task::yield_now().await;
/// }
/// assert!(dead_letters.inspect(&letter.id).await?.is_none());
/// # catga.shutdown().await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct DeadLetterQueue(Arc<Inner>);

impl DeadLetterQueue {
    pub(crate) fn new(inner: Arc<Inner>) -> Self {
        Self(inner)
    }

    /// The first page of the letters, up to 100 of them, the oldest first; [`next`](Page::next) of the page
    /// is for [`list_after`](Self::list_after). [`walk`](Self::walk) turns the pages by itself.
    ///
    /// # Errors
    /// As [every call](Self#errors).
    ///
    /// # Cancel safety
    /// Nothing is changed, whenever the future is dropped.
    pub async fn list(&self, filter: &DeadLetterFilter) -> Result<Page, Error> {
        self.page(filter, None).await
    }

    /// The page that follows the one whose [`next`](Page::next) is given, as [`list`](Self::list).
    ///
    /// # Errors
    /// As [every call](Self#errors), and [`NotFound`](ErrorKind::NotFound) when `next` is of another backend.
    ///
    /// # Cancel safety
    /// As [`list`](Self::list).
    pub async fn list_after(
        &self,
        filter: &DeadLetterFilter,
        next: &DeadLetterId,
    ) -> Result<Page, Error> {
        self.page(filter, Some(next)).await
    }

    /// All letters, one after the other, the oldest first; a page is fetched when it is needed.
    #[must_use]
    pub fn walk(&self, filter: &DeadLetterFilter) -> DeadLetterWalk {
        DeadLetterWalk {
            queue: self.clone(),
            filter: filter.clone(),
            letters: Vec::new().into_iter(),
            next: Next::First,
        }
    }

    /// One letter; `None` when it was redriven or purged.
    ///
    /// # Errors
    /// As [every call](Self#errors).
    ///
    /// # Cancel safety
    /// As [`list`](Self::list).
    pub async fn inspect(&self, id: &DeadLetterId) -> Result<Option<DeadLetter>, Error> {
        self.store("inspect")?.inspect(id).await
    }

    /// Hands the message to the one group that gave it up, and to no other, with all its attempts before
    /// it; in an `each_node` group to the one node. The letter is gone then; if the message is given up
    /// again, there is another, of the next [generation](DeadLetter::generation).
    ///
    /// # Errors
    /// As [every call](Self#errors), and [`NotFound`](ErrorKind::NotFound) when the letter was redriven
    /// or purged before.
    ///
    /// # Cancel safety
    /// Dropping the future leaves it open whether the message was redriven; asking again does not redrive
    /// it twice.
    pub async fn redrive(&self, id: &DeadLetterId) -> Result<(), Error> {
        self.store("redrive")?.redrive(id).await
    }

    /// Redrives the letters that are there now, the oldest first, and says how many. One that somebody
    /// else redrives or purges meanwhile is skipped; a message that is given up again meanwhile stays, so
    /// that the call ends even when the cause is not mended.
    ///
    /// # Errors
    /// As [every call](Self#errors). The first error ends it, and has as context how many were `redriven`
    /// before; the call can be repeated.
    ///
    /// # Cancel safety
    /// Dropping the future stops after some of the letters; the call can be repeated.
    pub async fn redrive_all(&self, filter: &DeadLetterFilter) -> Result<u64, Error> {
        // All ids before the first redrive: among those that are read later may be messages that were
        // redriven and given up again, and so for ever.
        let mut ids = Vec::new();
        let mut letters = self.walk(filter);
        while let Some(letter) = letters.next().await? {
            ids.push(letter.id);
        }
        let mut redriven = 0;
        for id in &ids {
            match self.redrive(id).await {
                Ok(()) => redriven += 1,
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => return Err(error.with_context("redriven", redriven)),
            }
        }
        Ok(redriven)
    }

    /// Deletes letters for good, and says how many.
    ///
    /// # Errors
    /// As [every call](Self#errors).
    ///
    /// # Cancel safety
    /// Dropping the future leaves it open which of the letters were deleted.
    pub async fn purge(&self, filter: &DeadLetterFilter) -> Result<u64, Error> {
        self.store("purge")?.purge(filter).await
    }

    async fn page(
        &self,
        filter: &DeadLetterFilter,
        after: Option<&DeadLetterId>,
    ) -> Result<Page, Error> {
        self.store("list")?.list(filter, after, PAGE).await
    }

    fn store(&self, operation: &'static str) -> Result<&dyn DeadLetters, Error> {
        let inner = &self.0;
        inner.check_open(operation, false)?;
        inner.backend.dead_letters.as_deref().ok_or_else(|| {
            let backend = inner.backend.name;
            let text = format!("the backend `{backend}` keeps no dead letters");
            Error::new(ErrorKind::Unsupported, operation, text)
        })
    }
}

impl fmt::Debug for DeadLetterQueue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DeadLetterQueue")
            .field("backend", &self.0.backend.name)
            .finish_non_exhaustive()
    }
}

/// Dead letters, one after the other: from [`DeadLetterQueue::walk`].
#[derive(Debug)]
pub struct DeadLetterWalk {
    queue: DeadLetterQueue,
    filter: DeadLetterFilter,
    letters: vec::IntoIter<DeadLetter>,
    next: Next,
}

/// Where the page begins that is not yet fetched.
#[derive(Debug)]
enum Next {
    First,
    After(DeadLetterId),
    None,
}

impl DeadLetterWalk {
    /// The next letter; `None` at the end.
    ///
    /// # Errors
    /// As [every call](DeadLetterQueue#errors). The next call tries again where this one failed.
    ///
    /// # Cancel safety
    /// Dropping the future loses no letter.
    pub async fn next(&mut self) -> Result<Option<DeadLetter>, Error> {
        loop {
            if let Some(letter) = self.letters.next() {
                return Ok(Some(letter));
            }
            let after = match &self.next {
                Next::First => None,
                Next::After(id) => Some(id),
                Next::None => return Ok(None),
            };
            let page = self.queue.page(&self.filter, after).await?;
            self.letters = page.letters.into_iter();
            self.next = page.next.map_or(Next::None, Next::After);
        }
    }
}

#[cfg(all(test, feature = "macros", feature = "memory"))]
mod tests {
    use std::collections::HashSet;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::time::Duration;

    use catga_core::{
        Backend, BackendUrl, Capability, ConnectOptions, DeadLetterFilter, DeadLetterId, Driver,
        Error, ErrorKind, Name, async_trait,
    };
    use serde::{Deserialize, Serialize};

    use super::{DeadLetterQueue, PAGE};
    use crate::handlers;
    use crate::prelude::{Catga, Event, HandlerError, Result, State, handler};

    #[derive(Event, Serialize, Deserialize)]
    #[qos(at_least_once)]
    struct Paid(usize);

    #[derive(Event, Serialize, Deserialize)]
    #[qos(at_least_once)]
    struct Shipped(usize);

    /// Whether the handlers succeed.
    type Mended = Arc<AtomicBool>;

    fn outcome(mended: &Mended) -> Result<()> {
        if mended.load(Ordering::SeqCst) {
            Ok(())
        } else {
            Err(HandlerError::terminal("broken"))
        }
    }

    #[handler]
    async fn on_paid(_: Paid, mended: State<Mended>) -> Result<()> {
        outcome(&mended)
    }

    #[handler]
    async fn on_shipped(_: Shipped, mended: State<Mended>) -> Result<()> {
        outcome(&mended)
    }

    async fn node(mended: &Mended) -> Catga {
        let node = Catga::builder().connect("memory://").service("test");
        let node = node.handlers(handlers![on_paid, on_shipped]);
        let node = node.state(Arc::clone(mended));
        node.start().await.expect("memory is always there")
    }

    async fn ids(queue: &DeadLetterQueue, filter: &DeadLetterFilter) -> Vec<DeadLetterId> {
        let (mut letters, mut ids) = (queue.walk(filter), Vec::new());
        while let Some(letter) = letters.next().await.expect("memory is always there") {
            assert!(filter.matches(&letter));
            ids.push(letter.id);
        }
        ids
    }

    async fn until_there_are(queue: &DeadLetterQueue, many: usize) -> Vec<DeadLetterId> {
        let all = async {
            loop {
                let ids = ids(queue, &DeadLetterFilter::all()).await;
                if ids.len() == many {
                    return ids;
                }
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        let all = tokio::time::timeout(Duration::from_secs(10), all).await;
        all.expect("so many letters come")
    }

    fn handled(node: &Catga, name: &str) -> u64 {
        let handler = node.handler(name).expect("it was registered");
        handler.info().stats.handled
    }

    async fn until_handled(node: &Catga, name: &str, many: u64) {
        let all = async {
            while handled(node, name) < many {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        let all = tokio::time::timeout(Duration::from_secs(10), all).await;
        all.expect("so many messages are handled");
    }

    fn of<E: Event>() -> DeadLetterFilter {
        DeadLetterFilter::all().with_message(Name::from_static(E::NAME))
    }

    async fn publish<E: Event>(node: &Catga, many: usize, event: fn(usize) -> E) {
        for outcome in node.publish_many((0..many).map(event)).await {
            outcome.expect("memory is always there");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_walk_passes_each_letter_of_all_pages_once() {
        let node = node(&Mended::default()).await;
        let queue = node.dead_letters();
        publish(&node, 2 * PAGE + 1, Paid).await;
        publish(&node, 3, Shipped).await;
        let all = until_there_are(&queue, 2 * PAGE + 4).await;
        assert_eq!(all.iter().collect::<HashSet<_>>().len(), all.len());

        let paid = of::<Paid>();
        assert_eq!(ids(&queue, &paid).await.len(), 2 * PAGE + 1);
        let first = queue.list(&paid).await.unwrap();
        assert_eq!(first.letters.len(), PAGE);
        let second = queue.list_after(&paid, &first.next.unwrap()).await.unwrap();
        assert_eq!(second.letters.len(), PAGE);
        let last = queue.list_after(&paid, &second.next.unwrap()).await;
        let last = last.unwrap();
        assert_eq!((last.letters.len(), last.next), (1, None));
    }

    #[tokio::test(start_paused = true)]
    async fn what_fails_again_is_redriven_once_and_is_of_the_next_generation() {
        let mended = Mended::default();
        let node = node(&mended).await;
        let queue = node.dead_letters();
        publish(&node, PAGE + 5, Paid).await;
        let many = PAGE + 5;
        let before = until_there_are(&queue, many).await;
        let all = DeadLetterFilter::all();
        assert_eq!(queue.redrive_all(&all).await.unwrap(), many as u64);
        let again = until_there_are(&queue, many).await;
        assert!(before.iter().all(|id| !again.contains(id)));
        let letter = queue.inspect(&again[0]).await.unwrap().unwrap();
        assert_eq!(letter.generation, 1);

        mended.store(true, Ordering::SeqCst);
        assert_eq!(queue.redrive_all(&all).await.unwrap(), many as u64);
        until_handled(&node, "on_paid", many as u64).await;
        assert!(queue.list(&all).await.unwrap().letters.is_empty());
        assert_eq!(queue.redrive_all(&all).await.unwrap(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn two_who_redrive_all_redrive_each_once() {
        let mended = Mended::default();
        let node = node(&mended).await;
        let queue = node.dead_letters();
        publish(&node, 20, Paid).await;
        until_there_are(&queue, 20).await;
        mended.store(true, Ordering::SeqCst);
        let all = DeadLetterFilter::all();
        let (one, other) = tokio::join!(queue.redrive_all(&all), queue.redrive_all(&all));
        assert_eq!(one.unwrap() + other.unwrap(), 20);
        until_handled(&node, "on_paid", 20).await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_filter_says_what_is_redriven_and_purged() {
        let mended = Mended::default();
        let node = node(&mended).await;
        let queue = node.dead_letters();
        publish(&node, 3, Paid).await;
        publish(&node, 2, Shipped).await;
        let letters = until_there_are(&queue, 5).await;
        mended.store(true, Ordering::SeqCst);
        let shipped = of::<Shipped>();
        assert_eq!(queue.redrive_all(&shipped).await.unwrap(), 2);
        until_handled(&node, "on_shipped", 2).await;
        assert_eq!(queue.purge(&shipped).await.unwrap(), 0);
        assert_eq!(queue.purge(&DeadLetterFilter::all()).await.unwrap(), 3);
        assert_eq!(handled(&node, "on_paid"), 0);

        assert!(queue.inspect(&letters[0]).await.unwrap().is_none());
        let gone = queue.redrive(&letters[0]).await.unwrap_err();
        assert_eq!(gone.kind(), ErrorKind::NotFound);
    }

    #[tokio::test(start_paused = true)]
    async fn after_the_shutdown_it_is_closed() {
        let node = node(&Mended::default()).await;
        let queue = node.dead_letters();
        node.shutdown().await.unwrap();
        let all = DeadLetterFilter::all();
        let id = DeadLetterId::new("1");
        let errors = [
            queue.list(&all).await.err(),
            queue.list_after(&all, &id).await.err(),
            queue.walk(&all).next().await.err(),
            queue.inspect(&id).await.err(),
            queue.redrive(&id).await.err(),
            queue.redrive_all(&all).await.err(),
            queue.purge(&all).await.err(),
        ];
        for error in errors {
            assert_eq!(error.unwrap().kind(), ErrorKind::Closed);
        }
    }

    /// Memory without its dead letters.
    #[derive(Debug)]
    struct Forgetful;

    #[async_trait]
    impl Driver for Forgetful {
        fn name(&self) -> &'static str {
            "forgetful"
        }

        fn schemes(&self) -> &'static [&'static str] {
            &["forgetful"]
        }

        fn options(&self) -> &'static [&'static str] {
            &[]
        }

        fn capabilities(&self) -> &'static [Capability] {
            &[]
        }

        async fn connect(
            &self,
            _: &BackendUrl,
            options: &ConnectOptions,
        ) -> Result<Backend, Error> {
            let url = "memory://".parse()?;
            let memory = catga_memory::MemoryDriver.connect(&url, options).await?;
            Ok(Backend::new("forgetful", memory.transport))
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_backend_without_dead_letters_is_named() {
        let node = Catga::builder().connect("forgetful://").driver(Forgetful);
        let node = node.handlers(handlers![]).start().await.unwrap();
        let error = node.dead_letters().list(&DeadLetterFilter::all()).await;
        let error = error.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert!(error.message().contains("`forgetful`"), "{error}");
    }
}
