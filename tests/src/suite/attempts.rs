//! What counts as an attempt, and what a message comes to that is delivered again and again.

use std::sync::Arc;
use std::time::Duration;

use catga::prelude::{Catga, FailWith, Result, handlers};
use catga::{Message, MessageId, Name, QoS, ReasonKind};
use catga_core::{ClaimOutcome, Consumers, Delivery, InboxKey, Owner, Subscribe};
use tokio::sync::mpsc::unbounded_channel;
use tower::limit::ConcurrencyLimitLayer;
use tower::load_shed::LoadShedLayer;

use crate::harness::{Bus, dead_letters, scenarios, wait_for_dead_letters};
use crate::journal::{Journal, Step};
use crate::messages::{Work, on_work};
use crate::reliable::{Claiming, Payment, drain, inbox_of_another_bus, on_payment, pay, telling};

scenarios! { Runtime "attempts":
    Paused longer_apart_than_the_retention,
    Paused turned_away_by_a_layer,
    Paused turned_away_by_a_layer_in_a_given_inbox,
    Paused it_kills_its_consumers,
    Paused it_kills_its_consumers_exactly_once,
    Paused it_kills_its_consumers_in_a_given_inbox,
}

const MINUTE: Duration = Duration::from_secs(60);
const SECOND: Duration = Duration::from_secs(1);
const ATTEMPTS: u32 = 2;
/// How many deliveries beyond the attempts may end without a verdict.
const SLACK: u32 = 3;

/// Attempts that are longer apart than an inbox remembers what is handled are counted all the same.
async fn longer_apart_than_the_retention(bus: Bus) -> Result<()> {
    let journal = Journal::default();
    let play = journal.play(|_| async { Err("busy").retry_after(10 * SECOND) });
    let node = bus.node("a").state(play).attempts(4).ack_wait(SECOND);
    // The shortest that is allowed.
    let node = node.backoff(SECOND / 10, SECOND / 2);
    let node = node.inbox_retention(6 * SECOND);
    let node = node.handlers(handlers![on_payment]).start().await?;
    pay(&node, 0, "0").await?;
    tokio::time::sleep(5 * MINUTE).await;
    let starts = journal.starts(0);
    let attempts: Vec<_> = starts.iter().map(|note| note.attempt).collect();
    assert_eq!(attempts, [1, 2, 3, 4]);
    let letters = dead_letters(node.backend()).await?;
    let kinds: Vec<_> = letters.iter().map(|letter| letter.reason.kind).collect();
    assert_eq!(kinds, [ReasonKind::Exhausted]);
    Ok(())
}

/// What a layer turns away did not run: it comes again, as often as it takes, and that is no attempt.
async fn turned_away_by_a_layer(bus: Bus) -> Result<()> {
    turned_away(&Claiming::own(bus)).await
}

/// The same in a given inbox, which is asked before the layers are.
async fn turned_away_by_a_layer_in_a_given_inbox(bus: Bus) -> Result<()> {
    turned_away(&Claiming::given(bus).await?).await
}

async fn turned_away(claiming: &Claiming) -> Result<()> {
    let journal = Journal::default();
    let (tell, mut told) = unbounded_channel();
    let play = journal.play(move |scene| {
        let told = tell.send(scene.context.attempt());
        async move {
            told?;
            tokio::time::sleep(20 * SECOND).await;
            Ok(())
        }
    });
    let node = claiming.node("a").state(play).attempts(ATTEMPTS);
    let node = node.layer(LoadShedLayer::new());
    let node = node.layer(ConcurrencyLimitLayer::new(1));
    let node = node.handlers(handlers![on_payment]).start().await?;
    for id in 0..10 {
        pay(&node, id, &id.to_string()).await?;
    }
    tokio::time::sleep(60 * MINUTE).await;
    assert_eq!(journal.handled(), (0..10).collect::<Vec<_>>());
    assert!(dead_letters(node.backend()).await?.is_empty());
    let told = drain(&mut told);
    let first = |told: &catga::Attempt| told.number() == 1 && !told.may_have_run();
    assert!(told.iter().all(first), "counted: {told:?}");
    Ok(())
}

/// Takes what is published, and dies with it, so many times.
async fn die(node: &Catga, subscribe: Subscribe, times: u32) -> Result<()> {
    let mut subscription = node.backend().transport.subscribe(&subscribe).await?;
    for count in 1..=times {
        let mut deliveries = Vec::new();
        let received = subscription.recv(1, &mut deliveries);
        tokio::time::timeout(2 * MINUTE, received).await??;
        let counts: Vec<_> = deliveries.iter().map(Delivery::count).collect();
        assert_eq!(counts, [count]);
        // Unsettled: its lease runs out.
        drop(deliveries);
    }
    Ok(subscription.close().await?)
}

/// Consumers that died so often: once less than too often, then as often as that.
const DEATHS: [u32; 2] = [ATTEMPTS + SLACK - 1, ATTEMPTS + SLACK];

/// What becomes of a message whose consumers died: it runs, or is given up unseen.
async fn given_up(node: &Catga, journal: &Journal, deaths: u32) -> Result<()> {
    if deaths < ATTEMPTS + SLACK {
        journal.wait(Step::Done, 1, 2 * MINUTE).await;
        tokio::time::sleep(10 * MINUTE).await;
        let attempts: Vec<_> = journal
            .all(Step::Started)
            .iter()
            .map(|note| note.attempt)
            .collect();
        assert_eq!(attempts, [deaths + 1]);
        assert!(dead_letters(node.backend()).await?.is_empty());
    } else {
        let letters = wait_for_dead_letters(node.backend(), 1).await?;
        tokio::time::sleep(10 * MINUTE).await;
        let kinds: Vec<_> = letters.iter().map(|letter| letter.reason.kind).collect();
        assert_eq!(kinds, [ReasonKind::Crashed]);
        assert_eq!(journal.count(Step::Started), 0, "it was run once more");
    }
    Ok(())
}

fn workers() -> Result<Consumers> {
    Ok(Consumers::Group(Name::token("workers")?))
}

/// A message that ends every process that takes it is given up in the end, before it is handled once more.
async fn it_kills_its_consumers(bus: Bus) -> Result<()> {
    for (round, deaths) in DEATHS.into_iter().enumerate() {
        let journal = Journal::default();
        let (play, _told) = telling(&journal);
        let observer = bus.node(&format!("observer{round}"));
        let observer = observer.handlers(handlers![]).start().await?;
        observer.publish(Work { id: 0 }).await?;
        let name = Name::new(Work::NAME)?;
        let subscribe = Subscribe::new(name, QoS::AtLeastOnce, workers()?);
        die(&observer, subscribe, deaths).await?;
        let node = bus
            .node(&format!("a{round}"))
            .state(play)
            .attempts(ATTEMPTS);
        let node = node.handlers(handlers![on_work]).start().await?;
        given_up(&node, &journal, deaths).await?;
        node.shutdown().await?;
    }
    Ok(())
}

/// The same at QoS 2, where each delivery is a claim.
async fn it_kills_its_consumers_exactly_once(bus: Bus) -> Result<()> {
    for (round, deaths) in DEATHS.into_iter().enumerate() {
        let journal = Journal::default();
        let (play, _told) = telling(&journal);
        let observer = bus.node(&format!("observer{round}"));
        let observer = observer.handlers(handlers![]).start().await?;
        pay(&observer, 0, &round.to_string()).await?;
        let name = Name::new(Payment::NAME)?;
        let subscribe = Subscribe::new(name, QoS::ExactlyOnce, workers()?);
        die(&observer, subscribe, deaths).await?;
        let node = bus
            .node(&format!("a{round}"))
            .state(play)
            .attempts(ATTEMPTS);
        let node = node.handlers(handlers![on_payment]).start().await?;
        given_up(&node, &journal, deaths).await?;
        node.shutdown().await?;
    }
    Ok(())
}

/// The same where another inbox is asked: what counts are claims whose leases ran out.
async fn it_kills_its_consumers_in_a_given_inbox(bus: Bus) -> Result<()> {
    for (round, deaths) in DEATHS.into_iter().enumerate() {
        let journal = Journal::default();
        let (play, mut told) = telling(&journal);
        let inbox = inbox_of_another_bus().await?;
        let id = MessageId::from_key(&round.to_string());
        let key = InboxKey::new(Name::token("workers")?, Name::new(Payment::NAME)?, id);
        for _ in 0..deaths {
            let claimed = inbox.claim(&key, Owner::new(), SECOND, 0).await?;
            assert!(matches!(claimed, ClaimOutcome::Granted(_)), "{claimed:?}");
            tokio::time::sleep(2 * SECOND).await;
        }
        let node = bus
            .node(&format!("a{round}"))
            .state(play)
            .attempts(ATTEMPTS);
        let node = node.inbox(Arc::clone(&inbox));
        let node = node.handlers(handlers![on_payment]).start().await?;
        pay(&node, 0, &round.to_string()).await?;
        given_up(&node, &journal, deaths).await?;
        assert!(drain(&mut told).iter().all(catga::Attempt::may_have_run));
        node.shutdown().await?;
    }
    Ok(())
}
