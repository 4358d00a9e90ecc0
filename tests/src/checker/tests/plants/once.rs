//! Of QoS 2, and after kills: I4, I6 and I7.

use super::{About, at, is_of, list};
use crate::checker::tests::story::{done, dropped, failed, sum};
use crate::checker::tests::world::{CLOSING, CUT};
use crate::evidence::{EffectKind, Outcome, What};

list! {
    CompletedTwice Calm "a message is done twice": |world| {
        let id = world.simple("once");
        let end = world.done(id);
        world.run("once", id, "c2", (end + 200_000, end + 210_000), done);
        About::Message(id)
    };
    CompletedTwice Calm "two completions are recorded": |world| {
        let id = world.repeat(|event| event.what == What::Completed);
        About::Message(id)
    };
    CompletedTwice Storm "a kill long after it excuses no second completion": |world| {
        world.publish("payments", 2_600, (at(500), at(510)));
        world.run("once", 2_600, "c1", (at(600), at(610)), done);
        world.run("once", 2_600, "c2", (at(4_500), at(4_510)), done);
        About::Message(2_600)
    };
    Overlap Calm "two runs at once": |world| {
        let id = world.simple("once");
        let (start, end) = (world.started(id), world.done(id));
        world.run("once", id, "c-other", (start.midpoint(end), end - 1), dropped);
        About::Message(id)
    };
    Overlap Storm "a run begins in an outage before the other's lease is over": |world| {
        for event in &mut world.events {
            if event.process == "c1" && event.id == Some(2_504) {
                event.at -= 800_000;
            }
        }
        About::Message(2_504)
    };
    Overlap Storm "a run that hangs keeps its lease": |world| {
        world.publish("payments", 2_600, (at(500), at(510)));
        world.run("once", 2_600, "c-other", (at(600), at(2_900)), failed);
        world.run("once", 2_600, "c2", (at(2_800), at(2_810)), done);
        About::Message(2_600)
    };
    EffectTwice Calm "a keyed effect happens twice": |world| world.repeat_effect("once", EffectKind::Keyed);
    EffectTwice Calm "a committed effect happens twice": |world| world.repeat_effect("once", EffectKind::Committed);
    EffectTwice Storm "a keyed effect happens again after a kill": |world| {
        let kind = EffectKind::Keyed;
        let again = world.kill + 1_120_000;
        world.insert(again, "c2", ("once", 2_501), What::Effect { run: None, kind });
        About::Message(2_501)
    };
    EffectTwice Storm "a run that lost its lease commits": |world| {
        for ms in [8_150, 8_650] {
            let effect = What::Effect { run: None, kind: EffectKind::Committed };
            world.insert(at(ms), "parent", ("once", 2_504), effect);
        }
        About::Message(2_504)
    };
    PlainEffects Calm "a plain effect happens twice": |world| world.repeat_effect("once", EffectKind::Plain);
    PlainEffects Storm "a kill excuses one effect, not two": |world| {
        let kind = EffectKind::Plain;
        let third = world.kill + 1_130_000;
        world.insert(third, "c2", ("once", 2_500), What::Effect { run: None, kind });
        About::Message(2_500)
    };
    NotTold Storm "a run after a kill is not told": |world| {
        world.change(|event| match &mut event.what {
            What::Started { may_have_run, .. } if event.id == Some(2_500) && *may_have_run => {
                *may_have_run = false;
                true
            }
            _ => false,
        });
        About::Message(2_500)
    };
    Unsettled Calm "QoS 2 loses": |world| {
        let id = world.simple("once");
        world.forget("once", id);
        About::Message(id)
    };
    Unsettled Calm "a completion is never recorded": |world| {
        let id = world.simple("seen");
        world.remove(|event| event.id == Some(id) && event.what == What::Completed);
        About::Message(id)
    };
    Unsettled Calm "QoS 2 delivers too late": |world| {
        let id = world.simple("once");
        world.delay("once", id, 4_500_000);
        About::Message(id)
    };
    Both Calm "what completed is dead-lettered too": |world| {
        let id = world.simple("once");
        world.insert(CLOSING, "parent", ("once", id), What::DeadLettered { checksum: sum(id) });
        About::Message(id)
    };
    AckedWithoutEffect Calm "an ack before the effect": |world| {
        let id = world.simple("least");
        let start = world.started(id);
        world.insert(start + 1_000, "parent", ("least", id), What::Acked);
        About::Message(id)
    };
    AckedWithoutEffect Storm "what was killed before its effect is acked": |world| {
        let kill = world.kill;
        world.remove(|event| is_of(event, "least", 1_500) && event.at < kill && matches!(event.what, What::Effect { .. }));
        world.insert(kill + 20_000, "parent", ("least", 1_500), What::Acked);
        About::Message(1_500)
    };
    NotBack Storm "what was running at a kill does not come back": |world| {
        world.set_outcome(1_500, Outcome::Unknown);
        world.remove(|event| is_of(event, "least", 1_500) && (event.process == "c2" || event.what == What::Pending));
        About::Message(1_500)
    };
    NotBack Calm "what was pending does not come back": |world| {
        let id = world.simple("least");
        let start = world.started(id);
        world.set_outcome(id, Outcome::Unknown);
        world.forget("least", id);
        world.insert(start, "parent", ("least", id), What::Pending);
        About::Message(id)
    };
    Stuck Calm "a group has something pending at the end": |world| {
        leaves(world, (1, 0))
    };
    Stuck Storm "a group has not got all at the end": |world| {
        leaves(world, (0, 1))
    };
    Stuck Calm "the last word on a group is that it is not drained": |world| {
        world.remove(|event| event.at == CLOSING && event.group.as_deref() == Some("once") && matches!(event.what, What::Drained { .. }));
        world.insert(at(5_001), "parent", "once", What::Drained { pending: 2, lag: 0 });
        About::Name("once")
    };
    RestartedByHand Calm "a stuck consumer is started again": |world| {
        world.insert(at(4_000), "parent", (), What::Restarted { process: "c2".to_owned() });
        About::Name("c2")
    };
    RestartedByHand Storm "one kill is good for one restart": |world| {
        let again = CUT.0 - 100_000;
        world.insert(again, "parent", (), What::Restarted { process: "c1".to_owned() });
        About::Name("c1")
    };
}

fn leaves(world: &mut crate::checker::tests::world::World, (more, further): (u64, u64)) -> About {
    world.change(|event| match &mut event.what {
        What::Drained { pending, lag }
            if event.at == CLOSING && event.group.as_deref() == Some("once") =>
        {
            (*pending, *lag) = (more, further);
            true
        }
        _ => false,
    });
    About::Name("once")
}
