//! How a node stays a member, what it does while its registry cannot be reached, and how it leaves.

#![allow(
    clippy::unwrap_used,
    reason = "a failure in a helper is a failure of its test"
)]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, Ordering};
use std::time::Duration;

use catga::prelude::*;
use catga::{CatgaBuilder, Error, ErrorKind, HealthStatus, NodeEvent, NodeInfo, NodeRegistry};
use catga_core::{NodeWatch, async_trait};
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::Instant;

const HEARTBEAT: Duration = Duration::from_secs(10);
const SECOND: Duration = Duration::from_secs(1);

/// Answered once, by an inbox.
#[derive(Request, Serialize, Deserialize)]
#[response(String)]
struct Order(u32);

/// Answered anew each time.
#[derive(Request, Serialize, Deserialize)]
#[response(String)]
#[request(idempotent = false)]
struct Ask(u32);

/// Tried once.
#[derive(Request, Serialize, Deserialize)]
#[response(String)]
#[qos(at_most_once)]
struct Once(u32);

#[derive(Clone, Default)]
struct Runs(Arc<AtomicU32>);

impl Runs {
    async fn run(&self, number: u32, ctx: &Context) -> Result<String> {
        tokio::time::sleep(Duration::from_millis(u64::from(number % 20))).await;
        self.0.fetch_add(1, Ordering::SeqCst);
        Ok(ctx.node().to_string())
    }
}

#[handler]
async fn order(order: Order, ctx: Context, State(runs): State<Runs>) -> Result<String> {
    runs.run(order.0, &ctx).await
}

#[handler]
async fn ask(ask: Ask, ctx: Context, State(runs): State<Runs>) -> Result<String> {
    runs.run(ask.0, &ctx).await
}

#[handler]
async fn once(once: Once, ctx: Context, State(runs): State<Runs>) -> Result<String> {
    runs.run(once.0, &ctx).await
}

fn builder(bus: &str, id: &str) -> CatgaBuilder {
    Catga::builder()
        .connect(format!("memory://membership-{bus}"))
        .service("shop")
        .node(id)
        .state(Runs::default())
        .handlers(handlers![order, ask, once])
}

async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let waiting = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    let waited = tokio::time::timeout(Duration::from_secs(300), waiting).await;
    assert!(waited.is_ok(), "not in time: {what}");
}

async fn sees(node: &Catga, nodes: usize) {
    until("nodes are seen", || node.nodes().len() == nodes).await;
}

fn ids(node: &Catga) -> Vec<String> {
    let nodes = node.nodes();
    nodes.into_iter().map(|node| node.id.to_string()).collect()
}

/// How the membership of a node is, and why.
fn health(node: &Catga) -> (HealthStatus, String) {
    let parts = node.health().parts;
    let part = parts.into_iter().find(|part| part.name == "membership");
    part.map(|part| (part.status, part.detail)).unwrap()
}

const WELL: u8 = 0;
/// It answers nothing.
const AWAY: u8 = 1;

/// A registry with moods, which may be behind a network.
#[derive(Debug)]
struct Moody {
    registry: Arc<dyn NodeRegistry>,
    mood: Arc<AtomicU8>,
    /// Ends the watches.
    cut: Arc<Notify>,
    networked: bool,
    registered: Arc<AtomicU32>,
    /// How long it takes to register anew.
    slow: Duration,
}

impl Moody {
    fn check(&self, operation: &'static str) -> Result<(), Error> {
        match self.mood.load(Ordering::SeqCst) {
            AWAY => Err(Error::new(
                ErrorKind::Unavailable,
                operation,
                "a planned outage",
            )),
            _ => Ok(()),
        }
    }
}

#[async_trait]
impl NodeRegistry for Moody {
    fn is_networked(&self) -> bool {
        self.networked
    }

    async fn register(&self, node: &NodeInfo) -> Result<(), Error> {
        self.check("register")?;
        if self.registered.load(Ordering::SeqCst) > 0 {
            tokio::time::sleep(self.slow).await;
        }
        self.registry.register(node).await?;
        self.registered.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }

    async fn heartbeat(&self, node: &NodeInfo) -> Result<(), Error> {
        self.check("heartbeat")?;
        self.registry.heartbeat(node).await
    }

    async fn unregister(&self, node: &NodeInfo) -> Result<(), Error> {
        self.check("unregister")?;
        self.registry.unregister(node).await
    }

    async fn nodes(&self) -> Result<Vec<NodeInfo>, Error> {
        self.check("nodes")?;
        self.registry.nodes().await
    }

    async fn watch(&self) -> Result<Box<dyn NodeWatch>, Error> {
        self.check("watch")?;
        let watch = self.registry.watch().await?;
        let cut = Arc::clone(&self.cut);
        Ok(Box::new(CutWatch { watch, cut }))
    }
}

#[derive(Debug)]
struct CutWatch {
    watch: Box<dyn NodeWatch>,
    cut: Arc<Notify>,
}

#[async_trait]
impl NodeWatch for CutWatch {
    async fn next(&mut self) -> Option<NodeEvent> {
        tokio::select! {
            biased;
            () = self.cut.notified() => None,
            event = self.watch.next() => event,
        }
    }
}

/// Three nodes whose registry has moods, and who stands by with one that has none.
struct Cluster {
    nodes: Vec<Catga>,
    bystander: Catga,
    mood: Arc<AtomicU8>,
    cut: Arc<Notify>,
    registered: Arc<AtomicU32>,
}

async fn cluster(bus: &str) -> Cluster {
    let bystander = Catga::builder().connect(format!("memory://membership-{bus}"));
    let bystander = bystander.node("x").handlers(handlers![]);
    let bystander = bystander.start().await.unwrap();
    let mut cluster = Cluster {
        nodes: Vec::new(),
        bystander,
        mood: Arc::default(),
        cut: Arc::default(),
        registered: Arc::default(),
    };
    for id in ["a", "b", "c"] {
        let registry = Moody {
            registry: cluster.bystander.backend().registry.clone().unwrap(),
            mood: Arc::clone(&cluster.mood),
            cut: Arc::clone(&cluster.cut),
            networked: false,
            registered: Arc::clone(&cluster.registered),
            slow: Duration::ZERO,
        };
        let node = builder(bus, id).registry(Arc::new(registry));
        cluster.nodes.push(node.start().await.unwrap());
    }
    sees(&cluster.nodes[0], 4).await;
    cluster
}

#[tokio::test(start_paused = true)]
async fn an_outage_of_the_registry_keeps_the_view_and_says_that_it_is_stale() {
    let cluster = cluster("outage").await;
    let node = &cluster.nodes[0];
    assert_eq!(health(node), (HealthStatus::Up, "4 nodes".to_owned()));
    cluster.mood.store(AWAY, Ordering::SeqCst);
    for _ in 0..3 {
        cluster.cut.notify_waiters();
    }
    // Three time-outs: for the registry all of them are gone.
    tokio::time::sleep(9 * HEARTBEAT).await;
    assert_eq!(ids(&cluster.bystander), ["x"]);
    assert_eq!(ids(node), ["a", "b", "c", "x"]);
    let (status, detail) = health(node);
    assert_eq!(status, HealthStatus::Degraded);
    assert!(detail.contains("may be stale"), "{detail}");
    let mut shares = BTreeMap::<_, u32>::new();
    for number in 0..30 {
        *shares
            .entry(node.send(Ask(number)).await.unwrap())
            .or_default() += 1;
    }
    assert_eq!(shares.into_values().collect::<Vec<_>>(), [10; 3]);
    // One leaves meanwhile, of which nobody hears; its share goes to the others.
    cluster.nodes[2].shutdown().await.unwrap();
    for number in 0..30 {
        assert_ne!(node.send(Ask(number)).await.unwrap(), "c");
    }
    let before = cluster.registered.load(Ordering::SeqCst);
    cluster.mood.store(WELL, Ordering::SeqCst);
    let back = Instant::now();
    sees(&cluster.bystander, 3).await;
    assert!(back.elapsed() <= 2 * HEARTBEAT, "{:?}", back.elapsed());
    assert_eq!(cluster.registered.load(Ordering::SeqCst), before + 2);
    until("the view is fresh", || health(node).0 == HealthStatus::Up).await;
    until("who left is gone", || ids(node) == ["a", "b", "x"]).await;
}

/// Takes everybody out behind their backs, as a flush of the store does.
async fn flush(cluster: &Cluster) {
    let registry = cluster.bystander.backend().registry.clone().unwrap();
    for node in registry.nodes().await.unwrap() {
        registry.unregister(&node).await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_registry_that_lost_its_nodes_empties_no_view() {
    let cluster = cluster("flush").await;
    let all = ["a", "b", "c", "x"];
    flush(&cluster).await;
    let lost = Instant::now();
    let mut degraded = 0;
    // It is told to be stale for a node's time (30 s) from when it is known again, which took up to two heartbeats.
    while lost.elapsed() < 7 * HEARTBEAT {
        tokio::time::sleep(Duration::from_millis(250)).await;
        for node in &cluster.nodes {
            assert_eq!(ids(node), all, "after {:?}", lost.elapsed());
            degraded += u32::from(health(node).0 == HealthStatus::Degraded);
        }
    }
    assert!(degraded > 0, "nobody said that the view may be stale");
    let registry = cluster.bystander.backend().registry.clone().unwrap();
    assert_eq!(registry.nodes().await.unwrap().len(), 4);
    for node in &cluster.nodes {
        assert_eq!(health(node), (HealthStatus::Up, "4 nodes".to_owned()));
    }
    // Who died in that time is found out.
    let token = |name| catga::Name::token(name).unwrap();
    let dead = NodeInfo::new(token("d"), token("shop"));
    registry.register(&dead).await.unwrap();
    sees(&cluster.nodes[0], 5).await;
    flush(&cluster).await;
    tokio::time::sleep(HEARTBEAT).await;
    assert_eq!(ids(&cluster.nodes[0]).len(), 5, "nobody knows yet");
    let gone = || ids(&cluster.nodes[0]) == all;
    until("it is given up", gone).await;
}

/// Who keeps no ids listens to the others for a while: longer than it takes to give a node up, with short heartbeats.
#[tokio::test(start_paused = true)]
async fn a_registry_that_takes_its_time_knows_the_node_again() {
    let heartbeat = Duration::from_millis(200);
    let observer = builder("slow", "x").start().await.unwrap();
    let inner = observer.backend().registry.clone().unwrap();
    let registry = Moody {
        registry: Arc::clone(&inner),
        mood: Arc::default(),
        cut: Arc::default(),
        networked: false,
        registered: Arc::default(),
        slow: SECOND,
    };
    let node = builder("slow", "a").heartbeat(heartbeat, 3 * heartbeat);
    let node = node.registry(Arc::new(registry)).start().await.unwrap();
    sees(&observer, 2).await;
    let lost = observer.node_info("a").unwrap();
    inner.unregister(&lost).await.unwrap();
    sees(&observer, 1).await;
    let back = tokio::time::timeout(5 * SECOND, sees(&observer, 2)).await;
    assert!(back.is_ok(), "{:?}", health(&node));
    until("it is well", || health(&node).0 == HealthStatus::Up).await;
}

/// A node whose id another has is a stranger to the registry for good, and still hears who leaves.
#[tokio::test(start_paused = true)]
async fn a_node_that_lost_its_id_sees_who_leaves() {
    let cluster = cluster("lost-id").await;
    let registry = cluster.bystander.backend().registry.clone().unwrap();
    let node = &cluster.nodes[0];
    let own = node.node_info("a").unwrap();
    registry.unregister(&own).await.unwrap();
    let token = |name| catga::Name::token(name).unwrap();
    let double = NodeInfo::new(token("a"), token("shop"));
    registry.register(&double).await.unwrap();
    // It lives.
    let (beating, beaten) = (Arc::clone(&registry), double);
    let beats = tokio::spawn(async move {
        loop {
            beating.heartbeat(&beaten).await.unwrap();
            tokio::time::sleep(HEARTBEAT).await;
        }
    });
    let told = || health(node).1.contains("is not registered");
    until("it says so", told).await;
    assert_eq!(node.node_info("a").unwrap().incarnation, own.incarnation);
    // One that is not heard of any more, without a word.
    let dead = NodeInfo::new(token("d"), token("shop"));
    registry.register(&dead).await.unwrap();
    sees(node, 5).await;
    let gone = || ids(node) == ["a", "b", "c", "x"];
    let gone = tokio::time::timeout(9 * HEARTBEAT, until("it is given up", gone)).await;
    assert!(gone.is_ok(), "{:?} {:?}", ids(node), health(node));
    assert_eq!(node.node_info("a").unwrap().incarnation, own.incarnation);
    beats.abort();
}

#[tokio::test(start_paused = true)]
async fn a_double_is_refused_and_takes_nobody_out() {
    let a = builder("double", "a").start().await.unwrap();
    let b = builder("double", "b").start().await.unwrap();
    let error = builder("double", "b").start().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::DuplicateNode);
    tokio::time::sleep(SECOND).await;
    assert_eq!(ids(&a), ["a", "b"]);
    assert_eq!(a.send_to("b", Ask(0)).await.unwrap(), "b");
    drop(b);
}

#[tokio::test(start_paused = true)]
async fn a_start_that_is_given_up_leaves_nobody_behind() {
    let a = builder("given-up", "a").start().await.unwrap();
    for polls in 1..60 {
        let mut starting = Box::pin(builder("given-up", "b").start());
        for _ in 0..polls {
            let polled = std::future::poll_fn(|cx| {
                std::task::Poll::Ready(starting.as_mut().poll(cx).is_ready())
            });
            if polled.await {
                break;
            }
            tokio::task::yield_now().await;
        }
        drop(starting);
        until("it is gone again", || ids(&a) == ["a"]).await;
        tokio::time::sleep(SECOND).await;
        assert_eq!(ids(&a), ["a"], "after {polls} polls");
    }
}

#[tokio::test(start_paused = true)]
async fn the_load_is_told_and_falls_again() {
    let a = builder("load", "a").start().await.unwrap();
    let b = builder("load", "b").concurrency(10).start().await.unwrap();
    sees(&a, 2).await;
    let load = || a.node_info("b").unwrap().load.as_percent();
    assert_eq!(load(), 0);
    b.handler("ask").unwrap().pause();
    until("it is full", || load() == 100).await;
    b.handler("ask").unwrap().resume();
    until("it is idle", || load() == 0).await;
}

/// A rolling restart under load, of which no caller notices anything: what is tried once is not lost either.
#[tokio::test(start_paused = true)]
async fn a_rolling_restart_fails_no_request() {
    const IDS: [&str; 3] = ["a", "b", "c"];
    let mut nodes = BTreeMap::new();
    for id in IDS {
        let node = builder("rolling", id).concurrency(4).start().await.unwrap();
        nodes.insert(id, node);
    }
    let callers = ["p", "q"].map(|id| {
        let caller = Catga::builder().connect("memory://membership-rolling");
        caller.service("web").node(id).handlers(handlers![]).start()
    });
    let stop = Arc::new(AtomicBool::new(false));
    let mut calls = JoinSet::new();
    for caller in callers {
        let caller = caller.await.unwrap();
        sees(&caller, nodes.len() + calls.len().min(1) + 1).await;
        for kind in 0..30_u32 {
            let (caller, stop) = (caller.clone(), Arc::clone(&stop));
            calls.spawn(async move {
                let mut answers = BTreeMap::<String, u32>::new();
                for number in 0.. {
                    if stop.load(Ordering::SeqCst) {
                        break;
                    }
                    let answer = match kind % 3 {
                        0 => caller.send(Order(number)).await,
                        1 => caller.send(Ask(number)).await,
                        _ => caller.send(Once(number)).await,
                    };
                    let answer =
                        answer.unwrap_or_else(|error| panic!("request {number}: {error:?}"));
                    *answers.entry(answer).or_default() += 1;
                }
                answers
            });
        }
    }
    for id in IDS.iter().cycle().take(9) {
        tokio::time::sleep(SECOND).await;
        let report = nodes.remove(id).unwrap().shutdown().await.unwrap();
        assert_eq!(report.unfinished, 0);
        tokio::time::sleep(SECOND).await;
        let again = builder("rolling", id).concurrency(4).start().await.unwrap();
        nodes.insert(id, again);
    }
    tokio::time::sleep(SECOND).await;
    stop.store(true, Ordering::SeqCst);
    let mut answers = BTreeMap::<String, u32>::new();
    for (node, count) in calls.join_all().await.into_iter().flatten() {
        *answers.entry(node).or_default() += count;
    }
    assert_eq!(answers.len(), 3, "{answers:?}");
    assert!(answers.values().all(|count| *count > 1_000), "{answers:?}");
}

/// On a thread of its own the membership does not notice that all workers are busy; what others see is a full node.
#[test]
fn a_node_whose_workers_are_all_busy_stays() {
    let (heartbeat, limit) = (Duration::from_millis(100), Duration::from_secs(1));
    // The bus is of the observer's runtime, which is not busy.
    let observers = tokio::runtime::Builder::new_multi_thread();
    let observers = { observers }
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    let observer = |id: &str| {
        let node = Catga::builder()
            .connect("memory://membership-busy")
            .node(id);
        node.heartbeat(heartbeat, limit).handlers(handlers![])
    };
    let observer = observers.block_on(observer("observer").start()).unwrap();
    let workers = tokio::runtime::Builder::new_multi_thread();
    let workers = { workers }.worker_threads(2).enable_all().build().unwrap();
    let registry = Moody {
        registry: observer.backend().registry.clone().unwrap(),
        mood: Arc::default(),
        cut: Arc::default(),
        networked: true,
        registered: Arc::default(),
        slow: Duration::ZERO,
    };
    let busy = builder("busy", "busy").heartbeat(heartbeat, limit);
    let busy = workers
        .block_on(busy.registry(Arc::new(registry)).start())
        .unwrap();
    let mut changes = observer.watch_nodes();
    observers.block_on(sees(&observer, 2));
    let working = Arc::new(AtomicBool::new(true));
    for _ in 0..8 {
        let working = Arc::clone(&working);
        workers.spawn(async move {
            while working.load(Ordering::SeqCst) {
                std::hint::spin_loop();
            }
        });
    }
    let load = || {
        observer
            .node_info("busy")
            .map(|node| node.load.as_percent())
    };
    observers.block_on(async {
        until("it is full", || load() == Some(100)).await;
        tokio::time::sleep(3 * limit).await;
    });
    assert_eq!(load(), Some(100), "it was given up");
    working.store(false, Ordering::SeqCst);
    observers.block_on(async {
        until("it is idle", || load().is_some_and(|load| load < 100)).await;
        busy.shutdown().await.unwrap();
        sees(&observer, 1).await;
        let mut lefts = 0;
        while let Ok(Some(event)) = tokio::time::timeout(limit, changes.next()).await {
            lefts += u32::from(matches!(event, NodeEvent::Left(_)));
        }
        assert_eq!(lefts, 1, "it left when it was shut down, and not before");
    });
    workers.shutdown_background();
}
