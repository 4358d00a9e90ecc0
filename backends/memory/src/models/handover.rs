use std::sync::Arc;

use shuttle::thread;

use super::check;
use crate::handover::{ClaimEnd, Handover};

#[test]
fn a_batch_is_taken_or_revoked_and_both_sides_know() {
    check(|| {
        let handover = Arc::new(Handover::default());
        let member = Arc::clone(&handover);
        let member = thread::spawn(move || (member.take(), member.take()));
        let revoked = (handover.revoke(), handover.revoke());
        let taken = member.join().unwrap();
        assert_eq!(taken.0, taken.1, "the member was told two things");
        assert_eq!(revoked.0, revoked.1, "the log was told two things");
        assert_ne!(taken.0, revoked.0, "both or neither have it");
    });
}

#[test]
fn one_side_says_how_a_claim_ended() {
    check(|| {
        let end = Arc::new(ClaimEnd::default());
        let member = Arc::clone(&end);
        let member = thread::spawn(move || member.decide());
        let log = end.decide();
        assert_ne!(member.join().unwrap(), log, "both or neither ended it");
        assert!(!end.decide(), "it was ended twice");
    });
}
