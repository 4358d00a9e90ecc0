//! Simulated nodes: each registers, says again and again that it lives, and watches the others, as the membership of an
//! application does. What their watches tell is gathered in one place, with the moment at which it was told.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use catga_core::{ErrorKind, Name, NodeEvent, NodeId, NodeInfo, NodeRegistry};
use futures_util::{StreamExt, stream};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{sleep, sleep_until, timeout};

use super::means::{Means, Member};

/// So many register at one moment.
const AT_ONCE: usize = 16;
/// Whoever is not told of something by then never is.
const PATIENCE: Duration = Duration::from_secs(120);

/// How often nodes say that they live, and how long they may be silent.
#[derive(Clone, Copy)]
pub struct Times {
    pub heartbeat: Duration,
    pub node_timeout: Duration,
    /// How long is measured.
    pub window: Duration,
}

impl Times {
    /// The defaults of an application for a window of 20 s; less for a shorter one, as a quick run has, but not so little that many nodes
    /// only just come round.
    pub fn of(milliseconds: u64, count: usize) -> Self {
        let heartbeat = Duration::from_secs(match (milliseconds, count) {
            (20_000.., _) => 10,
            (_, 100..) => 5,
            _ => 1,
        });
        Self {
            heartbeat,
            node_timeout: heartbeat * 3,
            window: Duration::from_millis(milliseconds).max(heartbeat * 2),
        }
    }
}

/// What was said of hearts that beat.
#[derive(Debug, Default)]
pub struct Beats {
    said: AtomicU64,
    /// How long the answers took together, in nanoseconds.
    took: AtomicU64,
    /// Since the registry did not know the node any more.
    again: AtomicU64,
    failed: AtomicU64,
}

/// So far.
#[derive(Clone, Copy, Debug)]
pub struct Said {
    pub said: u64,
    pub took: Duration,
    pub again: u64,
    pub failed: u64,
}

/// What a watch told, and when.
#[derive(Debug)]
struct Sighting {
    watcher: usize,
    at: Instant,
    what: What,
}

#[derive(Debug)]
enum What {
    Joined(NodeId),
    Left(NodeId),
    /// What follows is all.
    Anew,
    Ended,
}

/// The nodes, and what they know of each other.
pub struct Crew {
    means: Means,
    url: String,
    times: Times,
    begun: tokio::time::Instant,
    nodes: Vec<Node>,
    beats: Arc<Beats>,
    sightings: mpsc::UnboundedReceiver<Sighting>,
    tell: mpsc::UnboundedSender<Sighting>,
    /// Whom each watcher knows.
    known: Vec<HashSet<NodeId>>,
    /// Who was told to have left, by which watcher, and when.
    left: Vec<(NodeId, usize, Instant)>,
    ended: u64,
}

/// One of them.
pub struct Node {
    pub info: NodeInfo,
    pub member: Member,
    /// Its place among the watchers.
    watcher: usize,
    tasks: Vec<JoinHandle<()>>,
}

impl Drop for Node {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

/// A node as an application describes it.
pub fn info(number: usize) -> NodeInfo {
    let name = |text: &str| Name::token(text).expect("a name");
    let requests = [
        "CancelOrder",
        "CreateOrder",
        "FindOrder",
        "OrdersAfter",
        "Quote",
    ];
    let mut info = NodeInfo::new(name(&format!("node-{number}")), name("orders"))
        .with_endpoint(Some(format!(
            "http://10.0.{}.{}:8080",
            number / 250,
            number % 250
        )))
        .with_requests(requests.map(name).to_vec());
    info.metadata.insert("zone".to_owned(), "eu-1".to_owned());
    info
}

impl Crew {
    /// So many nodes, of whom each sees all.
    pub async fn of(means: Means, url: &str, count: usize, times: Times) -> Self {
        let (tell, sightings) = mpsc::unbounded_channel();
        let mut crew = Self {
            means,
            url: url.to_owned(),
            times,
            begun: tokio::time::Instant::now(),
            nodes: Vec::new(),
            beats: Arc::default(),
            sightings,
            tell,
            known: Vec::new(),
            left: Vec::new(),
            ended: 0,
        };
        // The first makes what has to be made.
        let mut first = crew.recruit(0).await;
        crew.join(&first).await;
        crew.begin_to_beat(&mut first, count);
        let others = stream::iter(1..count).map(|number| {
            let crew = &crew;
            async move {
                let mut node = crew.recruit(number).await;
                crew.join(&node).await;
                crew.begin_to_beat(&mut node, count);
                node
            }
        });
        let mut nodes: Vec<Node> = others.buffer_unordered(AT_ONCE).collect().await;
        nodes.push(first);
        nodes.sort_by_key(|node| node.watcher);
        for node in &mut nodes {
            crew.watch(node).await;
        }
        crew.nodes = nodes;
        let all = (0..count).collect::<Vec<_>>();
        crew.until("all see all", |crew| {
            all.iter()
                .all(|watcher| crew.known[*watcher].len() == count)
        })
        .await;
        crew
    }

    /// A node that is connected, and not registered yet.
    pub async fn recruit(&self, number: usize) -> Node {
        Node {
            info: info(number),
            member: self.means.connect(&self.url, self.times.node_timeout).await,
            watcher: number,
            tasks: Vec::new(),
        }
    }

    pub async fn join(&self, node: &Node) {
        patiently("registered", || node.member.registry.register(&node.info)).await;
    }

    /// Waits until each has spoken once more, and then to the end of a heartbeat, where nobody speaks.
    pub async fn settle(&self) {
        let now = tokio::time::Instant::now();
        let mut end = self.begun;
        while end < now + self.times.heartbeat {
            end += self.times.heartbeat;
        }
        sleep_until(end).await;
    }

    /// Evenly spread over each heartbeat since the crew began, so that a second is like another.
    fn begin_to_beat(&self, node: &mut Node, count: usize) {
        let halves = 2 * u32::try_from(node.watcher).expect("few") + 1;
        let phase = self.times.heartbeat * halves / (2 * u32::try_from(count).expect("few"));
        node.tasks.push(tokio::spawn(beat(
            node.info.clone(),
            Arc::clone(&node.member.registry),
            Arc::clone(&self.beats),
            self.times,
            self.begun + phase,
        )));
    }

    /// Tells here what the watch of a node tells from now on.
    pub async fn watch(&mut self, node: &mut Node) {
        let watcher = node.watcher;
        self.known
            .resize_with(self.known.len().max(watcher + 1), HashSet::new);
        let mut watch = patiently("watched", || node.member.registry.watch()).await;
        let (tell, registry) = (self.tell.clone(), Arc::clone(&node.member.registry));
        let pause = self.times.heartbeat / 2;
        node.tasks.push(tokio::spawn(async move {
            let say = |what| {
                let at = Instant::now();
                // Whoever gathers it may have seen enough.
                let _ = tell.send(Sighting { watcher, at, what });
            };
            loop {
                while let Some(event) = watch.next().await {
                    match event {
                        NodeEvent::Joined(node) => say(What::Joined(node.id)),
                        NodeEvent::Left(node) => say(What::Left(node.id)),
                        NodeEvent::Lagged => say(What::Anew),
                        _ => {}
                    }
                }
                say(What::Ended);
                watch = loop {
                    sleep(pause).await;
                    if let Ok(watch) = registry.watch().await {
                        break watch;
                    }
                };
                say(What::Anew);
            }
        }));
    }

    /// Waits until something holds of what was told; returns when it was told.
    async fn until(&mut self, what: &str, holds: impl Fn(&Self) -> bool) -> Instant {
        let mut last = Instant::now();
        let waited = timeout(PATIENCE, async {
            while !holds(self) {
                let sighting = self.sightings.recv().await;
                last = self.note(sighting.expect("the crew tells, too"));
            }
        });
        if waited.await.is_err() {
            let known: Vec<_> = self.known.iter().map(HashSet::len).collect();
            panic!("not within {PATIENCE:?}: {what}; each knows {known:?}");
        }
        last
    }

    fn note(&mut self, sighting: Sighting) -> Instant {
        let Sighting { watcher, at, what } = sighting;
        let known = &mut self.known[watcher];
        match what {
            What::Joined(id) => drop(known.insert(id)),
            What::Left(id) => {
                known.remove(&id);
                self.left.push((id, watcher, at));
            }
            What::Anew => known.clear(),
            What::Ended => self.ended += 1,
        }
        at
    }

    /// Takes in what was told until now.
    pub fn catch_up(&mut self) {
        while let Ok(sighting) = self.sightings.try_recv() {
            self.note(sighting);
        }
    }

    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// When the last of the crew was told of a node that joined.
    pub async fn all_know(&mut self, node: &Node) -> Instant {
        let (id, count) = (node.info.id.clone(), self.len());
        let what = format!("all see {id}");
        self.until(&what, |crew| {
            crew.known[..count].iter().all(|known| known.contains(&id))
        })
        .await
    }

    /// When a node that joined, and watches, was told of all of the crew.
    pub async fn knows_all(&mut self, node: &Node) -> Instant {
        let watcher = node.watcher;
        let what = format!("{} sees all", node.info.id);
        self.until(&what, |crew| {
            let known = &crew.known[watcher];
            crew.nodes
                .iter()
                .all(|other| known.contains(&other.info.id))
        })
        .await
    }

    /// When the first and the last of the crew were told that a node left.
    pub async fn all_miss(&mut self, id: &NodeId) -> (Instant, Instant) {
        let count = self.len();
        let what = format!("all see that {id} is gone");
        self.until(&what, |crew| {
            crew.known[..count].iter().all(|known| !known.contains(id))
        })
        .await;
        let told = self
            .left
            .iter()
            .filter(|(left, watcher, _)| left == id && *watcher < count);
        let told: Vec<_> = told.map(|(_, _, at)| *at).collect();
        let (first, last) = (told.iter().min(), told.iter().max());
        (
            *first.expect("somebody was told"),
            *last.expect("somebody was told"),
        )
    }

    /// How often somebody of the crew was told that another one of it left: all of them live.
    pub fn wrongly_left(&self) -> usize {
        let is_ours = |id: &NodeId| self.nodes.iter().any(|node| node.info.id == *id);
        let count = self.len();
        let wrong = self
            .left
            .iter()
            .filter(|(id, watcher, _)| *watcher < count && is_ours(id));
        wrong.count()
    }

    pub fn ended(&self) -> u64 {
        self.ended
    }

    pub fn said(&self) -> Said {
        let of = |count: &AtomicU64| count.load(Ordering::SeqCst);
        Said {
            said: of(&self.beats.said),
            took: Duration::from_nanos(of(&self.beats.took)),
            again: of(&self.beats.again),
            failed: of(&self.beats.failed),
        }
    }
}

/// Asks again where the server is too busy for now: on a machine that others use, hundreds come at one moment.
async fn patiently<T, F>(what: &str, ask: impl Fn() -> F) -> T
where
    F: Future<Output = Result<T, catga_core::Error>>,
{
    let began = Instant::now();
    loop {
        match ask().await {
            Ok(done) => return done,
            Err(error) => {
                let kind = error.kind();
                let passes = matches!(kind, ErrorKind::Unavailable | ErrorKind::Timeout);
                assert!(passes && began.elapsed() < PATIENCE, "{what}: {error}");
            }
        }
        sleep(Duration::from_millis(100)).await;
    }
}

/// Says again and again that a node lives, and registers it where the registry does not know it any more.
async fn beat(
    info: NodeInfo,
    registry: Arc<dyn NodeRegistry>,
    beats: Arc<Beats>,
    times: Times,
    mut next: tokio::time::Instant,
) {
    let now = tokio::time::Instant::now();
    while next < now {
        next += times.heartbeat;
    }
    let back = next - now;
    loop {
        sleep_until(next).await;
        let began = Instant::now();
        let outcome = match registry.heartbeat(&info).await {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                beats.again.fetch_add(1, Ordering::SeqCst);
                // Not all at one moment.
                sleep(back.min(times.heartbeat) / 2).await;
                registry.register(&info).await
            }
            outcome => outcome,
        };
        let count = match outcome {
            Ok(()) => &beats.said,
            Err(_) => &beats.failed,
        };
        count.fetch_add(1, Ordering::SeqCst);
        let took = u64::try_from(began.elapsed().as_nanos()).expect("it took less");
        beats.took.fetch_add(took, Ordering::SeqCst);
        next += times.heartbeat;
    }
}
