//! Whether a [`Host`] hears beats itself, or is told of them by those who report.

use std::time::{Duration, SystemTime};

use async_nats::Message;
use catga_core::{Bytes, NodeInfo};
use futures_util::FutureExt;
use tokio::task::unconstrained;
use tokio::time::Instant;

use super::digest::{Brief, By, Digest, MOST, Report, millis};
use super::entry;
use super::hear::FEW;
use super::host::{Host, unsaid};
use super::reports::{REPORTERS, Reports};
use super::roster::Roster;
use super::told;
use super::word::{Saying, Word};

impl Host {
    /// When something is to be done about reports.
    pub(super) fn turn(&self) -> Option<Instant> {
        let now = Instant::now();
        let due = self.place().map(|place| self.reports.due(place));
        let told = self.beats.is_none();
        let missed = told.then(|| self.reports.until().unwrap_or(now).max(self.again));
        due.into_iter().chain(missed).min()
    }

    /// Reports when it is our turn, and hears beats when we are to report, or are not told enough.
    pub(super) fn take_turn(&mut self) {
        let place = self.place();
        let now = Instant::now();
        if self.beats.is_none() && self.again <= now && !self.reports.suffice(place) {
            self.hear_beats();
        }
        if place.is_some_and(|place| self.reports.due(place) <= now) {
            self.report();
        }
    }

    /// Our place among those who report.
    fn place(&self) -> Option<usize> {
        let mut lowest = self.roster.lowest(REPORTERS);
        lowest.position(|node| {
            let own = self.own.get(&node.id);
            own.is_some_and(|own| own.info.incarnation == node.incarnation)
        })
    }

    /// Hears beats itself from now on, at least for a while.
    pub(super) fn hear_beats(&mut self) {
        self.reports.begin();
        if self.beats.is_some() {
            return;
        }
        let client = &self.connection.client;
        let beats = client.subscribe(self.connection.names.beats());
        match unconstrained(beats).now_or_never() {
            Some(Ok(beats)) => {
                tracing::debug!("beats are heard again");
                (self.beats, self.deaf) = (Some(beats), true);
                self.ping();
                if self.roster.len() <= FEW {
                    self.ask(Word::question()).unwrap_or_else(unsaid);
                }
            }
            refused => {
                tracing::debug!(?refused, "beats cannot be heard");
                self.again = Instant::now() + Reports::every(self.timeout) / 4;
            }
        }
    }

    /// Says something to those who hear beats: what comes back says that we do.
    fn ping(&mut self) {
        self.pinged = Instant::now();
        let echo = self.connection.names.echo();
        self.say(echo, Bytes::new()).unwrap_or_else(unsaid);
    }

    /// Gives up who is silent, as far as beats could be heard.
    pub(super) fn look(&mut self) {
        self.roster.sweep();
        let every = Reports::every(self.timeout);
        let quiet = self.roster.silence() >= every && self.pinged.elapsed() >= every;
        if quiet && self.beats.is_some() && self.connection.link.is_connected() {
            self.ping();
        }
    }

    /// Hears that a node lives, or that we would hear it.
    pub(super) fn hear_beat(&mut self, message: &Message) {
        if std::mem::take(&mut self.deaf) {
            let within = says_so_within(self.timeout, self.roster.len());
            self.roster.resume(within);
        } else {
            self.roster.contact();
        }
        if message.payload.is_empty() {
            return;
        }
        let key = message.subject.rsplit('.').nth(1).unwrap_or_default();
        let word: Word = match entry::decode(&message.payload) {
            Ok(word) => word,
            Err(why) => return self.rubbish.note_again(key, &why),
        };
        let (before, reports) = (self.roster.mark(key), self.place().is_some());
        let lives = word.is == Saying::Lives;
        self.hear_word(Some(key), word);
        let after = self.roster.mark(key);
        if reports && lives && after.is_some() && after != before {
            // We had not heard of it, and so have not others.
            if let Some(node) = self.roster.get(key) {
                let subject = self.connection.names.node(&node.id);
                let said = self.say(subject, message.payload.clone());
                said.unwrap_or_else(unsaid);
            }
        }
    }

    /// Tells everybody who lives.
    fn report(&mut self) {
        let heard = self.roster.silence();
        let node = self.place();
        let node = node.and_then(|place| self.roster.lowest(REPORTERS).nth(place));
        let Some(node) = node.filter(|_| !self.deaf && self.reports.is_recent(heard)) else {
            return self.reports.put_off();
        };
        let digest = Digest {
            by: By(node.id.clone(), node.incarnation),
            every_ms: millis(Reports::every(self.timeout)),
            heard_ms: millis(heard),
            more: false,
            at: None,
            nodes: self.roster.briefs(),
        };
        self.reports.gave();
        match digest.parts(MOST.min(self.connection.max_payload())) {
            Ok(parts) => {
                for part in parts {
                    let subject = self.connection.names.reports();
                    self.say(subject, part).unwrap_or_else(unsaid);
                }
            }
            Err(error) => tracing::debug!(%error, "a report cannot be written"),
        }
    }

    /// Hears who lives, as another tells.
    pub(super) fn hear_report(&mut self, message: &Message) {
        let settled = self.reports.has_settled();
        let report = told::read(message, &self.roster, &mut self.rubbish, settled);
        let Some(Report::Digest(digest)) = report else {
            return;
        };
        let By(id, incarnation) = &digest.by;
        let own = self.own.get(id);
        if own.is_some_and(|own| own.info.incarnation == *incarnation) {
            return;
        }
        let place = self.place();
        let before = |node: &NodeInfo| node.id == *id;
        let is_first = self.roster.lowest(place.unwrap_or_default()).any(before);
        if is_first {
            self.reports.hear_first();
        }
        let usable =
            self.reports.is_often(digest.every()) && self.reports.is_recent(digest.heard());
        if usable {
            self.rely(&digest);
        } else if self.beats.is_some() {
            self.reports.hear(false, digest.more);
        }
        self.speak_up(&digest);
    }

    /// Takes over what a report says, and stops or begins to hear beats by whether that is enough.
    fn rely(&mut self, digest: &Digest) {
        let hears = self.beats.is_some();
        let gone = |node: &Brief| self.gone.has(node.1);
        let enough = take(digest, &mut self.roster, &mut self.reports, hears, gone);
        if !hears && !enough {
            self.hear_beats();
        } else if hears && !self.deaf && self.reports.suffice(self.place()) {
            tracing::debug!("others tell who lives");
            self.beats = None;
        }
    }

    /// Says to all that nodes of ours live which a report leaves out, or has not heard of for longer than they were silent.
    fn speak_up(&mut self, digest: &Digest) {
        let every = Reports::every(self.timeout);
        let mut unheard = Vec::new();
        for node in &digest.nodes {
            let own = self.own.get(&node.0);
            if let Some(own) = own.filter(|own| own.info.incarnation == node.1) {
                self.named.push(node.0.clone());
                if node.age() > own.beat.elapsed() + every {
                    unheard.push(node.0.clone());
                }
            }
        }
        if !digest.more {
            let named = std::mem::take(&mut self.named);
            let left_out = self.own.iter();
            let left_out =
                left_out.filter(|(id, own)| own.since.elapsed() > every && !named.contains(id));
            unheard.extend(left_out.map(|(id, _)| id.clone()));
        }
        for id in unheard {
            let own = self.own.get(&id);
            if let Some(own) = own.filter(|own| own.beat.elapsed() < self.timeout) {
                self.tell(Saying::Lives, own, None).unwrap_or_else(unsaid);
            }
        }
    }
}

/// How long it takes until all that live have said so: a few are asked, and many beat at least twice in a node timeout.
fn says_so_within(timeout: Duration, nodes: usize) -> Duration {
    if nodes <= FEW {
        Reports::every(timeout)
    } else {
        timeout / 4 * 3
    }
}

/// Takes over what a report says; whether that is all we need to know. Who `hears` beats may have missed some before, and
/// relies on nobody who hears less.
fn take(
    digest: &Digest,
    roster: &mut Roster,
    reports: &mut Reports,
    hears: bool,
    gone: impl Fn(&Brief) -> bool,
) -> bool {
    let (clock, now) = (SystemTime::now(), Instant::now());
    let mut told = digest.nodes.iter();
    let enough = told.all(|node| {
        let known = gone(node) || roster.knows(node);
        known && (!hears || roster.is_as_new(node))
    });
    for node in &digest.nodes {
        let seen = clock.checked_sub(node.age()).unwrap_or(clock);
        roster.told(node, seen);
    }
    reports.hear(enough, digest.more);
    if !hears && !digest.more {
        let until = now.checked_sub(digest.heard()).unwrap_or(now);
        roster.contact_until(until);
    }
    enough
}

#[cfg(test)]
mod tests;
