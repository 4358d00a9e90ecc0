//! What those who look at the members saw.

use std::collections::BTreeMap;

use crate::checker::history::History;
use crate::evidence::{Event, What};

/// One who looks.
#[derive(Debug)]
pub(super) struct View<'a> {
    pub(super) by: &'a str,
    process: &'a str,
    pub(super) opened: u64,
    closed: Option<u64>,
    /// By node, in the order of time.
    pub(super) listings: BTreeMap<&'a str, Vec<Listing<'a>>>,
}

/// From when to when a node was listed as somebody's.
#[derive(Debug)]
pub(super) struct Listing<'a> {
    pub(super) owner: &'a str,
    pub(super) from: u64,
    pub(super) to: Option<u64>,
    /// It ended because the node became another's.
    pub(super) replaced: bool,
}

impl View<'_> {
    pub(super) fn is_open(&self, at: u64) -> bool {
        self.opened <= at && self.closed.is_none_or(|closed| closed >= at)
    }

    pub(super) fn of(&self, node: &str, owner: &str) -> impl Iterator<Item = &Listing<'_>> {
        let listings = self.listings.get(node).into_iter().flatten();
        listings.filter(move |listing| listing.owner == owner)
    }
}

pub(super) fn views<'a>(history: &'a History<'_>) -> BTreeMap<&'a str, View<'a>> {
    let mut views: BTreeMap<&str, View<'_>> = BTreeMap::new();
    for Event {
        at, process, what, ..
    } in history.events
    {
        match what {
            What::ViewOpened { by } => {
                views.insert(
                    by,
                    View {
                        by,
                        process,
                        opened: *at,
                        closed: None,
                        listings: BTreeMap::new(),
                    },
                );
            }
            What::ViewClosed { by } => {
                if let Some(view) = views.get_mut(by.as_str()) {
                    view.closed = Some(*at);
                }
            }
            What::Killed { process } => {
                for view in views.values_mut().filter(|view| view.process == process) {
                    view.closed.get_or_insert(*at);
                }
            }
            What::NodeSeen { by, node, owner } => {
                if let Some(view) = views.get_mut(by.as_str()) {
                    see(view.listings.entry(node).or_default(), owner, *at);
                }
            }
            What::NodeGone { by, node } => {
                let view = views.get_mut(by.as_str());
                let listings = view.and_then(|view| view.listings.get_mut(node.as_str()));
                if let Some(listing @ Listing { to: None, .. }) =
                    listings.and_then(|all| all.last_mut())
                {
                    listing.to = Some(*at);
                }
            }
            _ => {}
        }
    }
    views
}

fn see<'a>(listings: &mut Vec<Listing<'a>>, owner: &'a str, at: u64) {
    if let Some(last @ Listing { to: None, .. }) = listings.last_mut() {
        if last.owner == owner {
            return;
        }
        (last.to, last.replaced) = (Some(at), true);
    }
    listings.push(Listing {
        owner,
        from: at,
        to: None,
        replaced: false,
    });
}
