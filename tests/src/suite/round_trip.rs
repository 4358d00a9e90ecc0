//! What arrives is what was published: row 1.

use std::collections::BTreeSet;

use catga::prelude::{Headers, Result, handlers};
use catga::{Bytes, Cbor, Envelope, Json, MessageId, MessagePack, Name, QoS};
use catga_core::{Consumers, Settlement, Subscribe};
use tokio::sync::mpsc;

use crate::harness::{Bus, SOON, scenarios};
use crate::journal::Journal;
use crate::messages::{
    Arrived, Other, Parcel, StoredParcel, Work, on_other, on_parcel, on_stored_parcel, on_work,
};

scenarios! { Backend "round_trip":
    Paused at_most_once [1],
    Paused at_least_once [1],
    Paused bytes [1],
    Paused codecs [1],
    Paused a_cause_is_named [1],
}

/// Payloads of all sorts.
fn parcels(bus: &Bus) -> Vec<Parcel> {
    let mut chance = bus.chance();
    let texts = ["", "plain", "größer, 大きい, 🦀", "\"quoted\"\n\0\u{7f}"];
    (0..100)
        .map(|id| Parcel {
            id,
            bytes: (0..chance.usize(0..200)).map(|_| chance.u8(..)).collect(),
            text: texts[chance.usize(0..texts.len())].to_owned(),
        })
        .collect()
}

async fn collect(count: usize, shelf: &mut mpsc::UnboundedReceiver<Arrived>) -> Vec<Arrived> {
    let mut arrived = Vec::new();
    while arrived.len() < count {
        let next = tokio::time::timeout(SOON, shelf.recv()).await;
        arrived.push(next.ok().flatten().expect("every parcel arrives"));
    }
    arrived.sort_by_key(|(_, _, parcel)| parcel.id);
    arrived
}

/// Row 1: nodes that write in different formats read each other.
async fn codecs(bus: Bus) -> Result<()> {
    let (shelf, mut arrived) = mpsc::unbounded_channel();
    let reader = bus
        .node("reader")
        .state(shelf)
        .handlers(handlers![on_stored_parcel]);
    let reader = reader.start().await?;
    let writers = [
        bus.node("json").codec(Json),
        bus.node("msgpack").codec(MessagePack),
        bus.node("cbor").codec(Cbor),
    ];
    for writer in writers {
        let writer = writer.handlers(handlers![]).start().await?;
        let sent = parcels(&bus);
        for parcel in sent.iter().cloned() {
            writer.publish(StoredParcel { parcel }).await?;
        }
        let parcels: Vec<_> = collect(sent.len(), &mut arrived)
            .await
            .into_iter()
            .map(|(_, _, parcel)| parcel)
            .collect();
        assert_eq!(parcels, sent, "from {}", writer.node());
    }
    reader.shutdown().await?;
    Ok(())
}

/// Row 1: at QoS 0 content and headers arrive as they were; an id does when the publisher set one.
async fn at_most_once(bus: Bus) -> Result<()> {
    let (shelf, mut arrived) = mpsc::unbounded_channel();
    let node = bus
        .node("a")
        .state(shelf)
        .handlers(handlers![on_parcel])
        .start()
        .await?;
    let sent = parcels(&bus);
    for parcel in &sent {
        let message = node
            .message(parcel.clone())
            .header("number", parcel.id.to_string());
        if parcel.id % 2 == 0 {
            let id = MessageId::from_key(&parcel.id.to_string());
            message.id(id).publish().await?;
        } else {
            message.publish().await?;
        }
    }
    let mut ids = BTreeSet::new();
    for ((id, headers, parcel), expected) in collect(100, &mut arrived).await.iter().zip(&sent) {
        assert_eq!(parcel, expected);
        assert_eq!(
            headers.get("number"),
            Some(expected.id.to_string().as_str())
        );
        assert!(ids.insert(*id), "an id occurs once");
        if expected.id % 2 == 0 {
            assert_eq!(*id, MessageId::from_key(&expected.id.to_string()));
        }
    }
    assert!(arrived.try_recv().is_err(), "each arrives once");
    Ok(())
}

/// Row 1: at QoS 1 content, headers, id and correlation id arrive as they were, decoded or not.
async fn at_least_once(bus: Bus) -> Result<()> {
    for strict in [false, true] {
        let (shelf, mut arrived) = mpsc::unbounded_channel();
        let node = bus
            .node("a")
            .strict(strict)
            .state(shelf)
            .handlers(handlers![on_stored_parcel])
            .start()
            .await?;
        let sent = parcels(&bus);
        // The same ids once more would be duplicates.
        let id_of = |id: u32| MessageId::from_key(&format!("{id} {strict}"));
        for parcel in &sent {
            let id = id_of(parcel.id);
            node.message(StoredParcel {
                parcel: parcel.clone(),
            })
            .id(id)
            .header(Headers::CORRELATION_ID, "an order")
            .header("number", parcel.id.to_string())
            .publish()
            .await?;
        }
        for ((id, headers, parcel), expected) in collect(100, &mut arrived).await.iter().zip(&sent)
        {
            assert_eq!(parcel, expected);
            assert_eq!(*id, id_of(expected.id));
            assert_eq!(headers.get(Headers::CORRELATION_ID), Some("an order"));
            assert_eq!(
                headers.get("number"),
                Some(expected.id.to_string().as_str())
            );
        }
        assert!(arrived.try_recv().is_err(), "each arrives once");
        node.shutdown().await?;
    }
    Ok(())
}

/// Row 1: the bytes of a payload are carried as they are, also when there are none.
async fn bytes(bus: Bus) -> Result<()> {
    let node = bus.observer().await?;
    let transport = &node.backend().transport;
    let mut chance = bus.chance();
    let payloads: Vec<Bytes> = (0..50)
        .map(|length| (0..length * 7).map(|_| chance.u8(..)).collect())
        .collect();
    for qos in [QoS::AtMostOnce, QoS::AtLeastOnce] {
        let name = Name::new(format!("raw.{qos}"))?;
        let group = Consumers::Group(Name::new("readers")?);
        let mut subscription = transport
            .subscribe(&Subscribe::new(name.clone(), qos, group))
            .await?;
        for payload in &payloads {
            let mut envelope = Envelope::received(name.clone(), qos, payload.clone())
                .with_id(MessageId::new())
                .with_version(3);
            transport.publish(&mut envelope, SOON).await?;
        }
        let mut seen = Vec::new();
        while seen.len() < payloads.len() {
            let mut batch = Vec::new();
            subscription.recv(7, &mut batch).await?;
            assert!((1..=7).contains(&batch.len()), "{} in a batch", batch.len());
            for delivery in batch {
                assert_eq!(delivery.envelope().version(), 3);
                assert_eq!(delivery.count(), 1);
                seen.extend(delivery.envelope().payload().as_bytes().cloned());
                delivery.settle(Settlement::Ack).await?;
            }
        }
        assert_eq!(seen, payloads);
        subscription.close().await?;
    }
    Ok(())
}

/// Row 1: what a handler publishes carries the correlation id and names its cause.
async fn a_cause_is_named(bus: Bus) -> Result<()> {
    let (found, mut trail) = mpsc::unbounded_channel();
    let journal = Journal::default();
    let play = journal.play(move |scene| {
        let found = found.clone();
        async move {
            let headers = scene.context.headers().clone();
            found.send((scene.context.id(), scene.context.correlation_id(), headers))?;
            if scene.id == 0 {
                scene.context.publish(Other { id: 1 }).await?;
            }
            Ok(())
        }
    });
    let node = bus
        .node("a")
        .state(play)
        .handlers(handlers![on_work, on_other])
        .start()
        .await?;
    node.publish(Work { id: 0 }).await?;
    let (first, ..) = trail.recv().await.expect("nothing came");
    let (second, correlation, headers) = trail.recv().await.expect("nothing came");
    assert_ne!(first, second);
    assert_eq!(correlation, first.to_string());
    assert_eq!(
        headers.get(Headers::CAUSATION_ID),
        Some(first.to_string().as_str())
    );
    Ok(())
}
