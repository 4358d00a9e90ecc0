//! All publishes of a connection in pipelines, each with an outcome of its own.
//!
//! One task empties the queue into a pipeline: while it is on its way the queue fills for the next, so that the more is
//! published, the more goes at once.

use std::sync::Arc;
use std::time::Duration;

use catga_core::Error;
use futures_util::StreamExt;
use futures_util::future::{Either, ready};
use futures_util::stream::FuturesUnordered;
use redis::aio::ConnectionLike;
use redis::{Cmd, Pipeline, RedisError, Value};
use tokio::select;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, timeout_at};

use crate::closed::Closed;
use crate::error;
use crate::link::Link;
use crate::route::Route;
use crate::server::{Answer, Server, answer};
use crate::time::{from_now, millis};
use crate::value;

/// How many jobs wait before their senders do.
const QUEUE: usize = 4096;
/// The most jobs of a pipeline: each pipeline wakes three tasks and the server, and who publishes waits for few of them.
const BATCH: usize = 256;
/// The most that are taken at once for the slots of a cluster, each of which is a pipeline.
const BATCH_OF_SLOTS: usize = 64;
/// A pipeline with so many bytes of messages takes no more: its first sender hears nothing before its last.
const FULL: usize = 1024 * 1024;
/// The most pipelines that are on their way.
const IN_FLIGHT: usize = 8;

/// What is told to who published.
pub(crate) type Outcome = Result<Answer, Error>;

/// Commands of one slot, to be sent one behind the other.
#[derive(Debug)]
pub(crate) struct Job {
    /// Goes before, and has no outcome.
    pub(crate) before: Option<Cmd>,
    pub(crate) cmd: Cmd,
    /// Of the message in it.
    pub(crate) bytes: usize,
    /// What has the same number is in the same slot.
    pub(crate) slot: u64,
    pub(crate) then: Then,
}

/// What becomes of an answer.
#[derive(Debug)]
pub(crate) enum Then {
    /// Somebody waits for it.
    Tell(oneshot::Sender<Outcome>),
    /// It says whether groups listen at QoS 0.
    Note(Arc<Route>),
    /// Nobody cares.
    Nothing,
}

#[derive(Debug)]
enum Order {
    Job(Job),
    /// Says when everything before it is done.
    Flush(oneshot::Sender<()>),
}

/// The way to the writer.
#[derive(Debug)]
pub(crate) struct Writer {
    queue: mpsc::Sender<Order>,
}

impl Writer {
    /// Starts the task. It ends when the server is closed.
    pub(crate) fn spawn(server: &Server, link: Arc<Link>) -> Self {
        let (queue, orders) = mpsc::channel(QUEUE);
        let task = Task {
            link,
            closed: server.closed.clone(),
            patience: server.settings.call_timeout,
            wait_replicas: server.settings.wait_replicas,
            is_cluster: server.is_cluster(),
        };
        tokio::spawn(task.run(orders));
        Self { queue }
    }

    /// Takes a job, when there is room in time. What fails here was not handed over.
    pub(crate) fn send(
        &self,
        operation: &'static str,
        job: Job,
        by: Instant,
    ) -> impl Future<Output = Result<(), Error>> + Send + use<'_> {
        match self.queue.try_send(Order::Job(job)) {
            Ok(()) => Either::Left(ready(Ok(()))),
            Err(TrySendError::Closed(_)) => Either::Left(ready(Err(error::closed(operation)))),
            // A box, as for all that is seldom waited for: the futures of the others stay small.
            Err(TrySendError::Full(order)) => Either::Right(Box::pin(async move {
                match timeout_at(by, self.queue.send(order)).await {
                    Ok(Ok(())) => Ok(()),
                    Ok(Err(_)) => Err(error::closed(operation)),
                    Err(_) => Err(error::queue_full(operation)),
                }
            })),
        }
    }

    /// Takes a job, when there is room now.
    pub(crate) fn try_send(&self, operation: &'static str, job: Job) -> Option<Result<(), Error>> {
        match self.queue.try_send(Order::Job(job)) {
            Ok(()) => Some(Ok(())),
            Err(TrySendError::Closed(_)) => Some(Err(error::closed(operation))),
            Err(TrySendError::Full(_)) => None,
        }
    }

    /// Waits until everything that was taken before is done.
    pub(crate) async fn flush(&self, operation: &'static str, by: Instant) -> Result<(), Error> {
        let (done, flushed) = oneshot::channel();
        let flush = async {
            let sent = self.queue.send(Order::Flush(done)).await;
            sent.map_err(|_| error::closed(operation))?;
            flushed.await.map_err(|_| error::closed(operation))
        };
        timeout_at(by, flush)
            .await
            .unwrap_or_else(|_| Err(error::unanswered(operation, "what was published")))
    }
}

/// The jobs of a pipeline.
struct Batch {
    slot: u64,
    bytes: usize,
    jobs: Vec<Job>,
}

struct Task {
    link: Arc<Link>,
    closed: Closed,
    patience: Duration,
    wait_replicas: Option<u32>,
    is_cluster: bool,
}

impl Task {
    async fn run(self, mut orders: mpsc::Receiver<Order>) {
        let most = if self.is_cluster {
            BATCH_OF_SLOTS
        } else {
            BATCH
        };
        let mut flying = FuturesUnordered::new();
        let mut taken = Vec::with_capacity(most);
        loop {
            let number = select! {
                biased;
                () = self.closed.raised() => return,
                Some(()) = flying.next(), if !flying.is_empty() => continue,
                number = orders.recv_many(&mut taken, most), if flying.len() < IN_FLIGHT => number,
            };
            if number == 0 {
                break;
            }
            let mut batches = Vec::new();
            for order in taken.drain(..) {
                match order {
                    Order::Job(job) if self.is_cluster => put(&mut batches, job.slot, 1, job),
                    Order::Job(job) => put(&mut batches, 0, number, job),
                    Order::Flush(done) => {
                        for batch in batches.drain(..) {
                            flying.push(self.write(batch.jobs));
                        }
                        while flying.next().await.is_some() {}
                        // Who asked may be gone.
                        let _ = done.send(());
                    }
                }
            }
            // They are begun in this order, which so is that of the wire.
            for batch in batches {
                flying.push(self.write(batch.jobs));
            }
        }
        while flying.next().await.is_some() {}
    }

    /// One pipeline; every job is told what became of it.
    async fn write(&self, jobs: Vec<Job>) {
        let by = from_now(self.patience);
        let live = match self.link.live("publish", by).await {
            Ok(live) => live,
            Err(error) => return tell_all(jobs, &error),
        };
        let mut pipeline = Pipeline::with_capacity(jobs.len() + 1);
        let mut thens = Vec::with_capacity(jobs.len());
        for job in jobs {
            if matches!(&job.then, Then::Tell(teller) if teller.is_closed()) {
                // Nobody waits for it any more, and it was not begun.
                continue;
            }
            let first = job.before.is_some().then_some(pipeline.len());
            let index = pipeline.len() + usize::from(first.is_some());
            if let Some(before) = job.before {
                pipeline.add_command(before);
            }
            pipeline.add_command(job.cmd);
            thens.push((first, index, job.then));
        }
        if thens.is_empty() {
            return;
        }
        if let Some(replicas) = self.wait_replicas {
            let mut wait = redis::cmd("WAIT");
            wait.arg(replicas).arg(millis(self.patience / 2));
            pipeline.add_command(wait);
        }
        let (count, mut conn) = (pipeline.len(), live.conn.clone());
        // Longer than anybody waits who published: late answers are no news, but the next pipeline is held up.
        let by = from_now(self.patience * 2);
        let answers = timeout_at(by, conn.req_packed_commands(&pipeline, 0, count)).await;
        match answers {
            Ok(Ok(answers)) => self.answered(answers, thens),
            Ok(Err(error)) => {
                if error::is_broken(&error) && !self.is_cluster {
                    self.link.broken(&live);
                }
                // Of a pipeline that the client gives one error for, some may have been done.
                let partly = self.is_cluster && error::is_answer(&error);
                for (_, _, then) in thens {
                    let outcome = if partly {
                        Err(error::partly_redirected("publish", &error))
                    } else {
                        Ok(Err(error.clone()))
                    };
                    tell(then, outcome);
                }
            }
            Err(_) => {
                if !self.is_cluster {
                    self.link.broken(&live);
                }
                for (_, _, then) in thens {
                    tell(then, Err(error::unanswered("publish", "the stream")));
                }
            }
        }
    }

    fn answered(&self, mut answers: Vec<Value>, thens: Vec<(Option<usize>, usize, Then)>) {
        let have = match self.wait_replicas {
            Some(asked) => answers
                .pop()
                .map(|have| (value::int(&have).unwrap_or(0), asked)),
            None => None,
        };
        for (first, index, then) in thens {
            let value = std::mem::take(&mut answers[index]);
            let refused = |value: &Value| matches!(value, Value::ServerError(_));
            let outcome = match first.and_then(|first| answers.get_mut(first)) {
                // What went before was refused, and the message was not.
                Some(before) if refused(before) && !refused(&value) => {
                    tell(then, Err(error::half_done("publish")));
                    continue;
                }
                Some(before) if refused(before) => answer(std::mem::take(before)),
                _ => answer(value),
            };
            match have {
                Some((have, asked)) if outcome.is_ok() && have < i64::from(asked) => {
                    tell(then, Err(error::too_few_replicas("publish", have, asked)));
                }
                _ => tell(then, Ok(outcome)),
            }
        }
    }
}

/// Puts a job behind those of its slot, in a batch with room for so many where there is none.
fn put(batches: &mut Vec<Batch>, slot: u64, room: usize, job: Job) {
    let mut known = batches.iter();
    let place = match known.position(|batch| batch.slot == slot && batch.bytes < FULL) {
        Some(place) => place,
        None => {
            batches.push(Batch {
                slot,
                bytes: 0,
                jobs: Vec::with_capacity(room),
            });
            batches.len() - 1
        }
    };
    let batch = &mut batches[place];
    batch.bytes += job.bytes;
    batch.jobs.push(job);
}

fn tell(then: Then, outcome: Outcome) {
    match then {
        // Who published may be gone.
        Then::Tell(teller) => drop(teller.send(outcome)),
        Then::Note(route) => route.heard(&outcome),
        Then::Nothing => {}
    }
}

/// None of them was begun.
fn tell_all(jobs: Vec<Job>, error: &Error) {
    for job in jobs {
        tell(job.then, Err(error::once_more(error)));
    }
}

/// An outcome as the caller's.
pub(crate) fn judge(what: impl FnOnce() -> String, outcome: Outcome) -> Result<Value, Error> {
    outcome?.map_err(|error: RedisError| error::of("publish", &what(), &error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_is_of_one_slot_and_takes_no_more_when_it_is_full() {
        let mut batches = Vec::new();
        for (number, slot, bytes) in [
            (0, 7, FULL / 2 + 1),
            (1, 9, 10),
            (2, 7, FULL / 2 + 1),
            (3, 7, 10),
            (4, 9, 3 * FULL),
            (5, 9, 10),
            (6, 7, 10),
        ] {
            let job = Job {
                before: None,
                cmd: redis::cmd(&format!("{number}")),
                bytes,
                slot,
                then: Then::Nothing,
            };
            put(&mut batches, slot, 4, job);
        }
        let told: Vec<_> = batches
            .iter()
            .map(|batch| {
                let names = batch.jobs.iter().map(|job| job.cmd.args_iter().next());
                let name = |name| match name {
                    Some(redis::Arg::Simple(name)) => String::from_utf8_lossy(name).into_owned(),
                    _ => String::new(),
                };
                (batch.slot, names.map(name).collect::<String>())
            })
            .collect();
        let expected = [(7, "02"), (9, "14"), (7, "36"), (9, "5")];
        assert_eq!(told, expected.map(|(slot, jobs)| (slot, jobs.to_owned())));
    }
}
