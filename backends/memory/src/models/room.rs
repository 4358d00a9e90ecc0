use std::sync::Arc;

use shuttle::thread;

use super::check;
use crate::room::{Queued, Room};

#[test]
fn there_are_never_more_places_than_the_log_has_and_none_is_lost() {
    check(|| {
        let room = Arc::new(Room::new(2));
        let publishers: Vec<_> = (0..3)
            .map(|_| {
                let room = Arc::clone(&room);
                thread::spawn(move || {
                    let first = room.try_take();
                    let second = room.try_take();
                    if first && second {
                        room.free(1);
                    }
                    usize::from(first || second)
                })
            })
            .collect();
        let held: usize = publishers
            .into_iter()
            .map(|publisher| publisher.join().unwrap())
            .sum();
        assert!(held <= 2, "{held} have a place");
        for place in held..2 {
            assert!(room.try_take(), "place {place} was lost");
        }
        assert!(!room.try_take(), "there is one too many");
    });
}

#[test]
fn nobody_overtakes_who_waits() {
    check(|| {
        let room = Arc::new(Room::new(1));
        let waits = Queued::new(&room);
        let late = Arc::clone(&room);
        let late = thread::spawn(move || late.try_pass());
        let its_own = room.try_take();
        assert!(its_own, "somebody went past");
        assert!(!late.join().unwrap(), "somebody went past");
        drop(waits);
        room.free(1);
        assert!(room.try_pass(), "nobody waits any more");
    });
}
