//! A subscription at QoS 1 or 2: what a member of a group reads from its streams.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use catga_core::{
    Consumers, Delivery, Error, MessageId, QoS, Start, StatsReader, Subscribe, Subscription,
    async_trait,
};
use tokio::select;
use tokio::task::{AbortHandle, JoinHandle, consume_budget};
use tokio::time::{Instant, sleep_until, timeout_at};

use crate::connection::Connection;
use crate::group::Group;
use crate::names::Member;
use crate::reader::Blocking;
use crate::source::{Source, Who};
use crate::time::millis;
use crate::{absence, error, keeper, order, reader, trim};

/// A member of a group.
#[derive(Debug)]
pub(crate) struct StreamSubscription {
    group: Arc<Group>,
    /// The ends of the leases of what was dropped unsettled, the first on top.
    abandoned: BinaryHeap<Reverse<Instant>>,
    blocking: Arc<Blocking>,
    /// Read, and look after the group. They end when the member leaves.
    tasks: Vec<JoinHandle<()>>,
    /// Tells the others of an `each_node` group that this node is there.
    sweeper: Option<AbortHandle>,
    is_closed: bool,
}

impl StreamSubscription {
    /// Joins the group: when this returns, the group exists.
    pub(crate) async fn join(
        connection: Arc<Connection>,
        subscribe: &Subscribe,
    ) -> Result<Self, Error> {
        let server = &connection.server;
        let (message, member) = (subscribe.message.clone(), Member::of(&subscribe.consumers));
        let idle = server.settings.claim_idle;
        let idle = idle.map_or(subscribe.ack_wait, |idle| idle.max(subscribe.ack_wait));
        let who = Who {
            group: member.to_string(),
            consumer: consumer(idle),
            member,
        };
        order::agree(server, &message, &who.member, subscribe.ordered).await?;
        let partitions = match subscribe.ordered {
            Some(partitions) => partitions.get(),
            None => 1,
        };
        let mut sources = Vec::with_capacity(usize::from(partitions));
        let given_up = absence::was_given_up(server, &message, &who.member).await?;
        let start = match subscribe.start {
            Start::Oldest if !given_up => "0",
            _ => "$",
        };
        for partition in 0..partitions {
            let stream = server.names.stream(&message, partition);
            let source = Source::new(stream, partition, &who.member);
            let source = source.ordered(subscribe.ordered.is_some());
            if server.settings.manage {
                // A new group begins with what somebody still has to handle.
                let first = server.names.stream(&message, 0);
                trim::trim(server, &source.stream, &first).await?;
            }
            source.ensure(server, "subscribe", &who, start).await?;
            connection.route(&message).exists(partition);
            sources.push(Arc::new(source));
        }
        connection
            .route(&message)
            .trimmed
            .store(true, Ordering::Relaxed);
        let group = Arc::new(Group::new(
            Arc::clone(&connection),
            message,
            who,
            subscribe.qos,
            subscribe.ack_wait,
            idle,
            subscribe.qos == QoS::ExactlyOnce && subscribe.own_inbox,
            subscribe.max_in_flight,
            sources,
        ));
        let sweeper = match &subscribe.consumers {
            Consumers::EachNode { .. } => {
                absence::note(&group).await?;
                let sweep = absence::keep_sweeping(Arc::downgrade(&group), subscribe.absence);
                Some(tokio::spawn(sweep).abort_handle())
            }
            _ => None,
        };
        if subscribe.ordered.is_none() {
            join_partitions(&group, start).await?;
        }
        let blocking = Arc::new(Blocking::default());
        let mut tasks = Vec::new();
        if subscribe.ordered.is_some() {
            tasks.push(tokio::spawn(order::read(
                Arc::clone(&group),
                Arc::clone(&blocking),
            )));
        } else {
            tasks.push(tokio::spawn(reader::read(
                Arc::clone(&group),
                Arc::clone(&blocking),
            )));
            tasks.push(tokio::spawn(keeper::keep(Arc::clone(&group), true)));
        }
        let acks = Arc::clone(&group.acks);
        let (server, name) = (
            Arc::clone(&group.connection.server),
            group.who.group.clone(),
        );
        tokio::spawn(acks.keep_telling(server, name, group.left.clone()));
        Ok(Self {
            group,
            abandoned: BinaryHeap::new(),
            blocking,
            tasks,
            sweeper,
            is_closed: false,
        })
    }

    /// Frees the places of what was dropped unsettled, when its lease is over.
    fn free_abandoned(&mut self) {
        let room = &self.group.room;
        while let Some(until) = room.abandoned() {
            self.abandoned.push(Reverse(until));
        }
        let now = Instant::now();
        while self
            .abandoned
            .peek()
            .is_some_and(|Reverse(until)| *until <= now)
        {
            self.abandoned.pop();
            room.free();
        }
    }

    /// What is left to do when the member leaves.
    fn leaving(&mut self) -> Option<impl Future<Output = ()> + Send + use<>> {
        if std::mem::replace(&mut self.is_closed, true) {
            return None;
        }
        if let Some(sweeper) = self.sweeper.take() {
            sweeper.abort();
        }
        self.group.left.raise();
        let (group, blocking) = (Arc::clone(&self.group), Arc::clone(&self.blocking));
        let tasks = std::mem::take(&mut self.tasks);
        // A close waits for it.
        let underway = group.connection.server.pending.begin();
        Some(async move {
            let _underway = underway;
            let server = &group.connection.server;
            blocking.wake(server).await;
            let by = server.call_deadline() + reader::BLOCK;
            for task in tasks {
                // One that hangs ends with its connection.
                let _ = timeout_at(by, task).await;
            }
            if server.closed.is_raised() {
                return;
            }
            group.give_back().await;
            group.acks.flushed(server.call_deadline()).await;
            for source in group.sources.all().iter() {
                // One whose entry is out is handed over when that is settled.
                if source.is_ordered && source.out.load(Ordering::SeqCst) == 0 {
                    let _ = order::disown(&group, source).await;
                }
                if let Err(error) = source.leave(server, &group.who).await {
                    tracing::debug!(message = %group.message, %error, "a member left without a word");
                }
            }
        })
    }
}

/// The name of a consumer, of which there never is another. It tells the others after which silence, in milliseconds,
/// they may take what this one holds: members of a group need not agree.
fn consumer(idle: Duration) -> String {
    format!("c{}-{}", MessageId::new().as_uuid().simple(), millis(idle))
}

/// Joins the streams of partitions that are there.
async fn join_partitions(group: &Group, start: &str) -> Result<(), Error> {
    let server = &group.connection.server;
    let mut ask = redis::cmd("SMEMBERS");
    let key = server.names.partitions(&group.message);
    ask.arg(&key);
    let found = server
        .call("subscribe", &key, &ask, server.call_deadline())
        .await?;
    for partition in crate::value::list(found) {
        let Some(partition) = crate::value::text(&partition).and_then(|text| text.parse().ok())
        else {
            continue;
        };
        let stream = server.names.stream(&group.message, partition);
        let source = Source::new(stream, partition, &group.who.member);
        source
            .ensure(server, "subscribe", &group.who, start)
            .await?;
        group.sources.add(Arc::new(source));
    }
    Ok(())
}

#[async_trait]
impl Subscription for StreamSubscription {
    async fn recv(&mut self, max: usize, into: &mut Vec<Delivery>) -> Result<(), Error> {
        // A group that is far behind must not keep its consumer from yielding to the tasks beside it.
        consume_budget().await;
        let (before, most) = (into.len(), max.max(1));
        let group = Arc::clone(&self.group);
        let server = &group.connection.server;
        let _receiving = group.receive();
        loop {
            if self.is_closed || server.closed.is_raised() {
                return Err(error::closed("receive"));
            }
            self.free_abandoned();
            while into.len() - before < most
                && group.has_room()
                && let Some(delivery) = group.next()
            {
                into.push(delivery);
            }
            if into.len() > before {
                return Ok(());
            }
            if let Some(problem) = group.problem.swap(None)
                && let Ok(problem) = Arc::try_unwrap(problem)
            {
                return Err(problem);
            }
            let abandoned = self.abandoned.peek().map(|Reverse(until)| *until);
            let far = Instant::now() + reader::BLOCK * 120;
            select! {
                biased;
                () = server.closed.raised() => {}
                () = group.arrived.notified() => {}
                () = group.room.freed() => {}
                () = sleep_until(abandoned.unwrap_or(far)) => {}
            }
        }
    }

    async fn close(&mut self) -> Result<(), Error> {
        if let Some(leaving) = self.leaving() {
            // Not left half-way when nobody waits for it any more.
            let _ = tokio::spawn(leaving).await;
        }
        Ok(())
    }

    fn set_max_in_flight(&mut self, max_in_flight: usize) {
        self.group
            .max_in_flight
            .store(max_in_flight.max(1), Ordering::Relaxed);
        self.group.room.fetch.notify_one();
    }

    fn stats_reader(&self) -> StatsReader {
        let group = Arc::downgrade(&self.group);
        let last = Arc::new(arc_swap::ArcSwap::from_pointee(self.group.stats()));
        StatsReader::new(move || match group.upgrade() {
            Some(group) => {
                let stats = group.stats();
                last.store(Arc::new(stats));
                stats
            }
            None => **last.load(),
        })
    }
}

impl Drop for StreamSubscription {
    fn drop(&mut self) {
        if let (Some(leaving), Ok(runtime)) =
            (self.leaving(), tokio::runtime::Handle::try_current())
        {
            runtime.spawn(leaving);
        }
    }
}
