//! What holds for both means alike.

#![allow(
    clippy::print_stdout,
    reason = "how long it took is worth knowing, and no test's to judge"
)]

use std::time::{Duration, SystemTime};

use catga_core::{ErrorKind, NodeEvent};
use futures_util::future::join_all;
use tokio::time::{Instant, sleep};

use super::{
    BEAT, Following, Means, TIMEOUT, beating, ids, kind, loaded, next, node, nothing, seat,
    seat_with, told,
};
use crate::{SECOND, SOON, Space, until};

both!(
    a_watch_begins_with_everybody_and_tells_each_change_once,
    who_registered_is_listed_everywhere_at_once,
    a_silent_node_leaves_and_may_come_back,
    no_clock_of_a_node_decides,
    many_nodes_are_seen_soon,
    a_slow_watcher_is_told_and_begins_anew,
    a_closed_backend_ends_its_registry,
    what_says_too_much_is_refused,
);

async fn a_watch_begins_with_everybody_and_tells_each_change_once(means: Means) {
    let space = Space::new();
    let (here, there) = (seat(&space, means).await, seat(&space, means).await);
    let a = node("a");
    here.register(&a).await.unwrap();
    let mut watch = there.watch().await.unwrap();
    assert_eq!(told(&mut *watch).await, "+a");
    let b = node("b").with_endpoint(Some("http://b".to_owned()));
    here.register(&b).await.unwrap();
    match next(&mut *watch).await {
        NodeEvent::Joined(joined) => {
            assert_eq!(
                (&joined.id, joined.incarnation, &joined.endpoint),
                (&b.id, b.incarnation, &b.endpoint)
            );
        }
        other => panic!("{other:?}"),
    }
    // Beats are written each time; told is what moved by ten points, or is no load.
    for percent in [0, 5, 9, 10, 11, 19, 1, 0] {
        here.heartbeat(&loaded(&b, percent)).await.unwrap();
    }
    for percent in [10, 0] {
        match next(&mut *watch).await {
            NodeEvent::Updated(node) => assert_eq!(node.load.as_percent(), percent),
            other => panic!("{other:?}"),
        }
    }
    let mut draining = b.clone();
    draining.draining = true;
    here.heartbeat(&draining).await.unwrap();
    assert_eq!(told(&mut *watch).await, "~b");
    here.unregister(&b).await.unwrap();
    here.unregister(&b).await.unwrap();
    assert_eq!(told(&mut *watch).await, "-b");
    assert_eq!(kind(here.heartbeat(&b).await), ErrorKind::NotFound);
    here.register(&b).await.unwrap();
    assert_eq!(told(&mut *watch).await, "+b");
    nothing(&mut *watch, SECOND / 2).await;
}

async fn who_registered_is_listed_everywhere_at_once(means: Means) {
    let space = Space::new();
    let (here, there) = (seat(&space, means).await, seat(&space, means).await);
    for round in 0..10 {
        let a = node(format!("n{round}"));
        here.register(&a).await.unwrap();
        assert_eq!(ids(&*there).await, [a.id.to_string()]);
        here.unregister(&a).await.unwrap();
        assert!(ids(&*there).await.is_empty());
    }
    // Another namespace is another registry.
    here.register(&node("a")).await.unwrap();
    let elsewhere = seat(&Space::new(), means).await;
    assert!(ids(&*elsewhere).await.is_empty());
}

async fn a_silent_node_leaves_and_may_come_back(means: Means) {
    let space = Space::new();
    let here = seat_with(&space, means, "", TIMEOUT).await;
    let there = seat_with(&space, means, "", TIMEOUT).await;
    let _lives = beating(&here, &node("lives"), BEAT).await;
    let silent = node("silent");
    here.register(&silent).await.unwrap();
    let began = Instant::now();
    let mut watch = Following::of(&*there).await;
    watch.until(&["lives", "silent"]).await;
    watch.until(&["lives"]).await;
    let took = began.elapsed();
    assert!(
        took + BEAT >= TIMEOUT && took < TIMEOUT + SECOND * 2,
        "{took:?}"
    );
    println!("{means:?}: given up after {took:?}, with a timeout of {TIMEOUT:?}");
    until("it is not listed", async || ids(&*here).await == ["lives"]).await;
    assert_eq!(kind(here.heartbeat(&silent).await), ErrorKind::NotFound);
    here.unregister(&silent).await.unwrap();
    here.register(&silent).await.unwrap();
    watch.until(&["lives", "silent"]).await;
    assert_eq!(watch.log, ["+lives", "+silent", "-silent", "+silent"]);
}

async fn no_clock_of_a_node_decides(means: Means) {
    let space = Space::new();
    let here = seat_with(&space, means, "", TIMEOUT).await;
    let there = seat_with(&space, means, "", TIMEOUT).await;
    let hour = Duration::from_secs(3600);
    let (mut late, mut early) = (node("late"), node("early"));
    (late.started_at, late.last_seen) = (late.started_at - hour, late.last_seen - hour);
    (early.started_at, early.last_seen) = (early.started_at + hour, early.last_seen + hour);
    let _late = beating(&here, &late, BEAT).await;
    let mut watch = Following::of(&*there).await;
    let mut beats = Some(beating(&here, &early, BEAT).await);
    watch.for_long(TIMEOUT * 2).await;
    assert_eq!(watch.log, ["+late", "+early"]);
    for node in there.nodes().await.unwrap() {
        for time in [node.last_seen, node.started_at] {
            let now = SystemTime::now();
            let off = now
                .duration_since(time)
                .or_else(|_| time.duration_since(now));
            assert!(off.unwrap() < SOON, "{node:?}");
        }
    }
    beats.take();
    watch.until(&["late"]).await;
}

async fn many_nodes_are_seen_soon(means: Means) {
    const SEATS: usize = 10;
    const EACH: usize = 30;
    let space = Space::new();
    let observer = seat(&space, means).await;
    let mut watch = Following::of(&*observer).await;
    let seats = join_all((0..SEATS).map(|_| seat(&space, means))).await;
    let began = Instant::now();
    let join = |(s, seat): (usize, &super::Seat)| {
        let registry = std::sync::Arc::clone(&seat.registry);
        let nodes = (0..EACH).map(move |n| {
            let registry = std::sync::Arc::clone(&registry);
            async move { registry.register(&node(format!("n{s}-{n}"))).await.unwrap() }
        });
        join_all(nodes)
    };
    join_all(seats.iter().enumerate().map(join)).await;
    let registered = began.elapsed();
    while watch.there.len() < SEATS * EACH {
        let event = next(&mut *watch.watch).await;
        watch.note(event);
    }
    let seen = began.elapsed();
    let began = Instant::now();
    let late = seat(&space, means).await;
    until("all are listed", async || {
        ids(&*late).await.len() == SEATS * EACH
    })
    .await;
    println!(
        "{means:?}: 300 registered in {registered:?}, seen by a watcher after {seen:?}, by one that came late in {:?}",
        began.elapsed()
    );
    assert!(!watch.log.iter().any(|event| event.starts_with('-')));
    // One more is seen by all of them.
    let mut watches = Vec::new();
    for seat in &seats {
        watches.push(Following::of(&**seat).await);
    }
    for watch in &mut watches {
        watch.for_long(Duration::from_millis(1)).await;
    }
    let began = Instant::now();
    late.register(&node("last")).await.unwrap();
    for watch in &mut watches {
        while !watch.there.contains_key("last") {
            let event = next(&mut *watch.watch).await;
            watch.note(event);
        }
    }
    println!(
        "{means:?}: one more was seen by 10 in {:?}",
        began.elapsed()
    );
}

async fn a_slow_watcher_is_told_and_begins_anew(means: Means) {
    let space = Space::new();
    let (here, there) = (seat(&space, means).await, seat(&space, means).await);
    let (a, b) = (node("a"), node("b"));
    here.register(&a).await.unwrap();
    here.register(&b).await.unwrap();
    let mut watch = Following::of(&*there).await;
    watch.until(&["a", "b"]).await;
    for round in 0..400u32 {
        let percent = if round % 2 == 0 { 50 } else { 0 };
        here.heartbeat(&loaded(&a, percent)).await.unwrap();
    }
    here.unregister(&b).await.unwrap();
    watch.until(&["a"]).await;
    assert!(watch.log.iter().any(|event| event == "lagged"));
    assert!(watch.log.len() < 400, "{}", watch.log.len());
    assert_eq!(ids(&*there).await, ["a"]);
}

async fn a_closed_backend_ends_its_registry(means: Means) {
    let space = Space::new();
    let here = seat(&space, means).await;
    let mut watch = here.watch().await.unwrap();
    let waiting = tokio::spawn(async move { watch.next().await });
    sleep(Duration::from_millis(20)).await;
    here.backend.transport.close().await.unwrap();
    assert!(waiting.await.unwrap().is_none());
    let began = Instant::now();
    let calls = [
        here.register(&node("a")).await,
        here.heartbeat(&node("a")).await,
        here.unregister(&node("a")).await,
        here.nodes().await.map(drop),
        here.watch().await.map(drop),
    ];
    for call in calls {
        assert_eq!(kind(call), ErrorKind::Closed);
    }
    assert!(began.elapsed() < SECOND);
}

async fn what_says_too_much_is_refused(means: Means) {
    let space = Space::new();
    let here = seat(&space, means).await;
    let mut large = node("a");
    large
        .metadata
        .insert("text".to_owned(), "x".repeat(17 * 1024));
    assert_eq!(
        kind(here.register(&large).await),
        ErrorKind::PayloadTooLarge
    );
    let small = node("a");
    here.register(&small).await.unwrap();
    large.incarnation = small.incarnation;
    assert_eq!(
        kind(here.heartbeat(&large).await),
        ErrorKind::PayloadTooLarge
    );
    here.heartbeat(&small).await.unwrap();
    assert_eq!(here.ignored(), 0);
}
