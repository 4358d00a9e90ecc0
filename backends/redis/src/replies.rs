//! Who waits for which reply: one channel for all of them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use catga_core::{Name, QoS};
use sharded_slab::Slab;
use tokio::sync::{Notify, oneshot};

use crate::wire::{self, Read, TO};

/// What a reply is called here: its request knows.
const REPLY: Name = Name::from_static("reply");

/// The waiters of a connection.
#[derive(Debug)]
pub(crate) struct Replies {
    channel: String,
    waiting: Slab<Waiter>,
    /// Numbers the waiters: the keys of the slab come again after some thousand uses of a place.
    next: AtomicU64,
    late: AtomicU64,
    /// How often the channel began or ceased to be listened to: odd while it is.
    turns: AtomicU64,
    turned: Notify,
}

#[derive(Debug)]
struct Waiter {
    number: u64,
    sender: oneshot::Sender<Read>,
}

impl Replies {
    /// Waiters whose replies come to this channel.
    pub(crate) fn new(channel: String) -> Self {
        Self {
            channel,
            waiting: Slab::new(),
            next: AtomicU64::new(0),
            late: AtomicU64::new(0),
            turns: AtomicU64::new(0),
            turned: Notify::new(),
        }
    }

    pub(crate) fn channel(&self) -> &str {
        &self.channel
    }

    /// Says whether the channel is listened to. One task does.
    pub(crate) fn set_listening(&self, listening: bool) {
        if (self.turns.load(Ordering::SeqCst) % 2 == 1) != listening {
            self.turns.fetch_add(1, Ordering::SeqCst);
            self.turned.notify_waiters();
        }
    }

    /// Since when the channel is listened to, while it is.
    pub(crate) fn listening(&self) -> Option<u64> {
        let turns = self.turns.load(Ordering::SeqCst);
        (turns % 2 == 1).then_some(turns)
    }

    /// Waits until the channel is listened to, and not without a break since `before`: what was published in a break is
    /// lost. Returns since when, for the next time; 0 is before the first.
    pub(crate) async fn listening_since(&self, before: u64) -> u64 {
        loop {
            // Made before it is read: a turn between the two still wakes it.
            let turned = self.turned.notified();
            if let Some(turns) = self.listening()
                && turns != before
            {
                return turns;
            }
            turned.await;
        }
    }

    /// Waits for one reply; `None` when there are too many waiters.
    pub(crate) fn expect(self: &Arc<Self>) -> Option<Expected> {
        let (sender, answer) = oneshot::channel();
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let key = self.waiting.insert(Waiter { number, sender })?;
        Some(Expected {
            replies: Arc::clone(self),
            key,
            number,
            answer,
        })
    }

    /// Hands a reply to who waits for it. One that nobody waits for, or not any more, is counted.
    pub(crate) fn deliver(&self, frame: Vec<u8>) {
        let read = wire::read_frame(REPLY, QoS::AtLeastOnce, frame);
        let heard = read.is_some_and(|read| {
            let key = read.text(TO).and_then(|token| self.find(token));
            let waiter = key.and_then(|key| self.waiting.take(key));
            waiter.is_some_and(|waiter| waiter.sender.send(read).is_ok())
        });
        if !heard {
            self.late.fetch_add(1, Ordering::Relaxed);
            tracing::debug!("a reply came late, or twice");
        }
    }

    /// The place of the waiter that a token means, while it waits.
    fn find(&self, token: &str) -> Option<usize> {
        let (key, number) = token.split_once('-')?;
        let key = usize::from_str_radix(key, 16).ok()?;
        let number = u64::from_str_radix(number, 16).ok()?;
        (self.waiting.get(key)?.number == number).then_some(key)
    }

    /// How many replies came late or twice.
    pub(crate) fn late(&self) -> u64 {
        self.late.load(Ordering::Relaxed)
    }
}

/// A reply that is waited for. Dropping it ends the wait.
#[derive(Debug)]
pub(crate) struct Expected {
    replies: Arc<Replies>,
    key: usize,
    number: u64,
    pub(crate) answer: oneshot::Receiver<Read>,
}

impl Expected {
    /// Where the reply is to go: the channel and, behind a space, whose it is.
    pub(crate) fn address(&self) -> String {
        format!("{} {:x}-{:x}", self.replies.channel, self.key, self.number)
    }
}

impl Drop for Expected {
    fn drop(&mut self) {
        // The key has a generation: a place that was freed and given to somebody else stays theirs.
        self.replies.waiting.remove(self.key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(address: &str) -> Vec<u8> {
        let (_, token) = address.split_once(' ').unwrap();
        wire::frame(&[(TO, token)], b"x")
    }

    #[test]
    fn a_reply_finds_its_waiter_and_no_other() {
        let replies = Arc::new(Replies::new("c".to_owned()));
        let (mut one, mut two) = (replies.expect().unwrap(), replies.expect().unwrap());
        replies.deliver(frame(&two.address()));
        assert!(one.answer.try_recv().is_err());
        assert!(two.answer.try_recv().is_ok());
        replies.deliver(frame(&two.address()));
        assert_eq!(replies.late(), 1, "twice");
        for odd in ["c zz-1", "c ", "c ffffffffffffffffff-1"] {
            replies.deliver(frame(odd));
        }
        replies.deliver(b"nonsense".to_vec());
        assert_eq!(replies.late(), 5);
    }

    #[test]
    fn who_gave_up_leaves_nothing_and_its_place_is_not_confused() {
        let replies = Arc::new(Replies::new("c".to_owned()));
        let mut old = Vec::new();
        for _ in 0..20_000 {
            old.push(replies.expect().unwrap().address());
        }
        let mut waits = replies.expect().unwrap();
        for address in &old {
            replies.deliver(frame(address));
        }
        assert_eq!(replies.late(), 20_000);
        assert!(waits.answer.try_recv().is_err());
        replies.deliver(frame(&waits.address()));
        assert!(waits.answer.try_recv().is_ok());
    }
}
