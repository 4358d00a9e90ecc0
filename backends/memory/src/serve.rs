//! A node's side of requests: taking them, and answering.

use std::sync::Arc;
use std::time::Duration;

use catga_core::{
    Answer, Capability, Delivery, Envelope, Error, Receipt, Reply, Serve, Settlement, StatsReader,
    Subscription, SubscriptionStats, async_trait,
};
use tokio::select;
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::bus::Connection;
use crate::desk::{Command, Control, Desk, Fetch, Job, ServerId};
use crate::error;

/// A node that takes the requests of one name.
#[derive(Debug)]
pub(crate) struct ServeSubscription {
    connection: Arc<Connection>,
    desk: Arc<Desk>,
    server: ServerId,
    max_in_flight: usize,
    /// A fetch that was sent. It outlives the `recv` that began it: the next one goes on with it.
    pending: Option<oneshot::Receiver<Vec<Job>>>,
    left: bool,
}

impl ServeSubscription {
    /// Joins the servers: when this returns, requests find this node.
    pub(crate) async fn join(
        connection: Arc<Connection>,
        desk: Arc<Desk>,
        serve: &Serve,
    ) -> Result<Self, Error> {
        let (reply, answer) = oneshot::channel();
        let server = desk.new_server();
        let join = Control::Join {
            server,
            service: serve.service.clone(),
            node: serve.node.clone(),
            max_in_flight: serve.max_in_flight,
            reply,
        };
        // Made before the reply, so that a caller who gives up half-way leaves.
        let this = Self {
            connection,
            desk,
            server,
            max_in_flight: serve.max_in_flight,
            pending: None,
            left: false,
        };
        let sent = this.desk.control.send(join);
        sent.map_err(|_| error::gone("serve"))?;
        answer.await.map_err(|_| error::gone("serve"))?;
        Ok(this)
    }

    /// Waits for the answer to a fetch, which is sent unless one is on its way.
    async fn fetch(&mut self, max: usize) -> Result<Vec<Job>, Error> {
        let gone = || error::gone("receive");
        if self.pending.is_none() {
            let permit = self.desk.commands.reserve().await.map_err(|_| gone())?;
            let (reply, answer) = oneshot::channel();
            permit.send(Command::Fetch(Fetch {
                server: self.server,
                max,
                closed: self.connection.closed.clone(),
                reply,
            }));
            self.pending = Some(answer);
        }
        let answer = self.pending.as_mut().expect("set above");
        let jobs = answer.await;
        self.pending = None;
        jobs.map_err(|_| gone())
    }

    /// Turns requests into deliveries. What is above `max`, or comes too late, goes back with its receipt.
    fn hand_out(&self, jobs: Vec<Job>, max: usize, into: &mut Vec<Delivery>) {
        let now = Instant::now();
        let mut room = max;
        for mut job in jobs {
            let fits = room > 0 && job.is_wanted(now);
            let time_left = job
                .bounded
                .then(|| job.deadline.saturating_duration_since(now));
            let (envelope, attempt) = (job.envelope.clone(), job.attempt);
            job.started |= fits;
            let receipt = RequestReceipt {
                desk: Arc::clone(&self.desk),
                server: self.server,
                job: Some(job),
            };
            if fits {
                room -= 1;
                let delivery = Delivery::new(envelope, Box::new(receipt)).with_count(attempt);
                into.push(match time_left {
                    Some(time_left) => delivery.with_time_left(time_left),
                    None => delivery,
                });
            }
        }
    }

    fn leave(&mut self) {
        if std::mem::replace(&mut self.left, true) {
            return;
        }
        // First, so that what is given back goes to others, or is answered when there are none.
        let _ = self.desk.control.send(Control::Leave(self.server));
        if let Some(mut pending) = self.pending.take() {
            // From here on nothing more is sent; what was sent before is taken out.
            pending.close();
            if let Ok(jobs) = pending.try_recv() {
                self.hand_out(jobs, 0, &mut Vec::new());
            }
        }
    }
}

#[async_trait]
impl Subscription for ServeSubscription {
    async fn recv(&mut self, max: usize, into: &mut Vec<Delivery>) -> Result<(), Error> {
        let closed = self.connection.closed.clone();
        let before = into.len();
        while into.len() == before {
            if self.left || closed.is_raised() {
                self.leave();
                return Err(error::closed("receive"));
            }
            let jobs = select! {
                biased;
                () = closed.raised() => continue,
                jobs = self.fetch(max.max(1)) => jobs?,
            };
            self.hand_out(jobs, max.max(1), into);
        }
        Ok(())
    }

    async fn close(&mut self) -> Result<(), Error> {
        self.leave();
        Ok(())
    }

    fn set_max_in_flight(&mut self, max_in_flight: usize) {
        if std::mem::replace(&mut self.max_in_flight, max_in_flight) == max_in_flight {
            return;
        }
        let server = self.server;
        // A desk that is gone hands out nothing anyway.
        let _ = self.desk.control.send(Control::Limit {
            server,
            max_in_flight,
        });
    }

    fn stats_reader(&self) -> StatsReader {
        StatsReader::new(SubscriptionStats::default)
    }
}

impl Drop for ServeSubscription {
    fn drop(&mut self) {
        self.leave();
    }
}

/// The right and the duty to answer one request. Dropped unsettled, the request goes to another server.
#[derive(Debug)]
struct RequestReceipt {
    desk: Arc<Desk>,
    server: ServerId,
    job: Option<Job>,
}

impl RequestReceipt {
    fn answer(mut self, reply: Reply) {
        let job = self.job.take().expect("settled once, by value");
        // A caller that stopped waiting does not hear it.
        let _ = job.reply.send(Ok(reply));
        let _ = self.desk.control.send(Control::Done(self.server));
    }

    fn give_back(&mut self, after: Duration) {
        if let Some(job) = self.job.take() {
            let server = self.server;
            let back = Control::GiveBack { server, job, after };
            // A desk that is gone drops the request, which ends its caller's wait.
            let _ = self.desk.control.send(back);
        }
    }
}

impl Drop for RequestReceipt {
    fn drop(&mut self) {
        self.give_back(Duration::ZERO);
    }
}

#[async_trait]
impl Receipt for RequestReceipt {
    async fn settle(
        mut self: Box<Self>,
        _envelope: Envelope,
        settlement: Settlement,
    ) -> Result<(), Error> {
        // No inbox lives here, so that there is nothing to complete a claim in.
        if matches!(&settlement, Settlement::Complete(completion) if completion.claim.is_some()) {
            return Err(error::unsupported("settle", Capability::FusedCompletion));
        }
        match settlement.into_answer() {
            Answer::Reply(reply) => self.answer(reply),
            Answer::Again { after, .. } => self.give_back(after),
            Answer::Elsewhere { .. } => self.give_back(Duration::ZERO),
        }
        Ok(())
    }

    /// A request has no lease: its caller's deadline bounds it.
    async fn extend(&mut self) -> Result<(), Error> {
        Ok(())
    }
}
