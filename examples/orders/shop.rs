//! Three nodes of one service, and the orders that are sent to them.

use std::sync::Arc;
use std::time::{Duration, Instant};

use catga::memory::Memory;
use catga::prelude::{Catga, HandlerError};
use catga::{Capability, DeadLetterFilter, Error, HandlerStats, MessageId};
use tokio::sync::mpsc::Receiver;
use tokio::task::JoinSet;

use crate::books::Books;
use crate::desk::Desk;
use crate::fate::Fate;
use crate::ledger::{Ledger, NodeLog};
use crate::messages::{CreateOrder, OrderAccepted};
use crate::site::Site;

const NODES: [&str; 3] = ["node1", "node2", "node3"];
/// How many orders are on their way at once.
const SENDERS: usize = 64;
const MEETING: Duration = Duration::from_secs(10);
/// So many problems are shown; the others are counted.
const SHOWN: usize = 5;

#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) name: &'static str,
    pub(crate) catga: Catga,
    pub(crate) log: Arc<NodeLog>,
}

#[derive(Debug)]
pub(crate) struct Shop {
    pub(crate) nodes: Vec<Node>,
    pub(crate) ledger: Arc<Ledger>,
    /// The handler that books payments.
    pub(crate) bookkeeper: &'static str,
    books: Books,
}

/// What became of the requests.
#[derive(Debug, Default)]
pub(crate) struct Placed {
    pub(crate) failed: u64,
    /// The first problems, in words.
    pub(crate) problems: Vec<String>,
}

impl Shop {
    /// Starts the nodes and waits until each knows the others.
    pub(crate) async fn open(site: &Site, verbose: bool) -> Result<Self, String> {
        let ledger = Arc::new(Ledger::new());
        let desk = Desk::open();
        let mut nodes = Vec::new();
        for name in NODES {
            let log = Arc::new(NodeLog::new(verbose));
            let builder = site
                .node(name)
                .state(desk.clone())
                .state(Arc::clone(&ledger))
                .state(Arc::clone(&log));
            let catga = builder
                .start()
                .await
                .map_err(|error| format!("{name}: {error}"))?;
            nodes.push(Node { name, catga, log });
        }
        let committed = nodes[0].catga.commit_store::<Memory>().cloned();
        let shop = Self {
            nodes,
            ledger,
            bookkeeper: site.bookkeeper(),
            books: committed.map_or(Books::ByKey(desk), Books::Committed),
        };
        shop.meet().await?;
        Ok(shop)
    }

    /// Where the backend knows its nodes: else the broker shares requests out among whoever is there.
    async fn meet(&self) -> Result<(), String> {
        let backend = self.nodes[0].catga.backend();
        if !backend.transport.capabilities().has(Capability::Nodes) {
            return Ok(());
        }
        let began = Instant::now();
        while let Some(lonely) = self
            .nodes
            .iter()
            .find(|node| node.catga.nodes().len() < NODES.len())
        {
            if began.elapsed() > MEETING {
                let seen: Vec<_> = lonely
                    .catga
                    .nodes()
                    .into_iter()
                    .map(|node| node.id.to_string())
                    .collect();
                return Err(format!(
                    "after {MEETING:?} {} still sees only {}",
                    lonely.name,
                    seen.join(", ")
                ));
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        Ok(())
    }

    /// Sends each order to the nodes in turn, a bounded number at once.
    pub(crate) async fn place(&self, mut orders: Receiver<CreateOrder>) -> Placed {
        let mut placed = Placed::default();
        let mut on_their_way = JoinSet::new();
        let mut turn = self.nodes.iter().cycle();
        while let Some(order) = orders.recv().await {
            if on_their_way.len() == SENDERS {
                placed.note(on_their_way.join_next().await);
            }
            let node = turn.next().expect("a cycle of three nodes");
            on_their_way.spawn(place_one(
                node.catga.clone(),
                Arc::clone(&self.ledger),
                order,
            ));
        }
        while !on_their_way.is_empty() {
            placed.note(on_their_way.join_next().await);
        }
        placed
    }

    /// What a handler counted, over all nodes.
    pub(crate) fn stats(&self, handler: &str) -> HandlerStats {
        let mut sum = HandlerStats::default();
        for node in &self.nodes {
            let stats = node.stats(handler);
            sum.handled += stats.handled;
            sum.failed += stats.failed;
            sum.retried += stats.retried;
            sum.dead_lettered += stats.dead_lettered;
            sum.dropped += stats.dropped;
            sum.duplicates += stats.duplicates;
            sum.lost += stats.lost;
            sum.in_flight += stats.in_flight;
        }
        sum
    }

    /// How many dead letters the backend keeps: the nodes share it, so that one can tell.
    pub(crate) async fn dead_letters(&self) -> Result<u64, Error> {
        let everything = DeadLetterFilter::all();
        let mut letters = self.nodes[0].catga.dead_letters().walk(&everything);
        let mut count = 0;
        while letters.next().await?.is_some() {
            count += 1;
        }
        Ok(count)
    }

    /// The books, which the nodes share too.
    pub(crate) fn books(&self) -> &Books {
        &self.books
    }

    /// Shuts all nodes down; says how many handlers still ran.
    pub(crate) async fn close(&self) -> Result<usize, Error> {
        let mut unfinished = 0;
        for node in &self.nodes {
            unfinished += node.catga.shutdown().await?.unfinished;
        }
        Ok(unfinished)
    }
}

impl Node {
    /// What a handler counted here.
    pub(crate) fn stats(&self, handler: &str) -> HandlerStats {
        let handlers = self.catga.handlers();
        let found = handlers.iter().find(|info| info.name == handler);
        found
            .expect("every handler is linked into this program")
            .stats
    }
}

impl Placed {
    fn note(&mut self, outcome: Option<Result<Result<(), String>, tokio::task::JoinError>>) {
        let problem = match outcome {
            None | Some(Ok(Ok(()))) => return,
            Some(Ok(Err(problem))) => problem,
            Some(Err(panic)) => panic.to_string(),
        };
        self.failed += 1;
        if self.problems.len() < SHOWN {
            self.problems.push(problem);
        }
    }
}

async fn place_one(catga: Catga, ledger: Arc<Ledger>, order: CreateOrder) -> Result<(), String> {
    let order_id = order.order_id.clone();
    let total_cents = u64::from(order.quantity) * u64::from(order.unit_price_cents);
    let sent = Instant::now();
    let answer = if Fate::of(&order_id) == Fate::Resent {
        ledger.resent.add(&order_id);
        send_twice(&catga, order).await
    } else {
        catga.send(order).await
    };
    let accepted = answer.map_err(|error| {
        // With its causes on the same line, which the error itself leaves to `source()`.
        format!("{order_id}: {}", HandlerError::from(error))
    })?;
    ledger.request_latency.record(sent.elapsed());
    if accepted.total_cents != total_cents {
        return Err(format!(
            "{order_id}: got the answer to another order: {accepted:?}"
        ));
    }
    ledger.accepted.add(&order_id);
    Ok(())
}

/// Sends an order, and once more with the same id: the answer is the first one's, from whichever node.
async fn send_twice(catga: &Catga, order: CreateOrder) -> Result<OrderAccepted, Error> {
    let id = MessageId::new();
    catga.request(order.clone()).id(id).send().await?;
    catga.request(order).id(id).send().await
}
