//! What is sent so that everybody knows who lives: it grows with the nodes, and no faster.

#![allow(
    clippy::print_stdout,
    reason = "what is sent is worth knowing, and the tests' to judge"
)]

use std::time::Duration;

use catga_core::Load;
use catga_testkit::proxy::{Direction, Fault, Proxy};
use catga_testkit::server::{NatsServer, Server};
use futures_util::future::join_all;
use serde_json::json;
use tokio::time::{Instant, sleep, timeout};

use super::{
    BEAT, Beating, Following, Means, Seat, TIMEOUT, beating, loaded, node, seat_with, told,
};
use crate::{SECOND, SOON, Space, until};

both!(
    each_node_costs_the_same_however_many_there_are,
    as_many_as_in_the_readme,
    who_reports_may_die_and_nobody_else_is_given_up,
    who_reports_may_stand_still_and_nobody_else_is_given_up,
    who_is_told_sees_all_that_happens_at_once,
    false_reports_are_counted_and_nobody_is_affected,
);

/// Two of them report.
const REPORTERS: usize = 2;

/// Processes with a node each.
struct Crowd {
    server: NatsServer,
    space: Space,
    means: Means,
    seats: Vec<Seat>,
    beating: Vec<Beating>,
}

impl Crowd {
    async fn of(nodes: usize, means: Means, beat: Duration, timeout: Duration) -> Self {
        let server = NatsServer::start().unwrap();
        let space = Space::at(&server.url());
        let mut crowd = Self {
            server,
            space,
            means,
            seats: Vec::new(),
            beating: Vec::new(),
        };
        let number = |number| node(format!("n{number:03}"));
        for first in (0..nodes).step_by(10) {
            let some = first..nodes.min(first + 10);
            let joined = join_all(some.map(|at| crowd.join(number(at), beat, timeout))).await;
            for (seat, beating) in joined {
                crowd.seats.push(seat);
                crowd.beating.push(beating);
            }
        }
        crowd
    }

    async fn join(
        &self,
        node: catga_core::NodeInfo,
        beat: Duration,
        timeout: Duration,
    ) -> (Seat, Beating) {
        // What is counted is not to depend on a disk.
        let seat = seat_with(&self.space, self.means, "&storage=memory", timeout).await;
        // Many at once are slow on a busy machine.
        until("it is registered", async || {
            seat.register(&node).await.is_ok()
        })
        .await;
        let beating = beating(&seat, &node, beat).await;
        (seat, beating)
    }

    /// What the server says of itself; it is busy at times.
    fn got(&self, path: &str) -> String {
        let mut tries = (0..10).map(|_| self.server.get(path));
        tries.find_map(Result::ok).expect("the server answers")
    }

    /// How many hear beats themselves.
    fn listeners(&self) -> usize {
        match self.means {
            Means::Kv => {
                let jsz = self.got("/jsz");
                let jsz: serde_json::Value = serde_json::from_str(&jsz).unwrap();
                usize::try_from(jsz["consumers"].as_u64().unwrap()).unwrap()
            }
            Means::PubSub => {
                let all = self.got("/connz?subs=1&limit=2000");
                let beats = format!("\"{}.nodes.*.beat\"", self.space.namespace);
                all.matches(&beats).count()
            }
        }
    }

    async fn until_only_reporters_listen(&self) {
        until("only those who report hear beats", async || {
            sleep(Duration::from_millis(50)).await;
            self.listeners() == REPORTERS.min(self.seats.len())
        })
        .await;
    }

    /// What the server has taken and handed out.
    fn counted(&self) -> [u64; 2] {
        let varz: serde_json::Value = serde_json::from_str(&self.got("/varz")).unwrap();
        ["in_msgs", "out_msgs"].map(|what| varz[what].as_u64().unwrap())
    }

    /// Messages written and delivered in a second.
    async fn per_second(&self, long: Duration) -> [f64; 2] {
        let (began, before) = (Instant::now(), self.counted());
        sleep(long).await;
        let (took, after) = (began.elapsed(), self.counted());
        [0, 1].map(|what| {
            let count = u32::try_from(after[what] - before[what]).unwrap();
            f64::from(count) / took.as_secs_f64()
        })
    }
}

async fn each_node_costs_the_same_however_many_there_are(means: Means) {
    // So long that nobody misses a report on a busy machine.
    let timeout = TIMEOUT * 8;
    let mut each = Vec::new();
    for nodes in [4_u32, 16] {
        let crowd = Crowd::of(nodes as usize, means, BEAT, timeout).await;
        crowd.until_only_reporters_listen().await;
        let mut watch = Following::of(&*crowd.seats[3]).await;
        crowd.until_only_reporters_listen().await;
        // A machine that stands still lets all hear for themselves once more: what is sent otherwise is looked for.
        let [mut written, mut delivered] = [1.0, f64::MAX];
        for _ in 0..3 {
            let [more, handed] = crowd.per_second(SECOND * 3).await;
            if handed / more < delivered / written {
                [written, delivered] = [more, handed];
            }
        }
        println!(
            "{means:?}: {nodes} nodes, each {BEAT:?}: {written:.1} written/s, {delivered:.1} delivered/s, {:.2} for each",
            delivered / written
        );
        each.push(delivered / written);
        // Nobody was lost meanwhile.
        watch.for_long(Duration::from_millis(1)).await;
        assert_eq!(watch.there.len(), nodes as usize, "{:?}", watch.log);
        assert!(!watch.log.iter().any(|event| event.starts_with('-')));
    }
    let [few, many] = each[..] else {
        panic!("{each:?}")
    };
    // With everybody told of each heartbeat it would be four more at least, and twelve where each is one message.
    assert!(many < few + 1.0, "{few} and {many}");
}

/// With the default times; it takes minutes. More than a hundred processes in one that is not optimised hear too late.
async fn as_many_as_in_the_readme(means: Means) {
    if std::env::var_os("CATGA_LONG").is_none() {
        println!("not run: it takes minutes; CATGA_LONG=1 runs it");
        return;
    }
    let sizes = std::env::var("CATGA_NODES").unwrap_or_else(|_| "3,30,100".to_owned());
    for nodes in sizes.split(',').map(|nodes| nodes.parse().unwrap()) {
        let (beat, timeout) = (SECOND * 10, SECOND * 30);
        let crowd = Crowd::of(nodes, means, beat, timeout).await;
        until("only those who report hear beats", async || {
            sleep(SECOND).await;
            crowd.listeners() == REPORTERS
        })
        .await;
        let (mut most, measured) = (0, crowd.per_second(SECOND * 30));
        tokio::pin!(measured);
        let [written, delivered] = loop {
            tokio::select! {
                biased;
                measured = &mut measured => break measured,
                () = sleep(SECOND) => most = most.max(crowd.listeners()),
            }
        };
        println!(
            "{means:?}: {nodes} nodes: {written:.1} written/s, {delivered:.1} delivered/s, heartbeats heard by {most} at most"
        );
        let mut watches = Vec::new();
        for seat in &crowd.seats {
            watches.push(Following::of(&**seat).await);
        }
        for watch in &mut watches {
            while watch.there.len() < nodes {
                let event = super::next(&mut *watch.watch).await;
                watch.note(event);
            }
        }
        until("only those who report hear beats", async || {
            sleep(SECOND).await;
            crowd.listeners() == REPORTERS
        })
        .await;
        let began = Instant::now();
        let last = node("last");
        crowd.seats[nodes - 1].register(&last).await.unwrap();
        let registered = began.elapsed();
        for watch in &mut watches {
            while !watch.there.contains_key("last") {
                let event = super::next(&mut *watch.watch).await;
                watch.note(event);
            }
        }
        println!(
            "{means:?}: {nodes} nodes: one more is registered after {registered:?}, and seen by all after {:?}",
            began.elapsed()
        );
    }
}

/// Which of the nodes leave a view, and after which time.
async fn left(watch: &mut Following, expected: &[&str], since: Instant) -> Duration {
    let all = watch.there.len();
    let by = since + SOON * 2;
    // For how long this process stood still: nobody is heard meanwhile.
    let (mut stood, mut last) = (Duration::ZERO, Instant::now());
    while watch.there.len() > all - expected.len() {
        assert!(
            Instant::now() < by,
            "not all of {expected:?}: {:?}",
            watch.log
        );
        if let Ok(event) = timeout(BEAT / 6, watch.watch.next()).await {
            watch.note(event.expect("it is there"));
        }
        if last.elapsed() > BEAT / 2 {
            stood += last.elapsed();
        }
        last = Instant::now();
    }
    for id in expected {
        assert!(!watch.there.contains_key(*id), "{:?}", watch.log);
    }
    println!("the machine stood still for {stood:?}");
    since.elapsed().saturating_sub(stood)
}

/// What the README promises, and what a busy machine adds to it.
fn in_time(means: Means, took: Duration) {
    println!("{means:?}: given up after {took:?}, with a timeout of {TIMEOUT:?}");
    assert!(took < TIMEOUT * 5 / 4 + SECOND * 2, "{took:?}");
}

async fn who_reports_may_die_and_nobody_else_is_given_up(means: Means) {
    let mut crowd = Crowd::of(7, means, BEAT, TIMEOUT).await;
    let mut watches = Vec::new();
    for seat in &crowd.seats[4..] {
        watches.push(Following::of(&**seat).await);
    }
    for watch in &mut watches {
        watch.for_long(Duration::from_millis(1)).await;
        assert_eq!(watch.there.len(), 7, "{:?}", watch.log);
    }
    crowd.until_only_reporters_listen().await;
    // One of the two who report; then both at once.
    for gone in [&["n000"][..], &["n001", "n002"]] {
        for _ in gone {
            crowd.beating.remove(0);
            let seat = crowd.seats.remove(0);
            seat.backend.transport.close().await.unwrap();
        }
        let since = Instant::now();
        for watch in &mut watches {
            let took = left(watch, gone, since).await;
            in_time(means, took);
        }
        crowd.until_only_reporters_listen().await;
    }
    for watch in &mut watches {
        watch.for_long(TIMEOUT).await;
        let left = watch.log.iter().filter(|event| event.starts_with('-'));
        assert_eq!(left.count(), 3, "{:?}", watch.log);
        assert_eq!(watch.there.len(), 4);
    }
}

async fn who_reports_may_stand_still_and_nobody_else_is_given_up(means: Means) {
    let mut crowd = Crowd::of(0, means, BEAT, TIMEOUT).await;
    let proxy = Proxy::start(crowd.server.address(), 7).await.unwrap();
    let behind = Space {
        url: format!("nats://{}", proxy.address()),
        namespace: crowd.space.namespace.clone(),
    };
    let first = seat_with(&behind, means, "&call_timeout=3s&storage=memory", TIMEOUT).await;
    let _first = beating(&first, &node("a"), BEAT).await;
    for id in ["b", "c", "d", "e"] {
        let (seat, beating) = crowd.join(node(id), BEAT, TIMEOUT).await;
        crowd.seats.push(seat);
        crowd.beating.push(beating);
    }
    let mut watch = Following::of(&*crowd.seats[3]).await;
    watch.until(&["a", "b", "c", "d", "e"]).await;
    crowd.until_only_reporters_listen().await;
    for round in 0..2 {
        proxy.set(Direction::ToClient, Fault::BlackHole);
        proxy.set(Direction::ToServer, Fault::BlackHole);
        let took = left(&mut watch, &["a"], Instant::now()).await;
        in_time(means, took);
        watch.for_long(TIMEOUT).await;
        proxy.heal();
        watch.until(&["a", "b", "c", "d", "e"]).await;
        // What it says of the others is old at first, and takes nobody with it.
        watch.for_long(TIMEOUT * 3 / 2).await;
        let left = watch.log.iter().filter(|event| event.starts_with('-'));
        assert_eq!(left.count(), round + 1, "{:?}", watch.log);
    }
}

async fn who_is_told_sees_all_that_happens_at_once(means: Means) {
    // So long that nobody is silent, and reports are seldom.
    let crowd = Crowd::of(5, means, SECOND, SECOND * 12).await;
    let mut watch = Following::of(&*crowd.seats[3]).await;
    watch.for_long(Duration::from_millis(1)).await;
    assert_eq!(watch.there.len(), 5, "{:?}", watch.log);
    crowd.until_only_reporters_listen().await;
    let here = &crowd.seats[4];
    for round in 0..3 {
        let mut other = node(format!("x{round}"));
        let began = Instant::now();
        here.register(&other).await.unwrap();
        assert_eq!(told(&mut *watch.watch).await, format!("+x{round}"));
        let joined = began.elapsed();
        other.draining = true;
        here.heartbeat(&other).await.unwrap();
        assert_eq!(told(&mut *watch.watch).await, format!("~x{round}"));
        here.unregister(&other).await.unwrap();
        assert_eq!(told(&mut *watch.watch).await, format!("-x{round}"));
        println!("{means:?}: joined after {joined:?}");
        assert!(began.elapsed() < SOON / 4, "{:?}", began.elapsed());
    }
    assert_eq!(crowd.listeners(), REPORTERS, "nobody had to look itself");
    // A load comes with the next report.
    let busy = node("y");
    here.register(&busy).await.unwrap();
    assert_eq!(told(&mut *watch.watch).await, "+y");
    here.heartbeat(&loaded(&busy, 50)).await.unwrap();
    match super::next(&mut *watch.watch).await {
        catga_core::NodeEvent::Updated(node) => {
            assert_eq!((node.id, node.load), (busy.id, Load::percent(50)));
        }
        other => panic!("{other:?}"),
    }
    // Who asks is told of all that was said before.
    here.register(&node("z")).await.unwrap();
    let ids = super::ids(&*crowd.seats[2]).await;
    assert!(ids.contains(&"z".to_owned()), "{ids:?}");
    assert_eq!(told(&mut *watch.watch).await, "+z");
    assert!(crowd.seats.iter().all(|seat| seat.ignored() == 0));
}

async fn false_reports_are_counted_and_nobody_is_affected(means: Means) {
    let crowd = Crowd::of(4, means, BEAT, TIMEOUT).await;
    let mut watch = Following::of(&*crowd.seats[3]).await;
    watch.until(&["n000", "n001", "n002", "n003"]).await;
    crowd.until_only_reporters_listen().await;
    let client = async_nats::connect(&crowd.space.url).await.unwrap();
    let subject = format!("{}.nodes.~.report", crowd.space.namespace);
    let mut reports = client.subscribe(subject.clone()).await.unwrap();
    let report = timeout(SOON, futures_util::StreamExt::next(&mut reports)).await;
    let report: serde_json::Value =
        serde_json::from_slice(&report.unwrap().unwrap().payload).unwrap();
    assert_eq!(report["is"], "digest", "{report}");
    let say = async |what: String| {
        client.publish(subject.clone(), what.into()).await.unwrap();
        client.flush().await.unwrap();
    };
    // No reports, and such of nodes that are not there.
    let stranger = node("n000");
    let mut strange = report.clone();
    strange["by"] = json!(["n000", stranger.incarnation]);
    let mut unknown = report.clone();
    unknown["by"] = json!(["nobody", stranger.incarnation]);
    let rubbish = [
        String::new(),
        "\u{0}".to_owned(),
        r#"{"is":"digest","nodes":[]}"#.to_owned(),
        "[".repeat(90_000),
        "x".repeat(200_000),
        report.to_string() + "}",
        strange.to_string(),
        unknown.to_string(),
    ];
    for what in &rubbish {
        say(what.clone()).await;
    }
    for seat in &crowd.seats {
        until("all are counted", async || {
            sleep(Duration::from_millis(10)).await;
            seat.ignored() >= rubbish.len() as u64
        })
        .await;
        assert_eq!(seat.ignored(), rubbish.len() as u64);
    }
    // In the name of one that reports: that all were silent for long, that nobody is there, that somebody is who is not,
    // and that it is an hour later.
    for round in 0..30_u32 {
        let mut lie = report.clone();
        match round % 4 {
            3 if means == Means::Kv => {
                let time = &mut lie["at"]["time"]["secs_since_epoch"];
                *time = json!(time.as_u64().unwrap() + 3600);
            }
            0 => {
                for node in lie["nodes"].as_array_mut().unwrap() {
                    node[2] = json!(3_600_000);
                }
            }
            1 => lie["nodes"] = json!([]),
            _ => lie["nodes"][3] = json!(["ghost", stranger.incarnation, 0, 0, 1]),
        }
        say(lie.to_string()).await;
        say(r#"{"is":"sings"}"#.to_owned()).await;
        sleep(TIMEOUT / 15).await;
    }
    watch.for_long(TIMEOUT).await;
    let events = ["+n000", "+n001", "+n002", "+n003"];
    assert_eq!(watch.log, events);
    // The id of one that lives is not free, whatever the time is said to be.
    let refused = super::kind(crowd.seats[3].register(&node("n001")).await);
    assert_eq!(refused, catga_core::ErrorKind::DuplicateNode);
}
