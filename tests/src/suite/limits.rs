//! What is too large, and what was fetched and left lying: rows 17, 20 and 30.

use std::time::Duration;

use catga::prelude::{Catga, Event, Result, handlers};
use catga::{Bytes, Capability, Envelope, ErrorKind, HandlerError, MessageId, Name, QoS};
use catga_core::{Consumers, Settlement, Subscribe, Target};
use tokio::time::Instant;

use crate::harness::{Bus, SOON, dead_letters, scenarios, wait_for_nodes, wait_until};
use crate::journal::{Journal, Step};
use crate::messages::{Parcel, Work, on_tick, on_work};
use crate::outcome::Lacking;
use crate::parts::{Invoice, Print, on_invoice, on_print};

scenarios! { Backend "limits":
    Paused payload_over_the_limit [17],
    Paused request_over_the_limit [17],
    Paused one_of_many_too_large [20],
    Paused prefetch_abandoned [30],
    Paused prefetch_abandoned_exactly_once [30],
}

/// The most bytes that are taken, and a size that is.
#[derive(Clone, Copy)]
struct Limit {
    most: usize,
    fits: usize,
}

/// The bus, and its limit: a low one where that can be set, else that of the backend, which may count its own frame too.
async fn limited(bus: Bus) -> Result<(Bus, Limit)> {
    if let Ok(bus) = bus.clone().limited("max_payload=1000") {
        let most = 1000;
        return Ok((bus, Limit { most, fits: most }));
    }
    let observer = bus.observer().await?;
    let capabilities = observer.backend().transport.capabilities();
    let Some(most) = capabilities.max_payload_bytes() else {
        let lacking = Lacking("the backend takes messages of any size".to_owned());
        return Err(HandlerError::terminal(lacking));
    };
    let fits = most - 500;
    Ok((bus, Limit { most, fits }))
}

/// An encoded parcel that takes so many bytes in all.
fn sized(bytes: usize, qos: QoS, header: bool) -> Result<Envelope> {
    let build = |length: usize| {
        let text = "x".repeat(length);
        let json = format!("{{\"id\":1,\"bytes\":[],\"text\":\"{text}\"}}");
        let name = Name::from_static("Parcel");
        let mut envelope =
            Envelope::received(name, qos, Bytes::from(json)).with_id(MessageId::new());
        if header {
            envelope.headers_mut().insert("note", "y".repeat(100))?;
        }
        Ok::<_, catga::Error>(envelope)
    };
    let empty = build(0)?.size_bytes();
    let envelope = build(bytes - empty)?;
    assert_eq!(envelope.size_bytes(), bytes);
    Ok(envelope)
}

/// Row 17: up to the limit is taken, above it is rejected for certain, headers counted, and nothing else suffers.
async fn payload_over_the_limit(bus: Bus) -> Result<()> {
    let (bus, limit) = limited(bus).await?;
    let node = bus.node("a").state(Journal::default().plain());
    let node = node.handlers(handlers![on_work]).start().await?;
    let transport = &node.backend().transport;
    for qos in bus.levels() {
        for header in [false, true] {
            for (bytes, fits) in [
                (limit.fits - 1, true),
                (limit.fits, true),
                (limit.most + 1, false),
                (10 * limit.most, false),
            ] {
                let began = Instant::now();
                let outcome = transport
                    .publish(&mut sized(bytes, qos, header)?, SOON)
                    .await;
                if fits {
                    outcome?;
                    continue;
                }
                let error = outcome.expect_err("it is too large");
                assert_eq!(error.kind(), ErrorKind::PayloadTooLarge);
                assert_eq!(error.retry(), catga::Retry::Never);
                assert!(!error.may_be_stored(), "{error:?}");
                assert!(
                    began.elapsed() < bus.bound(Duration::from_millis(10)),
                    "it was tried"
                );
            }
        }
    }
    let id = MessageId::new();
    let parcel = parcel("y".repeat(limit.most));
    let large = node
        .message(crate::messages::StoredParcel { parcel })
        .id(id);
    let error = large.publish().await.expect_err("it is too large");
    assert_eq!(error.kind(), ErrorKind::PayloadTooLarge);
    let back = error.into_envelope().expect("to be made smaller");
    assert_eq!(back.id(), Some(id));
    node.publish(Work { id: 1 }).await?;
    wait_until("the small one is handled", SOON, || {
        node.handlers()[0].stats.handled == 1
    })
    .await;
    Ok(())
}

/// Row 17: a request above the limit is refused before it is sent, and the next one is answered.
async fn request_over_the_limit(bus: Bus) -> Result<()> {
    let (bus, limit) = limited(bus).await?;
    let journal = Journal::default();
    let node = bus.node("a").state(journal.plain());
    let _node = node.handlers(handlers![on_print]).start().await?;
    let caller = bus.observer().await?;
    wait_for_nodes(&caller, 2).await;
    let request = |spaces: usize| {
        let json = format!("{{\"id\":0,\"bytes\":3}}{}", " ".repeat(spaces));
        let name = Name::from_static("Print");
        let letter = Envelope::received(name, QoS::AtLeastOnce, Bytes::from(json));
        let mut letter = letter.with_id(MessageId::new());
        letter.headers_mut().insert("note", "y".repeat(100))?;
        Ok::<_, catga::Error>(letter)
    };
    let to = Target::Node(Name::token("a")?);
    let transport = &caller.backend().transport;
    let small = request(0)?.size_bytes();
    let error = transport
        .request(&to, &request(limit.most + 1 - small)?, 1, Some(SOON))
        .await;
    let error = error.expect_err("it is too large");
    assert_eq!(error.kind(), ErrorKind::PayloadTooLarge);
    assert!(!error.may_be_stored(), "{error:?}");
    assert_eq!(journal.notes(), []);
    let reply = transport
        .request(&to, &request(limit.fits - small)?, 1, Some(SOON))
        .await?;
    assert!(reply.result.is_ok());
    assert_eq!(caller.send(Print { id: 1, bytes: 3 }).await?, "1;1");
    Ok(())
}

/// Row 20: of ten the fourth is too large: an outcome for each, in order, and the nine are handled.
async fn one_of_many_too_large(bus: Bus) -> Result<()> {
    let (bus, limit) = limited(bus).await?;
    let journal = Journal::default();
    let node = bus.node("a").state(journal.plain()).strict(true);
    let node = node
        .handlers(handlers![on_work, on_invoice, on_tick])
        .start()
        .await?;
    fourth(&node, limit.most, |text| crate::messages::StoredParcel {
        parcel: parcel(text),
    })
    .await?;
    fourth(&node, limit.most, parcel).await?;
    let outcomes = node.publish_many((0..10).map(|id| Work { id })).await;
    assert!(outcomes.iter().all(std::result::Result::is_ok));
    journal.wait(Step::Done, 10, SOON).await;
    assert_eq!(journal.handled(), (0..10).collect::<Vec<_>>());
    Ok(())
}

fn parcel(text: String) -> Parcel {
    let bytes = Vec::new();
    Parcel { id: 1, bytes, text }
}

async fn fourth<E: Event>(node: &Catga, most: usize, event: impl Fn(String) -> E) -> Result<()> {
    let length = |i: usize| if i == 3 { 10 * most } else { 10 };
    let outcomes = node
        .publish_many((0..10).map(|i| event("x".repeat(length(i)))))
        .await;
    assert_eq!(outcomes.len(), 10);
    for (i, outcome) in outcomes.into_iter().enumerate() {
        if i == 3 {
            let error = outcome.expect_err("it is too large");
            assert_eq!(error.kind(), ErrorKind::PayloadTooLarge);
            assert!(error.into_envelope().is_some(), "not given back");
        } else {
            outcome?;
        }
    }
    Ok(())
}

/// Row 30: of 100 that were fetched 3 are handled and the rest is left lying: another member gets it, uncounted.
async fn prefetch_abandoned(bus: Bus) -> Result<()> {
    abandoned(bus, QoS::AtLeastOnce).await
}

/// Row 30: the same at QoS 2.
async fn prefetch_abandoned_exactly_once(bus: Bus) -> Result<()> {
    abandoned(bus, QoS::ExactlyOnce).await
}

async fn abandoned(bus: Bus, qos: QoS) -> Result<()> {
    let observer = bus.observer().await?;
    let name = if qos == QoS::ExactlyOnce {
        "Invoice"
    } else {
        "Work"
    };
    let group = Consumers::Group(Name::new("workers")?);
    let lease = bus.by_clock(Duration::from_secs(30), Duration::from_secs(2));
    let subscribe = Subscribe::new(Name::new(name)?, qos, group)
        .with_max_in_flight(100)
        .with_ack_wait(lease);
    let mut subscription = observer.backend().transport.subscribe(&subscribe).await?;
    for id in 0..100 {
        match qos {
            QoS::ExactlyOnce => observer.publish(Invoice { id }).await?,
            _ => observer.publish(Work { id }).await?,
        }
    }
    let mut fetched = Vec::new();
    while fetched.len() < 50 {
        subscription.recv(50 - fetched.len(), &mut fetched).await?;
    }
    for delivery in fetched.drain(..3) {
        assert_eq!(delivery.count(), 1);
        delivery.settle(Settlement::Ack).await?;
    }
    // Of the others half was received, half was not.
    let began = Instant::now();
    drop(subscription);
    drop(fetched);
    let journal = Journal::default();
    let b = bus.node("b").state(journal.plain()).ack_wait(lease);
    let b = b.handlers(handlers![on_work, on_invoice]).start().await?;
    // One lease, and some.
    let limit = lease + Duration::from_secs(5);
    journal.wait(Step::Done, 97, 2 * limit).await;
    let took = began.elapsed();
    assert!(took < limit, "{took:?}");
    bus.quiet(Duration::from_secs(600)).await;
    assert_eq!(journal.handled(), (3..100).collect::<Vec<_>>());
    let starts = journal.all(Step::Started);
    let counted = starts.iter().filter(|note| note.attempt > 1).count();
    if bus.has(Capability::UncountedRelease) {
        assert!(counted <= 47, "what nobody received was counted: {counted}");
    }
    assert!(starts.iter().all(|note| note.attempt <= 2), "counted twice");
    assert!(dead_letters(b.backend()).await?.is_empty());
    Ok(())
}
