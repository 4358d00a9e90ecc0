use std::any::TypeId;

use catga_core::{
    Backend, Bytes, Completion, Delivery, Driver, Effects, ErrorKind, QoS, Settlement,
};
use catga_memory::{DRIVER, Memory, MemoryTransaction};

use crate::{SECOND, connect, in_group, next, nothing, publish, publish_once};

const QOS: QoS = QoS::ExactlyOnce;

fn memory(backend: &Backend) -> Memory {
    let store = backend.inbox.as_ref().unwrap().commit_store().unwrap();
    store.downcast_ref::<Memory>().unwrap().clone()
}

fn put(key: &str, value: &'static str) -> Effects {
    let mut transaction = MemoryTransaction::default();
    transaction.put(key, value);
    Effects::new(transaction)
}

async fn commit(delivery: Delivery, effects: Effects) -> Result<(), catga_core::Error> {
    let completion = Completion::new().with_effects(Some(effects));
    delivery.settle(Settlement::Complete(completion)).await
}

#[tokio::test(start_paused = true)]
async fn effects_are_there_when_the_completion_is() {
    assert_eq!(DRIVER.commit_store(), Some(TypeId::of::<Memory>()));
    let backend = connect("memory://").await;
    let (bus, store) = (&backend.transport, memory(&backend));
    let mut subscription = bus.subscribe(&in_group(QOS, "g")).await.unwrap();
    publish_once(&**bus, "1", "a").await;
    publish_once(&**bus, "2", "b").await;
    let mut transaction = MemoryTransaction::default();
    transaction.put("kept", "first");
    transaction.put("kept", "second");
    transaction.put("gone", "x");
    transaction.delete("gone");
    let first = next(&mut *subscription).await;
    assert!(store.is_empty().await.unwrap());
    commit(first, Effects::new(transaction)).await.unwrap();
    let value = store.get("kept").await.unwrap();
    assert_eq!(value, Some(Bytes::from_static(b"second")));
    assert_eq!(store.len().await.unwrap(), 1);
    // What is not completed commits nothing.
    let second = next(&mut *subscription).await;
    second
        .settle(Settlement::Nak { after: SECOND / 4 })
        .await
        .unwrap();
    assert_eq!(store.len().await.unwrap(), 1);
}

/// The first holds its delivery past the lease; another takes over and completes.
#[tokio::test(start_paused = true)]
async fn a_zombie_commits_nothing() {
    let backend = connect("memory://").await;
    let (bus, store) = (&backend.transport, memory(&backend));
    let short = in_group(QOS, "g").with_ack_wait(SECOND / 2);
    let mut subscription = bus.subscribe(&short).await.unwrap();
    publish_once(&**bus, "1", "a").await;
    let zombie = next(&mut *subscription).await;
    let heir = next(&mut *subscription).await;
    commit(heir, put("by", "heir")).await.unwrap();
    let lost = commit(zombie, put("by", "zombie")).await.unwrap_err();
    assert_eq!(lost.kind(), ErrorKind::LostOwnership);
    let by = store.get("by").await.unwrap();
    assert_eq!(by, Some(Bytes::from_static(b"heir")));
    nothing(&mut *subscription).await;
}

#[tokio::test(start_paused = true)]
async fn effects_of_another_store_complete_nothing() {
    let backend = connect("memory://").await;
    let (bus, store) = (&backend.transport, memory(&backend));
    let short = in_group(QOS, "g").with_ack_wait(SECOND / 2);
    let mut subscription = bus.subscribe(&short).await.unwrap();
    publish_once(&**bus, "1", "a").await;
    let foreign = Effects::new(17);
    let refused = commit(next(&mut *subscription).await, foreign).await;
    assert_eq!(refused.unwrap_err().kind(), ErrorKind::Unsupported);
    let again = next(&mut *subscription).await;
    assert_eq!((again.count(), again.may_have_run()), (2, true));
    commit(again, put("by", "second")).await.unwrap();
    assert_eq!(store.len().await.unwrap(), 1);
}

#[tokio::test(start_paused = true)]
async fn without_a_claim_there_is_nothing_to_commit_with() {
    let backend = connect("memory://").await;
    let bus = &backend.transport;
    let at_least_once = in_group(QoS::AtLeastOnce, "g");
    let mut subscription = bus.subscribe(&at_least_once).await.unwrap();
    publish(&**bus, QoS::AtLeastOnce, "a").await;
    let delivery = next(&mut *subscription).await;
    let refused = commit(delivery, put("a", "b")).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Unsupported);
    assert!(memory(&backend).is_empty().await.unwrap());
}
