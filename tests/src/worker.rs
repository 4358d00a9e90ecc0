//! A process of its own that takes part in a scenario, so that it can be killed.
//!
//! It is the test's own program, started again with its part as an argument. What it does it writes into the evidence of
//! the run, which outlives it.

use std::fs::OpenOptions;
use std::future::pending;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use catga::prelude::{Catga, Context, Event, Result, State, handler, handlers};
use catga::{Envelope, Error, ErrorKind, HandlerError, Handlers, MessageId};
use serde::{Deserialize, Serialize};
use tokio::runtime::{Builder, Runtime};
use tokio::signal::unix::{SignalKind, signal};

use crate::evidence::{EffectKind, Evidence, Outcome, What, checksum};
use crate::harness::PLANNED;
use crate::lost_leases;
use crate::member;
use crate::mutants::{Mutant, Mutated};
use crate::peers::{HEARTBEAT, TIMEOUT};
use crate::server::{Process, ServerError};
use crate::subject::Subject;

/// The first argument of a program that is to be a worker; the second is its part.
const ARGUMENT: &str = "--worker";

/// What stands for the group of the workers in the evidence, and what they handle.
pub(crate) const CREW: &str = "crew";
pub(crate) const STORED: &str = "StoredJob";
pub(crate) const ONCE: &str = "OnceJob";
/// What a worker writes once it has started, or published what it was to publish.
pub(crate) const READY: &str = "ready";

/// How often a message is tried.
pub(crate) const ATTEMPTS: u32 = 4;

/// What a worker is told to be.
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
    /// The name of the process in the evidence; another for each life of a node that ends well.
    pub(crate) process: String,
    /// The node's id.
    pub(crate) node: String,
    pub(crate) lease: Duration,
    /// How long each handler takes.
    pub(crate) takes: Duration,
    pub(crate) concurrency: u32,
    /// The messages whose handlers stop, and where, until the process is killed.
    pub(crate) stops: Vec<Stop>,
    /// What decides which handlers fail, panic, hang or give up, if any do.
    pub(crate) trouble: Option<u64>,
    /// Whether the messages are those of QoS 2.
    pub(crate) once: bool,
    /// The messages that it publishes, if any, one after the other.
    pub(crate) publishes: Option<std::ops::Range<u64>>,
}

/// Where the handler of one message stops.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Stop {
    pub(crate) id: u64,
    pub(crate) before_the_effect: bool,
}

/// A job at QoS 1.
#[derive(Event, Clone, Debug, Serialize, Deserialize)]
#[qos(at_least_once)]
pub(crate) struct StoredJob {
    pub(crate) job: Job,
}

/// A job at QoS 2.
#[derive(Event, Clone, Debug, Serialize, Deserialize)]
#[qos(exactly_once)]
pub(crate) struct OnceJob {
    pub(crate) job: Job,
}

/// What is to be done.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Job {
    pub(crate) id: u64,
    /// So that a payload that arrives in parts shows.
    pub(crate) text: String,
}

impl Job {
    pub(crate) fn new(id: u64) -> Self {
        let length = usize::try_from(id % 100).unwrap_or_default();
        let text = format!("job {id}, {}", "x".repeat(length));
        Self { id, text }
    }

    fn checksum(&self, id: MessageId) -> u64 {
        checksum(&id.to_string(), [], self.text.as_bytes())
    }
}

/// The [`checksum`] of a job as an envelope holds it.
pub(crate) fn checksum_of(envelope: &Envelope, once: bool) -> Result<u64> {
    let bytes = envelope.payload().as_bytes().cloned().unwrap_or_default();
    let job = if once {
        serde_json::from_slice::<OnceJob>(&bytes)?.job
    } else {
        serde_json::from_slice::<StoredJob>(&bytes)?.job
    };
    Ok(job.checksum(envelope.id().unwrap_or_else(MessageId::new)))
}

/// The id of a job's message, the same whoever publishes it.
pub(crate) fn message_id(subject: &str, id: u64) -> MessageId {
    MessageId::from_key(&format!("{subject} {id}"))
}

/// What a handler of a worker needs.
#[derive(Clone, Debug)]
struct Bench {
    evidence: Evidence,
    part: Arc<Part>,
}

#[handler(group = "crew")]
async fn on_stored(stored: StoredJob, context: Context, State(bench): State<Bench>) -> Result<()> {
    bench.work(stored.job, &context).await
}

#[handler(group = "crew")]
async fn on_once(once: OnceJob, context: Context, State(bench): State<Bench>) -> Result<()> {
    bench.work(once.job, &context).await
}

fn handler_timeout(part: &Part) -> Duration {
    if part.stops.is_empty() {
        part.lease / 2
    } else {
        // What stops is to stand until its process is killed.
        Duration::from_secs(60)
    }
}

/// How the run of a handler ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Trouble {
    None,
    Error,
    Panic,
    Hang,
    GivesUp,
}

/// One run of a handler, which is written down however it ends.
struct Run<'a> {
    evidence: &'a Evidence,
    id: u64,
    number: u64,
    began: Instant,
    limit: Duration,
    ended: bool,
}

impl Run<'_> {
    fn write(&self, what: What) -> Result<()> {
        Ok(self.evidence.write((CREW, self.id), what)?)
    }

    fn end(mut self, what: What) -> Result<()> {
        self.ended = true;
        self.write(what)
    }
}

impl Drop for Run<'_> {
    fn drop(&mut self) {
        if !self.ended {
            let run = self.number;
            // A shutdown waits longer than any handler may take.
            let timed_out = self.began.elapsed() >= self.limit;
            let what = if timed_out || std::thread::panicking() {
                What::Failed { run }
            } else {
                What::Dropped { run }
            };
            self.write(what).expect("the evidence can be written");
        }
    }
}

impl Bench {
    async fn work(&self, job: Job, context: &Context) -> Result<()> {
        let number = self.evidence.fresh();
        let attempt = context.attempt();
        let run = Run {
            evidence: &self.evidence,
            id: job.id,
            number,
            began: Instant::now(),
            limit: handler_timeout(&self.part),
            ended: false,
        };
        run.write(What::Started {
            run: number,
            attempt: attempt.number(),
            redelivered: attempt.number() > 1 || attempt.may_have_run(),
            may_have_run: attempt.may_have_run(),
            checksum: job.checksum(context.id()),
        })?;
        lost_leases::began(context.id(), job.id, number);
        let stop = self.part.stops.iter().find(|stop| stop.id == job.id);
        if stop.is_some_and(|stop| stop.before_the_effect) {
            pending::<()>().await;
        }
        tokio::time::sleep(self.part.takes).await;
        match self.trouble(job.id, attempt.number()) {
            Trouble::None => {}
            Trouble::Error => {
                run.end(What::Failed { run: number })?;
                return Err(HandlerError::retry("not yet"));
            }
            Trouble::GivesUp => {
                run.end(What::Failed { run: number })?;
                return Err(HandlerError::terminal("never"));
            }
            Trouble::Panic => panic!("{PLANNED}"),
            Trouble::Hang => pending().await,
        }
        let run_of = Some(number);
        run.write(What::Effect {
            run: run_of,
            kind: EffectKind::Plain,
        })?;
        if self.is_first(&context.idempotency_key())? {
            run.write(What::Effect {
                run: run_of,
                kind: EffectKind::Keyed,
            })?;
        }
        if stop.is_some() {
            pending::<()>().await;
        }
        run.end(What::Done { run: number })
    }

    /// The same for one attempt of one message, whoever handles it.
    fn trouble(&self, id: u64, attempt: u32) -> Trouble {
        let Some(seed) = self.part.trouble else {
            return Trouble::None;
        };
        if id == 0 {
            // Whatever the seed, something is given up.
            return Trouble::GivesUp;
        }
        let mut chance = fastrand::Rng::with_seed(seed ^ (id << 8) ^ u64::from(attempt));
        match chance.u32(..100) {
            0..8 => Trouble::Error,
            8..12 => Trouble::Panic,
            12..14 => Trouble::Hang,
            14..15 => Trouble::GivesUp,
            _ => Trouble::None,
        }
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

/// Publishes a job, and writes down how that ended.
pub(crate) async fn publish(
    node: &Catga,
    evidence: &Evidence,
    once: bool,
    id: u64,
) -> Result<Outcome> {
    let job = Job::new(id);
    let subject = if once { ONCE } else { STORED };
    let message = message_id(subject, id);
    let call = evidence.fresh();
    evidence.write(
        id,
        What::Publishing {
            call,
            subject: subject.to_owned(),
            key: None,
            checksum: job.checksum(message),
        },
    )?;
    let published = if once {
        node.message(OnceJob { job }).id(message).publish().await
    } else {
        node.message(StoredJob { job }).id(message).publish().await
    };
    let outcome = match published {
        Ok(_) => Outcome::Ok,
        Err(error) if error.kind() == ErrorKind::Unsupported => return Err(error.into()),
        Err(error) if error.may_be_stored() => Outcome::Unknown,
        Err(_) => Outcome::Rejected,
    };
    evidence.write(id, What::Published { call, outcome })?;
    Ok(outcome)
}

/// Starts a worker: this program once more.
pub(crate) fn start(part: &Part, log: &Path) -> std::result::Result<Process, ServerError> {
    let program = std::env::current_exe()?;
    let part = serde_json::to_string(part).map_err(std::io::Error::other)?;
    Process::start(&program, [ARGUMENT, &part], log)
}

/// When this process is to be a worker or a member, its part until the end.
pub(crate) fn when_asked(subjects: &[Subject]) -> Option<ExitCode> {
    let mut arguments = std::env::args().skip(1);
    let argument = arguments.next()?;
    let is_worker = argument == ARGUMENT;
    if !is_worker && argument != member::ARGUMENT {
        return None;
    }
    let part = arguments.next()?;
    let subject = |name: &str| {
        let subject = subjects.iter().find(|subject| subject.name() == name);
        subject.expect("the same program knows the same backends")
    };
    let played = runtime().and_then(|runtime| {
        runtime.block_on(async {
            if is_worker {
                let part: Part = serde_json::from_str(&part)?;
                play(subject(&part.subject.clone()), part).await
            } else {
                let part: member::Part = serde_json::from_str(&part)?;
                member::play(subject(&part.subject.clone()), part).await
            }
        })
    });
    Some(match played {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            complain(&format!("{error:?}"));
            ExitCode::FAILURE
        }
    })
}

fn runtime() -> Result<Runtime> {
    let mut builder = Builder::new_multi_thread();
    Ok(builder.worker_threads(2).enable_all().build()?)
}

#[allow(clippy::print_stderr, reason = "a worker's log is its standard error")]
fn complain(text: &str) {
    eprintln!("{text}");
}

/// A node that plays a part, in this process.
pub(crate) async fn node(subject: &Subject, part: Part, evidence: Evidence) -> Result<Catga> {
    let mutant = part.mutant.as_deref().map(|name| {
        let known = Mutant::ALL.iter().find(|mutant| mutant.to_string() == name);
        *known.expect("the same program knows the same mutants")
    });
    let handlers = match (&part.publishes, part.once) {
        (Some(_), _) => handlers![],
        (None, true) => handlers![on_once],
        (None, false) => handlers![on_stored],
    };
    let part = Arc::new(part);
    let by = Instant::now() + 10 * TIMEOUT;
    loop {
        let (part, evidence) = (Arc::clone(&part), evidence.clone());
        match start_node(subject, mutant, part, evidence, handlers.clone()).await {
            // One that was killed is a node until its time is over.
            Err(error) if error.kind() == ErrorKind::DuplicateNode && Instant::now() < by => {
                tokio::time::sleep(HEARTBEAT / 4).await;
            }
            started => return Ok(started?),
        }
    }
}

async fn start_node(
    subject: &Subject,
    mutant: Option<Mutant>,
    part: Arc<Part>,
    evidence: Evidence,
    handlers: Handlers,
) -> std::result::Result<Catga, Error> {
    let node = Catga::builder()
        .driver(Mutated::new(Arc::clone(subject.driver()), mutant))
        .connect(&part.url)
        .heartbeat(HEARTBEAT, TIMEOUT)
        .service("suite")
        .node(&part.node)
        .ack_wait(part.lease)
        .handler_timeout(handler_timeout(&part))
        .backoff(part.lease / 100, part.lease / 4)
        .attempts(ATTEMPTS)
        .concurrency(part.concurrency)
        .state(Bench { evidence, part })
        .handlers(handlers);
    node.start().await
}

async fn play(subject: &Subject, part: Part) -> Result<()> {
    let evidence = Evidence::open(&part.evidence, &part.process)?;
    lost_leases::listen(evidence.clone());
    // Listened to before anybody can know that this process is there.
    let mut asked_to_end = signal(SignalKind::terminate())?;
    let (publishes, once) = (part.publishes.clone(), part.once);
    let node = node(subject, part, evidence.clone()).await?;
    if let Some(ids) = publishes {
        for id in ids {
            publish(&node, &evidence, once, id).await?;
        }
    }
    let text = READY.to_owned();
    evidence.write((), What::Text { text })?;
    asked_to_end.recv().await;
    shut_down(&node, &evidence).await
}

/// Shuts a node down, and writes down that and how.
pub(crate) async fn shut_down(node: &Catga, evidence: &Evidence) -> Result<()> {
    let deadline = Duration::from_secs(10);
    evidence.write((), What::ShutdownCalled { deadline })?;
    let report = node.shutdown_within(deadline).await?;
    evidence.write(
        (),
        What::ShutdownReturned {
            finished: None,
            unfinished: Some(report.unfinished.try_into()?),
        },
    )?;
    Ok(())
}
