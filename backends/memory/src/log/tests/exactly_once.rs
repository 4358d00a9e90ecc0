use catga_core::InboxLimits;

use super::*;

/// A log with one group at QoS 2 and the members 1 and 2.
fn fixture() -> Fixture {
    let mut f = Fixture::new(10);
    for member in [1, 2] {
        f.log.join(member, &at_qos_2()).unwrap();
    }
    f
}

fn at_qos_2() -> Subscribe {
    let consumers = Consumers::Group(Name::from_static("g"));
    Subscribe::new(NAME, QoS::ExactlyOnce, consumers)
        .with_ack_wait(SECOND)
        .with_max_in_flight(3)
}

fn with_id(text: &'static str) -> Envelope {
    Envelope::received(NAME, QoS::ExactlyOnce, Bytes::from_static(text.as_bytes()))
        .with_id(MessageId::from_key(text))
}

impl Fixture {
    fn push_id(&mut self, text: &'static str) {
        self.log.push(with_id(text), SystemTime::now());
    }

    fn duplicates(&self) -> u64 {
        let counts = [1, 2].map(|member| self.log.counts(member));
        let counts = counts.iter().map(|c| c.duplicates.load(Ordering::Relaxed));
        counts.sum()
    }

    /// What a member gets: text, count, whether it may have run, token.
    fn get(&mut self, member: MemberId) -> Option<(String, u32, bool, Token)> {
        let handed = self.take(member, 1).pop()?;
        assert!(handed.claim.is_some());
        let text = text(&handed.envelope);
        Some((text, handed.count, handed.may_have_run, handed.token))
    }

    fn is_empty(&self) -> bool {
        self.log.slots.is_empty() && self.log.leases.len() == 0
    }
}

#[test]
fn a_copy_waits_for_the_one_that_runs_and_is_done_with_it() {
    let mut f = fixture();
    for text in ["a", "a", "b", "a"] {
        f.push_id(text);
    }
    let (_, _, _, a) = f.get(1).unwrap();
    let (next, _, _, b) = f.get(2).unwrap();
    assert_eq!(next, "b");
    assert!(f.get(2).is_none(), "both copies wait");
    f.log.publish_waiting();
    let waiting = f.log.counts(1).waiting.load(Ordering::Relaxed);
    assert_eq!((waiting, f.log.slots.len()), (2, 4));
    f.settle(a, Verdict::Done).unwrap();
    assert_eq!((f.duplicates(), f.log.slots.len()), (2, 1));
    f.settle(b, Verdict::Done).unwrap();
    f.push_id("a");
    assert!(f.get(1).is_none());
    assert!(f.is_empty() && f.duplicates() == 3);
}

#[test]
fn one_goes_on_when_the_one_that_runs_fails() {
    for end in [
        Some(Verdict::Retry(Duration::ZERO)),
        Some(Verdict::Retry(SECOND / 2)),
        Some(RELEASE),
        Some(Verdict::Release { began: true }),
        None,
    ] {
        let shown = format!("{end:?}");
        let ran = !matches!(end, Some(Verdict::Release { began: false }));
        let counted = !matches!(end, Some(Verdict::Release { .. }));
        let mut f = fixture();
        f.push_id("a");
        f.push_id("a");
        let (_, _, _, first) = f.get(1).unwrap();
        assert!(f.get(2).is_none());
        if let Some(verdict) = end {
            f.settle(first, verdict).unwrap();
        }
        f.pass(SECOND);
        let (_, count, may_have_run, second) = f.get(2).unwrap();
        assert_eq!(
            (count, may_have_run),
            (1 + u32::from(counted), ran),
            "{shown}"
        );
        assert!(f.get(1).is_none(), "{shown}");
        let lost = f.settle(first, Verdict::Done).unwrap_err();
        assert_eq!(lost.kind(), ErrorKind::LostOwnership);
        f.settle(second, Verdict::Done).unwrap();
        assert!(f.is_empty() && f.duplicates() == 1, "{shown}");
    }
}

#[test]
fn another_copy_is_told_what_ran_and_counts_on() {
    let later = SECOND * 10;
    for (verdict, expected) in [
        (Verdict::Retry(later), (2, true)),
        (Verdict::Defer(later), (1, false)),
    ] {
        let mut f = fixture();
        f.push_id("a");
        let (_, _, _, first) = f.get(1).unwrap();
        f.settle(first, verdict).unwrap();
        f.push_id("a");
        let (_, count, may_have_run, copy) = f.get(2).unwrap();
        assert_eq!((count, may_have_run), expected);
        f.settle(copy, Verdict::Done).unwrap();
        f.pass(later);
        assert!(f.get(1).is_none());
        assert!(f.is_empty() && f.duplicates() == 1);
    }
}

/// Of a job whose record is forgotten while it waits: its age or its number may be the reason.
#[test]
fn a_job_counts_on_when_its_record_was_forgotten() {
    let brief = Settings {
        limits: InboxLimits::default().with_retention(SECOND),
        ..Settings::default()
    };
    let small = Settings {
        inbox: 1,
        ..Settings::default()
    };
    for settings in [brief, small] {
        let mut f = fixture();
        f.log = Log::new(NAME, settings, Arc::default());
        f.log.join(1, &at_qos_2()).unwrap();
        f.push_id("a");
        for failed in 0..4 {
            let (_, count, may_have_run, token) = f.get(1).unwrap();
            assert_eq!((count, may_have_run), (failed + 1, failed > 0));
            if failed == 3 {
                f.settle(token, poison()).unwrap();
                break;
            }
            f.settle(token, Verdict::Retry(SECOND * 10)).unwrap();
            f.push_id("b");
            let other = f.get(1).map(|(_, _, _, token)| token);
            if let Some(other) = other {
                f.settle(other, Verdict::Done).unwrap();
            }
            f.pass(SECOND * 10);
        }
        let letters = f.log.letters.list(&DeadLetterFilter::all(), None, 10);
        assert_eq!((letters.len(), letters[0].deliveries), (1, 4));
        assert!(f.is_empty());
    }
}

#[test]
fn a_purged_id_is_a_duplicate_until_its_retention_ends() {
    let settings = Settings {
        limits: InboxLimits::default().with_retention(SECOND * 60),
        ..Settings::default()
    };
    let mut f = fixture();
    f.log = Log::new(NAME, settings, Arc::default());
    f.log.join(1, &at_qos_2()).unwrap();
    f.push_id("a");
    let (_, _, _, token) = f.get(1).unwrap();
    f.settle(token, poison()).unwrap();
    assert_eq!(f.log.letters.purge(&DeadLetterFilter::all()), 1);
    f.push_id("a");
    assert!(f.get(1).is_none());
    assert!(f.is_empty() && f.duplicates() == 1);
    f.pass(SECOND * 60);
    f.push_id("a");
    let (_, count, may_have_run, _) = f.get(1).unwrap();
    assert_eq!((count, may_have_run), (1, false));
}

#[test]
fn a_batch_that_nobody_read_never_ran() {
    let mut f = fixture();
    f.push_id("a");
    let handover = Arc::<Handover>::default();
    assert_eq!(f.log.take(1, 1, f.now, &handover).len(), 1);
    f.pass(SECOND);
    let (_, count, may_have_run, _) = f.get(1).unwrap();
    assert_eq!((count, may_have_run), (1, false));
}

#[test]
fn what_is_lost_settles_nothing() {
    let mut f = fixture();
    f.push_id("a");
    let (_, _, _, stale) = f.get(1).unwrap();
    f.pass(SECOND);
    let (_, _, _, token) = f.get(2).unwrap();
    for verdict in [
        Verdict::Done,
        Verdict::Extend,
        RELEASE,
        Verdict::Retry(SECOND),
        poison(),
    ] {
        let lost = f.settle(stale, verdict).unwrap_err();
        assert_eq!(lost.kind(), ErrorKind::LostOwnership);
    }
    f.settle(token, Verdict::Done).unwrap();
    assert!(f.is_empty());
}

#[test]
fn a_claim_is_lost_with_its_lease_although_nobody_looked() {
    let mut f = fixture();
    f.push_id("a");
    let (_, _, _, stale) = f.get(1).unwrap();
    f.now += SECOND;
    let lost = f.settle(stale, Verdict::Done).unwrap_err();
    assert_eq!(lost.kind(), ErrorKind::LostOwnership);
    let (_, count, may_have_run, _) = f.get(1).unwrap();
    assert_eq!((count, may_have_run), (2, true));
}

#[test]
fn a_dead_id_stays_so_until_it_is_redriven() {
    let mut f = fixture();
    f.push_id("a");
    f.push_id("a");
    let (_, _, _, token) = f.get(1).unwrap();
    assert!(f.get(2).is_none());
    f.settle(token, poison()).unwrap();
    assert_eq!(f.duplicates(), 1);
    f.push_id("a");
    assert!(f.get(1).is_none() && f.duplicates() == 2);
    assert!(f.log.redrive(0));
    f.push_id("a");
    let handed = f.take(1, 5);
    assert_eq!(
        handed.len(),
        1,
        "a copy of the first generation is none of the second"
    );
    let redriven = &handed[0];
    assert_eq!((redriven.generation, redriven.count), (1, 1));
    assert!(redriven.may_have_run);
    f.settle(redriven.token, Verdict::Done).unwrap();
    assert!(f.is_empty() && f.duplicates() == 3);
}

#[test]
fn a_generation_is_dead_lettered_once() {
    let settings = Settings {
        capacity: 10,
        dead_letters: 1,
        inbox: 1,
        ..Settings::default()
    };
    let mut f = fixture();
    f.log = Log::new(NAME, settings, Arc::default());
    f.log.join(1, &at_qos_2()).unwrap();
    // The id is forgotten in between, because the inbox keeps but one.
    for (text, verdict) in [("a", poison()), ("b", Verdict::Done), ("a", poison())] {
        f.push_id(text);
        let (_, _, _, token) = f.get(1).unwrap();
        f.settle(token, verdict).unwrap();
    }
    let letters = f.log.letters.list(&DeadLetterFilter::all(), None, 10);
    assert_eq!((letters.len(), f.is_empty()), (1, true));
    assert_eq!(f.log.letters.purge(&DeadLetterFilter::all()), 1);
    f.push_id("b");
    let (_, _, _, token) = f.get(1).unwrap();
    f.settle(token, poison()).unwrap();
    assert_eq!(
        f.log.letters.list(&DeadLetterFilter::all(), None, 10).len(),
        1
    );
}

#[test]
fn an_id_is_known_for_as_long_as_the_retention_says() {
    let settings = Settings {
        limits: InboxLimits::default().with_retention(SECOND * 60),
        ..Settings::default()
    };
    let mut f = fixture();
    f.log = Log::new(NAME, settings, Arc::default());
    f.log.join(1, &at_qos_2()).unwrap();
    f.push_id("a");
    let (_, _, _, token) = f.get(1).unwrap();
    f.settle(token, Verdict::Done).unwrap();
    f.pass(SECOND * 59);
    f.push_id("a");
    assert!(f.get(1).is_none());
    f.pass(SECOND);
    f.push_id("a");
    assert!(f.get(1).is_some());
}

#[test]
fn without_the_own_inbox_copies_are_deliveries() {
    let mut f = Fixture::new(10);
    f.log.join(1, &at_qos_2().with_own_inbox(false)).unwrap();
    f.push_id("a");
    f.push_id("a");
    let handed = f.take(1, 5);
    assert!(handed.len() == 2 && handed.iter().all(|h| h.claim.is_none()));
    f.settle(handed[0].token, Verdict::Retry(Duration::ZERO))
        .unwrap();
    assert_eq!(f.take(1, 5)[0].count, 2);
}

#[test]
fn members_of_a_group_ask_alike() {
    let mut f = fixture();
    for (other, part) in [
        (subscribe("g"), "qos=at_least_once"),
        (at_qos_2().with_own_inbox(false), "own_inbox=false"),
        (
            at_qos_2().with_ordered(std::num::NonZeroU16::new(4)),
            "ordered=4",
        ),
    ] {
        let error = f.log.join(3, &other).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Conflict);
        let message = error.message();
        assert!(message.contains("qos=exactly_once, ordered=no"), "{error}");
        assert!(message.contains(part), "{error}");
    }
}

#[test]
fn what_its_member_completed_does_not_lapse_while_its_word_is_on_its_way() {
    let mut f = fixture();
    f.push_id("a");
    let handed = f.take(1, 1).pop().unwrap();
    assert!(handed.claim.unwrap().end.decide());
    f.pass(2 * SECOND);
    assert!(f.get(2).is_none());
    f.settle(handed.token, Verdict::Done).unwrap();
    f.push_id("a");
    assert!(f.get(2).is_none() && f.is_empty());
    assert_eq!(f.duplicates(), 1);
}
