use super::{Candidate, Candidates, RoutingStrategy};

/// The less loaded of two nodes that are drawn at random.
///
/// What counts is the load that a node last told, in points of 100, and how many requests of this node wait for it now. Loads are
/// some seconds old: if all went to the least loaded node, it would be the most loaded one when they hear of it. Of two that
/// are drawn the lesser is never the most loaded one, and callers do not all draw the same
/// ([The Power of Two Choices](https://www.eecs.harvard.edu/~michaelm/postscripts/tpds2001.pdf)).
#[derive(Clone, Copy, Debug, Default)]
pub struct LeastLoad;

impl RoutingStrategy for LeastLoad {
    fn pick(&self, candidates: &Candidates<'_>) -> usize {
        let count = candidates.len();
        if count == 1 {
            return 0;
        }
        let first = fastrand::usize(..count);
        // Another than the first, each as likely.
        let second = fastrand::usize(..count - 1);
        let second = second + usize::from(second >= first);
        if busy(&candidates.get(second)) < busy(&candidates.get(first)) {
            second
        } else {
            first
        }
    }
}

fn busy(candidate: &Candidate<'_>) -> usize {
    usize::from(candidate.load().as_percent()) + candidate.in_flight()
}
