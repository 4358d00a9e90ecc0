//! The task behind [`PubSub`](super::pubsub::PubSub).
//!
//! **Double ids.** Who registers asks first who has its id, and is refused when somebody answers. Of two that ask at once the
//! one whose incarnation is lower stays. One that was paused or cut off while another took its id learns it from the other's
//! word: a `joined` always counts; where that was missed, the one that joined later stays, so that exactly one does.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, SystemTime};

use async_nats::{Subject, Subscriber};
use catga_core::{Bytes, Error, ErrorKind, NodeId, NodeInfo};
use futures_util::StreamExt;
use tokio::select;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep_until};

use super::desk::{Order, Verb};
use super::digest::print;
use super::gone::Gone;
use super::hear::{Due, FEW};
use super::reports::{Reports, next_of};
use super::roster::{Question, Roster};
use super::rubbish::Rubbish;
use super::word::{Saying, Word};
use crate::connection::Connection;
use crate::error;

/// How long who has an id may take to say so, where nobody is known to have it: at most a tenth of the node timeout.
const CLAIM: Duration = Duration::from_millis(250);
/// The same where somebody had it of late: at most half of it.
const CONTESTED: Duration = Duration::from_secs(3);
/// Who comes late waits for answers this long, longer while there are some, and at most so long.
const ANSWERS: [Duration; 3] = [
    Duration::from_millis(200),
    Duration::from_millis(100),
    Duration::from_secs(1),
];

/// Speaks for the nodes of this process, and hears the others.
#[derive(Debug)]
pub(crate) struct Host {
    pub(super) connection: Arc<Connection>,
    pub(super) timeout: Duration,
    words: Subscriber,
    /// What nodes say that nobody needs to hear who is told of it. None while that is so.
    pub(super) beats: Option<Subscriber>,
    /// Whether they are to be heard again, and none was yet.
    pub(super) deaf: bool,
    /// When to try again to hear them.
    pub(super) again: Instant,
    reported: Option<Subscriber>,
    pub(super) reports: Reports,
    /// Nodes of ours that the present report names.
    pub(super) named: Vec<NodeId>,
    /// Where answers come to.
    pub(super) inbox: Subject,
    answers: Subscriber,
    /// The connection on which was asked last.
    epoch: u64,
    pub(super) roster: Roster,
    pub(super) rubbish: Rubbish,
    pub(super) own: HashMap<NodeId, Own>,
    pub(super) claims: HashMap<NodeId, Claim>,
    pub(super) due: Vec<Due>,
    pub(super) gone: Gone,
    pub(super) pinged: Instant,
}

/// A node that we speak for.
#[derive(Debug)]
pub(super) struct Own {
    pub(super) info: NodeInfo,
    pub(super) since: Instant,
    pub(super) beat: Instant,
}

/// One that asked who has its id.
#[derive(Debug)]
pub(super) struct Claim {
    pub(super) info: NodeInfo,
    until: Instant,
    reply: oneshot::Sender<Result<(), Error>>,
}

impl Host {
    pub(crate) async fn listen(
        connection: Arc<Connection>,
        timeout: Duration,
        ignored: Arc<AtomicU64>,
    ) -> Result<Self, Error> {
        let inbox = Subject::from(connection.client.new_inbox());
        let epoch = connection.link.epoch();
        let answers = connection.subscribe("watch", inbox.clone(), None).await?;
        let names = &connection.names;
        let words = connection.subscribe("watch", names.nodes(), None);
        let beats = connection.subscribe("watch", names.beats(), None);
        let reported = connection.subscribe("watch", names.reports(), None);
        let (words, beats, reported) = tokio::try_join!(words, beats, reported)?;
        Ok(Self {
            connection,
            timeout,
            words,
            beats: Some(beats),
            deaf: false,
            again: Instant::now(),
            reported: Some(reported),
            reports: Reports::new(timeout),
            named: Vec::new(),
            inbox,
            answers,
            epoch,
            roster: Roster::new(timeout),
            rubbish: Rubbish::new(ignored),
            own: HashMap::new(),
            claims: HashMap::new(),
            due: Vec::new(),
            gone: Gone::new(timeout),
            pinged: Instant::now(),
        })
    }

    /// Asks everybody, and hears the answers for a moment: those that come later are heard, too.
    pub(crate) async fn ask_around(&mut self) -> Result<(), Error> {
        let [least, more, most] = ANSWERS;
        let began = Instant::now();
        let mut until = began + least;
        self.ask(Word::question())?;
        loop {
            select! {
                biased;
                answer = self.answers.next() => match answer {
                    Some(answer) => {
                        self.hear_answer(&answer);
                        until = until.max(Instant::now() + more).min(began + most);
                    }
                    None => return Err(error::closed("watch")),
                },
                () = sleep_until(until) => return Ok(()),
            }
        }
    }

    /// Speaks and hears until the connection or the registry is gone.
    pub(crate) async fn run(
        mut self,
        mut orders: mpsc::Receiver<Order>,
        mut questions: mpsc::Receiver<Question>,
    ) {
        let connection = Arc::clone(&self.connection);
        let closed = connection.closed.clone();
        let mut look = Instant::now();
        loop {
            let epoch = self.epoch;
            let again = connection.link.until(|link| link.epoch() != epoch);
            let claimed = self.claims.values().map(|claim| claim.until).min();
            let due = self.due.iter().map(|due| due.at).min();
            let times = claimed.into_iter().chain(due).chain(self.turn());
            let wake = times.fold(look, Instant::min);
            // What was heard comes before what is asked: an answer has all that was said before.
            select! {
                biased;
                () = closed.raised() => return,
                word = self.words.next() => match word {
                    Some(word) => self.hear(&word),
                    None => return,
                },
                beat = next_of(&mut self.beats) => self.hear_beat(&beat),
                answer = self.answers.next() => match answer {
                    Some(answer) => self.hear_answer(&answer),
                    None => return,
                },
                report = next_of(&mut self.reported) => self.hear_report(&report),
                order = orders.recv() => match order {
                    Some(order) => self.obey(order),
                    None => return,
                },
                question = questions.recv() => match question {
                    Some(question) => {
                        self.roster.sweep();
                        self.roster.answer(question.wanted);
                    }
                    None => return,
                },
                () = again => {
                    self.epoch = connection.link.epoch();
                    self.hear_beats();
                    // Many would drown each other; they say within a heartbeat that they live.
                    if self.roster.len() <= FEW {
                        self.ask(Word::question()).unwrap_or_else(unsaid);
                    }
                }
                () = sleep_until(wake) => {
                    self.settle_claims();
                    self.answer_due();
                    self.take_turn();
                    if look <= Instant::now() {
                        self.look();
                        look = Instant::now() + self.roster.every();
                    }
                }
            }
        }
    }

    pub(super) fn say(&self, subject: Subject, word: Bytes) -> Result<(), Error> {
        let said = self.connection.try_publish("say", subject, None, word);
        said.unwrap_or_else(|| Err(error::queue_full("say")))
    }

    pub(super) fn ask(&self, word: Bytes) -> Result<(), Error> {
        let subject = self.connection.names.ask_nodes();
        self.connection
            .try_ask("say", subject, self.inbox.clone(), word)
            .unwrap_or_else(|| Err(error::queue_full("say")))
    }

    /// Says something of a node that we speak for.
    pub(super) fn tell(&self, is: Saying, own: &Own, to: Option<Subject>) -> Result<(), Error> {
        let (up, age) = (own.since.elapsed(), own.beat.elapsed());
        let word = Word::of("say", is, &own.info, up, age)?;
        let to = to.unwrap_or_else(|| self.connection.names.node(&own.info.id));
        self.say(to, word)
    }

    fn obey(&mut self, order: Order) {
        let Order { verb, node, reply } = order;
        let done = match verb {
            Verb::Register => return self.register(node, reply),
            Verb::Heartbeat => self.heartbeat(node),
            Verb::Unregister => self.unregister(&node),
        };
        // Who asked may be gone; then nobody misses the reply.
        let _ = reply.send(done);
    }

    fn register(&mut self, info: NodeInfo, reply: oneshot::Sender<Result<(), Error>>) {
        let own = self.living(&info.id);
        if let Some(own) = own {
            let same = own.info.incarnation == info.incarnation;
            let done = if same {
                self.heartbeat(info)
            } else {
                Err(error::duplicate_node(&info, self.timeout))
            };
            let _ = reply.send(done);
            return;
        }
        let asked = match self.claims.get(&info.id) {
            Some(_) => Err(error::duplicate_node(&info, self.timeout)),
            None => Word::of(
                "register",
                Saying::Asks,
                &info,
                Duration::ZERO,
                Duration::ZERO,
            )
            .and_then(|word| self.ask(word)),
        };
        if let Err(error) = asked {
            let _ = reply.send(Err(error));
            return;
        }
        let known = self.roster.get(info.id.as_str());
        let contested = known.is_some_and(|known| known.incarnation != info.incarnation);
        let wait = if contested {
            CONTESTED.min(self.timeout / 2)
        } else {
            CLAIM.min(self.timeout / 10)
        };
        let claim = Claim {
            until: Instant::now() + wait,
            info,
            reply,
        };
        self.claims.insert(claim.info.id.clone(), claim);
    }

    /// Whose id nobody else has, is there.
    fn settle_claims(&mut self) {
        let now = Instant::now();
        let due = self.claims.values().filter(|claim| claim.until <= now);
        let due: Vec<NodeId> = due.map(|claim| claim.info.id.clone()).collect();
        for id in due {
            let Some(Claim {
                mut info, reply, ..
            }) = self.claims.remove(&id)
            else {
                continue;
            };
            info.started_at = SystemTime::now();
            // Nobody would answer in its name.
            if reply.is_closed() {
                continue;
            }
            let own = Own {
                info: info.clone(),
                since: now,
                beat: now,
            };
            let said = self.tell(Saying::Joined, &own, None);
            if said.is_ok() {
                self.gone.forget(info.incarnation);
                self.own.insert(id, own);
                self.roster.heard(ours(info), Duration::ZERO);
            }
            let _ = reply.send(said);
        }
    }

    pub(super) fn refuse_claim(&mut self, id: &NodeId) {
        if let Some(Claim { info, reply, .. }) = self.claims.remove(id) {
            let _ = reply.send(Err(error::duplicate_node(&info, self.timeout)));
        }
    }

    /// A node that we speak for, and that was not silent for too long.
    fn living(&mut self, id: &NodeId) -> Option<&mut Own> {
        let silent = |own: &Own| own.beat.elapsed() >= self.timeout;
        if self.own.get(id).is_some_and(silent) {
            self.own.remove(id);
        }
        self.own.get_mut(id)
    }

    fn heartbeat(&mut self, mut info: NodeInfo) -> Result<(), Error> {
        let Some(own) = self.living(&info.id) else {
            return Err(self.not_ours("heartbeat", &info));
        };
        if own.info.incarnation != info.incarnation {
            return Err(error::lost_node("heartbeat", &info));
        }
        info.started_at = own.info.started_at;
        let is_news = print(&own.info) != print(&info);
        (own.info, own.beat) = (info.clone(), Instant::now());
        let own = &self.own[&info.id];
        // What all have to know goes to all; that it lives they are told by those who report.
        let to = (!is_news).then(|| self.connection.names.beat(&info.id));
        self.tell(Saying::Lives, own, to)?;
        self.roster.heard(ours(info), Duration::ZERO);
        Ok(())
    }

    fn unregister(&mut self, info: &NodeInfo) -> Result<(), Error> {
        let ours = |own: &mut Own| own.info.incarnation == info.incarnation;
        if !self.own.get_mut(&info.id).is_some_and(ours) {
            let claim = self.claims.get(&info.id);
            if claim.is_some_and(|claim| claim.info.incarnation == info.incarnation) {
                self.claims.remove(&info.id);
                return Ok(());
            }
            let error = self.not_ours("unregister", info);
            let gone = error.kind() == ErrorKind::NotFound;
            return if gone { Ok(()) } else { Err(error) };
        }
        let Some(own) = self.own.remove(&info.id) else {
            return Ok(());
        };
        self.roster.left(info.id.as_str());
        self.gone.note(info.incarnation);
        self.tell(Saying::Left, &own, None)
    }

    /// Why we do not speak for this incarnation.
    fn not_ours(&self, operation: &'static str, info: &NodeInfo) -> Error {
        let known = self.roster.get(info.id.as_str());
        if known.is_some_and(|known| known.incarnation != info.incarnation) {
            error::lost_node(operation, info)
        } else {
            error::unknown_node(operation, info)
        }
    }
}

/// A node of ours, as of now.
fn ours(mut info: NodeInfo) -> NodeInfo {
    info.last_seen = SystemTime::now();
    info
}

#[expect(clippy::needless_pass_by_value, reason = "an outcome hands it over")]
pub(crate) fn unsaid(error: Error) {
    tracing::debug!(%error, "a word to the other nodes was not said");
}
