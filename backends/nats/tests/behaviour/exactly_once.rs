use catga_core::{Completion, ErrorKind, MessageId, QoS, Settlement};

use crate::{SECOND, SOON, Space, ack, in_group, message, next, nothing, publish, text};

const QOS: QoS = QoS::ExactlyOnce;

#[tokio::test]
async fn a_second_publish_of_an_id_stores_nothing() {
    let space = Space::new();
    let bus = space.transport().await;
    let mut subscription = bus.subscribe(&in_group(QOS, "g")).await.unwrap();
    let mut first = message(QOS, "first");
    assert!(!bus.publish(&mut first, SOON).await.unwrap().duplicate);
    let id = first.id().expect("it was given one");
    let mut second = message(QOS, "second").with_id(id);
    assert!(bus.publish(&mut second, SOON).await.unwrap().duplicate);
    let delivery = next(&mut *subscription).await;
    assert_eq!(
        (text(&delivery).as_str(), delivery.envelope().qos()),
        ("first", QOS)
    );
    // Who receives claims it in the inbox.
    assert!(!delivery.is_claimed());
    ack(delivery).await;
    nothing(&mut *subscription).await;
}

#[tokio::test]
async fn an_ack_is_confirmed_and_a_consumer_that_is_gone_is_a_failure() {
    let space = Space::new();
    let bus = space.transport().await;
    let mut subscription = bus.subscribe(&in_group(QOS, "g")).await.unwrap();
    publish(&*bus, QOS, "a").await;
    publish(&*bus, QOS, "b").await;
    ack(next(&mut *subscription).await).await;
    let delivery = next(&mut *subscription).await;
    let client = async_nats::connect(crate::shared()).await.unwrap();
    let jetstream = async_nats::jetstream::new(client);
    let stream = format!("{}~orders=created", space.namespace);
    jetstream.delete_stream(&stream).await.unwrap();
    let settled = delivery
        .settle(Settlement::Complete(Completion::new()))
        .await;
    assert_eq!(settled.unwrap_err().kind(), ErrorKind::NotFound);
}

#[tokio::test]
async fn ids_are_forgotten_after_the_window() {
    let space = Space::new();
    let options =
        catga_core::ConnectOptions::new(space.namespace.clone()).with_duplicate_window(SECOND / 2);
    let url = space.url.parse().unwrap();
    let backend = catga_core::Driver::connect(&catga_nats::DRIVER, &url, &options)
        .await
        .unwrap();
    let bus = backend.transport;
    let id = MessageId::new();
    let by = tokio::time::Instant::now() + SOON;
    let mut stored = 0;
    while stored < 2 {
        assert!(tokio::time::Instant::now() < by, "stored again in time");
        let mut copy = message(QOS, "a").with_id(id);
        if !bus.publish(&mut copy, SOON).await.unwrap().duplicate {
            stored += 1;
        }
        tokio::time::sleep(SECOND / 10).await;
    }
}
