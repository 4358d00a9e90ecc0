use catga_core::{
    Completion, Delivery, Effects, ErrorKind, MessageId, QoS, Reason, ReasonKind, Settlement,
};
use catga_redis::{Redis, RedisTransaction};

use catga_core::Driver as _;
use catga_testkit::server::{RedisOptions, RedisServer, Server as _};

use crate::{
    NAME, SECOND, SOON, Space, ack, in_group, message, next, nothing, number, publish, raw, text,
};

const QOS: QoS = QoS::ExactlyOnce;

fn done() -> Settlement {
    Settlement::Complete(Completion::new())
}

/// The same id twice in the stream, as after the window.
async fn publish_twice(space: &Space, id: MessageId, texts: [&str; 2]) {
    for text in texts {
        let options = catga_core::ConnectOptions::new(space.namespace.clone())
            .with_duplicate_window(SECOND / 100);
        let url = space.url.parse().unwrap();
        let bus = catga_redis::DRIVER
            .connect(&url, &options)
            .await
            .unwrap()
            .transport;
        let by = tokio::time::Instant::now() + SOON;
        let mut copy = message(QOS, text).with_id(id);
        while bus.publish(&mut copy, SOON).await.unwrap().duplicate {
            assert!(tokio::time::Instant::now() < by, "stored again in time");
            tokio::time::sleep(SECOND / 100).await;
        }
    }
}

#[tokio::test]
async fn a_second_publish_of_an_id_stores_nothing_also_after_a_restart() {
    let mut server = RedisServer::with(&RedisOptions::default().append_only()).unwrap();
    let space = Space::at(&server.url());
    let bus = space.transport().await;
    let mut subscription = bus.subscribe(&in_group(QOS, "g")).await.unwrap();
    let id = MessageId::new();
    let copy = |text: &str| message(QOS, text).with_id(id);
    assert!(
        !bus.publish(&mut copy("first"), SOON)
            .await
            .unwrap()
            .duplicate
    );
    server.ask("SCRIPT FLUSH").unwrap();
    assert!(
        bus.publish(&mut copy("second"), SOON)
            .await
            .unwrap()
            .duplicate
    );
    server.kill().unwrap();
    server.restart().unwrap();
    let by = tokio::time::Instant::now() + SOON;
    loop {
        match bus.publish(&mut copy("third"), SECOND).await {
            Ok(published) => break assert!(published.duplicate),
            Err(error) => assert!(tokio::time::Instant::now() < by, "{error:?}"),
        }
    }
    let delivery = next(&mut *subscription).await;
    assert_eq!(text(&delivery), "first");
    delivery.settle(done()).await.unwrap();
    let mut into = Vec::new();
    // It may tell of the restart.
    let _ = tokio::time::timeout(SECOND / 2, subscription.recv(1, &mut into)).await;
    assert!(into.is_empty(), "{into:?}");
}

#[tokio::test]
async fn a_second_copy_of_an_id_is_acked_unseen() {
    let space = Space::new();
    let bus = space.transport().await;
    let mut subscription = bus.subscribe(&in_group(QOS, "g")).await.unwrap();
    let id = MessageId::new();
    publish_twice(&space, id, ["first", "second"]).await;
    let delivery = next(&mut *subscription).await;
    assert_eq!(
        (text(&delivery).as_str(), delivery.envelope().qos()),
        ("first", QOS)
    );
    assert!(delivery.is_claimed());
    // While it runs its copy waits.
    nothing(&mut *subscription).await;
    delivery.settle(done()).await.unwrap();
    publish(&*bus, QOS, "behind").await;
    let behind = next(&mut *subscription).await;
    assert_eq!(text(&behind), "behind");
    behind.settle(done()).await.unwrap();
    let by = tokio::time::Instant::now() + SOON;
    while subscription.stats().duplicates == 0 {
        assert!(tokio::time::Instant::now() < by, "the copy is counted");
        nothing(&mut *subscription).await;
    }
    assert_eq!(subscription.stats().duplicates, 1);
    nothing(&mut *subscription).await;
}

#[tokio::test]
async fn a_claim_that_fails_is_free_for_the_next_run() {
    let space = Space::new();
    let bus = space.transport().await;
    let mut subscription = bus.subscribe(&in_group(QOS, "g")).await.unwrap();
    publish(&*bus, QOS, "a").await;
    for (settlement, count, may_have_run) in [
        (Settlement::Nak { after: SECOND / 10 }, 1, false),
        (Settlement::Release { began: false }, 2, true),
        (Settlement::Release { began: true }, 2, true),
        (Settlement::Defer { after: SECOND / 10 }, 2, true),
        (done(), 2, true),
    ] {
        let delivery = next(&mut *subscription).await;
        assert_eq!(
            (delivery.count(), delivery.may_have_run()),
            (count, may_have_run)
        );
        delivery.settle(settlement).await.unwrap();
    }
    nothing(&mut *subscription).await;
}

#[tokio::test]
async fn who_lost_its_claim_completes_nothing() {
    let space = Space::new();
    let bus = space.transport().await;
    let short = in_group(QOS, "g").with_ack_wait(SECOND * 2);
    let mut subscription = bus.subscribe(&short).await.unwrap();
    publish(&*bus, QOS, "a").await;
    let first = next(&mut *subscription).await;
    let mut second = next(&mut *subscription).await;
    assert_eq!((second.count(), second.may_have_run()), (2, true));
    let late = first.settle(done()).await.unwrap_err();
    assert_eq!(late.kind(), ErrorKind::LostOwnership);
    // Longer than its lease, and it keeps it.
    for _ in 0..6 {
        nothing(&mut *subscription).await;
        second.extend().await.unwrap();
    }
    second.settle(done()).await.unwrap();
    nothing(&mut *subscription).await;
}

#[tokio::test]
async fn completions_that_go_together_end_each_by_itself() {
    const MANY: usize = 300;
    let space = Space::new();
    let bus = space.transport().await;
    let places = in_group(QOS, "g").with_max_in_flight(MANY);
    let mut subscription = bus.subscribe(&places).await.unwrap();
    for number in 0..MANY {
        publish(&*bus, QOS, &number.to_string()).await;
    }
    let mut deliveries = Vec::new();
    while deliveries.len() < MANY {
        deliveries.push(next(&mut *subscription).await);
    }
    // The claim of one is another's, the record of another is none.
    let record = |delivery: &Delivery| {
        let id = delivery.envelope().id().unwrap();
        format!("{{{}:{NAME}}}:in:g:{id}", space.namespace)
    };
    let taken = record(&deliveries[7]);
    let another = "r another 9999999999999 0 1 0";
    let before = raw(&space.url, &["SET", &taken, another, "GET"]).await;
    assert!(matches!(before, redis::Value::BulkString(_)), "{before:?}");
    let odd = record(&deliveries[150]);
    assert_eq!(number(&space.url, &["DEL", &odd]).await, 1);
    raw(&space.url, &["RPUSH", &odd, "x"]).await;
    let settling = deliveries
        .into_iter()
        .map(|delivery| delivery.settle(done()));
    let outcomes = futures_util::future::join_all(settling).await;
    for (number, outcome) in outcomes.into_iter().enumerate() {
        match number {
            7 | 150 => {
                let kind = outcome.unwrap_err().kind();
                assert_eq!(kind, ErrorKind::LostOwnership, "{number}");
            }
            _ => outcome.unwrap_or_else(|error| panic!("{number}: {error:?}")),
        }
    }
    let stream = format!("{{{}:{NAME}}}", space.namespace);
    let pending = raw(&space.url, &["XPENDING", &stream, "g"]).await;
    let redis::Value::Array(pending) = pending else {
        panic!("{pending:?}");
    };
    assert_eq!(pending[0], redis::Value::Int(2), "the two are not acked");
}

#[tokio::test]
async fn effects_are_committed_with_the_claim_or_not_at_all() {
    let space = Space::new();
    let backend = space.connect().await;
    let inbox = backend.inbox.unwrap();
    let redis = inbox
        .commit_store()
        .unwrap()
        .downcast_ref::<Redis>()
        .unwrap();
    let bus = backend.transport;
    let short = in_group(QOS, "g").with_ack_wait(SECOND * 2);
    let mut subscription = bus.subscribe(&short).await.unwrap();
    publish(&*bus, QOS, "a").await;
    let key = redis.key(&NAME, "runs");
    let committing = |key: &str| {
        let mut tx = RedisTransaction::default();
        tx.cmd([b"INCR".to_vec(), key.as_bytes().to_vec()]);
        Settlement::Complete(Completion::new().with_effects(Some(Effects::new(tx))))
    };
    let first = next(&mut *subscription).await;
    let second = next(&mut *subscription).await;
    let late = first.settle(committing(&key)).await.unwrap_err();
    assert_eq!(late.kind(), ErrorKind::LostOwnership);
    assert_eq!(redis.get(&key).await.unwrap(), None);
    second.settle(committing(&key)).await.unwrap();
    assert_eq!(redis.get(&key).await.unwrap().unwrap(), "1");
    publish(&*bus, QOS, "b").await;
    let foreign = Completion::new().with_effects(Some(Effects::new(7)));
    let delivery = next(&mut *subscription).await;
    let refused = delivery
        .settle(Settlement::Complete(foreign))
        .await
        .unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Unsupported);
}

#[tokio::test]
async fn a_dead_letter_ends_the_claim_and_its_redrive_begins_another() {
    let space = Space::new();
    let backend = space.connect().await;
    let (bus, letters) = (backend.transport, backend.dead_letters.unwrap());
    let mut subscription = bus.subscribe(&in_group(QOS, "g")).await.unwrap();
    let id = MessageId::new();
    publish_twice(&space, id, ["a", "copy"]).await;
    let reason = Reason::new(ReasonKind::Terminal, "no");
    let delivery = next(&mut *subscription).await;
    delivery
        .settle(Settlement::DeadLetter {
            reason,
            claim: None,
        })
        .await
        .unwrap();
    nothing(&mut *subscription).await;
    let page = letters
        .list(&catga_core::DeadLetterFilter::all(), None, 10)
        .await
        .unwrap();
    assert_eq!(page.letters[0].envelope.qos(), QOS);
    letters.redrive(&page.letters[0].id).await.unwrap();
    let again = next(&mut *subscription).await;
    assert_eq!(
        (again.generation(), again.count(), again.may_have_run()),
        (1, 1, true)
    );
    again.settle(done()).await.unwrap();
}

#[tokio::test]
async fn without_the_own_inbox_nothing_is_claimed() {
    let space = Space::new();
    let bus = space.transport().await;
    let elsewhere = in_group(QOS, "g").with_own_inbox(false);
    let mut subscription = bus.subscribe(&elsewhere).await.unwrap();
    publish(&*bus, QOS, "a").await;
    let delivery = next(&mut *subscription).await;
    assert!(!delivery.is_claimed());
    ack(delivery).await;
    nothing(&mut *subscription).await;
}
