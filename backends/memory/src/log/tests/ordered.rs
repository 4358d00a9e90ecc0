use std::num::NonZeroU16;

use super::*;

fn fixture() -> Fixture {
    let mut f = Fixture::new(20);
    for member in [1, 2] {
        let ordered = subscribe("g").with_ordered(NonZeroU16::new(4));
        f.log.join(member, &ordered).unwrap();
    }
    f
}

impl Fixture {
    fn push_to(&mut self, partition: u16, text: &'static str) {
        self.log.push(
            envelope(text).with_partition(Some(partition)),
            SystemTime::now(),
        );
    }

    fn texts(&mut self, member: MemberId) -> Vec<(String, Token)> {
        let handed = self.take(member, 10).into_iter();
        handed.map(|h| (text(&h.envelope), h.token)).collect()
    }
}

#[test]
fn one_of_a_partition_is_out_over_all_members() {
    let mut f = fixture();
    f.push_to(0, "a1");
    f.push_to(0, "a2");
    f.push_to(9, "b1");
    let first = f.texts(1);
    assert_eq!((first[0].0.as_str(), first[1].0.as_str()), ("a1", "b1"));
    assert!(f.texts(2).is_empty());
    f.settle(first[0].1, Verdict::Done).unwrap();
    assert_eq!(f.texts(2)[0].0, "a2");
}

#[test]
fn a_delay_holds_the_partition_and_no_other() {
    let mut f = fixture();
    f.push_to(0, "a1");
    f.push_to(0, "a2");
    let (_, a1) = f.texts(1).remove(0);
    f.settle(a1, Verdict::Retry(SECOND)).unwrap();
    f.push_to(1, "b1");
    assert_eq!(f.texts(2)[0].0, "b1");
    f.pass(SECOND / 2);
    assert!(f.texts(2).is_empty());
    f.pass(SECOND / 2);
    let again = f
        .take(2, 10)
        .into_iter()
        .find(|h| text(&h.envelope) == "a1")
        .unwrap();
    assert_eq!(again.count, 2);
    f.settle(again.token, Verdict::Done).unwrap();
    assert!(f.texts(2).iter().any(|(text, _)| text == "a2"));
}

#[test]
fn what_comes_back_is_first_again() {
    for end in [Some(RELEASE), Some(Verdict::Retry(Duration::ZERO)), None] {
        let mut f = fixture();
        f.push_to(0, "a1");
        f.push_to(0, "a2");
        let (_, a1) = f.texts(1).remove(0);
        match end {
            Some(verdict) => f.settle(a1, verdict).unwrap(),
            None => f.pass(SECOND),
        }
        assert_eq!(f.texts(2)[0].0, "a1");
    }
}

#[test]
fn a_dead_letter_frees_its_partition_and_queues_behind_when_redriven() {
    let mut f = fixture();
    for text in ["a1", "a2", "a3"] {
        f.push_to(0, text);
    }
    let mut order = Vec::new();
    let (_, a1) = f.texts(1).remove(0);
    f.settle(a1, poison()).unwrap();
    assert!(f.log.redrive(0));
    while let Some((text, token)) = f.texts(1).pop() {
        f.settle(token, Verdict::Done).unwrap();
        order.push(text);
    }
    assert_eq!(order, ["a2", "a3", "a1"]);
    assert!(f.log.slots.is_empty());
}

#[test]
fn a_new_group_begins_with_what_is_retained() {
    let mut f = Fixture::new(20);
    f.push_to(3, "a1");
    f.push_to(3, "a2");
    let ordered = subscribe("g").with_ordered(NonZeroU16::new(4));
    f.log.join(1, &ordered).unwrap();
    f.log.publish_waiting();
    assert_eq!(f.log.counts(1).waiting.load(Ordering::Relaxed), 2);
    assert_eq!(f.texts(1)[0].0, "a1");
}
