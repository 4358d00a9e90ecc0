use super::{Candidates, RoutingStrategy};

/// Any node, each as likely as another.
///
/// For many callers that each send little: taking turns, all would begin with the same node.
#[derive(Clone, Copy, Debug, Default)]
pub struct Random;

impl RoutingStrategy for Random {
    fn pick(&self, candidates: &Candidates<'_>) -> usize {
        fastrand::usize(..candidates.len())
    }
}
