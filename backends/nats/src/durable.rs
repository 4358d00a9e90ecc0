//! Durable consumers: created when missing, compared when present.

use std::time::Duration;

use async_nats::jetstream::consumer::{AckPolicy, Config, DeliverPolicy, Info};
use catga_core::{Error, Start};
use serde_json::json;

use crate::connection::Connection;
use crate::error;

/// No consumer of this name.
pub(crate) const NO_CONSUMER: u64 = 10014;
/// No stream of this name.
pub(crate) const NO_STREAM: u64 = 10059;
/// The most unsettled deliveries of a group, over all its members.
pub(crate) const MAX_ACK_PENDING: i64 = 20_000;

/// What a group, a node of it or a partition of it consumes by.
#[derive(Clone, Debug)]
pub(crate) struct Durable {
    pub(crate) stream: String,
    pub(crate) name: String,
    pub(crate) filter: String,
    pub(crate) ack_wait: Duration,
    /// 1 keeps the order over all members and through redeliveries.
    pub(crate) max_ack_pending: i64,
}

/// Where a consumer that is made begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Begin {
    Oldest,
    New,
    At(u64),
}

impl From<Start> for Begin {
    fn from(start: Start) -> Self {
        match start {
            Start::New => Self::New,
            _ => Self::Oldest,
        }
    }
}

impl Durable {
    fn config(&self, begin: Begin) -> Config {
        Config {
            durable_name: Some(self.name.clone()),
            deliver_policy: match begin {
                Begin::Oldest => DeliverPolicy::All,
                Begin::New => DeliverPolicy::New,
                Begin::At(start_sequence) => DeliverPolicy::ByStartSequence { start_sequence },
            },
            ack_policy: AckPolicy::Explicit,
            ack_wait: self.ack_wait,
            // The server never hides a message: who gives it up puts it into the dead letters.
            max_deliver: -1,
            filter_subject: self.filter.clone(),
            max_ack_pending: self.max_ack_pending,
            ..Config::default()
        }
    }

    /// The call that tells how it stands.
    pub(crate) fn info_call(&self) -> String {
        format!("CONSUMER.INFO.{}.{}", self.stream, self.name)
    }

    /// Whether it is there.
    pub(crate) async fn exists(
        &self,
        connection: &Connection,
        operation: &'static str,
    ) -> Result<bool, Error> {
        let found = connection
            .api::<Info>(operation, &self.info_call(), &json!({}))
            .await?;
        match found {
            Ok(_) => Ok(true),
            Err(problem) if problem.error_code().0 == NO_CONSUMER => Ok(false),
            Err(problem) => {
                let what = format!("consumer `{}` of stream `{}`", self.name, self.stream);
                Err(error::jetstream(operation, &what, &problem))
            }
        }
    }

    /// Makes sure that it is there and is what it should be.
    pub(crate) async fn ensure(
        &self,
        connection: &Connection,
        operation: &'static str,
        begin: Begin,
    ) -> Result<Info, Error> {
        let what = format!("consumer `{}` of stream `{}`", self.name, self.stream);
        let call = self.info_call();
        let present = connection.api::<Info>(operation, &call, &json!({})).await?;
        let config = match present {
            Ok(info) => {
                self.compare(operation, &what, &info.config)?;
                match self.changed(&info) {
                    Some(changed) if connection.settings.manage => changed,
                    _ => return Ok(info),
                }
            }
            Err(problem) if problem.error_code().0 == NO_CONSUMER => {
                if !connection.settings.manage {
                    return Err(error::missing(operation, &what));
                }
                self.config(begin)
            }
            Err(problem) => return Err(error::jetstream(operation, &what, &problem)),
        };
        let create = format!("CONSUMER.DURABLE.CREATE.{}.{}", self.stream, self.name);
        let payload = json!({ "stream_name": self.stream, "config": config });
        let made = connection.api::<Info>(operation, &create, &payload).await?;
        let info = made.map_err(|problem| error::jetstream(operation, &what, &problem))?;
        self.compare(operation, &what, &info.config)?;
        Ok(info)
    }

    /// What cannot be changed, and has to be as it should.
    fn compare(&self, operation: &'static str, what: &str, present: &Config) -> Result<(), Error> {
        let differs = |setting, is: &dyn std::fmt::Debug, wanted: &dyn std::fmt::Debug| {
            Err(error::differs(operation, what, setting, is, wanted))
        };
        if present.filter_subject != self.filter {
            return differs("filter_subject", &present.filter_subject, &self.filter);
        }
        if present.ack_policy != AckPolicy::Explicit {
            return differs("ack_policy", &present.ack_policy, &AckPolicy::Explicit);
        }
        if present.deliver_subject.is_some() {
            return differs("deliver_subject", &present.deliver_subject, &());
        }
        if present.max_deliver > 0 {
            return differs("max_deliver", &present.max_deliver, &-1);
        }
        if present.max_ack_pending != self.max_ack_pending {
            return differs(
                "max_ack_pending",
                &present.max_ack_pending,
                &self.max_ack_pending,
            );
        }
        Ok(())
    }

    /// The settings with our ack wait, when it may be set. Members that hold messages trust in the one that is: theirs is
    /// not cut short.
    fn changed(&self, info: &Info) -> Option<Config> {
        let (is, wanted) = (info.config.ack_wait, self.ack_wait);
        if is == wanted {
            return None;
        }
        let idle = info.num_waiting == 0 && info.num_ack_pending == 0;
        let (consumer, stream) = (&self.name, &self.stream);
        if wanted < is && !idle {
            tracing::warn!(
                consumer,
                stream,
                ?is,
                ?wanted,
                "the ack wait of a consumer stays longer than asked for: other members use it"
            );
            return None;
        }
        tracing::warn!(
            consumer, stream, from = ?is, to = ?wanted,
            "the ack wait of a consumer is changed, for all its members"
        );
        Some(Config {
            ack_wait: wanted,
            ..info.config.clone()
        })
    }
}
