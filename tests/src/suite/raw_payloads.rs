//! What no codec writes arrives as it is: row 1; and what a codec wrote is not taken for it: row 34.

use catga::prelude::{Catga, Event, Request, Result, State, handler, handlers};
use catga::{Bytes, Cbor, Encoded, Envelope, Headers, MessageId, Name, QoS, ReasonKind};
use tokio::sync::mpsc;

use crate::harness::{Bus, SOON, scenarios, wait_for_dead_letters};

scenarios! { Backend "raw_payloads":
    Paused events [1],
    Paused batches [1],
    Paused requests [1],
    Paused written_by_a_codec [34],
}

#[derive(Event, Clone)]
#[message(codec = "raw")]
struct Frame(Bytes);

#[derive(Event, Clone)]
#[message(codec = "raw")]
#[qos(at_least_once)]
struct StoredFrame {
    pixels: Bytes,
}

#[derive(Event, Clone)]
#[message(codec = "raw")]
#[qos(exactly_once)]
struct OnceFrame(Bytes);

#[derive(Request)]
#[message(codec = "raw")]
#[response(Bytes)]
struct Mirror(Bytes);

#[derive(Request)]
#[message(codec = "raw")]
#[response(u64)]
#[request(idempotent = false)]
struct Weigh {
    load: Bytes,
}

/// Who handled it, and what it was.
type Shelf = mpsc::UnboundedSender<(&'static str, Bytes)>;
type Seen = mpsc::UnboundedReceiver<(&'static str, Bytes)>;

#[handler]
async fn keep(frame: Frame, State(shelf): State<Shelf>) -> Result<()> {
    Ok(shelf.send(("keep", frame.0))?)
}

#[handler(group = "look")]
async fn look(frame: &Frame, State(shelf): State<Shelf>) -> Result<()> {
    Ok(shelf.send(("look", frame.0.clone()))?)
}

#[handler]
async fn keep_stored(frame: StoredFrame, State(shelf): State<Shelf>) -> Result<()> {
    Ok(shelf.send(("keep", frame.pixels))?)
}

#[handler(group = "look")]
async fn look_at_stored(frame: &StoredFrame, State(shelf): State<Shelf>) -> Result<()> {
    Ok(shelf.send(("look", frame.pixels.clone()))?)
}

#[handler]
async fn keep_once(frame: OnceFrame, State(shelf): State<Shelf>) -> Result<()> {
    Ok(shelf.send(("keep", frame.0))?)
}

#[handler(group = "look")]
async fn look_once(frame: &OnceFrame, State(shelf): State<Shelf>) -> Result<()> {
    Ok(shelf.send(("look", frame.0.clone()))?)
}

#[handler]
async fn mirror(mirror: Mirror) -> Result<Bytes> {
    Ok(mirror.0)
}

#[handler]
async fn weigh(weigh: &Weigh) -> Result<u64> {
    Ok(weigh.load.len() as u64)
}

/// Nothing, what looks like JSON, and bytes of all sorts, each payload once.
fn payloads(bus: &Bus) -> Vec<Bytes> {
    let mut chance = bus.chance();
    let random = (1..40).map(|length| (0..length * 31).map(|_| chance.u8(..)).collect());
    [
        Bytes::new(),
        Bytes::from_static(b"null"),
        Bytes::from_static(br#"{"id":1}"#),
        Bytes::from_static(&[0xff, 0, b'\r', b'\n', 0x80]),
        (0..=255).collect(),
    ]
    .into_iter()
    .chain(random)
    .collect()
}

async fn publish(node: &Catga, level: QoS, payload: Bytes) -> Result<()> {
    match level {
        QoS::AtMostOnce => node.publish(Frame(payload)).await?,
        QoS::AtLeastOnce => node.publish(StoredFrame { pixels: payload }).await?,
        QoS::ExactlyOnce => node.publish(OnceFrame(payload)).await?,
    }
    Ok(())
}

/// Every payload came to both handlers, byte by byte; where no wire was between, the very same memory.
async fn arrives(bus: &Bus, sent: &[Bytes], seen: &mut Seen) {
    let mut came = Vec::new();
    while came.len() < 2 * sent.len() {
        let next = tokio::time::timeout(SOON, seen.recv()).await;
        came.push(next.ok().flatten().expect("every frame arrives"));
    }
    for payload in sent {
        for who in ["keep", "look"] {
            let same: Vec<_> = came
                .iter()
                .filter(|(handler, bytes)| *handler == who && bytes == payload)
                .collect();
            assert_eq!(same.len(), 1, "{payload:?} at `{who}`");
            let (_, bytes) = same[0];
            assert!(
                !bus.subject().is_embedded() || bytes.as_ptr() == payload.as_ptr(),
                "{} bytes were copied on their way to `{who}`",
                payload.len()
            );
        }
    }
    assert!(seen.try_recv().is_err(), "each arrives once");
}

async fn reader(bus: &Bus, strict: bool) -> Result<(Catga, Seen)> {
    let (shelf, seen) = mpsc::unbounded_channel();
    let node = bus.node("a").strict(strict).state(shelf);
    let all = if bus.levels().contains(&QoS::ExactlyOnce) {
        handlers![keep_once, look_once]
    } else {
        handlers![]
    };
    let all = all.and(handlers![keep, look, keep_stored, look_at_stored]);
    Ok((node.handlers(all).start().await?, seen))
}

/// Row 1: at every level, by value and by reference, whichever codec writes all else.
async fn events(bus: Bus) -> Result<()> {
    for strict in [false, true] {
        let (node, mut seen) = reader(&bus, strict).await?;
        let writer = bus.node("writer").codec(Cbor).handlers(handlers![]);
        let writer = writer.start().await?;
        for level in bus.levels() {
            for publisher in [&node, &writer] {
                let sent = payloads(&bus);
                for payload in &sent {
                    publish(publisher, level, payload.clone()).await?;
                }
                arrives(&bus, &sent, &mut seen).await;
            }
        }
        writer.shutdown().await?;
        node.shutdown().await?;
    }
    Ok(())
}

/// Row 1: also those that are published in one call.
async fn batches(bus: Bus) -> Result<()> {
    let (node, mut seen) = reader(&bus, false).await?;
    let sent = payloads(&bus);
    let frames = sent.iter().cloned().map(Frame);
    let stored = sent.iter().cloned().map(|pixels| StoredFrame { pixels });
    for outcome in node.publish_many(frames).await {
        outcome?;
    }
    arrives(&bus, &sent, &mut seen).await;
    for outcome in node.publish_many(stored).await {
        outcome?;
    }
    arrives(&bus, &sent, &mut seen).await;
    node.shutdown().await?;
    Ok(())
}

/// Row 1: a request and its answer, here and over the wire.
async fn requests(bus: Bus) -> Result<()> {
    for strict in [false, true] {
        let nodes = [bus.node("a"), bus.node("b").codec(Cbor)];
        let [a, b] = nodes.map(|node| node.strict(strict).handlers(handlers![mirror, weigh]));
        let (a, b) = (a.start().await?, b.start().await?);
        for payload in payloads(&bus) {
            let size = payload.len() as u64;
            for to in ["a", "b"] {
                let mirrored = a.send_to(to, Mirror(payload.clone())).await?;
                assert_eq!(mirrored, payload, "from {to}");
                let load = payload.clone();
                assert_eq!(a.send_to(to, Weigh { load }).await?, size, "from {to}");
            }
        }
        b.shutdown().await?;
        a.shutdown().await?;
    }
    Ok(())
}

/// Row 34: what says that a codec wrote it goes to the dead letters at once, with a reason that tells what to do; what says
/// that it is raw, or says nothing, is.
async fn written_by_a_codec(bus: Bus) -> Result<()> {
    let (node, mut seen) = reader(&bus, false).await?;
    let transport = &node.backend().transport;
    let json = Bytes::from_static(br#"{"pixels":[1,2]}"#);
    let content_types = [
        Some("application/json"),
        Some(Encoded::OCTET_STREAM),
        Some("application/cbor"),
        None,
    ];
    for content_type in content_types {
        let name = Name::new("StoredFrame")?;
        let mut envelope =
            Envelope::received(name, QoS::AtLeastOnce, json.clone()).with_id(MessageId::new());
        if let Some(content_type) = content_type {
            let headers = envelope.headers_mut();
            headers.insert(Headers::CONTENT_TYPE, content_type)?;
        }
        transport.publish(&mut envelope, SOON).await?;
    }
    let letters = wait_for_dead_letters(node.backend(), 4).await?;
    for letter in &letters {
        assert_eq!(letter.reason.kind, ReasonKind::Decode, "{}", letter.reason);
        assert_eq!(letter.deliveries, 1);
        assert_eq!(letter.envelope.payload().as_bytes(), Some(&json));
        let said = letter.envelope.content_type().expect("it said what it was");
        let reason = letter.reason.to_string();
        let expected = format!("`StoredFrame` is raw bytes here, and came as {said:?}");
        assert!(reason.contains(&expected), "{reason}");
    }
    for _ in 0..4 {
        let next = tokio::time::timeout(SOON, seen.recv()).await;
        let (_, bytes) = next.ok().flatten().expect("those that are raw arrive");
        assert_eq!(bytes, json);
    }
    assert!(seen.try_recv().is_err(), "no handler saw the others");
    node.shutdown().await?;
    Ok(())
}
