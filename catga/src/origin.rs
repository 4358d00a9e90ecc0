//! What follows from a message that is handled: its id, the same at every attempt.

use std::fmt::Write;
use std::sync::{Arc, OnceLock};

use catga_core::{Effects, Envelope, Headers, MessageId, NodeId};

use crate::sync::atomic::{AtomicU32, Ordering};
use crate::table::Entry;

/// The headers of a trace ([W3C Trace Context](https://www.w3.org/TR/trace-context/), [W3C Baggage](https://www.w3.org/TR/baggage/)).
pub(crate) const TRACE: [&str; 3] = [Headers::TRACEPARENT, "tracestate", BAGGAGE];
pub(crate) const BAGGAGE: &str = "baggage";

/// A message that may be handled again, by the handler that has it now.
///
/// What a handler publishes gets an id that is made of the message's id, the handler and the content, so
/// that an attempt which publishes the same again publishes duplicates, and one that takes another branch
/// publishes something else.
#[derive(Debug)]
pub(crate) struct Origin {
    message: MessageId,
    entry: Arc<Entry>,
    /// Whether this run holds the claim of the message.
    claimed: bool,
    /// Made when it is asked for: a hash costs more than a handler that publishes nothing.
    key: OnceLock<MessageId>,
    published: OnceLock<Box<Tally>>,
    pub(crate) effects: Pending,
}

impl Origin {
    pub(crate) fn new(message: MessageId, entry: Arc<Entry>, claimed: bool) -> Self {
        Self {
            message,
            entry,
            claimed,
            key: OnceLock::new(),
            published: OnceLock::new(),
            effects: Pending::default(),
        }
    }

    /// The same for another run.
    pub(crate) fn again(&self) -> Self {
        Self::new(self.message, Arc::clone(&self.entry), self.claimed)
    }

    /// Whether the handler has a claim on the message.
    pub(crate) fn is_claimed(&self) -> bool {
        self.claimed
    }

    /// The same for every attempt at this message by this handler, and for nothing else. On `each_node`
    /// each node is a handler of its own.
    pub(crate) fn key(&self, node: &NodeId) -> MessageId {
        *self.key.get_or_init(|| {
            // The id alone may be that of another message, which the same group handles.
            let mut handler = format!("{}~{}", self.entry.message, self.entry.group);
            if self.entry.def.options.each_node {
                // Not in the alphabet of names.
                handler.push('~');
                handler.push_str(node.as_str());
            }
            self.message.derive(handler.as_bytes())
        })
    }

    /// The id of what is published now: made of name, version, headers, the node that it is sent to, content, and its count among
    /// equal ones. Never of the order, which a `join!` may turn round.
    pub(crate) fn derive(&self, node: &NodeId, envelope: &Envelope, to: Option<&str>) -> MessageId {
        let mut what = format!("{}~{}", envelope.name(), envelope.version());
        if let Some(to) = to {
            let _ = write!(what, "~to~{to}");
        }
        let headers = envelope.headers().iter();
        // Each attempt has a trace of its own.
        let mut headers: Vec<_> = headers.filter(|h| !TRACE.contains(&h.0)).collect();
        headers.sort_unstable();
        for (name, value) in headers {
            // Lengths keep one pair from being read as another.
            let _ = write!(what, "~{}~{name}~{}~{value}", name.len(), value.len());
        }
        let payload = envelope.payload().as_bytes();
        let payload = payload.map_or(&[][..], |bytes| bytes);
        let content = self.key(node).derive(what.as_bytes()).derive(payload);
        let tally = self.published.get_or_init(|| Box::new(Tally::new(content)));
        match tally.count(content) {
            0 => content,
            before => content.derive(&before.to_be_bytes()),
        }
    }
}

/// Counts contents: a tree that only grows, so that clones of a context can count at once.
#[derive(Debug)]
pub(crate) struct Tally {
    content: MessageId,
    count: AtomicU32,
    children: [OnceLock<Box<Tally>>; 4],
}

impl Tally {
    pub(crate) fn new(content: MessageId) -> Self {
        Self {
            content,
            count: AtomicU32::new(0),
            children: Default::default(),
        }
    }

    /// How often this content was counted before.
    pub(crate) fn count(&self, content: MessageId) -> u32 {
        let mut node = self;
        // The content is a hash: its digits spread evenly.
        let mut digits = content.as_uuid().as_u128();
        while node.content != content {
            let child = &node.children[usize::try_from(digits & 3).expect("two bits")];
            digits >>= 2;
            node = child.get_or_init(|| Box::new(Self::new(content)));
        }
        node.count.fetch_add(1, Ordering::Relaxed)
    }
}

/// What a handler wrote to be committed with its claim, on its way from the handler to the settlement.
#[derive(Debug, Default)]
pub(crate) struct Pending {
    begun: OnceLock<()>,
    ended: OnceLock<Effects>,
}

impl Pending {
    /// Begins the one transaction that there is.
    pub(crate) fn begin(&self) -> bool {
        self.begun.set(()).is_ok()
    }

    pub(crate) fn end(&self, effects: Effects) {
        // Only who began ends.
        let _ = self.ended.set(effects);
    }

    /// What there is to commit; an error when the transaction outlived its handler.
    pub(crate) fn take(&self) -> Result<Option<Effects>, Unfinished> {
        match (self.begun.get(), self.ended.get()) {
            (None, _) => Ok(None),
            (Some(()), Some(effects)) => Ok(Some(effects.clone())),
            (Some(()), None) => Err(Unfinished),
        }
    }
}

/// A transaction that was still open when its handler returned.
#[derive(Debug)]
pub(crate) struct Unfinished;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_contents_are_counted_and_others_are_not() {
        let contents: Vec<_> = (0..1000u32)
            .map(|i| MessageId::from_key(&i.to_string()))
            .collect();
        let tally = Tally::new(contents[0]);
        for round in 0..3 {
            for content in &contents {
                assert_eq!(tally.count(*content), round);
            }
        }
    }

    #[test]
    fn clones_that_count_at_once_get_every_number_once() {
        let tally = Tally::new(MessageId::from_key("other"));
        let content = MessageId::from_key("same");
        let mut counts: Vec<_> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4)
                .map(|_| {
                    scope.spawn(|| (0..1000).map(|_| tally.count(content)).collect::<Vec<_>>())
                })
                .collect();
            let joined = threads
                .into_iter()
                .map(|thread| thread.join().expect("no panic"));
            joined.flatten().collect()
        });
        counts.sort_unstable();
        assert_eq!(counts, (0..4000).collect::<Vec<_>>());
    }
}
