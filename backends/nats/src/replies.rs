//! Who waits for which reply: one subject with a wildcard for all of them.
//!
//! The client's own requests keep an entry for each one that is never answered; here dropping the waiter removes it.

use std::fmt::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_nats::Message;
use sharded_slab::Slab;
use tokio::sync::oneshot;

/// What follows the prefix of a reply subject: two numbers, and what a request tells, an id and two more.
const ROOM: usize = 96;

/// The waiters of a connection.
#[derive(Debug)]
pub(crate) struct Replies {
    /// What reply subjects begin with, a dot at its end.
    prefix: String,
    waiting: Slab<Waiter>,
    /// Numbers the waiters: the keys of the slab come again after some thousand uses of a place.
    next: AtomicU64,
    late: AtomicU64,
}

#[derive(Debug)]
struct Waiter {
    number: u64,
    sender: oneshot::Sender<Message>,
}

impl Replies {
    /// Waiters whose replies come to subjects under `inbox`.
    pub(crate) fn new(inbox: &str) -> Self {
        Self {
            prefix: format!("{inbox}."),
            waiting: Slab::new(),
            next: AtomicU64::new(0),
            late: AtomicU64::new(0),
        }
    }

    /// The subject of all replies.
    pub(crate) fn wildcard(&self) -> String {
        format!("{}>", self.prefix)
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
    pub(crate) fn deliver(&self, message: Message) {
        let heard = self
            .find(&message.subject)
            .and_then(|key| self.waiting.take(key))
            .is_some_and(|waiter| waiter.sender.send(message).is_ok());
        if !heard {
            self.late.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// The place of the waiter that a subject means, while it waits.
    fn find(&self, subject: &str) -> Option<usize> {
        let token = subject.strip_prefix(&self.prefix)?.split('.').next()?;
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
    pub(crate) answer: oneshot::Receiver<Message>,
}

impl Expected {
    /// The subject to reply to.
    pub(crate) fn subject(&self) -> String {
        self.subject_with(&"")
    }

    /// The same with what it tells of the request, in one allocation.
    pub(crate) fn subject_with(&self, tail: &impl fmt::Display) -> String {
        let Self {
            replies,
            key,
            number,
            ..
        } = self;
        let mut subject = String::with_capacity(replies.prefix.len() + ROOM);
        write!(subject, "{}{key:x}-{number:x}{tail}", replies.prefix).expect("a string takes all");
        subject
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

    fn message(subject: &str) -> Message {
        Message {
            subject: subject.into(),
            reply: None,
            payload: "x".into(),
            headers: None,
            status: None,
            description: None,
            length: 0,
        }
    }

    #[test]
    fn a_reply_finds_its_waiter_and_no_other() {
        let replies = Arc::new(Replies::new("_INBOX.a"));
        let (mut one, mut two) = (replies.expect().unwrap(), replies.expect().unwrap());
        replies.deliver(message(&format!("{}.more.tokens", two.subject())));
        assert!(one.answer.try_recv().is_err());
        assert_eq!(two.answer.try_recv().unwrap().payload, "x");
        replies.deliver(message(&two.subject()));
        assert_eq!(replies.late(), 1, "twice");
        for odd in [
            "_INBOX.a.zz-1",
            "_INBOX.a",
            "other",
            "_INBOX.a.ffffffffffffffffff-1",
        ] {
            replies.deliver(message(odd));
        }
        assert_eq!(replies.late(), 5);
    }

    #[test]
    fn who_gave_up_leaves_nothing_and_its_place_is_not_confused() {
        let replies = Arc::new(Replies::new("_INBOX.a"));
        let mut old = Vec::new();
        for _ in 0..20_000 {
            old.push(replies.expect().unwrap().subject());
        }
        let mut waits = replies.expect().unwrap();
        for subject in &old {
            replies.deliver(message(subject));
        }
        assert_eq!(replies.late(), 20_000);
        assert!(waits.answer.try_recv().is_err());
        replies.deliver(message(&waits.subject()));
        assert!(waits.answer.try_recv().is_ok());
    }
}
