//! The orders that a node knows of. A real shop has a database; here each node remembers, and asks the others for what it missed.

use std::collections::VecDeque;
use std::collections::btree_map::{BTreeMap, Entry};
use std::ops::Bound;

use catga::MessageId;
use catga::prelude::{HandlerError, Result};
use tokio::sync::{mpsc, oneshot};

use crate::messages::Order;

/// So many are remembered; then the oldest go.
const REMEMBERED: usize = 200_000;
/// So many jobs wait for the clerk; then who has another waits.
const WAITING: usize = 64;
pub(crate) const PAGE: usize = 500;

/// Where orders are entered and looked up. One task has them, so that nobody else touches them.
#[derive(Clone, Debug)]
pub(crate) struct Book(mpsc::Sender<Job>);

/// What stands in the book after an order was entered.
#[derive(Debug)]
pub(crate) struct Entered {
    /// The order: that which was entered first under its id.
    pub(crate) order: Order,
    /// Whether it was not there before.
    pub(crate) is_new: bool,
}

/// A line of the book.
struct Line {
    order: Order,
    is_shipped: bool,
}

#[derive(Debug)]
enum Job {
    Enter(Order, oneshot::Sender<Entered>),
    Ship(Order, oneshot::Sender<bool>),
    Find(MessageId, oneshot::Sender<Option<Order>>),
    Page(Option<MessageId>, oneshot::Sender<Vec<Order>>),
}

impl Book {
    pub(crate) fn open() -> Self {
        let (book, jobs) = mpsc::channel(WAITING);
        tokio::spawn(clerk(jobs, REMEMBERED));
        Self(book)
    }

    /// Enters an order; one that is there already stays as it is, and is what one gets.
    pub(crate) async fn enter(&self, order: Order) -> Result<Entered> {
        self.ask(|done| Job::Enter(order, done)).await
    }

    /// Notes that an order was shipped, and enters it where it is not there. Says whether that is news: an order is shipped once.
    pub(crate) async fn ship(&self, order: Order) -> Result<bool> {
        self.ask(|done| Job::Ship(order, done)).await
    }

    pub(crate) async fn find(&self, id: MessageId) -> Result<Option<Order>> {
        self.ask(|done| Job::Find(id, done)).await
    }

    /// The orders behind one, by their ids: at most [`PAGE`].
    pub(crate) async fn page(&self, after: Option<MessageId>) -> Result<Vec<Order>> {
        self.ask(|done| Job::Page(after, done)).await
    }

    async fn ask<T>(&self, job: impl FnOnce(oneshot::Sender<T>) -> Job) -> Result<T> {
        let closed = || HandlerError::retry("the book is closed");
        let (done, answer) = oneshot::channel();
        self.0.send(job(done)).await.map_err(|_| closed())?;
        answer.await.map_err(|_| closed())
    }
}

async fn clerk(mut jobs: mpsc::Receiver<Job>, remembered: usize) {
    let mut pages = Pages::of(remembered);
    // Whoever asked may have given up meanwhile: the book says the same.
    while let Some(job) = jobs.recv().await {
        match job {
            Job::Enter(order, done) => {
                let (line, is_new) = pages.line(order);
                let order = line.order.clone();
                let _ = done.send(Entered { order, is_new });
            }
            Job::Ship(order, done) => {
                let (line, _) = pages.line(order);
                let _ = done.send(!std::mem::replace(&mut line.is_shipped, true));
            }
            Job::Find(id, done) => {
                let line = pages.lines.get(&id);
                let _ = done.send(line.map(|line| line.order.clone()));
            }
            Job::Page(after, done) => {
                let from = after.map_or(Bound::Unbounded, Bound::Excluded);
                let page = pages.lines.range((from, Bound::Unbounded)).take(PAGE);
                let _ = done.send(page.map(|(_, line)| line.order.clone()).collect());
            }
        }
    }
}

/// What the clerk writes in.
struct Pages {
    remembered: usize,
    lines: BTreeMap<MessageId, Line>,
    /// The oldest first.
    entered: VecDeque<MessageId>,
}

impl Pages {
    fn of(remembered: usize) -> Self {
        Self {
            remembered,
            lines: BTreeMap::new(),
            entered: VecDeque::new(),
        }
    }

    /// The line of an order, and whether it is new.
    fn line(&mut self, order: Order) -> (&mut Line, bool) {
        let id = order.id;
        if !self.lines.contains_key(&id) {
            self.entered.push_back(id);
            if self.entered.len() > self.remembered
                && let Some(oldest) = self.entered.pop_front()
            {
                self.lines.remove(&oldest);
            }
        }
        match self.lines.entry(id) {
            Entry::Occupied(line) => (line.into_mut(), false),
            Entry::Vacant(place) => {
                let is_shipped = false;
                (place.insert(Line { order, is_shipped }), true)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order(key: &str, by: &str) -> Order {
        Order {
            id: MessageId::from_key(key),
            product_id: key.to_owned(),
            quantity: 1,
            processed_by: by.to_owned(),
        }
    }

    fn book(remembered: usize) -> Book {
        let (book, jobs) = mpsc::channel(WAITING);
        tokio::spawn(clerk(jobs, remembered));
        Book(book)
    }

    async fn by(book: &Book, key: &str) -> Option<String> {
        let found = book.find(MessageId::from_key(key)).await;
        found.ok().flatten().map(|order| order.processed_by)
    }

    #[tokio::test]
    async fn an_order_is_entered_once() {
        let book = book(10);
        for (maker, is_first) in [("node1", true), ("node2", false)] {
            let Ok(entered) = book.enter(order("lamp", maker)).await else {
                panic!("the clerk is there");
            };
            let told = (entered.order.processed_by.as_str(), entered.is_new);
            assert_eq!(told, ("node1", is_first));
        }
        assert_eq!(by(&book, "lamp").await.as_deref(), Some("node1"));
        assert_eq!(by(&book, "desk").await, None);
    }

    #[tokio::test]
    async fn an_order_is_shipped_once() {
        let book = book(10);
        assert!(book.enter(order("lamp", "node1")).await.is_ok());
        let mut news = Vec::new();
        for (key, maker) in [("lamp", "node1"), ("lamp", "node2"), ("desk", "node2")] {
            news.push(book.ship(order(key, maker)).await.ok());
        }
        assert_eq!(news, [Some(true), Some(false), Some(true)]);
        assert_eq!(by(&book, "lamp").await.as_deref(), Some("node1"));
        assert_eq!(by(&book, "desk").await.as_deref(), Some("node2"));
    }

    #[tokio::test]
    async fn the_oldest_are_forgotten() {
        let book = book(2);
        for key in ["1", "2", "1", "3"] {
            assert!(book.enter(order(key, "node1")).await.is_ok());
        }
        assert_eq!(by(&book, "1").await, None);
        assert!(by(&book, "2").await.is_some() && by(&book, "3").await.is_some());
    }

    #[tokio::test]
    async fn pages_have_every_order_once() {
        let book = Book::open();
        for i in 0..2 * PAGE + 3 {
            assert!(book.enter(order(&i.to_string(), "node1")).await.is_ok());
        }
        let (mut last, mut sizes, mut seen) = (None, Vec::new(), 0);
        loop {
            let Ok(page) = book.page(last).await else {
                panic!("the clerk is there");
            };
            sizes.push(page.len());
            seen += page.len();
            last = page.last().map(|order| order.id);
            if last.is_none() {
                break;
            }
        }
        assert_eq!((sizes, seen), (vec![PAGE, PAGE, 3, 0], 2 * PAGE + 3));
    }
}
