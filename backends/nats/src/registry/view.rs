//! What the bucket says of who is there: a task that follows it, and answers.
//!
//! Followed it is by those who report, and by everybody who is not told enough by them (see [`reports`](super::reports)).

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_nats::Subscriber;
use catga_core::{Error, ErrorKind, NodeInfo};
use tokio::select;
use tokio::sync::{Notify, mpsc};
use tokio::time::{Instant, Interval, MissedTickBehavior, interval, sleep};

use super::clock::ServerClock;
use super::desk::OwnNodes;
use super::entry;
use super::feed::{Change, Feed, Heard};
use super::reports::{Reports, at, next_of};
use super::roster::{Question, Roster};
use super::rubbish::Rubbish;
use super::trouble::{Trouble, lasts};
use crate::bucket::Bucket;
use crate::connection::Connection;

/// After a feed that lasted shorter than this the next waits.
const LASTED: Duration = Duration::from_secs(1);
/// How long it waits at first, and up to twice that; twice as long each time that it does not last.
const PAUSE: Duration = Duration::from_millis(100);
/// How long at most.
const LONGEST: Duration = Duration::from_millis(2500);

/// What the bucket says, as far as it was heard.
#[derive(Debug)]
pub(crate) struct View {
    pub(crate) connection: Arc<Connection>,
    pub(crate) bucket: Arc<Bucket>,
    pub(crate) clock: Arc<ServerClock>,
    /// Told when the bucket is not what it was.
    pub(crate) moved: Arc<Notify>,
    /// Why it cannot be followed.
    pub(crate) trouble: Arc<Trouble>,
    pub(crate) roster: Roster,
    pub(crate) timeout: Duration,
    pub(crate) rubbish: Rubbish,
    /// How often something is to be heard of the server.
    pub(crate) pulse: Duration,
    /// How often the server is to say that it is there.
    pub(crate) signs: Duration,
    /// The last change that was heard of.
    pub(crate) sequence: u64,
    /// What is to be answered when more was heard.
    pub(crate) waiting: Vec<Question>,
    /// The nodes of this process.
    pub(crate) own: Arc<OwnNodes>,
    /// When the bucket was made that was heard of last.
    pub(crate) made: String,
    /// Whether all of it is known, and what changes heard.
    pub(crate) is_current: bool,
    pub(crate) reports: Reports,
    /// Where the reports of others come by.
    pub(crate) reported: Option<Subscriber>,
}

/// Why a feed is not followed any more.
#[derive(PartialEq, Eq)]
pub(super) enum Ended {
    /// Something was missed: begin anew.
    Missed,
    /// Others tell all that is to be known.
    Told,
    /// Nobody wants to know.
    Done,
}

impl View {
    /// Follows the bucket until the connection or the registry is gone.
    pub(crate) async fn run(mut self, mut questions: mpsc::Receiver<Question>) {
        let closed = self.connection.closed.clone();
        let reports = self.connection.names.reports();
        // Without it nobody's reports are heard: then the bucket is followed.
        self.reported = self.connection.client.subscribe(reports).await.ok();
        let mut pause = PAUSE;
        // Since when the server is there, and cannot be followed.
        let mut unwatched = None;
        while !questions.is_closed() {
            let began = Instant::now();
            let lost = self.connection.link.lost();
            let opened = select! {
                biased;
                () = closed.raised() => return,
                opened = Feed::open(&self.connection, &self.bucket, self.signs) => opened,
            };
            match opened {
                Ok(feed) => {
                    unwatched = None;
                    self.trouble.is_over();
                    let lost = feed.lost();
                    let followed = self.follow(feed, &mut questions).await;
                    self.is_current = false;
                    let ended = match followed {
                        Ended::Told => self.be_told(lost, &mut questions).await,
                        ended => ended,
                    };
                    match ended {
                        Ended::Done => return,
                        Ended::Told => {
                            pause = PAUSE;
                            continue;
                        }
                        Ended::Missed => tracing::debug!("the node registry is read anew"),
                    }
                }
                Err(error) => {
                    // Who is cut off from the server is told so otherwise, and finds everybody again when it is back.
                    let link = &self.connection.link;
                    let answered = error.kind() != ErrorKind::Timeout;
                    if answered && link.is_connected() && link.lost() == lost {
                        unwatched.get_or_insert(began);
                    } else {
                        unwatched = None;
                    }
                    let since = unwatched.map(|since| since.elapsed());
                    self.not_followed(error, since.is_some_and(|long| long >= self.timeout));
                }
            }
            if unwatched.is_none() && began.elapsed() >= LASTED {
                pause = PAUSE;
                continue;
            }
            self.rest(pause + pause.mul_f64(fastrand::f64()), &mut questions)
                .await;
            pause = (pause * 2).min(LONGEST);
        }
    }

    /// Notes why there is no feed, and leaves nobody waiting for what will not be.
    fn not_followed(&mut self, error: Error, for_long: bool) {
        if for_long {
            tracing::warn!(%error, "the node registry cannot be followed: watches on it end");
            self.roster.end_watches();
        } else {
            tracing::debug!(%error, "the node registry cannot be followed");
        }
        let hopeless = lasts(&error);
        self.trouble.note(error);
        // A watch that begins anew asks for nothing in particular.
        self.waiting.retain(|question| {
            !(hopeless || for_long && question.after.is_none() || question.wanted.is_abandoned())
        });
    }

    /// Waits before the next try, unless somebody asks, or there is a connection again.
    async fn rest(&mut self, pause: Duration, questions: &mut mpsc::Receiver<Question>) {
        let (closed, link) = (self.connection.closed.clone(), &self.connection.link);
        let epoch = link.epoch();
        select! {
            biased;
            () = closed.raised() => {}
            () = link.until(|link| link.epoch() != epoch) => {}
            () = self.moved.notified() => {}
            question = questions.recv() => self.waiting.extend(question),
            () = sleep(pause) => {}
        }
    }

    async fn follow(&mut self, mut feed: Feed, questions: &mut mpsc::Receiver<Question>) -> Ended {
        let (closed, moved) = (self.connection.closed.clone(), Arc::clone(&self.moved));
        let connection = Arc::clone(&self.connection);
        let cut = Feed::cut(&connection, feed.lost());
        tokio::pin!(cut);
        let mut ticks = self.ticks();
        self.clock.set(feed.began);
        self.roster.contact();
        self.reports.begin();
        (self.sequence, self.made) = (0, feed.made.clone());
        if feed.is_current {
            self.caught_up(feed.last);
        }
        loop {
            let place = self.place().filter(|_| self.is_current);
            let due = place.map(|place| self.reports.due(place));
            select! {
                biased;
                () = closed.raised() => return Ended::Done,
                heard = feed.next() => {
                    let Some(heard) = heard else {
                        return Ended::Missed;
                    };
                    self.roster.contact();
                    let mut behind = 0;
                    if let Heard::Change(change) = heard {
                        behind = change.pending;
                        // What was there before says nothing of the clock now.
                        if self.is_current {
                            self.clock.heard(change.time);
                        }
                        self.apply(change);
                    }
                    if !self.is_current && (behind == 0 || self.sequence >= feed.last) {
                        self.caught_up(feed.last);
                    }
                    self.answer();
                }
                () = &mut cut => return Ended::Missed,
                () = moved.notified() => return Ended::Missed,
                report = next_of(&mut self.reported) => {
                    self.overhear(&report);
                    let is_idle = self.is_current && self.waiting.is_empty();
                    if is_idle && self.reports.suffice(self.place()) {
                        return Ended::Told;
                    }
                }
                () = at(due) => self.report(),
                question = questions.recv(), if self.is_current => {
                    let Some(question) = question else {
                        return Ended::Done;
                    };
                    let after = question.after.as_ref();
                    let elsewhere = after.is_some_and(|after| after.made != feed.made);
                    self.waiting.push(question);
                    if elsewhere {
                        return Ended::Missed;
                    }
                    self.reports.begin();
                    self.answer();
                }
                _ = ticks.tick() => {
                    self.waiting.retain(|question| !question.wanted.is_abandoned());
                    if self.roster.silence() > self.pulse * 3 {
                        return Ended::Missed;
                    }
                    if self.is_current {
                        self.roster.sweep();
                    }
                }
            }
        }
    }

    /// All that was there when the feed began was heard of: whatever was asked before can be answered.
    fn caught_up(&mut self, last: u64) {
        self.is_current = true;
        self.sequence = self.sequence.max(last);
        for question in std::mem::take(&mut self.waiting) {
            self.roster.answer(question.wanted);
        }
    }

    /// Answers what waited for what was heard meanwhile.
    fn answer(&mut self) {
        for question in std::mem::take(&mut self.waiting) {
            let after = question.after.as_ref();
            if after.is_some_and(|after| after.sequence > self.sequence) {
                self.waiting.push(question);
            } else {
                if after.is_some() {
                    // Who asked had heard the server, and all before that was heard here: whoever was silent is not in the
                    // answer. Without that it says nothing of the feed, which may be dead.
                    self.roster.contact();
                    self.roster.sweep();
                }
                self.roster.answer(question.wanted);
            }
        }
    }

    fn apply(&mut self, change: Change) {
        self.sequence = self.sequence.max(change.revision);
        let node = match change.value {
            None => None,
            Some(value) => match entry::node(&change.key, &value) {
                Ok(node) => Some(node),
                Err(why) => return self.rubbish.note(&change.key, change.revision, &why),
            },
        };
        let (before, place) = (self.roster.mark(&change.key), self.place());
        let by = place.filter(|_| self.is_current).and_then(|_| self.by());
        self.take(&change.key, change.time, node);
        if let Some(by) = by
            && self.roster.mark(&change.key) != before
        {
            self.tell_news(by, &change.key, change.revision, change.time);
        }
    }

    /// Takes over what stands under a key, which was written at that time.
    pub(super) fn take(&mut self, key: &str, time: SystemTime, node: Option<NodeInfo>) {
        let Some(mut node) = node else {
            return self.roster.left(key);
        };
        // By the server's clock, whatever its own says.
        node.last_seen = time;
        node.started_at = node.started_at.min(time);
        self.roster.heard(node, self.clock.age(time));
    }

    /// When to look for who is silent.
    pub(super) fn ticks(&self) -> Interval {
        let mut ticks = interval(self.roster.every());
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        ticks
    }
}
