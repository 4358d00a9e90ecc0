use std::sync::Arc;

use shuttle::future::{block_on, spawn};

use super::{check, once, step};
use crate::slots::Slots;

/// Takes a place, and lets others go on meanwhile.
async fn work(slots: Arc<Slots>, most: usize) {
    let slot = Slots::take(slots).await;
    assert!((1..=most).contains(&slot.taken()));
    step();
}

#[test]
fn nobody_is_forgotten_and_no_place_given_twice() {
    check(|| {
        let slots = Arc::new(Slots::new(2));
        let tasks: Vec<_> = (0..4).map(|_| spawn(work(Arc::clone(&slots), 2))).collect();
        block_on(async {
            for task in tasks {
                task.await.unwrap();
            }
        });
        assert_eq!((slots.taken(), slots.free()), (0, 2));
    });
}

#[test]
fn who_gives_up_or_only_looks_takes_nobodys_wake_up() {
    check(|| {
        let slots = Arc::new(Slots::new(1));
        let mut tasks = vec![
            spawn(work(Arc::clone(&slots), 1)),
            spawn(work(Arc::clone(&slots), 1)),
        ];
        let gives_up = Arc::clone(&slots);
        tasks.push(spawn(async move {
            let mut taking = Box::pin(Slots::take(gives_up));
            // Woken or not, it goes.
            let polled = once(&mut taking).await;
            step();
            drop((taking, polled));
        }));
        let looks = Arc::clone(&slots);
        tasks.push(spawn(async move { looks.wait_for_free().await }));
        block_on(async {
            for task in tasks {
                task.await.unwrap();
            }
        });
        assert_eq!((slots.taken(), slots.free()), (0, 1));
    });
}

#[test]
fn what_a_pause_or_a_lower_limit_forbids_nobody_takes_and_all_go_on_after_it() {
    check(|| {
        let slots = Arc::new(Slots::new(2));
        let tasks: Vec<_> = (0..3).map(|_| spawn(work(Arc::clone(&slots), 2))).collect();
        slots.pause();
        let before = slots.taken();
        step();
        assert!(slots.taken() <= before, "taken while it was paused");
        slots.set_limit(1);
        slots.resume();
        let before = slots.taken();
        step();
        assert!(slots.taken() <= before.max(1), "taken above the limit");
        block_on(async {
            for task in tasks {
                task.await.unwrap();
            }
        });
        assert_eq!((slots.taken(), slots.free()), (0, 1));
    });
}
