use super::{Candidates, RoutingStrategy};

/// This node where it answers the request, else nodes in turn.
///
/// What is answered here is not encoded and crosses no network. It also means that nobody shares the work of a busy node.
#[derive(Clone, Copy, Debug, Default)]
pub struct LocalFirst;

impl RoutingStrategy for LocalFirst {
    fn pick(&self, candidates: &Candidates<'_>) -> usize {
        candidates.local().unwrap_or_else(|| candidates.turn())
    }
}
