use std::sync::Arc;
use std::time::Duration;

use catga_core::{
    Claim, ClaimEnd, ClaimOutcome, ErrorKind, InboxKey, InboxStore, MessageId, Name, NodeId, Owner,
    RemoteError, Reply,
};

use crate::{NAME, SECOND, SOON, Space, TICK};

const LEASE: Duration = SOON;

async fn inbox(space: &Space) -> Arc<dyn InboxStore> {
    space.connect().await.inbox.unwrap()
}

fn key(id: &str) -> InboxKey {
    InboxKey::new(Name::from_static("shop.g"), NAME, MessageId::from_key(id))
}

async fn claim(inbox: &dyn InboxStore, id: &str, owner: Owner, generation: u32) -> ClaimOutcome {
    inbox
        .claim(&key(id), owner, LEASE, generation)
        .await
        .unwrap()
}

#[track_caller]
fn granted(outcome: ClaimOutcome) -> Claim {
    match outcome {
        ClaimOutcome::Granted(claim) => claim,
        other => panic!("not granted: {other:?}"),
    }
}

async fn take(inbox: &dyn InboxStore, id: &str) -> Claim {
    granted(claim(inbox, id, Owner::new(), 0).await)
}

#[tokio::test]
async fn of_many_one_is_granted() {
    let space = Space::new();
    let stores = [inbox(&space).await, inbox(&space).await];
    let claims = (0..20).map(|i| {
        let store = Arc::clone(&stores[i % 2]);
        async move { claim(&*store, "a", Owner::new(), 0).await }
    });
    let outcomes = futures_util::future::join_all(claims).await;
    let granted = outcomes
        .iter()
        .filter(|outcome| matches!(outcome, ClaimOutcome::Granted(_)));
    assert_eq!(granted.count(), 1);
    for outcome in outcomes {
        match outcome {
            ClaimOutcome::Granted(claim) => {
                assert_eq!((claim.attempt, claim.may_have_run), (1, false));
            }
            ClaimOutcome::Running { retry_after } => assert!(retry_after <= LEASE),
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn groups_nodes_and_ids_are_kept_apart() {
    let space = Space::new();
    let store = inbox(&space).await;
    let node = |node| key("a").with_node(Some(NodeId::from_static(node)));
    let other = InboxKey::new(Name::from_static("shop"), NAME, MessageId::from_key("a"));
    for key in [key("a"), key("b"), other, node("n1"), node("n2")] {
        granted(store.claim(&key, Owner::new(), LEASE, 0).await.unwrap());
    }
}

#[tokio::test]
async fn a_lease_that_is_over_is_taken_over_and_its_owner_is_powerless() {
    let space = Space::new();
    let (one, two) = (inbox(&space).await, inbox(&space).await);
    let lease = SECOND / 2;
    // Before it is asked: the answer to the claim may come late.
    let began = std::time::Instant::now();
    let mut first = granted(one.claim(&key("a"), Owner::new(), lease, 0).await.unwrap());
    let owner = Owner::new();
    let second = loop {
        match two.claim(&key("a"), owner, LEASE, 0).await.unwrap() {
            ClaimOutcome::Granted(claim) => break claim,
            ClaimOutcome::Running { retry_after } => {
                assert!(retry_after <= lease && began.elapsed() < SOON);
                tokio::time::sleep(retry_after).await;
            }
            other => panic!("{other:?}"),
        }
    };
    assert!(began.elapsed() + TICK >= lease);
    assert_eq!((second.attempt, second.may_have_run), (2, true));
    let lost = [
        one.renew(&mut first, LEASE).await,
        one.complete(&first, None, None).await,
        one.release(&first, ClaimEnd::Failed).await,
    ];
    for result in lost {
        assert_eq!(result.unwrap_err().kind(), ErrorKind::LostOwnership);
    }
    two.complete(&second, None, None).await.unwrap();
}

#[tokio::test]
async fn who_is_late_completes_as_long_as_nobody_has_taken_over() {
    let space = Space::new();
    let store = inbox(&space).await;
    let lease = SECOND / 10;
    let late = granted(
        store
            .claim(&key("a"), Owner::new(), lease, 0)
            .await
            .unwrap(),
    );
    tokio::time::sleep(lease * 2).await;
    let mut renewed = late.clone();
    let renewal = store.renew(&mut renewed, LEASE).await.unwrap_err();
    assert_eq!(
        renewal.kind(),
        ErrorKind::LostOwnership,
        "its lease is over"
    );
    store.complete(&late, None, None).await.unwrap();
    let copy = claim(&*store, "a", Owner::new(), 0).await;
    assert!(matches!(copy, ClaimOutcome::Completed { .. }), "{copy:?}");
}

#[tokio::test]
async fn a_lease_that_is_renewed_holds() {
    let space = Space::new();
    let (one, two) = (inbox(&space).await, inbox(&space).await);
    // A busy machine may take a while between two renewals.
    let lease = SECOND * 2;
    let mut held = granted(one.claim(&key("a"), Owner::new(), lease, 0).await.unwrap());
    for _ in 0..10 {
        let other = two.claim(&key("a"), Owner::new(), lease, 0).await.unwrap();
        assert!(matches!(other, ClaimOutcome::Running { .. }), "{other:?}");
        tokio::time::sleep(lease / 8).await;
        one.renew(&mut held, lease).await.unwrap();
    }
    one.complete(&held, None, None).await.unwrap();
}

#[tokio::test]
async fn an_owner_may_repeat() {
    let space = Space::new();
    let store = inbox(&space).await;
    let owner = Owner::new();
    let first = granted(claim(&*store, "a", owner, 0).await);
    let mut again = granted(claim(&*store, "a", owner, 0).await);
    assert_eq!((again.attempt, again.revision), (1, first.revision));
    store.renew(&mut again, LEASE).await.unwrap();
    // The first does not know of the renewal: the owner decides.
    store.complete(&first, None, None).await.unwrap();
    store.complete(&again, None, None).await.unwrap();
    let freed = take(&*store, "b").await;
    store.release(&freed, ClaimEnd::NotBegun).await.unwrap();
    store.release(&freed, ClaimEnd::NotBegun).await.unwrap();
    // Who heard no answer to its claim knows no revision.
    let owner = Owner::new();
    let third = granted(claim(&*store, "b", owner, 0).await);
    assert_eq!(third.attempt, 1);
    store
        .release(&Claim::new(key("b"), owner, 0), ClaimEnd::Failed)
        .await
        .unwrap();
    assert_eq!(take(&*store, "b").await.attempt, 2);
}

#[tokio::test]
async fn how_a_claim_ends_decides_what_counts() {
    let space = Space::new();
    let store = inbox(&space).await;
    for (id, end, attempt, may_have_run) in [
        ("a", ClaimEnd::NotBegun, 1, false),
        ("b", ClaimEnd::Stopped, 1, true),
        ("c", ClaimEnd::Failed, 2, true),
    ] {
        let held = take(&*store, id).await;
        store.release(&held, end).await.unwrap();
        let again = take(&*store, id).await;
        assert_eq!(
            (again.attempt, again.may_have_run),
            (attempt, may_have_run),
            "{end:?}"
        );
    }
}

#[tokio::test]
async fn what_is_completed_answers_with_its_response() {
    let space = Space::new();
    let store = inbox(&space).await;
    let failed = catga_core::Error::new(ErrorKind::Handler, "send", "no");
    let cbor = Reply::ok(vec![0, b'\n', 255].into()).with_content_type("application/cbor");
    let empty = Reply::ok(catga_core::Bytes::new());
    let failed = Reply::err(RemoteError::new(&failed));
    for (id, reply) in [("a", cbor), ("b", failed), ("empty", empty)] {
        let held = take(&*store, id).await;
        store.complete(&held, Some(&reply), None).await.unwrap();
        match claim(&*inbox(&space).await, id, Owner::new(), 0).await {
            ClaimOutcome::Completed {
                response,
                response_dropped,
            } => {
                assert_eq!((response, response_dropped), (Some(reply), false));
            }
            other => panic!("{other:?}"),
        }
    }
    let large = Reply::ok(vec![b'x'; 64 * 1024 + 1].into());
    let held = take(&*store, "c").await;
    store.complete(&held, Some(&large), None).await.unwrap();
    let outcome = claim(&*store, "c", Owner::new(), 0).await;
    let dropped = matches!(
        outcome,
        ClaimOutcome::Completed {
            response: None,
            response_dropped: true
        }
    );
    assert!(dropped, "{outcome:?}");
    let held = take(&*store, "d").await;
    store.complete(&held, None, None).await.unwrap();
    let outcome = claim(&*store, "d", Owner::new(), 5).await;
    let none = matches!(
        outcome,
        ClaimOutcome::Completed {
            response: None,
            response_dropped: false
        }
    );
    assert!(none, "{outcome:?}");
}

#[tokio::test]
async fn what_is_dead_is_claimed_by_the_next_generation() {
    let space = Space::new();
    let store = inbox(&space).await;
    let held = take(&*store, "a").await;
    store.release(&held, ClaimEnd::Dead).await.unwrap();
    let outcome = claim(&*store, "a", Owner::new(), 0).await;
    assert!(
        matches!(outcome, ClaimOutcome::Dead { generation: 0 }),
        "{outcome:?}"
    );
    let redriven = granted(claim(&*store, "a", Owner::new(), 1).await);
    assert_eq!(
        (redriven.generation, redriven.attempt, redriven.may_have_run),
        (1, 1, true)
    );
    let older = claim(&*store, "a", Owner::new(), 0).await;
    assert!(
        matches!(older, ClaimOutcome::Completed { response: None, .. }),
        "{older:?}"
    );
}
