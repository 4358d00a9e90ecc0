//! Applications that find each other over Redis.

use std::time::Duration;

use catga::prelude::*;
use catga::{Catga, CatgaBuilder, ErrorKind};
use serde::{Deserialize, Serialize};
use tokio::runtime::Runtime;

use crate::nodes::KINDS;
use crate::{Space, until};

const HEARTBEAT: Duration = Duration::from_millis(200);
const TIMEOUT: Duration = Duration::from_secs(4);

#[derive(Request, Serialize, Deserialize)]
#[response(String)]
struct WhoIsThere;

#[handler]
async fn who_is_there(_: WhoIsThere, State(id): State<String>) -> Result<String> {
    Ok(id)
}

fn application(space: &Space, kind: &str, id: &str) -> CatgaBuilder {
    Catga::builder()
        .connect(format!("{}{kind}&namespace={}", space.url, space.namespace))
        .service("shop")
        .node(id)
        .heartbeat(HEARTBEAT, TIMEOUT)
        .state(id.to_owned())
        .handlers(catga::handlers![who_is_there])
}

/// Who is there, as a node sees it.
fn seen(catga: &Catga) -> Vec<String> {
    let nodes = catga.nodes().into_iter();
    nodes.map(|node| node.id.to_string()).collect()
}

/// A node in a runtime of its own, which can be torn away.
fn node_apart(space: &Space, kind: &str, id: &str) -> (Runtime, Catga) {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    let node = application(space, kind, id);
    let node = std::thread::scope(|scope| {
        let starting = scope.spawn(|| runtime.block_on(node.start()).unwrap());
        starting.join().unwrap()
    });
    (runtime, node)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_see_each_other_share_requests_and_forget_who_died() {
    for kind in KINDS {
        let space = Space::new();
        let a = application(&space, kind, "a").start().await.unwrap();
        let b = application(&space, kind, "b").start().await.unwrap();
        let (runtime, c) = node_apart(&space, kind, "c");
        for node in [&a, &b, &c] {
            until("all see all", async || seen(node) == ["a", "b", "c"]).await;
        }
        // Each in its turn, some of them elsewhere.
        let mut answers = Vec::new();
        for _ in 0..6 {
            answers.push(a.send(WhoIsThere).await.unwrap());
        }
        answers.sort();
        assert_eq!(answers, ["a", "a", "b", "b", "c", "c"]);
        assert_eq!(a.send_to("b", WhoIsThere).await.unwrap(), "b");
        let mut outcomes: Vec<_> = a
            .broadcast(WhoIsThere)
            .await
            .unwrap()
            .into_iter()
            .map(|outcome| (outcome.node.to_string(), outcome.result.unwrap()))
            .collect();
        outcomes.sort();
        let each = |id: &str| (id.to_owned(), id.to_owned());
        assert_eq!(outcomes, ["a", "b", "c"].map(each));

        // A double is refused while the first lives.
        let double = application(&space, kind, "a").start().await.unwrap_err();
        assert_eq!(double.kind(), ErrorKind::DuplicateNode, "{double:?}");

        runtime.shutdown_background();
        std::mem::forget(c);
        for node in [&a, &b] {
            until("the dead one is gone", async || seen(node) == ["a", "b"]).await;
        }
        let gone = a.send_to("c", WhoIsThere).await.unwrap_err();
        assert_eq!(gone.kind(), ErrorKind::NodeGone);
        b.shutdown().await.unwrap();
        let began = std::time::Instant::now();
        until("who leaves is gone at once", async || seen(&a) == ["a"]).await;
        assert!(began.elapsed() < TIMEOUT / 2, "{:?}", began.elapsed());
        a.shutdown().await.unwrap();
    }
}
