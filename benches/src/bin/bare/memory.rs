//! Nodes in one process: channels between them. Each has a runtime of its own, as in the example.

use std::process::ExitCode;
use std::sync::{Arc, OnceLock};

use tokio::runtime::Runtime;
use tokio::sync::{mpsc, oneshot};
use uuid::Uuid;

use crate::shop::{Broker, Order, Request, Shop};
use crate::{Place, http};

/// So much waits for a node; then who has more waits.
const WAITING: usize = 8192;

/// The ways to all nodes.
#[derive(Clone)]
struct Memory(Arc<OnceLock<Vec<Ways>>>);

struct Ways {
    requests: mpsc::Sender<(Request, oneshot::Sender<Order>)>,
    created: mpsc::Sender<Uuid>,
    shipped: mpsc::Sender<Order>,
}

impl Memory {
    fn ways(&self) -> &[Ways] {
        self.0.get().expect("it is set before anybody is served")
    }
}

impl Broker for Memory {
    async fn ask(&self, node: usize, request: Request) -> Order {
        let (answer, answered) = oneshot::channel();
        let sent = self.ways()[node - 1].requests.send((request, answer));
        assert!(sent.await.is_ok(), "the node is there");
        answered.await.expect("the node answers")
    }

    async fn created(&self, id: Uuid) {
        for ways in self.ways() {
            // One that is full loses it.
            let _ = ways.created.try_send(id);
        }
    }

    async fn shipped(&self, order: &Order) {
        for ways in self.ways() {
            let sent = ways.shipped.send(order.clone()).await;
            assert!(sent.is_ok(), "the node is there");
        }
    }
}

/// Runs so many nodes until the process ends.
pub fn run(nodes: usize, one_request: bool) -> ExitCode {
    let broker = Memory(Arc::default());
    let (mut all, mut ends) = (Vec::new(), Vec::new());
    for _ in 0..nodes {
        let (requests, asked) = mpsc::channel(WAITING);
        let (created, heard) = mpsc::channel(WAITING);
        let (shipped, kept) = mpsc::channel(WAITING);
        all.push(Ways {
            requests,
            created,
            shipped,
        });
        ends.push((asked, heard, kept));
    }
    assert!(broker.0.set(all).is_ok(), "it is set once");
    let mut runtimes = Vec::new();
    for (index, (mut asked, mut heard, mut kept)) in ends.into_iter().enumerate() {
        let runtime = Runtime::new().expect("a runtime");
        let broker = broker.clone();
        let place = Place {
            node: index + 1,
            nodes,
        };
        runtime.spawn(async move {
            let shop = Shop::new(broker, place, one_request);
            let (maker, book) = (shop.clone(), shop.book.clone());
            tokio::spawn(async move {
                while let Some((request, answer)) = asked.recv().await {
                    let (request, answer): (Request, oneshot::Sender<Order>) = (request, answer);
                    let maker = maker.clone();
                    tokio::spawn(async move {
                        // Whoever asked may have gone.
                        let _ = answer.send(maker.make(request).await);
                    });
                }
            });
            tokio::spawn(async move { while heard.recv().await.is_some() {} });
            tokio::spawn(async move {
                while let Some(order) = kept.recv().await {
                    book.enter(order).await;
                }
            });
            http::serve(shop).await;
        });
        runtimes.push(runtime);
    }
    loop {
        std::thread::park();
    }
}
