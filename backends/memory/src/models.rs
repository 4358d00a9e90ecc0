//! Models of what tasks share without a channel: every interleaving that the schedulers of
//! [shuttle](https://docs.rs/shuttle) think of, for the code itself. The models of `catga` say more.
//!
//! | where | what the model checks, or why there is none |
//! |---|---|
//! | `handover.rs` | `models/handover.rs`: a batch is taken or revoked, and both sides know which, however often they ask |
//! | `handover.rs`, the end of a claim | `models/handover.rs`: its member or its log says how it ended, and the other one hears of it |
//! | `room.rs` | `models/room.rs`: never more places than the log has, none is lost, and nobody overtakes who waits |
//! | `closed.rs` | `models/closed.rs`: everybody who waits for the end sees it, whenever they came |
//! | `ring.rs`, the queue and `ready` | `models/ring.rs`: each message is received or counted as dropped, and a consumer that waits is woken |
//! | `keeper.rs`, `topics` | `models/keeper.rs`: what is published while a member leaves reaches its heirs, and nothing is put into a ring that was emptied |
//! | `keeper.rs`, `streams` and `desks` | None: one task writes, and only adds; who does not find a name asks that task |
//! | `ring.rs`, `next` | None: whose turn it is need not be exact |
//! | `stream.rs`, `next_member`; `desk.rs`, `next_server`; `letters.rs`, `numbers` | None: numbers that are only to differ, each by one `fetch_add` |
//! | `ring.rs`, `dropped`; `group.rs`, `waiting` and `duplicates` | None: shown to people, decides nothing |

use shuttle::scheduler::{PctScheduler, RandomScheduler};
use shuttle::{Config, Runner};

mod closed;
mod handover;
mod keeper;
mod ring;
mod room;

/// Schedules of either kind for a model.
const SCHEDULES: usize = 1000;

/// Runs a model: it fails when it panics, and when its tasks all wait.
fn check(model: impl Fn() + Clone + Send + Sync + 'static) {
    let mut config = Config::new();
    // A weaker ordering is found only where one word decides alone.
    config.silence_warnings = true;
    Runner::new(RandomScheduler::new(SCHEDULES), config.clone()).run(model.clone());
    // Few switches, at places that a random schedule seldom finds together.
    Runner::new(PctScheduler::new(3, SCHEDULES), config).run(model);
}
