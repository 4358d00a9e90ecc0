//! Inbox and registry in KV buckets, dead letters in a stream.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use async_nats::jetstream::kv::{self, CreateErrorKind, Operation, UpdateErrorKind};
use async_nats::jetstream::message::StreamMessage;
use async_nats::jetstream::stream;
use bytes::Bytes;
use catga_core::{
    Claim, ClaimOutcome, DeadLetter, DeadLetterFilter, DeadLetterId, DeadLetters, Error, ErrorKind,
    InboxKey, InboxStore, Name, NodeInfo, NodeRegistry, NodeWatch, Owner, Page, Reply, Transport,
    async_trait,
};
use futures_util::{StreamExt, TryStreamExt};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use crate::nats::{GENERATION, Nats, envelope, message};
use crate::shared::{err, from_millis, lost, pack, token, unpack, untoken, watch_by_diff};

type Stores = (
    Arc<dyn InboxStore>,
    Arc<dyn NodeRegistry>,
    Arc<dyn DeadLetters>,
);

pub async fn open(nats: &Arc<Nats>, timeout: Duration) -> Result<Stores, Error> {
    let inbox = bucket(nats, &format!("{}_inbox", nats.ns), 1).await?;
    let nodes = bucket(nats, &format!("{}_nodes", nats.ns), 10).await?;
    let dead = nats
        .js
        .get_or_create_stream(stream::Config {
            name: format!("{}~~dead", nats.ns),
            subjects: vec![format!("{}.x.>", nats.ns)],
            ..Default::default()
        })
        .await
        .map_err(|e| err(ErrorKind::Unavailable, "connect", e))?;
    Ok((
        Arc::new(NatsInbox {
            kv: inbox,
            seen: Mutex::default(),
        }),
        Arc::new(NatsNodes(Arc::new(Nodes { kv: nodes, timeout }))),
        Arc::new(NatsDead {
            nats: Arc::clone(nats),
            stream: dead,
        }),
    ))
}
/// By hand: `create_key_value` fails on 2.9.
async fn bucket(nats: &Nats, name: &str, history: i64) -> Result<kv::Store, Error> {
    let e = |e: &dyn std::fmt::Display| err(ErrorKind::Unavailable, "bucket", e);
    nats.js
        .get_or_create_stream(stream::Config {
            name: format!("KV_{name}"),
            subjects: vec![format!("$KV.{name}.>")],
            max_messages_per_subject: history,
            max_age: Duration::from_secs(300),
            allow_rollup: true,
            allow_direct: true,
            deny_delete: true,
            discard: stream::DiscardPolicy::New,
            duplicate_window: Duration::from_secs(120),
            ..Default::default()
        })
        .await
        .map_err(|x| e(&x))?;
    nats.js.get_key_value(name).await.map_err(|x| e(&x))
}

#[derive(Debug)]
struct NatsInbox {
    kv: kv::Store,
    /// When this member first saw a revision: a claim is expired when it has not moved for its lease.
    seen: Mutex<HashMap<String, (u64, Instant)>>,
}
#[derive(Serialize, Deserialize)]
struct Slot {
    state: State,
    owner: uuid::Uuid,
    generation: u32,
    lease_ms: u64,
    response: Option<Vec<u8>>,
    dropped: bool,
    ran: bool,
}
#[derive(Serialize, Deserialize, PartialEq)]
enum State {
    Running,
    Free,
    Done,
    Dead,
}
impl Slot {
    fn new(state: State, owner: Owner, generation: u32, lease: Duration) -> Self {
        Self {
            state,
            owner: *owner.as_uuid(),
            generation,
            lease_ms: lease.as_millis() as u64,
            response: None,
            dropped: false,
            ran: false,
        }
    }
    fn bytes(&self) -> Bytes {
        serde_json::to_vec(self).expect("plain data").into()
    }
}
fn key(k: &InboxKey) -> String {
    format!("{}.{}.{}", token(&k.group), k.message, k.id)
}

impl NatsInbox {
    async fn read(&self, key: &str) -> Result<Option<(u64, Slot)>, Error> {
        let e = self
            .kv
            .entry(key)
            .await
            .map_err(|e| err(ErrorKind::Unavailable, "inbox", e))?;
        e.filter(|e| e.operation == Operation::Put)
            .map(|e| {
                Ok((
                    e.revision,
                    serde_json::from_slice(&e.value)
                        .map_err(|x| err(ErrorKind::Decode, "inbox", x))?,
                ))
            })
            .transpose()
    }
    /// Writes on top of the claim's revision. After an unknown outcome the revision may be ours and newer: the owner tells.
    async fn write(&self, claim: &Claim, slot: &Slot) -> Result<u64, Error> {
        let k = key(&claim.key);
        let mut revision = claim.revision;
        for _ in 0..2 {
            match self.kv.update(&k, slot.bytes(), revision).await {
                Ok(r) => return Ok(r),
                Err(e) if e.kind() == UpdateErrorKind::WrongLastRevision => {
                    match self.read(&k).await? {
                        Some((now, s))
                            if s.owner == *claim.owner.as_uuid() && s.state == State::Running =>
                        {
                            revision = now
                        }
                        Some((now, s))
                            if s.owner == *claim.owner.as_uuid() && s.state == slot.state =>
                        {
                            return Ok(now);
                        }
                        _ => return Err(lost("inbox")),
                    }
                }
                Err(e) => return Err(err(ErrorKind::Timeout, "inbox", e).with_unknown_outcome()),
            }
        }
        Err(lost("inbox"))
    }
}
#[async_trait]
impl InboxStore for NatsInbox {
    async fn claim(
        &self,
        k: &InboxKey,
        owner: Owner,
        lease: Duration,
        generation: u32,
    ) -> Result<ClaimOutcome, Error> {
        let name = key(k);
        let slot = Slot::new(State::Running, owner, generation, lease);
        let granted = |revision, ran| {
            Ok(ClaimOutcome::Granted(
                Claim::new(k.clone(), owner, revision, ran).with_generation(generation),
            ))
        };
        match self.kv.create(&name, slot.bytes()).await {
            Ok(revision) => return granted(revision, false),
            Err(e) if e.kind() == CreateErrorKind::AlreadyExists => {}
            Err(e) => return Err(err(ErrorKind::Unavailable, "claim", e)),
        }
        let retry = ClaimOutcome::Running {
            retry_after: Duration::from_millis(10),
        };
        let Some((revision, now)) = self.read(&name).await? else {
            return Ok(retry);
        };
        match now.state {
            State::Done => {
                return Ok(ClaimOutcome::Completed {
                    response: now.response.map(|r| unpack(&r)).transpose()?,
                    response_dropped: now.dropped,
                });
            }
            State::Dead if generation <= now.generation => {
                return Ok(ClaimOutcome::Dead {
                    generation: now.generation,
                });
            }
            State::Dead | State::Free => {}
            // Our own, from a claim whose answer was lost.
            State::Running if now.owner == *owner.as_uuid() => return granted(revision, now.ran),
            State::Running => {
                let mut seen = self.seen.lock().unwrap();
                let first = seen
                    .entry(name.clone())
                    .or_insert((revision, Instant::now()));
                if first.0 != revision {
                    *first = (revision, Instant::now());
                }
                let left = Duration::from_millis(now.lease_ms).saturating_sub(first.1.elapsed());
                if !left.is_zero() {
                    return Ok(ClaimOutcome::Running { retry_after: left });
                }
            }
        }
        let slot = Slot { ran: true, ..slot };
        match self.kv.update(&name, slot.bytes(), revision).await {
            Ok(revision) => granted(revision, true),
            Err(e) if e.kind() == UpdateErrorKind::WrongLastRevision => Ok(retry),
            Err(e) => Err(err(ErrorKind::Unavailable, "claim", e)),
        }
    }
    async fn renew(&self, claim: &mut Claim, lease: Duration) -> Result<(), Error> {
        let slot = Slot {
            ran: claim.may_have_run,
            ..Slot::new(State::Running, claim.owner, claim.generation, lease)
        };
        claim.revision = self.write(claim, &slot).await?;
        Ok(())
    }
    async fn complete(&self, claim: Claim, response: Option<&Reply>) -> Result<(), Error> {
        let mut slot = Slot::new(State::Done, claim.owner, claim.generation, Duration::ZERO);
        slot.response = response.map(pack);
        if slot.response.as_ref().is_some_and(|r| r.len() > 64 * 1024) {
            (slot.response, slot.dropped) = (None, true);
        }
        self.write(&claim, &slot).await.map(|_| ())
    }
    async fn release(&self, claim: Claim, dead: bool) -> Result<(), Error> {
        let state = if dead { State::Dead } else { State::Free };
        self.write(
            &claim,
            &Slot::new(state, claim.owner, claim.generation, Duration::ZERO),
        )
        .await
        .map(|_| ())
    }
}

#[derive(Clone, Debug)]
struct NatsNodes(Arc<Nodes>);
#[derive(Debug)]
struct Nodes {
    kv: kv::Store,
    timeout: Duration,
}
fn down(e: impl std::fmt::Display) -> Error {
    err(ErrorKind::Unavailable, "registry", e)
}
impl Nodes {
    /// The server has no clock to ask: write a key and read the time it was given.
    async fn now(&self) -> Result<SystemTime, Error> {
        let probe = format!("clock.{}", uuid::Uuid::now_v7());
        self.kv.put(&probe, Bytes::new()).await.map_err(down)?;
        let e = self
            .kv
            .entry(&probe)
            .await
            .map_err(down)?
            .ok_or_else(|| down("no probe"))?;
        self.kv.purge(&probe).await.map_err(down)?;
        Ok(e.created.into())
    }
    async fn read(&self, id: &str) -> Result<Option<(u64, NodeInfo)>, Error> {
        let Some(e) = self
            .kv
            .entry(id)
            .await
            .map_err(down)?
            .filter(|e| e.operation == Operation::Put)
        else {
            return Ok(None);
        };
        let mut n: NodeInfo =
            serde_json::from_slice(&e.value).map_err(|x| err(ErrorKind::Decode, "registry", x))?;
        n.last_seen = e.created.into();
        Ok(Some((e.revision, n)))
    }
    async fn live(&self, n: &NodeInfo) -> Result<bool, Error> {
        Ok(self
            .now()
            .await?
            .duration_since(n.last_seen)
            .unwrap_or_default()
            < self.timeout)
    }
    async fn write(&self, node: &NodeInfo, revision: u64) -> Result<(), Error> {
        let value = serde_json::to_vec(node).expect("plain data").into();
        match self.kv.update(node.id.as_str(), value, revision).await {
            Err(e) if e.kind() == UpdateErrorKind::WrongLastRevision => Err(lost("registry")),
            other => other.map(|_| ()).map_err(down),
        }
    }
    async fn own(&self, node: &NodeInfo) -> Result<u64, Error> {
        match self.read(node.id.as_str()).await? {
            None => Err(err(ErrorKind::NotFound, "heartbeat", "given up")),
            Some((_, n)) if n.incarnation != node.incarnation => Err(lost("heartbeat")),
            Some((revision, _)) => Ok(revision),
        }
    }
}
#[async_trait]
impl NodeRegistry for NatsNodes {
    async fn register(&self, node: &NodeInfo) -> Result<(), Error> {
        let revision = match self.0.read(node.id.as_str()).await? {
            Some((_, n)) if n.incarnation != node.incarnation && self.0.live(&n).await? => {
                return Err(err(
                    ErrorKind::DuplicateNode,
                    "register",
                    format!("{} is live", node.id),
                ));
            }
            Some((revision, _)) => revision,
            None => match self
                .0
                .kv
                .create(
                    node.id.as_str(),
                    serde_json::to_vec(node).expect("plain").into(),
                )
                .await
            {
                Ok(_) => return Ok(()),
                Err(e) if e.kind() == CreateErrorKind::AlreadyExists => {
                    return Err(err(
                        ErrorKind::DuplicateNode,
                        "register",
                        "another was first",
                    ));
                }
                Err(e) => return Err(down(e)),
            },
        };
        self.0.write(node, revision).await
    }
    async fn heartbeat(&self, node: &NodeInfo) -> Result<(), Error> {
        let revision = self.0.own(node).await?;
        self.0.write(node, revision).await
    }
    async fn unregister(&self, node: &NodeInfo) -> Result<(), Error> {
        let revision = self.0.own(node).await?;
        self.0
            .kv
            .delete_expect_revision(node.id.as_str(), Some(revision))
            .await
            .map_err(down)
    }
    async fn nodes(&self) -> Result<Vec<NodeInfo>, Error> {
        let now = self.0.now().await?;
        let keys: Vec<String> = self
            .0
            .kv
            .keys()
            .await
            .map_err(down)?
            .try_collect()
            .await
            .map_err(down)?;
        let mut nodes = Vec::new();
        for key in keys.iter().filter(|k| !k.starts_with("clock.")) {
            if let Ok(Some((_, n))) = self.0.read(key).await
                && n.id.as_str() == key
                && now.duration_since(n.last_seen).unwrap_or_default() < self.0.timeout
            {
                nodes.push(n);
            }
        }
        nodes.sort_by(|a, b| a.id.cmp(&b.id));
        Ok(nodes)
    }
    async fn watch(&self) -> Result<Box<dyn NodeWatch>, Error> {
        let (tx, rx) = mpsc::channel(1);
        let mut watch = self.0.kv.watch_all().await.map_err(down)?;
        tokio::spawn(async move {
            while let Some(Ok(e)) = watch.next().await {
                if !e.key.starts_with("clock.")
                    && matches!(tx.try_send(()), Err(mpsc::error::TrySendError::Closed(())))
                {
                    return;
                }
            }
        });
        Ok(watch_by_diff(
            Arc::new(self.clone()),
            rx,
            self.0.timeout / 4,
        ))
    }
}

#[derive(Debug)]
struct NatsDead {
    nats: Arc<Nats>,
    stream: stream::Stream,
}
impl NatsDead {
    fn letter(&self, m: StreamMessage) -> Result<DeadLetter, Error> {
        let bad = |what: &str| err(ErrorKind::Decode, "dead letter", what);
        let rest = m
            .subject
            .as_str()
            .strip_prefix(&format!("{}.x.", self.nats.ns))
            .ok_or_else(|| bad("subject"))?;
        let (group, name) = rest.split_once('.').ok_or_else(|| bad("subject"))?;
        let head = |k: &str| {
            m.headers
                .get(k)
                .map(|v| v.as_str().to_owned())
                .ok_or_else(|| bad(k))
        };
        let reason =
            serde_json::from_str(&head("catga-reason")?).map_err(|e| bad(&e.to_string()))?;
        let number = |k: &str| head(k)?.parse::<u64>().map_err(|e| bad(&e.to_string()));
        let e = envelope(Name::new(name)?, &m.headers, m.payload.clone(), None);
        let mut letter = DeadLetter::new(
            DeadLetterId::new(format!("{:020}", m.sequence)),
            e,
            untoken(group.split('~').next().unwrap_or(group))?,
            reason,
            number("catga-deliveries")? as u32,
        );
        letter.node = group
            .split_once('~')
            .map(|(_, node)| untoken(node))
            .transpose()?;
        letter.published_at = from_millis(number("catga-published")?);
        letter.dead_at = m.time.into();
        letter.generation = number(GENERATION)? as u32;
        Ok(letter)
    }
}
#[async_trait]
impl DeadLetters for NatsDead {
    async fn list(
        &self,
        filter: &DeadLetterFilter,
        after: Option<&DeadLetterId>,
        limit: usize,
    ) -> Result<Page, Error> {
        let mut sequence = after.map_or(0, |a| a.as_str().parse().unwrap_or(0));
        let subject = format!(
            "{}.x.{}.{}",
            self.nats.ns,
            filter.group.as_ref().map_or("*".into(), token),
            filter.message.as_ref().map_or(">", |m| m.as_str())
        );
        let mut letters = Vec::new();
        while letters.len() < limit {
            let found = self
                .stream
                .raw_message_builder()
                .sequence(sequence + 1)
                .next_by_subject(subject.clone())
                .send()
                .await;
            let Ok(m) = found else {
                return Ok(Page::new(letters, None));
            };
            sequence = m.sequence;
            letters.push(self.letter(m)?);
        }
        let next = letters.last().map(|l| l.id.clone());
        Ok(Page::new(letters, next))
    }
    async fn inspect(&self, id: &DeadLetterId) -> Result<Option<DeadLetter>, Error> {
        let sequence = id
            .as_str()
            .parse()
            .map_err(|e| err(ErrorKind::Decode, "inspect", e))?;
        self.stream
            .get_raw_message(sequence)
            .await
            .ok()
            .map(|m| self.letter(m))
            .transpose()
    }
    async fn redrive(&self, id: &DeadLetterId) -> Result<(), Error> {
        let l = self
            .inspect(id)
            .await?
            .ok_or_else(|| err(ErrorKind::NotFound, "redrive", id))?;
        let (g, mid) = (l.generation + 1, l.envelope.id().expect("QoS 1 has an id"));
        let to = l.node.as_ref().map_or(token(&l.group), |n| {
            format!("{}~{}", token(&l.group), token(n))
        });
        // A killed redrive repeats the same dedup id, since the letter keeps its generation until it is gone.
        let m =
            message(&l.envelope, &format!("{mid}:{to}:r{g}"))?.header(GENERATION, g.to_string());
        self.nats
            .store(
                format!("{}.d.{to}.{}", self.nats.ns, l.envelope.name()),
                m,
                Duration::from_secs(2),
            )
            .await?;
        self.stream
            .delete_message(id.as_str().parse().expect("inspected"))
            .await
            .map_err(down)?;
        self.nats.flush().await
    }
    async fn purge(&self, filter: &DeadLetterFilter) -> Result<u64, Error> {
        let subject = format!(
            "{}.x.{}.{}",
            self.nats.ns,
            filter.group.as_ref().map_or("*".into(), token),
            filter.message.as_ref().map_or(">", |m| m.as_str())
        );
        Ok(self
            .stream
            .purge()
            .filter(subject)
            .await
            .map_err(down)?
            .purged)
    }
}
