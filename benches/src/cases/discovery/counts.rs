//! What passes through the server, as it counts it itself.

use catga_testkit::server::{NatsServer, RedisServer};
use serde_json::Value;

use crate::running::Running;

/// So far.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counts {
    /// Messages that clients sent: `in_msgs` of NATS, scripts that Redis was asked to run.
    pub written: u64,
    /// Messages that clients got, answers too: `out_msgs` of NATS; of Redis an answer for each script, and each `PUBLISH` as often as
    /// somebody is subscribed.
    pub delivered: u64,
    /// Of NATS those of the messages; of Redis all that went over the wire, keep-alives of the connections too.
    pub bytes_in: u64,
    pub bytes_out: u64,
}

impl Counts {
    /// None where there is no server.
    pub fn of(running: Option<&Running>) -> Self {
        match running {
            None => Self::default(),
            Some(Running::Nats(server)) => Self::nats(server),
            Some(Running::Redis(server)) => Self::redis(server),
        }
    }

    fn nats(server: &NatsServer) -> Self {
        let said = server.get("/varz").expect("the server answers");
        let said: Value = serde_json::from_str(&said).expect("JSON");
        let field = |name: &str| said[name].as_u64().expect("a counter of /varz");
        Self {
            written: field("in_msgs"),
            delivered: field("out_msgs"),
            bytes_in: field("in_bytes"),
            bytes_out: field("out_bytes"),
        }
    }

    fn redis(server: &RedisServer) -> Self {
        let commands = server.ask("INFO commandstats").expect("it answers");
        let stats = server.ask("INFO stats").expect("it answers");
        let subscribed = server.ask("PUBSUB NUMSUB {catga::nodes}");
        let subscribed = subscribed.expect("it answers");
        let subscribed: u64 = subscribed
            .lines()
            .last()
            .and_then(|count| count.parse().ok())
            .expect("so many are subscribed");
        let calls = |command: &str| {
            let line = commands
                .lines()
                .find_map(|line| line.strip_prefix(&format!("cmdstat_{command}:calls=")));
            let count = line.and_then(|line| line.split(',').next());
            count.map_or(0, |count| count.parse().expect("a number"))
        };
        let field = |name: &str| -> u64 {
            let value = stats.lines().find_map(|line| line.strip_prefix(name));
            let value = value.and_then(|value| value.trim().strip_prefix(':'));
            value.and_then(|value| value.parse().ok()).expect("a field")
        };
        let scripts = calls("evalsha") + calls("eval");
        Self {
            written: scripts,
            // The same are subscribed all the time that is measured.
            delivered: scripts + calls("publish") * subscribed,
            bytes_in: field("total_net_input_bytes"),
            bytes_out: field("total_net_output_bytes"),
        }
    }
}

/// Begins to count.
pub struct Counter {
    began: Counts,
    /// What asking for the counts adds to them.
    asking: Counts,
}

impl Counter {
    pub fn begin(running: Option<&Running>) -> Self {
        let first = Counts::of(running);
        let began = Counts::of(running);
        Self {
            began,
            asking: began.less(first),
        }
    }

    /// What has passed since, without what asking for it did.
    pub fn end(self, running: Option<&Running>) -> Counts {
        Counts::of(running).less(self.began).less(self.asking)
    }
}

impl Counts {
    fn less(self, other: Self) -> Self {
        Self {
            written: self.written.saturating_sub(other.written),
            delivered: self.delivered.saturating_sub(other.delivered),
            bytes_in: self.bytes_in.saturating_sub(other.bytes_in),
            bytes_out: self.bytes_out.saturating_sub(other.bytes_out),
        }
    }
}
