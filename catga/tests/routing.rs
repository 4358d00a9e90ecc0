//! Where requests go, and where they go on to: over nodes of one bus in this process.

#![allow(
    clippy::unwrap_used,
    reason = "a failure in a helper is a failure of its test"
)]

use std::collections::BTreeMap;
use std::future::pending;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use catga::prelude::*;
use catga::routing::{
    Candidates, ConsistentHash, LeastLoad, LocalFirst, Random, RoundRobin, RoutingStrategy,
};
use catga::{CatgaBuilder, Error, ErrorKind, InboxStore, NodeEvent, NodeInfo};
use catga_core::{Claim, ClaimEnd, ClaimOutcome, Effects, InboxKey, Owner, Reply, async_trait};
use serde::{Deserialize, Serialize};
use tokio::task::JoinSet;
use tokio::time::Instant;

/// Who answers? Asked again as often as need be.
#[derive(Request, Serialize, Deserialize)]
#[response(String)]
#[request(idempotent = false)]
#[route_by(key)]
struct Ask {
    key: u32,
}

/// As [`Ask`], and answered once.
#[derive(Request, Serialize, Deserialize)]
#[response(String)]
struct Order(u32);

/// As [`Ask`], and tried once.
#[derive(Request, Serialize, Deserialize)]
#[response(String)]
#[qos(at_most_once)]
struct Once(u32);

/// What a node does with what it is asked.
#[derive(Clone, Copy, PartialEq)]
enum Mood {
    Answers,
    Silent,
    /// It answers all but the first.
    SilentOnce,
    /// It answers after so long.
    Slow(Duration),
    Fails,
    /// And answers from then on.
    FailsOnce,
}

#[derive(Clone)]
struct Desk {
    mood: Mood,
    runs: Arc<AtomicU32>,
}

impl Desk {
    async fn answer(&self, ctx: &Context) -> Result<String> {
        let run = self.runs.fetch_add(1, Ordering::SeqCst);
        match self.mood {
            Mood::SilentOnce if run == 0 => pending().await,
            Mood::FailsOnce if run == 0 => return Err("out of order").retry(),
            Mood::SilentOnce | Mood::FailsOnce | Mood::Answers => {}
            Mood::Silent => pending().await,
            Mood::Slow(time) => tokio::time::sleep(time).await,
            Mood::Fails => return Err("out of order").retry(),
        }
        Ok(ctx.node().to_string())
    }

    fn runs(&self) -> u32 {
        self.runs.load(Ordering::SeqCst)
    }
}

#[handler]
async fn ask(_: Ask, ctx: Context, State(desk): State<Desk>) -> Result<String> {
    desk.answer(&ctx).await
}

#[handler]
async fn order(_: Order, ctx: Context, State(desk): State<Desk>) -> Result<String> {
    desk.answer(&ctx).await
}

#[handler]
async fn once(_: Once, ctx: Context, State(desk): State<Desk>) -> Result<String> {
    desk.answer(&ctx).await
}

fn builder(bus: &str, id: &str) -> CatgaBuilder {
    Catga::builder()
        .connect(format!("memory://routing-{bus}"))
        .service("shop")
        .node(id)
}

async fn serving(bus: &str, id: &str, mood: Mood) -> (Catga, Desk) {
    let desk = Desk {
        mood,
        runs: Arc::default(),
    };
    let node = builder(bus, id).state(desk.clone());
    let node = node.handlers(handlers![ask, order, once]);
    (node.start().await.unwrap(), desk)
}

/// A node that only asks, by a strategy.
async fn asking(bus: &str, strategy: impl RoutingStrategy, nodes: usize) -> Catga {
    let node = builder(bus, "caller").routing(strategy);
    let node = node.handlers(handlers![]).start().await.unwrap();
    sees(&node, nodes).await;
    node
}

async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let waiting = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    let waited = tokio::time::timeout(Duration::from_secs(60), waiting).await;
    assert!(waited.is_ok(), "not in time: {what}");
}

async fn sees(node: &Catga, nodes: usize) {
    until("nodes are seen", || node.nodes().len() == nodes).await;
}

/// Who answered how many.
async fn shares(caller: &Catga, keys: impl Iterator<Item = u32>) -> BTreeMap<String, u32> {
    let mut shares = BTreeMap::new();
    for key in keys {
        *shares
            .entry(caller.send(Ask { key }).await.unwrap())
            .or_default() += 1;
    }
    shares
}

async fn three(bus: &str) -> Vec<Catga> {
    let mut nodes = Vec::new();
    for id in ["a", "b", "c"] {
        nodes.push(serving(bus, id, Mood::Answers).await.0);
    }
    nodes
}

#[tokio::test(start_paused = true)]
async fn each_strategy_spreads_in_its_way() {
    let nodes = three("spread").await;
    let caller = asking("spread", RoundRobin, 4).await;
    let thirds = |shares: BTreeMap<String, u32>| shares.into_values().collect::<Vec<_>>();
    assert_eq!(thirds(shares(&caller, 0..300).await), [100; 3]);
    caller.shutdown().await.unwrap();
    sees(&nodes[0], 3).await;

    for strategy in [true, false] {
        let caller = if strategy {
            asking("spread", Random, 4).await
        } else {
            asking("spread", LeastLoad, 4).await
        };
        let shares = thirds(shares(&caller, 0..600).await);
        let fair = shares.iter().all(|share| (140..260).contains(share));
        assert!(fair && shares.len() == 3, "{shares:?}");
        caller.shutdown().await.unwrap();
        sees(&nodes[0], 3).await;
    }

    let caller = asking("spread", ConsistentHash, 4).await;
    assert_eq!(shares(&caller, (0..50).map(|_| 7)).await.len(), 1);
    let spread = shares(&caller, 0..300).await;
    assert!(spread.values().all(|share| *share > 60), "{spread:?}");
    // Another node with the same strategy agrees.
    let other = builder("spread", "other").routing_for::<Ask>(ConsistentHash);
    let other = other.handlers(handlers![]).start().await.unwrap();
    sees(&other, 5).await;
    for key in 0..50 {
        let owner = caller.send(Ask { key }).await.unwrap();
        assert_eq!(other.send(Ask { key }).await.unwrap(), owner);
        let letter = other.request(Ask { key }).header("tenant", "acme");
        assert_eq!(letter.send().await.unwrap(), owner);
    }
    for node in nodes.iter().chain([&caller, &other]) {
        node.shutdown().await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn local_first_stays_here() {
    let nodes = three("local").await;
    let desk = Desk {
        mood: Mood::Answers,
        runs: Arc::default(),
    };
    let here = builder("local", "here").routing(LocalFirst).state(desk);
    let here = here.handlers(handlers![ask]).start().await.unwrap();
    sees(&here, 4).await;
    let shares = shares(&here, 0..30).await;
    assert_eq!(shares, BTreeMap::from([("here".to_owned(), 30)]));
    // What has no handler here goes to others.
    for number in 0..6 {
        assert_ne!(here.send(Order(number)).await.unwrap(), "here");
    }
    drop(nodes);
}

#[tokio::test(start_paused = true)]
async fn keys_stay_where_they_are_when_a_node_leaves() {
    let nodes = three("leaving").await;
    let caller = asking("leaving", ConsistentHash, 4).await;
    let owners = async || {
        let mut owners = Vec::new();
        for key in 0..200 {
            owners.push(caller.send(Ask { key }).await.unwrap());
        }
        owners
    };
    let before = owners().await;
    nodes[1].shutdown().await.unwrap();
    sees(&caller, 3).await;
    for (old, new) in before.iter().zip(owners().await) {
        assert!(
            *old == new || old == "b",
            "{old} lives, and {new} has its key"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_strategy_of_ones_own() {
    #[derive(Debug)]
    struct Last;

    impl RoutingStrategy for Last {
        fn pick(&self, candidates: &Candidates<'_>) -> usize {
            let ids: Vec<_> = candidates.iter().map(|c| c.node().id.to_string()).collect();
            assert!(ids.is_sorted(), "{ids:?}");
            // Too high, and taken for what it is.
            candidates.len() * 2 - 1
        }
    }

    let _nodes = three("own").await;
    let caller = asking("own", Last, 4).await;
    let shares = shares(&caller, 0..9).await;
    assert_eq!(shares, BTreeMap::from([("c".to_owned(), 9)]));
}

#[tokio::test]
async fn what_cannot_be_routed_is_said_at_the_start() {
    let desk = Desk {
        mood: Mood::Answers,
        runs: Arc::default(),
    };
    let node = builder("refused", "a").state(desk.clone());
    let node = node.routing(ConsistentHash).handlers(handlers![ask, order]);
    let text = node.start().await.unwrap_err().to_string();
    for part in [
        "order",
        "routing.rs",
        "`.routing(ConsistentHash)`",
        "the request `Order` has none",
        "`#[route_by(field)]`",
        "`.routing_for::<Order>(RoundRobin)`",
    ] {
        assert!(text.contains(part), "{part} is not in {text}");
    }
    assert!(!text.contains("`Ask`"), "{text}");

    let node = builder("refused", "a")
        .state(desk.clone())
        .handlers(handlers![]);
    let node = node.routing_for::<Once>(ConsistentHash);
    let text = node.start().await.unwrap_err().to_string();
    assert!(
        text.contains("routing::Once>(ConsistentHash)`") && text.contains("`Once` has none"),
        "{text}"
    );

    let node = builder("refused", "a").state(desk);
    let node = node.routing(ConsistentHash).routing_for::<Order>(Random);
    let node = node.handlers(handlers![ask, order]).start().await.unwrap();
    // One whose handler is elsewhere is found when it is sent.
    let (_b, _) = serving("refused", "b", Mood::Answers).await;
    sees(&node, 2).await;
    let error = node.send(Once(1)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config);
    assert!(error.message().contains("`Once` has none"), "{error}");
    node.send(Order(1)).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_silent_node_is_left_for_another() {
    let (_a, silent) = serving("silent", "a", Mood::Silent).await;
    let (_b, _) = serving("silent", "b", Mood::Answers).await;
    let caller = asking("silent", RoundRobin, 3).await;
    let began = Instant::now();
    assert_eq!(caller.send(Ask { key: 0 }).await.unwrap(), "b");
    let took = began.elapsed();
    let third = Duration::from_millis(3_333);
    assert!((third..third * 2).contains(&took), "{took:?}");
    assert_eq!(silent.runs(), 1);
    // It is skipped from here on, and nobody waits.
    let began = Instant::now();
    for key in 0..100 {
        assert_eq!(caller.send(Ask { key }).await.unwrap(), "b");
    }
    assert!(began.elapsed() < Duration::from_millis(100));
    // When it is time one request tries it.
    tokio::time::sleep(Duration::from_secs(2)).await;
    let mut calls = JoinSet::new();
    for key in 0..50 {
        let caller = caller.clone();
        calls.spawn(async move { caller.send(Ask { key }).await.unwrap() });
    }
    assert!(calls.join_all().await.iter().all(|node| node == "b"));
    assert_eq!(silent.runs(), 2);
}

/// Whoever comes first by name.
#[derive(Debug)]
struct First;

impl RoutingStrategy for First {
    fn pick(&self, _: &Candidates<'_>) -> usize {
        0
    }
}

/// The first hangs, the second is not there: that one is not a reason to wait for the first.
#[tokio::test(start_paused = true)]
async fn beside_a_silent_node_all_others_are_asked() {
    let (_a, silent) = serving("beside", "a", Mood::Silent).await;
    let (c, _) = serving("beside", "c", Mood::Answers).await;
    dead(&c, "b").await;
    let caller = asking("beside", First, 4).await;
    let began = Instant::now();
    assert_eq!(caller.send(Ask { key: 0 }).await.unwrap(), "c");
    let took = began.elapsed();
    assert!(took < Duration::from_millis(3_500), "{took:?}");
    assert_eq!(silent.runs(), 1);
}

/// There are two, of which one hangs: the other is asked again when it failed, whoever was asked first.
#[tokio::test(start_paused = true)]
async fn beside_a_silent_node_who_failed_is_asked_again() {
    for (bus, hangs, fails) in [("hangs", "a", "b"), ("fails", "b", "a")] {
        let (_silent, silent) = serving(bus, hangs, Mood::Silent).await;
        let (_failing, failing) = serving(bus, fails, Mood::FailsOnce).await;
        let caller = asking(bus, First, 3).await;
        let began = Instant::now();
        assert_eq!(caller.send(Ask { key: 0 }).await.unwrap(), fails);
        let took = began.elapsed();
        // A third of the time for the one that hangs, and a back-off for the other.
        let third = Duration::from_secs(3);
        assert!((third..third * 2).contains(&took), "{bus}: {took:?}");
        assert_eq!((silent.runs(), failing.runs()), (1, 2), "{bus}");
    }
}

/// As often as any request, and no more often; then it may still be answered by the one that is silent.
#[tokio::test(start_paused = true)]
async fn beside_a_silent_node_who_fails_is_asked_so_often() {
    let (_a, silent) = serving("so-often", "a", Mood::Silent).await;
    let (_b, failing) = serving("so-often", "b", Mood::Fails).await;
    let caller = asking("so-often", First, 3).await;
    let began = Instant::now();
    let error = caller.send(Ask { key: 0 }).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout, "{error:?}");
    let took = began.elapsed();
    let limit = Duration::from_secs(10);
    assert!(
        (limit..limit + Duration::from_millis(300)).contains(&took),
        "{took:?}"
    );
    assert_eq!((silent.runs(), failing.runs()), (1, 3));

    let (_c, slow) = serving("in-the-end", "a", Mood::Slow(Duration::from_secs(9))).await;
    let (_d, failing) = serving("in-the-end", "b", Mood::Fails).await;
    let caller = asking("in-the-end", First, 3).await;
    assert_eq!(caller.send(Ask { key: 0 }).await.unwrap(), "a");
    assert_eq!((slow.runs(), failing.runs()), (1, 3));
}

#[tokio::test(start_paused = true)]
async fn a_node_that_is_started_anew_is_asked_again() {
    let (a, desk) = serving("anew", "a", Mood::SilentOnce).await;
    let caller = asking("anew", RoundRobin, 2).await;
    let began = Instant::now();
    let asked = tokio::spawn({
        let caller = caller.clone();
        async move { caller.send(Ask { key: 0 }).await }
    });
    until("it has it", || desk.runs() == 1).await;
    let registry = caller.backend().registry.as_ref().unwrap();
    let killed = caller.node_info("a").unwrap();
    registry.unregister(&killed).await.unwrap();
    // At once, or the node itself would be there again.
    dead(&caller, "a").await;
    assert_eq!(asked.await.unwrap().unwrap(), "a");
    let took = began.elapsed();
    assert!(took < Duration::from_secs(2), "{took:?}");
    assert_eq!(desk.runs(), 2);
    drop(a);
}

#[tokio::test(start_paused = true)]
async fn who_joins_is_asked_what_a_silent_node_has() {
    let (_a, silent) = serving("joins", "a", Mood::Silent).await;
    let caller = asking("joins", RoundRobin, 2).await;
    let began = Instant::now();
    let asked = tokio::spawn({
        let caller = caller.clone();
        async move { caller.send(Ask { key: 0 }).await }
    });
    tokio::time::sleep(Duration::from_secs(6)).await;
    let (_b, _) = serving("joins", "b", Mood::Answers).await;
    assert_eq!(asked.await.unwrap().unwrap(), "b");
    let took = began.elapsed();
    assert!(took < Duration::from_secs(7), "{took:?}");
    assert_eq!(silent.runs(), 1);
}

/// Without a deadline nobody waits for ever for a node that has gone.
#[tokio::test(start_paused = true)]
async fn a_request_without_a_deadline_ends_with_its_node() {
    let (_a, desk) = serving("forever", "a", Mood::Silent).await;
    let caller = builder("forever", "caller").request_deadline(None);
    let caller = caller.handlers(handlers![]).start().await.unwrap();
    sees(&caller, 2).await;
    let asked = tokio::spawn({
        let caller = caller.clone();
        async move { caller.send(Ask { key: 0 }).await }
    });
    until("it has it", || desk.runs() == 1).await;
    let registry = caller.backend().registry.as_ref().unwrap();
    let killed = caller.node_info("a").unwrap();
    registry.unregister(&killed).await.unwrap();
    // Something else has its id, or the node itself would be there again.
    let other = NodeInfo::new("a".parse_name(), "shop".parse_name());
    registry.register(&other).await.unwrap();
    let answer = tokio::time::timeout(Duration::from_secs(2), asked).await;
    let error = answer.unwrap().unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NodeGone);
    assert!(error.may_be_stored());
}

/// However many died a moment ago: that nobody is there is no attempt.
#[tokio::test(start_paused = true)]
async fn nodes_that_are_not_there_use_up_no_attempts() {
    let (e, desk) = serving("many", "y", Mood::Answers).await;
    let (_f, other) = serving("many", "z", Mood::Answers).await;
    for id in ["a", "b", "c", "d", "e", "f"] {
        dead(&e, id).await;
    }
    let caller = asking("many", First, 9).await;
    let began = Instant::now();
    assert_eq!(caller.send(Order(0)).await.unwrap(), "y");
    assert!(began.elapsed() < Duration::from_millis(100));
    assert_eq!((desk.runs(), other.runs()), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn where_all_died_a_request_ends() {
    let caller = builder("died", "caller").handlers(handlers![]);
    let caller = caller.start().await.unwrap();
    for id in ["a", "b", "c", "d", "e", "f"] {
        dead(&caller, id).await;
    }
    sees(&caller, 7).await;
    let began = Instant::now();
    let error = caller.send(Order(0)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NoResponders, "{error:?}");
    assert!(began.elapsed() < Duration::from_millis(100) && !error.may_be_stored());
}

/// What stays at this node does not go to one that may hang, and what is tried once neither.
#[tokio::test(start_paused = true)]
async fn who_failed_is_not_tried_with_what_may_not_fail() {
    let (_b, silent) = serving("spared", "b", Mood::Silent).await;
    let (_c, _) = serving("spared", "c", Mood::Answers).await;
    let caller = asking("spared", RoundRobin, 3).await;
    // It fails, and is due again.
    assert_eq!(caller.send(Ask { key: 0 }).await.unwrap(), "c");
    tokio::time::sleep(Duration::from_secs(2)).await;
    for number in 0..20 {
        assert_eq!(caller.send(Once(number)).await.unwrap(), "c");
    }
    assert_eq!(silent.runs(), 1);
}

/// An inbox as one has it that dies: what it claimed is never heard of again.
#[derive(Debug)]
struct Dying(Arc<dyn InboxStore>);

#[async_trait]
impl InboxStore for Dying {
    async fn claim(
        &self,
        key: &InboxKey,
        owner: Owner,
        lease: Duration,
        generation: u32,
    ) -> Result<ClaimOutcome, Error> {
        self.0.claim(key, owner, lease, generation).await
    }

    async fn renew(&self, _: &mut Claim, _: Duration) -> Result<(), Error> {
        pending().await
    }

    async fn complete(
        &self,
        _: &Claim,
        _: Option<&Reply>,
        _: Option<&Effects>,
    ) -> Result<(), Error> {
        pending().await
    }

    async fn release(&self, _: &Claim, _: ClaimEnd) -> Result<(), Error> {
        pending().await
    }
}

/// What a node had begun when it died is done by another while the caller waits.
#[tokio::test(start_paused = true)]
async fn a_node_that_dies_with_a_claim_is_taken_over_in_time() {
    let (b, second) = serving("claim", "b", Mood::Answers).await;
    let first = Desk {
        mood: Mood::Silent,
        runs: Arc::default(),
    };
    let inbox = Dying(b.backend().inbox.clone().unwrap());
    let a = builder("claim", "a").state(first.clone());
    let a = a.inbox(Arc::new(inbox)).handlers(handlers![order]);
    let _a = a.start().await.unwrap();
    let caller = asking("claim", RoundRobin, 3).await;
    let began = Instant::now();
    assert_eq!(caller.send(Order(0)).await.unwrap(), "b");
    let took = began.elapsed();
    assert!(took < Duration::from_secs(8), "{took:?} of 10 s");
    assert_eq!((first.runs(), second.runs()), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn a_slow_answer_of_the_first_counts() {
    let slow = Duration::from_secs(5);
    let (_a, first) = serving("slow", "a", Mood::Slow(slow)).await;
    let (_b, second) = serving("slow", "b", Mood::Silent).await;
    let caller = asking("slow", RoundRobin, 3).await;
    let began = Instant::now();
    assert_eq!(caller.send(Ask { key: 0 }).await.unwrap(), "a");
    let took = began.elapsed();
    assert!(
        (slow..slow + Duration::from_millis(100)).contains(&took),
        "{took:?}"
    );
    assert_eq!((first.runs(), second.runs()), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn who_answers_others_is_only_slow_with_this_one() {
    let (_a, asked) = serving("busy", "a", Mood::Slow(Duration::from_secs(6))).await;
    let (_b, other) = serving("busy", "b", Mood::Silent).await;
    let caller = asking("busy", RoundRobin, 3).await;
    let mut calls = JoinSet::new();
    // One each second, all to the same node: some answer comes all the time.
    for key in 0..8 {
        let caller = caller.clone();
        calls.spawn(async move { caller.send_to("a", Ask { key }).await });
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    assert_eq!(caller.send(Ask { key: 9 }).await.unwrap(), "a");
    for answer in calls.join_all().await {
        answer.unwrap();
    }
    assert_eq!((asked.runs(), other.runs()), (9, 0));
}

#[tokio::test(start_paused = true)]
async fn a_request_that_is_tried_once_goes_to_one_node() {
    let (_a, silent) = serving("once", "a", Mood::Silent).await;
    let (_b, other) = serving("once", "b", Mood::Fails).await;
    let caller = asking("once", RoundRobin, 3).await;
    let error = caller.send(Once(0)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout);
    let error = caller.send(Once(1)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Handler);
    assert_eq!((silent.runs(), other.runs()), (1, 1));
}

/// A node that is in the registry and nowhere else: it died a moment ago.
async fn dead(at: &Catga, id: &str) -> NodeInfo {
    let node = NodeInfo::new(id.parse_name(), "shop".parse_name());
    let requests = ["Ask", "Once", "Order"].map(ParseName::parse_name);
    let node = node.with_requests(requests.to_vec());
    let registry = at.backend().registry.as_ref().unwrap();
    registry.register(&node).await.unwrap();
    node
}

trait ParseName {
    fn parse_name(self) -> catga::Name;
}

impl ParseName for &str {
    fn parse_name(self) -> catga::Name {
        catga::Name::token(self).unwrap()
    }
}

#[tokio::test(start_paused = true)]
async fn where_nobody_serves_the_next_is_asked_at_once() {
    let (b, desk) = serving("dead", "b", Mood::Answers).await;
    dead(&b, "a").await;
    dead(&b, "c").await;
    let caller = asking("dead", RoundRobin, 4).await;
    let began = Instant::now();
    for number in 0..20 {
        // Nobody began it: also what is tried once goes on.
        assert_eq!(caller.send(Once(number)).await.unwrap(), "b");
        assert_eq!(caller.send(Order(number)).await.unwrap(), "b");
        assert_eq!(caller.send(Ask { key: number }).await.unwrap(), "b");
    }
    assert!(began.elapsed() < Duration::from_millis(100));
    assert_eq!(desk.runs(), 60);
    // With the last one nobody is left, which is said at once.
    b.shutdown().await.unwrap();
    let error = caller.send(Once(0)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NoResponders, "{error:?}");
    assert!(began.elapsed() < Duration::from_millis(200) && !error.may_be_stored());
}

#[tokio::test(start_paused = true)]
async fn a_node_that_is_given_up_is_not_waited_for() {
    let (a, _) = serving("gone", "a", Mood::Silent).await;
    let caller = builder("gone", "caller").request_deadline(Duration::from_secs(600));
    let caller = caller.handlers(handlers![]).start().await.unwrap();
    sees(&caller, 2).await;
    let asked = [true, false].map(|routed| {
        let caller = caller.clone();
        tokio::spawn(async move {
            let began = Instant::now();
            let answer = if routed {
                caller.send(Ask { key: 0 }).await
            } else {
                caller.send_to("a", Ask { key: 0 }).await
            };
            (answer, began.elapsed())
        })
    });
    tokio::time::sleep(Duration::from_secs(1)).await;
    let (_b, _) = serving("gone", "b", Mood::Answers).await;
    sees(&caller, 3).await;
    // It dies: the registry hears no more of it, and says so.
    let node = caller.node_info("a").unwrap();
    caller
        .backend()
        .registry
        .as_ref()
        .unwrap()
        .unregister(&node)
        .await
        .unwrap();
    sees(&caller, 2).await;
    let [routed, fixed] = asked;
    let (answer, took) = routed.await.unwrap();
    assert_eq!(answer.unwrap(), "b");
    assert!(took < Duration::from_secs(3), "{took:?}");
    let (answer, took) = fixed.await.unwrap();
    let error = answer.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NodeGone);
    assert!(error.may_be_stored() && took < Duration::from_secs(3));
    drop(a);
}

#[tokio::test(start_paused = true)]
async fn unknown_and_gone_are_two_errors() {
    let nodes = three("unknown").await;
    let caller = asking("unknown", RoundRobin, 4).await;
    let kind = async |node: &str| {
        let error = caller.send_to(node, Ask { key: 0 }).await.unwrap_err();
        assert!(!error.may_be_stored(), "{error:?}");
        assert!(error.message().contains(node), "{error}");
        error.kind()
    };
    assert_eq!(kind("z").await, ErrorKind::UnknownNode);
    nodes[0].shutdown().await.unwrap();
    sees(&caller, 3).await;
    assert_eq!(kind("a").await, ErrorKind::NodeGone);
    assert!(caller.node_info("a").is_none() && caller.node_info("b").is_some());
    // It is back.
    let (_a, _) = serving("unknown", "a", Mood::Answers).await;
    sees(&caller, 4).await;
    assert_eq!(caller.send_to("a", Ask { key: 0 }).await.unwrap(), "a");
    // Not there, and not yet given up.
    dead(&caller, "d").await;
    sees(&caller, 5).await;
    let error = caller.send_to("d", Ask { key: 0 }).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NoResponders);
}

#[tokio::test(start_paused = true)]
async fn a_broadcast_asks_all_at_once_and_calls_its_own_handler() {
    let (a, own) = serving("all", "a", Mood::Answers).await;
    let (_b, _) = serving("all", "b", Mood::Slow(Duration::from_secs(2))).await;
    dead(&a, "c").await;
    sees(&a, 3).await;
    let began = Instant::now();
    for _ in 0..2 {
        let outcomes = a.broadcast(Order(1)).await.unwrap();
        let outcomes: Vec<_> = outcomes
            .into_iter()
            .map(|outcome| {
                let result = outcome.result.map_err(|error| error.kind());
                (outcome.node.to_string(), result)
            })
            .collect();
        let expected = [
            ("a".to_owned(), Ok("a".to_owned())),
            ("b".to_owned(), Ok("b".to_owned())),
            ("c".to_owned(), Err(ErrorKind::NoResponders)),
        ];
        assert_eq!(outcomes, expected);
    }
    let took = began.elapsed();
    assert!(took < Duration::from_millis(4_100), "{took:?}");
    assert_eq!(own.runs(), 2);
    let stats = a.handlers();
    let stats = stats.iter().find(|handler| handler.name == "order");
    assert_eq!(stats.unwrap().stats.duplicates, 0, "it claimed nothing");
}

#[tokio::test(start_paused = true)]
async fn watchers_see_who_comes_and_goes() {
    let (a, _) = serving("watch", "a", Mood::Answers).await;
    let mut nodes = a.watch_nodes();
    let next = async |nodes: &mut catga::NodeChanges| {
        let next = tokio::time::timeout(Duration::from_secs(60), nodes.next());
        match next.await.expect("an event") {
            Some(NodeEvent::Joined(node)) => format!("joined {}", node.id),
            Some(NodeEvent::Updated(node)) => format!("updated {}", node.id),
            Some(NodeEvent::Left(node)) => format!("left {}", node.id),
            other => format!("{other:?}"),
        }
    };
    assert_eq!(next(&mut nodes).await, "joined a");
    let (b, _) = serving("watch", "b", Mood::Answers).await;
    assert_eq!(next(&mut nodes).await, "joined b");
    let mut late = a.watch_nodes();
    assert_eq!(next(&mut late).await, "joined a");
    assert_eq!(next(&mut late).await, "joined b");
    b.shutdown().await.unwrap();
    for watch in [&mut nodes, &mut late] {
        // It says that it drains before it goes.
        assert_eq!(next(watch).await, "updated b");
        assert_eq!(next(watch).await, "left b");
    }
    // One that nobody reads misses much, is told so, and begins anew.
    for _ in 0..200 {
        let node = dead(&a, "x").await;
        a.backend()
            .registry
            .as_ref()
            .unwrap()
            .unregister(&node)
            .await
            .unwrap();
        tokio::task::yield_now().await;
    }
    let (_c, _) = serving("watch", "c", Mood::Answers).await;
    sees(&a, 2).await;
    assert_eq!(next(&mut late).await, "Some(Lagged)");
    assert_eq!(next(&mut late).await, "joined a");
    assert_eq!(next(&mut late).await, "joined c");
    a.shutdown().await.unwrap();
    assert_eq!(next(&mut late).await, "None");
}
