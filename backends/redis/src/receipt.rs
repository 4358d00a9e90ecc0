//! Settling: acks in batches, everything else by scripts that look who owns the entry.

use std::sync::Arc;
use std::time::Duration;

use catga_core::{Effects, Envelope, Error, Owner, QoS, Receipt, Settlement, async_trait};
use redis::Cmd;
use tokio::time::Instant;

use crate::claims::did;
use crate::dead_letter::{self, GivenUp};
use crate::error;
use crate::group::Group;
use crate::order;
use crate::room::Place;
use crate::script::{self, Script};
use crate::source::{Out, Parked, Source};
use crate::store;
use crate::time::millis;
use crate::wire::EntryId;

/// A claim in the inbox that is held for a delivery.
#[derive(Debug)]
pub(crate) struct Held {
    pub(crate) key: String,
    pub(crate) owner: String,
    /// How long the record is kept that the claim leaves, in milliseconds.
    pub(crate) keep: u64,
}

impl Held {
    pub(crate) fn new(key: String, owner: Owner, keep: Duration) -> Self {
        Self {
            key,
            owner: owner.as_uuid().to_string(),
            keep: millis(keep),
        }
    }

    /// Gives the claim up and puts the entry off, in one step; whether both were ours.
    pub(crate) async fn give_up(
        &self,
        group: &Group,
        source: &Source,
        parked: Parked,
        how: &str,
    ) -> Result<bool, Error> {
        let Parked {
            id,
            after,
            change,
            ran,
        } = parked;
        let mut call = script::GIVE_UP.call(3);
        call.arg(&source.stream).arg(&source.due).arg(&self.key);
        call.arg(&group.who.group).arg(&group.who.consumer).arg(id);
        call.arg(millis(after)).arg(change).arg(u8::from(ran));
        call.arg(&self.owner).arg(how).arg(self.keep);
        let server = &group.connection.server;
        let told = server
            .run("settle", &source.stream, &script::GIVE_UP, &call)
            .await?;
        Ok(did(&told))
    }
}

/// The right to settle one delivery. Dropping it leaves the message to the end of its lease.
#[derive(Debug)]
pub(crate) struct StreamReceipt {
    group: Arc<Group>,
    source: Arc<Source>,
    _out: Out,
    id: EntryId,
    count: u32,
    generation: u32,
    /// Whether a handler may have run before this delivery.
    ran: bool,
    held: Option<Held>,
    /// When the lease ends by our own clock.
    until: Instant,
    /// Taken when it is settled. One that is dropped unsettled is held at the server until its lease ends, and here too.
    place: Option<Place>,
}

impl StreamReceipt {
    #[expect(
        clippy::too_many_arguments,
        reason = "one caller, which has just these parts"
    )]
    pub(crate) fn new(
        group: Arc<Group>,
        out: Out,
        id: EntryId,
        count: u32,
        generation: u32,
        ran: bool,
        held: Option<Held>,
        until: Instant,
    ) -> Self {
        let place = Some(group.room.take());
        Self {
            group,
            source: Arc::clone(&out.source),
            _out: out,
            id,
            count,
            generation,
            ran,
            held,
            until,
            place,
        }
    }

    fn check_lease(&self, operation: &'static str) -> Result<(), Error> {
        if Instant::now() > self.until {
            Err(error::lost_ownership(operation))
        } else {
            Ok(())
        }
    }

    /// A call of a script for this entry: `keys`, then group, consumer, id, the claim's owner and how long its record is
    /// kept.
    fn call(&self, script: &Script, keys: &[&str]) -> Cmd {
        let held = self.held.as_ref();
        let mut call = script.call(keys.len() + usize::from(held.is_some()));
        script::args(&mut call, keys);
        if let Some(held) = held {
            call.arg(&held.key);
        }
        let who = &self.group.who;
        call.arg(&who.group).arg(&who.consumer).arg(self.id);
        call.arg(held.map_or("", |held| held.owner.as_str()));
        call
    }

    async fn run(&self, operation: &'static str, script: &Script, call: &Cmd) -> Result<(), Error> {
        let server = &self.group.connection.server;
        let told = server
            .run(operation, &self.source.stream, script, call)
            .await?;
        if did(&told) {
            Ok(())
        } else {
            Err(error::lost_ownership(operation))
        }
    }

    /// The claim, where completing it is all that a settlement does.
    fn completes_alone(&mut self, settlement: &Settlement) -> Option<Held> {
        let is_alone = match settlement {
            Settlement::Ack => true,
            Settlement::Complete(completion) => {
                completion.claim.is_none() && completion.effects.is_none()
            }
            _ => false,
        };
        if is_alone && !self.source.is_ordered {
            self.held.take()
        } else {
            None
        }
    }

    /// Puts the entry off.
    async fn park(&self, after: Duration, change: i32, ran: bool, how: &str) -> Result<(), Error> {
        let (group, source) = (&*self.group, &*self.source);
        let parked = Parked {
            id: self.id,
            after,
            change,
            ran: self.ran || ran,
        };
        let ours = match &self.held {
            Some(held) => held.give_up(group, source, parked, how).await?,
            None => {
                let server = &group.connection.server;
                let parked = source.park(server, "settle", &group.who, &[parked]).await?;
                parked.first() == Some(&true)
            }
        };
        self.group.parked.notify_one();
        if ours {
            Ok(())
        } else {
            Err(error::lost_ownership("settle"))
        }
    }

    /// Completes the claim, if there is one, and acks.
    async fn complete(&self, effects: Option<&Effects>) -> Result<(), Error> {
        store::check("settle", effects)?;
        let Some(held) = &self.held else {
            if effects.is_some() {
                return Err(error::foreign_effects("settle"));
            }
            if self.source.is_ordered {
                // The next of its partition comes behind it.
                let group = &*self.group;
                let server = &group.connection.server;
                return self.source.ack(server, &group.who, self.id).await;
            }
            return self.group.acks.push(&self.source, self.id).await;
        };
        let mut call = script::COMPLETE.call(2);
        call.arg(&self.source.stream).arg(&held.key);
        call.arg(&self.group.who.group).arg(self.id);
        call.arg(&held.owner);
        store::add(&mut call, effects);
        self.run("settle", &script::COMPLETE, &call).await
    }

    async fn bury(&self, envelope: &Envelope, reason: &catga_core::Reason) -> Result<(), Error> {
        let (group, connection) = (&*self.group, &*self.group.connection);
        let given_up = GivenUp {
            member: &group.who.member,
            reason,
            deliveries: self.count,
            published: self.id,
            generation: self.generation,
        };
        dead_letter::announce(connection, &group.message, &group.who.member).await?;
        let names = &connection.server.names;
        let dead = names.dead(&group.message, &group.who.member.group);
        let ids = names.dead_ids(&group.message, &group.who.member.group);
        let mut call = self.call(&script::BURY, &[&self.source.stream, &dead, &ids]);
        call.arg(self.held.as_ref().map_or(0, |held| held.keep));
        // At QoS 2 there is one letter for one id, whatever copies of it there are.
        let once = envelope.id().filter(|_| group.qos == QoS::ExactlyOnce);
        call.arg(once.map_or_else(String::new, |id| {
            format!("{id} {} {}", self.generation, group.who.group)
        }));
        dead_letter::add_fields(&mut call, envelope, &given_up);
        self.run("settle", &script::BURY, &call).await
    }

    async fn settle_once(&self, envelope: &Envelope, settlement: Settlement) -> Result<(), Error> {
        match settlement {
            // Late or not: it was handled.
            Settlement::Ack => self.complete(None).await,
            Settlement::Complete(completion) => {
                if completion.claim.is_some() {
                    return Err(error::foreign_claim("settle"));
                }
                self.complete(completion.effects.as_ref()).await
            }
            Settlement::DeadLetter { claim: Some(_), .. } => Err(error::foreign_claim("settle")),
            settlement => {
                self.check_lease("settle")?;
                self.end(envelope, settlement).await
            }
        }
    }

    async fn end(&self, envelope: &Envelope, settlement: Settlement) -> Result<(), Error> {
        match settlement {
            Settlement::Nak { after } => self.park(after, 0, true, "f").await,
            Settlement::Defer { after } => self.park(after, -1, false, "n").await,
            Settlement::Release { began: false } => self.park(Duration::ZERO, -1, false, "n").await,
            Settlement::Release { began: true } => self.park(Duration::ZERO, -1, true, "s").await,
            Settlement::DeadLetter { reason, .. } => self.bury(envelope, &reason).await,
            Settlement::Term => {
                let call = self.call(&script::TERM, &[&self.source.stream]);
                self.run("settle", &script::TERM, &call).await
            }
            _ => Err(error::unknown_settlement()),
        }
    }
}

impl Drop for StreamReceipt {
    fn drop(&mut self) {
        if let Some(place) = self.place.take() {
            place.abandon(self.until);
        }
    }
}

#[async_trait]
impl Receipt for StreamReceipt {
    async fn settle(
        mut self: Box<Self>,
        envelope: Envelope,
        settlement: Settlement,
    ) -> Result<(), Error> {
        if let Some(held) = self.completes_alone(&settlement) {
            let _until_it_is_settled = self.place.take();
            let completions = &self.group.completions;
            return completions.complete(&self.source, self.id, held).await;
        }
        // Not left half-way when nobody waits for it any more.
        let underway = self.group.connection.server.pending.begin();
        let settling = tokio::spawn(async move {
            let _underway = underway;
            let _until_it_is_settled = self.place.take();
            let settled = self.settle_once(&envelope, settlement).await;
            if self.source.is_ordered && self.group.left.is_raised() {
                // Nobody here asks for the next one; where this is lost, the partition's lease ends.
                let _ = order::disown(&self.group, &self.source).await;
            }
            settled
        });
        settling
            .await
            .unwrap_or_else(|_| Err(error::closed_meanwhile("settle")))
    }

    /// An ack at QoS 1 is queued.
    fn try_settle(&mut self, settlement: &Settlement) -> Option<Result<(), Error>> {
        if !matches!(settlement, Settlement::Ack)
            || self.held.is_some()
            || self.source.is_ordered
            || !self.group.acks.try_push(&self.source, self.id)
        {
            return None;
        }
        self.place = None;
        Some(Ok(()))
    }

    async fn extend(&mut self) -> Result<(), Error> {
        self.check_lease("extend")?;
        let said = Instant::now();
        let mut call = self.call(&script::EXTEND, &[&self.source.stream, &self.source.owner]);
        call.arg(millis(self.group.lease));
        call.arg(self.held.as_ref().map_or(0, |held| held.keep));
        self.run("extend", &script::EXTEND, &call).await?;
        self.until = said + self.group.lease;
        Ok(())
    }
}
