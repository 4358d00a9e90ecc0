//! Bugs in what leaves a node, and in the answers that it gets.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use catga::{Bytes, Capabilities, Envelope, Error, ErrorKind, MessageId, Name, Published};
use catga_core::{
    ConnectionState, Headers, Reply, Serve, Start, Subscribe, Subscription, Target, Transport,
    async_trait,
};

use crossbeam_utils::atomic::AtomicCell;

use super::Mutant;
use super::receiving::MutatedSubscription;

/// A transport with a bug.
pub(super) struct MutatedTransport {
    mutant: Mutant,
    transport: Arc<dyn Transport>,
    count: AtomicU64,
    /// What is to be published after the next one.
    waiting: AtomicCell<Option<Envelope>>,
    /// The first name that was published.
    first_name: OnceLock<Name>,
    /// The first answer that came.
    first_reply: OnceLock<Reply>,
    /// The ack wait of the first subscription.
    first_ack_wait: OnceLock<Duration>,
}

impl fmt::Debug for MutatedTransport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("MutatedTransport")
            .field(&self.mutant)
            .field(&self.transport)
            .finish()
    }
}

impl MutatedTransport {
    pub(super) fn new(mutant: Mutant, transport: Arc<dyn Transport>) -> Self {
        Self {
            mutant,
            transport,
            count: AtomicU64::new(0),
            waiting: AtomicCell::new(None),
            first_name: OnceLock::new(),
            first_reply: OnceLock::new(),
            first_ack_wait: OnceLock::new(),
        }
    }

    /// Every second message waits until the next one was published.
    async fn publish_swapped(
        &self,
        envelope: &mut Envelope,
        deadline: Duration,
    ) -> Result<Published, Error> {
        let Some(mut waiting) = self.waiting.take() else {
            self.waiting.store(Some(envelope.clone()));
            return Ok(Published::new());
        };
        self.transport.publish(envelope, deadline).await?;
        self.transport.publish(&mut waiting, deadline).await
    }

    fn hides_the_unflushed(&self) -> bool {
        self.mutant == Mutant::HidesTheUnflushed
            && self.transport.state() != ConnectionState::Connected
    }

    fn every(&self, count: u64) -> bool {
        self.count.fetch_add(1, Ordering::Relaxed) % count == count - 1
    }

    /// What is published instead; nothing where it is dropped.
    fn instead(&self, envelope: &Envelope) -> Option<Envelope> {
        let mut instead = envelope.clone();
        match self.mutant {
            Mutant::DropsOneInAHundred if self.every(100) => return None,
            Mutant::ForgetsHeaders => *instead.headers_mut() = Headers::new(),
            Mutant::ForgetsVersions => instead = instead.with_version(1),
            Mutant::PublishesUnderNewIds => instead.set_id(MessageId::new()),
            Mutant::FlipsABit => {
                if let Some(bytes) = envelope.payload().as_bytes() {
                    let mut flipped = bytes.to_vec();
                    let digit = flipped.iter_mut().find(|byte| byte.is_ascii_digit());
                    if let Some(digit) = digit {
                        *digit ^= 1;
                    }
                    instead = rebuilt(envelope, envelope.name().clone(), flipped.into());
                }
            }
            Mutant::ConfusesNames => {
                let first = self.first_name.get_or_init(|| envelope.name().clone());
                if let Some(bytes) = envelope.payload().as_bytes()
                    && self.every(10)
                {
                    instead = rebuilt(envelope, first.clone(), bytes.clone());
                }
            }
            _ => {}
        }
        Some(instead)
    }
}

/// The same message under a name, with a payload.
fn rebuilt(envelope: &Envelope, name: Name, bytes: Bytes) -> Envelope {
    let rebuilt = Envelope::received(name, envelope.qos(), bytes)
        .with_version(envelope.version())
        .with_headers(envelope.headers().clone())
        .with_partition(envelope.partition());
    match envelope.id() {
        Some(id) => rebuilt.with_id(id),
        None => rebuilt,
    }
}

#[async_trait]
impl Transport for MutatedTransport {
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
        if self.mutant == Mutant::SwapsNeighbours {
            return self.publish_swapped(envelope, deadline).await;
        }
        if self.mutant.is_about_publishing() {
            let Some(mut instead) = self.instead(envelope) else {
                return Ok(Published::new());
            };
            return self.transport.publish(&mut instead, deadline).await;
        }
        if self.mutant == Mutant::AnswersBeforeItIsStored {
            let (transport, mut later) = (Arc::clone(&self.transport), envelope.clone());
            tokio::spawn(async move {
                tokio::time::sleep(Duration::from_millis(300)).await;
                drop(transport.publish(&mut later, deadline).await);
            });
            return Ok(Published::new());
        }
        match self.transport.publish(envelope, deadline).await {
            Err(_) if self.mutant == Mutant::SwallowsPublishErrors => Ok(Published::new()),
            Err(error) if self.mutant == Mutant::CallsTheUnknownRejected => {
                Err(Error::new(error.kind(), "publish", "it was not stored"))
            }
            outcome => outcome,
        }
    }

    async fn publish_many(
        &self,
        envelopes: &mut [Envelope],
        deadline: Duration,
    ) -> Vec<Result<Published, Error>> {
        if self.mutant == Mutant::DropsTheLastOfABatch
            && let Some((_, others)) = envelopes.split_last_mut()
        {
            let mut outcomes = self.transport.publish_many(others, deadline).await;
            outcomes.push(Ok(Published::new()));
            return outcomes;
        }
        let mut outcomes = Vec::with_capacity(envelopes.len());
        for envelope in envelopes {
            outcomes.push(self.publish(envelope, deadline).await);
        }
        outcomes
    }

    async fn subscribe(&self, subscribe: &Subscribe) -> Result<Box<dyn Subscription>, Error> {
        let mut asked = subscribe.clone();
        match self.mutant {
            Mutant::StartsAtNow => asked.start = Start::New,
            Mutant::BuffersWithoutBound => asked.max_in_flight = 1_000_000,
            Mutant::IgnoresTheOrder => asked.ordered = None,
            Mutant::KeepsOldSettings => {
                asked.ack_wait = *self.first_ack_wait.get_or_init(|| asked.ack_wait);
            }
            _ => {}
        }
        let subscription = self.transport.subscribe(&asked).await?;
        let transport = Arc::clone(&self.transport);
        let mutated = MutatedSubscription::new(self.mutant, subscription, transport);
        Ok(Box::new(mutated))
    }

    async fn serve(&self, serve: &Serve) -> Result<Box<dyn Subscription>, Error> {
        let subscription = self.transport.serve(serve).await?;
        let transport = Arc::clone(&self.transport);
        let mutated = MutatedSubscription::new(self.mutant, subscription, transport);
        Ok(Box::new(mutated))
    }

    async fn request(
        &self,
        to: &Target,
        envelope: &Envelope,
        attempt: u32,
        time_left: Option<Duration>,
    ) -> Result<Reply, Error> {
        let time_left = match self.mutant {
            Mutant::ForgetsTheTimeLeft => None,
            _ => time_left,
        };
        let anybody;
        let to = match (self.mutant, to) {
            (Mutant::AsksAnybody, Target::Node(_)) => {
                anybody = Target::Service(Name::from_static("suite"));
                &anybody
            }
            _ => to,
        };
        let other;
        let envelope = match self.mutant {
            Mutant::RequestsUnderNewIds => {
                other = envelope.clone().with_id(MessageId::new());
                &other
            }
            _ => envelope,
        };
        let reply = self.transport.request(to, envelope, attempt, time_left);
        let reply = reply.await;
        match (self.mutant, reply) {
            (Mutant::ConfusesReplies, Ok(reply)) => {
                Ok(self.first_reply.get_or_init(|| reply).clone())
            }
            (Mutant::WaitsForNobody, Err(error)) if error.kind() == ErrorKind::NoResponders => {
                tokio::time::sleep(time_left.unwrap_or(Duration::from_secs(60))).await;
                Err(Error::new(ErrorKind::Timeout, "request", "nobody answered"))
            }
            (_, reply) => reply,
        }
    }

    async fn flush(&self) -> Result<(), Error> {
        if self.hides_the_unflushed() {
            return Ok(());
        }
        self.transport.flush().await
    }

    async fn close(&self) -> Result<(), Error> {
        if self.mutant == Mutant::StaysOpen {
            return self.transport.flush().await;
        }
        if self.hides_the_unflushed() {
            let soon = Duration::from_millis(100);
            drop(tokio::time::timeout(soon, self.transport.close()).await);
            return Ok(());
        }
        self.transport.close().await
    }
}
