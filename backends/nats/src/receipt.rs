//! Settling: ack, nak, term and in progress, by the server's own words.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use async_nats::Subject;
use catga_core::{Bytes, Capability, Envelope, Error, QoS, Receipt, Settlement, async_trait};
use tokio::time::Instant;

use crate::acks::ACK;
use crate::connection::{Connection, is_no_responders};
use crate::dead_letter::{self, GivenUp};
use crate::deferred::Deferred;
use crate::error;
use crate::names::Member;
use crate::room::Place;
use crate::wire::AckInfo;

/// The right to settle one delivery. Dropping it leaves the message to the end of its lease.
#[derive(Debug)]
pub(crate) struct StreamReceipt {
    connection: Arc<Connection>,
    /// Where the server hears of it.
    ack: Subject,
    member: Arc<Member>,
    info: AckInfo,
    generation: u32,
    qos: QoS,
    ack_wait: Duration,
    /// The server takes the late word on a delivery that is out again: our own clock tells.
    until: Instant,
    /// How often it was put off here.
    put_off: u32,
    /// In the member's room, and in that of the source. Taken when it is settled. One that is dropped unsettled is held at the server until its lease ends, and here too.
    places: Option<(Place, Place)>,
}

impl StreamReceipt {
    #[expect(
        clippy::too_many_arguments,
        reason = "one caller, which has just these parts"
    )]
    pub(crate) fn new(
        connection: Arc<Connection>,
        ack: Subject,
        member: Arc<Member>,
        info: AckInfo,
        generation: u32,
        qos: QoS,
        (arrived, ack_wait): (Instant, Duration),
        places: (Place, Place),
    ) -> Self {
        Self {
            connection,
            ack,
            member,
            info,
            generation,
            qos,
            ack_wait,
            // The server began to count before it arrived, by less than this.
            until: arrived + ack_wait - ack_wait / 16,
            put_off: 0,
            places: Some(places),
        }
    }

    /// The end of the lease.
    pub(crate) fn until(&self) -> Instant {
        self.until
    }

    pub(crate) fn ack_wait(&self) -> Duration {
        self.ack_wait
    }

    /// How long it is put off: at least this long, and longer each time, since the server does not count it.
    pub(crate) fn put_off(&mut self, after: Duration) -> Duration {
        let longer = after.saturating_mul(1 << self.put_off.min(6));
        self.put_off += 1;
        longer.min(self.ack_wait / 2).max(after)
    }

    /// How often the server delivered it, and how often it was redriven.
    pub(crate) fn counts(&self) -> (u64, u32) {
        (self.info.delivered, self.generation)
    }

    /// Takes new places, when it is handed out again.
    pub(crate) fn take_places(&mut self, places: (Place, Place)) {
        self.places = Some(places);
    }

    /// Begins the lease anew.
    pub(crate) async fn prolong(&mut self) -> Result<(), Error> {
        self.check_lease("extend")?;
        let said = Instant::now();
        self.confirm("extend", "+WPI").await?;
        self.until = said + self.ack_wait;
        Ok(())
    }

    /// Gives it to another member, as far as that is still ours to do: else its lease ends.
    pub(crate) async fn give_back(self) {
        if self.check_lease("close").is_ok() {
            let _ = self.tell("-NAK").await;
        }
    }

    /// Says it, and does not wait to hear whether it was heard.
    async fn tell(&self, word: &'static str) -> Result<(), Error> {
        let by = self.connection.call_deadline();
        let ack = self.ack.clone();
        self.connection
            .publish("settle", ack, None, word.into(), by)
            .await
    }

    /// Says it, and waits until the server heard: an empty answer; nobody there is a consumer that is gone.
    async fn confirm(&self, operation: &'static str, word: impl Into<Bytes>) -> Result<(), Error> {
        let by = self.connection.call_deadline();
        let ack = self.ack.clone();
        let answer = self
            .connection
            .ask(operation, ack, || None, word.into(), by)
            .await?;
        if is_no_responders(&answer) {
            return Err(error::no_consumer(operation));
        }
        Ok(())
    }

    fn check_lease(&self, operation: &'static str) -> Result<(), Error> {
        if Instant::now() > self.until {
            Err(error::lost_ownership(operation))
        } else {
            Ok(())
        }
    }

    async fn bury(&self, envelope: &Envelope, reason: &catga_core::Reason) -> Result<(), Error> {
        let given_up = GivenUp {
            member: &self.member,
            reason,
            deliveries: self.info.delivered,
            published: self.info.published(),
            generation: self.generation,
            sequence: self.info.stream_sequence,
        };
        dead_letter::bury(&self.connection, envelope, &given_up).await?;
        self.confirm("settle", "+TERM").await
    }

    /// It was handled, late or not.
    async fn acknowledge(mut self: Box<Self>, confirmed: bool) -> Result<(), Error> {
        let _until_it_is_settled = self.places.take();
        if confirmed {
            self.confirm("settle", ACK).await
        } else {
            Box::pin(self.tell(ACK)).await
        }
    }

    /// Anything else than an ack.
    async fn turn_down(
        mut self: Box<Self>,
        envelope: Envelope,
        settlement: Settlement,
    ) -> Result<(), Error> {
        let until_it_is_settled = self.places.take();
        match settlement {
            Settlement::Complete(completion) if completion.effects.is_some() => {
                Err(error::no_effects("settle"))
            }
            Settlement::Complete(_) | Settlement::DeadLetter { claim: Some(_), .. } => {
                Err(error::unsupported("settle", Capability::FusedCompletion))
            }
            settlement => {
                self.check_lease("settle")?;
                if let (Settlement::Defer { after }, Some((place, _))) =
                    (&settlement, &until_it_is_settled)
                    && Deferred::fits(place.room())
                {
                    let (receipt, room) = (*self, Arc::clone(place.room()));
                    let deferred = Deferred::new(envelope, receipt, &room);
                    tokio::spawn(deferred.keep(room, *after));
                    return Ok(());
                }
                match settlement {
                    Settlement::Nak { after } | Settlement::Defer { after } => {
                        self.confirm("settle", nak(after)).await
                    }
                    Settlement::Release { .. } => self.confirm("settle", nak(Duration::ZERO)).await,
                    Settlement::DeadLetter { reason, .. } => {
                        // Not left half-way when nobody waits for it any more: stored, and delivered again too.
                        let burying =
                            tokio::spawn(async move { self.bury(&envelope, &reason).await });
                        burying
                            .await
                            .unwrap_or_else(|_| Err(error::closed_meanwhile("settle")))
                    }
                    Settlement::Term => self.confirm("settle", "+TERM").await,
                    _ => Err(error::unknown_settlement()),
                }
            }
        }
    }
}

impl Drop for StreamReceipt {
    fn drop(&mut self) {
        if let Some((place, _out)) = self.places.take() {
            place.abandon(self.until);
        }
    }
}

/// Not before this delay; at once without one.
fn nak(after: Duration) -> String {
    if after.is_zero() {
        "-NAK".to_owned()
    } else {
        format!(r#"-NAK {{"delay": {}}}"#, after.as_nanos())
    }
}

type Settling<'settling> = Pin<Box<dyn Future<Output = Result<(), Error>> + Send + 'settling>>;

#[async_trait]
impl Receipt for StreamReceipt {
    // As `async_trait` writes it: an `async fn` would keep envelope and settlement with every ack.
    fn settle<'settling>(
        self: Box<Self>,
        envelope: Envelope,
        settlement: Settlement,
    ) -> Settling<'settling> {
        match settlement {
            Settlement::Ack => {
                let confirmed = self.qos != QoS::AtLeastOnce;
                Box::pin(self.acknowledge(confirmed))
            }
            Settlement::Complete(completion)
                if completion.effects.is_none() && completion.claim.is_none() =>
            {
                Box::pin(self.acknowledge(true))
            }
            other => Box::pin(self.turn_down(envelope, other)),
        }
    }

    /// An ack at QoS 1 is queued.
    fn try_settle(&mut self, settlement: &Settlement) -> Option<Result<(), Error>> {
        if !matches!(settlement, Settlement::Ack) || self.qos != QoS::AtLeastOnce {
            return None;
        }
        let acks = &self.connection.acks;
        let told = if acks.is_waiting() {
            None
        } else {
            self.connection
                .try_publish("settle", self.ack.clone(), None, ACK.into())
        };
        let places = self.places.take();
        if let (None, Some(places)) = (&told, places) {
            acks.push(self.ack.clone(), places);
        }
        Some(told.unwrap_or(Ok(())))
    }

    async fn extend(&mut self) -> Result<(), Error> {
        self.prolong().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_delay_is_told_in_nanoseconds() {
        assert_eq!(nak(Duration::ZERO), "-NAK");
        assert_eq!(nak(Duration::from_millis(5)), r#"-NAK {"delay": 5000000}"#);
    }
}
