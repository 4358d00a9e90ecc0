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
mod tests;
