//! What becomes of messages when a server has no memory left, or gives theirs away: rows 15 and 31.

use std::time::Duration;

use catga::prelude::{Result, handlers};
use catga::{ErrorKind, Name, QoS};
use catga_core::{Consumers, Settlement, Subscribe};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};

use super::server_publishing::fill_with;
use crate::harness::{Bus, SOON, scenarios};
use crate::journal::{Journal, Step};
use crate::messages::{Work, on_work};
use crate::reliable::on_payment;
use crate::site::{OwnServer, SiteOptions};

scenarios! { Backend "server_room":
    Real memory_is_full [15],
    Real memory_is_full_exactly_once [15],
    Real trimmed_while_pending [31],
}

const SECOND: Duration = Duration::from_secs(1);
const WORK: Name = Name::from_static("Work");
const WORKERS: Name = Name::from_static("workers");

fn small(bus: &Bus) -> Result<OwnServer> {
    bus.own_server_with(&SiteOptions {
        room: Some(100_000),
        ..SiteOptions::default()
    })
}

/// Row 15: a server whose memory is full rejects, in words; its consumers go on, and when they have handled what is there, there is
/// room again.
async fn memory_is_full(bus: Bus) -> Result<()> {
    let server = small(&bus)?;
    let journal = Journal::default();
    let (open, gate) = watch::channel(false);
    let play = journal.play(move |_| {
        let mut gate = gate.clone();
        async move {
            gate.wait_for(|open| *open).await?;
            Ok(())
        }
    });
    let there = server.bus().node("there").state(play);
    let there = there.handlers(handlers![on_work]).start().await?;
    let node = server.bus().observer().await?;
    let (stored, error) = fill_with(&node, false, "first").await?;
    assert_eq!(error.kind(), ErrorKind::LimitReached, "{error:?}");
    assert!(!error.may_be_stored(), "{error:?}");
    open.send_replace(true);
    journal.wait(Step::Done, stored.len(), 2 * SOON).await;
    let by = Instant::now() + 2 * SOON;
    let last = u32::try_from(stored.len())?;
    while let Err(error) = node.publish(Work { id: last }).await {
        assert!(
            Instant::now() < by,
            "there is room, and nothing goes in: {error:?}"
        );
        sleep(SECOND / 10).await;
    }
    journal.wait(Step::Done, stored.len() + 1, SOON).await;
    assert_eq!(journal.handled(), (0..=last).collect::<Vec<_>>());
    there.shutdown().await?;
    Ok(())
}

/// Row 15 at QoS 2, where a message is not handled before it is noted that it is: it waits for room, and is handled once.
async fn memory_is_full_exactly_once(bus: Bus) -> Result<()> {
    let mut server = small(&bus)?;
    let journal = Journal::default();
    let there = server.bus().node("there").state(journal.plain());
    let there = there.ack_wait(2 * SECOND).handlers(handlers![on_payment]);
    let there = there.start().await?;
    let node = server.bus().observer().await?;
    let (stored, error) = fill_with(&node, true, "first").await?;
    assert_eq!(error.kind(), ErrorKind::LimitReached, "{error:?}");
    assert!(!error.may_be_stored(), "{error:?}");
    server.make_room()?;
    journal.wait(Step::Done, stored.len(), 2 * SOON).await;
    bus.quiet(SOON).await;
    let all: Vec<_> = (0..u32::try_from(stored.len())?).collect();
    assert_eq!(journal.handled(), all);
    there.shutdown().await?;
    Ok(())
}

/// Row 31: what somebody trimmed before it was handled is not waited for: it is counted, and the group goes on.
async fn trimmed_while_pending(bus: Bus) -> Result<()> {
    let server = bus.own_server()?;
    let node = server.bus().observer().await?;
    let subscribe = Subscribe::new(WORK, QoS::AtLeastOnce, Consumers::Group(WORKERS));
    let subscribe = subscribe.with_ack_wait(SECOND);
    let transport = &node.backend().transport;
    let mut subscription = transport.subscribe(&subscribe).await?;
    for id in 0..4 {
        node.publish(Work { id }).await?;
    }
    let mut held = Vec::new();
    let by = Instant::now() + SOON;
    while held.len() < 4 {
        assert!(Instant::now() < by, "{} came", held.len());
        drop(timeout(SECOND, subscription.recv(4, &mut held)).await);
    }
    let mut held = held.into_iter();
    let mut next = || held.next().expect("there are four");
    let after = SECOND / 2;
    next().settle(Settlement::Nak { after }).await?;
    drop(next());
    next().settle(Settlement::Ack).await?;
    let kept = next();
    server.site().empty(&WORK).await?;
    // It was handled all the same.
    kept.settle(Settlement::Ack).await?;
    let stats = subscription.stats_reader();
    let mut came = Vec::new();
    let counted = async {
        while stats.read().dropped < 2 {
            drop(timeout(SECOND / 10, subscription.recv(4, &mut came)).await);
        }
    };
    let counted = timeout(SOON, counted).await;
    assert!(counted.is_ok(), "nobody counts them: {:?}", stats.read());
    assert!(came.is_empty(), "{came:?} came from nowhere");
    assert_eq!(stats.read().dropped, 2);
    let left = server.site().backlog(&WORK, &WORKERS).await?;
    assert_eq!(left.map(|left| left.pending), Some(0), "it waits for them");
    node.publish(Work { id: 4 }).await?;
    let received = async {
        while came.is_empty() {
            subscription.recv(1, &mut came).await?;
        }
        Result::<()>::Ok(())
    };
    timeout(SOON, received).await??;
    let last = came.remove(0);
    assert_eq!(last.count(), 1);
    last.settle(Settlement::Ack).await?;
    Ok(())
}
