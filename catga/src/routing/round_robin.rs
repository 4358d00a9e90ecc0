use super::{Candidates, RoutingStrategy};

/// Nodes take turns, for each request type by itself: the default.
///
/// Each gets the same number of requests, to within one. For handlers that take about the same time each.
#[derive(Clone, Copy, Debug, Default)]
pub struct RoundRobin;

impl RoutingStrategy for RoundRobin {
    fn pick(&self, candidates: &Candidates<'_>) -> usize {
        candidates.turn()
    }
}
