//! Who is there, as far as this process has heard, and who watches.
//!
//! A node is given up when it was silent for a node timeout. Silence counts only while others could be heard: when the server
//! stood still, or this process did, everybody's time begins anew.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use catga_core::{Incarnation, Load, NodeEvent, NodeId, NodeInfo};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use super::digest::{Brief, millis, print};
use super::entry::is_news;
use crate::time::from_now;

/// How many events wait for a watcher before it counts as lagging.
const WATCH_BUFFER: usize = 256;

/// The nodes now, and the changes from now on.
pub(crate) type Watched = (Vec<NodeInfo>, mpsc::Receiver<NodeEvent>);

/// What is asked of a roster.
#[derive(Debug)]
pub(crate) struct Question {
    /// What is to be heard of before it is answered, where the server was asked just now.
    pub(crate) after: Option<Position>,
    pub(crate) wanted: Wanted,
}

#[derive(Debug)]
pub(crate) enum Wanted {
    Nodes(oneshot::Sender<Vec<NodeInfo>>),
    Watch(oneshot::Sender<Watched>),
}

impl Wanted {
    /// Whether who asked waits no more.
    pub(crate) fn is_abandoned(&self) -> bool {
        match self {
            Self::Nodes(reply) => reply.is_closed(),
            Self::Watch(reply) => reply.is_closed(),
        }
    }
}

/// A place in a bucket; without one where there is none.
#[derive(Debug, Default)]
pub(crate) struct Position {
    /// When the bucket was made: another under its name begins to count anew.
    pub(crate) made: String,
    pub(crate) sequence: u64,
}

/// Who is there.
#[derive(Debug)]
pub(crate) struct Roster {
    nodes: BTreeMap<NodeId, Live>,
    watchers: Vec<mpsc::Sender<NodeEvent>>,
    timeout: Duration,
    /// When something was heard last, from whomever.
    contact: Instant,
}

#[derive(Debug)]
struct Live {
    info: NodeInfo,
    /// The load that watchers know.
    announced: Load,
    /// When it said last that it lives.
    beat: Instant,
    /// When it said so before.
    before: Instant,
    deadline: Instant,
    /// Of all that others are told of.
    print: u32,
}

impl Roster {
    pub(crate) fn new(timeout: Duration) -> Self {
        Self {
            nodes: BTreeMap::new(),
            watchers: Vec::new(),
            timeout,
            contact: Instant::now(),
        }
    }

    /// How often something is to be heard, so that a silence is a node's own.
    pub(crate) fn pulse(timeout: Duration) -> Duration {
        (timeout / 4).clamp(Duration::from_millis(100), Duration::from_secs(5))
    }

    /// How often to look for who is silent.
    pub(crate) fn every(&self) -> Duration {
        (self.timeout / 8).clamp(Duration::from_millis(25), Duration::from_secs(1))
    }

    /// For how long nothing at all was heard.
    pub(crate) fn silence(&self) -> Duration {
        self.contact.elapsed()
    }

    /// Something was heard.
    pub(crate) fn contact(&mut self) {
        let now = Instant::now();
        let gap = now.duration_since(self.contact);
        if gap > Self::pulse(self.timeout) * 2 {
            tracing::debug!(?gap, "nothing was heard of any node meanwhile");
            // Those who could not be heard either have to find back first.
            let deadline = from_now(self.timeout);
            for live in self.nodes.values_mut() {
                live.deadline = live.deadline.max(deadline);
            }
        }
        self.contact = now;
    }

    /// Something was heard of what others had heard until `at`.
    pub(crate) fn contact_until(&mut self, at: Instant) {
        if at > self.contact {
            self.contact();
            self.contact = at;
        }
    }

    /// Others can be heard again, and what they said meanwhile was missed: who lives says so within this time.
    pub(crate) fn resume(&mut self, within: Duration) {
        let deadline = from_now(within);
        for live in self.nodes.values_mut() {
            live.deadline = live.deadline.max(deadline);
        }
        self.contact();
    }

    /// A node said `age` ago that it lives.
    pub(crate) fn heard(&mut self, mut info: NodeInfo, age: Duration) {
        let left = self.timeout.saturating_sub(age);
        let known = self.nodes.get_mut(&info.id);
        let known = known.filter(|live| live.info.incarnation == info.incarnation);
        if left.is_zero() {
            // Too old; who is known of before has what is left of its time.
            if known.is_none() {
                self.left(info.id.as_str());
            }
            return;
        }
        let (beat, deadline) = (ago(age), from_now(left));
        let Some(live) = known else {
            self.left(info.id.as_str());
            let live = Live {
                print: print(&info),
                info: info.clone(),
                announced: info.load,
                beat,
                before: beat,
                deadline,
            };
            self.nodes.insert(info.id.clone(), live);
            self.announce(&NodeEvent::Joined(info));
            return;
        };
        let news = is_news(&live.info, live.announced, &info);
        if !news {
            // They are the same, and shared with those who were told of them.
            info.requests = Arc::clone(&live.info.requests);
            info.metadata = live.info.metadata.clone();
        }
        // What was on its way for long takes back no grace that it was given meanwhile.
        (live.info, live.deadline) = (info, live.deadline.max(deadline));
        if beat > live.beat {
            // One that is told again is dated a little later, and is no other.
            if beat > live.beat + just(self.timeout) {
                live.before = live.beat;
            }
            live.beat = beat;
        }
        if news {
            live.print = print(&live.info);
            live.announced = live.info.load;
            let event = NodeEvent::Updated(live.info.clone());
            self.announce(&event);
        }
    }

    /// A node that is known said `age` ago that it lives, as others tell.
    pub(crate) fn told(&mut self, brief: &Brief, seen: SystemTime) {
        let left = self.timeout.saturating_sub(brief.age());
        let known = self.of(brief).map(|live| live.beat);
        // Another reporter has told of a later beat, or we heard it.
        if left.is_zero() || known.is_none_or(|known| ago(brief.age()) <= known) {
            return;
        }
        if let Some(live) = self.nodes.get(&brief.0) {
            let mut info = live.info.clone();
            (info.load, info.last_seen) = (brief.3, seen);
            self.heard(info, brief.age());
        }
    }

    fn of(&self, brief: &Brief) -> Option<&Live> {
        let live = self.nodes.get(&brief.0);
        live.filter(|live| live.info.incarnation == brief.1)
    }

    /// Whether the node of a brief is known as that says. One that is nearly too old to be there may be known or not.
    pub(crate) fn knows(&self, brief: &Brief) -> bool {
        let old = brief.age() + Self::pulse(self.timeout) >= self.timeout;
        match self.of(brief) {
            Some(live) => live.print == brief.4,
            None => old,
        }
    }

    /// Whether a brief is about as new as what was heard here. Of a beat of this very moment who tells may not know yet: among
    /// hundreds of nodes there always is one.
    pub(crate) fn is_as_new(&self, brief: &Brief) -> bool {
        let late = Self::pulse(self.timeout);
        self.of(brief).is_none_or(|live| {
            let age = live.beat.elapsed();
            let age = if age < just(self.timeout) {
                live.before.elapsed()
            } else {
                age
            };
            brief.age() <= age + late
        })
    }

    /// All that live, in brief.
    pub(crate) fn briefs(&self) -> Vec<Brief> {
        let briefs = self.nodes.values().map(|live| {
            let info = &live.info;
            let age = millis(live.beat.elapsed());
            Brief(
                info.id.clone(),
                info.incarnation,
                age,
                info.load,
                live.print,
            )
        });
        briefs.collect()
    }

    /// Those of the lowest ids.
    pub(crate) fn lowest(&self, most: usize) -> impl Iterator<Item = &NodeInfo> {
        self.nodes.values().take(most).map(|live| &live.info)
    }

    /// What is known under an id, where others are told when it is something else.
    pub(crate) fn mark(&self, id: &str) -> Option<(Incarnation, u32)> {
        let live = self.nodes.get(id)?;
        Some((live.info.incarnation, live.print))
    }

    /// Whoever had this id is out.
    pub(crate) fn left(&mut self, id: &str) {
        if let Some(live) = self.nodes.remove(id) {
            self.announce(&NodeEvent::Left(live.info));
        }
    }

    /// Gives up who was silent for too long.
    pub(crate) fn sweep(&mut self) {
        let silent = self.nodes.iter();
        let silent = silent.filter(|(_, live)| live.deadline <= self.contact);
        let silent: Vec<NodeId> = silent.map(|(id, _)| id.clone()).collect();
        for id in silent {
            self.left(id.as_str());
        }
    }

    /// Who is known under this id.
    pub(crate) fn get(&self, id: &str) -> Option<&NodeInfo> {
        self.nodes.get(id).map(|live| &live.info)
    }

    pub(crate) fn len(&self) -> usize {
        self.nodes.len()
    }

    /// Answers. Who asked may be gone; then nobody misses it.
    pub(crate) fn answer(&mut self, wanted: Wanted) {
        let infos = || self.nodes.values().map(|live| live.info.clone()).collect();
        match wanted {
            Wanted::Nodes(reply) => drop(reply.send(infos())),
            Wanted::Watch(reply) => {
                let (events, receiver) = mpsc::channel(WATCH_BUFFER);
                if reply.send((infos(), receiver)).is_ok() {
                    self.watchers.push(events);
                }
            }
        }
    }

    /// Nothing can be told any more: the watchers find the end, and ask anew.
    pub(crate) fn end_watches(&mut self) {
        self.watchers.clear();
    }

    /// Tells the watchers. One without room loses its channel here: it reads what is in it, finds the end, and asks for a
    /// new snapshot.
    fn announce(&mut self, event: &NodeEvent) {
        self.watchers
            .retain(|watcher| watcher.try_send(event.clone()).is_ok());
    }
}

/// What is no longer ago may not have got to everybody yet.
fn just(timeout: Duration) -> Duration {
    Roster::pulse(timeout) / 4
}

/// When something happened; what is longer ago than this machine runs is as old as can be told.
fn ago(age: Duration) -> Instant {
    let now = Instant::now();
    now.checked_sub(age).unwrap_or(now)
}

#[cfg(test)]
mod tests {
    use catga_core::Name;
    use tokio::time::advance;

    use super::*;

    const TIMEOUT: Duration = Duration::from_secs(30);
    const SECOND: Duration = Duration::from_secs(1);

    fn node(id: &'static str) -> NodeInfo {
        NodeInfo::new(Name::from_static(id), Name::from_static("shop"))
    }

    fn watch(roster: &mut Roster) -> mpsc::Receiver<NodeEvent> {
        let (reply, mut answer) = oneshot::channel();
        roster.answer(Wanted::Watch(reply));
        answer.try_recv().unwrap().1
    }

    #[track_caller]
    fn told(events: &mut mpsc::Receiver<NodeEvent>) -> String {
        let mut told = Vec::new();
        while let Ok(event) = events.try_recv() {
            told.push(match event {
                NodeEvent::Joined(node) => format!("+{}", node.id),
                NodeEvent::Updated(node) => format!("~{}", node.id),
                NodeEvent::Left(node) => format!("-{}", node.id),
                other => panic!("{other:?}"),
            });
        }
        told.join(" ")
    }

    /// Lets time go by, in which others are heard.
    async fn pass(roster: &mut Roster, seconds: u32) {
        for _ in 0..seconds {
            advance(SECOND).await;
            roster.contact();
            roster.sweep();
        }
    }

    #[tokio::test(start_paused = true)]
    async fn who_is_silent_while_others_are_heard_is_given_up() {
        let mut roster = Roster::new(TIMEOUT);
        let mut events = watch(&mut roster);
        roster.heard(node("a"), Duration::ZERO);
        roster.heard(node("b"), SECOND * 20);
        roster.heard(node("old"), TIMEOUT);
        assert_eq!(told(&mut events), "+a +b");
        pass(&mut roster, 10).await;
        assert_eq!(told(&mut events), "-b");
        pass(&mut roster, 19).await;
        assert_eq!(told(&mut events), "");
        pass(&mut roster, 1).await;
        assert_eq!((told(&mut events).as_str(), roster.len()), ("-a", 0));
    }

    #[tokio::test(start_paused = true)]
    async fn everybodys_time_begins_anew_when_nobody_was_heard() {
        let mut roster = Roster::new(TIMEOUT);
        let mut events = watch(&mut roster);
        roster.heard(node("a"), SECOND * 10);
        told(&mut events);
        advance(TIMEOUT * 3).await;
        roster.sweep();
        roster.contact();
        roster.sweep();
        pass(&mut roster, 29).await;
        assert_eq!(told(&mut events), "");
        pass(&mut roster, 1).await;
        assert_eq!(told(&mut events), "-a");
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_heard_late_takes_back_no_grace() {
        let mut roster = Roster::new(TIMEOUT);
        let mut events = watch(&mut roster);
        let a = node("a");
        roster.heard(a.clone(), Duration::ZERO);
        let outage = SECOND * 25;
        advance(outage).await;
        roster.contact();
        // Read anew: the last word before the outage.
        roster.heard(a, outage);
        pass(&mut roster, 29).await;
        assert_eq!(told(&mut events), "+a");
        pass(&mut roster, 1).await;
        assert_eq!(told(&mut events), "-a");
    }

    #[tokio::test(start_paused = true)]
    async fn who_reports_need_not_know_a_beat_of_this_moment_but_those_before_it() {
        let mut roster = Roster::new(TIMEOUT);
        let a = node("a");
        let brief = |age: Duration| {
            let load = Load::percent(0);
            Brief(a.id.clone(), a.incarnation, millis(age), load, print(&a))
        };
        let beats = SECOND * 10;
        roster.heard(a.clone(), Duration::ZERO);
        advance(beats).await;
        roster.heard(a.clone(), Duration::ZERO);
        assert!(roster.is_as_new(&brief(Duration::ZERO)));
        assert!(roster.is_as_new(&brief(beats)), "it heard all but the last");
        assert!(!roster.is_as_new(&brief(beats * 2)), "nor the one before");
        advance(SECOND * 2).await;
        assert!(roster.is_as_new(&brief(SECOND * 2)));
        assert!(!roster.is_as_new(&brief(beats + SECOND * 2)), "it is deaf");
        advance(SECOND * 8).await;
        for age in [SECOND / 100, Duration::ZERO] {
            roster.heard(a.clone(), age);
        }
        assert!(roster.is_as_new(&brief(beats)), "twice the same is one");
    }

    #[tokio::test(start_paused = true)]
    async fn a_successor_replaces_and_the_same_again_is_no_news() {
        let mut roster = Roster::new(TIMEOUT);
        let mut events = watch(&mut roster);
        let mut first = node("a");
        roster.heard(first.clone(), Duration::ZERO);
        roster.heard(first.clone(), Duration::ZERO);
        first.load = Load::percent(9);
        roster.heard(first.clone(), Duration::ZERO);
        assert_eq!(told(&mut events), "+a");
        first.load = Load::percent(10);
        roster.heard(first.clone(), Duration::ZERO);
        assert_eq!(told(&mut events), "~a");
        roster.heard(node("a"), Duration::ZERO);
        assert_eq!(told(&mut events), "-a +a");
        // One that replaced it, and is dead.
        roster.heard(node("a"), TIMEOUT);
        assert_eq!((told(&mut events).as_str(), roster.len()), ("-a", 0));
    }

    #[tokio::test(start_paused = true)]
    async fn a_watcher_without_room_loses_its_channel() {
        let mut roster = Roster::new(TIMEOUT);
        let mut slow = watch(&mut roster);
        let mut quick = watch(&mut roster);
        for _ in 0..WATCH_BUFFER {
            roster.heard(node("a"), Duration::ZERO);
            roster.left("a");
            told(&mut quick);
        }
        assert_eq!(roster.watchers.len(), 1);
        let mut kept = 0;
        while slow.recv().await.is_some() {
            kept += 1;
        }
        assert_eq!(kept, WATCH_BUFFER);
    }
}
