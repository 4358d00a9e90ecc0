//! The Redis driver: transport, readers and scripts. Inbox, registry and dead letters are in `redis_stores`.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock, Mutex};
use std::time::Duration;

use bytes::Bytes;
use catga_core::{
    Backend, BackendUrl, Capabilities, Capability, ConnectOptions, ConnectionState, Consumers,
    Delivery, Driver, Envelope, Error, ErrorKind, Headers, Name, Published, QoS, Receipt, Reply,
    Serve, Settlement, Start, Subscribe, Subscription, SubscriptionStats, Target, Transport,
    async_trait,
};
use futures_util::StreamExt;
use redis::aio::{ConnectionManager, ConnectionManagerConfig, MultiplexedConnection};
use redis::{AsyncConnectionConfig, Script, Value, cmd, pipe};
use tokio::sync::{mpsc, oneshot, watch};

use crate::shared::{Room, Slot, err, given_back, lost, pack, unknown, unpack};

type Waiting = Arc<Mutex<HashMap<String, oneshot::Sender<Vec<u8>>>>>;
pub type Fields = HashMap<String, Vec<u8>>;

const NOW: &str = "local t=redis.call('TIME'); local now=t[1]*1000+math.floor(t[2]/1000)\n";
/// The delivery is ours while the entry is pending for this consumer with this count.
const OWNED: &str = "local p=redis.call('XPENDING',KEYS[1],ARGV[1],ARGV[3],ARGV[3],1)\n\
    if #p==0 or p[1][2]~=ARGV[2] or p[1][4]~=tonumber(ARGV[4]) then return 0 end\n";
static TAKE: LazyLock<Script> = LazyLock::new(|| {
    Script::new(&format!(
        "{NOW}{}",
        r"
    local out={now}
    for _,id in ipairs(redis.call('ZRANGEBYSCORE',KEYS[2],'-inf',now,'LIMIT',0,ARGV[4])) do
      local r=redis.call('XCLAIM',KEYS[1],ARGV[1],ARGV[2],0,id)
      redis.call('ZREM',KEYS[2],id)
      local p=redis.call('XPENDING',KEYS[1],ARGV[1],id,id,1)
      if #r>0 and r[1] then out[#out+1]={id,p[1][4],r[1][2]} end
    end
    for _,p in ipairs(redis.call('XPENDING',KEYS[1],ARGV[1],'IDLE',ARGV[3],'-','+',ARGV[4])) do
      if p[2]~='~due' then
        local r=redis.call('XCLAIM',KEYS[1],ARGV[1],ARGV[2],ARGV[3],p[1])
        if #r>0 and r[1] then out[#out+1]={p[1],p[4]+1,r[1][2]} end
      end
    end
    return out"
    ))
});
static PARK: LazyLock<Script> = LazyLock::new(|| {
    Script::new(&format!(
        "{OWNED}{NOW}{}",
        r"
    redis.call('ZADD',KEYS[2],now+ARGV[5],ARGV[3])
    if ARGV[6]=='release' then redis.call('XCLAIM',KEYS[1],ARGV[1],'~due',0,ARGV[3],'RETRYCOUNT',ARGV[4]-1,'JUSTID')
    else redis.call('XCLAIM',KEYS[1],ARGV[1],'~due',0,ARGV[3],'JUSTID') end
    return 1"
    ))
});
static EXTEND: LazyLock<Script> = LazyLock::new(|| {
    Script::new(&format!(
        "{OWNED}redis.call('XCLAIM',KEYS[1],ARGV[1],ARGV[2],0,ARGV[3],'JUSTID') return 1"
    ))
});
static TERM: LazyLock<Script> = LazyLock::new(|| {
    Script::new(&format!(
        "{OWNED}redis.call('XACK',KEYS[1],ARGV[1],ARGV[3]) return 1"
    ))
});
static BURY: LazyLock<Script> = LazyLock::new(|| {
    Script::new(&format!(
        "{OWNED}{}",
        r"
    redis.call('XADD',KEYS[2],'*',unpack(ARGV,5))
    redis.call('XACK',KEYS[1],ARGV[1],ARGV[3]) return 1"
    ))
});
static COMPLETE: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        r"
    if redis.call('HGET',KEYS[2],'s')~='run' or redis.call('HGET',KEYS[2],'o')~=ARGV[3] then return 0 end
    redis.call('HSET',KEYS[2],'s','done','r',ARGV[4],'d',ARGV[5])
    redis.call('PEXPIRE',KEYS[2],86400000)
    redis.call('XACK',KEYS[1],ARGV[1],ARGV[2]) return 1",
    )
});

/// The one mapping of the client's errors.
pub fn fail(op: &'static str, e: redis::RedisError) -> Error {
    match e.code() {
        Some("OOM") => err(ErrorKind::LimitReached, op, e),
        Some("NOPERM" | "NOAUTH" | "WRONGPASS") => err(ErrorKind::Permission, op, e),
        _ if e.to_string().contains("OOM") => err(ErrorKind::LimitReached, op, e),
        _ if e.is_timeout() => unknown(op, e),
        _ if e.is_connection_refusal() => err(ErrorKind::Connect, op, e),
        _ if e.is_io_error() => err(ErrorKind::Unavailable, op, e).with_unknown_outcome(),
        _ => err(ErrorKind::Unavailable, op, e),
    }
}
pub fn text(v: &Value) -> String {
    match v {
        Value::BulkString(b) => String::from_utf8_lossy(b).into_owned(),
        Value::Int(i) => i.to_string(),
        Value::SimpleString(s) => s.clone(),
        _ => String::new(),
    }
}
pub fn list(v: Value) -> Vec<Value> {
    match v {
        Value::Array(a) => a,
        _ => Vec::new(),
    }
}
pub fn fields(v: Value) -> Fields {
    let mut out = Fields::new();
    let mut items = list(v).into_iter();
    while let (Some(k), Some(Value::BulkString(v))) = (items.next(), items.next()) {
        out.insert(text(&k), v);
    }
    out
}
pub fn number<T: std::str::FromStr>(f: &Fields, k: &str) -> Option<T> {
    std::str::from_utf8(f.get(k)?).ok()?.parse().ok()
}
pub fn write(e: &Envelope) -> Result<Vec<(String, Vec<u8>)>, Error> {
    let p = e
        .payload()
        .as_bytes()
        .ok_or_else(|| err(ErrorKind::Encode, "publish", "not encoded"))?;
    let mut out = vec![("p".into(), p.to_vec())];
    if let Some(id) = e.id() {
        out.push(("i".into(), id.to_string().into_bytes()));
    }
    if e.version() != 1 {
        out.push(("v".into(), e.version().to_string().into_bytes()));
    }
    // A prefix keeps a user's header apart from our own fields.
    out.extend(
        e.headers()
            .iter()
            .map(|(k, v)| (format!("h:{k}"), v.as_bytes().to_vec())),
    );
    Ok(out)
}
pub fn read(name: Name, f: &Fields) -> Envelope {
    let mut headers = Headers::new();
    for (k, v) in f {
        if let (Some(k), Ok(v)) = (k.strip_prefix("h:"), std::str::from_utf8(v)) {
            let _ = headers.insert(k, v);
        }
    }
    let e = Envelope::received(
        name,
        QoS::AtLeastOnce,
        Bytes::from(f.get("p").cloned().unwrap_or_default()),
    )
    .with_version(number(f, "v").unwrap_or(1))
    .with_headers(headers);
    match number(f, "i") {
        Some(id) => e.with_id(id),
        None => e,
    }
}

#[derive(Debug)]
pub struct RedisDriver;
#[async_trait]
impl Driver for RedisDriver {
    fn name(&self) -> &'static str {
        "redis"
    }
    fn schemes(&self) -> &'static [&'static str] {
        &["redis"]
    }
    fn options(&self) -> &'static [&'static str] {
        &[]
    }
    fn capabilities(&self) -> &'static [Capability] {
        &[
            Capability::AtLeastOnce,
            Capability::ExactlyOnce,
            Capability::Groups,
            Capability::DelayedNak,
            Capability::UncountedRelease,
            Capability::Persistent,
            Capability::Requests,
            Capability::Nodes,
            Capability::FusedCompletion,
            Capability::FusedDeadLetter,
        ]
    }
    async fn connect(&self, url: &BackendUrl, options: &ConnectOptions) -> Result<Backend, Error> {
        let c = |e| fail("connect", e);
        let client = redis::Client::open(format!("redis://{}", url.hosts())).map_err(c)?;
        let config = ConnectionManagerConfig::new()
            .set_response_timeout(Some(Duration::from_secs(20)))
            .set_number_of_retries(1);
        let conn = ConnectionManager::new_with_config(client.clone(), config)
            .await
            .map_err(c)?;
        let mut replies = client.get_async_pubsub().await.map_err(c)?;
        let channel = format!("{}:reply:{}", options.namespace, uuid::Uuid::now_v7());
        replies.subscribe(&channel).await.map_err(c)?;
        let waiting = Waiting::default();
        let map = Arc::clone(&waiting);
        tokio::spawn(async move {
            let mut stream = replies.into_on_message();
            while let Some(m) = stream.next().await {
                let b = m.get_payload_bytes();
                let Some(at) = b.iter().position(|b| *b == b'|') else {
                    continue;
                };
                if let Some(tx) = map
                    .lock()
                    .unwrap()
                    .remove(&String::from_utf8_lossy(&b[..at]).into_owned())
                {
                    let _ = tx.send(b[at + 1..].to_vec());
                }
            }
        });
        let (acks, queue) = mpsc::channel(1024);
        tokio::spawn(ack_writer(conn.clone(), queue));
        let redis = Arc::new(Redis {
            client,
            conn,
            ns: options.namespace.clone(),
            acks,
            waiting,
            channel,
            alive: options.node_timeout,
        });
        let (inbox, registry, dead) = crate::redis_stores::open(&redis, options.node_timeout);
        Ok(Backend::new("redis", redis)
            .with_inbox(inbox)
            .with_registry(registry)
            .with_dead_letters(dead))
    }
}

enum AckCmd {
    Ack(String, String, String),
    Flush(oneshot::Sender<()>),
}
/// Takes what is queued and sends one XACK for each stream and group.
async fn ack_writer(mut conn: ConnectionManager, mut queue: mpsc::Receiver<AckCmd>) {
    let mut batch = Vec::new();
    while queue.recv_many(&mut batch, 256).await > 0 {
        let (mut ids, mut waiters) = (HashMap::<(String, String), Vec<String>>::new(), Vec::new());
        for c in batch.drain(..) {
            match c {
                AckCmd::Ack(s, g, id) => ids.entry((s, g)).or_default().push(id),
                AckCmd::Flush(tx) => waiters.push(tx),
            }
        }
        for ((stream, group), ids) in ids {
            let _: redis::RedisResult<u64> = cmd("XACK")
                .arg(&stream)
                .arg(&group)
                .arg(&ids)
                .query_async(&mut conn)
                .await;
        }
        waiters.into_iter().for_each(|tx| {
            let _ = tx.send(());
        });
    }
}

#[derive(Clone)]
pub struct Redis {
    pub client: redis::Client,
    pub conn: ConnectionManager,
    pub ns: Name,
    acks: mpsc::Sender<AckCmd>,
    waiting: Waiting,
    channel: String,
    alive: Duration,
}
impl std::fmt::Debug for Redis {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Redis({})", self.ns)
    }
}
impl Redis {
    pub fn key(&self, name: &Name) -> String {
        format!("{{{}:{name}}}", self.ns)
    }
    pub async fn run(
        &self,
        op: &'static str,
        script: &redis::ScriptInvocation<'_>,
    ) -> Result<i64, Error> {
        let mut conn = self.conn.clone();
        match tokio::time::timeout(Duration::from_secs(2), script.invoke_async(&mut conn)).await {
            Ok(r) => r.map_err(|e| fail(op, e)),
            Err(_) => Err(unknown(op, "no answer in time")),
        }
    }
    async fn group(&self, stream: &str, group: &str, start: &str) -> Result<(), Error> {
        let made: redis::RedisResult<()> = cmd("XGROUP")
            .arg("CREATE")
            .arg(stream)
            .arg(group)
            .arg(start)
            .arg("MKSTREAM")
            .query_async(&mut self.conn.clone())
            .await;
        match made {
            Err(e) if e.code() != Some("BUSYGROUP") => Err(fail("subscribe", e)),
            _ => Ok(()),
        }
    }
    async fn read(&self, r: Reading) -> Result<Box<dyn Subscription>, Error> {
        let config = AsyncConnectionConfig::new().set_response_timeout(None);
        let conn = self
            .client
            .get_multiplexed_async_connection_with_config(&config)
            .await
            .map_err(|e| fail("subscribe", e))?;
        let (tx, rx) = mpsc::channel(r.max_in_flight + 1);
        let (stop, stopped) = watch::channel(false);
        let reader = tokio::spawn(reader(self.clone(), conn, r, tx, stopped));
        Ok(Box::new(RedisSub {
            rx,
            stop,
            reader: Some(reader),
        }))
    }
}

#[async_trait]
impl Transport for Redis {
    fn capabilities(&self) -> Capabilities {
        RedisDriver
            .capabilities()
            .iter()
            .fold(Capabilities::none(), |c, x| c.with(*x))
    }
    fn state(&self) -> ConnectionState {
        ConnectionState::Connected
    }
    async fn publish(&self, e: &Envelope, deadline: Duration) -> Result<Published, Error> {
        let mut conn = self.conn.clone();
        let mut c = cmd("XADD");
        c.arg(self.key(e.name())).arg("*");
        write(e)?.into_iter().for_each(|(k, v)| {
            c.arg(k).arg(v);
        });
        match tokio::time::timeout(deadline, c.query_async::<String>(&mut conn)).await {
            Ok(r) => r.map(|_| Published::new()).map_err(|e| fail("publish", e)),
            Err(_) => Err(unknown("publish", "no reply within the deadline")),
        }
    }
    async fn subscribe(&self, s: &Subscribe) -> Result<Box<dyn Subscription>, Error> {
        let group = match &s.consumers {
            Consumers::Group(g) => g.to_string(),
            Consumers::EachNode { group, node } => format!("{group}~{node}"),
            _ => return Err(err(ErrorKind::Unsupported, "subscribe", "consumers")),
        };
        let stream = self.key(&s.message);
        self.group(
            &stream,
            &group,
            if s.start == Start::New { "$" } else { "0" },
        )
        .await?;
        let _: () = cmd("SADD")
            .arg(format!("{{{}::dl}}", self.ns))
            .arg(format!("{} {group}", s.message))
            .query_async(&mut self.conn.clone())
            .await
            .map_err(|e| fail("subscribe", e))?;
        self.read(Reading {
            streams: vec![stream],
            name: s.message.clone(),
            group,
            lease: s.ack_wait,
            max_in_flight: s.max_in_flight,
            requests: false,
        })
        .await
    }
    async fn serve(&self, s: &Serve) -> Result<Box<dyn Subscription>, Error> {
        let streams = vec![
            format!("{}:r:{}", self.key(&s.request), s.service),
            format!("{}:n:{}", self.key(&s.request), s.node),
        ];
        for stream in &streams {
            self.group(stream, "s", "$").await?;
        }
        self.read(Reading {
            streams,
            name: s.request.clone(),
            group: "s".into(),
            lease: Duration::from_secs(30),
            max_in_flight: s.max_in_flight,
            requests: true,
        })
        .await
    }
    async fn request(
        &self,
        to: &Target,
        e: &Envelope,
        attempt: u32,
        left: Duration,
    ) -> Result<Reply, Error> {
        let stream = match to {
            Target::Service(s) => format!("{}:r:{s}", self.key(e.name())),
            Target::Node(n) => format!("{}:n:{n}", self.key(e.name())),
            _ => return Err(err(ErrorKind::Unsupported, "request", "target")),
        };
        let token = format!("{}.{attempt}", e.id().expect("a request has an id"));
        let (tx, rx) = oneshot::channel();
        self.waiting.lock().unwrap().insert(token.clone(), tx);
        let mut c = cmd("XADD");
        c.arg(stream).arg("NOMKSTREAM").arg("*");
        for (k, v) in write(e)? {
            c.arg(k).arg(v);
        }
        c.arg("t")
            .arg(attempt)
            .arg("l")
            .arg(left.as_millis() as u64)
            .arg("c")
            .arg(&self.channel);
        let mut conn = self.conn.clone();
        let answer = tokio::time::timeout(left, async {
            match c
                .query_async::<Option<String>>(&mut conn)
                .await
                .map_err(|e| fail("request", e))?
            {
                None => Err(err(
                    ErrorKind::NoResponders,
                    "request",
                    format!("nobody answers {} at {to}", e.name()),
                )),
                Some(_) => rx
                    .await
                    .map_err(|e| err(ErrorKind::Unavailable, "request", e)),
            }
        })
        .await;
        self.waiting.lock().unwrap().remove(&token);
        unpack(&answer.map_err(|_| unknown("request", "no answer in time"))??)
    }
    async fn flush(&self) -> Result<(), Error> {
        let (tx, rx) = oneshot::channel();
        self.acks
            .send(AckCmd::Flush(tx))
            .await
            .map_err(|e| err(ErrorKind::Closed, "flush", e))?;
        rx.await.map_err(|e| err(ErrorKind::Closed, "flush", e))
    }
    async fn close(&self) -> Result<(), Error> {
        self.flush().await
    }
}

struct Reading {
    streams: Vec<String>,
    name: Name,
    group: String,
    lease: Duration,
    max_in_flight: usize,
    requests: bool,
}
/// Owns the blocking connection: never cancelled in mid-read, so that no entry is stranded.
async fn reader(
    redis: Redis,
    mut conn: MultiplexedConnection,
    r: Reading,
    tx: mpsc::Sender<Delivery>,
    stopped: watch::Receiver<bool>,
) {
    let me = uuid::Uuid::now_v7().to_string();
    let room = Arc::<Room>::default();
    while !*stopped.borrow() && !tx.is_closed() {
        let n = room.wait(r.max_in_flight).await;
        let mut found = Vec::new();
        for stream in &r.streams {
            if r.requests {
                let _: redis::RedisResult<()> = cmd("PEXPIRE")
                    .arg(stream)
                    .arg(redis.alive.as_millis() as u64)
                    .query_async(&mut conn)
                    .await;
            }
            let taken: redis::RedisResult<Value> = TAKE
                .key(stream)
                .key(format!("{stream}:due:{}", r.group))
                .arg(&r.group)
                .arg(&me)
                .arg(r.lease.as_millis() as u64)
                .arg(n)
                .invoke_async(&mut conn)
                .await;
            let mut taken = list(taken.unwrap_or_default()).into_iter();
            let now: u64 = taken.next().map_or(0, |v| text(&v).parse().unwrap_or(0));
            for entry in taken {
                let mut e = list(entry).into_iter();
                let (id, count) = (
                    text(&e.next().unwrap_or_default()),
                    text(&e.next().unwrap_or_default()).parse().unwrap_or(1),
                );
                found.push((
                    stream.clone(),
                    id,
                    count,
                    fields(e.next().unwrap_or_default()),
                    now,
                ));
            }
        }
        if found.is_empty() {
            let mut p = pipe();
            p.cmd("XREADGROUP")
                .arg("GROUP")
                .arg(&r.group)
                .arg(&me)
                .arg("COUNT")
                .arg(n)
                .arg("BLOCK")
                .arg(50)
                .arg("STREAMS")
                .arg(&r.streams)
                .arg(vec![">"; r.streams.len()])
                .cmd("TIME");
            let Ok((v, (s, us))) = p.query_async::<(Value, (u64, u64))>(&mut conn).await else {
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            };
            for stream in list(v) {
                let mut parts = list(stream).into_iter();
                let name = text(&parts.next().unwrap_or_default());
                for entry in list(parts.next().unwrap_or_default()) {
                    let mut e = list(entry).into_iter();
                    let id = text(&e.next().unwrap_or_default());
                    found.push((
                        name.clone(),
                        id,
                        1,
                        fields(e.next().unwrap_or_default()),
                        s * 1000 + us / 1000,
                    ));
                }
            }
        }
        for (stream, id, count, f, now) in found {
            let born: u64 = id
                .split('-')
                .next()
                .and_then(|ms| ms.parse().ok())
                .unwrap_or(now);
            let left = number::<u64>(&f, "l").map(|l| l.saturating_sub(now.saturating_sub(born)));
            let other = f
                .get("group")
                .is_some_and(|g| g.as_slice() != r.group.as_bytes());
            if other || left == Some(0) {
                let _ = redis
                    .acks
                    .send(AckCmd::Ack(stream, r.group.clone(), id))
                    .await;
                continue;
            }
            let generation = number(&f, "g").unwrap_or(0);
            let reply = f.get("c").map(|c| {
                (
                    String::from_utf8_lossy(c).into_owned(),
                    format!(
                        "{}.{}",
                        String::from_utf8_lossy(&f["i"]),
                        String::from_utf8_lossy(&f["t"])
                    ),
                )
            });
            let attempt = number(&f, "t");
            let receipt = RedisReceipt {
                redis: redis.clone(),
                stream,
                group: r.group.clone(),
                me: me.clone(),
                id,
                count,
                born,
                generation,
                reply,
                _slot: room.take(),
            };
            let mut d = Delivery::new(read(r.name.clone(), &f), Box::new(receipt))
                .with_count(attempt.unwrap_or(count))
                .with_generation(generation);
            if let Some(left) = left {
                d = d.with_time_left(Duration::from_millis(left));
            }
            if let Err(mpsc::error::SendError(d)) = tx.send(d).await {
                let _ = d.settle(Settlement::Release).await;
            }
        }
    }
}

#[derive(Debug)]
struct RedisSub {
    rx: mpsc::Receiver<Delivery>,
    stop: watch::Sender<bool>,
    reader: Option<tokio::task::JoinHandle<()>>,
}
#[async_trait]
impl Subscription for RedisSub {
    async fn recv(&mut self, max: usize, into: &mut Vec<Delivery>) -> Result<(), Error> {
        match self.rx.recv_many(into, max).await {
            0 => Err(err(ErrorKind::Closed, "recv", "closed")),
            _ => Ok(()),
        }
    }
    async fn close(&mut self) -> Result<(), Error> {
        let _ = self.stop.send(true);
        self.rx.close();
        while let Some(d) = self.rx.recv().await {
            // One that waited here for longer than its lease is another member's already.
            match d.settle(Settlement::Release).await {
                Err(e) if e.kind() != ErrorKind::LostOwnership => return Err(e),
                _ => {}
            }
        }
        if let Some(reader) = self.reader.take() {
            let _ = tokio::time::timeout(Duration::from_secs(1), reader).await;
        }
        Ok(())
    }
    fn stats(&self) -> SubscriptionStats {
        SubscriptionStats::default()
    }
}

#[derive(Debug)]
struct RedisReceipt {
    redis: Redis,
    stream: String,
    group: String,
    me: String,
    id: String,
    count: u32,
    born: u64,
    generation: u32,
    reply: Option<(String, String)>,
    _slot: Slot,
}
impl RedisReceipt {
    fn script<'a>(&self, script: &'a Script, second: String) -> redis::ScriptInvocation<'a> {
        let mut s = script.key(&self.stream);
        s.key(second)
            .arg(&self.group)
            .arg(&self.me)
            .arg(&self.id)
            .arg(self.count);
        s
    }
    async fn park(&self, after: Duration, how: &str) -> Result<(), Error> {
        let mut s = self.script(&PARK, format!("{}:due:{}", self.stream, self.group));
        s.arg(after.as_millis() as u64).arg(how);
        owned(self.redis.run("settle", &s).await?)
    }
    async fn answer(&self, reply: &Reply) -> Result<(), Error> {
        let Some((channel, token)) = &self.reply else {
            return Ok(());
        };
        let mut body = format!("{token}|").into_bytes();
        body.extend(pack(reply));
        let mut p = pipe();
        p.atomic()
            .cmd("PUBLISH")
            .arg(channel)
            .arg(body)
            .cmd("XACK")
            .arg(&self.stream)
            .arg(&self.group)
            .arg(&self.id)
            .cmd("XDEL")
            .arg(&self.stream)
            .arg(&self.id);
        p.query_async(&mut self.redis.conn.clone())
            .await
            .map_err(|e| fail("settle", e))
    }
}
fn owned(n: i64) -> Result<(), Error> {
    if n == 1 { Ok(()) } else { Err(lost("settle")) }
}

#[async_trait]
impl Receipt for RedisReceipt {
    async fn settle(
        self: Box<Self>,
        envelope: Envelope,
        settlement: Settlement,
    ) -> Result<(), Error> {
        match settlement {
            Settlement::Ack => self
                .redis
                .acks
                .send(AckCmd::Ack(
                    self.stream.clone(),
                    self.group.clone(),
                    self.id.clone(),
                ))
                .await
                .map_err(|e| err(ErrorKind::Closed, "ack", e)),
            Settlement::Complete(c) => {
                if let Some(claim) = &c.claim {
                    let key = crate::redis_stores::inbox_key(&self.redis, &claim.key);
                    let mut s = COMPLETE.key(&self.stream);
                    s.key(key)
                        .arg(&self.group)
                        .arg(&self.id)
                        .arg(claim.owner.as_uuid().to_string())
                        .arg(c.response.as_ref().map(pack).unwrap_or_default())
                        .arg(0);
                    owned(self.redis.run("settle", &s).await?)?;
                }
                match &c.response {
                    Some(reply) => self.answer(reply).await,
                    None if c.claim.is_some() => Ok(()),
                    None => self
                        .redis
                        .acks
                        .send(AckCmd::Ack(
                            self.stream.clone(),
                            self.group.clone(),
                            self.id.clone(),
                        ))
                        .await
                        .map_err(|e| err(ErrorKind::Closed, "ack", e)),
                }
            }
            Settlement::Nak { after } => self.park(after, "nak").await,
            Settlement::Release => self.park(Duration::ZERO, "release").await,
            Settlement::DeadLetter(_) | Settlement::Term if self.reply.is_some() => {
                self.answer(&given_back()).await
            }
            Settlement::DeadLetter(reason) => {
                let mut s = self.script(
                    &BURY,
                    format!("{}:dl:{}", self.redis.key(envelope.name()), self.group),
                );
                for (k, v) in write(&envelope)? {
                    s.arg(k).arg(v);
                }
                s.arg("reason")
                    .arg(serde_json::to_string(&reason).expect("plain data"))
                    .arg("n")
                    .arg(self.count)
                    .arg("at")
                    .arg(self.born)
                    .arg("g")
                    .arg(self.generation);
                owned(self.redis.run("settle", &s).await?)
            }
            Settlement::Term => owned(
                self.redis
                    .run("settle", &self.script(&TERM, self.stream.clone()))
                    .await?,
            ),
            _ => Err(err(ErrorKind::Unsupported, "settle", "settlement")),
        }
    }
    async fn extend(&mut self) -> Result<(), Error> {
        owned(
            self.redis
                .run("extend", &self.script(&EXTEND, self.stream.clone()))
                .await?,
        )
    }
}
