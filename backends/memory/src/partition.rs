//! The order of a group: a queue per partition, of which one entry is out at a time.

use std::collections::{HashMap, VecDeque};

use crate::group::Job;

/// What an ordered group has to hand out.
#[derive(Debug, Default)]
pub(crate) struct Partitions {
    /// Only those in which something waits or is out, so that memory is bounded by the log.
    lines: HashMap<u16, Line>,
    /// The partitions that may hand out their first, each once, in turn.
    ready: VecDeque<u16>,
    /// How many entries wait in all lines.
    waiting: u64,
}

#[derive(Debug, Default)]
struct Line {
    queue: VecDeque<Job>,
    /// Whether an entry is out, parked or delayed: nobody overtakes it.
    held: bool,
}

impl Partitions {
    /// Puts an entry behind the others of its partition.
    pub(crate) fn push(&mut self, job: Job) {
        let partition = partition_of(&job);
        let line = self.lines.entry(partition).or_default();
        line.queue.push_back(job);
        self.waiting += 1;
        if !line.held && line.queue.len() == 1 {
            self.ready.push_back(partition);
        }
    }

    /// The first of the next partition in turn, which is held from here on.
    pub(crate) fn take(&mut self) -> Option<Job> {
        let partition = self.ready.pop_front()?;
        let line = self
            .lines
            .get_mut(&partition)
            .expect("ready lines are there");
        line.held = true;
        self.waiting -= 1;
        let job = line.queue.pop_front();
        Some(job.expect("ready lines are not empty"))
    }

    /// Puts the entry that held its partition in front of it again.
    pub(crate) fn put_back(&mut self, job: Job) {
        let partition = partition_of(&job);
        let line = self
            .lines
            .get_mut(&partition)
            .expect("a held line is there");
        debug_assert!(line.held, "only who holds a partition is put back");
        line.queue.push_front(job);
        line.held = false;
        self.waiting += 1;
        self.ready.push_back(partition);
    }

    /// Lets the partition of an entry go on: the entry is done with.
    pub(crate) fn free(&mut self, job: &Job) {
        let partition = partition_of(job);
        let line = self
            .lines
            .get_mut(&partition)
            .expect("a held line is there");
        debug_assert!(line.held, "only who holds a partition frees it");
        line.held = false;
        if line.queue.is_empty() {
            self.lines.remove(&partition);
        } else {
            self.ready.push_back(partition);
        }
    }

    pub(crate) fn has_ready(&self) -> bool {
        !self.ready.is_empty()
    }

    pub(crate) fn waiting(&self) -> u64 {
        self.waiting
    }
}

fn partition_of(job: &Job) -> u16 {
    job.entry.envelope.partition().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::SystemTime;

    use catga_core::{Bytes, Envelope, Name, QoS};

    use super::*;
    use crate::group::Entry;

    fn job(seq: u64, partition: u16) -> Job {
        let name = Name::from_static("orders.created");
        let envelope = Envelope::received(name, QoS::AtLeastOnce, Bytes::new())
            .with_partition(Some(partition).filter(|p| *p > 0));
        Job::new(
            seq,
            Arc::new(Entry {
                envelope,
                published_at: SystemTime::now(),
            }),
        )
    }

    fn fill(jobs: &[(u64, u16)]) -> Partitions {
        let mut partitions = Partitions::default();
        for (seq, partition) in jobs {
            partitions.push(job(*seq, *partition));
        }
        partitions
    }

    fn seq(job: Option<&Job>) -> Option<u64> {
        job.and_then(|job| job.seq)
    }

    #[test]
    fn one_of_each_partition_is_out_and_the_others_go_on() {
        let mut p = fill(&[(0, 7), (1, 7), (2, u16::MAX), (3, 0)]);
        let out = [p.take(), p.take(), p.take()];
        assert_eq!(
            out.each_ref().map(|job| seq(job.as_ref())),
            [Some(0), Some(2), Some(3)]
        );
        assert!(p.take().is_none() && p.waiting() == 1);
        p.free(out[0].as_ref().unwrap());
        assert_eq!(seq(p.take().as_ref()), Some(1));
    }

    #[test]
    fn what_is_put_back_is_first_again() {
        let mut p = fill(&[(0, 1), (1, 1), (2, 1)]);
        let first = p.take().unwrap();
        p.put_back(first);
        let again = p.take().unwrap();
        assert_eq!(again.seq, Some(0));
        p.free(&again);
        assert_eq!(seq(p.take().as_ref()), Some(1));
    }

    #[test]
    fn partitions_take_turns() {
        let mut p = fill(&[(0, 1), (1, 1), (2, 1), (3, 2), (4, 2)]);
        let mut order = Vec::new();
        while let Some(job) = p.take() {
            p.free(&job);
            order.extend(job.seq);
        }
        assert_eq!(order, [0, 3, 1, 4, 2]);
        assert!(p.lines.is_empty() && p.ready.is_empty());
    }
}
