use std::time::Duration;

use catga_core::{Name, NodeId, NodeInfo};

use super::{Routes, RoutingStrategy};
use crate::members::{Members, Told};
use crate::view::{Picked, Question};

/// The choice of a node as `send` makes it, without what comes before and after: what the benchmarks measure.
#[derive(Debug)]
pub struct Picker(Members);

impl Picker {
    const REQUEST: &'static str = "Quote";

    /// Of so many nodes.
    #[must_use]
    pub fn new(nodes: u32, strategy: impl RoutingStrategy) -> Self {
        let node = |number: u32| {
            let id = NodeId::token(format!("node-{number}")).expect("a token");
            let node = NodeInfo::new(id, Name::from_static("shop"));
            node.with_requests(vec![Name::from_static(Self::REQUEST)])
        };
        let members = Members::new(&node(0), Routes::all(strategy));
        members.hear(&Told::All((0..nodes).map(node).collect()));
        Self(members)
    }

    /// Picks one, and says whether it is the first.
    #[must_use]
    pub fn pick(&self, key: &str) -> bool {
        let question = Question {
            request: Self::REQUEST,
            key: Some(key),
            entry: None,
        };
        let view = self.0.view();
        let answering = view.answering(Self::REQUEST);
        let answering = answering.expect("all answer it");
        let picked = answering.pick(question, self.0.epoch(), Some(Duration::from_secs(10)));
        matches!(picked, Picked::Here)
    }
}
