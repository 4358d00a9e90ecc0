//! Inbox, registry and dead letters, each a few scripts.

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use catga_core::{
    Claim, ClaimOutcome, DeadLetter, DeadLetterFilter, DeadLetterId, DeadLetters, Error, ErrorKind,
    InboxKey, InboxStore, Name, NodeInfo, NodeRegistry, NodeWatch, Owner, Page, Reply, async_trait,
};
use futures_util::StreamExt;
use redis::{Script, Value, cmd};
use tokio::sync::mpsc;

use crate::redis_driver::{Redis, fail, fields, list, number, read, text, write};
use crate::shared::{err, from_millis, lost, pack, unpack, watch_by_diff};

const NOW: &str = "local t=redis.call('TIME'); local now=t[1]*1000+math.floor(t[2]/1000)\n";
static CLAIM: LazyLock<Script> = LazyLock::new(|| {
    Script::new(&format!(
        "{NOW}{}",
        r"
    local s=redis.call('HGET',KEYS[1],'s')
    local gen=tonumber(ARGV[3]); local old=tonumber(redis.call('HGET',KEYS[1],'g') or '0')
    if s=='done' then return {'done',redis.call('HGET',KEYS[1],'r') or '',redis.call('HGET',KEYS[1],'d') or '0'} end
    if s=='dead' and gen<=old then return {'dead',old} end
    if s=='run' and redis.call('HGET',KEYS[1],'o')==ARGV[1] then return {'granted',tonumber(redis.call('HGET',KEYS[1],'ran'))} end
    if s=='run' then local left=redis.call('HGET',KEYS[1],'u')-now; if left>0 then return {'running',left} end end
    redis.call('HSET',KEYS[1],'s','run','o',ARGV[1],'u',now+ARGV[2],'g',gen,'ran',s and 1 or 0)
    redis.call('PEXPIRE',KEYS[1],86400000)
    return {'granted',s and 1 or 0}"
    ))
});
/// Changes a claim that is still held: `run` renews, the rest ends it.
static MOVE: LazyLock<Script> = LazyLock::new(|| {
    Script::new(&format!(
        "{NOW}{}",
        r"
    if redis.call('HGET',KEYS[1],'o')~=ARGV[1] then return 0 end
    local s=redis.call('HGET',KEYS[1],'s')
    if s==ARGV[2] and s~='run' then return 1 end -- repeated after a lost answer
    if s~='run' then return 0 end
    redis.call('HSET',KEYS[1],'s',ARGV[2],'u',now+ARGV[3],'r',ARGV[4],'d',0)
    return 1"
    ))
});
static NODE: LazyLock<Script> = LazyLock::new(|| {
    Script::new(&format!(
        "{NOW}{}",
        r"
    local inc=redis.call('HGET',KEYS[2],'i:'..ARGV[2]); local seen=redis.call('ZSCORE',KEYS[1],ARGV[2])
    local live=seen and now-seen<tonumber(ARGV[5])
    if ARGV[1]=='register' then if live and inc~=ARGV[3] then return -1 end
    else if not inc then return -2 end if inc~=ARGV[3] then return -1 end end
    if ARGV[1]=='unregister' then redis.call('ZREM',KEYS[1],ARGV[2]) redis.call('HDEL',KEYS[2],'i:'..ARGV[2],'n:'..ARGV[2])
    else redis.call('ZADD',KEYS[1],now,ARGV[2]) redis.call('HSET',KEYS[2],'i:'..ARGV[2],ARGV[3],'n:'..ARGV[2],ARGV[4]) end
    redis.call('PUBLISH',KEYS[1],ARGV[2])
    return 1"
    ))
});
static NODES: LazyLock<Script> = LazyLock::new(|| {
    Script::new(&format!(
        "{NOW}{}",
        r"
    local out={}
    local z=redis.call('ZRANGEBYSCORE',KEYS[1],'('..(now-ARGV[1]),'+inf','WITHSCORES')
    for i=1,#z,2 do out[#out+1]={z[i],z[i+1],redis.call('HGET',KEYS[2],'n:'..z[i]) or ''} end
    return out"
    ))
});
static REDRIVE: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        r"
    if redis.call('XDEL',KEYS[2],ARGV[1])==0 then return 0 end
    redis.call('XADD',KEYS[1],'*',unpack(ARGV,2)) return 1",
    )
});

pub fn open(
    redis: &Arc<Redis>,
    timeout: Duration,
) -> (
    Arc<dyn InboxStore>,
    Arc<dyn NodeRegistry>,
    Arc<dyn DeadLetters>,
) {
    let r = || Arc::clone(redis);
    (
        Arc::new(RedisInbox(r())),
        Arc::new(RedisNodes(r(), timeout)),
        Arc::new(RedisDead(r())),
    )
}
pub fn inbox_key(r: &Redis, k: &InboxKey) -> String {
    format!("{}:in:{}:{}", r.key(&k.message), k.group, k.id)
}

#[derive(Debug)]
struct RedisInbox(Arc<Redis>);
impl RedisInbox {
    async fn step(
        &self,
        c: &Claim,
        state: &str,
        lease: Duration,
        response: &[u8],
    ) -> Result<(), Error> {
        let mut s = MOVE.key(inbox_key(&self.0, &c.key));
        s.arg(c.owner.as_uuid().to_string())
            .arg(state)
            .arg(lease.as_millis() as u64)
            .arg(response);
        if self.0.run("inbox", &s).await? == 1 {
            Ok(())
        } else {
            Err(lost("inbox"))
        }
    }
}
#[async_trait]
impl InboxStore for RedisInbox {
    async fn claim(
        &self,
        k: &InboxKey,
        owner: Owner,
        lease: Duration,
        generation: u32,
    ) -> Result<ClaimOutcome, Error> {
        let mut conn = self.0.conn.clone();
        let v: Value = CLAIM
            .key(inbox_key(&self.0, k))
            .arg(owner.as_uuid().to_string())
            .arg(lease.as_millis() as u64)
            .arg(generation)
            .invoke_async(&mut conn)
            .await
            .map_err(|e| fail("claim", e))?;
        let v = list(v);
        let n = |i: usize| text(&v[i]).parse::<u64>().unwrap_or(0);
        Ok(match text(&v[0]).as_str() {
            "granted" => ClaimOutcome::Granted(
                Claim::new(k.clone(), owner, 0, n(1) == 1).with_generation(generation),
            ),
            "running" => ClaimOutcome::Running {
                retry_after: Duration::from_millis(n(1)),
            },
            "dead" => ClaimOutcome::Dead {
                generation: n(1) as u32,
            },
            _ => {
                let r = text(&v[1]);
                ClaimOutcome::Completed {
                    response: if r.is_empty() {
                        None
                    } else {
                        Some(unpack(r.as_bytes())?)
                    },
                    response_dropped: n(2) == 1,
                }
            }
        })
    }
    async fn renew(&self, claim: &mut Claim, lease: Duration) -> Result<(), Error> {
        self.step(claim, "run", lease, b"").await
    }
    async fn complete(&self, claim: Claim, response: Option<&Reply>) -> Result<(), Error> {
        self.step(
            &claim,
            "done",
            Duration::ZERO,
            &response.map(pack).unwrap_or_default(),
        )
        .await
    }
    async fn release(&self, claim: Claim, dead: bool) -> Result<(), Error> {
        self.step(
            &claim,
            if dead { "dead" } else { "free" },
            Duration::ZERO,
            b"",
        )
        .await
    }
}

#[derive(Clone, Debug)]
struct RedisNodes(Arc<Redis>, Duration);
impl RedisNodes {
    fn keys(&self) -> (String, String) {
        (
            format!("{{{}::nodes}}", self.0.ns),
            format!("{{{}::nodes}}:info", self.0.ns),
        )
    }
    async fn step(&self, what: &str, n: &NodeInfo) -> Result<(), Error> {
        let (z, h) = self.keys();
        let mut s = NODE.key(z);
        s.key(h)
            .arg(what)
            .arg(n.id.as_str())
            .arg(n.incarnation.as_uuid().to_string())
            .arg(serde_json::to_string(n).expect("plain data"))
            .arg(self.1.as_millis() as u64);
        match self.0.run("registry", &s).await? {
            1 => Ok(()),
            -2 => Err(err(ErrorKind::NotFound, "registry", "given up")),
            _ if what == "register" => Err(err(
                ErrorKind::DuplicateNode,
                "register",
                format!("{} is live", n.id),
            )),
            _ => Err(lost("registry")),
        }
    }
}
#[async_trait]
impl NodeRegistry for RedisNodes {
    async fn register(&self, n: &NodeInfo) -> Result<(), Error> {
        self.step("register", n).await
    }
    async fn heartbeat(&self, n: &NodeInfo) -> Result<(), Error> {
        self.step("heartbeat", n).await
    }
    async fn unregister(&self, n: &NodeInfo) -> Result<(), Error> {
        self.step("unregister", n).await
    }
    async fn nodes(&self) -> Result<Vec<NodeInfo>, Error> {
        let (z, h) = self.keys();
        let mut conn = self.0.conn.clone();
        let v: Value = NODES
            .key(z)
            .key(h)
            .arg(self.1.as_millis() as u64)
            .invoke_async(&mut conn)
            .await
            .map_err(|e| fail("nodes", e))?;
        let mut nodes: Vec<NodeInfo> = list(v)
            .into_iter()
            .filter_map(|e| {
                let e = list(e);
                let mut n: NodeInfo = serde_json::from_str(&text(&e[2])).ok()?;
                n.last_seen = from_millis(text(&e[1]).parse().ok()?);
                (n.id.as_str() == text(&e[0])).then_some(n)
            })
            .collect();
        nodes.sort_by(|a, b| a.id.cmp(&b.id));
        Ok(nodes)
    }
    async fn watch(&self) -> Result<Box<dyn NodeWatch>, Error> {
        let (tx, rx) = mpsc::channel(1);
        let mut changes = self
            .0
            .client
            .get_async_pubsub()
            .await
            .map_err(|e| fail("watch", e))?;
        changes
            .subscribe(self.keys().0)
            .await
            .map_err(|e| fail("watch", e))?;
        tokio::spawn(async move {
            let mut changes = changes.into_on_message();
            while changes.next().await.is_some() {
                if matches!(tx.try_send(()), Err(mpsc::error::TrySendError::Closed(()))) {
                    return;
                }
            }
        });
        Ok(watch_by_diff(Arc::new(self.clone()), rx, self.1 / 4))
    }
}

/// Ids are `{entry id, padded}/{message}/{group}`: ordered by age over all streams.
#[derive(Debug)]
struct RedisDead(Arc<Redis>);
fn entry_of(id: &DeadLetterId) -> Result<(String, Name, String), Error> {
    let bad = || err(ErrorKind::Decode, "dead letter", "not an id of ours");
    let mut p = id.as_str().splitn(3, '/');
    let (at, name, group) = (
        p.next().ok_or_else(bad)?,
        p.next().ok_or_else(bad)?,
        p.next().ok_or_else(bad)?,
    );
    let (ms, n) = at.split_once('-').ok_or_else(bad)?;
    Ok((
        format!(
            "{}-{}",
            ms.parse::<u64>().map_err(|_| bad())?,
            n.parse::<u64>().map_err(|_| bad())?
        ),
        Name::new(name)?,
        group.into(),
    ))
}
impl RedisDead {
    fn stream(&self, name: &Name, group: &str) -> String {
        format!("{}:dl:{group}", self.0.key(name))
    }
    async fn range(
        &self,
        name: &Name,
        group: &str,
        from: &str,
        to: &str,
        limit: usize,
    ) -> Result<Vec<DeadLetter>, Error> {
        let v: Value = cmd("XRANGE")
            .arg(self.stream(name, group))
            .arg(from)
            .arg(to)
            .arg("COUNT")
            .arg(limit)
            .query_async(&mut self.0.conn.clone())
            .await
            .map_err(|e| fail("list", e))?;
        list(v)
            .into_iter()
            .map(|e| {
                let mut e = list(e).into_iter();
                let (at, f) = (
                    text(&e.next().unwrap_or_default()),
                    fields(e.next().unwrap_or_default()),
                );
                let (ms, n) = at.split_once('-').map_or((0, 0), |(a, b)| {
                    (a.parse().unwrap_or(0), b.parse::<u64>().unwrap_or(0))
                });
                let reason = serde_json::from_slice(&f["reason"])
                    .map_err(|e| err(ErrorKind::Decode, "dead letter", e))?;
                let id = DeadLetterId::new(format!("{ms:020}-{n:020}/{name}/{group}"));
                let mut l = DeadLetter::new(
                    id,
                    read(name.clone(), &f),
                    Name::new(group.split('~').next().unwrap_or(group))?,
                    reason,
                    number(&f, "n").unwrap_or(1),
                );
                l.node = group
                    .split_once('~')
                    .map(|(_, n)| Name::new(n))
                    .transpose()?;
                l.published_at = from_millis(number(&f, "at").unwrap_or(0));
                l.dead_at = from_millis(ms);
                l.generation = number(&f, "g").unwrap_or(0);
                Ok(l)
            })
            .collect()
    }
    async fn streams(&self, filter: &DeadLetterFilter) -> Result<Vec<(Name, String)>, Error> {
        let all: Vec<String> = cmd("SMEMBERS")
            .arg(format!("{{{}::dl}}", self.0.ns))
            .query_async(&mut self.0.conn.clone())
            .await
            .map_err(|e| fail("list", e))?;
        let pairs = all
            .iter()
            .filter_map(|s| s.split_once(' '))
            .filter_map(|(n, g)| Some((Name::new(n).ok()?, g.to_owned())));
        Ok(pairs
            .filter(|(n, g)| {
                filter.message.as_ref().is_none_or(|m| m == n)
                    && filter.group.as_ref().is_none_or(|f| f.as_str() == g)
            })
            .collect())
    }
}
#[async_trait]
impl DeadLetters for RedisDead {
    async fn list(
        &self,
        filter: &DeadLetterFilter,
        after: Option<&DeadLetterId>,
        limit: usize,
    ) -> Result<Page, Error> {
        // Inclusive, then compared by the whole id: two streams may have the same entry id.
        let from = after
            .map(entry_of)
            .transpose()?
            .map_or("-".into(), |(at, ..)| at);
        let mut letters = Vec::new();
        for (name, group) in self.streams(filter).await? {
            letters.extend(self.range(&name, &group, &from, "+", limit + 1).await?);
        }
        letters.retain(|l| after.is_none_or(|a| l.id > *a));
        letters.sort_by(|a, b| a.id.cmp(&b.id));
        let more = letters.len() > limit;
        letters.truncate(limit);
        let next = letters.last().filter(|_| more).map(|l| l.id.clone());
        Ok(Page::new(letters, next))
    }
    async fn inspect(&self, id: &DeadLetterId) -> Result<Option<DeadLetter>, Error> {
        let (at, name, group) = entry_of(id)?;
        Ok(self.range(&name, &group, &at, &at, 1).await?.pop())
    }
    async fn redrive(&self, id: &DeadLetterId) -> Result<(), Error> {
        let gone = || err(ErrorKind::NotFound, "redrive", id);
        let l = self.inspect(id).await?.ok_or_else(gone)?;
        let (at, name, group) = entry_of(id)?;
        let mut s = REDRIVE.key(self.0.key(&name));
        s.key(self.stream(&name, &group)).arg(at);
        for (k, v) in write(&l.envelope)? {
            s.arg(k).arg(v);
        }
        s.arg("group").arg(&group).arg("g").arg(l.generation + 1);
        if self.0.run("redrive", &s).await? == 1 {
            Ok(())
        } else {
            Err(gone())
        }
    }
    async fn purge(&self, filter: &DeadLetterFilter) -> Result<u64, Error> {
        let mut n = 0;
        for (name, group) in self.streams(filter).await? {
            n += cmd("XTRIM")
                .arg(self.stream(&name, &group))
                .arg("MAXLEN")
                .arg(0)
                .query_async::<u64>(&mut self.0.conn.clone())
                .await
                .map_err(|e| fail("purge", e))?;
        }
        Ok(n)
    }
}
