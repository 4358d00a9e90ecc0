//! The ids that were published not long ago.

use std::collections::VecDeque;
use std::time::Duration;

use catga_core::{Bytes, Envelope, MessageId, Name, QoS};
use rustc_hash::FxHashMap;
use tokio::time::Instant;

use crate::timer::FAR;

/// The most ids that a window remembers; the oldest go.
const MOST: usize = 1_000_000;

/// What tells a QoS 2 message from others, and from another under the same id.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Print {
    id: MessageId,
    content: u64,
}

impl Print {
    /// The print of a message at QoS 2.
    pub(crate) fn of(envelope: &Envelope) -> Option<Self> {
        let id = envelope
            .id()
            .filter(|_| envelope.qos() == QoS::ExactlyOnce)?;
        let content = envelope.payload().as_bytes().map_or(0, hash);
        Some(Self { id, content })
    }
}

/// A hash that is not to be relied on: all that hangs on it is a warning.
fn hash(bytes: &Bytes) -> u64 {
    const FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;
    let mix = |hash: u64, word: u64| (hash.rotate_left(23) ^ word).wrapping_mul(FACTOR);
    let (words, rest) = bytes.as_chunks::<8>();
    let hash = words.iter().fold(bytes.len() as u64, |hash, word| {
        mix(hash, u64::from_le_bytes(*word))
    });
    rest.iter()
        .fold(hash, |hash, byte| mix(hash, u64::from(*byte)))
}

/// Remembers ids for as long as a publisher may repeat one.
#[derive(Debug)]
pub(crate) struct Window {
    message: Name,
    span: Duration,
    most: usize,
    seen: FxHashMap<MessageId, u64>,
    /// By age.
    order: VecDeque<(Instant, MessageId)>,
    warned: bool,
    /// Ids that were forgotten before their time.
    evicted: u64,
}

impl Window {
    pub(crate) fn new(message: Name, span: Duration) -> Self {
        Self {
            message,
            span: span.min(FAR),
            most: MOST,
            seen: FxHashMap::default(),
            order: VecDeque::new(),
            warned: false,
            evicted: 0,
        }
    }

    /// Whether the id was published within the window.
    pub(crate) fn knows(&mut self, print: Print, now: Instant) -> bool {
        self.expire(now);
        let Some(content) = self.seen.get(&print.id) else {
            return false;
        };
        if *content != print.content && !self.warned {
            self.warned = true;
            tracing::warn!(
                message = %self.message, id = %print.id,
                "an id was published again with another content: the first is kept"
            );
        }
        true
    }

    /// Remembers an id that it does not know.
    pub(crate) fn remember(&mut self, print: Print, now: Instant) {
        if self.order.len() >= self.most
            && let Some((_, oldest)) = self.order.pop_front()
        {
            self.seen.remove(&oldest);
            if self.evicted == 0 {
                tracing::warn!(
                    message = %self.message, most = self.most,
                    "the duplicate window is full: ids are forgotten before it ends, and one that is published again is stored again; make the window shorter"
                );
            }
            self.evicted += 1;
        }
        self.seen.insert(print.id, print.content);
        self.order.push_back((now, print.id));
    }

    /// Forgets what is out of the window.
    pub(crate) fn expire(&mut self, now: Instant) {
        while let Some((seen, id)) = self.order.front()
            && *seen + self.span <= now
        {
            self.seen.remove(id);
            self.order.pop_front();
        }
    }

    /// When [`expire`](Self::expire) is worth a call: later than it could be, so that a burst of publishes is
    /// not followed by a burst of ticks.
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        let (seen, _) = self.order.front()?;
        Some(*seen + self.span + self.span / 16)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SPAN: Duration = Duration::from_secs(120);

    fn print(text: &'static str) -> Print {
        let name = Name::from_static("orders.created");
        let bytes = Bytes::from_static(text.as_bytes());
        let envelope = Envelope::received(name, QoS::ExactlyOnce, bytes);
        Print::of(&envelope.with_id(MessageId::from_key(text))).unwrap()
    }

    fn window(most: usize) -> Window {
        let mut window = Window::new(Name::from_static("orders.created"), SPAN);
        window.most = most;
        window
    }

    #[test]
    fn an_id_is_known_for_as_long_as_the_window_is() {
        let (mut window, now) = (window(10), Instant::now());
        assert!(!window.knows(print("a"), now));
        window.remember(print("a"), now);
        assert!(window.knows(print("a"), now + SPAN - Duration::from_millis(1)));
        assert!(window.next_deadline().unwrap() >= now + SPAN);
        assert!(!window.knows(print("a"), now + SPAN));
        assert!(window.seen.is_empty() && window.next_deadline().is_none());
    }

    #[test]
    fn the_oldest_goes_when_there_are_too_many() {
        let (mut window, now) = (window(2), Instant::now());
        for text in ["a", "b", "c"] {
            window.remember(print(text), now);
        }
        assert!(!window.knows(print("a"), now) && window.knows(print("c"), now));
        assert_eq!((window.seen.len(), window.order.len()), (2, 2));
        assert_eq!(window.evicted, 1);
        // What is over makes room by itself.
        let later = now + SPAN;
        assert!(!window.knows(print("d"), later));
        window.remember(print("d"), later);
        assert_eq!(window.evicted, 1);
    }

    #[test]
    fn another_content_is_a_duplicate_all_the_same() {
        let (mut window, now) = (window(2), Instant::now());
        window.remember(print("a"), now);
        let other = Print {
            content: 0,
            ..print("a")
        };
        assert!(window.knows(print("a"), now) && !window.warned);
        assert!(window.knows(other, now) && window.warned);
    }

    #[test]
    fn the_hash_sees_each_byte() {
        let texts = ["", "\0", "a", "b", "0123456789", "0123456780", "1123456789"];
        let hashes = texts.map(|text| hash(&Bytes::from_static(text.as_bytes())));
        for (i, hash) in hashes.iter().enumerate() {
            assert!(!hashes[..i].contains(hash), "{}", texts[i]);
        }
    }
}
