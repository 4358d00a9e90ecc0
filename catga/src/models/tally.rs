use std::sync::Arc;

use catga_core::MessageId;
use shuttle::thread;

use super::check;
use crate::origin::Tally;

#[test]
fn equal_contents_that_are_counted_at_once_get_numbers_of_their_own() {
    check(|| {
        let (same, other) = (MessageId::from_key("same"), MessageId::from_key("other"));
        let tally = Arc::new(Tally::new(other));
        let threads: Vec<_> = (0..3)
            .map(|_| {
                let tally = Arc::clone(&tally);
                thread::spawn(move || (tally.count(same), tally.count(other)))
            })
            .collect();
        let mut counts: Vec<_> = threads.into_iter().map(|t| t.join().unwrap()).collect();
        counts.sort_unstable_by_key(|count| count.0);
        assert_eq!(
            counts.iter().map(|count| count.0).collect::<Vec<_>>(),
            [0, 1, 2]
        );
        counts.sort_unstable_by_key(|count| count.1);
        assert_eq!(
            counts.iter().map(|count| count.1).collect::<Vec<_>>(),
            [0, 1, 2]
        );
    });
}
