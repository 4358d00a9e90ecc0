//! What a [`Host`] hears, and what it says to that.

use std::cmp::Ordering;
use std::time::{Duration, SystemTime};

use async_nats::{Message, Subject};
use catga_core::{Incarnation, NodeId, NodeInfo};
use tokio::time::Instant;

use super::entry;
use super::host::{Host, unsaid};
use super::word::{Saying, Word};

/// Among more than these nobody answers at once: each waits up to a millisecond for each of them.
pub(crate) const FEW: usize = 32;
/// The longest such wait.
const JITTER: Duration = Duration::from_millis(500);
/// The most answers that wait; who is not answered hears the next heartbeat.
const DUE: usize = 1024;
/// Two that joined closer together than this may have done so in either order: a word takes time.
const CLOSE: Duration = Duration::from_millis(250);

/// An answer that is given later.
#[derive(Debug)]
pub(super) struct Due {
    pub(super) at: Instant,
    id: NodeId,
    to: Subject,
}

impl Host {
    /// Hears what was said to all.
    pub(crate) fn hear(&mut self, message: &Message) {
        let subject = message.subject.as_str();
        let key = subject.rsplit('.').next().unwrap_or_default();
        let word: Word = match entry::decode(&message.payload) {
            Ok(word) => word,
            Err(why) => return self.rubbish.note_again(key, &why),
        };
        if *subject == *self.connection.names.ask_nodes() {
            return match (&message.reply, word.is) {
                (Some(to), Saying::Asks) if *to != self.inbox => self.asked(to, word.node),
                (Some(_), Saying::Asks | Saying::Unknown) => {}
                _ => self.rubbish.note_again(key, "it is no question"),
            };
        }
        self.hear_word(Some(key), word);
    }

    /// Hears what was said to us.
    pub(crate) fn hear_answer(&mut self, message: &Message) {
        match entry::decode(&message.payload) {
            Ok(word) => self.hear_word(None, word),
            Err(why) => self.rubbish.note_again("an answer", &why),
        }
    }

    pub(super) fn hear_word(&mut self, key: Option<&str>, word: Word) {
        let (is, age) = (word.is, word.age());
        if is == Saying::Unknown {
            return;
        }
        let named = word.into_node().ok_or_else(|| "it has no node".to_owned());
        let named = named.and_then(|node| match key {
            Some(key) => entry::named(key, node),
            None => Ok(node),
        });
        let node = match named {
            Ok(node) => node,
            Err(why) => return self.rubbish.note_again(key.unwrap_or("an answer"), &why),
        };
        match is {
            Saying::Joined | Saying::Lives if age < self.timeout => self.hear_of(is, node, age),
            Saying::Left => {
                self.gone.note(node.incarnation);
                let known = self.roster.get(node.id.as_str());
                if known.is_some_and(|known| known.incarnation == node.incarnation) {
                    self.roster.left(node.id.as_str());
                }
            }
            _ => {}
        }
    }

    /// A node is there: it may have an id that is ours.
    fn hear_of(&mut self, is: Saying, node: NodeInfo, age: Duration) {
        if is == Saying::Joined {
            self.gone.forget(node.incarnation);
        } else if self.gone.has(node.incarnation) {
            // Said before it left, and late.
            return;
        }
        let other = |info: &NodeInfo| info.incarnation != node.incarnation;
        if self.claims.get(&node.id).is_some_and(|c| other(&c.info)) {
            self.refuse_claim(&node.id);
        }
        let stays = |info: &NodeInfo, since: SystemTime| {
            other(info) && is == Saying::Lives && is_later(info, since, &node)
        };
        if let Some(own) = self.own.get(&node.id).filter(|own| other(&own.info)) {
            let now = SystemTime::now();
            let since = now.checked_sub(own.since.elapsed()).unwrap_or(now);
            if stays(&own.info, since) && own.beat.elapsed() < self.timeout {
                // It has not heard of us.
                return self.tell(Saying::Lives, own, None).unwrap_or_else(unsaid);
            }
            tracing::warn!(node = %node.id, "another incarnation has this node's id now");
            self.own.remove(&node.id);
        }
        let known = self.roster.get(node.id.as_str());
        if !known.is_some_and(|known| stays(known, known.started_at)) {
            self.roster.heard(node, age);
        }
    }

    /// Somebody asks who is there, or who has the id of `claimed`.
    fn asked(&mut self, to: &Subject, claimed: Option<NodeInfo>) {
        let Some(claimed) = claimed else {
            return self.answer_all(to);
        };
        let claim = self.claims.get(&claimed.id);
        if let Some(claim) = claim {
            match order(claim.info.incarnation, claimed.incarnation) {
                Ordering::Equal => {}
                Ordering::Greater => return self.refuse_claim(&claimed.id),
                Ordering::Less => {
                    let (is, none) = (Saying::Lives, Duration::ZERO);
                    let word = Word::of("say", is, &claim.info, none, none);
                    let said = word.and_then(|word| self.say(to.clone(), word));
                    return said.unwrap_or_else(unsaid);
                }
            }
        }
        if let Some(own) = self.own.get(&claimed.id)
            && own.info.incarnation != claimed.incarnation
            && own.beat.elapsed() < self.timeout
        {
            self.tell(Saying::Lives, own, Some(to.clone()))
                .unwrap_or_else(unsaid);
        }
    }

    fn answer_all(&mut self, to: &Subject) {
        let living = self.own.values();
        let living = living.filter(|own| own.beat.elapsed() < self.timeout);
        let many = self.roster.len();
        if many <= FEW {
            for own in living {
                self.tell(Saying::Lives, own, Some(to.clone()))
                    .unwrap_or_else(unsaid);
            }
            return;
        }
        let spread = Duration::from_millis(many as u64).min(JITTER);
        for own in living {
            if self.due.len() < DUE {
                self.due.push(Due {
                    at: Instant::now() + spread.mul_f64(fastrand::f64()),
                    id: own.info.id.clone(),
                    to: to.clone(),
                });
            }
        }
    }

    /// Gives the answers whose time has come, for those of our nodes that are there now.
    pub(super) fn answer_due(&mut self) {
        let now = Instant::now();
        let due: Vec<Due> = self.due.extract_if(.., |due| due.at <= now).collect();
        for Due { id, to, .. } in due {
            let own = self.own.get(&id);
            if let Some(own) = own.filter(|own| own.beat.elapsed() < self.timeout) {
                self.tell(Saying::Lives, own, Some(to))
                    .unwrap_or_else(unsaid);
            }
        }
    }
}

/// Whether one that is there `since` joined later than another of its id. By our own clock, whatever others say of theirs; the
/// time on the way only makes another seem later, so that never both stay.
fn is_later(one: &NodeInfo, since: SystemTime, other: &NodeInfo) -> bool {
    let later = since.duration_since(other.started_at);
    let apart = later.clone().unwrap_or_else(|earlier| earlier.duration());
    if apart < CLOSE {
        order(one.incarnation, other.incarnation) == Ordering::Greater
    } else {
        later.is_ok()
    }
}

fn order(one: Incarnation, other: Incarnation) -> Ordering {
    one.as_uuid().cmp(other.as_uuid())
}
