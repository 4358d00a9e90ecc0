//! Answering one request, or saying that nobody does.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use catga_core::{Answer, Envelope, Error, Receipt, Reply, Settlement, async_trait};
use tokio::select;
use tokio::time::{Instant, sleep};

use super::desk::{Arrived, Desk};
use crate::error;
use crate::request::Asked;
use crate::room::Place;

/// The right and the duty to answer one request. Dropped unsettled, its caller is told to ask again.
#[derive(Debug)]
pub(super) struct RequestReceipt {
    pub(super) desk: Arc<Desk>,
    /// Taken when it is settled.
    pub(super) asked: Option<Asked>,
    pub(super) since: Instant,
    pub(super) by_name: bool,
    pub(super) _place: Place,
}

impl RequestReceipt {
    async fn answer(&mut self, reply: &Reply) -> Result<(), Error> {
        let asked = self.asked.take().expect("settled once, by value");
        self.desk.answer(&asked.reply, reply).await
    }

    /// It waits here, and comes again; where this node leaves meanwhile, its caller asks somebody else.
    fn put_off(&mut self, envelope: Envelope, after: Duration, began: bool) {
        let Some(asked) = self.asked.take() else {
            return;
        };
        let arrived = Arrived {
            envelope,
            asked,
            since: self.since,
            by_name: self.by_name,
        };
        let desk = Arc::clone(&self.desk);
        tokio::spawn(async move {
            select! {
                biased;
                () = desk.connection.server.closed.raised() => {}
                () = desk.leaving.raised() => {}
                () = sleep(after) => {}
            }
            let address = arrived.asked.reply.clone();
            desk.waiting.fetch_add(1, Ordering::SeqCst);
            if desk.leaving.is_raised() || desk.again.send(arrived).is_err() {
                desk.waiting.fetch_sub(1, Ordering::SeqCst);
                desk.refuse(&address, began);
            }
        });
    }
}

impl Drop for RequestReceipt {
    fn drop(&mut self) {
        if let Some(asked) = self.asked.take() {
            self.desk.refuse(&asked.reply, true);
        }
    }
}

#[async_trait]
impl Receipt for RequestReceipt {
    async fn settle(
        mut self: Box<Self>,
        envelope: Envelope,
        settlement: Settlement,
    ) -> Result<(), Error> {
        // No claim of ours is known here.
        if matches!(&settlement, Settlement::Complete(completion) if completion.claim.is_some()) {
            return Err(error::foreign_claim("settle"));
        }
        match settlement.into_answer() {
            Answer::Reply(reply) => self.answer(&reply).await,
            Answer::Elsewhere { began } => {
                let reply = self.desk.given_back(began);
                self.answer(&reply).await
            }
            Answer::Again { after, began } => {
                self.put_off(envelope, after, began);
                Ok(())
            }
        }
    }

    /// An answer is queued: no task is made to wait for nothing.
    fn try_settle(&mut self, settlement: &Settlement) -> Option<Result<(), Error>> {
        let Settlement::Complete(completion) = settlement else {
            return None;
        };
        let server = &self.desk.connection.server;
        if completion.claim.is_some() || server.closed.is_raised() || !server.link.is_connected() {
            return None;
        }
        let response = completion.response.as_ref()?;
        let job = self.desk.job(&self.asked.as_ref()?.reply, response);
        let told = self.desk.connection.writer.try_send("settle", job)?;
        self.asked = None;
        Some(told)
    }

    /// A request has no lease: its caller's deadline bounds it.
    async fn extend(&mut self) -> Result<(), Error> {
        Ok(())
    }
}
