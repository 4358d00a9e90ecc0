//! One durable that a subscription pulls from, and what is known of it.

use std::num::NonZeroU16;
use std::sync::Arc;
use std::time::Duration;

use async_nats::jetstream::consumer::Info;
use async_nats::jetstream::response::Response;
use async_nats::{Message, StatusCode, Subject};
use catga_core::{Error, Subscribe};
use tokio::time::{Instant, timeout_at};

use crate::connection::Connection;
use crate::durable::{Begin, Durable, MAX_ACK_PENDING, NO_CONSUMER, NO_STREAM};
use crate::error;
use crate::names::Member;
use crate::room::{Place, Room};
use crate::wire;

/// How long a pull waits for messages.
const EXPIRES: Duration = Duration::from_secs(30);
/// The same where partitions take turns.
const TURN: Duration = Duration::from_millis(50);
/// When such a pull is over at the latest: nats-server 2.9 does not say so of one that ends just when there is something to
/// be delivered again.
const LONGEST_TURN: Duration = Duration::from_millis(500);
/// How long after a refusal the next pull is sent.
const PAUSE: Duration = Duration::from_millis(250);
/// How often it is asked where a consumer stands, to make it there again.
const POSITION: Duration = Duration::from_secs(30);

/// What the server said of a pull or a consumer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Status {
    Fine,
    /// The consumer or its stream is not there.
    Gone,
}

/// A durable, and the pulls that were sent to it.
#[derive(Debug)]
pub(crate) struct Source {
    durable: Durable,
    /// Where pulls are sent.
    pull: Subject,
    /// Where what is said of them comes.
    reply: String,
    /// What is out of it here: of a partition nothing more comes before that is settled.
    out: Arc<Room>,
    /// Messages that were asked for and did not come yet.
    requested: usize,
    /// Whether the last pull was a short one.
    in_turn: bool,
    /// When the server was last heard of it.
    heard: Instant,
    heartbeat: Duration,
    /// Whether it was silent for too long.
    suspect: bool,
    /// After a refusal not before this.
    not_before: Instant,
    /// The last message that is settled, with all before it.
    floor: u64,
    /// When it is to be asked again how the consumer stands.
    known_until: Instant,
    gone: bool,
}

/// The sources of a subscription: one, or one for each partition; then one for what is redriven.
pub(crate) fn of(
    connection: &Connection,
    stream: &str,
    member: &Member,
    subscribe: &Subscribe,
    inbox: &str,
) -> Vec<Source> {
    let (names, message) = (&connection.names, &subscribe.message);
    let durable = |name, filter, max_ack_pending| Durable {
        stream: stream.to_owned(),
        name,
        filter,
        ack_wait: subscribe.ack_wait,
        max_ack_pending,
    };
    let mut durables = match subscribe.ordered {
        None => vec![durable(
            member.durable(),
            names.stored_in_any(message),
            MAX_ACK_PENDING,
        )],
        Some(partitions) => (0..partitions.get())
            .map(|partition| {
                let filter = names.stored(message, partition).into_string();
                durable(member.partition_durable(partition), filter, 1)
            })
            .collect(),
    };
    let redriven = names.redriven(member, message).into_string();
    durables.push(durable(member.redrive_durable(), redriven, MAX_ACK_PENDING));
    let heartbeat = connection.settings.pull_heartbeat.min(EXPIRES / 2);
    let sources = durables.into_iter().enumerate();
    let sources = sources.map(|(index, durable)| {
        let call = format!("CONSUMER.MSG.NEXT.{stream}.{}", durable.name);
        let pull = connection.api_subject(&call);
        Source::new(durable, pull, format!("{inbox}.{index}"), heartbeat)
    });
    sources.collect()
}

/// Refuses a group whose members ask for another order, or another number of partitions: each would have a part of
/// the messages twice, or nobody.
pub(crate) async fn agree(
    connection: &Connection,
    stream: &str,
    member: &Member,
    subscribe: &Subscribe,
) -> Result<(), Error> {
    let exists = async |name| {
        let durable = Durable {
            stream: stream.to_owned(),
            name,
            filter: String::new(),
            ack_wait: subscribe.ack_wait,
            max_ack_pending: 0,
        };
        durable.exists(connection, "subscribe").await
    };
    let asked = subscribe.ordered.map_or(0, NonZeroU16::get);
    let differs = match asked {
        0 => exists(member.partition_durable(0)).await?,
        partitions => {
            exists(member.durable()).await?
                || exists(member.partition_durable(partitions)).await?
                || exists(member.partition_durable(0)).await?
                    && !exists(member.partition_durable(partitions - 1)).await?
        }
    };
    if differs {
        return Err(error::other_order(
            &subscribe.message,
            &member.to_string(),
            asked,
        ));
    }
    Ok(())
}

impl Source {
    fn new(durable: Durable, pull: Subject, reply: String, heartbeat: Duration) -> Self {
        let now = Instant::now();
        Self {
            durable,
            pull,
            reply,
            out: Arc::default(),
            requested: 0,
            in_turn: false,
            heard: now,
            heartbeat,
            suspect: false,
            not_before: now,
            floor: 0,
            known_until: now + POSITION,
            gone: false,
        }
    }

    pub(crate) fn name(&self) -> &str {
        &self.durable.name
    }

    pub(crate) fn requested(&self) -> usize {
        self.requested
    }

    pub(crate) fn is_in_turn(&self) -> bool {
        self.in_turn
    }

    /// The call that tells how its consumer stands.
    pub(crate) fn info_call(&self) -> String {
        self.durable.info_call()
    }

    pub(crate) fn is_gone(&self) -> bool {
        self.gone
    }

    /// Whether a pull may be sent beside those that are out.
    pub(crate) fn may_ask(&self, now: Instant) -> bool {
        !self.gone && self.not_before <= now
    }

    /// Whether no pull is out, and one may be sent.
    pub(crate) fn may_pull(&self, now: Instant) -> bool {
        self.requested == 0 && self.may_ask(now)
    }

    /// The same for a partition.
    pub(crate) fn may_pull_in_order(&self, now: Instant) -> bool {
        self.out.held() == 0 && self.may_pull(now)
    }

    /// Notes that a message of it is out.
    pub(crate) fn take(&self) -> Place {
        self.out.take()
    }

    /// Makes sure that the consumer is there.
    pub(crate) async fn ensure(
        &mut self,
        connection: &Connection,
        operation: &'static str,
        begin: Begin,
    ) -> Result<(), Error> {
        let info = self.durable.ensure(connection, operation, begin).await?;
        self.stands_at(&info);
        Ok(())
    }

    /// Makes the consumer again, where it stood when that was last asked: what was settled since comes again.
    pub(crate) async fn recreate(&mut self, connection: &Connection) -> Result<(), Error> {
        let begin = match self.floor {
            0 => Begin::Oldest,
            floor => Begin::At(floor + 1),
        };
        self.ensure(connection, "receive", begin).await?;
        tracing::warn!(consumer = self.name(), ?begin, "a consumer was made again");
        let now = Instant::now();
        self.gone = false;
        self.reconnected(now);
        Ok(())
    }

    /// The stream was made anew.
    pub(crate) fn begin_again(&mut self) {
        self.floor = 0;
        self.gone = true;
    }

    fn stands_at(&mut self, info: &Info) {
        self.floor = info.ack_floor.stream_sequence;
        self.known_until = Instant::now() + POSITION;
    }

    /// Sends a pull for so many messages; a short one where partitions take turns.
    pub(crate) async fn pull(
        &mut self,
        connection: &Connection,
        batch: usize,
        in_turn: bool,
    ) -> Result<(), Error> {
        let payload = if in_turn {
            format!(r#"{{"batch":{batch},"expires":{}}}"#, TURN.as_nanos())
        } else {
            format!(
                r#"{{"batch":{batch},"expires":{},"idle_heartbeat":{}}}"#,
                EXPIRES.as_nanos(),
                self.heartbeat.as_nanos()
            )
        };
        let pull = self.pull.clone();
        self.tell(connection, pull, self.reply.clone(), payload)
            .await?;
        self.requested += batch;
        self.in_turn = in_turn;
        self.heard = Instant::now();
        Ok(())
    }

    async fn tell(
        &self,
        connection: &Connection,
        subject: Subject,
        reply: String,
        payload: String,
    ) -> Result<(), Error> {
        let sent = connection
            .client
            .publish_with_reply(subject, reply, payload.into());
        match timeout_at(connection.call_deadline(), sent).await {
            Ok(sent) => sent.map_err(|error| error::not_sent("receive", error)),
            Err(_) => Err(error::queue_full("receive")),
        }
    }

    /// A message came.
    pub(crate) fn received(&mut self, now: Instant) {
        self.requested = self.requested.saturating_sub(1);
        self.heard = now;
    }

    /// Asks where the consumer stands, to hear that all that was sent before has come; the answer names the question.
    pub(crate) async fn ask_behind(
        &self,
        connection: &Connection,
        question: u64,
    ) -> Result<(), Error> {
        let info = connection.api_subject(&self.durable.info_call());
        let reply = format!("{}.i.{question}", self.reply);
        self.tell(connection, info, reply, String::new()).await
    }

    /// What it answers of what was so asked.
    pub(crate) fn answered(&self, answer: &Message) -> Option<u64> {
        let rest = answer.subject.strip_prefix(self.reply.as_str())?;
        rest.strip_prefix(".i.")?.parse().ok()
    }

    /// The server says something of a pull, or where the consumer stands.
    pub(crate) fn hear(&mut self, message: &Message, now: Instant) -> Status {
        self.heard = now;
        match message.status {
            None => self.informed(&message.payload, self.answered(message).is_none()),
            Some(StatusCode::IDLE_HEARTBEAT) => {}
            Some(status) => {
                let left = wire::number(message.headers.as_ref(), "Nats-Pending-Messages");
                let left = left.and_then(|left| usize::try_from(left).ok());
                self.requested = left.map_or(0, |left| self.requested.saturating_sub(left));
                let text = message.description.as_deref().unwrap_or_default();
                match status {
                    // Its time is over.
                    StatusCode::TIMEOUT | StatusCode::NOT_FOUND => {}
                    StatusCode::REQUEST_TERMINATED if text.contains("Consumer Deleted") => {
                        self.gone = true;
                    }
                    status => {
                        // Newer servers say so of a consumer that is gone, or has no leader.
                        if status == StatusCode::NO_RESPONDERS {
                            self.known_until = now;
                        }
                        self.not_before = now + PAUSE;
                        tracing::debug!(consumer = self.name(), %status, text, "a pull was refused");
                    }
                }
            }
        }
        if self.gone {
            Status::Gone
        } else {
            Status::Fine
        }
    }

    /// Whether pulls are out is not said where some may have been sent behind the question.
    fn informed(&mut self, answer: &[u8], tells_of_pulls: bool) {
        match serde_json::from_slice::<Response<Info>>(answer) {
            Ok(Response::Ok(info)) => {
                self.stands_at(&info);
                let mut none_is_out = || std::mem::take(&mut self.suspect) || info.num_waiting == 0;
                if tells_of_pulls && none_is_out() {
                    // No pull of ours is out, whatever became of it.
                    self.requested = 0;
                }
            }
            Ok(Response::Err { error }) => {
                self.gone |= [NO_CONSUMER, NO_STREAM].contains(&error.error_code().0);
            }
            Err(error) => {
                tracing::debug!(consumer = self.name(), %error, "where a consumer stands was not said");
            }
        }
    }

    /// Pulls that were sent before are not answered.
    pub(crate) fn reconnected(&mut self, now: Instant) {
        self.requested = 0;
        self.suspect = false;
        self.not_before = now;
        self.heard = now;
    }

    /// Nobody listened for so long.
    pub(crate) fn excuse(&mut self, away: Duration) {
        self.heard += away;
    }

    /// When the server is to be asked, unless it is heard before.
    pub(crate) fn next_check(&self) -> Instant {
        if self.not_before > self.heard.max(Instant::now()) && self.requested == 0 {
            return self.not_before;
        }
        self.heard + self.longest_silence()
    }

    /// After which a pull that is out needs to be seen to.
    fn longest_silence(&self) -> Duration {
        if self.in_turn && self.requested > 0 {
            LONGEST_TURN
        } else {
            self.heartbeat * 2
        }
    }

    /// Asks where the consumer stands, when it was silent for too long, or this is not known any more.
    pub(crate) async fn check(
        &mut self,
        connection: &Connection,
        now: Instant,
    ) -> Result<(), Error> {
        let silent = self.requested > 0 && now >= self.heard + self.longest_silence();
        if silent && self.in_turn {
            self.requested = 0;
            return Ok(());
        }
        let unknown = now >= self.known_until;
        if !(silent || unknown) || !connection.link.is_connected() {
            self.heard = self.heard.max(now - self.heartbeat);
            return Ok(());
        }
        self.heard = now;
        self.suspect |= silent;
        self.known_until = now + POSITION;
        let info = connection.api_subject(&self.durable.info_call());
        self.tell(connection, info, format!("{}.i", self.reply), String::new())
            .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Newer servers answer a pull of a consumer that is gone so, at once and each time.
    #[test]
    fn a_consumer_that_nobody_answers_for_is_asked_after() {
        let durable = Durable {
            stream: "s".to_owned(),
            name: "d".to_owned(),
            filter: "f".to_owned(),
            ack_wait: POSITION,
            max_ack_pending: 1,
        };
        let mut source = Source::new(durable, "pull".into(), "r.0".to_owned(), POSITION);
        let now = Instant::now();
        let nobody = Message {
            subject: "r.0".into(),
            reply: None,
            payload: catga_core::Bytes::new(),
            headers: None,
            status: Some(StatusCode::NO_RESPONDERS),
            description: None,
            length: 0,
        };
        assert!(now < source.known_until);
        assert_eq!(source.hear(&nobody, now), Status::Fine, "it may come back");
        assert!(now >= source.known_until && !source.may_ask(now));
        assert!(source.next_check() <= now + PAUSE);
    }
}
