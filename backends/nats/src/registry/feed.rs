//! All changes of a bucket, in order: first the last of each key, then what comes.
//!
//! A consumer of the server's that acknowledges nothing and numbers what it sends, so that a gap is seen. Whatever is wrong
//! with it, another is made that begins anew.

use std::time::{Duration, SystemTime};

use async_nats::jetstream::consumer::Info;
use async_nats::{Message, StatusCode, Subject, Subscriber};
use catga_core::{Bytes, Error};
use futures_util::StreamExt;
use serde_json::json;

use crate::bucket::{Bucket, is_deletion};
use crate::connection::Connection;
use crate::error;
use crate::wire::{self, AckInfo};

/// The number of the last message that an idle consumer sent.
const LAST: &str = "Nats-Last-Consumer";

/// When the server forgets a consumer that nobody listens to: another is made for each connection.
const LEFT: Duration = Duration::from_secs(1);

/// The changes of one bucket, as long as none is missed.
#[derive(Debug)]
pub(crate) struct Feed {
    messages: Subscriber,
    /// When the bucket was made.
    pub(crate) made: String,
    /// The server's time when it began.
    pub(crate) began: SystemTime,
    /// The last change of the bucket when it began.
    pub(crate) last: u64,
    /// Whether there is nothing before what comes.
    pub(crate) is_current: bool,
    /// What subjects of keys begin with.
    prefix: String,
    sent: u64,
    /// The connection that it came by.
    lost: u64,
}

/// What a feed says.
#[derive(Debug)]
pub(crate) enum Heard {
    Change(Change),
    /// There was nothing to say.
    Nothing,
}

/// A key that was written.
#[derive(Debug)]
pub(crate) struct Change {
    pub(crate) key: String,
    pub(crate) revision: u64,
    pub(crate) time: SystemTime,
    /// None where it was deleted.
    pub(crate) value: Option<Bytes>,
    /// How many are behind it.
    pub(crate) pending: u64,
}

impl Feed {
    /// Begins at the last change of each key; says that it is there once in a `pulse`.
    pub(crate) async fn open(
        connection: &Connection,
        bucket: &Bucket,
        pulse: Duration,
    ) -> Result<Self, Error> {
        const WATCH: &str = "watch";
        // Before anything else: what is lost from here on is not missed.
        let lost = connection.link.lost();
        let info = bucket.look(connection, WATCH).await?;
        let inbox = Subject::from(connection.client.new_inbox());
        let messages = connection.subscribe(WATCH, inbox.clone(), None).await?;
        let stream = bucket.stream();
        let config = json!({
            "stream_name": stream,
            "config": {
                "deliver_subject": inbox.as_str(),
                "deliver_policy": "last_per_subject",
                "filter_subject": bucket.subject(">"),
                "ack_policy": "none",
                "replay_policy": "instant",
                "idle_heartbeat": nanos(pulse),
                "inactive_threshold": nanos(LEFT),
                "mem_storage": true,
                "num_replicas": 1,
            },
        });
        // Without a name, so that the server forgets it soon after we are gone.
        let call = format!("CONSUMER.CREATE.{stream}");
        let made = connection.api::<Info>(WATCH, &call, &config).await?;
        let made = made
            .map_err(|problem| error::jetstream(WATCH, &format!("stream `{stream}`"), &problem))?;
        Ok(Self {
            messages,
            made: made_at(&info),
            began: made.created.into(),
            last: info.state.last_sequence,
            is_current: made.num_pending == 0,
            prefix: bucket.subject(""),
            sent: 0,
            lost,
        })
    }

    /// Waits until it can be relied on no more, as far as the connection tells.
    pub(crate) async fn cut(connection: &Connection, lost: u64) {
        connection.link.until(|link| link.lost() != lost).await;
    }

    /// Which connection it came by.
    pub(crate) fn lost(&self) -> u64 {
        self.lost
    }

    /// What it says next; `None` when something was missed.
    ///
    /// Dropping the future misses nothing.
    pub(crate) async fn next(&mut self) -> Option<Heard> {
        let message = self.messages.next().await?;
        if let Some(status) = message.status {
            let last = wire::number(message.headers.as_ref(), LAST);
            let idle = status == StatusCode::IDLE_HEARTBEAT;
            return (idle && last.is_none_or(|last| last == self.sent)).then_some(Heard::Nothing);
        }
        let info = message.reply.as_deref().and_then(AckInfo::read)?;
        if info.consumer_sequence != self.sent + 1 {
            return None;
        }
        self.sent = info.consumer_sequence;
        Some(Heard::Change(self.change(message, info)?))
    }

    fn change(&self, message: Message, info: AckInfo) -> Option<Change> {
        Some(Change {
            key: message.subject.strip_prefix(&self.prefix)?.to_owned(),
            revision: info.stream_sequence,
            time: info.published(),
            value: (!is_deletion(message.headers.as_ref())).then_some(message.payload),
            pending: info.pending,
        })
    }
}

/// When a stream was made, as something to compare.
pub(crate) fn made_at(info: &async_nats::jetstream::stream::Info) -> String {
    format!("{:?}", info.created)
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
