//! Of limits, shutdown, requests, isolation and hygiene: I10, I11, I12, I14 and I15.

use super::{About, at, is_of, list};
use crate::checker::tests::story::done;
use crate::checker::tests::world::{SECRET, SHUTDOWN, World};
use crate::evidence::{EffectKind, Outcome, Reply, What};

list! {
    OverLimit Calm "more in flight than the limit": |world| {
        world.change(|event| match &mut event.what {
            What::Counted { in_flight, in_flight_limit, .. } => {
                *in_flight = *in_flight_limit + 1;
                true
            }
            _ => false,
        });
        About::Name("c2")
    };
    OverLimit Calm "more buffered than the limit": |world| {
        world.change(|event| match &mut event.what {
            What::Counted { buffered, buffered_limit, .. } => {
                *buffered = *buffered_limit + 1;
                true
            }
            _ => false,
        });
        About::Name("c2")
    };
    TooManyRuns Calm "two handlers where one may run": |world| {
        let start = world.started(3_001);
        world.run("steps", 3_000, "c-steps", (start + 1_000, start + 2_000), done);
        About::Message(3_000)
    };
    MemoryGrows Calm "memory grows at the end": |world| {
        world.change(|event| match &mut event.what {
            What::Memory { bytes } if event.at == at(13_000) => {
                *bytes = *bytes * 13 / 10;
                true
            }
            _ => false,
        });
        About::Name("c2")
    };
    RunsAfterShutdown Calm "a handler goes on after shutdown returned": |world| {
        world.change(|event| {
            let ends = event.id == Some(1_509) && matches!(event.what, What::Dropped { .. });
            if ends {
                event.at = SHUTDOWN.1 + 50_000;
            }
            ends
        });
        About::Message(1_509)
    };
    RunsAfterShutdown Calm "a handler begins after shutdown returned": |world| {
        world.run("least", 1_501, "c3", (SHUTDOWN.1 + 100_000, SHUTDOWN.1 + 110_000), done);
        About::Message(1_501)
    };
    FinishedNotAcked Calm "what finished in a shutdown is delivered again": |world| {
        world.run("least", 1_508, "c2", (at(9_900), at(9_910)), done);
        About::Message(1_508)
    };
    FinishedNotAcked Calm "what finished in a shutdown is pending": |world| {
        world.insert(at(9_900), "parent", ("least", 1_508), What::Pending);
        About::Message(1_508)
    };
    UnfinishedNotBack Calm "what a shutdown left is not delivered again": |world| {
        world.set_outcome(1_509, Outcome::Unknown);
        world.remove(|event| is_of(event, "least", 1_509) && event.process == "c2");
        About::Message(1_509)
    };
    ShutdownOverdue Calm "shutdown takes longer than its deadline": |world| {
        world.change(|event| {
            let returns = matches!(event.what, What::ShutdownReturned { .. });
            if returns {
                event.at = SHUTDOWN.0 + 1_250_001;
            }
            returns
        });
        About::Name("c3")
    };
    ShutdownOverdue Calm "shutdown never returns": |world| {
        world.remove(|event| matches!(event.what, What::ShutdownReturned { .. }));
        About::Name("c3")
    };
    ShutdownMiscounts Calm "shutdown reports too few unfinished": |world| reports(world, (1, 0));
    ShutdownMiscounts Calm "shutdown reports too many finished": |world| reports(world, (2, 1));
    ResolvedTwice Calm "a request is resolved twice": |world| {
        let id = world.repeat(|event| matches!(event.what, What::RequestResolved { .. }));
        About::Message(id)
    };
    RequestOverdue Calm "a request is resolved after its deadline": |world| {
        let sent = world.when(5_001, |what| matches!(what, What::RequestSent { .. }));
        world.change(|event| {
            let resolves = event.id == Some(5_001) && matches!(event.what, What::RequestResolved { .. });
            if resolves {
                event.at = sent + 750_001;
            }
            resolves
        });
        About::Message(5_001)
    };
    RequestOverdue Calm "a request is never resolved": |world| {
        world.remove(|event| event.id == Some(5_001) && matches!(event.what, What::RequestResolved { .. }));
        About::Message(5_001)
    };
    ForeignReply Calm "a request gets the reply of another": |world| {
        world.change(|event| match &mut event.what {
            What::RequestResolved { reply, .. } if event.id == Some(5_001) => {
                *reply = Reply::Foreign;
                true
            }
            _ => false,
        });
        About::Message(5_001)
    };
    RequestEffectTwice Calm "a retried request has its effect again": |world| {
        world.repeat_effect("rpc", EffectKind::Keyed)
    };
    RequestEffectTwice Calm "two requests of one key have an effect each": |world| {
        world.change(|event| match &mut event.what {
            What::RequestSent { key, .. } if event.id == Some(5_008) => {
                *key = Some("key-5007".to_owned());
                true
            }
            _ => false,
        });
        About::Message(5_008)
    };
    HeldUp Calm "a stuck group holds up another": |world| {
        world.publish("orders", 1_600, (at(2_100), at(2_110)));
        world.run("least", 1_600, "c2", (at(4_200), at(4_210)), done);
        About::Message(1_600)
    };
    HeldUp Calm "poison holds up its group": |world| {
        world.publish("orders", 1_600, (at(600), at(605)));
        world.run("least", 1_600, "c2", (at(3_000), at(3_010)), done);
        About::Message(1_600)
    };
    Secret Calm "a password in a log": |world| tells(world, format!("cannot connect to nats://user:{SECRET}@host"));
    Secret Calm "a password in a log, encoded": |world| tells(world, "url: nats://user:hunter2%2Fx@host".to_owned());
    BadName Calm "a wildcard on the wire": |world| {
        let name = "catga.s.*".to_owned();
        world.insert(at(4_000), "parent", (), What::WireName { name });
        About::Name("parent")
    };
}

fn reports(world: &mut World, (done, left): (u64, u64)) -> About {
    world.change(|event| match &mut event.what {
        What::ShutdownReturned {
            finished,
            unfinished,
        } => {
            (*finished, *unfinished) = (Some(done), Some(left));
            true
        }
        _ => false,
    });
    About::Name("c3")
}

fn tells(world: &mut World, text: String) -> About {
    world.insert(at(4_000), "c2", (), What::Text { text });
    About::Name("c2")
}
