//! Many requests, late ones and abandoned ones: rows 81, 85 and 88.

use std::time::Duration;

use catga::prelude::{Catga, FailWith, Result, handlers};
use catga::{ErrorKind, HandlerError};
use tokio::runtime::Handle;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::harness::{Bus, SOON, poll_then_drop, scenarios, wait_until};
use crate::journal::{Journal, Step};
use crate::messages::{Ask, on_ask};
use crate::parts::{Line, Order, Print, Relay, on_order, on_relay, printed};

use crate::subject::Time;

use super::idempotency::{MINUTE, ask, letter, node, placed, seen, taking};

scenarios! { Backend "deadlines":
    Paused one_deadline_over_all_tries,
    Paused the_time_left_is_passed_on [88],
    Real mixed_sizes [81],
    Paused a_late_reply_is_dropped [85],
    Paused an_error_at_the_deadline_is_a_timeout,
    Paused abandoned_requests_leave_nothing [85],
}

/// The deadline is one over all tries and nodes, whatever delay a handler asks for.
async fn one_deadline_over_all_tries(bus: Bus) -> Result<()> {
    let journal = Journal::default();
    let delay = Duration::from_secs(2);
    let play = journal.play(move |_| async move { Err(HandlerError::retry_after("busy", delay)) });
    let _a = taking(&bus, "a", play.clone()).await?;
    let _b = taking(&bus, "b", play).await?;
    let caller = bus.node("caller").handlers(handlers![]);
    let limit = Duration::from_secs(5);
    let caller = caller.request_retries(100).request_deadline(limit);
    let caller = caller.start().await?;
    seen(&caller, 3).await;
    let began = Instant::now();
    let error = caller
        .send(Order { id: 0 })
        .await
        .expect_err("all are busy");
    assert!(began.elapsed() <= bus.bound(limit + Duration::from_millis(250)));
    assert!(error.may_be_stored(), "{error:?}");
    bus.quiet(MINUTE).await;
    let tries = journal.starts(0).len();
    assert!((2..=3).contains(&tries), "{tries} tries");
    Ok(())
}

/// Row 88: of 300 ms, what the first hop used is gone for the second; what comes too late is not begun.
async fn the_time_left_is_passed_on(bus: Bus) -> Result<()> {
    let journal = Journal::default();
    let hop = bus.by_clock(Duration::from_millis(100), Duration::from_millis(500));
    let limit = 3 * hop;
    let play = journal.play(move |scene| async move {
        let left = scene.context.time_left().expect("its caller waits so long");
        assert!(left <= 2 * hop, "{left:?} left");
        if scene.id == 1 {
            tokio::time::sleep(2 * limit).await;
        }
        Ok(())
    });
    // Their own deadlines are 10 s: that of the caller counts.
    let relay = bus
        .node("relay")
        .handlers(handlers![on_relay])
        .start()
        .await?;
    let a = bus.node("a").state(play).concurrency(1);
    let _a = a.handlers(handlers![on_order]).start().await?;
    let caller = bus.node("caller").request_deadline(limit);
    let caller = caller.handlers(handlers![]).start().await?;
    seen(&caller, 3).await;
    seen(&relay, 3).await;
    let relayed = |id, hops: u32| {
        let to = "a".to_owned();
        let ms = (hops * hop).as_millis().try_into().expect("it is short");
        caller.send(Relay { id, to, ms })
    };
    assert_eq!(relayed(0, 1).await?.id, 0);
    let began = Instant::now();
    let error = relayed(1, 1).await.expect_err("it takes too long");
    assert_eq!(error.kind(), ErrorKind::Timeout);
    assert!(began.elapsed() <= bus.bound(limit + Duration::from_millis(250)));
    // The one place is taken, and the time is over before it is free.
    let error = relayed(2, 1).await.expect_err("there is no place");
    assert_eq!(error.kind(), ErrorKind::Timeout);
    // The first hop used up all there was.
    let error = relayed(3, 4).await.expect_err("it is too late");
    assert_eq!(error.kind(), ErrorKind::Timeout);
    bus.quiet(MINUTE).await;
    assert_eq!((journal.starts(2), journal.starts(3)), (vec![], vec![]));
    assert_eq!(relayed(4, 1).await?.id, 4);
    Ok(())
}

/// Row 81: of 1,000 requests at the same time, of all sizes and some failing, each gets its own reply.
async fn mixed_sizes(bus: Bus) -> Result<()> {
    let journal = Journal::default();
    let play = journal.play(|scene| async move {
        if scene.id % 3 == 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        if scene.id % 10 == 0 {
            Err(format!("refused {}", scene.id)).terminal()?;
        }
        Ok(())
    });
    let _a = taking(&bus, "a", play.clone()).await?;
    let b = taking(&bus, "b", play).await?;
    let caller = bus.observer().await?;
    seen(&caller, 3).await;
    seen(&b, 3).await;
    let mut chance = bus.chance();
    let mut calls = JoinSet::new();
    for id in 0..1000 {
        // Half of them may be answered where they are asked.
        let caller = if id % 2 == 0 { &caller } else { &b }.clone();
        let most = 1 << chance.u32(1..16);
        let bytes = chance.usize(..most);
        calls.spawn(async move { (id, bytes, caller.send(Print { id, bytes }).await) });
    }
    for (id, bytes, answer) in calls.join_all().await {
        match answer {
            Ok(answer) => assert!(answer == printed(id, bytes), "not the reply of {id}"),
            Err(error) => {
                assert_eq!(id % 10, 0, "{error:?}");
                let text = error.message();
                assert!(text.ends_with(&format!("refused {id}")), "{text}");
            }
        }
        assert_eq!(journal.starts(id).len(), 1, "request {id}");
    }
    Ok(())
}

/// Row 85: a reply that comes after its caller's deadline is dropped, and disturbs nobody.
async fn a_late_reply_is_dropped(bus: Bus) -> Result<()> {
    let journal = Journal::default();
    let play = journal.play(|scene| async move {
        if scene.id == 0 {
            tokio::time::sleep(Duration::from_secs(6)).await;
        }
        Ok(())
    });
    let a = taking(&bus, "a", play).await?;
    let caller = bus.observer().await?;
    let letter = letter(Order { id: 0 })?;
    let transport = &caller.backend().transport;
    let limit = Duration::from_secs(5);
    let late = transport.request(&node("a"), &letter, 1, Some(limit)).await;
    let error = late.expect_err("it takes longer");
    assert_eq!(
        (error.kind(), error.may_be_stored()),
        (ErrorKind::Timeout, true)
    );
    for id in 1..10 {
        assert_eq!(caller.send(Order { id }).await?.id, id);
    }
    journal.wait(Step::Done, 10, SOON).await;
    // What it answered is there for who asks again.
    assert_eq!(placed(&ask(&caller, "a", &letter, 2).await?).id, 0);
    assert_eq!(journal.starts(0).len(), 1);
    assert!(a.handlers().iter().all(|h| h.stats.in_flight == 0));
    Ok(())
}

/// A handler that fails at its caller's deadline may be heard before the caller gives up, or not: he is told the same.
async fn an_error_at_the_deadline_is_a_timeout(bus: Bus) -> Result<()> {
    let journal = Journal::default();
    let play = journal.play(|scene| async move {
        if scene.id == 1 {
            Err("it gave up").terminal()?;
        }
        Err(HandlerError::retry("it gave up"))
    });
    let a = bus.node("a").state(play).handlers(handlers![on_ask]);
    let _a = a.start().await?;
    let owner = bus.observer().await?;
    let caller = Catga::builder()
        .driver(Line::late(owner.backend()))
        .connect(Line::URL)
        .service("suite")
        .node("caller")
        .request_deadline(bus.by_clock(Duration::from_secs(5), Duration::from_millis(500)))
        .handlers(handlers![])
        .start()
        .await?;
    seen(&caller, 3).await;
    for id in 1..=2 {
        let error = caller.send(Ask { id }).await.expect_err("it is too late");
        assert_eq!(error.kind(), ErrorKind::Timeout, "{error:?}");
        assert!(error.may_be_stored(), "it ran: {error:?}");
        assert_eq!(journal.starts(id).len(), 1);
    }
    // What it answers in time is told as it is.
    let error = owner.send(Ask { id: 1 }).await.expect_err("it fails");
    assert_eq!(error.kind(), ErrorKind::Handler, "{error:?}");
    Ok(())
}

/// Row 85: 20,000 requests whose callers went away leave nothing behind.
async fn abandoned_requests_leave_nothing(bus: Bus) -> Result<()> {
    let journal = Journal::default();
    let play = journal.play(|scene| async move {
        if scene.id % 2 == 0 {
            tokio::task::yield_now().await;
        }
        Ok(())
    });
    let a = bus.node("a").state(play).request_deadline(SOON);
    let a = a.handlers(handlers![on_order, on_ask]).start().await?;
    let caller = bus.observer().await?;
    seen(&caller, 2).await;
    caller.send(Order { id: 0 }).await?;
    let tasks = || Handle::current().metrics().num_alive_tasks();
    let before = tasks();
    // Each claim of a request that is run once has a way to go, where the inbox is a broker's.
    let claims = |id: u32| bus.subject().time() == Time::Timers || id.is_multiple_of(20);
    for id in 1..=20_000 {
        let polls = usize::try_from(id / 20 % 5)?;
        if claims(id) {
            let _ = poll_then_drop(polls, caller.send(Order { id })).await;
        } else {
            let _ = poll_then_drop(polls, caller.send(Ask { id })).await;
        }
        if id % 100 == 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
    wait_until("nothing is left of them", SOON, || {
        tasks() == before && a.handlers().iter().all(|h| h.stats.in_flight == 0)
    })
    .await;
    assert_eq!(caller.send(Order { id: 20_001 }).await?.id, 20_001);
    assert_eq!(journal.count(Step::Done), journal.count(Step::Started));
    let mut handled = journal.handled();
    let count = handled.len();
    handled.dedup();
    assert_eq!(handled.len(), count, "one ran twice");
    assert!(count > 1, "all were dropped before they began");
    Ok(())
}
