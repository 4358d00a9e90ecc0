//! Parts of a backend that fail when a scenario says so.

use std::any::{Any, TypeId};
use std::fmt;
use std::future::pending;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use catga::prelude::Catga;
use catga::{
    Backend, Capabilities, Capability, ConnectOptions, Driver, Envelope, Error, ErrorKind,
    InboxStore, Published,
};
use catga_core::{
    BackendUrl, Claim, ClaimEnd, ClaimOutcome, ConnectionState, Delivery, Effects, InboxKey, Owner,
    Receipt, Reply, Retry, Serve, Settlement, StatsReader, Subscribe, Subscription, Target,
    Transport, async_trait,
};

use crate::mutants::receiving::copy;

/// What an inbox is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Asked {
    Claim,
    Renew,
    Complete,
    Release(ClaimEnd),
}

/// What becomes of what it is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mood {
    /// It is done, and answered.
    Well,
    /// It is not done, and the answer says so.
    Unavailable,
    /// It is done, and the answer is lost.
    AnswerLost,
    /// It is not done, and never answered.
    Hangs,
    /// It is done after a while, and answered then.
    Late(Duration),
    /// It is not done, because the claim is another's.
    NotYours,
}

/// An inbox with moods.
pub(crate) struct Moody {
    store: Arc<dyn InboxStore>,
    mood: Box<dyn Fn(Asked) -> Mood + Send + Sync>,
}

impl Moody {
    pub(crate) fn around(
        store: Arc<dyn InboxStore>,
        mood: impl Fn(Asked) -> Mood + Send + Sync + 'static,
    ) -> Arc<dyn InboxStore> {
        let mood = Box::new(mood);
        Arc::new(Self { store, mood })
    }

    /// One that is in `mood` the first `times` that it is asked this, and well otherwise.
    pub(crate) fn at_first(
        store: Arc<dyn InboxStore>,
        asked: Asked,
        times: u32,
        mood: Mood,
    ) -> Arc<dyn InboxStore> {
        let left = AtomicU32::new(times);
        let fewer = |left: u32| left.checked_sub(1);
        Self::around(store, move |now| {
            let again = now == asked
                && left
                    .fetch_update(Ordering::SeqCst, Ordering::SeqCst, fewer)
                    .is_ok();
            if again { mood } else { Mood::Well }
        })
    }

    async fn pass<T>(
        &self,
        asked: Asked,
        done: impl Future<Output = Result<T, Error>> + Send,
    ) -> Result<T, Error> {
        let unavailable = || Error::new(ErrorKind::Unavailable, "inbox", "a planned outage");
        match (self.mood)(asked) {
            Mood::Well => done.await,
            Mood::Unavailable => Err(unavailable()),
            Mood::AnswerLost => {
                done.await?;
                Err(unavailable().with_unknown_outcome())
            }
            Mood::Hangs => pending().await,
            Mood::Late(delay) => {
                tokio::time::sleep(delay).await;
                done.await
            }
            Mood::NotYours => {
                let text = "it is another's, as planned";
                Err(Error::new(ErrorKind::LostOwnership, "inbox", text))
            }
        }
    }
}

impl fmt::Debug for Moody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Moody").field(&self.store).finish()
    }
}

#[async_trait]
impl InboxStore for Moody {
    async fn claim(
        &self,
        key: &InboxKey,
        owner: Owner,
        lease: Duration,
        generation: u32,
    ) -> Result<ClaimOutcome, Error> {
        let claim = self.store.claim(key, owner, lease, generation);
        self.pass(Asked::Claim, claim).await
    }

    async fn renew(&self, claim: &mut Claim, lease: Duration) -> Result<(), Error> {
        self.pass(Asked::Renew, self.store.renew(claim, lease))
            .await
    }

    async fn complete(
        &self,
        claim: &Claim,
        response: Option<&Reply>,
        effects: Option<&Effects>,
    ) -> Result<(), Error> {
        let complete = self.store.complete(claim, response, effects);
        self.pass(Asked::Complete, complete).await
    }

    async fn release(&self, claim: &Claim, end: ClaimEnd) -> Result<(), Error> {
        let release = self.store.release(claim, end);
        self.pass(Asked::Release(end), release).await
    }

    fn commit_store(&self) -> Option<&(dyn Any + Send + Sync)> {
        self.store.commit_store()
    }
}

/// An inbox that commits nothing.
#[derive(Debug)]
pub(crate) struct NoCommits(pub(crate) Arc<dyn InboxStore>);

#[async_trait]
impl InboxStore for NoCommits {
    async fn claim(
        &self,
        key: &InboxKey,
        owner: Owner,
        lease: Duration,
        generation: u32,
    ) -> Result<ClaimOutcome, Error> {
        self.0.claim(key, owner, lease, generation).await
    }

    async fn renew(&self, claim: &mut Claim, lease: Duration) -> Result<(), Error> {
        self.0.renew(claim, lease).await
    }

    async fn complete(
        &self,
        claim: &Claim,
        response: Option<&Reply>,
        effects: Option<&Effects>,
    ) -> Result<(), Error> {
        self.0.complete(claim, response, effects).await
    }

    async fn release(&self, claim: &Claim, end: ClaimEnd) -> Result<(), Error> {
        self.0.release(claim, end).await
    }
}

/// A driver whose deliveries cannot be extended: the node loses what takes longer than its lease, and
/// does not know it. It lends the connection of another node.
#[derive(Debug)]
pub(crate) struct CannotExtend {
    lender: Catga,
    capabilities: &'static [Capability],
}

impl CannotExtend {
    /// The scheme of its URLs.
    pub(crate) const URL: &'static str = "cannot-extend://";

    pub(crate) fn new(lender: Catga) -> Self {
        let capabilities = lender.backend().transport.capabilities();
        let capabilities: Vec<_> = capabilities.iter().collect();
        Self {
            lender,
            capabilities: capabilities.leak(),
        }
    }
}

#[async_trait]
impl Driver for CannotExtend {
    fn name(&self) -> &'static str {
        "cannot-extend"
    }

    fn schemes(&self) -> &'static [&'static str] {
        &["cannot-extend"]
    }

    fn options(&self) -> &'static [&'static str] {
        &[]
    }

    fn capabilities(&self) -> &'static [Capability] {
        self.capabilities
    }

    fn commit_store(&self) -> Option<TypeId> {
        let inbox = self.lender.backend().inbox.as_ref()?;
        inbox.commit_store().map(Any::type_id)
    }

    async fn connect(&self, _: &BackendUrl, _: &ConnectOptions) -> Result<Backend, Error> {
        let mut backend = self.lender.backend().clone();
        backend.transport = Arc::new(Lent {
            transport: backend.transport,
            _lender: self.lender.clone(),
        });
        Ok(backend)
    }
}

/// The transport of another node, which lives as long as this does.
#[derive(Debug)]
struct Lent {
    transport: Arc<dyn Transport>,
    _lender: Catga,
}

/// What hands out deliveries, or one of them.
#[derive(Debug)]
struct Unextended<T>(T);

#[async_trait]
impl Transport for Lent {
    fn capabilities(&self) -> Capabilities {
        self.transport.capabilities()
    }

    fn state(&self) -> ConnectionState {
        self.transport.state()
    }

    async fn publish(
        &self,
        envelope: &mut Envelope,
        deadline: Duration,
    ) -> Result<Published, Error> {
        self.transport.publish(envelope, deadline).await
    }

    async fn subscribe(&self, subscribe: &Subscribe) -> Result<Box<dyn Subscription>, Error> {
        Ok(Box::new(Unextended(
            self.transport.subscribe(subscribe).await?,
        )))
    }

    async fn serve(&self, serve: &Serve) -> Result<Box<dyn Subscription>, Error> {
        Ok(Box::new(Unextended(self.transport.serve(serve).await?)))
    }

    async fn request(
        &self,
        to: &Target,
        envelope: &Envelope,
        attempt: u32,
        time_left: Option<Duration>,
    ) -> Result<Reply, Error> {
        self.transport
            .request(to, envelope, attempt, time_left)
            .await
    }

    async fn flush(&self) -> Result<(), Error> {
        self.transport.flush().await
    }

    /// The connection is the lender's.
    async fn close(&self) -> Result<(), Error> {
        self.transport.flush().await
    }
}

#[async_trait]
impl Subscription for Unextended<Box<dyn Subscription>> {
    async fn recv(&mut self, max: usize, into: &mut Vec<Delivery>) -> Result<(), Error> {
        let before = into.len();
        let received = self.0.recv(max, into).await;
        let deliveries: Vec<_> = into.drain(before..).map(unextended).collect();
        into.extend(deliveries);
        received
    }

    async fn close(&mut self) -> Result<(), Error> {
        self.0.close().await
    }

    fn set_max_in_flight(&mut self, max_in_flight: usize) {
        self.0.set_max_in_flight(max_in_flight);
    }

    fn stats_reader(&self) -> StatsReader {
        self.0.stats_reader()
    }
}

fn unextended(delivery: Delivery) -> Delivery {
    if !delivery.is_acknowledged() {
        return delivery;
    }
    let shell = copy(&delivery, None);
    copy(&shell, Some(Box::new(Unextended(delivery))))
}

#[async_trait]
impl Receipt for Unextended<Delivery> {
    async fn settle(self: Box<Self>, _: Envelope, settlement: Settlement) -> Result<(), Error> {
        self.0.settle(settlement).await
    }

    async fn extend(&mut self) -> Result<(), Error> {
        let text = "a planned outage";
        let error = Error::new(ErrorKind::LostOwnership, "extend", text);
        Err(error.with_retry(Retry::Never))
    }
}
