use std::sync::Arc;

use catga_core::{Bytes, Envelope, Name, QoS};
use shuttle::future::{block_on, spawn};

use super::check;
use crate::ring::Ring;

const NAME: Name = Name::from_static("orders.created");
const LAST: &[u8] = b"last";

fn publish(ring: &Ring, payload: &'static [u8]) {
    let payload = Bytes::from_static(payload);
    ring.push(Envelope::received(NAME, QoS::AtMostOnce, payload));
}

/// What a subscription does: takes what is there, else waits. Returns what it got before the last.
async fn receive(ring: Arc<Ring>) -> u64 {
    let mut got = 0;
    loop {
        match ring.pop() {
            Some(envelope) if envelope.payload().as_bytes().unwrap() == LAST => return got,
            Some(_) => got += 1,
            None => ring.filled().await,
        }
    }
}

#[test]
fn each_message_is_received_or_counted_as_dropped_and_the_consumer_woken() {
    check(|| {
        let ring = Arc::new(Ring::new(2));
        let consumer = spawn(receive(Arc::clone(&ring)));
        let publishers: Vec<_> = (0..2)
            .map(|_| {
                let ring = Arc::clone(&ring);
                spawn(async move {
                    publish(&ring, b"one");
                    publish(&ring, b"two");
                })
            })
            .collect();
        let got = block_on(async {
            for publisher in publishers {
                publisher.await.unwrap();
            }
            publish(&ring, LAST);
            consumer.await.unwrap()
        });
        assert_eq!(got + ring.dropped(), 4);
    });
}
