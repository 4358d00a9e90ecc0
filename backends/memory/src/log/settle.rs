//! How deliveries end.

use std::time::Duration;

use catga_core::{ClaimEnd, Error, Reason};
use tokio::time::Instant;

use super::{GroupId, Log, MemberId};
use crate::error;
use crate::group::Job;
use crate::handover::Token;
use crate::leases::Out;
use crate::timer::FAR;

/// What becomes of a delivery.
#[derive(Debug)]
pub(crate) enum Verdict {
    /// It is handled, or dropped for good.
    Done,
    /// Its lease starts anew.
    Extend,
    /// It is ready again after a delay.
    Retry(Duration),
    /// It is ready again after a delay, as if it had not been delivered.
    Defer(Duration),
    /// It is ready at once, as if it had not been delivered, but for what a handler that began may have done.
    Release { began: bool },
    /// It goes into the dead letters.
    DeadLetter(Reason),
}

impl Log {
    /// Settles a delivery, unless its lease ran out before.
    pub(crate) fn settle(
        &mut self,
        token: Token,
        verdict: Verdict,
        now: Instant,
    ) -> Result<(), Error> {
        self.expire_claim(token, now);
        match verdict {
            Verdict::Extend if self.leases.extend(token, now) => return Ok(()),
            Verdict::Extend => return Err(error::lost_ownership("extend")),
            // Checked before the delivery ends: what cannot be stored stays.
            Verdict::DeadLetter(_) if !self.has_room_for_letter(token) => {
                return Err(error::letters_full(&self.name, self.letters.capacity()));
            }
            _ => {}
        }
        let Some(Out {
            mut job,
            group,
            member,
            ..
        }) = self.end(token)
        else {
            self.late_acks += u64::from(matches!(verdict, Verdict::Done));
            tracing::debug!(message = %self.name, late_acks = self.late_acks, "settled after the lease ended");
            return Err(error::lost_ownership("settle"));
        };
        match verdict {
            Verdict::Done => {
                self.complete_claim(member, group, &job, token, now);
                self.finish(group, &job);
            }
            Verdict::Release { began } => {
                job.ran |= began;
                let end = if began {
                    ClaimEnd::Stopped
                } else {
                    ClaimEnd::NotBegun
                };
                self.uncount(group, job, token, end, now);
            }
            Verdict::Retry(after) => {
                job.ran = true;
                self.release_claim(group, &job, token, ClaimEnd::Failed, now);
                self.retry_after(group, job, after, now);
            }
            Verdict::Defer(after) => {
                self.release_claim(group, &job, token, ClaimEnd::NotBegun, now);
                job.count = job.count.saturating_sub(1);
                self.retry_after(group, job, after, now);
            }
            Verdict::DeadLetter(reason) => {
                job.ran = true;
                self.bury_claim(member, group, &job, token, now);
                self.finish(group, &job);
                let once = self.groups[group].once_id(&job);
                let consumers = &self.groups[group].consumers;
                self.letters.keep(group, consumers, job, reason, once);
            }
            Verdict::Extend => unreachable!("returned above"),
        }
        Ok(())
    }

    /// Ends leases first where this one holds a claim: a claim is lost with its lease, whoever looks first. Without
    /// a claim, what comes before anybody noticed still counts.
    fn expire_claim(&mut self, token: Token, now: Instant) {
        let any_over = self.leases.next_deadline().is_some_and(|at| at <= now);
        if any_over
            && let Some(out) = self.leases.get(token)
            && self.groups[out.group].claim_id(&out.job).is_some()
        {
            self.expire(now);
        }
    }

    /// Whether a dead letter can be kept. A delivery that is lost is found so later.
    fn has_room_for_letter(&self, token: Token) -> bool {
        !self.letters.is_full()
            || self.leases.get(token).is_none_or(|out| {
                let once = self.groups[out.group].once_id(&out.job);
                self.letters.has(out.group, &out.job, once)
            })
    }

    /// Ends a delivery: its token means nothing from here on.
    fn end(&mut self, token: Token) -> Option<Out> {
        let out = self.leases.end(token)?;
        if let Some(member) = self.members.get_mut(&out.member) {
            member.held -= 1;
        }
        Some(out)
    }

    /// Makes a job ready again after a delay.
    fn retry_after(&mut self, group: GroupId, job: Job, after: Duration, now: Instant) {
        if after.is_zero() {
            return self.groups[group].retry(job);
        }
        let key = (now + after.min(FAR), self.new_id());
        self.groups[group].delayed += 1;
        self.delayed.insert(key, (group, job));
    }

    /// Puts a job back in front, as if it had not been delivered.
    fn uncount(&mut self, group: GroupId, mut job: Job, token: Token, end: ClaimEnd, now: Instant) {
        self.release_claim(group, &job, token, end, now);
        job.count = job.count.saturating_sub(1);
        self.groups[group].put_back(job);
    }

    /// Copies that waited for the job were handled with it.
    fn complete_claim(
        &mut self,
        member: MemberId,
        group: GroupId,
        job: &Job,
        token: Token,
        now: Instant,
    ) {
        let Some((claims, id)) = self.groups[group].claim_of(job) else {
            return;
        };
        for copy in claims.complete(id, token, now) {
            self.drop_duplicate(group, &copy, member);
        }
    }

    /// Copies that waited for the job are dead with it, but for those that were redriven since.
    fn bury_claim(
        &mut self,
        member: MemberId,
        group: GroupId,
        job: &Job,
        token: Token,
        now: Instant,
    ) {
        let Some((claims, id)) = self.groups[group].claim_of(job) else {
            return;
        };
        for copy in claims.bury(id, token, now) {
            if copy.generation > job.generation {
                self.groups[group].retry(copy);
            } else {
                self.drop_duplicate(group, &copy, member);
            }
        }
    }

    fn release_claim(
        &mut self,
        group: GroupId,
        job: &Job,
        token: Token,
        end: ClaimEnd,
        now: Instant,
    ) {
        if let Some((claims, id)) = self.groups[group].claim_of(job) {
            claims.release(id, token, end, now);
        }
    }

    /// Takes deliveries back that their member never saw, in the order in which they were handed.
    pub(crate) fn give_back(&mut self, tokens: &[Token], now: Instant) {
        for token in tokens.iter().rev() {
            if let Some(Out { job, group, .. }) = self.end(*token) {
                self.uncount(group, job, *token, ClaimEnd::NotBegun, now);
            }
        }
    }

    /// Ends the leases and the delays that are over, and forgets ids that are old enough.
    pub(crate) fn expire(&mut self, now: Instant) {
        let mut unseen = Vec::new();
        while let Some(token) = self.leases.pop_over(now) {
            let Some(out) = self.leases.get(token).filter(|out| out.lapses()) else {
                continue;
            };
            if out.handover.revoke() {
                unseen.push(token);
            } else if let Some(Out { mut job, group, .. }) = self.end(token) {
                job.ran = true;
                self.release_claim(group, &job, token, ClaimEnd::Failed, now);
                self.groups[group].retry(job);
            }
        }
        self.give_back(&unseen, now);
        while let Some(first) = self.delayed.first_entry()
            && first.key().0 <= now
        {
            let (group, job) = first.remove();
            self.groups[group].delayed -= 1;
            self.groups[group].retry(job);
        }
        self.window.expire(now);
        for group in &mut self.groups {
            if let Some(claims) = &mut group.claims {
                claims.expire(now);
            }
        }
    }

    /// Hands a dead letter to its group again. Whether there was one.
    pub(crate) fn redrive(&mut self, number: u64) -> bool {
        let Some((group, job)) = self.letters.take(number) else {
            return false;
        };
        self.groups[group].redriven(job);
        true
    }
}
