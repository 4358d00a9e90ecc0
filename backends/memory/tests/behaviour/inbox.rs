use std::sync::Arc;
use std::time::Duration;

use catga_core::{
    Bytes, Claim, ClaimEnd, ClaimOutcome, Driver, Effects, ErrorKind, InboxKey, InboxLimits,
    InboxStore, MessageId, Name, Owner, Reply,
};
use catga_memory::{DRIVER, Memory, MemoryTransaction};
use tokio::time::advance;

use crate::{NAME, NAMESPACE, SECOND, connect};

async fn inbox() -> Arc<dyn InboxStore> {
    connect("memory://").await.inbox.unwrap()
}

fn key(text: &str) -> InboxKey {
    InboxKey::new(Name::from_static("orders"), NAME, MessageId::from_key(text))
}

async fn claim(inbox: &dyn InboxStore, owner: Owner) -> ClaimOutcome {
    inbox.claim(&key("1"), owner, SECOND, 0).await.unwrap()
}

async fn granted(inbox: &dyn InboxStore, owner: Owner) -> Claim {
    match claim(inbox, owner).await {
        ClaimOutcome::Granted(claim) => claim,
        other => panic!("not granted: {other:?}"),
    }
}

async fn effects(inbox: &dyn InboxStore, key: &str) -> Option<Bytes> {
    let store = inbox.commit_store().unwrap();
    let store = store.downcast_ref::<Memory>().unwrap();
    store.get(key).await.unwrap()
}

fn put(key: &str) -> Effects {
    let mut transaction = MemoryTransaction::default();
    transaction.put(key, "done");
    Effects::new(transaction)
}

#[tokio::test(start_paused = true)]
async fn concurrent_claims_grant_one() {
    let inbox = inbox().await;
    let claims: Vec<_> = (0..32)
        .map(|_| {
            let inbox = Arc::clone(&inbox);
            tokio::spawn(async move { claim(&*inbox, Owner::new()).await })
        })
        .collect();
    let mut grants = 0;
    for claim in claims {
        match claim.await.unwrap() {
            ClaimOutcome::Granted(claim) => {
                assert_eq!((claim.attempt, claim.may_have_run), (1, false));
                grants += 1;
            }
            ClaimOutcome::Running { retry_after } => assert!(retry_after <= SECOND),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(grants, 1);
    // Another group, node or message has claims of its own.
    let others = [
        InboxKey::new(Name::from_static("billing"), NAME, MessageId::from_key("1")),
        key("1").with_node(Some(Name::from_static("n1"))),
        key("2"),
    ];
    for other in others {
        let claimed = inbox.claim(&other, Owner::new(), SECOND, 0).await.unwrap();
        assert!(matches!(claimed, ClaimOutcome::Granted(_)), "{other:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_expired_claim_is_taken_over() {
    let inbox = inbox().await;
    let mut first = granted(&*inbox, Owner::new()).await;
    advance(SECOND / 2).await;
    inbox.renew(&mut first, SECOND).await.unwrap();
    advance(SECOND * 3 / 4).await;
    let running = claim(&*inbox, Owner::new()).await;
    let ClaimOutcome::Running { retry_after } = running else {
        panic!("{running:?}");
    };
    assert_eq!(retry_after, SECOND / 4);
    advance(SECOND / 4).await;
    let second = granted(&*inbox, Owner::new()).await;
    assert_eq!((second.attempt, second.may_have_run), (2, true));
    assert_eq!(second.generation, 0);
}

#[tokio::test(start_paused = true)]
async fn a_lost_claim_cannot_settle() {
    let inbox = inbox().await;
    let mut zombie = granted(&*inbox, Owner::new()).await;
    advance(SECOND).await;
    let heir = granted(&*inbox, Owner::new()).await;
    let effect = put("zombie");
    let mut outcomes = vec![
        inbox.renew(&mut zombie, SECOND).await,
        inbox.complete(&zombie, None, Some(&effect)).await,
    ];
    for end in [
        ClaimEnd::NotBegun,
        ClaimEnd::Stopped,
        ClaimEnd::Failed,
        ClaimEnd::Dead,
    ] {
        outcomes.push(inbox.release(&zombie, end).await);
    }
    for outcome in outcomes {
        assert_eq!(outcome.unwrap_err().kind(), ErrorKind::LostOwnership);
    }
    inbox
        .complete(&heir, None, Some(&put("heir")))
        .await
        .unwrap();
    assert_eq!(effects(&*inbox, "zombie").await, None);
    assert!(effects(&*inbox, "heir").await.is_some());
}

#[tokio::test(start_paused = true)]
async fn an_owner_may_repeat() {
    let inbox = inbox().await;
    let owner = Owner::new();
    let mut first = granted(&*inbox, owner).await;
    let again = granted(&*inbox, owner).await;
    assert_eq!((again.attempt, again.may_have_run), (1, false));
    for _ in 0..2 {
        inbox.renew(&mut first, SECOND).await.unwrap();
    }
    for _ in 0..2 {
        inbox.release(&first, ClaimEnd::Failed).await.unwrap();
    }
    let second = granted(&*inbox, Owner::new()).await;
    assert_eq!((second.attempt, second.may_have_run), (2, true));
    inbox
        .complete(&second, None, Some(&put("a")))
        .await
        .unwrap();
    // Applied once: what others wrote meanwhile stays.
    let deletes = {
        let mut transaction = MemoryTransaction::default();
        transaction.delete("a");
        Effects::new(transaction)
    };
    inbox.complete(&second, None, Some(&deletes)).await.unwrap();
    assert!(effects(&*inbox, "a").await.is_some());
}

#[tokio::test(start_paused = true)]
async fn completed_is_final() {
    let options = catga_core::ConnectOptions::new(NAMESPACE).with_inbox(
        InboxLimits::default()
            .with_retention(SECOND * 100)
            .with_responses(SECOND * 10, 4),
    );
    let url = "memory://".parse().unwrap();
    let backend = DRIVER.connect(&url, &options).await.unwrap();
    let inbox = backend.inbox.unwrap();
    for (response, kept, dropped, retention) in [
        (None, false, false, 100),
        (Some("1234"), true, false, 10),
        (Some("12345"), false, true, 10),
    ] {
        let claim = granted(&*inbox, Owner::new()).await;
        let reply = response.map(|text| Reply::ok(Bytes::from_static(text.as_bytes())));
        inbox.complete(&claim, reply.as_ref(), None).await.unwrap();
        advance(SECOND * (retention - 1)).await;
        for generation in [0, 7] {
            let key = key("1");
            let again = inbox.claim(&key, Owner::new(), SECOND, generation);
            match again.await.unwrap() {
                ClaimOutcome::Completed {
                    response,
                    response_dropped,
                } => {
                    assert_eq!(response, reply.clone().filter(|_| kept));
                    assert_eq!(response_dropped, dropped);
                }
                other => panic!("{other:?}"),
            }
        }
        advance(SECOND).await;
    }
    granted(&*inbox, Owner::new()).await;
}

#[tokio::test(start_paused = true)]
async fn effects_with_the_claim() {
    let inbox = inbox().await;
    let claim = granted(&*inbox, Owner::new()).await;
    let foreign = Effects::new("of another store".to_owned());
    let refused = inbox.complete(&claim, None, Some(&foreign)).await;
    assert_eq!(refused.unwrap_err().kind(), ErrorKind::Unsupported);
    assert_eq!(effects(&*inbox, "a").await, None);
    inbox.complete(&claim, None, Some(&put("a"))).await.unwrap();
    assert_eq!(
        effects(&*inbox, "a").await,
        Some(Bytes::from_static(b"done"))
    );
}

#[tokio::test(start_paused = true)]
async fn a_dead_id_is_claimed_by_a_redrive() {
    let inbox = inbox().await;
    let first = granted(&*inbox, Owner::new()).await;
    inbox.release(&first, ClaimEnd::Dead).await.unwrap();
    let dead = claim(&*inbox, Owner::new()).await;
    assert!(
        matches!(dead, ClaimOutcome::Dead { generation: 0 }),
        "{dead:?}"
    );
    let next = inbox
        .claim(&key("1"), Owner::new(), SECOND, 1)
        .await
        .unwrap();
    let ClaimOutcome::Granted(next) = next else {
        panic!("{next:?}");
    };
    assert_eq!(
        (next.generation, next.attempt, next.may_have_run),
        (1, 1, true)
    );
}

#[tokio::test(start_paused = true)]
async fn the_connections_of_a_bus_share_it_and_a_closed_one_has_none() {
    let one = connect("memory://shared-inbox").await;
    let two = connect("memory://shared-inbox").await;
    let (mine, yours) = (one.inbox.unwrap(), two.inbox.unwrap());
    let claim = granted(&*mine, Owner::new()).await;
    assert!(matches!(
        yours
            .claim(&key("1"), Owner::new(), SECOND, 0)
            .await
            .unwrap(),
        ClaimOutcome::Running { .. }
    ));
    one.transport.close().await.unwrap();
    let closed = mine.release(&claim, ClaimEnd::Failed).await.unwrap_err();
    assert_eq!(closed.kind(), ErrorKind::Closed);
    let closed = mine.claim(&key("2"), Owner::new(), Duration::ZERO, 0).await;
    assert_eq!(closed.unwrap_err().kind(), ErrorKind::Closed);
}
