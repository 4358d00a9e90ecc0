use shuttle::future::{block_on, spawn};

use super::check;
use crate::closed::Closed;

#[test]
fn everybody_who_waits_sees_the_end() {
    check(|| {
        let closed = Closed::default();
        let waiting: Vec<_> = (0..3)
            .map(|_| {
                let closed = closed.clone();
                spawn(async move { closed.raised().await })
            })
            .collect();
        closed.raise();
        assert!(closed.is_raised());
        block_on(async {
            for waiting in waiting {
                waiting.await.unwrap();
            }
        });
    });
}
