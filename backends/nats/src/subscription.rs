//! A subscription at QoS 1 or 2: what is pulled from the durables of a group, or of one node of it.
//!
//! Pulls are sent from here and not by the client's own stream of messages: their size is bound to the free places of
//! the handler, several durables share one subject to be delivered to, and what a server says to a pull is heard for each.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_nats::jetstream::consumer::Info;
use async_nats::{Message, Subscriber};
use catga_core::{
    Consumers, Delivery, Envelope, Error, Name, QoS, StatsReader, Subscribe, Subscription,
    SubscriptionStats, async_trait,
};
use futures_util::future::join_all;
use futures_util::{FutureExt, StreamExt};
use serde_json::json;
use tokio::select;
use tokio::task::{AbortHandle, unconstrained};
use tokio::time::{Instant, sleep_until, timeout_at};

use crate::connection::Connection;
use crate::deferred::Deferred;
use crate::names::Member;
use crate::pace::Pace;
use crate::receipt::StreamReceipt;
use crate::room::Room;
use crate::source::{Source, Status};
use crate::wire::{self, AckInfo, GENERATION};
use crate::{absence, error, source};

/// A member of a group.
#[derive(Debug)]
pub(crate) struct StreamSubscription {
    connection: Arc<Connection>,
    message: Name,
    member: Arc<Member>,
    qos: QoS,
    ack_wait: Duration,
    max_in_flight: usize,
    room: Arc<Room>,
    pace: Pace,
    /// The ends of the leases of what was dropped unsettled, the first on top.
    abandoned: BinaryHeap<Reverse<Instant>>,
    /// When the stream was made whose sequences the sources know.
    created: String,
    /// One, or one for each partition; and one for what is redriven, the last.
    sources: Vec<Source>,
    /// Where the next round of pulls begins, when not all partitions can have one.
    cursor: usize,
    /// What replies to pulls begin with.
    inbox: String,
    /// Taken when the subscription is left.
    subscriber: Option<Subscriber>,
    /// The connection that the pulls were sent on.
    epoch: u64,
    /// When nobody received any more.
    away_since: Instant,
    /// What came and was not received yet, each with the time when it was not there yet: since then the server may count.
    arrived: VecDeque<(Instant, Message)>,
    /// When all that had come was taken over.
    looked: Instant,
    waiting: Arc<AtomicU64>,
    /// Forgets members of an `each_node` group that stay away.
    sweeper: Option<AbortHandle>,
}

impl StreamSubscription {
    /// Joins the group: when this returns, the group exists.
    pub(crate) async fn join(
        connection: Arc<Connection>,
        subscribe: &Subscribe,
    ) -> Result<Self, Error> {
        let message = subscribe.message.clone();
        let member = Arc::new(Member::of(&subscribe.consumers));
        let route = connection
            .routes
            .route(&connection, "subscribe", &message)
            .await?;
        source::agree(&connection, &route.stream, &member, subscribe).await?;
        let inbox = connection.client.new_inbox();
        let mut sources = source::of(&connection, &route.stream, &member, subscribe, &inbox);
        for source in &mut sources {
            source
                .ensure(&connection, "subscribe", subscribe.start.into())
                .await?;
        }
        let wildcard = format!("{inbox}.>").into();
        let subscriber = connection.subscribe("subscribe", wildcard, None).await?;
        let sweeper = match &subscribe.consumers {
            Consumers::EachNode { group, .. } if connection.settings.manage => {
                let connection = Arc::downgrade(&connection);
                let sweep = absence::keep_sweeping(
                    connection,
                    message.clone(),
                    group.clone(),
                    subscribe.absence,
                );
                Some(tokio::spawn(sweep).abort_handle())
            }
            _ => None,
        };
        Ok(Self {
            epoch: connection.link.epoch(),
            connection,
            message,
            member,
            qos: subscribe.qos,
            ack_wait: subscribe.ack_wait,
            max_in_flight: subscribe.max_in_flight.max(1),
            room: Arc::default(),
            pace: Pace::new(Instant::now()),
            abandoned: BinaryHeap::new(),
            created: route.created.clone(),
            sources,
            cursor: 0,
            inbox,
            subscriber: Some(subscriber),
            away_since: Instant::now(),
            arrived: VecDeque::new(),
            looked: Instant::now(),
            waiting: Arc::default(),
            sweeper,
        })
    }

    /// Frees the places of what was dropped unsettled, when its lease is over.
    fn free_abandoned(&mut self) {
        while let Some(until) = self.room.abandoned() {
            self.abandoned.push(Reverse(until));
        }
        let now = Instant::now();
        while self
            .abandoned
            .peek()
            .is_some_and(|Reverse(until)| *until <= now)
        {
            self.abandoned.pop();
            self.room.free();
        }
    }

    fn has_room(&self) -> bool {
        self.room.held() < self.max_in_flight
    }

    /// Hands out again what was put off and is due, until there are so many.
    fn take_deferred(&mut self, most: usize, into: &mut Vec<Delivery>) {
        while into.len() < most && self.has_room() {
            let Some(Deferred {
                envelope,
                mut receipt,
                ..
            }) = self.room.next_due()
            else {
                return;
            };
            if receipt.until() <= Instant::now() {
                continue;
            }
            let (count, generation) = receipt.counts();
            let index = self.index_of(generation > 0, envelope.partition());
            self.pace.handed_out();
            receipt.take_places((self.room.take(), self.sources[index].take()));
            into.push(delivery(envelope, receipt, count, generation));
        }
    }

    /// Takes over what has arrived: since the last time at the earliest.
    fn look(&mut self) {
        let Some(subscriber) = &mut self.subscriber else {
            return;
        };
        // All of it, whatever the task has left of its budget: who leaves some behind does not know when it came.
        while let Some(Some(message)) = unconstrained(subscriber.next()).now_or_never() {
            self.arrived.push_back((self.looked, message));
        }
        self.looked = Instant::now();
    }

    /// Hands out what has arrived, until there are so many.
    fn drain(&mut self, most: usize, into: &mut Vec<Delivery>) {
        self.look();
        while into.len() < most && self.has_room() {
            let Some((arrived, message)) = self.arrived.pop_front() else {
                return;
            };
            into.extend(self.accept(message, arrived));
        }
    }

    /// A delivery, unless the server speaks of a pull.
    fn accept(&mut self, message: Message, arrived: Instant) -> Option<Delivery> {
        let now = Instant::now();
        if message.status.is_some() || message.reply.is_none() {
            let index = self.index_of_reply(&message.subject)?;
            let status = self.sources[index].hear(&message, now);
            if status == Status::Gone {
                tracing::warn!(message = %self.message, consumer = self.sources[index].name(), "a consumer is gone");
            }
            return None;
        }
        let ack = message.reply?;
        let info = AckInfo::read(&ack)?;
        let (index, partition) = self.index_of_subject(&message.subject);
        self.sources[index].received(now);
        if index == 0 {
            self.waiting.store(info.pending, Ordering::Relaxed);
        }
        // Since then the server may count.
        if arrived + self.ack_wait <= now {
            // It waited for as long, as it does for a handler that was paused, and is delivered to somebody again.
            tracing::debug!(message = %self.message, sequence = info.stream_sequence, "its lease ended before it was received");
            return None;
        }
        let headers = message.headers.as_ref();
        let generation = wire::number(headers, GENERATION).unwrap_or(0);
        let generation = u32::try_from(generation).unwrap_or(u32::MAX);
        let envelope = wire::envelope(self.message.clone(), self.qos, headers, message.payload)
            .with_partition(partition);
        let count = info.delivered;
        self.pace.handed_out();
        let receipt = StreamReceipt::new(
            Arc::clone(&self.connection),
            ack,
            Arc::clone(&self.member),
            info,
            generation,
            self.qos,
            (arrived, self.ack_wait),
            (self.room.take(), self.sources[index].take()),
        );
        Some(delivery(envelope, receipt, count, generation))
    }

    /// The source whose pull is answered: `{inbox}.{index}[.i]`.
    fn index_of_reply(&self, subject: &str) -> Option<usize> {
        let rest = subject.strip_prefix(&self.inbox)?.strip_prefix('.')?;
        let index: usize = rest.split('.').next()?.parse().ok()?;
        (index < self.sources.len()).then_some(index)
    }

    /// The source of a message, and its partition.
    fn index_of_subject(&self, subject: &str) -> (usize, Option<u16>) {
        let mut tokens = subject.split('.').skip(1);
        if tokens.next() != Some("s") {
            return (self.index_of(true, None), None);
        }
        let partition = tokens.next().and_then(|token| token.parse::<u16>().ok());
        (self.index_of(false, partition), partition)
    }

    fn index_of(&self, redriven: bool, partition: Option<u16>) -> usize {
        let last = self.sources.len() - 1;
        if redriven {
            return last;
        }
        // Without an order there is one source for all partitions.
        let index = partition.map_or(0, usize::from);
        if last == 1 { 0 } else { index.min(last) }
    }

    /// Asks for as many messages as there are places free.
    async fn pull(&mut self) -> Result<(), Error> {
        if !self.connection.link.is_connected() {
            return Ok(());
        }
        let held = self.room.held();
        let (last, now) = (self.sources.len() - 1, Instant::now());
        if held < self.max_in_flight && self.sources[last].may_pull(now) {
            // Redrives are few: one at a time, which waits here when there is no place.
            self.sources[last].pull(&self.connection, 1, false).await?;
        }
        if last == 1 {
            // Else nothing would come while those at hand are handled.
            let ahead = self.pace.ahead(held, now).min(self.max_in_flight);
            let source = &mut self.sources[0];
            let free = (self.max_in_flight + ahead).saturating_sub(held + source.requested());
            let worth_it = source.requested() == 0 || free * 2 >= self.max_in_flight + ahead;
            if free > 0 && worth_it && source.may_ask(now) {
                source.pull(&self.connection, free, false).await?;
            }
            return Ok(());
        }
        let in_turn = self.max_in_flight < last;
        // Where partitions begin to take turns, the long pulls of idle ones would keep the others from theirs.
        let counts = |source: &&Source| !in_turn || source.is_in_turn();
        let pulling = self.sources[..last].iter().filter(counts);
        let requested = pulling.map(Source::requested).sum::<usize>();
        let mut free = self.max_in_flight.saturating_sub(held + requested);
        for step in 0..last {
            if free == 0 {
                break;
            }
            let index = (self.cursor + step) % last;
            if self.sources[index].may_pull_in_order(now) {
                self.sources[index]
                    .pull(&self.connection, 1, in_turn)
                    .await?;
                free -= 1;
                if in_turn {
                    self.cursor = index + 1;
                }
            }
        }
        Ok(())
    }

    /// Makes consumers again that are gone, where they were.
    async fn repair(&mut self) -> Result<(), Error> {
        let connection = Arc::clone(&self.connection);
        while let Some(index) = self.sources.iter().position(Source::is_gone) {
            connection.routes.forget(&self.message);
            let route = connection
                .routes
                .route(&connection, "receive", &self.message)
                .await?;
            if route.created != self.created {
                tracing::warn!(message = %self.message, "the stream was made anew; what the old one held is gone");
                self.created.clone_from(&route.created);
                // Its sequences begin again, and so do all consumers.
                self.sources.iter_mut().for_each(Source::begin_again);
                continue;
            }
            self.sources[index].recreate(&connection).await?;
        }
        Ok(())
    }

    /// Asks after consumers that should have been heard.
    async fn check(&mut self) -> Result<(), Error> {
        let now = Instant::now();
        for source in &mut self.sources {
            source.check(&self.connection, now).await?;
        }
        Ok(())
    }

    /// After a new connection no pull of the old one is answered.
    fn catch_up(&mut self) {
        let (now, epoch) = (Instant::now(), self.connection.link.epoch());
        if std::mem::replace(&mut self.epoch, epoch) != epoch {
            self.sources
                .iter_mut()
                .for_each(|source| source.reconnected(now));
        }
    }

    /// The calls that tell how the consumers stand which have pulls out.
    fn info_calls(&self) -> Vec<String> {
        let pulling = self.sources.iter().filter(|source| source.requested() > 0);
        pulling.map(Source::info_call).collect()
    }

    fn leave(&mut self) -> Option<Subscriber> {
        if let Some(sweeper) = self.sweeper.take() {
            sweeper.abort();
        }
        self.room.leave();
        self.subscriber.take()
    }

    async fn next(&mut self, max: usize, into: &mut Vec<Delivery>) -> Result<(), Error> {
        let before = into.len();
        let connection = Arc::clone(&self.connection);
        loop {
            if connection.closed.is_raised() || self.subscriber.is_none() {
                return Err(error::closed("receive"));
            }
            self.catch_up();
            self.free_abandoned();
            // Before it is looked what there is: a place that comes free later wakes the wait below.
            let room = self.has_room();
            self.take_deferred(before + max, into);
            self.drain(before + max, into);
            if into.len() > before {
                if let Err(error) = self.pull().await {
                    // Whoever receives next is told, when there is nothing to hand out.
                    tracing::debug!(message = %self.message, %error, "nothing more was asked for");
                }
                return Ok(());
            }
            self.repair().await?;
            self.pull().await?;
            let epoch = self.epoch;
            let check = self.sources.iter().map(Source::next_check).min();
            let mut check = check.expect("there are always two sources");
            if let Some(Reverse(until)) = self.abandoned.peek() {
                check = check.min(*until);
            }
            let subscriber = self.subscriber.as_mut().expect("checked above");
            select! {
                biased;
                () = connection.closed.raised() => {}
                message = subscriber.next(), if room => match message {
                    Some(message) => {
                        let now = Instant::now();
                        // This process was paused if it slept beyond its check: who knows when that came.
                        let arrived = if now > check { self.looked } else { now };
                        self.looked = now;
                        into.extend(self.accept(message, arrived));
                    }
                    // The client closes it with the connection alone.
                    None => return Err(error::closed("receive")),
                },
                // A partition whose message is settled can be asked again.
                () = self.room.freed(), if !room || self.sources.len() > 2 => {}
                () = self.room.came_due(), if room => {}
                () = connection.link.until(|link| link.epoch() != epoch) => {}
                () = sleep_until(check) => self.check().await?,
            }
        }
    }
}

fn delivery(envelope: Envelope, receipt: StreamReceipt, count: u64, generation: u32) -> Delivery {
    // Who redrives a message may have seen it handled half-way.
    let delivery = Delivery::new(envelope, Box::new(receipt)).with_may_have_run(generation > 0);
    let count = u32::try_from(count).unwrap_or(u32::MAX);
    delivery.with_count(count).with_generation(generation)
}

/// Ends the pulls, and gives back what has arrived and nobody received.
async fn give_back(
    connection: Arc<Connection>,
    room: Arc<Room>,
    mut subscriber: Subscriber,
    arrived: VecDeque<(Instant, Message)>,
    calls: Vec<String>,
) {
    let by = connection.call_deadline();
    let drained = timeout_at(by, subscriber.drain()).await;
    if !matches!(drained, Ok(Ok(()))) {
        return;
    }
    let ack_of = |message: Message| message.reply.filter(|ack| AckInfo::read(ack).is_some());
    let mut acks: Vec<_> = arrived
        .into_iter()
        .filter_map(|(_, message)| ack_of(message))
        .collect();
    while let Ok(Some(message)) = timeout_at(by, subscriber.next()).await {
        acks.extend(ack_of(message));
    }
    // Asked how it stands, the server forgets pulls that nobody listens to. One that it finds at a redelivery instead
    // makes nats-server 2.9 forget that redelivery until its lease ends, and deliver the newest message once more.
    let calls = calls.iter().map(|call| {
        let connection = &connection;
        async move { connection.api::<Info>("close", call, &json!({})).await }
    });
    let _ = timeout_at(by, join_all(calls)).await;
    while room.deferred() > 0 {
        match room.next_due() {
            Some(Deferred { receipt, .. }) => receipt.give_back().await,
            None if timeout_at(by, room.came_due()).await.is_err() => break,
            None => {}
        }
    }
    for ack in acks {
        // One that gets lost is redelivered when its lease ends.
        let _ = connection
            .publish("close", ack, None, "-NAK".into(), by)
            .await;
    }
}

#[async_trait]
impl Subscription for StreamSubscription {
    async fn recv(&mut self, max: usize, into: &mut Vec<Delivery>) -> Result<(), Error> {
        // Nobody listened meanwhile, so that nobody was silent either.
        let away = self.away_since.elapsed();
        self.sources
            .iter_mut()
            .for_each(|source| source.excuse(away));
        let received = self.next(max.max(1), into).await;
        self.away_since = Instant::now();
        received
    }

    async fn close(&mut self) -> Result<(), Error> {
        if let Some(subscriber) = self.leave() {
            let (calls, arrived) = (self.info_calls(), std::mem::take(&mut self.arrived));
            let (connection, room) = (Arc::clone(&self.connection), Arc::clone(&self.room));
            give_back(connection, room, subscriber, arrived, calls).await;
        }
        Ok(())
    }

    fn set_max_in_flight(&mut self, max_in_flight: usize) {
        self.max_in_flight = max_in_flight.max(1);
    }

    fn stats_reader(&self) -> StatsReader {
        let waiting = Arc::clone(&self.waiting);
        StatsReader::new(move || SubscriptionStats::new(0, Some(waiting.load(Ordering::Relaxed))))
    }
}

impl Drop for StreamSubscription {
    fn drop(&mut self) {
        if let (Some(subscriber), Ok(runtime)) =
            (self.leave(), tokio::runtime::Handle::try_current())
        {
            let (calls, arrived) = (self.info_calls(), std::mem::take(&mut self.arrived));
            let (connection, room) = (Arc::clone(&self.connection), Arc::clone(&self.room));
            runtime.spawn(give_back(connection, room, subscriber, arrived, calls));
        }
    }
}
