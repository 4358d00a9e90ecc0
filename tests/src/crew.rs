//! The workers of one scenario, and what they did: the side of the process that kills them.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use catga::prelude::{Catga, Result};
use catga::{Capability, HandlerError, MessageId, Name};
use tempfile::TempDir;

use crate::bus::Bus;
use crate::checker::{GroupRules, Promise, Rules, Verdict, check, recovery_bound};
use crate::evidence::{EffectKind, Event, Evidence, Follower, Outcome, What, read};
use crate::harness::dead_letters;
use crate::load::Load;
use crate::outcome::Lacking;
use crate::server::Process;
use crate::site::OwnServer;
use crate::worker::{self, ATTEMPTS, CREW, ONCE, Part, READY, STORED, Stop};

/// How long a worker keeps what it does not settle.
pub(crate) const LEASE: Duration = Duration::from_secs(1);
/// How long anything may take that a worker is to do.
const PATIENCE: Duration = Duration::from_secs(15);

/// Processes that handle the messages of one bus, the node that publishes, and the evidence of it all.
pub(crate) struct Crew {
    bus: Bus,
    once: bool,
    folder: TempDir,
    evidence: Evidence,
    follower: Follower,
    workers: BTreeMap<String, Process>,
    /// Those that were ever started.
    started: BTreeSet<String>,
    /// Those in this process.
    here: BTreeMap<String, Catga>,
    killed: BTreeSet<String>,
    has_group: bool,
    node: Catga,
}

impl Crew {
    /// A crew of processes, none yet, whose messages are of QoS 1, or of QoS 2 where they are to be handled `once`.
    ///
    /// # Errors
    /// `Unsupported` as a start is refused; not run where messages do not outlive the process that publishes them.
    pub(crate) async fn of_processes(bus: &Bus, once: bool) -> Result<Self> {
        if !bus.subject().capabilities().has(Capability::Persistent) {
            let lacking = Lacking("messages end with their process".to_owned());
            return Err(HandlerError::terminal(lacking));
        }
        let crew = Self::new(bus, once).await?;
        // What the backend cannot do is told here, and not by a process that fails to start.
        let tried = worker::node(bus.subject(), crew.part("tried"), crew.evidence.clone()).await?;
        tried.shutdown().await?;
        Ok(crew)
    }

    /// A crew of nodes in this process, none yet.
    pub(crate) async fn new(bus: &Bus, once: bool) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        std::fs::create_dir(folder.path().join("keys"))?;
        let path = folder.path().join("evidence.jsonl");
        let evidence = Evidence::create(&path, "parent")?;
        Ok(Self {
            node: bus.observer().await?,
            bus: bus.clone(),
            once,
            follower: Follower::open(&path)?,
            evidence,
            folder,
            workers: BTreeMap::new(),
            started: BTreeSet::new(),
            here: BTreeMap::new(),
            killed: BTreeSet::new(),
            has_group: false,
        })
    }

    /// What a planted bug keeps from happening need not be waited for as long.
    fn patience(&self) -> Duration {
        if self.bus.is_buggy() {
            PATIENCE / 4
        } else {
            PATIENCE
        }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("evidence.jsonl")
    }

    fn part(&self, process: &str) -> Part {
        Part {
            subject: self.bus.subject().name().to_owned(),
            url: self.bus.url().to_owned(),
            mutant: self.bus.mutant().map(|mutant| mutant.to_string()),
            evidence: self.path(),
            keys: self.folder.path().join("keys"),
            process: process.to_owned(),
            node: process.to_owned(),
            lease: LEASE,
            takes: Duration::from_millis(1),
            concurrency: 8,
            once: self.once,
            stops: Vec::new(),
            trouble: None,
            publishes: None,
        }
    }

    /// Starts a worker, and waits until its group exists.
    pub(crate) async fn start(
        &mut self,
        process: &str,
        change: impl FnOnce(&mut Part),
    ) -> Result<()> {
        let mut part = self.part(process);
        change(&mut part);
        if self.killed.remove(process) {
            let process = process.to_owned();
            self.evidence.write((), What::Restarted { process })?;
        }
        let log = self.folder.path().join(format!("{process}.log"));
        let publishes = part.publishes.is_some();
        let started = worker::start(&part, &log)?;
        self.workers.insert(process.to_owned(), started);
        self.started.insert(process.to_owned());
        if !publishes {
            self.wait_for(&format!("{process} is there"), |event| {
                event.process == process && is_ready(event)
            })
            .await?;
            self.note_group()?;
        }
        Ok(())
    }

    /// Starts a node in this process.
    pub(crate) async fn start_here(
        &mut self,
        process: &str,
        change: impl FnOnce(&mut Part),
    ) -> Result<()> {
        let mut part = self.part(process);
        change(&mut part);
        let evidence = self.evidence.named(process);
        let node = worker::node(self.bus.subject(), part, evidence).await?;
        self.here.insert(process.to_owned(), node);
        self.note_group()
    }

    /// Shuts a node of this process down.
    pub(crate) async fn stop_here(&mut self, process: &str) -> Result<()> {
        let node = self.here.remove(process).expect("it was started");
        worker::shut_down(&node, &self.evidence.named(process)).await
    }

    fn note_group(&mut self) -> Result<()> {
        if !std::mem::replace(&mut self.has_group, true) {
            self.evidence.write(CREW, What::GroupCreated)?;
        }
        Ok(())
    }

    /// Kills a worker (SIGKILL).
    pub(crate) fn kill(&mut self, process: &str) -> Result<()> {
        let mut worker = self.workers.remove(process).expect("it was started");
        worker.kill()?;
        self.killed.insert(process.to_owned());
        let process = process.to_owned();
        self.evidence.write((), What::Killed { process })?;
        Ok(())
    }

    /// Lets a worker stand still (SIGSTOP).
    pub(crate) fn pause(&self, process: &str) -> Result<()> {
        let fault = format!("{process} stands");
        self.note(What::FaultBegun { fault })?;
        Ok(self.worker(process).pause()?)
    }

    /// Lets a worker go on that stands.
    pub(crate) fn resume(&self, process: &str) -> Result<()> {
        self.worker(process).resume()?;
        let fault = format!("{process} stands");
        self.note(What::FaultHealed { fault })
    }

    fn worker(&self, process: &str) -> &Process {
        self.workers.get(process).expect("it was started")
    }

    /// Whether a publish was begun of which nobody knows how it ended.
    pub(crate) fn has_open_publish(&self) -> Result<bool> {
        let mut open = BTreeSet::new();
        for event in read(self.path())? {
            match event.what {
                What::Publishing { call, .. } => {
                    open.insert(call);
                }
                What::Published { call, .. } => {
                    open.remove(&call);
                }
                _ => {}
            }
        }
        Ok(!open.is_empty())
    }

    /// Asks a worker to end (SIGTERM), and waits until it has.
    pub(crate) fn terminate(&mut self, process: &str) -> Result<()> {
        let mut worker = self.workers.remove(process).expect("it was started");
        worker.terminate()?;
        let ended = read(self.path())?.iter().any(|event| {
            event.process == process && matches!(event.what, What::ShutdownReturned { .. })
        });
        assert!(ended, "{process} did not shut down: {}", self.logs());
        Ok(())
    }

    /// How many handlers have finished.
    pub(crate) fn done(&self) -> Result<u64> {
        let done = |event: &Event| u64::from(matches!(event.what, What::Done { .. }));
        Ok(read(self.path())?.iter().map(done).sum())
    }

    pub(crate) async fn publish(&self, ids: impl IntoIterator<Item = u64>) -> Result<()> {
        for id in ids {
            let outcome = worker::publish(&self.node, &self.evidence, self.once, id).await?;
            assert_eq!(outcome, Outcome::Ok, "message {id}");
        }
        Ok(())
    }

    /// Publishes from this process at a steady rate, ids from `begin` on.
    pub(crate) fn load(&self, begin: u64, per_second: u32) -> Load {
        let evidence = self.evidence.clone();
        Load::start(self.node.clone(), evidence, self.once, begin, per_second)
    }

    /// Writes down what happens to the server, or on the way to it.
    pub(crate) fn note(&self, what: What) -> Result<()> {
        Ok(self.evidence.write((), what)?)
    }

    /// Kills the server, and starts it again with its data.
    pub(crate) fn kill_server(&self, server: &mut OwnServer) -> Result<()> {
        let (fault, process) = ("server".to_owned(), "server".to_owned());
        self.note(What::FaultBegun {
            fault: fault.clone(),
        })?;
        server.kill()?;
        self.note(What::Killed {
            process: process.clone(),
        })?;
        self.note(What::Restarted { process })?;
        server.restart()?;
        self.note(What::FaultHealed { fault })
    }

    /// Kills the server that has the messages when its replica has been behind for a while, in which the workers stand still and handle
    /// nothing of what that does not have; waits until it has its place, and brings the other back behind it. Returns for how long it
    /// was behind: on a busy machine that is more than was asked for.
    pub(crate) async fn kill_and_replace(
        &self,
        servers: &mut OwnServer,
        behind: Duration,
    ) -> Result<Duration> {
        let (fault, process) = ("fail-over".to_owned(), "server".to_owned());
        self.note(What::FaultBegun {
            fault: fault.clone(),
        })?;
        for process in self.workers.keys() {
            self.pause(process)?;
        }
        let since = Instant::now();
        servers.pause_replica_of(&self.message())?;
        tokio::time::sleep(behind).await;
        servers.kill_server_of(&self.message())?;
        self.note(What::Killed {
            process: process.clone(),
        })?;
        let was_behind = since.elapsed();
        for process in self.workers.keys() {
            self.resume(process)?;
        }
        self.note(What::Restarted { process })?;
        servers.replace_killed()?;
        self.note(What::FaultHealed { fault })?;
        Ok(was_behind)
    }

    /// Asks the server to end, and starts it again with its data.
    pub(crate) fn restart_server(&self, server: &mut OwnServer) -> Result<()> {
        let fault = "server".to_owned();
        self.note(What::FaultBegun {
            fault: fault.clone(),
        })?;
        server.restart()?;
        self.note(What::FaultHealed { fault })
    }

    /// Waits for something that a worker writes down.
    pub(crate) async fn wait_for(
        &mut self,
        what: &str,
        condition: impl FnMut(&Event) -> bool,
    ) -> Result<Event> {
        let found = self
            .follower
            .wait_for(what, self.patience(), condition)
            .await;
        match found {
            Ok(event) => Ok(event),
            Err(error) => {
                let logs = self.logs();
                Err(HandlerError::terminal(format!("{error}\n{logs}")))
            }
        }
    }

    /// What the workers complained of.
    fn logs(&self) -> String {
        let read = |process: &String| {
            let path = self.folder.path().join(format!("{process}.log"));
            let log = std::fs::read_to_string(path).unwrap_or_default();
            format!("{process}: {log}")
        };
        self.started.iter().map(read).collect()
    }

    /// Waits until all of these messages were handled, or given up, or it takes too long.
    pub(crate) async fn wait_until_done(&mut self, ids: Range<u64>) -> Result<()> {
        let mut open: BTreeSet<_> = ids.collect();
        let done = |event: &Event| matches!(event.what, What::Done { .. });
        let before = read(self.path())?;
        let ids = before.iter().filter(|event| done(event));
        for id in ids.filter_map(|event| event.id) {
            open.remove(&id);
        }
        let deadline = Instant::now() + self.patience();
        while !open.is_empty() {
            while let Some(event) = self.follower.next_event()? {
                if let Some(id) = event.id.filter(|_| done(&event)) {
                    open.remove(&id);
                }
            }
            for letter in dead_letters(self.node.backend()).await? {
                open.retain(|id| letter.envelope.id() != Some(self.message_id(*id)));
            }
            if Instant::now() > deadline {
                // What is missing, and what happened to it, is for the checker to say.
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        Ok(())
    }

    /// What its messages are called.
    pub(crate) fn message(&self) -> Name {
        Name::from_static(self.subject())
    }

    fn subject(&self) -> &'static str {
        if self.once { ONCE } else { STORED }
    }

    fn message_id(&self, id: u64) -> MessageId {
        worker::message_id(self.subject(), id)
    }

    /// Ends all workers, and judges the run of so many messages by every invariant.
    pub(crate) async fn judge(self, ids: Range<u64>) -> Result<(Verdict, Vec<Event>)> {
        self.judge_by(ids, |_| {}).await
    }

    /// As [`judge`](Self::judge), by rules that differ.
    pub(crate) async fn judge_by(
        mut self,
        ids: Range<u64>,
        change: impl FnOnce(&mut Rules),
    ) -> Result<(Verdict, Vec<Event>)> {
        let promise = if self.once {
            Promise::ExactlyOnce
        } else {
            Promise::AtLeastOnce
        };
        let group = GroupRules::new(self.subject(), promise).max_deliver(ATTEMPTS as usize);
        let mut rules = Rules::new().group(CREW, group);
        rules.lease = LEASE;
        rules.recovery = recovery_bound(LEASE, LEASE, LEASE, 3);
        change(&mut rules);
        // What comes twice, or too late, comes within a lease.
        tokio::time::sleep(2 * rules.lease).await;
        for process in self.workers.keys().cloned().collect::<Vec<_>>() {
            self.terminate(&process)?;
        }
        for process in self.here.keys().cloned().collect::<Vec<_>>() {
            self.stop_here(&process).await?;
        }
        for letter in dead_letters(self.node.backend()).await? {
            let id = ids
                .clone()
                .find(|id| letter.envelope.id() == Some(self.message_id(*id)));
            let id = id.expect("what was given up was published");
            let checksum = worker::checksum_of(&letter.envelope, self.once)?;
            self.evidence
                .write((CREW, id), What::DeadLettered { checksum })?;
        }
        let events = read(self.path())?;
        let verdict = check(&events, &rules).map_err(HandlerError::terminal)?;
        Ok((verdict, events))
    }
}

fn is_ready(event: &Event) -> bool {
    matches!(&event.what, What::Text { text } if text == READY)
}

/// The runs of one message, as they began: attempt, and whether an earlier one may have had its effect.
pub(crate) fn runs(events: &[Event], of: u64) -> Vec<(u32, bool)> {
    let of_it = events.iter().filter(|event| event.id == Some(of));
    of_it
        .filter_map(|event| match event.what {
            What::Started {
                attempt,
                may_have_run,
                ..
            } => Some((attempt, may_have_run)),
            _ => None,
        })
        .collect()
}

/// How many effects of each kind one message had: plain, keyed.
pub(crate) fn effects(events: &[Event], of: u64) -> (usize, usize) {
    let count = |wanted: EffectKind| {
        let of_it = events.iter().filter(|event| event.id == Some(of));
        of_it
            .filter(|event| matches!(event.what, What::Effect { kind, .. } if kind == wanted))
            .count()
    };
    (count(EffectKind::Plain), count(EffectKind::Keyed))
}

pub(crate) fn stops(ids: Range<u64>, before_the_effect: bool) -> Vec<Stop> {
    ids.map(|id| Stop {
        id,
        before_the_effect,
    })
    .collect()
}
