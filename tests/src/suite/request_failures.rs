//! A request that cannot be answered ends with an error that says why, and is in nobody's way.

use std::future::pending;
use std::time::Duration;

use catga::prelude::{FailWith, Result, handlers};
use catga::{Capability, Envelope, ErrorKind, HandlerError, Json, MessageId, Name, Retry};
use catga_core::{Serve, Target};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::requests::{asking, serving};
use crate::harness::{Bus, PLANNED, SOON, poll_then_drop, scenarios, wait_for_nodes, wait_until};
use crate::journal::{Journal, Step};
use crate::messages::{Ask, on_ask, on_work};
use crate::subject::Time;

scenarios! { Backend "request_failures":
    Paused no_handler [82],
    Paused remote_error,
    Paused handler_error_here,
    Paused retried_until_it_succeeds,
    Paused handler_panic,
    Paused hung_handler,
    Paused expired_is_not_begun [88],
    Paused fails_over,
    Paused server_goes_away [82],
    Paused caller_goes_away [85],
}

/// Row 82: a request that nobody answers fails at once, and the error names the handlers that are there.
async fn no_handler(bus: Bus) -> Result<()> {
    let node = bus.node("a").state(Journal::default().plain());
    let node = node.handlers(handlers![on_work]).start().await?;
    let began = Instant::now();
    let error = node.send(Ask { id: 0 }).await.expect_err("nobody answers");
    if error.kind() == ErrorKind::Unsupported {
        return Err(error.into());
    }
    let everybody = node.broadcast(Ask { id: 0 }).await;
    let everybody = everybody.expect_err("nobody answers").kind();
    if bus.has(Capability::Nodes) {
        assert_eq!(error.kind(), ErrorKind::NoHandler);
        assert!(
            error.message().contains("`Ask`") && error.message().contains("Work (on_work)"),
            "{error}"
        );
        assert_eq!(everybody, ErrorKind::NoHandler);
    } else {
        // What others would answer the broker alone knows.
        assert_eq!(error.kind(), ErrorKind::NoResponders);
        assert_eq!(everybody, ErrorKind::Unsupported);
    }
    assert!(!error.may_be_stored(), "{error:?}");
    let limit = bus.bound(Duration::from_millis(100));
    assert!(began.elapsed() < limit, "it waited");
    Ok(())
}

/// An error of a handler on another node keeps its kind, its text and its hint.
async fn remote_error(bus: Bus) -> Result<()> {
    let journal = Journal::default();
    let play = journal.play(|scene| async move {
        if scene.id == 0 {
            Err("no such product").terminal()?;
        }
        Err(HandlerError::retry("the warehouse is closed"))
    });
    let _a = serving(&bus, "a", play).await?;
    let caller = asking(&bus, 2).await?;
    let error = caller.send(Ask { id: 0 }).await.expect_err("it failed");
    assert_eq!(
        (error.kind(), error.retry()),
        (ErrorKind::Handler, Retry::Never)
    );
    assert!(error.message().contains("no such product"), "{error:?}");
    assert_eq!(
        journal.starts(0).len(),
        1,
        "a terminal error is not retried"
    );

    let error = caller.send(Ask { id: 1 }).await.expect_err("it failed");
    assert_eq!(error.kind(), ErrorKind::Handler);
    assert_ne!(error.retry(), Retry::Never);
    assert!(error.message().contains("warehouse"), "{error:?}");
    let tries = journal.starts(1).len();
    assert_eq!(tries, 4, "the first try and three more");
    Ok(())
}

/// An error of the node's own handler goes to the caller as it is: nothing is tried again.
async fn handler_error_here(bus: Bus) -> Result<()> {
    let journal = Journal::default();
    let play = journal.play(|scene| async move {
        if scene.id == 1 {
            tokio::task::yield_now().await;
        }
        Err(std::io::Error::other("disk").into())
    });
    let a = serving(&bus, "a", play).await?;
    for id in 0..2 {
        let error = a.send(Ask { id }).await.expect_err("it failed");
        assert_eq!(error.kind(), ErrorKind::Handler);
        assert!(format!("{error:?}").contains("disk"), "{error:?}");
        assert_eq!(journal.starts(id).len(), 1);
    }
    let stats = a.handlers()[0].stats;
    assert_eq!((stats.failed, stats.in_flight), (2, 0));
    Ok(())
}

/// A handler on another node that errs twice and then succeeds answers within one call.
async fn retried_until_it_succeeds(bus: Bus) -> Result<()> {
    let journal = Journal::default();
    let play = journal.play(|scene| async move {
        if scene.attempt < 3 {
            return Err(HandlerError::retry("not yet"));
        }
        Ok(())
    });
    let _a = serving(&bus, "a", play).await?;
    let caller = asking(&bus, 2).await?;
    assert_eq!(caller.send(Ask { id: 0 }).await?.id, 0);
    let starts = journal.starts(0);
    assert_eq!(starts.len(), 3);
    let least = Duration::from_millis(200);
    assert!(
        starts
            .windows(2)
            .all(|pair| pair[1].at - pair[0].at >= least),
        "a hot loop"
    );
    Ok(())
}

/// A panic, here or there, is an error of its caller, and of nobody else.
async fn handler_panic(bus: Bus) -> Result<()> {
    let journal = Journal::default();
    let play = journal.play(|scene| async move {
        if scene.id == 3 {
            tokio::task::yield_now().await;
        }
        assert!(![3, 5].contains(&scene.id), "{PLANNED}: no stock");
        Ok(())
    });
    let a = serving(&bus, "a", play).await?;
    let caller = asking(&bus, 2).await?;
    for (node, kept) in [(&a, "here"), (&caller, "there")] {
        for id in 0..10 {
            match node.send(Ask { id }).await {
                Ok(answer) => assert_eq!(answer.id, id, "{kept}"),
                Err(error) => {
                    assert!([3, 5].contains(&id), "{kept}: {error:?}");
                    assert_eq!(error.kind(), ErrorKind::Panic, "{kept}");
                    assert!(error.message().contains("no stock"), "{kept}: {error}");
                }
            }
        }
    }
    assert_eq!(journal.count(Step::Done), 16);
    assert_eq!(a.handlers()[0].stats.in_flight, 0);
    Ok(())
}

/// A handler that never returns, here or there, costs its caller the deadline and nobody else anything.
async fn hung_handler(bus: Bus) -> Result<()> {
    let journal = Journal::default();
    let play = journal.play(|scene| async move {
        if scene.id == 0 {
            pending::<()>().await;
        }
        Ok(())
    });
    let limit = bus.by_clock(Duration::from_secs(5), Duration::from_secs(1));
    let a = bus.node("a").state(play).request_deadline(limit);
    let a = a.handler_timeout(6 * limit).handlers(handlers![on_ask]);
    let a = a.start().await?;
    let caller = bus.node("caller").request_deadline(limit);
    let caller = caller.handlers(handlers![]).start().await?;
    wait_for_nodes(&caller, 2).await;
    for node in [&a, &caller] {
        let began = Instant::now();
        let (hung, quick) = tokio::join!(node.send(Ask { id: 0 }), async {
            let answer = node.send(Ask { id: 1 }).await;
            (answer, began.elapsed())
        });
        let error = hung.expect_err("it never returns");
        assert_eq!(error.kind(), ErrorKind::Timeout);
        assert!(error.may_be_stored(), "it may have run: {error:?}");
        let took = began.elapsed();
        let latest = bus.bound(limit + Duration::from_millis(250));
        assert!((limit..=latest).contains(&took), "{took:?}");
        assert_eq!(quick.0?.id, 1);
        assert!(quick.1 < limit, "{:?}", quick.1);
        assert!(quick.1 < bus.bound(Duration::from_millis(100)));
    }
    wait_until("their places are freed", Duration::from_secs(60), || {
        a.handlers()[0].stats.in_flight == 0
    })
    .await;
    Ok(())
}

/// Row 88: a request whose caller's time is over before a place comes free is never begun, wherever it waits.
async fn expired_is_not_begun(bus: Bus) -> Result<()> {
    let journal = Journal::default();
    let limit = bus.by_clock(Duration::from_secs(5), Duration::from_millis(500));
    let play = journal.play(move |scene| async move {
        if scene.id % 10 == 0 {
            tokio::time::sleep(4 * limit).await;
        }
        Ok(())
    });
    let a = bus.node("a").state(play).concurrency(1);
    let a = a.request_deadline(limit);
    let a = a.handlers(handlers![on_ask]).start().await?;
    let caller = bus.node("caller").request_deadline(limit);
    let caller = caller.handlers(handlers![]).start().await?;
    wait_for_nodes(&caller, 2).await;
    // The one place is taken by a request from elsewhere, then by a direct call.
    for (id, holder) in [(10, &caller), (20, &a)] {
        let holder = holder.clone();
        let held = tokio::spawn(async move { holder.send(Ask { id }).await });
        wait_until("the place is taken", SOON, || {
            !journal.starts(id).is_empty()
        })
        .await;
        let (here, there) =
            tokio::join!(a.send(Ask { id: id + 1 }), caller.send(Ask { id: id + 2 }));
        for outcome in [here, there] {
            let error = outcome.expect_err("there was no place");
            assert_eq!(error.kind(), ErrorKind::Timeout, "{error:?}");
        }
        assert!(held.await?.is_err(), "it took longer than its deadline");
        wait_until("the place is free", 5 * limit, || journal.running() == 0).await;
        bus.quiet(Duration::from_secs(100)).await;
        assert_eq!(caller.send(Ask { id: id + 3 }).await?.id, id + 3);
        assert_eq!(journal.starts(id + 1), []);
        assert_eq!(journal.starts(id + 2), []);
    }
    Ok(())
}

/// A request that fails at one node is tried at another, not again where it failed; where no node knows another, the broker
/// chooses at each try.
async fn fails_over(bus: Bus) -> Result<()> {
    let journal = Journal::default();
    let play = journal.play(|scene| async move {
        if scene.context.node().as_str() == "a" {
            return Err(HandlerError::retry("out of order"));
        }
        Ok(())
    });
    let mut nodes = Vec::new();
    for id in ["a", "b", "c"] {
        nodes.push(serving(&bus, id, play.clone()).await?);
    }
    let caller = bus.node("caller").request_deadline(SOON);
    let knows = bus.has(Capability::Nodes);
    // Ten times the one that errs of three: once in 60,000.
    let caller = caller.request_retries(if knows { 3 } else { 20 });
    let caller = caller.backoff(Duration::from_millis(1), Duration::from_millis(50));
    let caller = caller.handlers(handlers![]).start().await?;
    wait_for_nodes(&caller, 4).await;
    let mut calls = JoinSet::new();
    for id in 0..300 {
        let caller = caller.clone();
        calls.spawn(async move { caller.send(Ask { id }).await });
    }
    for answer in calls.join_all().await {
        assert_ne!(answer?.node, "a");
    }
    for id in 0..300 {
        let tries = journal.starts(id).len();
        assert!(!knows || tries <= 2, "again where it failed");
    }
    assert!(journal.count(Step::Failed) > 0, "none failed");
    Ok(())
}

/// Row 82: when the last server goes, what waits for it and what comes later fails at once: nobody is there.
async fn server_goes_away(bus: Bus) -> Result<()> {
    let node = bus.observer().await?;
    let transport = &node.backend().transport;
    let (service, id) = (Name::new("suite")?, Name::new("ghost")?);
    let serve = Serve::new(Name::new("Ask")?, service.clone(), id.clone());
    let (of_service, of_node) = (Target::Service(service), Target::Node(id));
    for (to, closes) in [
        (&of_service, true),
        (&of_service, false),
        (&of_node, true),
        (&of_node, false),
    ] {
        let mut server = transport.serve(&serve).await?;
        let ask = Envelope::new(Ask { id: 0 });
        let mut ask = ask.with_id(MessageId::new());
        ask.encode(&Json)?;
        let began = Instant::now();
        let (waiting, closed) = tokio::join!(transport.request(to, &ask, 1, Some(SOON)), async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            let closed = if closes { server.close().await } else { Ok(()) };
            drop(server);
            closed
        });
        closed?;
        if !closes && bus.subject().time() == Time::Wall {
            // A broker elsewhere hears of it a moment later.
            let short = Some(Duration::from_millis(100));
            while let Err(error) = transport.request(to, &ask, 1, short).await
                && error.kind() == ErrorKind::Timeout
                && began.elapsed() < SOON
            {}
        }
        let late = transport.request(to, &ask, 1, Some(SOON)).await;
        let limit = bus.bound(Duration::from_secs(2));
        assert!(began.elapsed() < limit, "only the deadline ended it");
        let late = late.expect_err("nobody is there");
        assert_eq!(late.kind(), ErrorKind::NoResponders, "{late:?}");
        // Who had it may say that it did not begin, and that somebody else is to be asked.
        let turned_away = match waiting {
            Err(error) => error,
            Ok(reply) => reply.result.expect_err("it left").into_error("request"),
        };
        let kinds = [ErrorKind::NoResponders, ErrorKind::Unavailable];
        assert!(kinds.contains(&turned_away.kind()), "{turned_away:?}");
        for error in [late, turned_away] {
            assert_ne!(error.retry(), Retry::Never, "{error:?}");
            assert!(!error.may_be_stored(), "it never ran: {error:?}");
        }
    }
    Ok(())
}

/// Row 85: a caller that goes away does not stop a handler half-way, here or there.
async fn caller_goes_away(bus: Bus) -> Result<()> {
    let journal = Journal::default();
    let play = journal.play(|_| async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        Ok(())
    });
    let a = serving(&bus, "a", play).await?;
    let caller = asking(&bus, 2).await?;
    assert!(poll_then_drop(1, a.send(Ask { id: 0 })).await.is_none());
    let there = tokio::time::timeout(Duration::from_millis(500), caller.send(Ask { id: 1 }));
    assert!(there.await.is_err());
    journal.wait(Step::Done, 2, SOON).await;
    assert_eq!(journal.handled(), [0, 1]);
    assert_eq!(caller.send(Ask { id: 2 }).await?.id, 2);
    Ok(())
}
