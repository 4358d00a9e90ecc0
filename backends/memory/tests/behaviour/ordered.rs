use std::num::NonZeroU16;

use catga_core::{Capability, Consumers, ErrorKind, Name, QoS, Settlement, Subscribe, Transport};
use tokio::time::Instant;

use crate::{SECOND, ack, in_group, message, next, nothing, text, transport};

fn ordered(qos: QoS) -> Subscribe {
    in_group(qos, "g").with_ordered(NonZeroU16::new(16))
}

async fn publish_to(bus: &dyn Transport, qos: QoS, partition: u16, text: &str) {
    let envelope = message(qos, text).with_partition(Some(partition));
    bus.publish(&mut { envelope }, SECOND).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_retry_holds_up_its_partition_over_all_members_and_no_other() {
    for qos in [QoS::AtLeastOnce, QoS::ExactlyOnce] {
        let bus = transport("memory://").await;
        assert!(bus.capabilities().has(Capability::Ordered));
        let mut one = bus.subscribe(&ordered(qos)).await.unwrap();
        let mut two = bus.subscribe(&ordered(qos)).await.unwrap();
        for text in ["a1", "a2", "a3"] {
            publish_to(&*bus, qos, 1, text).await;
        }
        publish_to(&*bus, qos, 2, "b1").await;
        let first = next(&mut *one).await;
        let other = next(&mut *two).await;
        assert_eq!((text(&first), text(&other)), ("a1".into(), "b1".into()));
        nothing(&mut *two).await;
        let (began, after) = (Instant::now(), SECOND / 2);
        first.settle(Settlement::Nak { after }).await.unwrap();
        let again = next(&mut *two).await;
        assert_eq!((text(&again).as_str(), began.elapsed()), ("a1", after));
        assert_eq!(again.count(), 2);
        nothing(&mut *one).await;
        ack(again).await;
        for expected in ["a2", "a3"] {
            let delivery = next(&mut *one).await;
            assert_eq!(text(&delivery), expected);
            ack(delivery).await;
        }
    }
}

/// Several members and partitions, some deliveries fail, are given back or lost: each partition stays in order.
#[tokio::test(start_paused = true)]
#[expect(clippy::print_stdout, reason = "a failure shows the seed")]
async fn each_partition_is_handled_in_order() {
    const COUNT: usize = 400;
    for qos in [QoS::AtLeastOnce, QoS::ExactlyOnce] {
        let seed = fastrand::u64(..);
        println!("seed {seed}");
        let mut random = fastrand::Rng::with_seed(seed);
        let bus = transport("memory://").await;
        let mut members = Vec::new();
        for _ in 0..3 {
            members.push(bus.subscribe(&ordered(qos)).await.unwrap());
        }
        for i in 0..COUNT {
            let partition = u16::try_from(i % 16).unwrap();
            publish_to(&*bus, qos, partition, &i.to_string()).await;
        }
        let mut handled: Vec<Vec<usize>> = vec![Vec::new(); 16];
        let mut into = Vec::new();
        while handled.iter().map(Vec::len).sum::<usize>() < COUNT {
            let member = &mut members[random.usize(..3)];
            let received = member.recv(random.usize(1..6), &mut into);
            let _ = tokio::time::timeout(SECOND, received).await;
            random.shuffle(&mut into);
            for delivery in into.drain(..) {
                let i: usize = text(&delivery).parse().unwrap();
                let settlement = match random.u8(..10) {
                    0 => Settlement::Nak {
                        after: SECOND / 100,
                    },
                    1 => Settlement::Release { began: true },
                    // Left to the end of its lease.
                    2 => continue,
                    _ => {
                        handled[i % 16].push(i);
                        Settlement::Ack
                    }
                };
                delivery.settle(settlement).await.unwrap();
            }
        }
        assert!(handled.iter().all(|line| line.is_sorted()), "{handled:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn members_that_ask_otherwise_are_refused_with_both_settings() {
    let bus = transport("memory://").await;
    let _member = bus.subscribe(&ordered(QoS::AtLeastOnce)).await.unwrap();
    let error = bus
        .subscribe(&in_group(QoS::AtLeastOnce, "g"))
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict);
    let shown = error.message();
    assert!(
        shown.contains("ordered=16") && shown.contains("ordered=no"),
        "{error}"
    );
    let unordered = Consumers::Group(Name::from_static("h"));
    let other = Subscribe::new(crate::NAME, QoS::AtLeastOnce, unordered);
    bus.subscribe(&other).await.unwrap();
    let error = bus.subscribe(&ordered(QoS::AtMostOnce)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
}
