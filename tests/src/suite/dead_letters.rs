//! What cannot be handled is given up, kept, and in nobody's way: rows 33 to 35.

use std::future::pending;
use std::time::Duration;

use catga::prelude::{Catga, FailWith, Headers, Result, handlers};
use catga::{Bytes, Envelope, HandlerError, MessageId, Name, QoS, ReasonKind};

use crate::harness::{
    Bus, PLANNED, SOON, dead_letters, scenarios, wait_for_dead_letters, wait_until,
};
use crate::journal::{Journal, Step};
use crate::messages::{Tick, Work, audit_work, on_tick, on_work};

scenarios! { Backend "dead_letters":
    Paused always_failing [33],
    Paused always_panicking [33],
    Paused always_hanging [33],
    Paused terminal_error [33],
    Paused one_group_of_two [33],
    Paused malformed_payload [34],
    Paused malformed_payload_at_most_once [34],
    Paused no_handler [35],
    Paused no_handler_at_most_once [35],
}

const MINUTE: Duration = Duration::from_secs(60);

/// Row 33: a handler that always errs has 3 attempts; then everything about it is in the dead letters.
async fn always_failing(bus: Bus) -> Result<()> {
    let journal = Journal::default();
    let play = journal.play(|scene| async move {
        if scene.id == 3 {
            std::fs::read("/no/such/file")?;
        }
        Ok(())
    });
    let node = bus.node("a").state(play).attempts(3).concurrency(1);
    let node = node.handlers(handlers![on_work]).start().await?;
    let id = MessageId::from_key("poison");
    for number in 0..10 {
        let work = node.message(Work { id: number }).header("tenant", "acme");
        let work = if number == 3 { work.id(id) } else { work };
        work.publish().await?;
    }
    let letters = wait_for_dead_letters(node.backend(), 1).await?;
    journal.wait(Step::Done, 9, SOON).await;
    bus.quiet(5 * MINUTE).await;
    assert_eq!(journal.starts(3).len(), 3);
    assert_eq!(
        journal.count(Step::Started),
        12,
        "the others have one attempt each"
    );

    assert_eq!(dead_letters(node.backend()).await?.len(), 1);
    let letter = &letters[0];
    assert_eq!(letter.envelope.id(), Some(id));
    assert_eq!(letter.envelope.name().as_str(), "Work");
    assert_eq!(letter.envelope.headers().get("tenant"), Some("acme"));
    let body = letter.envelope.payload().as_bytes();
    assert_eq!(body.map(Bytes::as_ref), Some(&br#"{"id":3}"#[..]));
    assert_eq!(letter.group.as_str(), "workers");
    assert_eq!(letter.reason.kind, ReasonKind::Exhausted);
    assert!(
        letter.reason.detail.contains("No such file"),
        "{}",
        letter.reason
    );
    assert_eq!((letter.deliveries, letter.generation), (3, 0));
    assert!(letter.published_at <= letter.dead_at);
    let stats = node.handlers()[0].stats;
    assert_eq!((stats.retried, stats.dead_lettered), (2, 1));
    Ok(())
}

/// Row 33: a handler that always panics ends there too, with the panic's text.
async fn always_panicking(bus: Bus) -> Result<()> {
    let journal = Journal::default();
    let play = journal.play(|scene| async move {
        assert!(scene.id != 0, "{PLANNED}: no stock");
        Ok(())
    });
    given_up(&bus, &journal, play, "no stock").await
}

/// Row 33: a handler that never returns ends there too, with the time that it had.
async fn always_hanging(bus: Bus) -> Result<()> {
    let journal = Journal::default();
    let play = journal.play(|scene| async move {
        if scene.id == 0 {
            pending::<()>().await;
        }
        Ok(())
    });
    given_up(&bus, &journal, play, "longer than 2s").await
}

async fn given_up(
    bus: &Bus,
    journal: &Journal,
    play: crate::journal::Play,
    detail: &str,
) -> Result<()> {
    let node = bus.node("a").state(play).attempts(3).concurrency(2);
    let node = node.handler_timeout(Duration::from_secs(2));
    let node = node.handlers(handlers![on_work]).start().await?;
    for id in 0..10 {
        node.publish(Work { id }).await?;
    }
    let letters = wait_for_dead_letters(node.backend(), 1).await?;
    assert_eq!(letters[0].reason.kind, ReasonKind::Exhausted);
    assert!(
        letters[0].reason.detail.contains(detail),
        "{}",
        letters[0].reason
    );
    assert_eq!(letters[0].deliveries, 3);
    journal.wait(Step::Done, 9, MINUTE).await;
    assert_eq!(journal.handled(), (1..10).collect::<Vec<_>>());
    assert_eq!(journal.starts(0).len(), 3);
    Ok(())
}

/// Row 33: an error that is said to be terminal has one attempt.
async fn terminal_error(bus: Bus) -> Result<()> {
    let journal = Journal::default();
    let play = journal.play(|scene| async move {
        if scene.id == 0 {
            Err("no such product").terminal()?;
        }
        Ok(())
    });
    let node = bus.node("a").state(play).handlers(handlers![on_work]);
    let node = node.start().await?;
    for id in 0..10 {
        node.publish(Work { id }).await?;
    }
    let letters = wait_for_dead_letters(node.backend(), 1).await?;
    assert_eq!(letters[0].reason.kind, ReasonKind::Terminal);
    assert_eq!(letters[0].reason.detail, "no such product");
    assert_eq!(letters[0].deliveries, 1);
    journal.wait(Step::Done, 9, SOON).await;
    bus.quiet(5 * MINUTE).await;
    assert_eq!(journal.starts(0).len(), 1);
    Ok(())
}

/// Row 33: what one group gives up, another handles.
async fn one_group_of_two(bus: Bus) -> Result<()> {
    let (failing, healthy) = (Journal::default(), Journal::default());
    let play = failing.play(|_| async { Err(HandlerError::terminal("never")) });
    let a = bus.node("a").state(play).handlers(handlers![on_work]);
    let a = a.start().await?;
    let b = bus.node("b").state(healthy.plain());
    let _b = b.handlers(handlers![audit_work]).start().await?;
    for id in 0..10 {
        a.publish(Work { id }).await?;
    }
    let letters = wait_for_dead_letters(a.backend(), 10).await?;
    assert!(letters.iter().all(|l| l.group.as_str() == "workers"));
    healthy.wait(Step::Done, 10, SOON).await;
    assert_eq!(healthy.handled(), (0..10).collect::<Vec<_>>());
    Ok(())
}

/// Payloads that are no message of ours: each with its content type.
fn malformed(bus: &Bus) -> Vec<(Bytes, Option<&'static str>)> {
    let mut chance = bus.chance();
    let random: Bytes = (0..64).map(|_| chance.u8(128..)).collect();
    vec![
        (Bytes::new(), None),
        (random, None),
        (Bytes::from_static(br#"{"id":"#), None),
        (Bytes::from_static(br#"{"id":1}trailing"#), None),
        (Bytes::from_static(br#"{"id":"one"}"#), None),
        (Bytes::from_static(br#"{"id":-1}"#), None),
        (Bytes::from_static(b"{}"), None),
        (Bytes::from("[".repeat(100_000)), None),
        (
            Bytes::from_static(br#"{"id":1}"#),
            Some("application/x-unknown"),
        ),
    ]
}

async fn publish_malformed(node: &Catga, bus: &Bus, name: &str, qos: QoS) -> Result<usize> {
    let malformed = malformed(bus);
    let count = malformed.len();
    for (payload, content_type) in malformed {
        let mut envelope =
            Envelope::received(Name::new(name)?, qos, payload).with_id(MessageId::new());
        if let Some(content_type) = content_type {
            envelope
                .headers_mut()
                .insert(Headers::CONTENT_TYPE, content_type)?;
        }
        node.backend()
            .transport
            .publish(&mut envelope, SOON)
            .await?;
    }
    Ok(count)
}

/// Row 34: what cannot be decoded goes to the dead letters at once, as it came; the others flow.
async fn malformed_payload(bus: Bus) -> Result<()> {
    let journal = Journal::default();
    let node = bus.node("a").state(journal.plain());
    let node = node
        .handlers(handlers![on_work, audit_work])
        .start()
        .await?;
    node.publish(Work { id: 0 }).await?;
    let count = publish_malformed(&node, &bus, "Work", QoS::AtLeastOnce).await?;
    node.publish(Work { id: 1 }).await?;
    // By value and by reference alike.
    let letters = wait_for_dead_letters(node.backend(), 2 * count).await?;
    for letter in &letters {
        assert_eq!(letter.reason.kind, ReasonKind::Decode, "{}", letter.reason);
        assert_eq!(letter.deliveries, 1);
    }
    for (payload, _) in malformed(&bus) {
        let kept = letters
            .iter()
            .filter(|letter| letter.envelope.payload().as_bytes() == Some(&payload))
            .count();
        assert!(kept >= 2, "a payload was not kept as it came");
    }
    journal.wait(Step::Done, 4, SOON).await;
    bus.quiet(5 * MINUTE).await;
    assert_eq!(journal.handled(), [0, 0, 1, 1]);
    assert_eq!(journal.count(Step::Started), 4, "no handler saw them");
    Ok(())
}

/// Row 34: at QoS 0 what cannot be decoded is counted as failed and dropped; the others flow.
async fn malformed_payload_at_most_once(bus: Bus) -> Result<()> {
    let journal = Journal::default();
    let node = bus.node("a").state(journal.plain());
    let node = node.handlers(handlers![on_tick]).start().await?;
    node.publish(Tick { id: 0 }).await?;
    let count = publish_malformed(&node, &bus, "Tick", QoS::AtMostOnce).await?;
    node.publish(Tick { id: 1 }).await?;
    journal.wait(Step::Done, 2, SOON).await;
    wait_until("they are counted", SOON, || {
        node.handlers()[0].stats.failed == count as u64
    })
    .await;
    assert_eq!(journal.handled(), [0, 1]);
    assert!(dead_letters(node.backend()).await?.is_empty());
    Ok(())
}

/// Row 35: groups are per message here, so nobody is subscribed to an unknown one: it is stored, and
/// kept for the first group that asks.
async fn no_handler(bus: Bus) -> Result<()> {
    let observer = bus.observer().await?;
    for id in 0..10 {
        observer.publish(Work { id }).await?;
    }
    bus.quiet(MINUTE).await;
    assert!(dead_letters(observer.backend()).await?.is_empty());
    let journal = Journal::default();
    let node = bus.node("a").state(journal.plain());
    let _node = node.handlers(handlers![on_work]).start().await?;
    journal.wait(Step::Done, 10, SOON).await;
    assert_eq!(journal.handled(), (0..10).collect::<Vec<_>>());
    Ok(())
}

/// Row 35: at QoS 0 a message that nobody handles is ignored, and publishing it succeeds.
async fn no_handler_at_most_once(bus: Bus) -> Result<()> {
    let observer = bus.observer().await?;
    for id in 0..10 {
        observer.publish(Tick { id }).await?;
    }
    let journal = Journal::default();
    let node = bus.node("a").state(journal.plain());
    let node = node.handlers(handlers![on_tick]).start().await?;
    node.publish(Tick { id: 10 }).await?;
    journal.wait(Step::Done, 1, SOON).await;
    assert_eq!(journal.handled(), [10]);
    Ok(())
}
