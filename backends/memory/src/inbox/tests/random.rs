//! Random schedules against a model that has no queues, only facts.

use super::*;

const KEYS: u64 = 4;

#[derive(Clone, Default)]
struct Model {
    owner: Option<(u64, Instant)>,
    ended: Option<(u64, End)>,
    attempts: u32,
    generation: u32,
    ran: bool,
}

#[derive(Clone, Copy, PartialEq)]
enum End {
    Idle,
    Completed,
    Dead,
}

impl Model {
    fn lapse(&mut self, now: Instant) {
        if self.owner.is_some_and(|(_, until)| until <= now) {
            self.owner = None;
            self.ended = None;
            self.ran = true;
        }
    }

    fn claim(&mut self, owner: u64, until: Instant, generation: u32) -> Claimed {
        if let Some((_, End::Completed)) = self.ended {
            return Claimed::Completed(Response::None);
        }
        let dead = matches!(self.ended, Some((_, End::Dead)));
        if dead && generation <= self.generation {
            let generation = self.generation;
            return Claimed::Dead { generation };
        }
        if generation < self.generation {
            return Claimed::Completed(Response::None);
        }
        match self.owner {
            Some((other, until)) if other != owner => {
                return Claimed::Running { until: Some(until) };
            }
            Some(_) => {}
            None => {
                if generation > self.generation {
                    (self.generation, self.attempts) = (generation, 0);
                }
                self.attempts += 1;
            }
        }
        (self.owner, self.ended) = (Some((owner, until)), None);
        granted(self.attempts, self.ran)
    }

    fn holds(&self, owner: u64) -> bool {
        self.owner.is_some_and(|(by, _)| by == owner)
    }

    fn end(&mut self, owner: u64, end: End) {
        (self.owner, self.ended) = (None, Some((owner, end)));
    }

    fn complete(&mut self, owner: u64) -> Result<bool, Lost> {
        if self.ended == Some((owner, End::Completed)) {
            return Ok(false);
        }
        if !self.holds(owner) {
            return Err(Lost);
        }
        self.end(owner, End::Completed);
        Ok(true)
    }

    fn release(&mut self, owner: u64, end: ClaimEnd) -> Result<(), Lost> {
        if matches!(self.ended, Some((by, End::Idle | End::Dead)) if by == owner) {
            return Ok(());
        }
        if !self.holds(owner) {
            return Err(Lost);
        }
        self.ran |= end != ClaimEnd::NotBegun;
        if matches!(end, ClaimEnd::NotBegun | ClaimEnd::Stopped) {
            self.attempts -= 1;
        }
        let ended = if end == ClaimEnd::Dead {
            End::Dead
        } else {
            End::Idle
        };
        self.end(owner, ended);
        Ok(())
    }
}

fn run(seed: u64) {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut f = Fixture::new(100);
    let mut models = vec![Model::default(); usize::try_from(KEYS).unwrap()];
    let mut completions = vec![0; models.len()];
    for step in 1..400 {
        let key = random.u64(..KEYS);
        let at = usize::try_from(key).unwrap();
        let model = &mut models[at];
        // Mostly somebody new or of late.
        let owner = step / 4 + random.u64(..3);
        f.pass(SECOND * random.u32(..3) / 4);
        model.lapse(f.now);
        let until = f.now + SECOND;
        match random.u8(..8) {
            0..=2 => {
                let generation = random.u32(..3);
                let claimed = f.inbox.claim(&key, owner, Some(until), generation, f.now);
                assert_eq!(claimed, model.claim(owner, until, generation));
            }
            3 => {
                let renewed = f.inbox.renew(&key, owner, until, f.now);
                assert_eq!(renewed.is_ok(), model.holds(owner));
                if renewed.is_ok() {
                    model.owner = Some((owner, until));
                }
            }
            4 => {
                let completed = f.inbox.complete(&key, owner, None, f.now);
                assert_eq!(completed, model.complete(owner));
                completions[at] += u32::from(completed == Ok(true));
            }
            _ => {
                use ClaimEnd::{Dead, Failed, NotBegun, Stopped};
                let end = [NotBegun, Stopped, Failed, Failed, Dead][random.usize(..5)];
                let released = f.inbox.release(&key, owner, end, f.now);
                assert_eq!(released, model.release(owner, end));
            }
        }
        let Inbox {
            records,
            leases,
            ended,
            ..
        } = &f.inbox;
        assert_eq!(records.len(), leases.len() + ended.len());
    }
    assert!(completions.iter().all(|count| *count <= 1));
}

#[test]
#[expect(clippy::print_stdout, reason = "a failure shows the seed")]
fn any_schedule_is_answered_as_the_model_does() {
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    for round in 0..500 {
        run(seed.wrapping_add(round));
    }
}
