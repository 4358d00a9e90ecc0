use std::sync::Arc;

use catga_core::{Bytes, Envelope, Name, QoS};
use shuttle::future::{block_on, spawn};

use super::check;
use crate::keeper::Tables;
use crate::ring::Ring;

const NAME: Name = Name::from_static("orders.created");
const GROUP: Name = Name::from_static("g");

#[test]
fn what_is_published_while_a_member_leaves_reaches_its_heir() {
    check(|| {
        let tables = Arc::new(Tables::default());
        let (leaves, stays) = (Arc::new(Ring::new(8)), Arc::new(Ring::new(8)));
        block_on(async {
            for ring in [&leaves, &stays] {
                tables.join(NAME, Some(&GROUP), Arc::clone(ring)).await;
            }
        });
        let publishers: Vec<_> = (0..2)
            .map(|_| {
                let tables = Arc::clone(&tables);
                spawn(async move {
                    for _ in 0..2 {
                        let mut envelope = Envelope::received(NAME, QoS::AtMostOnce, Bytes::new());
                        tables.topics.load()[&NAME].publish(&mut envelope);
                    }
                })
            })
            .collect();
        block_on(async {
            tables.leave(&NAME, Some(&GROUP), &leaves).await;
            for publisher in publishers {
                publisher.await.unwrap();
            }
        });
        assert!(leaves.pop().is_none(), "left behind");
        let reached = std::iter::from_fn(|| stays.pop()).count();
        assert_eq!(reached, 4);
    });
}
