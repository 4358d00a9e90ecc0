use catga_core::{
    Bytes, Consumers, DeadLetterFilter, ErrorKind, MessageId, QoS, Reason, ReasonKind,
};

use std::sync::atomic::Ordering;

use super::*;

mod exactly_once;
mod ordered;
mod random;

const NAME: Name = Name::from_static("orders.created");

struct Fixture {
    log: Log,
    now: Instant,
}

impl Fixture {
    fn new(capacity: usize) -> Self {
        let settings = Settings {
            capacity,
            dead_letters: 2,
            ..Settings::default()
        };
        Self {
            log: Log::new(NAME, settings, Arc::default()),
            now: Instant::now(),
        }
    }

    fn push(&mut self, text: &'static str) {
        self.log.push(envelope(text), SystemTime::now());
    }

    fn join(&mut self, id: MemberId, group: &'static str) -> GroupId {
        self.log.join(id, &subscribe(group)).unwrap()
    }

    fn take(&mut self, member: MemberId, max: usize) -> Vec<Handed> {
        let handover = Arc::<Handover>::default();
        assert!(handover.take());
        self.log.take(member, max, self.now, &handover)
    }

    /// One entry: its text, count and token.
    fn one(&mut self, member: MemberId) -> Option<(String, u32, Token)> {
        self.take(member, 1).pop().map(|handed| {
            let text = text(&handed.envelope);
            (text, handed.count, handed.token)
        })
    }

    fn settle(&mut self, token: Token, verdict: Verdict) -> Result<(), Error> {
        self.log.settle(token, verdict, self.now)
    }

    fn pass(&mut self, time: Duration) {
        self.now += time;
        self.log.expire(self.now);
    }
}

fn envelope(text: &'static str) -> Envelope {
    Envelope::received(NAME, QoS::AtLeastOnce, Bytes::from_static(text.as_bytes()))
}

fn text(envelope: &Envelope) -> String {
    let bytes = envelope.payload().as_bytes().unwrap();
    String::from_utf8(bytes.to_vec()).unwrap()
}

fn subscribe(group: &'static str) -> Subscribe {
    let consumers = Consumers::Group(Name::from_static(group));
    Subscribe::new(NAME, QoS::AtLeastOnce, consumers)
        .with_ack_wait(SECOND)
        .with_max_in_flight(3)
}

const SECOND: Duration = Duration::from_secs(1);
const RELEASE: Verdict = Verdict::Release { began: false };

fn poison() -> Verdict {
    Verdict::DeadLetter(Reason::new(ReasonKind::Terminal, "no"))
}

#[test]
fn an_entry_stays_until_every_group_has_done_with_it() {
    let mut f = Fixture::new(10);
    f.join(1, "a");
    f.join(2, "b");
    f.push("x");
    let (_, _, a) = f.one(1).unwrap();
    f.settle(a, Verdict::Done).unwrap();
    assert_eq!(f.log.slots.len(), 1);
    let (_, _, b) = f.one(2).unwrap();
    f.settle(b, Verdict::Done).unwrap();
    assert!(f.log.slots.is_empty() && f.log.leases.len() == 0);
}

#[test]
fn a_new_group_begins_at_the_oldest_or_at_the_end() {
    let mut f = Fixture::new(10);
    f.push("early");
    f.join(1, "a");
    f.log
        .join(2, &subscribe("b").with_start(Start::New))
        .unwrap();
    f.push("late");
    assert_eq!(f.one(1).unwrap().0, "early");
    assert_eq!(f.one(1).unwrap().0, "late");
    assert_eq!(f.one(2).unwrap().0, "late");
    assert!(f.one(2).is_none());
}

#[test]
fn without_a_group_the_oldest_is_dropped_and_counted() {
    let mut f = Fixture::new(2);
    for text in ["a", "b", "c"] {
        assert!(f.log.has_room());
        f.push(text);
    }
    assert_eq!(f.log.dropped, 1);
    f.join(1, "g");
    assert!(!f.log.has_room());
    assert_eq!(f.one(1).unwrap().0, "b");
}

#[test]
fn acks_make_room() {
    let mut f = Fixture::new(1);
    f.join(1, "g");
    f.push("a");
    assert!(!f.log.has_room());
    let (_, _, token) = f.one(1).unwrap();
    assert!(!f.log.has_room());
    f.settle(token, Verdict::Done).unwrap();
    assert!(f.log.has_room());
}

#[test]
fn a_member_holds_no_more_than_its_limit() {
    let mut f = Fixture::new(10);
    f.join(1, "g");
    for text in ["a", "b", "c", "d"] {
        f.push(text);
    }
    let held = f.take(1, 100);
    assert_eq!(held.len(), 3);
    assert!(f.take(1, 100).is_empty());
    f.settle(held[0].token, Verdict::Done).unwrap();
    assert_eq!(f.one(1).unwrap().0, "d");
}

#[test]
fn a_lease_that_ends_counts_and_its_token_is_worthless() {
    let mut f = Fixture::new(10);
    f.join(1, "g");
    f.push("a");
    let (_, first, stale) = f.one(1).unwrap();
    assert_eq!(first, 1);
    assert_eq!(f.log.next_deadline(), Some(f.now + SECOND));
    f.pass(SECOND);
    let late = f.settle(stale, Verdict::Done).unwrap_err();
    assert_eq!(late.kind(), ErrorKind::LostOwnership);
    assert_eq!(f.log.late_acks, 1);
    let (_, second, token) = f.one(1).unwrap();
    assert_eq!(second, 2);
    // The stale token does not reach the delivery that followed it.
    for verdict in [
        Verdict::Done,
        Verdict::Extend,
        RELEASE,
        Verdict::Retry(SECOND),
        poison(),
    ] {
        assert!(f.settle(stale, verdict).is_err());
    }
    assert_eq!((f.log.leases.len(), f.log.slots.len()), (1, 1));
    f.settle(token, Verdict::Done).unwrap();
    assert!(f.log.slots.is_empty());
}

#[test]
fn an_extension_starts_the_lease_anew() {
    let mut f = Fixture::new(10);
    f.join(1, "g");
    f.push("a");
    let (_, _, token) = f.one(1).unwrap();
    for _ in 0..5 {
        f.pass(SECOND * 3 / 4);
        f.settle(token, Verdict::Extend).unwrap();
    }
    f.settle(token, Verdict::Done).unwrap();
    assert!(f.log.slots.is_empty() && f.log.leases.len() == 0);
}

#[test]
fn a_nak_waits_for_its_delay_and_goes_before_what_is_new() {
    let mut f = Fixture::new(10);
    f.join(1, "g");
    f.push("a");
    f.push("b");
    f.push("c");
    let (_, _, a) = f.one(1).unwrap();
    f.settle(a, Verdict::Retry(SECOND)).unwrap();
    let (text, _, b) = f.one(1).unwrap();
    assert_eq!(text, "b");
    f.settle(b, Verdict::Done).unwrap();
    f.pass(SECOND / 2);
    assert_eq!(f.log.next_deadline(), Some(f.now + SECOND / 2));
    f.pass(SECOND / 2);
    let (text, count, _) = f.one(1).unwrap();
    assert_eq!((text.as_str(), count), ("a", 2));
}

#[test]
fn a_release_is_not_counted_and_goes_to_the_front() {
    let mut f = Fixture::new(10);
    f.join(1, "g");
    f.push("a");
    f.push("b");
    let taken = f.take(1, 2);
    f.settle(taken[1].token, RELEASE).unwrap();
    f.settle(taken[0].token, RELEASE).unwrap();
    let again = f.take(1, 2);
    let shown: Vec<_> = again.iter().map(|h| (text(&h.envelope), h.count)).collect();
    assert_eq!(shown, [("a".to_owned(), 1), ("b".to_owned(), 1)]);
}

#[test]
fn a_batch_that_nobody_read_expires_uncounted_and_in_order() {
    let mut f = Fixture::new(10);
    f.join(1, "g");
    f.push("a");
    f.push("b");
    let handover = Arc::<Handover>::default();
    assert_eq!(f.log.take(1, 2, f.now, &handover).len(), 2);
    f.pass(SECOND);
    assert!(!handover.take(), "the member comes too late");
    let again = f.take(1, 2);
    let shown: Vec<_> = again.iter().map(|h| (text(&h.envelope), h.count)).collect();
    assert_eq!(shown, [("a".to_owned(), 1), ("b".to_owned(), 1)]);
}

#[test]
fn what_a_member_held_keeps_its_lease_when_it_leaves() {
    let mut f = Fixture::new(10);
    f.join(1, "g");
    f.push("a");
    let (_, _, token) = f.one(1).unwrap();
    f.log.leave(1);
    f.join(2, "g");
    assert!(f.one(2).is_none());
    f.settle(token, Verdict::Done).unwrap();
    assert!(f.log.slots.is_empty());
}

#[test]
fn a_dead_letter_leaves_the_log_and_comes_back_to_its_group_alone() {
    let mut f = Fixture::new(10);
    f.join(1, "a");
    f.join(2, "b");
    f.push("x");
    let (_, _, token) = f.one(1).unwrap();
    f.settle(token, poison()).unwrap();
    let (_, _, other) = f.one(2).unwrap();
    f.settle(other, Verdict::Done).unwrap();
    assert!(f.log.slots.is_empty());
    let letters = f.log.letters.list(&DeadLetterFilter::all(), None, 10);
    assert_eq!((letters.len(), letters[0].group.as_str()), (1, "a"));
    assert!(f.log.redrive(0) && !f.log.redrive(0));
    assert!(f.one(2).is_none());
    let (text, count, token) = f.one(1).unwrap();
    assert_eq!((text.as_str(), count), ("x", 1));
    f.settle(token, poison()).unwrap();
    assert_eq!(f.log.letters.inspect(1).unwrap().generation, 1);
}

#[test]
fn a_full_store_of_dead_letters_loses_nothing() {
    let mut f = Fixture::new(10);
    f.join(1, "g");
    for text in ["a", "b", "c"] {
        f.push(text);
    }
    let first = f.take(1, 3);
    f.settle(first[0].token, poison()).unwrap();
    f.settle(first[1].token, poison()).unwrap();
    let full = f.settle(first[2].token, poison()).unwrap_err();
    assert_eq!(full.kind(), ErrorKind::LimitReached);
    f.pass(SECOND);
    let (text, count, token) = f.one(1).unwrap();
    assert_eq!((text.as_str(), count), ("c", 2));
    assert_eq!(f.log.letters.purge(&DeadLetterFilter::all()), 2);
    f.settle(token, poison()).unwrap();
}

#[test]
fn what_waits_is_counted() {
    let mut f = Fixture::new(10);
    f.join(1, "g");
    let counts = f.log.counts(1);
    for text in ["a", "b", "c"] {
        f.push(text);
    }
    let taken = f.take(1, 2);
    f.settle(taken[0].token, RELEASE).unwrap();
    f.settle(taken[1].token, Verdict::Retry(SECOND)).unwrap();
    f.log.publish_waiting();
    assert_eq!(counts.waiting.load(Ordering::Relaxed), 3);
    f.pass(SECOND);
    f.take(1, 2);
    f.log.publish_waiting();
    assert_eq!(counts.waiting.load(Ordering::Relaxed), 1);
}

#[test]
fn what_ran_is_told_although_it_is_not_counted() {
    let mut f = Fixture::new(10);
    f.join(1, "g");
    f.push("a");
    let first = f.take(1, 1).remove(0);
    assert!(!first.may_have_run && first.claim.is_none());
    f.settle(first.token, RELEASE).unwrap();
    let second = f.take(1, 1).remove(0);
    assert!(!second.may_have_run);
    let stopped = Verdict::Release { began: true };
    f.settle(second.token, stopped).unwrap();
    let third = f.take(1, 1).remove(0);
    assert_eq!((third.count, third.may_have_run), (1, true));
    f.pass(SECOND);
    let fourth = f.take(1, 1).remove(0);
    assert_eq!((fourth.count, fourth.may_have_run), (2, true));
    f.settle(fourth.token, poison()).unwrap();
    assert!(f.log.redrive(0));
    let redriven = f.take(1, 1).remove(0);
    assert_eq!((redriven.count, redriven.may_have_run), (1, true));
}

#[test]
fn a_new_limit_holds_from_now_on() {
    let mut f = Fixture::new(10);
    f.join(1, "g");
    for text in ["a", "b", "c", "d", "e"] {
        f.push(text);
    }
    assert_eq!(f.take(1, 10).len(), 3);
    f.log.limit(1, 1);
    assert!(f.take(1, 10).is_empty());
    f.log.limit(1, 4);
    assert_eq!(f.take(1, 10).len(), 1);
}
