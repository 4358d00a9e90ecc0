use std::time::Duration;

use catga_core::Bytes;

use super::*;

mod random;

const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3600);

struct Fixture {
    inbox: Inbox<u64, u64>,
    now: Instant,
}

impl Fixture {
    fn new(most: usize) -> Self {
        let limits = InboxLimits::default()
            .with_retention(HOUR)
            .with_responses(HOUR / 6, 10);
        Self {
            inbox: Inbox::new(Name::from_static("orders.created"), limits, most),
            now: Instant::now(),
        }
    }

    fn claim(&mut self, owner: u64, generation: u32) -> Claimed {
        let lease = Some(self.now + SECOND);
        self.inbox.claim(&1, owner, lease, generation, self.now)
    }

    fn renew(&mut self, owner: u64) -> Result<(), Lost> {
        self.inbox.renew(&1, owner, self.now + SECOND, self.now)
    }

    fn complete(&mut self, owner: u64) -> Result<bool, Lost> {
        self.inbox.complete(&1, owner, None, self.now)
    }

    fn release(&mut self, owner: u64, end: ClaimEnd) -> Result<(), Lost> {
        self.inbox.release(&1, owner, end, self.now)
    }

    fn pass(&mut self, time: Duration) {
        self.now += time;
    }
}

fn granted(attempt: u32, may_have_run: bool) -> Claimed {
    Claimed::Granted {
        attempt,
        may_have_run,
    }
}

#[test]
fn one_owner_while_its_lease_holds() {
    let mut f = Fixture::new(10);
    assert_eq!(f.claim(1, 0), granted(1, false));
    let until = Some(f.now + SECOND);
    assert_eq!(f.claim(2, 0), Claimed::Running { until });
    f.pass(SECOND / 2);
    f.renew(1).unwrap();
    f.pass(SECOND * 3 / 4);
    assert!(matches!(f.claim(2, 0), Claimed::Running { .. }));
    f.pass(SECOND / 4);
    assert_eq!(f.claim(2, 0), granted(2, true));
    for lost in [
        f.renew(1),
        f.complete(1).map(drop),
        f.release(1, ClaimEnd::Failed),
        f.release(1, ClaimEnd::Dead),
    ] {
        assert_eq!(lost, Err(Lost));
    }
    assert_eq!(f.complete(2), Ok(true));
}

#[test]
fn an_expired_claim_is_lost_although_nobody_took_it_over() {
    let mut f = Fixture::new(10);
    f.claim(1, 0);
    f.pass(SECOND);
    assert_eq!(f.complete(1), Err(Lost));
    assert_eq!(f.release(1, ClaimEnd::Failed), Err(Lost));
    assert_eq!(f.claim(1, 0), granted(2, true));
}

#[test]
fn an_owner_may_repeat() {
    let mut f = Fixture::new(10);
    assert_eq!(f.claim(1, 0), granted(1, false));
    assert_eq!(f.claim(1, 0), granted(1, false));
    assert_eq!((f.renew(1), f.renew(1)), (Ok(()), Ok(())));
    let failed = ClaimEnd::Failed;
    assert_eq!(
        (f.release(1, failed), f.release(1, failed)),
        (Ok(()), Ok(()))
    );
    assert_eq!(f.claim(2, 0), granted(2, true));
    assert_eq!(f.release(1, failed), Err(Lost));
    assert_eq!((f.complete(2), f.complete(2)), (Ok(true), Ok(false)));
    assert_eq!(f.claim(2, 0), Claimed::Completed(Response::None));
    f.inbox.claim(&2, 3, None, 0, f.now);
    for _ in 0..2 {
        assert_eq!(f.inbox.release(&2, 3, ClaimEnd::Dead, f.now), Ok(()));
    }
}

#[test]
fn attempts_count_what_failed_and_runs_what_began() {
    let mut f = Fixture::new(10);
    assert_eq!(f.claim(1, 0), granted(1, false));
    f.release(1, ClaimEnd::NotBegun).unwrap();
    assert_eq!(f.claim(2, 0), granted(1, false));
    f.release(2, ClaimEnd::Stopped).unwrap();
    assert_eq!(f.claim(3, 0), granted(1, true));
    f.release(3, ClaimEnd::Failed).unwrap();
    assert_eq!(f.claim(4, 0), granted(2, true));
    f.release(4, ClaimEnd::NotBegun).unwrap();
    assert_eq!(f.claim(5, 0), granted(2, true));
}

#[test]
fn a_dead_id_is_claimed_by_the_next_generation_alone() {
    let mut f = Fixture::new(10);
    f.claim(1, 0);
    f.release(1, ClaimEnd::Dead).unwrap();
    assert_eq!(f.claim(2, 0), Claimed::Dead { generation: 0 });
    assert_eq!(f.claim(3, 2), granted(1, true));
    // Copies of what was redriven since are handled with it.
    assert_eq!(f.claim(4, 1), Claimed::Completed(Response::None));
    f.release(3, ClaimEnd::Failed).unwrap();
    assert_eq!(f.claim(4, 1), Claimed::Completed(Response::None));
    assert_eq!(f.claim(5, 2), granted(2, true));
    f.complete(5).unwrap();
    assert_eq!(f.claim(6, 0), Claimed::Completed(Response::None));
    assert_eq!(f.claim(6, 3), Claimed::Completed(Response::None));
}

#[test]
fn records_leave_after_their_retention() {
    let mut f = Fixture::new(10);
    f.claim(1, 0);
    f.complete(1).unwrap();
    f.pass(HOUR * 3 / 4);
    assert_eq!(f.claim(2, 0), Claimed::Completed(Response::None));
    f.pass(HOUR / 4);
    assert_eq!(f.claim(2, 0), granted(1, false));
    f.release(2, ClaimEnd::Dead).unwrap();
    f.pass(HOUR);
    assert_eq!(f.claim(3, 0), granted(1, false));
    // A lease that ends is followed by the rest of what gives up.
    f.pass(HOUR);
    assert!(f.inbox.next_deadline().is_some());
    f.inbox.expire(f.now);
    assert_eq!(f.inbox.records.len(), 1);
    f.pass(SECOND);
    f.inbox.expire(f.now);
    assert!(f.inbox.records.is_empty() && f.inbox.next_deadline().is_none());
}

#[test]
fn a_dead_id_that_was_claimed_again_is_not_forgotten_with_its_death() {
    let mut f = Fixture::new(10);
    f.claim(1, 0);
    f.release(1, ClaimEnd::Dead).unwrap();
    f.pass(HOUR / 2);
    f.claim(2, 1);
    f.complete(2).unwrap();
    f.pass(HOUR / 2);
    assert_eq!(f.claim(3, 1), Claimed::Completed(Response::None));
    f.pass(HOUR / 2);
    assert_eq!(f.claim(3, 1), granted(1, false));
}

#[test]
fn responses_are_kept_up_to_their_size_and_time() {
    let mut f = Fixture::new(10);
    let small = Reply::ok(Bytes::from_static(b"0123456789"));
    let large = Reply::ok(Bytes::from_static(b"0123456789a"));
    for (key, reply) in [(1, &small), (2, &large)] {
        f.inbox.claim(&key, 1, None, 0, f.now);
        f.inbox
            .complete(&key, 1, Some(reply.clone()), f.now)
            .unwrap();
    }
    assert_eq!(
        f.claim(2, 0),
        Claimed::Completed(Response::Kept(Box::new(small)))
    );
    let second = f.inbox.claim(&2, 2, None, 0, f.now);
    assert_eq!(second, Claimed::Completed(Response::Dropped));
    f.pass(HOUR / 6);
    assert_eq!(f.claim(2, 0), granted(1, false));
    f.inbox.expire(f.now);
    assert_eq!(f.inbox.records.len(), 1);
}

#[test]
fn only_what_ended_goes_by_count_and_the_oldest_first() {
    let mut f = Fixture::new(2);
    let reply = || Some(Reply::ok(Bytes::new()));
    f.inbox.claim(&100, 1, None, 0, f.now);
    f.inbox.claim(&101, 1, None, 0, f.now);
    f.inbox.release(&101, 1, ClaimEnd::Failed, f.now).unwrap();
    for (key, reply) in [(1, reply()), (2, None), (3, reply()), (4, None)] {
        f.pass(SECOND);
        f.inbox.claim(&key, 1, None, 0, f.now);
        f.inbox.complete(&key, 1, reply, f.now).unwrap();
    }
    let mut kept: Vec<u64> = f.inbox.records.keys().copied().collect();
    kept.sort_unstable();
    assert_eq!((kept, f.inbox.evicted), (vec![3, 4, 100], 3));
}

/// Ids that are given up and never claimed again, whether their owners say so or are gone.
#[test]
fn what_was_given_up_counts_too() {
    for lapses in [false, true] {
        let mut f = Fixture::new(100);
        for id in 0..100_000 {
            let lease = Some(f.now + SECOND);
            f.inbox.claim(&id, id, lease, 0, f.now);
            if lapses {
                f.pass(SECOND);
                f.inbox.expire(f.now);
            } else {
                f.inbox.release(&id, id, ClaimEnd::Failed, f.now).unwrap();
            }
            let Inbox {
                records, leases, ..
            } = &f.inbox;
            assert!(records.len() <= 100 && leases.is_empty());
        }
        assert_eq!(f.inbox.evicted, 100_000 - 100);
        let newest = (99_900..100_000).all(|id| f.inbox.records.contains_key(&id));
        assert!(newest, "the oldest go");
    }
}

/// Neither kind pushes the other out: only age counts.
#[test]
fn an_idle_id_stays_while_it_is_younger_than_the_oldest_completed_one() {
    let mut f = Fixture::new(100);
    let complete = |f: &mut Fixture, id: u64| {
        f.inbox.claim(&id, id, None, 0, f.now);
        f.inbox.complete(&id, id, None, f.now).unwrap();
    };
    (1000..1100).for_each(|id| complete(&mut f, id));
    f.claim(1, 0);
    f.release(1, ClaimEnd::Failed).unwrap();
    assert!(!f.inbox.records.contains_key(&1000));
    for id in 1100..1199 {
        complete(&mut f, id);
        assert!(f.inbox.records.contains_key(&1), "at {id}");
    }
    // All that are older went before it; the next goes instead of it while it is claimed.
    assert!(!f.inbox.records.contains_key(&1099));
    assert_eq!(f.claim(2, 0), granted(2, true));
    complete(&mut f, 1199);
    complete(&mut f, 1200);
    assert!(!f.inbox.records.contains_key(&1100));
    assert_eq!(f.complete(2), Ok(true));
    (1201..1300).for_each(|id| complete(&mut f, id));
    assert_eq!(f.claim(3, 0), Claimed::Completed(Response::None));
    complete(&mut f, 1300);
    assert_eq!(f.claim(3, 0), granted(1, false));
}

#[test]
fn an_id_that_is_claimed_makes_room_before_another_is_forgotten() {
    let mut f = Fixture::new(1);
    f.claim(1, 0);
    f.release(1, ClaimEnd::Failed).unwrap();
    f.inbox.claim(&2, 2, Some(f.now + SECOND), 0, f.now);
    f.pass(SECOND);
    // The other lease is over only now: for a moment two are idle.
    assert_eq!(f.claim(3, 0), granted(2, true));
    assert!(f.inbox.records.contains_key(&2) && f.inbox.evicted == 0);
    f.pass(SECOND);
    f.inbox.claim(&3, 4, None, 0, f.now);
    assert!(!f.inbox.records.contains_key(&2) && f.inbox.evicted == 1);
}

/// More ids than are kept: memory stays bounded, whatever the bound is.
#[test]
fn a_million_ids_stay_within_the_bound() {
    for most in [1000, crate::options::Settings::default().inbox] {
        let mut f = Fixture::new(most);
        for id in 0..1_100_000 {
            f.inbox.claim(&id, id, None, 0, f.now);
            f.inbox.complete(&id, id, None, f.now).unwrap();
        }
        let Inbox {
            records,
            leases,
            ended,
            ..
        } = &f.inbox;
        assert_eq!((records.len(), ended.len(), leases.len()), (most, most, 0));
        assert_eq!(f.inbox.evicted, 1_100_000 - most as u64);
        f.pass(HOUR);
        f.inbox.expire(f.now);
        assert!(f.inbox.records.is_empty() && f.inbox.ended.len() == 0);
    }
}
