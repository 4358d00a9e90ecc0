//! A process of its own that is a node among others: it is listed, looks on, and answers.
//!
//! It is the test's own program, started again with its part as an argument. What it does and sees it writes into the
//! evidence of the run, which outlives it.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::future::pending;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use catga::prelude::{Catga, Context, Request, Result, State, handler, handlers};
use catga::{HealthPart, HealthStatus};
use serde::{Deserialize, Serialize};
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{MissedTickBehavior, interval};

use crate::evidence::{EffectKind, Evidence, What};
use crate::mutants::{Mutant, Mutated};
use crate::peers::{HEARTBEAT, TIMEOUT};
use crate::server::{Process, ServerError};
use crate::subject::Subject;

/// The first argument of a program that is to be a member; the second is its part.
pub(crate) const ARGUMENT: &str = "--member";
/// What stands in the evidence for those who answer.
pub(crate) const ANSWERING: &str = "answering";
/// How long a claim is a run's.
const LEASE: Duration = Duration::from_secs(1);
/// How often a member looks at who is there.
const LOOK: Duration = Duration::from_millis(5);

/// What a member is told to be.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Part {
    /// The name of the backend.
    pub(crate) subject: String,
    pub(crate) url: String,
    /// The bug that is planted around the backend, by its name.
    pub(crate) mutant: Option<String>,
    pub(crate) evidence: PathBuf,
    /// Where keyed effects leave their keys.
    pub(crate) keys: PathBuf,
    /// The name of the process in the evidence.
    pub(crate) process: String,
    /// The node's id.
    pub(crate) node: String,
    /// Whose start of the node it is, as its endpoint tells others.
    pub(crate) owner: String,
    /// Whether its handlers stop until the process is killed: those of even requests before the effect, others after it.
    pub(crate) stops: bool,
}

/// A request that may be sent again.
#[derive(Request, Clone, Debug, Serialize, Deserialize)]
#[response(Made)]
pub(crate) struct Make {
    pub(crate) id: u64,
}

/// A request that may not.
#[derive(Request, Clone, Debug, Serialize, Deserialize)]
#[qos(at_most_once)]
#[response(Made)]
pub(crate) struct Look {
    pub(crate) id: u64,
}

/// The answer to both.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Made {
    pub(crate) id: u64,
    pub(crate) node: String,
}

/// What the handlers of a member need.
#[derive(Clone, Debug)]
struct Bench {
    evidence: Evidence,
    part: Arc<Part>,
}

#[handler]
async fn on_make(make: Make, context: Context, State(bench): State<Bench>) -> Result<Made> {
    bench.work(make.id, &context).await
}

#[handler]
async fn on_look(look: Look, context: Context, State(bench): State<Bench>) -> Result<Made> {
    bench.work(look.id, &context).await
}

impl Bench {
    async fn work(&self, id: u64, context: &Context) -> Result<Made> {
        let run = self.evidence.fresh();
        let (attempt, about) = (context.attempt(), (ANSWERING, id));
        self.evidence.write(
            about,
            What::Started {
                run,
                attempt: attempt.number(),
                redelivered: attempt.number() > 1 || attempt.may_have_run(),
                may_have_run: attempt.may_have_run(),
                checksum: 0,
            },
        )?;
        if self.part.stops && id.is_multiple_of(2) {
            pending::<()>().await;
        }
        if self.is_first(&context.idempotency_key())? {
            let (run, kind) = (Some(run), EffectKind::Keyed);
            self.evidence.write(about, What::Effect { run, kind })?;
        }
        if self.part.stops {
            pending::<()>().await;
        }
        self.evidence.write(about, What::Done { run })?;
        Ok(Made {
            id,
            node: context.node().to_string(),
        })
    }

    /// Whether nobody has used this key, in any process.
    fn is_first(&self, key: &str) -> Result<bool> {
        let path = self.part.keys.join(key.replace('/', "_"));
        match OpenOptions::new().write(true).create_new(true).open(path) {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Ok(false),
            Err(error) => Err(error.into()),
        }
    }
}

/// Starts a member: this program once more.
pub(crate) fn start(part: &Part, log: &Path) -> std::result::Result<Process, ServerError> {
    let program = std::env::current_exe()?;
    let part = serde_json::to_string(part).map_err(std::io::Error::other)?;
    Process::start(&program, [ARGUMENT, &part], log)
}

/// Plays a part until the process is asked to end.
pub(crate) async fn play(subject: &Subject, part: Part) -> Result<()> {
    let evidence = Evidence::open(&part.evidence, &part.process)?;
    // Listened to before anybody can know that this process is there.
    let mut asked_to_end = signal(SignalKind::terminate())?;
    let (node, owner) = (part.node.clone(), part.owner.clone());
    evidence.write(
        (),
        What::NodeRegistering {
            node: node.clone(),
            owner: owner.clone(),
        },
    )?;
    let catga = join(subject, part, evidence.clone()).await?;
    evidence.write(
        (),
        What::NodeRegistered {
            node: node.clone(),
            owner: owner.clone(),
        },
    )?;
    let mut view = View::open(catga.clone(), evidence.clone(), node.clone(), owner.clone())?;
    let mut ticks = interval(LOOK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            biased;
            _ = asked_to_end.recv() => break,
            _ = ticks.tick() => view.look()?,
        }
    }
    view.close()?;
    evidence.write((), What::NodeLeft { node, owner })?;
    catga.shutdown_within(LEASE).await?;
    Ok(())
}

async fn join(subject: &Subject, part: Part, evidence: Evidence) -> Result<Catga> {
    let mutant = part.mutant.as_deref().map(|name| {
        let known = Mutant::ALL.iter().find(|mutant| mutant.to_string() == name);
        *known.expect("the same program knows the same mutants")
    });
    let part = Arc::new(part);
    let node = Catga::builder()
        .driver(Mutated::new(Arc::clone(subject.driver()), mutant))
        .connect(&part.url)
        .service("suite")
        .node(&part.node)
        .endpoint(endpoint(&part.owner))
        .heartbeat(HEARTBEAT, TIMEOUT)
        .ack_wait(LEASE)
        .state(Bench { evidence, part })
        .handlers(handlers![on_make, on_look]);
    Ok(node.start().await?)
}

/// Where an owner says that people reach it.
pub(crate) fn endpoint(owner: &str) -> String {
    format!("http://{owner}.invalid")
}

fn owner_at(endpoint: Option<&str>) -> String {
    let endpoint = endpoint.unwrap_or_default().trim_start_matches("http://");
    endpoint.trim_end_matches(".invalid").to_owned()
}

/// What an application shows of the nodes, written down as it changes.
#[derive(Debug)]
pub(crate) struct View {
    catga: Catga,
    evidence: Evidence,
    node: String,
    owner: String,
    /// The owner of each node that is there.
    seen: BTreeMap<String, String>,
    lost: bool,
}

impl View {
    pub(crate) fn open(
        catga: Catga,
        evidence: Evidence,
        node: String,
        owner: String,
    ) -> Result<Self> {
        let by = owner.clone();
        evidence.write((), What::ViewOpened { by })?;
        let mut view = Self {
            catga,
            evidence,
            node,
            owner,
            seen: BTreeMap::new(),
            lost: false,
        };
        view.look()?;
        Ok(view)
    }

    /// Writes down what has changed.
    pub(crate) fn look(&mut self) -> Result<()> {
        let now = self
            .catga
            .nodes()
            .into_iter()
            .map(|node| (node.id.to_string(), owner_at(node.endpoint.as_deref())));
        let now: BTreeMap<_, _> = now.collect();
        let by = || self.owner.clone();
        for node in self.seen.keys().filter(|node| !now.contains_key(*node)) {
            let node = node.clone();
            self.evidence.write((), What::NodeGone { by: by(), node })?;
        }
        for (node, owner) in &now {
            if self.seen.get(node) != Some(owner) {
                let (node, owner) = (node.clone(), owner.clone());
                self.evidence.write(
                    (),
                    What::NodeSeen {
                        by: by(),
                        node,
                        owner,
                    },
                )?;
            }
        }
        if !self.lost && self.has_lost_its_id(&now) {
            self.lost = true;
            let (node, owner) = (self.node.clone(), self.owner.clone());
            self.evidence.write((), What::NodeLost { node, owner })?;
        }
        self.seen = now;
        Ok(())
    }

    /// Whether it says that its id is another's.
    fn has_lost_its_id(&self, now: &BTreeMap<String, String>) -> bool {
        let health = self.catga.health();
        let mut parts = health.parts.iter();
        let told = |part: &HealthPart| {
            part.name == "membership"
                && part.status != HealthStatus::Up
                && part.detail.contains("another")
        };
        now.get(&self.node)
            .is_some_and(|owner| *owner != self.owner)
            || parts.any(told)
    }

    pub(crate) fn close(self) -> Result<()> {
        let by = self.owner;
        Ok(self.evidence.write((), What::ViewClosed { by })?)
    }
}
