//! An idempotent request is answered as often as it is asked, and runs once: rows 81, 82, 84, 85 and 88.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use catga::prelude::{Catga, FailWith, Result, handlers};
use catga::{Envelope, Error, ErrorKind, HandlerError, InboxStore, Json, MessageId, Name};
use catga_core::{
    Claim, ClaimEnd, ClaimOutcome, Effects, InboxKey, Message, Owner, Reply, Target, async_trait,
};
use tokio::time::Instant;

use crate::harness::{Bus, SOON, needs_nodes, scenarios, wait_for_nodes};
use crate::journal::{Journal, Play, Step};
use crate::messages::{Answer, Ask, on_ask};
use crate::parts::{Line, Order, Placed, Print, on_order, on_print};

scenarios! { Backend "idempotency":
    Paused a_response_is_kept [82, 84],
    Paused a_lost_reply_is_sent_again [84],
    Paused a_duplicate_waits_for_the_first,
    Paused a_duplicate_runs_when_the_first_failed,
    Paused a_terminal_error_is_kept,
    Paused a_large_response_is_not_kept,
    Paused a_response_is_forgotten,
    Paused a_dying_node_hands_on,
    Paused a_fail_over_to_the_sender,
    Paused a_reply_lost_on_the_way_to_the_sender [84],
    Paused a_broadcast_runs_once_on_each_node,
    Paused not_idempotent_touches_no_store,
    Paused without_a_store_nothing_runs,
}

pub(super) const MINUTE: Duration = Duration::from_secs(60);

pub(super) async fn taking(bus: &Bus, id: &str, play: Play) -> Result<Catga> {
    let node = bus.node(id).state(play).request_deadline(SOON);
    Ok(node.handlers(handlers![on_order, on_print]).start().await?)
}

/// A node that only sends, over a line that loses so many replies; and who owns the connection.
async fn over_a_line(bus: &Bus, nodes: usize, lost: u32) -> Result<(Catga, Catga)> {
    let owner = bus.observer().await?;
    let line = Line::losing(owner.backend(), lost);
    let caller = Catga::builder().driver(line).connect(Line::URL);
    let caller = caller
        .service("suite")
        .node("caller")
        .request_deadline(SOON);
    let caller = caller.handlers(handlers![]).start().await?;
    wait_for_nodes(&caller, nodes + 2).await;
    Ok((caller, owner))
}

pub(super) async fn seen(node: &Catga, nodes: usize) {
    wait_for_nodes(node, nodes).await;
}

pub(super) fn letter<M: Message>(message: M) -> Result<Envelope> {
    let mut letter = Envelope::new(message).with_id(MessageId::new());
    letter.encode(&Json)?;
    Ok(letter)
}

pub(super) fn node(id: &str) -> Target {
    Target::Node(Name::token(id).expect("a token"))
}

/// Sends a letter as it is: what a caller does that tries again.
pub(super) async fn ask(from: &Catga, to: &str, letter: &Envelope, attempt: u32) -> Result<Reply> {
    let transport = &from.backend().transport;
    Ok(transport
        .request(&node(to), letter, attempt, Some(SOON))
        .await?)
}

pub(super) fn placed(reply: &Reply) -> Placed {
    let bytes = reply.result.as_ref().expect("it was answered");
    let json = Envelope::received(
        Name::from_static("Placed"),
        catga::QoS::AtMostOnce,
        bytes.clone(),
    );
    let bytes = json.payload().as_bytes().expect("given as bytes");
    catga_core::Codecs::default()
        .decode(Some(Json::CONTENT_TYPE), bytes)
        .expect("a response")
}

/// Rows 82 and 84: whoever of the service gets an id again answers what the first answered, and runs nothing.
async fn a_response_is_kept(bus: Bus) -> Result<()> {
    let journal = Journal::default();
    let a = taking(&bus, "a", journal.plain()).await?;
    let b = taking(&bus, "b", journal.plain()).await?;
    let letter = letter(Order { id: 7 })?;
    let first = ask(&a, "a", &letter, 1).await?;
    assert_eq!(placed(&first).node, "a");
    for to in ["b", "a", "b"] {
        assert_eq!(ask(&a, to, &letter, 2).await?, first);
    }
    assert_eq!(journal.starts(7).len(), 1);
    let duplicates = |node: &Catga| node.handlers().iter().map(|h| h.stats.duplicates).sum();
    let (of_a, of_b): (u64, u64) = (duplicates(&a), duplicates(&b));
    assert_eq!((of_a, of_b), (1, 2));
    Ok(())
}

/// Row 84: a caller whose reply was lost asks again, and gets the reply that was stored.
async fn a_lost_reply_is_sent_again(bus: Bus) -> Result<()> {
    let journal = Journal::default();
    let _a = taking(&bus, "a", journal.plain()).await?;
    let _b = taking(&bus, "b", journal.plain()).await?;
    let (caller, _owner) = over_a_line(&bus, 2, 3).await?;
    let answer = caller.send(Order { id: 1 }).await?;
    let starts = journal.starts(1);
    assert_eq!(starts.len(), 1);
    assert_eq!(answer.node, starts[0].node, "not what the first answered");
    assert!(!answer.may_have_run);
    assert_eq!(caller.send(Order { id: 2 }).await?.id, 2);
    assert_eq!(journal.handled(), [1, 2]);
    Ok(())
}

/// A duplicate that meets a running claim waits, and gets the response of the first.
async fn a_duplicate_waits_for_the_first(bus: Bus) -> Result<()> {
    let journal = Journal::default();
    let play = journal.play(|_| async {
        tokio::time::sleep(Duration::from_secs(5)).await;
        Ok(())
    });
    let a = taking(&bus, "a", play.clone()).await?;
    let b = taking(&bus, "b", play).await?;
    let letter = letter(Order { id: 0 })?;
    let began = Instant::now();
    let (first, second, third) = tokio::join!(
        ask(&b, "a", &letter, 1),
        async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            ask(&a, "b", &letter, 2).await
        },
        async {
            tokio::time::sleep(Duration::from_secs(2)).await;
            ask(&a, "a", &letter, 3).await
        }
    );
    let first = first?;
    assert_eq!((second?, third?), (first.clone(), first));
    assert!(began.elapsed() < Duration::from_secs(10), "too late");
    assert_eq!(journal.starts(0).len(), 1);
    for node in [a, b] {
        assert!(node.handlers().iter().all(|h| h.stats.in_flight == 0));
    }
    Ok(())
}

/// When the first fails, and may be tried again, the duplicate that waits runs, and is told.
async fn a_duplicate_runs_when_the_first_failed(bus: Bus) -> Result<()> {
    let journal = Journal::default();
    let count = journal.clone();
    let play = journal.play(move |scene| {
        let first = count.starts(scene.id).len() == 1;
        async move {
            tokio::time::sleep(Duration::from_secs(1)).await;
            if first {
                return Err(HandlerError::retry("not yet"));
            }
            Ok(())
        }
    });
    let a = taking(&bus, "a", play.clone()).await?;
    let b = taking(&bus, "b", play).await?;
    let letter = letter(Order { id: 0 })?;
    let (first, second) = tokio::join!(ask(&b, "a", &letter, 1), async {
        tokio::time::sleep(Duration::from_millis(500)).await;
        ask(&a, "b", &letter, 2).await
    });
    let error = first?.result.expect_err("it failed");
    assert!(error.retryable && error.may_have_run, "{error:?}");
    let second = placed(&second?);
    assert_eq!((second.node.as_str(), second.may_have_run), ("b", true));
    assert_eq!(journal.starts(0).len(), 2);
    Ok(())
}

/// An error that no retry can mend is kept as a response is: the same again, and nothing runs.
async fn a_terminal_error_is_kept(bus: Bus) -> Result<()> {
    let journal = Journal::default();
    let play = journal.play(|_| async { Err("no such product").terminal() });
    let a = taking(&bus, "a", play.clone()).await?;
    let _b = taking(&bus, "b", play).await?;
    let letter = letter(Order { id: 0 })?;
    let first = ask(&a, "a", &letter, 1).await?;
    let error = first.clone().result.expect_err("it failed");
    assert!(
        !error.retryable && error.message.contains("no such product"),
        "{error:?}"
    );
    assert_eq!(ask(&a, "b", &letter, 2).await?, first);
    let error = error.into_error("send");
    assert_eq!(error.kind(), ErrorKind::Handler);
    assert_eq!(journal.starts(0).len(), 1);
    Ok(())
}

/// Of a response above the limit the first caller hears all, and a retry that it was there.
async fn a_large_response_is_not_kept(bus: Bus) -> Result<()> {
    let journal = Journal::default();
    let a = bus.node("a").state(journal.plain()).responses(MINUTE, 1000);
    let a = a.handlers(handlers![on_print]).start().await?;
    for (id, bytes, kept) in [(0, 900, true), (1, 1001, false)] {
        let letter = letter(Print { id, bytes })?;
        let first = ask(&a, "a", &letter, 1).await?;
        let text = first.result.as_ref().expect("it was answered");
        assert_eq!(text.len(), bytes + 2, "with its quotes");
        let again = ask(&a, "a", &letter, 2).await?;
        if kept {
            assert_eq!(again, first);
        } else {
            let error = again.result.expect_err("it was too large");
            assert!(!error.retryable, "{error:?}");
            let error = error.into_error("send");
            assert_eq!(error.kind(), ErrorKind::ResponseNotKept);
            assert!(error.may_be_stored(), "it has run: {error:?}");
        }
        assert_eq!(journal.starts(id).len(), 1);
    }
    Ok(())
}

/// A response is kept for as long as was said, and then its id is a new one.
async fn a_response_is_forgotten(bus: Bus) -> Result<()> {
    let journal = Journal::default();
    let a = bus.node("a").state(journal.plain());
    // What is waited for has a wide berth: by the clock on the wall machines are slow.
    let second = Duration::from_secs(1);
    let a = a.request_deadline(bus.by_clock(SOON, second));
    let a = a.responses(bus.by_clock(5 * MINUTE, 5 * second), 1000);
    let a = a.handlers(handlers![on_order]).start().await?;
    let letter = letter(Order { id: 0 })?;
    ask(&a, "a", &letter, 1).await?;
    tokio::time::sleep(bus.by_clock(4 * MINUTE, second)).await;
    ask(&a, "a", &letter, 2).await?;
    assert_eq!(journal.starts(0).len(), 1, "forgotten too early");
    tokio::time::sleep(bus.by_clock(2 * MINUTE, 5 * second)).await;
    ask(&a, "a", &letter, 3).await?;
    assert_eq!(journal.starts(0).len(), 2, "kept for longer than was said");
    Ok(())
}

/// A node that is stopped half-way hands the request on, which runs elsewhere, and is told.
async fn a_dying_node_hands_on(bus: Bus) -> Result<()> {
    let journal = Journal::default();
    let play = journal.play(|scene| async move {
        if scene.context.node().as_str() == "a" {
            tokio::time::sleep(MINUTE).await;
        }
        Ok(())
    });
    let a = taking(&bus, "a", play.clone()).await?;
    let caller = bus.observer().await?;
    seen(&caller, 2).await;
    let sender = caller.clone();
    let answer = tokio::spawn(async move { sender.send(Order { id: 0 }).await });
    journal.wait(Step::Started, 1, SOON).await;
    let _b = taking(&bus, "b", play).await?;
    seen(&caller, 3).await;
    assert_eq!(a.shutdown_within(Duration::ZERO).await?.unfinished, 1);
    let answer = answer.await??;
    assert_eq!((answer.node.as_str(), answer.may_have_run), ("b", true));
    assert_eq!(journal.count(Step::Dropped), 1);
    assert_eq!(journal.starts(0).len(), 2);
    Ok(())
}

/// A request that failed elsewhere and comes back to its sender is claimed there like any other.
async fn a_fail_over_to_the_sender(bus: Bus) -> Result<()> {
    let journal = Journal::default();
    let play = journal.play(|scene| async move {
        if scene.context.node().as_str() == "a" {
            return Err(HandlerError::retry("out of order"));
        }
        Ok(())
    });
    let _a = taking(&bus, "a", play.clone()).await?;
    let b = taking(&bus, "b", play).await?;
    // Where no node knows another, a request that its own node answers goes nowhere else.
    needs_nodes(&b).await?;
    seen(&b, 2).await;
    let mut came_back = 0;
    for id in 0..4 {
        let answer = b.send(Order { id }).await?;
        let runs = journal.starts(id).len();
        assert_eq!(
            (answer.node.as_str(), answer.may_have_run),
            ("b", runs == 2)
        );
        came_back += runs - 1;
    }
    assert_eq!(
        came_back, 2,
        "not every second one went to the other node first"
    );
    Ok(())
}

/// Row 84: a fail-over to the sender of what was done elsewhere is answered with what was done there.
async fn a_reply_lost_on_the_way_to_the_sender(bus: Bus) -> Result<()> {
    let journal = Journal::default();
    let _a = taking(&bus, "a", journal.plain()).await?;
    let owner = bus.observer().await?;
    let line = Line::losing(owner.backend(), 1);
    let b = Catga::builder().driver(line).connect(Line::URL);
    let b = b.service("suite").node("b").state(journal.plain());
    let b = b.handlers(handlers![on_order]).start().await?;
    needs_nodes(&b).await?;
    seen(&b, 3).await;
    for id in 0..4 {
        assert_eq!(b.send(Order { id }).await?.id, id);
        assert_eq!(journal.starts(id).len(), 1, "request {id}");
    }
    assert_eq!(journal.shares().len(), 2);
    Ok(())
}

/// A broadcast runs once on each node, also where replies are lost and it is tried again.
async fn a_broadcast_runs_once_on_each_node(bus: Bus) -> Result<()> {
    let journal = Journal::default();
    let mut nodes = Vec::new();
    for id in ["a", "b", "c"] {
        nodes.push(taking(&bus, id, journal.plain()).await?);
    }
    let (caller, _owner) = over_a_line(&bus, 3, 4).await?;
    for (id, from) in [(0, &caller), (1, &nodes[0])] {
        seen(from, 5).await;
        let outcomes = from.broadcast(Order { id }).await?;
        let answers: Vec<_> = outcomes
            .into_iter()
            .map(|outcome| outcome.result.map(|answer| answer.node))
            .collect::<Result<_, _>>()?;
        assert_eq!(answers, ["a", "b", "c"]);
        assert_eq!(journal.starts(id).len(), 3, "broadcast {id}");
    }
    Ok(())
}

/// An inbox that cannot be asked, and counts who does.
#[derive(Debug, Default)]
struct Gone(AtomicUsize);

impl Gone {
    fn asked<T>(&self) -> Result<T, Error> {
        self.0.fetch_add(1, Ordering::Relaxed);
        Err(Error::new(ErrorKind::Unavailable, "claim", "gone"))
    }
}

#[async_trait]
impl InboxStore for Gone {
    async fn claim(
        &self,
        _: &InboxKey,
        _: Owner,
        _: Duration,
        _: u32,
    ) -> Result<ClaimOutcome, Error> {
        self.asked()
    }

    async fn renew(&self, _: &mut Claim, _: Duration) -> Result<(), Error> {
        self.asked()
    }

    async fn complete(
        &self,
        _: &Claim,
        _: Option<&Reply>,
        _: Option<&Effects>,
    ) -> Result<(), Error> {
        self.asked()
    }

    async fn release(&self, _: &Claim, _: ClaimEnd) -> Result<(), Error> {
        self.asked()
    }
}

async fn without_an_inbox(bus: &Bus, play: Play) -> Result<(Catga, Arc<Gone>)> {
    let gone = Arc::new(Gone::default());
    let inbox: Arc<dyn InboxStore> = Arc::clone(&gone) as _;
    let node = bus.node("a").state(play).inbox(inbox);
    let node = node.handlers(handlers![on_ask, on_order]).start().await?;
    Ok((node, gone))
}

/// A request that is not idempotent touches no store, and neither does a direct call that is the first try.
async fn not_idempotent_touches_no_store(bus: Bus) -> Result<()> {
    let journal = Journal::default();
    let (a, gone) = without_an_inbox(&bus, journal.plain()).await?;
    let caller = bus.observer().await?;
    seen(&caller, 2).await;
    for id in 0..10 {
        let (id, node) = (id, "a".to_owned());
        assert_eq!(caller.send(Ask { id }).await?, Answer { id, node });
        assert_eq!(a.send(Ask { id: 10 + id }).await?.id, 10 + id);
        assert_eq!(a.send(Order { id: 20 + id }).await?.id, 20 + id);
        assert_eq!(a.send_to("a", Order { id: 30 + id }).await?.id, 30 + id);
    }
    assert_eq!(journal.handled(), (0..40).collect::<Vec<_>>());
    assert_eq!(gone.0.load(Ordering::Relaxed), 0, "a store was asked");
    Ok(())
}

/// An idempotent request whose inbox cannot be asked is not handled, and its caller may try again.
async fn without_a_store_nothing_runs(bus: Bus) -> Result<()> {
    let journal = Journal::default();
    let (_a, gone) = without_an_inbox(&bus, journal.plain()).await?;
    let caller = bus.observer().await?;
    seen(&caller, 2).await;
    let error = caller.send(Order { id: 0 }).await.expect_err("no inbox");
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(!error.may_be_stored(), "nothing ran: {error:?}");
    assert_eq!(gone.0.load(Ordering::Relaxed), 4, "it was not tried again");
    assert_eq!(journal.notes(), []);
    Ok(())
}
