//! What a [`View`] is told of by those who report, and what it tells when it is one of them.

use std::time::{Duration, SystemTime};

use async_nats::Message;
use catga_core::NodeId;
use tokio::select;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, sleep_until};

use super::digest::{By, Digest, MOST, News, Place, Report, millis};
use super::feed::Feed;
use super::reports::{REPORTERS, Reports, next_of};
use super::roster::{Question, Roster};
use super::rubbish::Rubbish;
use super::view::{Ended, View};

/// So much may the server's time be off that a report tells.
const CLOSE: Duration = Duration::from_secs(2);
/// So long for each node that may read the bucket at the same moment.
const EACH: Duration = Duration::from_millis(10);
/// Under what rubbish among reports is counted.
const REPORTS: &str = "a report";

impl View {
    /// Relies on what others tell, until they tell too little, or somebody asks.
    pub(super) async fn be_told(
        &mut self,
        lost: u64,
        questions: &mut mpsc::Receiver<Question>,
    ) -> Ended {
        tracing::debug!("the node registry is told of by others");
        let closed = self.connection.closed.clone();
        let (connection, moved) = (self.connection.clone(), self.moved.clone());
        let cut = Feed::cut(&connection, lost);
        tokio::pin!(cut);
        let mut ticks = self.ticks();
        while let Some(until) = self.reports.until() {
            if self.place().is_some() {
                break;
            }
            select! {
                biased;
                () = closed.raised() => return Ended::Done,
                report = next_of(&mut self.reported) => if !self.hear(&report) {
                    break;
                },
                () = &mut cut => break,
                () = moved.notified() => break,
                question = questions.recv() => match question {
                    // All that was written before is in the answer, and what changes from then on is told.
                    Some(question) => {
                        self.waiting.push(question);
                        break;
                    }
                    None => return Ended::Done,
                },
                () = sleep_until(until) => break,
                _ = ticks.tick() => self.roster.sweep(),
            }
        }
        self.take_a_moment(questions).await;
        tracing::debug!("the node registry is followed again");
        Ended::Told
    }

    /// Those who were told of the nodes miss it at one moment when nobody tells any more, or all are told the same that is wrong. They do
    /// not read the bucket all at once.
    async fn take_a_moment(&mut self, questions: &mut mpsc::Receiver<Question>) {
        // Somebody waits for an answer.
        if !self.waiting.is_empty() {
            return;
        }
        let closed = self.connection.closed.clone();
        let moment = spread(self.roster.len(), self.timeout).mul_f64(fastrand::f64());
        select! {
            biased;
            () = closed.raised() => {}
            question = questions.recv() => self.waiting.extend(question),
            () = sleep(moment) => {}
        }
    }

    /// Our place among those who report.
    pub(super) fn place(&self) -> Option<usize> {
        let own = self.own.pin();
        let mut lowest = self.roster.lowest(REPORTERS);
        lowest.position(|node| own.get(&node.id) == Some(&node.incarnation))
    }

    /// The node of ours that reports.
    pub(super) fn by(&self) -> Option<By> {
        let node = self.roster.lowest(REPORTERS).nth(self.place()?)?;
        Some(By(node.id.clone(), node.incarnation))
    }

    /// Tells everybody who lives.
    pub(super) fn report(&mut self) {
        let heard = self.roster.silence();
        let (Some(by), Some(time)) = (self.by(), self.clock.now()) else {
            return self.reports.put_off();
        };
        if !self.reports.is_recent(heard) {
            return self.reports.put_off();
        }
        self.reports.gave();
        let digest = Digest {
            by,
            every_ms: millis(Reports::every(self.timeout)),
            heard_ms: millis(heard),
            more: false,
            at: Some(Place {
                made: self.made.clone(),
                sequence: self.sequence,
                time,
            }),
            nodes: self.roster.briefs(),
        };
        match digest.parts(MOST.min(self.connection.max_payload())) {
            Ok(parts) => parts.into_iter().for_each(|part| self.say(part)),
            Err(error) => tracing::debug!(%error, "a report cannot be written"),
        }
    }

    /// Tells everybody of a change, so that nobody else has to follow the bucket.
    pub(super) fn tell_news(&self, by: By, key: &str, revision: u64, time: SystemTime) {
        let Ok(id) = NodeId::new(key) else {
            return;
        };
        let news = News {
            by,
            made: self.made.clone(),
            revision,
            time,
            node: self.roster.get(key).cloned(),
            id,
        };
        match Report::News(Box::new(news)).encode() {
            Ok(news) => self.say(news),
            Err(error) => tracing::debug!(%error, "news cannot be written"),
        }
    }

    fn say(&self, report: catga_core::Bytes) {
        let subject = self.connection.names.reports();
        let said = self.connection.try_publish("report", subject, None, report);
        if !matches!(said, Some(Ok(()))) {
            tracing::debug!(?said, "a report was not given");
        }
    }

    /// Hears a report while the bucket is followed: whether it would do.
    pub(super) fn overhear(&mut self, message: &Message) {
        let Some(Report::Digest(digest)) = self.read(message) else {
            return;
        };
        let before = self.roster.lowest(self.place().unwrap_or_default());
        if before.into_iter().any(|node| node.id == digest.by.0) {
            self.reports.hear_first();
        }
        let is_enough = self.is_usable(&digest)
            && digest
                .at
                .as_ref()
                .is_some_and(|at| at.sequence <= self.sequence)
            && digest.nodes.iter().all(|node| self.roster.is_as_new(node));
        self.reports.hear(is_enough, digest.more);
    }

    /// Hears a report that is relied on; whether that can go on.
    fn hear(&mut self, message: &Message) -> bool {
        match self.read(message) {
            Some(Report::Digest(digest)) => self.hear_digest(&digest),
            Some(Report::News(news)) => {
                if news.made != self.made {
                    return false;
                }
                // Both reporters tell.
                if news.revision > self.sequence {
                    self.sequence = news.revision;
                    self.take(news.id.as_str(), news.time, news.node);
                }
                true
            }
            _ => true,
        }
    }

    fn hear_digest(&mut self, digest: &Digest) -> bool {
        let Some(at) = digest.at.as_ref().filter(|_| self.is_usable(digest)) else {
            // Another's may do.
            return true;
        };
        // One that has heard less than we were told may name who left. The server itself is asked for its time.
        let is_older = at.sequence < self.sequence;
        let knows = is_older || digest.nodes.iter().all(|node| self.roster.knows(node));
        let knows = knows && self.clock.is_close(at.time, CLOSE);
        for node in &digest.nodes {
            let seen = at.time.checked_sub(node.age()).unwrap_or(at.time);
            self.roster.told(node, seen);
        }
        self.reports.hear(knows, digest.more);
        if !digest.more {
            let now = Instant::now();
            let heard = now.checked_sub(digest.heard()).unwrap_or(now);
            self.roster.contact_until(heard);
        }
        knows
    }

    /// Whether it is of this bucket, and comes often enough.
    fn is_usable(&self, digest: &Digest) -> bool {
        let often = self.reports.is_often(digest.every());
        let recent = self.reports.is_recent(digest.heard());
        let here = digest.at.as_ref().is_some_and(|at| at.made == self.made);
        often && recent && here
    }

    /// A report of somebody else who may give one.
    fn read(&mut self, message: &Message) -> Option<Report> {
        let settled = self.is_current || self.reports.until().is_some();
        let report = read(message, &self.roster, &mut self.rubbish, settled)?;
        let By(id, incarnation) = report.by()?;
        let is_own = self.own.pin().get(id) == Some(incarnation);
        (!is_own).then_some(report)
    }
}

/// Over how long so many nodes spread what each of them asks of the server: it answers each with all of them.
fn spread(nodes: usize, timeout: Duration) -> Duration {
    let nodes = u32::try_from(nodes).unwrap_or(u32::MAX);
    EACH.saturating_mul(nodes).min(Reports::every(timeout))
}

/// A report of a node that lives; what is none is rubbish. Who has not `settled` need not know yet who lives.
pub(super) fn read(
    message: &Message,
    roster: &Roster,
    rubbish: &mut Rubbish,
    settled: bool,
) -> Option<Report> {
    let report = match Report::decode(&message.payload) {
        Ok(report) => report,
        Err(why) => {
            rubbish.note_again(REPORTS, &why);
            return None;
        }
    };
    let By(id, incarnation) = report.by()?;
    let node = roster.get(id.as_str());
    if node.is_none_or(|node| node.incarnation != *incarnation) {
        if settled {
            rubbish.note_again(REPORTS, "it is of a node that is not there");
        }
        return None;
    }
    Some(report)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_more_there_are_the_further_they_are_apart_but_not_so_far_that_a_silence_is_missed() {
        let timeout = Duration::from_secs(30);
        let of = |nodes| spread(nodes, timeout);
        assert_eq!((of(0), of(3)), (Duration::ZERO, EACH * 3));
        assert_eq!(
            (of(300), of(usize::MAX)),
            (Reports::every(timeout), of(300))
        );
        // Nothing was told for two turns; with this, everybody's time would begin anew after eight.
        let silent = Reports::every(timeout) * 2 + of(usize::MAX);
        assert!(silent < Roster::pulse(timeout) * 2);
    }
}
