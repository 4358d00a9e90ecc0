//! Which node a request goes to: strategies, and how to write one.
//!
//! [`send`](crate::Catga::send) asks a strategy for each request: that of its type
//! ([`routing_for`](crate::CatgaBuilder::routing_for)), else that of the application
//! ([`routing`](crate::CatgaBuilder::routing)), which is [`RoundRobin`] unless said otherwise. A node that is there
//! alone, and one that is named by [`send_to`](crate::Catga::send_to), is not asked about.
//!
//! # Examples
//! Quotes for one product go to one node, which has them in its cache; everything else takes turns:
//! ```
//! # use catga::prelude::*;
//! # use serde::{Deserialize, Serialize};
//! use catga::routing::ConsistentHash;
//!
//! #[derive(Request, Serialize, Deserialize)]
//! #[response(u64)]
//! #[route_by(product)]
//! struct Quote { product: String }
//!
//! #[handler]
//! async fn quote(request: Quote) -> Result<u64> {
//!     Ok(request.product.len() as u64)
//! }
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<()> {
//! let catga = Catga::builder()
//!     .connect("memory://")
//!     .routing_for::<Quote>(ConsistentHash)
//!     .handlers(handlers![quote])
//!     .start()
//!     .await?;
//! assert_eq!(catga.send(Quote { product: "tea".into() }).await?, 3);
//! # catga.shutdown().await?;
//! # Ok(())
//! # }
//! ```
//! A strategy of one's own: those with a label first, and of these the one whose turn it is.
//! ```
//! use catga::routing::{Candidates, RoutingStrategy};
//!
//! #[derive(Debug)]
//! struct SameZone(String);
//!
//! impl RoutingStrategy for SameZone {
//!     fn pick(&self, candidates: &Candidates<'_>) -> usize {
//!         let turn = candidates.turn();
//!         let from_turn_on = (turn..candidates.len()).chain(0..turn);
//!         let near = |i: &usize| {
//!             let zone = candidates.get(*i).node().metadata.get("zone");
//!             zone == Some(&*self.0)
//!         };
//!         from_turn_on.clone().find(near).unwrap_or(turn)
//!     }
//! }
//!
//! let builder = catga::Catga::builder().routing(SameZone("eu-1".into()));
//! ```

mod consistent_hash;
mod least_load;
mod local_first;
pub(crate) mod picker;
mod random;
mod round_robin;
mod routes;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use catga_core::{Load, NodeInfo};

pub use consistent_hash::ConsistentHash;
pub(crate) use consistent_hash::place_of;
pub use least_load::LeastLoad;
pub use local_first::LocalFirst;
pub use random::Random;
pub use round_robin::RoundRobin;
pub(crate) use routes::Routes;

use crate::members::Member;
use crate::table::Entry;

/// Picks which of the nodes that answer a request it goes to.
///
/// It is asked once for each request, on its way: it is to be quick, and must not block. What it picks is tried first; where that
/// fails it is asked again, about those that were not tried.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a routing strategy",
    label = "not a routing strategy",
    note = "those of `catga::routing` are `RoundRobin`, `ConsistentHash`, `LeastLoad`, `Random`, `LocalFirst`; write your own: `impl catga::routing::RoutingStrategy for {Self}`"
)]
pub trait RoutingStrategy: fmt::Debug + Send + Sync + 'static {
    /// Picks one of the candidates, of which there is at least one: its index. One that is too high is taken
    /// modulo their number.
    fn pick(&self, candidates: &Candidates<'_>) -> usize;

    /// Whether it goes by the [key](Candidates::key) of the request. Then
    /// [`start`](crate::CatgaBuilder::start) refuses it for requests without `#[route_by(..)]`.
    fn needs_key(&self) -> bool {
        false
    }
}

/// The nodes that a request can go to: they live, answer it, do not drain, and did not fail just now. They are sorted by id.
pub struct Candidates<'a> {
    pub(crate) members: &'a [Arc<Member>],
    /// Where [`ConsistentHash`] has them.
    pub(crate) places: &'a [u64],
    pub(crate) local: Option<usize>,
    /// What its handler here has to do, where there is one.
    pub(crate) entry: Option<&'a Entry>,
    /// `None` where the turn of the first try is over.
    pub(crate) turns: Option<&'a AtomicUsize>,
    pub(crate) request: &'static str,
    pub(crate) key: Option<&'a str>,
}

impl<'a> Candidates<'a> {
    /// How many there are: at least one.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "there is at least one")]
    pub fn len(&self) -> usize {
        self.members.len()
    }

    /// One of them.
    ///
    /// # Panics
    /// Panics when there are not so many.
    #[must_use]
    pub fn get(&self, index: usize) -> Candidate<'a> {
        let is_local = self.local == Some(index);
        Candidate {
            member: &self.members[index],
            entry: self.entry.filter(|_| is_local),
            is_local,
        }
    }

    /// All of them, in their order.
    #[must_use]
    pub fn iter(&self) -> impl ExactSizeIterator<Item = Candidate<'a>> + '_ {
        (0..self.len()).map(|index| self.get(index))
    }

    /// The index of this node, when it is one of them.
    #[must_use]
    pub fn local(&self) -> Option<usize> {
        self.local
    }

    /// The name of the request.
    #[must_use]
    pub fn request(&self) -> &'static str {
        self.request
    }

    /// The value of the field that `#[route_by(..)]` names; there for strategies that
    /// [need it](RoutingStrategy::needs_key).
    #[must_use]
    pub fn key(&self) -> Option<&'a str> {
        self.key
    }

    /// Whose turn it is: each index after the one before, for each request type by itself. Each call takes a turn. After a failure it is
    /// a random one and takes none: else those who come next would meet the node that failed, again and again.
    #[must_use]
    pub fn turn(&self) -> usize {
        match self.turns {
            Some(turns) => take_turn(turns, self.len()),
            None => fastrand::usize(..self.len()),
        }
    }
}

impl fmt::Debug for Candidates<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ids = self.members.iter().map(|member| &member.info.id);
        f.debug_list().entries(ids).finish()
    }
}

/// The next of `count`. The counter holds an index and no number of calls, so that there is nothing to wrap: whatever number it
/// holds, each follows the one before.
fn take_turn(turns: &AtomicUsize, count: usize) -> usize {
    let now = |held: usize| if held < count { held } else { held % count };
    let after = |held: usize| Some(now(held) + 1);
    let held = turns.fetch_update(Ordering::Relaxed, Ordering::Relaxed, after);
    // It never gives up.
    held.map_or(0, now)
}

/// A node that a request can go to.
#[derive(Clone, Copy)]
pub struct Candidate<'a> {
    member: &'a Member,
    entry: Option<&'a Entry>,
    is_local: bool,
}

impl<'a> Candidate<'a> {
    /// What the registry says of it.
    #[must_use]
    pub fn node(&self) -> &'a NodeInfo {
        &self.member.info
    }

    /// Whether it is this node: what goes there is not encoded, and does not leave the process.
    #[must_use]
    pub fn is_local(&self) -> bool {
        self.is_local
    }

    /// How busy it was at one of its last heartbeats, to within [`Load::STEP`] points.
    #[must_use]
    pub fn load(&self) -> Load {
        self.member.info.load
    }

    /// How many requests of this node wait for it now; of this node, how many calls of the handler run.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        match self.entry {
            Some(entry) => entry.slots.taken(),
            None => self.member.peer.in_flight(),
        }
    }
}

impl fmt::Debug for Candidate<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Candidate")
            .field("node", &self.node().id)
            .field("load", &self.load())
            .field("in_flight", &self.in_flight())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
