//! Models of what tasks share: every interleaving that the schedulers of
//! [shuttle](https://docs.rs/shuttle) think of, for the code itself.
//!
//! `scripts/models` runs them. A failure prints its schedule; `shuttle::replay` runs that again. Shuttle takes every
//! operation as sequentially consistent: it finds steps in the wrong order, and no ordering that is too weak. So
//! what decides by two words is `SeqCst`; a weaker ordering is found only where one word decides alone.
//!
//! | where | what the model checks, or why there is none |
//! |---|---|
//! | `slots.rs` | `models/slots.rs`: never more places than the limit, none after a `pause` or a lower limit returned, nobody who waits is forgotten, also when others give up |
//! | `lent.rs` (the services between layers) | `models/lent.rs`: one user at a time, nobody who came while it was lent or not ready is forgotten |
//! | `turn.rs` (the outermost layer) | `models/turn.rs`: one holder at a time, everybody gets the turn, also when others give up |
//! | `breaker.rs` | `models/breaker.rs`: one trial at a time, everybody who waits for it goes on, what began before the breaker opened does not count after it closed |
//! | `origin.rs`, `Tally` | `models/tally.rs`: of equal contents that are counted at once each gets a number of its own |
//! | `shutdown.rs`, `now` | None: it is written under the lock of the watch beside it, and never back. Who reads an old value called a moment earlier |
//! | `shutdown.rs`, `excused` | None: one counter, looked at again every 2 ms |
//! | `layer.rs`, `began` | None: one flag that is only ever raised, by one `swap`; nothing is read on its account |
//! | `members.rs`, `view` and `alone` | None: the one task that follows the registry writes, and the view is swapped whole. An old `alone` serves a request here as before the other node came |
//! | `members.rs`, `turn` | None: whose turn it is need not be exact |
//! | `metrics.rs`, what was told of a counter and the gauge | None: two who tell at once take the difference to the most, or to the last, that was told: no count is told twice |
//! | `metrics.rs`, `sent` | None: swapped whole; who does not find a name in an old view makes its handle once more, which leads to the same metric |
//! | `members.rs`, `unregistered` and `unwatched`; `table.rs`, `ended` and the counters | None: shown to people, decides nothing |

use shuttle::scheduler::{PctScheduler, RandomScheduler};
use shuttle::{Config, Runner};

mod breaker;
mod lent;
mod slots;
mod tally;
mod turn;

/// Schedules of either kind for a model.
const SCHEDULES: usize = 1000;

/// Runs a model: it fails when it panics, and when its tasks all wait.
fn check(model: impl Fn() + Clone + Send + Sync + 'static) {
    let mut config = Config::new();
    // It says what stands above.
    config.silence_warnings = true;
    Runner::new(RandomScheduler::new(SCHEDULES), config.clone()).run(model.clone());
    // Few switches, at places that a random schedule seldom finds together.
    Runner::new(PctScheduler::new(3, SCHEDULES), config).run(model);
}

/// Lets any other task go first.
fn step() {
    shuttle::thread::sleep(std::time::Duration::ZERO);
}

/// Polls once, and gives up when it is not ready.
async fn once<F: Future>(future: F) -> Option<F::Output> {
    let mut future = std::pin::pin!(future);
    std::future::poll_fn(|cx| {
        std::task::Poll::Ready(match future.as_mut().poll(cx) {
            std::task::Poll::Ready(output) => Some(output),
            std::task::Poll::Pending => None,
        })
    })
    .await
}
