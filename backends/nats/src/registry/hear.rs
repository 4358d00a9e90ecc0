//! What a [`Host`] hears, and what it says to that.

use std::cmp::Ordering;
use std::sync::Arc;
use std::time::Duration;

use async_nats::{Message, Subject};
use catga_core::{Incarnation, NodeInfo};
use tokio::time::sleep;

use super::entry;
use super::host::{Host, unsaid};
use super::word::{Saying, Word};

/// Among more than these nobody answers at once: each waits up to a millisecond for each of them.
pub(crate) const FEW: usize = 32;
/// The longest such wait.
const JITTER: Duration = Duration::from_millis(500);

impl Host {
    /// Hears what was said to all.
    pub(crate) fn hear(&mut self, message: &Message) {
        self.roster.contact();
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
        self.roster.contact();
        // What we said to ourselves.
        if message.payload.is_empty() {
            return;
        }
        match entry::decode(&message.payload) {
            Ok(word) => self.hear_word(None, word),
            Err(why) => self.rubbish.note_again("an answer", &why),
        }
    }

    fn hear_word(&mut self, key: Option<&str>, word: Word) {
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
        let other = |info: &NodeInfo| info.incarnation != node.incarnation;
        if self.claims.get(&node.id).is_some_and(|c| other(&c.info)) {
            self.refuse_claim(&node.id);
        }
        let stays = |info: &NodeInfo| {
            other(info)
                && is == Saying::Lives
                && order(info.incarnation, node.incarnation) == Ordering::Greater
        };
        if let Some(own) = self.own.get(&node.id).filter(|own| other(&own.info)) {
            if stays(&own.info) && own.beat.elapsed() < self.timeout {
                // It has not heard of us.
                return self.tell(Saying::Lives, own, None).unwrap_or_else(unsaid);
            }
            tracing::warn!(node = %node.id, "another incarnation has this node's id now");
            self.own.remove(&node.id);
        }
        if !self.roster.get(node.id.as_str()).is_some_and(stays) {
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

    fn answer_all(&self, to: &Subject) {
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
            let (up, age) = (own.since.elapsed(), own.beat.elapsed());
            let Ok(word) = Word::of("say", Saying::Lives, &own.info, up, age) else {
                continue;
            };
            let (connection, to) = (Arc::clone(&self.connection), to.clone());
            tokio::spawn(async move {
                sleep(spread.mul_f64(fastrand::f64())).await;
                let by = connection.call_deadline();
                let said = connection.publish("say", to, None, word, by).await;
                said.unwrap_or_else(unsaid);
            });
        }
    }
}

fn order(one: Incarnation, other: Incarnation) -> Ordering {
    one.as_uuid().cmp(other.as_uuid())
}
