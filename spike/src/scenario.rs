//! The same steps for every broker, through the contracts of catga-core alone.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use bytes::Bytes;
use catga_core::{
    Backend, Capability, Claim, ClaimOutcome, Completion, Consumers, DeadLetterFilter, Delivery,
    Envelope, Error, ErrorKind, Headers, InboxKey, Load, MessageId, Name, NodeEvent, NodeInfo,
    NodeWatch, Owner, QoS, Reason, ReasonKind, RemoteError, Reply, Serve, Settlement, Subscribe,
    Subscription, Target,
};

use crate::probe::Probe;
use crate::server::Server;

pub struct World {
    pub a: Backend,
    /// A second connection: another member, another node.
    pub b: Backend,
    pub server: Server,
    pub probe: Box<dyn Probe>,
}
pub type Step = Result<Vec<String>, String>;
macro_rules! must {
    ($ok:expr, $($what:tt)+) => { if !$ok { return Err(format!($($what)+)); } };
}
fn e(e: Error) -> String {
    format!("{e:?}")
}
fn name(n: &str) -> Name {
    Name::new(n).unwrap()
}
const S: Duration = Duration::from_secs(1);
fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

fn event(n: &str, body: impl Into<Bytes>) -> Envelope {
    Envelope::received(name(n), QoS::AtLeastOnce, body.into()).with_id(MessageId::new())
}
async fn put(w: &World, n: &str, body: &str) -> Result<MessageId, String> {
    let m = event(n, body.to_owned());
    w.a.transport.publish(&m, 5 * S).await.map_err(e)?;
    Ok(m.id().unwrap())
}
async fn sub_as(
    b: &Backend,
    n: &str,
    consumers: Consumers,
    wait: Duration,
    qos: QoS,
) -> Result<Box<dyn Subscription>, String> {
    b.transport
        .subscribe(&Subscribe::new(name(n), qos, consumers).with_ack_wait(wait))
        .await
        .map_err(e)
}
async fn sub(b: &Backend, n: &str, wait: Duration) -> Result<Box<dyn Subscription>, String> {
    sub_as(
        b,
        n,
        Consumers::Group(name("billing.g")),
        wait,
        QoS::AtLeastOnce,
    )
    .await
}
/// A member with room for one: while it holds a delivery it fetches nothing, not even its own expired one.
async fn sub_of_one(b: &Backend, n: &str, wait: Duration) -> Result<Box<dyn Subscription>, String> {
    let group = Consumers::Group(name("billing.g"));
    let subscribe = Subscribe::new(name(n), QoS::AtLeastOnce, group)
        .with_ack_wait(wait)
        .with_max_in_flight(1);
    b.transport.subscribe(&subscribe).await.map_err(e)
}
async fn one(s: &mut Box<dyn Subscription>) -> Result<Delivery, String> {
    let mut v = Vec::new();
    tokio::time::timeout(6 * S, s.recv(1, &mut v))
        .await
        .map_err(|_| "nothing received in 6 s")?
        .map_err(e)?;
    Ok(v.pop().unwrap())
}
async fn none(s: &mut Box<dyn Subscription>, within: Duration) -> bool {
    let mut v = Vec::new();
    tokio::time::timeout(within, s.recv(1, &mut v))
        .await
        .is_err()
        && v.is_empty()
}
async fn pending_is(w: &World, n: &str, want: u64) -> Result<(), String> {
    let until = Instant::now() + 3 * S;
    loop {
        let p = w.probe.pending(n, "billing.g").await;
        if p == want {
            return Ok(());
        }
        must!(
            Instant::now() < until,
            "pending at the server is {p}, not {want}"
        );
        tokio::time::sleep(ms(20)).await;
    }
}
fn kind<T>(r: Result<T, Error>) -> Option<ErrorKind> {
    r.err().map(|e| e.kind())
}

pub async fn publish(w: &World) -> Step {
    let (t, n) = (&w.a.transport, "orders.shipped");
    let before = w.probe.stored(n).await;
    put(w, n, "one").await?;
    must!(w.probe.stored(n).await == before + 1, "Ok but not stored");
    let mut seen = vec![format!("Ok: server holds {} -> {}", before, before + 1)];
    let big = t
        .capabilities()
        .max_payload_bytes()
        .map(|max| event(n, vec![b'x'; max + 1]));
    if let Some(big) = big {
        let x = t
            .publish(&big, S)
            .await
            .err()
            .ok_or("too large was taken")?;
        must!(
            !x.may_be_stored() && x.kind() == ErrorKind::PayloadTooLarge,
            "{x:?}"
        );
        seen.push(format!("Rejected: {x:?}"));
    }
    w.probe.fill(n, true).await;
    let x = t.publish(&event(n, "full"), S).await.err();
    w.probe.fill(n, false).await;
    let x = x.ok_or("full, but taken")?;
    must!(
        !x.may_be_stored() && x.kind() == ErrorKind::LimitReached,
        "{x:?}"
    );
    must!(w.probe.stored(n).await == before + 1, "Rejected but stored");
    seen.push(format!("Rejected: {x:?}"));
    let m = event(n, "paused");
    w.server.pause();
    let start = Instant::now();
    let x = t.publish(&m, ms(500)).await.err();
    let took = start.elapsed();
    w.server.resume();
    let x = x.ok_or("Ok from a paused server")?;
    must!(x.may_be_stored(), "{x:?}");
    must!(took < ms(750), "took {took:?}");
    let until = Instant::now() + 5 * S;
    while w.probe.stored(n).await < before + 2 {
        must!(Instant::now() < until, "never stored");
    }
    seen.push(format!(
        "Unknown after {} ms, stored after SIGCONT: {x:?}",
        took.as_millis()
    ));
    let again = t.publish(&m, 5 * S).await.map_err(e)?;
    seen.push(format!(
        "retry with the same id: {again:?}, server holds {}",
        w.probe.stored(n).await
    ));
    Ok(seen)
}

pub async fn receive(w: &World) -> Step {
    let n = "batches";
    let mut s = sub(&w.a, n, 30 * S).await?;
    let all: Vec<Envelope> = (0..200).map(|i| event(n, i.to_string())).collect();
    let (t, copies) = (w.a.transport.clone(), all.clone());
    let publisher = tokio::spawn(async move {
        for m in &copies {
            t.publish(m, 5 * S).await.unwrap();
            tokio::time::sleep(ms(1)).await;
        }
    });
    let (mut got, mut drops, mut batches, mut again) = (BTreeSet::new(), 0, 0, 0);
    let until = Instant::now() + 10 * S;
    while got.len() < 200 {
        must!(
            Instant::now() < until,
            "{} of 200 after {drops} drops",
            got.len()
        );
        let mut v = Vec::new();
        // Dropped half-way again and again: the time-out is shorter than the gap between messages.
        if tokio::time::timeout(Duration::from_micros(400), s.recv(32, &mut v))
            .await
            .is_err()
        {
            drops += 1;
        }
        if !v.is_empty() {
            batches += 1;
        }
        for d in v {
            again += u32::from(d.count() > 1);
            got.insert(d.envelope().id().unwrap());
            d.settle(Settlement::Ack).await.map_err(e)?;
        }
    }
    publisher.await.map_err(|x| x.to_string())?;
    must!(
        got == all.iter().map(|m| m.id().unwrap()).collect(),
        "not the published ids"
    );
    must!(again == 0, "{again} redelivered");
    let more: Vec<Envelope> = (0..300).map(|i| event(n, i.to_string())).collect();
    for r in w.a.transport.publish_many(&more, 5 * S).await {
        r.map_err(e)?;
    }
    let (mut got, mut sizes) = (0, Vec::new());
    while got < 300 {
        let mut v = Vec::new();
        tokio::time::timeout(3 * S, s.recv(40, &mut v))
            .await
            .map_err(|_| format!("{got} of 300"))?
            .map_err(e)?;
        (got, again) = (
            got + v.len(),
            again + v.iter().filter(|d| d.count() > 1).count() as u32,
        );
        sizes.push(v.len());
        for d in v {
            d.settle(Settlement::Ack).await.map_err(e)?;
        }
    }
    must!(
        sizes.iter().all(|n| *n <= 40) && again == 0,
        "{sizes:?}, {again} redelivered"
    );
    w.a.transport.flush().await.map_err(e)?;
    pending_is(w, n, 0).await?;
    // Closed with a backlog: what was fetched and not received goes to another member.
    let more: Vec<Envelope> = (0..300).map(|i| event(n, i.to_string())).collect();
    for r in w.a.transport.publish_many(&more, 5 * S).await {
        r.map_err(e)?;
    }
    let d = one(&mut s).await?;
    tokio::time::sleep(ms(300)).await;
    s.close().await.map_err(e)?;
    d.settle(Settlement::Ack).await.map_err(e)?;
    let start = Instant::now();
    let (mut other, mut rest, mut counted) = (sub(&w.b, n, 30 * S).await?, 0, 0);
    while rest < 299 {
        let mut v = Vec::new();
        tokio::time::timeout(5 * S, other.recv(40, &mut v))
            .await
            .map_err(|_| format!("{rest} of 299 after close"))?
            .map_err(e)?;
        rest += v.len();
        counted += v.iter().filter(|d| d.count() > 1).count();
        for d in v {
            d.settle(Settlement::Ack).await.map_err(e)?;
        }
    }
    let took = start.elapsed();
    other.close().await.map_err(e)?;
    let mut v = Vec::new();
    let closed = kind(s.recv(1, &mut v).await);
    must!(closed == Some(ErrorKind::Closed), "{closed:?}");
    Ok(vec![
        format!(
            "200 of 200 in {batches} batches, recv dropped {drops} times, 0 redelivered, pending 0"
        ),
        format!("300 more in batches of {sizes:?}"),
        format!(
            "closed with a backlog: the other 299 reached another member in {} ms, {counted} of them with a count above 1",
            took.as_millis()
        ),
        "recv after close: Closed".into(),
    ])
}

pub async fn ack(w: &World) -> Step {
    let n = "acks";
    let mut s = sub(&w.a, n, 30 * S).await?;
    for i in 0..50 {
        put(w, n, &i.to_string()).await?;
    }
    let mut v = Vec::new();
    while v.len() < 50 {
        s.recv(50, &mut v).await.map_err(e)?;
    }
    pending_is(w, n, 50).await?;
    let start = Instant::now();
    for d in v {
        d.settle(Settlement::Ack).await.map_err(e)?;
    }
    let queued = start.elapsed();
    w.a.transport.flush().await.map_err(e)?;
    pending_is(w, n, 0).await?;
    s.close().await.map_err(e)?;
    Ok(vec![format!(
        "pending 50 -> 0; 50 acks queued in {} us",
        queued.as_micros()
    )])
}

pub async fn nak(w: &World) -> Step {
    let n = "naks";
    let mut s = sub(&w.a, n, 30 * S).await?;
    put(w, n, "again").await?;
    let d = one(&mut s).await?;
    must!(d.count() == 1, "count {}", d.count());
    let start = Instant::now();
    d.settle(Settlement::Nak { after: ms(700) })
        .await
        .map_err(e)?;
    pending_is(w, n, 1).await?;
    // The delay is the server's: the member that naked goes away.
    s.close().await.map_err(e)?;
    let mut s = sub(&w.b, n, 30 * S).await?;
    let d = one(&mut s).await?;
    let waited = start.elapsed();
    must!(
        waited >= ms(690) && d.count() == 2,
        "after {waited:?}, count {}",
        d.count()
    );
    let seen = format!(
        "redelivered to another member {} ms after a nak of 700 ms, count {}",
        waited.as_millis(),
        d.count()
    );
    d.settle(Settlement::Ack).await.map_err(e)?;
    w.b.transport.flush().await.map_err(e)?;
    pending_is(w, n, 0).await?;
    s.close().await.map_err(e)?;
    Ok(vec![seen])
}

fn granted(o: ClaimOutcome) -> Result<Claim, String> {
    match o {
        ClaimOutcome::Granted(c) => Ok(c),
        other => Err(format!("{other:?}")),
    }
}
async fn complete_and_ack(w: &World, d: Delivery, c: Claim, r: Option<Reply>) -> Result<(), Error> {
    let mut done = Completion::new();
    if w.a
        .transport
        .capabilities()
        .has(Capability::FusedCompletion)
    {
        done = done.with_claim(c);
    } else {
        w.a.inbox.as_ref().unwrap().complete(c, r.as_ref()).await?;
    }
    done.response = r;
    d.settle(Settlement::Complete(done)).await
}
/// Runs a call on a paused server, drops it after 200 ms, and waits until the server has worked it off.
async fn lose<T>(w: &World, call: impl Future<Output = Result<T, Error>>) -> Result<(), String> {
    w.server.pause();
    let cut = tokio::time::timeout(ms(200), call).await.is_err();
    w.server.resume();
    must!(cut, "answered by a paused server");
    w.probe.version().await;
    tokio::time::sleep(ms(50)).await;
    Ok(())
}
pub async fn complete(w: &World) -> Step {
    let (n, lease) = ("payments", ms(600));
    let (ia, ib) = (w.a.inbox.as_ref().unwrap(), w.b.inbox.as_ref().unwrap());
    let mut s = sub_as(
        &w.a,
        n,
        Consumers::Group(name("billing.g")),
        30 * S,
        QoS::ExactlyOnce,
    )
    .await?;
    let id = put(w, n, "pay").await?;
    let key = InboxKey {
        group: name("billing.g"),
        message: name(n),
        id,
    };
    let d = one(&mut s).await?;
    let mut c = granted(
        ia.claim(&key, Owner::new(), lease, d.generation())
            .await
            .map_err(e)?,
    )?;
    must!(!c.may_have_run, "fresh claim may have run");
    let running = ib.claim(&key, Owner::new(), lease, 0).await.map_err(e)?;
    must!(
        matches!(running, ClaimOutcome::Running { .. }),
        "{running:?}"
    );
    tokio::time::sleep(ms(400)).await;
    ia.renew(&mut c, lease).await.map_err(e)?;
    tokio::time::sleep(ms(400)).await;
    let still = ib.claim(&key, Owner::new(), lease, 0).await.map_err(e)?;
    must!(
        matches!(still, ClaimOutcome::Running { .. }),
        "renewed, but {still:?}"
    );
    complete_and_ack(w, d, c, None).await.map_err(e)?;
    pending_is(w, n, 0).await?;
    let after = ib.claim(&key, Owner::new(), lease, 7).await.map_err(e)?;
    must!(matches!(after, ClaimOutcome::Completed { .. }), "{after:?}");
    let mut seen = vec![format!(
        "claimed, 2nd owner {running:?}, renewed, completed, pending 0, then {after:?}"
    )];
    // Answers lost on a paused server: the same call by the same owner is repeated.
    let id = put(w, n, "unsure").await?;
    let key = InboxKey { id, ..key };
    let d = one(&mut s).await?;
    let owner = Owner::new();
    lose(w, ia.claim(&key, owner, 30 * S, 0)).await?;
    let mut c = granted(ia.claim(&key, owner, 30 * S, 0).await.map_err(e)?)?;
    must!(!c.may_have_run, "own claim, repeated, may have run");
    let stale = c.clone();
    lose(w, ia.renew(&mut c, 30 * S)).await?;
    let mut c = stale;
    ia.renew(&mut c, 30 * S).await.map_err(e)?;
    lose(w, ia.complete(c.clone(), None)).await?;
    ia.complete(c, None).await.map_err(e)?;
    d.settle(Settlement::Complete(Completion::new()))
        .await
        .map_err(e)?;
    pending_is(w, n, 0).await?;
    seen.push(
        "claim, renew, complete each cut off on a paused server and repeated by the same owner: Ok"
            .into(),
    );
    // A lost owner.
    let id = put(w, n, "pay 2").await?;
    let key = InboxKey { id, ..key };
    let d = one(&mut s).await?;
    let mut old = granted(ia.claim(&key, Owner::new(), lease, 0).await.map_err(e)?)?;
    let stale = old.clone();
    let new = loop {
        match ib.claim(&key, Owner::new(), lease, 0).await.map_err(e)? {
            ClaimOutcome::Running { retry_after } => tokio::time::sleep(retry_after).await,
            other => break granted(other)?,
        }
    };
    must!(new.may_have_run, "taken over without may_have_run");
    let r = (
        kind(ia.renew(&mut old, lease).await),
        kind(ia.release(stale, true).await),
        kind(complete_and_ack(w, d, old, None).await),
    );
    must!(
        r == (
            Some(ErrorKind::LostOwnership),
            Some(ErrorKind::LostOwnership),
            Some(ErrorKind::LostOwnership)
        ),
        "{r:?}"
    );
    pending_is(w, n, 1).await?;
    let response = Reply::ok(Bytes::from_static(b"\x00\xffbinary")).with_content_type("x/y");
    ib.complete(new, Some(&response)).await.map_err(e)?;
    let kept = ia.claim(&key, Owner::new(), lease, 0).await.map_err(e)?;
    must!(
        matches!(&kept, ClaimOutcome::Completed { response: Some(r), .. } if *r == response),
        "{kept:?}"
    );
    seen.push(format!("taken over after its lease: renew, release, complete of the old owner {r:?}; message still pending; response kept byte-equal"));
    s.close().await.map_err(e)?;
    Ok(seen)
}

pub async fn dead_letter(w: &World) -> Step {
    let n = "poison.pills";
    let mut s = sub(&w.a, n, 30 * S).await?;
    let mut m = event(n, "bad");
    m.headers_mut().insert("tenant", "acme").map_err(e)?;
    w.a.transport.publish(&m, S).await.map_err(e)?;
    one(&mut s)
        .await?
        .settle(Settlement::Nak { after: ms(10) })
        .await
        .map_err(e)?;
    let d = one(&mut s).await?;
    let why = Reason::new(
        ReasonKind::Exhausted,
        "db: refused\n  caused by: \"ä\" \u{1F4A5}\r\n",
    );
    d.settle(Settlement::DeadLetter(why.clone()))
        .await
        .map_err(e)?;
    pending_is(w, n, 0).await?;
    let store = w.b.dead_letters.as_ref().unwrap();
    let all = DeadLetterFilter::all().with_message(name(n));
    let page = store.list(&all, None, 10).await.map_err(e)?;
    must!(page.letters.len() == 1, "{} letters", page.letters.len());
    let l = &page.letters[0];
    must!(
        l.envelope.id() == m.id()
            && l.envelope.payload().as_bytes() == m.payload().as_bytes()
            && l.envelope.headers() == m.headers(),
        "{l:?}"
    );
    must!(
        l.reason == why && l.deliveries == 2 && l.generation == 0 && l.group == name("billing.g"),
        "{l:?}"
    );
    must!(l.dead_at >= l.published_at, "{l:?}");
    let mut seen = vec![format!("listed: {l:?}")];
    store.redrive(&l.id).await.map_err(e)?;
    must!(
        kind(store.redrive(&l.id).await) == Some(ErrorKind::NotFound),
        "redriven twice"
    );
    let d = one(&mut s).await?;
    must!(
        (d.count(), d.generation()) == (1, 1) && d.envelope().id() == m.id(),
        "{d:?}"
    );
    seen.push(format!(
        "redriven: count {}, generation {}, same id, headers {:?}; second redrive: NotFound",
        d.count(),
        d.generation(),
        d.envelope().headers()
    ));
    // The inbox claim of a dead letter is taken by the next generation only.
    let inbox = w.a.inbox.as_ref().unwrap();
    let key = InboxKey {
        group: name("billing.g"),
        message: name(n),
        id: m.id().unwrap(),
    };
    let c = granted(inbox.claim(&key, Owner::new(), S, 1).await.map_err(e)?)?;
    inbox.release(c, true).await.map_err(e)?;
    let dead = inbox.claim(&key, Owner::new(), S, 1).await.map_err(e)?;
    must!(
        matches!(dead, ClaimOutcome::Dead { generation: 1 }),
        "{dead:?}"
    );
    granted(inbox.claim(&key, Owner::new(), S, 2).await.map_err(e)?)?;
    d.settle(Settlement::DeadLetter(Reason::new(
        ReasonKind::Terminal,
        "again",
    )))
    .await
    .map_err(e)?;
    let l = store
        .list(&all, None, 10)
        .await
        .map_err(e)?
        .letters
        .pop()
        .ok_or("gone")?;
    must!(l.generation == 1, "{l:?}");
    must!(store.purge(&all).await.map_err(e)? == 1, "purge");
    must!(
        store.inspect(&l.id).await.map_err(e)?.is_none(),
        "purged, but there"
    );
    seen.push(
        "claim dead in generation 1, granted in 2; dead again as generation 1; purged".into(),
    );
    // Two groups fail on one message: each gets its own letter and its own redrive.
    let mut second = sub_as(
        &w.b,
        n,
        Consumers::Group(name("audit")),
        30 * S,
        QoS::AtLeastOnce,
    )
    .await?;
    while !none(&mut second, ms(300)).await {}
    let id = put(w, n, "two").await?;
    for s in [&mut s, &mut second] {
        let d = one(s).await?;
        must!(d.envelope().id() == Some(id), "{d:?}");
        d.settle(Settlement::DeadLetter(Reason::new(
            ReasonKind::Terminal,
            "both",
        )))
        .await
        .map_err(e)?;
    }
    let first = store.list(&all, None, 1).await.map_err(e)?;
    let rest = store.list(&all, first.next.as_ref(), 10).await.map_err(e)?;
    must!(
        first.letters.len() == 1 && rest.letters.len() == 1,
        "pages of {} and {}",
        first.letters.len(),
        rest.letters.len()
    );
    for l in first.letters.iter().chain(&rest.letters) {
        store.redrive(&l.id).await.map_err(e)?;
    }
    for s in [&mut s, &mut second] {
        let d = one(s).await?;
        must!(
            d.generation() == 1 && d.envelope().id() == Some(id),
            "{d:?}"
        );
        d.settle(Settlement::Ack).await.map_err(e)?;
    }
    seen.push(
        "two groups failed on one id: two letters over two pages, each redriven to its group"
            .into(),
    );
    second.close().await.map_err(e)?;
    // Each node: the letter names the node, and the redrive reaches it alone.
    let each = |node: &str| Consumers::EachNode {
        group: name("caches"),
        node: name(node),
    };
    let mut x = sub_as(&w.a, n, each("n1"), 30 * S, QoS::AtLeastOnce).await?;
    let mut y = sub_as(&w.b, n, each("n2"), 30 * S, QoS::AtLeastOnce).await?;
    put(w, n, "both").await?;
    loop {
        let d = one(&mut x).await?;
        let both = d.envelope().payload().as_bytes().unwrap() == "both";
        d.settle(if both {
            Settlement::DeadLetter(Reason::new(ReasonKind::Terminal, "n1"))
        } else {
            Settlement::Ack
        })
        .await
        .map_err(e)?;
        if both {
            break;
        }
    }
    loop {
        let d = one(&mut y).await?;
        let both = d.envelope().payload().as_bytes().unwrap() == "both";
        d.settle(Settlement::Ack).await.map_err(e)?;
        if both {
            break;
        }
    }
    let l = store
        .list(&all, None, 10)
        .await
        .map_err(e)?
        .letters
        .pop()
        .ok_or("no letter of n1")?;
    must!(
        l.node == Some(name("n1")) && l.group == name("caches"),
        "{l:?}"
    );
    store.redrive(&l.id).await.map_err(e)?;
    let d = one(&mut x).await?;
    must!(
        d.generation() == 1 && none(&mut y, ms(500)).await,
        "reached the other node too"
    );
    d.settle(Settlement::Ack).await.map_err(e)?;
    seen.push(format!(
        "each_node: letter of {:?}/{:?}, redriven to that node alone",
        l.group, l.node
    ));
    for s in [&mut s, &mut x, &mut y] {
        s.close().await.map_err(e)?;
    }
    Ok(seen)
}

pub async fn request(w: &World) -> Step {
    let (t, n, svc) = (&w.a.transport, "price.of", name("shop"));
    let to = Target::Service(svc.clone());
    let ask = event(n, "apple");
    let start = Instant::now();
    let x = t
        .request(&to, &ask, 1, 2 * S)
        .await
        .err()
        .ok_or("answered by nobody")?;
    must!(
        x.kind() == ErrorKind::NoResponders && start.elapsed() < ms(300),
        "{x:?} after {:?}",
        start.elapsed()
    );
    let mut seen = vec![format!(
        "nobody there: {} in {} us",
        x.kind(),
        start.elapsed().as_micros()
    )];
    let mut s =
        w.b.transport
            .serve(&Serve::new(name(n), svc, name("n2")))
            .await
            .map_err(e)?;
    let asked = ask.clone();
    let served = tokio::spawn(async move {
        let mut log = Vec::new();
        for i in 0..3 {
            let d = one(&mut s).await?;
            must!(d.envelope().id() == asked.id(), "another id");
            log.push(format!(
                "attempt {} with {} ms left",
                d.count(),
                d.time_left().ok_or("no time left")?.as_millis()
            ));
            let reply = match i {
                0 => Reply::ok(Bytes::from_static(b"3")),
                _ => Reply::err(RemoteError {
                    kind: "handler".into(),
                    message: "sold out".into(),
                    retryable: false,
                }),
            };
            let what = if i == 2 {
                Settlement::Release
            } else {
                Settlement::Complete(Completion::new().with_response(reply))
            };
            d.settle(what).await.map_err(e)?;
        }
        Ok((s, log))
    });
    let r = t.request(&to, &ask, 2, 2 * S).await.map_err(e)?;
    must!(r == Reply::ok(Bytes::from_static(b"3")), "{r:?}");
    let r = t
        .request(&Target::Node(name("n2")), &ask, 3, S)
        .await
        .map_err(e)?;
    must!(
        r.result.as_ref().is_err_and(|x| x.message == "sold out"),
        "{r:?}"
    );
    let given = t.request(&to, &ask, 4, ms(600)).await;
    let (mut s, log): (_, Vec<String>) = served.await.map_err(|x| x.to_string())??;
    seen.push(format!(
        "answered, by service and by node, errors too: {}",
        log.join(", ")
    ));
    seen.push(format!(
        "released by the server: {:?}",
        given.map_err(|x| (x.kind(), x.may_be_stored()))
    ));
    let start = Instant::now();
    let x = t
        .request(&to, &event(n, "slow"), 1, ms(300))
        .await
        .err()
        .ok_or("answered")?;
    let took = start.elapsed();
    must!(
        x.kind() == ErrorKind::Timeout && x.may_be_stored() && took < ms(550),
        "{x:?} {took:?}"
    );
    seen.push(format!(
        "not answered: {} after {} ms",
        x.kind(),
        took.as_millis()
    ));
    // Idempotent: the claim, the kept response and the answer, completed together where the backend fuses them.
    let once = event(n, "once");
    let key = InboxKey {
        group: name("shop"),
        message: name(n),
        id: once.id().unwrap(),
    };
    let reply = Reply::ok(Bytes::from_static(b"42"));
    let serve = async {
        let d = loop {
            let d = one(&mut s).await?;
            if d.envelope().id() == once.id() {
                break d;
            }
        };
        let c = granted(
            w.a.inbox
                .as_ref()
                .unwrap()
                .claim(&key, Owner::new(), S, 0)
                .await
                .map_err(e)?,
        )?;
        complete_and_ack(w, d, c, Some(reply.clone()))
            .await
            .map_err(e)
    };
    let (answer, served) = tokio::join!(t.request(&to, &once, 1, 2 * S), serve);
    served?;
    must!(answer.as_ref().is_ok_and(|r| *r == reply), "{answer:?}");
    let kept =
        w.b.inbox
            .as_ref()
            .unwrap()
            .claim(&key, Owner::new(), S, 0)
            .await
            .map_err(e)?;
    must!(
        matches!(&kept, ClaimOutcome::Completed { response: Some(r), .. } if *r == reply),
        "{kept:?}"
    );
    seen.push("idempotent: answered, and the response is kept for a retry".into());
    s.close().await.map_err(e)?;
    let start = Instant::now();
    let gone = kind(t.request(&to, &event(n, "late"), 1, ms(500)).await);
    seen.push(format!(
        "(observed) after the only server closed: {gone:?} in {} ms",
        start.elapsed().as_millis()
    ));
    Ok(seen)
}

async fn event_of(watch: &mut Box<dyn NodeWatch>, what: &str) -> Result<String, String> {
    let ev = tokio::time::timeout(5 * S, watch.next())
        .await
        .map_err(|_| format!("no {what} in 5 s"))?
        .ok_or("watch ended")?;
    let short = match &ev {
        NodeEvent::Joined(n) => format!("Joined {}", n.id),
        NodeEvent::Left(n) => format!("Left {}", n.id),
        NodeEvent::Updated(n) => format!("Updated {} {}", n.id, n.load.as_percent()),
        other => format!("{other:?}"),
    };
    must!(short == what, "{short} instead of {what}");
    Ok(short)
}
pub async fn nodes(w: &World) -> Step {
    let (a, b) = (
        w.a.registry.as_ref().unwrap(),
        w.b.registry.as_ref().unwrap(),
    );
    let node = |id: &str| NodeInfo::new(name(id), name("shop"));
    let (mut n1, twin, n2) = (node("n1"), node("n1"), node("n2"));
    a.register(&n1).await.map_err(e)?;
    let r = (
        kind(b.register(&twin).await),
        kind(b.heartbeat(&twin).await),
        kind(b.unregister(&twin).await),
        kind(b.heartbeat(&n2).await),
    );
    must!(
        r == (
            Some(ErrorKind::DuplicateNode),
            Some(ErrorKind::LostOwnership),
            Some(ErrorKind::LostOwnership),
            Some(ErrorKind::NotFound)
        ),
        "{r:?}"
    );
    let mut seen = vec![format!(
        "double n1: register, heartbeat, unregister refused; heartbeat of an unknown one: {r:?}"
    )];
    let mut watch = b.watch().await.map_err(e)?;
    let mut order = vec![event_of(&mut watch, "Joined n1").await?];
    b.register(&n2).await.map_err(e)?;
    order.push(event_of(&mut watch, "Joined n2").await?);
    n1.load = Load::percent(40);
    a.heartbeat(&n1).await.map_err(e)?;
    order.push(event_of(&mut watch, "Updated n1 40").await?);
    b.unregister(&n2).await.map_err(e)?;
    order.push(event_of(&mut watch, "Left n2").await?);
    let (silent, timeout) = (Instant::now(), ms(1200));
    order.push(event_of(&mut watch, "Left n1").await?);
    let took = silent.elapsed();
    must!(took > timeout - ms(300), "given up after {took:?}");
    let alive = a.nodes().await.map_err(e)?;
    must!(alive.is_empty(), "{alive:?}");
    b.register(&twin).await.map_err(e)?;
    let late = kind(a.heartbeat(&n1).await);
    must!(late == Some(ErrorKind::LostOwnership), "{late:?}");
    seen.push(format!(
        "watch: {}; the silent one {} ms after its last heartbeat (timeout 1200)",
        order.join(", "),
        took.as_millis()
    ));
    seen.push(format!(
        "its successor registered; the old incarnation's heartbeat: {late:?}"
    ));
    Ok(seen)
}

pub async fn leases(w: &World) -> Step {
    let n = "long";
    let mut s = sub_of_one(&w.a, n, S).await?;
    put(w, n, "work").await?;
    let mut d = one(&mut s).await?;
    let mut other = sub(&w.b, n, S).await?;
    for _ in 0..4 {
        must!(
            none(&mut other, ms(500)).await,
            "redelivered although extended"
        );
        d.extend().await.map_err(e)?;
    }
    let start = Instant::now();
    let mut d2 = one(&mut other).await?;
    let waited = start.elapsed();
    must!(
        d2.count() == 2 && waited > ms(800),
        "count {} after {waited:?}",
        d2.count()
    );
    let extended = kind(d.extend().await);
    let naked = kind(d.settle(Settlement::Nak { after: S }).await);
    must!(
        (extended, naked)
            == (
                Some(ErrorKind::LostOwnership),
                Some(ErrorKind::LostOwnership)
            ),
        "{extended:?} {naked:?}"
    );
    d2.extend().await.map_err(e)?;
    let mut seen = vec![format!(
        "extended over 2 s of a 1 s lease: one delivery; then redelivered after {} ms, count 2; the former's extend and nak: LostOwnership; the holder's extend: Ok",
        waited.as_millis()
    )];
    d2.settle(Settlement::Release).await.map_err(e)?;
    s.close().await.map_err(e)?;
    let d3 = one(&mut other).await?;
    let uncounted =
        w.a.transport
            .capabilities()
            .has(Capability::UncountedRelease);
    must!(
        d3.count() == if uncounted { 2 } else { 3 },
        "count {} after release",
        d3.count()
    );
    seen.push(format!(
        "released at count 2, back at once with count {} (uncounted: {uncounted})",
        d3.count()
    ));
    d3.settle(Settlement::Term).await.map_err(e)?;
    pending_is(w, n, 0).await?;
    must!(
        none(&mut other, ms(300)).await,
        "terminated, but redelivered"
    );
    seen.push("Term: pending 0, never again".into());
    other.close().await.map_err(e)?;
    Ok(seen)
}

/// Not in the contracts' promises: what happens at their edges.
pub async fn edges(w: &World) -> Step {
    let mut seen = Vec::new();
    let n = "edges";
    let mut s = sub(&w.a, n, S).await?;
    let mut m = event(n, "x");
    for (k, v) in [("padded", " a b "), ("unicode", "grüße"), ("empty", "")] {
        m.headers_mut().insert(k, v).map_err(e)?;
    }
    w.a.transport.publish(&m, S).await.map_err(e)?;
    let d = one(&mut s).await?;
    seen.push(format!(
        "headers sent {:?}, came back {:?}",
        m.headers(),
        d.envelope().headers()
    ));
    d.settle(Settlement::Ack).await.map_err(e)?;
    let mut m = event(n, "x");
    m.headers_mut()
        .insert("Nats-Expected-Last-Sequence", "77")
        .map_err(e)?;
    seen.push(format!(
        "a user header Nats-Expected-Last-Sequence: {:?}",
        w.a.transport.publish(&m, S).await
    ));
    let mut m = event(n, "x");
    m.headers_mut().insert("Nats-Rollup", "all").map_err(e)?;
    let before = w.probe.stored(n).await;
    let r = w.a.transport.publish(&m, S).await;
    seen.push(format!(
        "a user header Nats-Rollup: all: {r:?}, server held {before}, holds {}",
        w.probe.stored(n).await
    ));
    let mut forged = Vec::new();
    for _ in 0..2 {
        let mut m = event(n, "forged");
        m.headers_mut().insert("Nats-Msg-Id", "same").map_err(e)?;
        forged.push(w.a.transport.publish(&m, S).await);
    }
    seen.push(format!(
        "two messages of different ids with a user header Nats-Msg-Id: {forged:?}"
    ));
    while !none(&mut s, ms(200)).await {}
    let m = event(n, vec![b'x'; 1024 * 1024 - 300]);
    w.a.transport.publish(&m, 2 * S).await.map_err(e)?;
    let big = loop {
        let d = one(&mut s).await?;
        if d.envelope().id() == m.id() {
            break d;
        }
        d.settle(Settlement::Ack).await.map_err(e)?;
    };
    let long = Reason::new(ReasonKind::Exhausted, "x".repeat(Reason::MAX_DETAIL_BYTES));
    seen.push(format!(
        "dead-lettering a payload of 1 MiB - 300 B with a reason of 4 KiB: {:?}",
        big.settle(Settlement::DeadLetter(long)).await
    ));
    // A late ack of a lease that ran out, while another holds the message.
    let n = "late";
    let mut s = sub_of_one(&w.a, n, S).await?;
    put(w, n, "x").await?;
    let d = one(&mut s).await?;
    let mut other = sub(&w.b, n, S).await?;
    let held = one(&mut other).await?;
    let late = d.settle(Settlement::Ack).await;
    w.a.transport.flush().await.map_err(e)?;
    tokio::time::sleep(ms(100)).await;
    seen.push(format!(
        "late ack: {late:?}; pending now {} while the holder of count {} still works",
        w.probe.pending(n, "billing.g").await,
        held.count()
    ));
    // What a full server does to settling.
    let mut full = sub(&w.a, "full", 30 * S).await?;
    put(w, "full", "x").await?;
    put(w, "full", "y").await?;
    let (d, d2) = (one(&mut full).await?, one(&mut full).await?);
    let key = InboxKey {
        group: name("billing.g"),
        message: name("full"),
        id: d.envelope().id().unwrap(),
    };
    let c = granted(
        w.a.inbox
            .as_ref()
            .unwrap()
            .claim(&key, Owner::new(), S, 0)
            .await
            .map_err(e)?,
    )?;
    w.probe.fill("full", true).await;
    let r = (
        kind(d2.settle(Settlement::Nak { after: S }).await),
        kind(complete_and_ack(w, d, c, None).await),
    );
    w.probe.fill("full", false).await;
    seen.push(format!("broker full: nak {:?}, complete {:?}", r.0, r.1));
    let h = Headers::new();
    seen.push(format!(
        "size_bytes counts no broker overhead: {} for a header-less message",
        h.size_bytes()
    ));
    for s in [&mut s, &mut other, &mut full] {
        s.close().await.map_err(e)?;
    }
    Ok(seen)
}
