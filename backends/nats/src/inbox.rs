//! The inbox in a key-value bucket: a record for each id, written by revision.
//!
//! A lease is judged by the clock of who waits for it: it is over when the record has not moved for as long as its owner
//! said, since this process first saw it there. No clock of another process is asked.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use catga_core::{
    Claim, ClaimEnd, ClaimOutcome, Effects, Error, InboxKey, InboxLimits, InboxStore, Owner, Reply,
    async_trait,
};
use papaya::HashMap;
use tokio::time::Instant;

use crate::bucket::{Bucket, Put};
use crate::connection::Connection;
use crate::error;
use crate::names::inbox_key;
use crate::record::{Answer, Record, Response, State, answer};

const CLAIM: &str = "claim";
/// How often a write is tried against others before it is given up for now.
const TRIES: u32 = 8;
/// When to ask again where the others were faster each time.
const SOON: Duration = Duration::from_millis(20);
/// With more sightings than this, those that nobody asked after for long are forgotten.
const SIGHTINGS: usize = 10_000;

/// The inbox of a namespace.
#[derive(Debug)]
pub(crate) struct NatsInbox {
    connection: Arc<Connection>,
    bucket: Bucket,
    limits: InboxLimits,
    /// Claims of others: where their records stand, and since when.
    seen: HashMap<String, (u64, Instant)>,
}

impl NatsInbox {
    pub(crate) fn new(connection: Arc<Connection>) -> Self {
        let limits = connection.settings.inbox.unwrap_or_default();
        Self {
            bucket: Bucket::new(connection.names.inbox_bucket(), limits.retention),
            connection,
            limits,
            seen: HashMap::new(),
        }
    }

    /// The record of a key, where it stands, and when it was written.
    async fn read(
        &self,
        operation: &'static str,
        key: &str,
    ) -> Result<Option<(u64, SystemTime, Record)>, Error> {
        let Some(entry) = self.bucket.get(&self.connection, operation, key).await? else {
            return Ok(None);
        };
        // Nobody of ours deletes keys.
        let value = entry.value.unwrap_or_default();
        let record = Record::decode(&value).map_err(|error| {
            error::unreadable(operation, &format!("the inbox record `{key}`")).with_source(error)
        })?;
        Ok(Some((entry.revision, entry.time, record)))
    }

    fn write<'a>(
        &'a self,
        operation: &'static str,
        key: &'a str,
        revision: u64,
        record: &Record,
    ) -> impl Future<Output = Result<Put, Error>> + Send + 'a {
        self.bucket
            .put(&self.connection, operation, key, revision, record.encode())
    }

    /// How long the lease of a record at this revision still runs, as this process saw it.
    fn lease_left(&self, key: &str, revision: u64, lease: Duration) -> Duration {
        let now = Instant::now();
        let seen = self.seen.pin();
        if let Some((at, since)) = seen.get(key)
            && *at == revision
        {
            return lease.saturating_sub(now.duration_since(*since));
        }
        if seen.len() > SIGHTINGS {
            seen.retain(|_, (_, since)| now.duration_since(*since) < lease * 4);
        }
        seen.insert(key.to_owned(), (revision, now));
        lease
    }

    /// Writes what comes after a held claim.
    async fn move_on(
        &self,
        operation: &'static str,
        claim: &Claim,
        next: impl Fn(Record) -> Record + Send + Sync,
    ) -> Result<u64, Error> {
        let key = inbox_key(&claim.key);
        // Who knows no revision of the claim has only heard that it may have been granted.
        if claim.revision != 0
            && let Put::Written(revision) = self
                .write(operation, &key, claim.revision, &next(held(claim)))
                .await?
        {
            return Ok(revision);
        }
        // A box, as for all that is seldom waited for: the futures of the others stay small.
        Box::pin(self.move_on_from_there(operation, &key, claim, next)).await
    }

    /// After a lost answer it may stand there already, and a renewal that was dropped half-way may have moved it: the
    /// owner decides.
    async fn move_on_from_there(
        &self,
        operation: &'static str,
        key: &str,
        claim: &Claim,
        next: impl Fn(Record) -> Record + Send + Sync,
    ) -> Result<u64, Error> {
        let mut ours = next(held(claim));
        for _ in 1..TRIES {
            let Some((stands, _, present)) = self.read(operation, key).await? else {
                return Err(error::lost_claim(operation));
            };
            if present.owner != ours.owner || present.generation != ours.generation {
                return Err(error::lost_claim(operation));
            }
            match present.state {
                State::Running => ours = next(present),
                state if state == ours.state => return Ok(stands),
                _ => return Err(error::lost_claim(operation)),
            }
            if let Put::Written(revision) = self.write(operation, key, stands, &ours).await? {
                return Ok(revision);
            }
        }
        // Read from a replica that is behind.
        Err(error::unanswered(operation, key))
    }

    /// Claims an id that has a record.
    async fn claim_known(
        &self,
        key: &InboxKey,
        name: &str,
        owner: Owner,
        lease: Duration,
        generation: u32,
    ) -> Result<ClaimOutcome, Error> {
        for _ in 0..TRIES {
            let present = self.read(CLAIM, name).await?;
            let (revision, record) = match &present {
                // With its response a request is forgotten, and a later one under its id is another.
                Some((revision, written, record)) if self.is_forgotten(*written, record) => {
                    (*revision, None)
                }
                Some((revision, _, record)) => (*revision, Some(record)),
                None => (0, None),
            };
            let lease_left = match record {
                Some(record) if record.state == State::Running => {
                    self.lease_left(name, revision, record.lease())
                }
                _ => Duration::ZERO,
            };
            match answer(record, owner, lease, generation, lease_left.is_zero()) {
                Answer::Take(next) => {
                    if let Put::Written(revision) = self.write(CLAIM, name, revision, &next).await?
                    {
                        return Ok(self.granted(key, name, owner, &next, revision));
                    }
                }
                Answer::Held => {
                    let record = record.expect("somebody holds it");
                    return Ok(self.granted(key, name, owner, record, revision));
                }
                Answer::Running => {
                    return Ok(ClaimOutcome::Running {
                        retry_after: lease_left,
                    });
                }
                Answer::Completed(response) => return Ok(completed(response)),
                Answer::Dead => {
                    let generation = record.map_or(generation, |record| record.generation);
                    return Ok(ClaimOutcome::Dead { generation });
                }
            }
        }
        Ok(ClaimOutcome::Running { retry_after: SOON })
    }

    fn granted(
        &self,
        key: &InboxKey,
        name: &str,
        owner: Owner,
        record: &Record,
        revision: u64,
    ) -> ClaimOutcome {
        self.seen.pin().remove(name);
        let claim = Claim::new(key.clone(), owner, revision)
            .with_generation(record.generation)
            .with_attempt(record.attempts, record.ran);
        ClaimOutcome::Granted(claim)
    }

    /// Whether a response is older than responses are kept. The clocks of server and node may differ by a little.
    fn is_forgotten(&self, written: SystemTime, record: &Record) -> bool {
        let age = SystemTime::now()
            .duration_since(written)
            .unwrap_or_default();
        record.state == State::Completed
            && record.response.is_some()
            && age >= self.limits.response_retention
    }
}

/// What a duplicate of a completed id is told.
fn completed(response: Option<Response>) -> ClaimOutcome {
    let had = response.is_some();
    let response = response.and_then(Response::into_reply);
    ClaimOutcome::Completed {
        response_dropped: had && response.is_none(),
        response,
    }
}

#[async_trait]
impl InboxStore for NatsInbox {
    async fn claim(
        &self,
        key: &InboxKey,
        owner: Owner,
        lease: Duration,
        generation: u32,
    ) -> Result<ClaimOutcome, Error> {
        let name = inbox_key(key);
        // Most ids are new: they are claimed without a look.
        if let Answer::Take(record) = answer(None, owner, lease, generation, false)
            && let Put::Written(revision) = self.write(CLAIM, &name, 0, &record).await?
        {
            return Ok(self.granted(key, &name, owner, &record, revision));
        }
        // A box, as for all that is seldom waited for: the futures of the others stay small.
        Box::pin(self.claim_known(key, &name, owner, lease, generation)).await
    }

    async fn renew(&self, claim: &mut Claim, lease: Duration) -> Result<(), Error> {
        claim.revision = self
            .move_on("renew", claim, |held| held.renewed(lease))
            .await?;
        Ok(())
    }

    async fn complete(
        &self,
        claim: &Claim,
        response: Option<&Reply>,
        effects: Option<&Effects>,
    ) -> Result<(), Error> {
        if effects.is_some() {
            return Err(error::no_effects("complete"));
        }
        let most = self.connection.max_payload();
        let limit = self.limits.response_limit.min(most);
        let response = response.map(|reply| Response::of(reply, limit));
        let done = |held: Record| held.completed(response.clone());
        self.move_on("complete", claim, done).await.map(drop)
    }

    async fn release(&self, claim: &Claim, end: ClaimEnd) -> Result<(), Error> {
        self.move_on("release", claim, |held| held.ended(end))
            .await
            .map(drop)
    }
}

/// The record of a claim that is held, as far as its owner knows.
fn held(claim: &Claim) -> Record {
    let Claim {
        owner,
        generation,
        attempt,
        may_have_run,
        ..
    } = claim;
    Record::running(*owner, *generation, *attempt, *may_have_run, Duration::ZERO)
}
