use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use catga::prelude::*;
use catga::{Catga, CatgaBuilder, ErrorKind};
use serde::{Deserialize, Serialize};

use crate::{Space, until};

#[derive(Event, Serialize, Deserialize)]
struct Seen {
    by: u32,
}

#[derive(Event, Serialize, Deserialize)]
#[qos(at_least_once)]
struct Shipped {
    by: u32,
}

#[derive(Event, Serialize, Deserialize)]
#[qos(exactly_once)]
struct Paid {
    by: u32,
}

#[derive(Request, Serialize, Deserialize)]
#[response(u32)]
struct Double {
    value: u32,
}

/// What was handled, by kind.
#[derive(Clone, Default)]
struct Handled(Arc<[AtomicU32; 4]>);

impl Handled {
    fn note(&self, kind: usize, by: u32) {
        self.0[kind].fetch_add(by, Ordering::SeqCst);
    }

    fn all(&self) -> [u32; 4] {
        std::array::from_fn(|kind| self.0[kind].load(Ordering::SeqCst))
    }
}

#[handler]
async fn on_seen(event: Seen, State(handled): State<Handled>) {
    handled.note(0, event.by);
}

#[handler]
async fn on_shipped(
    event: Shipped,
    attempt: Attempt,
    State(handled): State<Handled>,
) -> Result<()> {
    if attempt.number() == 1 {
        return Err("not yet").retry();
    }
    handled.note(1, event.by);
    Ok(())
}

#[handler]
async fn on_paid(event: Paid, State(handled): State<Handled>) {
    handled.note(2, event.by);
}

#[handler]
async fn double(request: Double, State(handled): State<Handled>) -> Result<u32> {
    handled.note(3, 1);
    Ok(request.value * 2)
}

fn node(space: &Space, id: &str, discovery: &str) -> CatgaBuilder {
    Catga::builder()
        .connect(format!(
            "{}?namespace={}&discovery={discovery}",
            space.url, space.namespace
        ))
        .service("shop")
        .node(id)
}

#[tokio::test]
async fn the_same_program_runs_by_its_url() {
    runs("kv").await;
}

#[tokio::test]
async fn the_same_program_runs_where_nodes_are_not_kept() {
    runs("pubsub").await;
}

async fn runs(discovery: &str) {
    let (space, handled) = (Space::new(), Handled::default());
    let handlers = || catga::handlers![on_seen, on_shipped, on_paid, double];
    let serving = node(&space, "serving", discovery)
        .state(handled.clone())
        .handlers(handlers());
    let serving = serving.start().await.unwrap();
    let asking = node(&space, "asking", discovery).handlers(catga::handlers![]);
    let asking = asking.start().await.unwrap();
    asking.publish(Seen { by: 1 }).await.unwrap();
    asking.publish(Shipped { by: 10 }).await.unwrap();
    let id = catga::MessageId::from_key("payment 7");
    for _ in 0..3 {
        asking
            .message(Paid { by: 100 })
            .id(id)
            .publish()
            .await
            .unwrap();
    }
    assert_eq!(asking.send(Double { value: 21 }).await.unwrap(), 42);
    assert_eq!(
        asking
            .send_to("serving", Double { value: 1 })
            .await
            .unwrap(),
        2
    );
    let nobody = asking
        .send_to("nobody", Double { value: 1 })
        .await
        .unwrap_err();
    assert_eq!(nobody.kind(), ErrorKind::UnknownNode);
    assert!(nobody.message().contains("asking, serving"), "{nobody}");
    until("all is handled once", || async {
        handled.all() == [1, 10, 100, 2]
    })
    .await;

    for node in [&asking, &serving] {
        until("both are seen", async || {
            let nodes: Vec<_> = node.nodes().into_iter().map(|node| node.id).collect();
            nodes == ["asking".parse().unwrap(), "serving".parse().unwrap()]
        })
        .await;
    }
    let [outcome] = &asking.broadcast(Double { value: 4 }).await.unwrap()[..] else {
        panic!("one node answers");
    };
    assert_eq!(outcome.node, "serving".parse().unwrap());
    assert_eq!(*outcome.result.as_ref().unwrap(), 8);
    let membership = |health: catga::Health| {
        let parts = health.parts.into_iter();
        parts
            .filter(|part| part.name == "membership")
            .map(|part| part.detail)
            .collect::<String>()
    };
    assert_eq!(membership(asking.health()), "2 nodes");
    serving.shutdown().await.unwrap();
    until("it left", async || asking.nodes().len() == 1).await;
    asking.shutdown().await.unwrap();
    assert_eq!(handled.all(), [1, 10, 100, 3]);
}

#[test]
fn a_node_whose_workers_are_all_busy_stays_a_member() {
    const HEARTBEAT: Duration = Duration::from_millis(200);
    const TIMEOUT: Duration = Duration::from_secs(1);
    let runtime = || {
        let mut runtime = tokio::runtime::Builder::new_multi_thread();
        runtime.worker_threads(1).enable_all().build().unwrap()
    };
    for discovery in ["kv", "pubsub"] {
        let (space, here, there) = (Space::new(), runtime(), runtime());
        let start = |id| {
            let node = node(&space, id, discovery).heartbeat(HEARTBEAT, TIMEOUT);
            node.handlers(catga::handlers![])
        };
        let _busy = there.block_on(start("busy").start()).unwrap();
        let observer = here.block_on(start("observer").start()).unwrap();
        // Nothing else runs there meanwhile, neither a timer nor what reads from the server.
        there.spawn(async { std::thread::sleep(TIMEOUT * 4) });
        let began = std::time::Instant::now();
        while began.elapsed() < TIMEOUT * 3 {
            let nodes = observer.nodes().len();
            assert_eq!(nodes, 2, "{discovery}: after {:?}", began.elapsed());
            std::thread::sleep(HEARTBEAT / 10);
        }
    }
}
