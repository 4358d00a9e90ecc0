//! Of messages on their way: I1, I2, I3, I5, I8 and I9, and evidence that contradicts itself.

use super::{About, at, is_of, list};
use crate::checker::tests::story::{done, failed, sum};
use crate::evidence::{Event, Outcome, What};

list! {
    Consistent Calm "a run that never began is done": |world| {
        let id = world.simple("least");
        world.remove(|event| event.id == Some(id) && matches!(event.what, What::Started { .. }));
        About::Message(id)
    };
    Consistent Calm "a group that nobody created": |world| {
        let once = Some("once".to_owned());
        world.remove(|event| event.group == once && event.what == What::GroupCreated);
        About::Name("once")
    };
    Consistent Calm "a group is removed that was not there": |world| {
        world.insert(at(4_000), "parent", "ghost", What::GroupRemoved);
        About::Name("ghost")
    };
    Consistent Calm "two runs with one number": |world| {
        let id = world.repeat(|event| matches!(event.what, What::Started { .. }));
        About::Message(id)
    };
    Consistent Calm "a group without rules": |world| {
        let id = world.simple("least");
        world.run("unknown", id, "c2", (at(4_000), at(4_010)), done);
        About::Message(id)
    };
    Consistent Calm "a dead letter of no group": |world| {
        world.insert(at(4_000), "parent", 1_501, What::DeadLettered { checksum: sum(1_501) });
        About::Name("parent")
    };
    Consistent Calm "a publish returns that did not begin": |world| {
        world.remove(|event| event.id == Some(1_507) && matches!(event.what, What::Publishing { .. }));
        About::Message(1_507)
    };
    Consistent Calm "a request is resolved that was not sent": |world| {
        world.remove(|event| event.id == Some(5_004) && matches!(event.what, What::RequestSent { .. }));
        About::Message(5_004)
    };
    Consistent Storm "a killed process writes": |world| {
        let text = "boo".to_owned();
        world.insert(world.kill + 100_000, "c1", (), What::Text { text });
        About::Name("c1")
    };
    Consistent Storm "a fault is healed that never began": |world| {
        let fault = "ghost".to_owned();
        world.insert(at(4_000), "parent", (), What::FaultHealed { fault });
        About::Name("ghost")
    };
    Invented Calm "a message that nobody published is handled": |world| {
        world.run("least", 9_999, "c2", (at(4_000), at(4_010)), done);
        About::Message(9_999)
    };
    Invented Calm "a message is dead-lettered that nobody published": |world| {
        world.insert(at(4_000), "parent", ("once", 9_999), What::DeadLettered { checksum: sum(9_999) });
        About::Message(9_999)
    };
    Invented Calm "a message reaches a group of another subject": |world| {
        let id = world.simple("least");
        let start = world.started(id);
        world.run("zero", id, "c2", (start, start + 1), done);
        About::Message(id)
    };
    Invented Calm "a message is handled before it is published": |world| {
        let id = world.simple("least");
        for event in &mut world.events {
            if event.id == Some(id) && event.group.is_none() {
                event.at += 1_000_000;
            }
        }
        About::Message(id)
    };
    Invented Calm "a request that nobody sent is handled": |world| {
        world.run("rpc", 9_999, "c2", (at(4_000), at(4_010)), done);
        About::Message(9_999)
    };
    Altered Calm "a message arrives with another content": |world| {
        let id = world.simple("least");
        world.change(|event| arrives_otherwise(event, "least", id));
        About::Message(id)
    };
    Altered Calm "a request arrives with another content": |world| {
        world.change(|event| arrives_otherwise(event, "rpc", 5_001));
        About::Message(5_001)
    };
    Altered Calm "a dead letter has another content": |world| {
        world.change(|event| match &mut event.what {
            What::DeadLettered { checksum } if event.id == Some(1_502) => {
                *checksum += 1;
                true
            }
            _ => false,
        });
        About::Message(1_502)
    };
    HandledTwice Calm "QoS 0 delivers twice": |world| {
        let id = world.simple("zero");
        let end = world.done(id);
        world.run("zero", id, "c-zero", (end + 1_000, end + 2_000), done);
        About::Message(id)
    };
    Missed Calm "QoS 0 loses on a healthy link": |world| {
        let id = world.simple("zero");
        world.forget("zero", id);
        About::Message(id)
    };
    Lost Calm "QoS 1 loses": |world| {
        let id = world.simple("least");
        world.forget("least", id);
        About::Message(id)
    };
    Lost Storm "QoS 1 loses in a storm": |world| {
        world.forget("least", 1_501);
        About::Message(1_501)
    };
    Lost Storm "QoS 1 loses what its server had long before it was killed": |world| {
        world.publish("orders", 1_601, (at(5_900), at(5_940)));
        About::Message(1_601)
    };
    Lost Calm "QoS 1 delivers too late": |world| {
        let id = world.simple("least");
        world.delay("least", id, 4_500_000);
        About::Message(id)
    };
    Lost Calm "a redriven dead letter is not handled": |world| {
        world.publish("orders", 1_600, (at(4_000), at(4_010)));
        world.run("least", 1_600, "c2", (at(4_020), at(4_030)), failed);
        world.insert(at(4_100), "parent", ("least", 1_600), What::DeadLettered { checksum: sum(1_600) });
        world.insert(at(4_200), "parent", ("least", 1_600), What::Redriven);
        About::Message(1_600)
    };
    RejectedHandled Calm "a rejected message is handled": |world| {
        let id = world.simple("least");
        world.set_outcome(id, Outcome::Rejected);
        About::Message(id)
    };
    RejectedHandled Calm "a rejected message is dead-lettered": |world| {
        world.insert(at(4_000), "parent", ("least", 1_507), What::DeadLettered { checksum: sum(1_507) });
        About::Message(1_507)
    };
    PublishOverdue Calm "a publish takes longer than its deadline": |world| {
        let id = world.simple("least");
        let began = world.when(id, |what| matches!(what, What::Publishing { .. }));
        world.change(|event| {
            let returns = event.id == Some(id) && matches!(event.what, What::Published { .. });
            if returns {
                event.at = began + 2_250_001;
            }
            returns
        });
        About::Message(id)
    };
    PublishOverdue Calm "a publish never returns": |world| {
        let id = world.simple("least");
        world.remove(|event| event.id == Some(id) && matches!(event.what, What::Published { .. }));
        About::Message(id)
    };
    TooManyDeliveries Calm "a message is delivered once more": |world| {
        world.run("least", 1_503, "c2", (at(1_200), at(1_250)), failed);
        About::Message(1_503)
    };
    TooManyDeliveries Storm "a crash allows no two deliveries more": |world| {
        world.publish("orders", 1_600, (at(2_000), at(2_010)));
        let kill = world.kill;
        world.run("least", 1_600, "c1", (kill - 20_000, kill + 1), failed);
        // The kill comes before the end of the run.
        world.remove(|event| event.at == kill + 1 && event.id == Some(1_600));
        for (from, end) in [(1, failed as fn(u64) -> What), (2, failed), (3, failed), (4, done)] {
            let from = kill + from * 1_000_000;
            world.run("least", 1_600, "c2", (from, from + 10_000), end);
        }
        About::Message(1_600)
    };
    NotDeadLettered Calm "what failed for the last time is no dead letter": |world| {
        world.set_outcome(1_503, Outcome::Unknown);
        world.remove(|event| event.id == Some(1_503) && matches!(event.what, What::DeadLettered { .. }));
        About::Message(1_503)
    };
    HandledDead Calm "a dead letter is handled": |world| {
        world.run("least", 1_502, "c2", (at(800), at(810)), failed);
        About::Message(1_502)
    };
    HandledDead Calm "a dead letter is handled that was moved back before": |world| {
        world.run("least", 1_504, "c2", (at(750), at(760)), failed);
        About::Message(1_504)
    };
    TooManyAgain Storm "more comes again after a kill than is said": |world| {
        let kill = world.kill;
        for id in 1_700..1_709 {
            world.publish("orders", id, (at(2_500), at(2_510)));
            world.run("least", id, "c1", (kill - 20_000, kill - 10_000), done);
            world.run("least", id, "c2", (kill + 1_500_000, kill + 1_510_000), done);
        }
        About::Name("c1")
    };
    OutOfOrder Calm "a message overtakes": |world| {
        let id = world.chance.choice([3_000, 3_009, 3_028]).unwrap_or(3_000);
        world.delay("steps", id, 72_000);
        About::Message(id)
    };
    OutOfOrder Calm "a redelivery overtakes what was to come first": |world| {
        world.change(|event| {
            let first = is_of(event, "steps", 3_014) && matches!(event.what, What::Started { .. });
            if first {
                event.at += 62_000;
            }
            first
        });
        world.change(|event| {
            let end = is_of(event, "steps", 3_014) && matches!(event.what, What::Done { .. });
            if end {
                event.at += 62_000;
            }
            end
        });
        About::Message(3_014)
    };
}

fn arrives_otherwise(event: &mut Event, group: &str, id: u64) -> bool {
    let arrives = is_of(event, group, id);
    match &mut event.what {
        What::Started { checksum, .. } if arrives => {
            *checksum += 1;
            true
        }
        _ => false,
    }
}
