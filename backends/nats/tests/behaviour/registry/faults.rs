//! Servers that go and come back, and what stands still.

use std::time::Duration;

use catga_core::ErrorKind;
use catga_testkit::proxy::{Gate, Proxy};
use catga_testkit::server::{NatsServer, Server};
use tokio::time::{Instant, sleep};

use super::{BEAT, Following, Means, TIMEOUT, beating, ids, kind, node, seat_with};
use crate::{SECOND, SOON, Space, until};

/// So that calls to a server that is gone end soon.
const SHORT: &str = "&call_timeout=1s";

/// A node timeout in which everybody finds back: the client waits up to 3 s between two tries to connect.
const AWAY: Duration = Duration::from_secs(4);

both!(
    a_server_that_is_away_for_long_takes_nobody_with_it,
    a_server_that_stands_still_takes_nobody_with_it,
    who_is_cut_off_leaves_and_comes_back_once,
    calls_to_a_server_that_is_gone_end,
);

async fn a_server_that_is_away_for_long_takes_nobody_with_it(means: Means) {
    let mut server = NatsServer::start().unwrap();
    let space = Space::at(&server.url());
    let here = seat_with(&space, means, SHORT, AWAY).await;
    let there = seat_with(&space, means, SHORT, AWAY).await;
    let _a = beating(&here, &node("a"), BEAT).await;
    let _b = beating(&there, &node("b"), BEAT).await;
    let gone = node("gone");
    there.register(&gone).await.unwrap();
    let mut watch = Following::of(&*here).await;
    watch.until(&["a", "b", "gone"]).await;
    server.kill().unwrap();
    watch.for_long(AWAY * 3).await;
    assert_eq!(watch.there.len(), 3, "{:?}", watch.log);
    server.restart().unwrap();
    // Who lives is never gone meanwhile; who died is, and what comes is told.
    watch.until(&["a", "b"]).await;
    let late = node("late");
    until("it can be registered", async || {
        there.register(&late).await.is_ok()
    })
    .await;
    let _late = beating(&there, &late, BEAT).await;
    watch.until(&["a", "b", "late"]).await;
    watch.for_long(AWAY * 3 / 2).await;
    assert_eq!(watch.log, ["+a", "+b", "+gone", "-gone", "+late"]);
    assert_eq!(ids(&*there).await, ["a", "b", "late"]);
}

async fn a_server_that_stands_still_takes_nobody_with_it(means: Means) {
    let mut server = NatsServer::start().unwrap();
    let space = Space::at(&server.url());
    let here = seat_with(&space, means, SHORT, TIMEOUT).await;
    let there = seat_with(&space, means, SHORT, TIMEOUT).await;
    let _a = beating(&here, &node("a"), BEAT).await;
    let _b = beating(&there, &node("b"), BEAT).await;
    let mut watch = Following::of(&*here).await;
    watch.until(&["a", "b"]).await;
    server.pause().unwrap();
    watch.for_long(TIMEOUT * 3).await;
    server.resume().unwrap();
    watch.for_long(TIMEOUT * 2).await;
    assert_eq!(watch.log, ["+a", "+b"]);
    assert_eq!(ids(&*there).await, ["a", "b"]);
}

async fn who_is_cut_off_leaves_and_comes_back_once(means: Means) {
    let server = NatsServer::start().unwrap();
    let proxy = Proxy::start(server.address(), 7).await.unwrap();
    let space = Space::at(&server.url());
    let cut = Space {
        url: format!("nats://{}", proxy.address()),
        namespace: space.namespace.clone(),
    };
    let here = seat_with(&space, means, SHORT, TIMEOUT).await;
    let there = seat_with(&cut, means, SHORT, TIMEOUT).await;
    let _a = beating(&here, &node("a"), BEAT).await;
    let _b = beating(&there, &node("b"), BEAT).await;
    let mut watch = Following::of(&*here).await;
    let mut its_own = Following::of(&*there).await;
    watch.until(&["a", "b"]).await;
    its_own.until(&["a", "b"]).await;
    for _ in 0..2 {
        proxy.gate(Gate::Refuse);
        proxy.reset();
        watch.until(&["a"]).await;
        proxy.gate(Gate::Open);
        watch.until(&["a", "b"]).await;
    }
    // What comes and goes faster than the time-out is nothing.
    for _ in 0..3 {
        proxy.reset();
        watch.for_long(TIMEOUT / 2).await;
    }
    assert_eq!(watch.log, ["+a", "+b", "-b", "+b", "-b", "+b"]);
    its_own.for_long(SECOND).await;
    assert_eq!(its_own.log, ["+a", "+b"]);
}

async fn calls_to_a_server_that_is_gone_end(means: Means) {
    let mut server = NatsServer::start().unwrap();
    let space = Space::at(&server.url());
    let here = seat_with(&space, means, "&call_timeout=300ms", SOON).await;
    let a = node("a");
    here.register(&a).await.unwrap();
    server.kill().unwrap();
    let began = Instant::now();
    let calls = [
        here.heartbeat(&a).await,
        here.register(&node("b")).await,
        here.unregister(&node("b")).await,
        here.nodes().await.map(drop),
        here.watch().await.map(drop),
    ];
    for call in calls {
        let kind = kind(call);
        assert!(
            [ErrorKind::Unavailable, ErrorKind::Timeout].contains(&kind),
            "{kind:?}"
        );
    }
    assert!(began.elapsed() < SECOND * 6, "{:?}", began.elapsed());
    server.restart().unwrap();
    until("it beats again", async || {
        sleep(Duration::from_millis(50)).await;
        here.heartbeat(&a).await.is_ok()
    })
    .await;
    until("it is listed", async || {
        here.nodes().await.is_ok_and(|nodes| nodes.len() == 1)
    })
    .await;
}
