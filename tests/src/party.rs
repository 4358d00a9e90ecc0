//! The members of one scenario, each a process, and what they saw: the side of the process that kills and pauses them.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use catga::prelude::Result;
use catga::{Capability, HandlerError};
use tempfile::TempDir;

use crate::bus::Bus;
use crate::checker::{GroupRules, Promise, Rules, Verdict, check};
use crate::evidence::{Event, Evidence, Follower, What, read};
use crate::harness::needs_nodes;
use crate::member::{self, ANSWERING, Part};
use crate::outcome::Lacking;
use crate::peers::{HEARTBEAT, SWEEP, TIMEOUT};
use crate::server::Process;

/// How long anything may take that a member is to do.
const PATIENCE: Duration = Duration::from_secs(15);

/// Processes that are nodes of one bus, and the evidence of what became of them.
pub(crate) struct Party {
    bus: Bus,
    folder: TempDir,
    pub(crate) evidence: Evidence,
    follower: Follower,
    /// What was read of it.
    seen: Vec<Event>,
    members: BTreeMap<String, Process>,
    starts: u32,
}

impl Party {
    /// A party of nobody yet.
    ///
    /// # Errors
    /// `Unsupported` where no node knows another; not run where nodes of two processes cannot.
    pub(crate) async fn new(bus: &Bus) -> Result<Self> {
        let observer = bus.observer().await?;
        needs_nodes(&observer).await?;
        observer.shutdown().await?;
        if !bus.has(Capability::Persistent) {
            let lacking = Lacking("a bus is in one process".to_owned());
            return Err(HandlerError::terminal(lacking));
        }
        let folder = tempfile::tempdir()?;
        std::fs::create_dir(folder.path().join("keys"))?;
        let path = folder.path().join("evidence.jsonl");
        let evidence = Evidence::create(&path, "parent")?;
        Ok(Self {
            bus: bus.clone(),
            follower: Follower::open(&path)?,
            evidence,
            folder,
            seen: Vec::new(),
            members: BTreeMap::new(),
            starts: 0,
        })
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("evidence.jsonl")
    }

    /// Starts a process that is to be a node, and does not wait for it. Returns its name in the evidence, which is another for each
    /// start.
    pub(crate) fn begin(&mut self, node: &str, change: impl FnOnce(&mut Part)) -> Result<String> {
        self.starts += 1;
        let process = format!("{node}-{}", self.starts);
        let mut part = Part {
            subject: self.bus.subject().name().to_owned(),
            url: self.bus.url().to_owned(),
            mutant: self.bus.mutant().map(|mutant| mutant.to_string()),
            evidence: self.path(),
            keys: self.folder.path().join("keys"),
            owner: process.clone(),
            process: process.clone(),
            node: node.to_owned(),
            stops: false,
        };
        change(&mut part);
        let member = member::start(&part, &self.log(&process))?;
        self.members.insert(process.clone(), member);
        Ok(process)
    }

    /// Starts a process that is to be a node, and waits until it is one.
    pub(crate) async fn start(
        &mut self,
        node: &str,
        change: impl FnOnce(&mut Part),
    ) -> Result<String> {
        let process = self.begin(node, change)?;
        let what = format!("{process} is there");
        self.wait_for(&what, |event| {
            event.process == process && matches!(event.what, What::NodeRegistered { .. })
        })
        .await?;
        Ok(process)
    }

    pub(crate) fn member(&self, process: &str) -> &Process {
        &self.members[process]
    }

    /// Those that were started and not ended.
    pub(crate) fn names(&self) -> Vec<String> {
        self.members.keys().cloned().collect()
    }

    /// Kills a member (SIGKILL).
    pub(crate) fn kill(&mut self, process: &str) -> Result<()> {
        let mut member = self.members.remove(process).expect("it was started");
        member.kill()?;
        let process = process.to_owned();
        Ok(self.evidence.write((), What::Killed { process })?)
    }

    /// Asks a member to end (SIGTERM), and waits until it has.
    pub(crate) fn terminate(&mut self, process: &str) -> Result<()> {
        let mut member = self.members.remove(process).expect("it was started");
        Ok(member.terminate()?)
    }

    /// Pauses a member (SIGSTOP).
    pub(crate) fn pause(&self, process: &str) -> Result<()> {
        let fault = format!("{process} stands");
        self.evidence.write((), What::FaultBegun { fault })?;
        Ok(self.member(process).pause()?)
    }

    /// Lets a member go on.
    pub(crate) fn resume(&self, process: &str) -> Result<()> {
        self.member(process).resume()?;
        let fault = format!("{process} stands");
        Ok(self.evidence.write((), What::FaultHealed { fault })?)
    }

    /// Waits for something that a member writes down, or has written.
    pub(crate) async fn wait_for(
        &mut self,
        what: &str,
        mut condition: impl FnMut(&Event) -> bool,
    ) -> Result<()> {
        if self.seen.iter().any(&mut condition) {
            return Ok(());
        }
        let patience = if self.bus.is_buggy() {
            PATIENCE / 3
        } else {
            PATIENCE
        };
        let seen = &mut self.seen;
        let found = self.follower.wait_for(what, patience, |event| {
            seen.push(event.clone());
            condition(event)
        });
        let found = found.await.map(drop);
        found.map_err(|error| HandlerError::terminal(format!("{error}\n{}", self.logs())))
    }

    fn log(&self, process: &str) -> PathBuf {
        self.folder.path().join(format!("{process}.log"))
    }

    /// What a member complained of.
    pub(crate) fn complaints(&self, process: &str) -> String {
        std::fs::read_to_string(self.log(process)).unwrap_or_default()
    }

    fn logs(&self) -> String {
        let said = self
            .members
            .keys()
            .map(|process| format!("{process}: {}", self.complaints(process)));
        said.collect()
    }

    /// All that was written down so far.
    pub(crate) fn events(&self) -> Result<Vec<Event>> {
        Ok(read(self.path())?)
    }

    /// Ends all members, and judges the run by every invariant.
    pub(crate) fn judge(mut self) -> Result<(Verdict, Vec<Event>)> {
        for process in self.names() {
            self.terminate(&process)?;
        }
        let events = self.events()?;
        let mut rules =
            Rules::new().group(ANSWERING, GroupRules::new(ANSWERING, Promise::Requests));
        // What a machine that does much else adds.
        rules.heartbeat = HEARTBEAT + Duration::from_millis(500);
        rules.node_timeout = TIMEOUT;
        rules.sweep = SWEEP + Duration::from_secs(1);
        let verdict = check(&events, &rules).map_err(HandlerError::terminal)?;
        Ok((verdict, events))
    }
}
