//! Answering one request, or saying that nobody does.

use std::sync::Arc;
use std::time::Duration;

use catga_core::{
    Answer, Capability, Envelope, Error, ErrorKind, Name, Receipt, RemoteError, Reply, Retry,
    Settlement, async_trait,
};
use tokio::select;
use tokio::sync::mpsc;

use super::{Arrived, Caller, answer, written};
use crate::connection::Connection;
use crate::error;
use crate::room::Place;

/// The right and the duty to answer one request. Dropped unsettled, its caller is told to ask again.
#[derive(Debug)]
pub(super) struct RequestReceipt {
    pub(super) connection: Arc<Connection>,
    /// Taken when it is settled.
    pub(super) caller: Option<Caller>,
    pub(super) again: mpsc::Sender<Arrived>,
    pub(super) request: Name,
    pub(super) _place: Place,
}

impl RequestReceipt {
    async fn answer(&mut self, reply: &Reply) -> Result<(), Error> {
        let caller = self.caller.take().expect("settled once, by value");
        answer(&self.connection, caller.reply, reply).await
    }

    /// The broker keeps no requests: it waits here, and comes again; where this node leaves meanwhile, its caller asks
    /// somebody else.
    fn put_off(&mut self, envelope: Envelope, after: Duration, began: bool) {
        let Some(caller) = self.caller.take() else {
            return;
        };
        let (to, again) = (caller.reply.clone(), self.again.clone());
        let arrived = Arrived { envelope, caller };
        let connection = Arc::clone(&self.connection);
        let reply = self.given_back(Retry::Now, began);
        tokio::spawn(async move {
            let left = async {
                tokio::time::sleep(after).await;
                again.send(arrived).await
            };
            let gone = select! {
                biased;
                () = connection.closed.raised() => true,
                () = again.closed() => true,
                sent = left => sent.is_err(),
            };
            if gone {
                // Who is not told asks again when its time is over.
                let _ = answer(&connection, to, &reply).await;
            }
        });
    }

    /// The broker keeps no requests: their callers ask again, somebody else.
    fn given_back(&self, retry: Retry, began: bool) -> Reply {
        let text = format!(
            "the request `{}` was given back by this node: ask again",
            self.request
        );
        let error = Error::new(ErrorKind::Unavailable, "request", text).with_retry(retry);
        Reply::err(RemoteError::new(&if began {
            error.with_unknown_outcome()
        } else {
            error
        }))
    }
}

impl Drop for RequestReceipt {
    fn drop(&mut self) {
        let Some(Caller { reply: to, .. }) = self.caller.take() else {
            return;
        };
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            let reply = self.given_back(Retry::Now, true);
            let connection = Arc::clone(&self.connection);
            runtime.spawn(async move { answer(&connection, to, &reply).await });
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
            return Err(error::unsupported("settle", Capability::FusedCompletion));
        }
        match settlement.into_answer() {
            Answer::Reply(reply) => self.answer(&reply).await,
            Answer::Elsewhere { began } => {
                let reply = self.given_back(Retry::Now, began);
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
        if completion.claim.is_some() {
            return None;
        }
        let (headers, payload) = written(&self.connection, completion.response.as_ref()?);
        let to = self.caller.as_ref()?.reply.clone();
        let told = self
            .connection
            .try_publish("settle", to, headers, payload)?;
        self.caller = None;
        Some(told)
    }

    /// A request has no lease: its caller's deadline bounds it.
    async fn extend(&mut self) -> Result<(), Error> {
        Ok(())
    }
}
