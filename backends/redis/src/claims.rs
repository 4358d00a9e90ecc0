//! QoS 2: each id is claimed in the inbox before it is handed out.

use std::collections::VecDeque;
use std::time::Duration;

use catga_core::Owner;
use redis::Value;
use tokio::time::{Instant, sleep};

use crate::claim::{self, Ask, Told};
use crate::group::Group;
use crate::link::jittered;
use crate::receipt::Held;
use crate::source::{Parked, Source};
use crate::value;
use crate::wire::{EntryId, Read};

/// The longest that a copy waits before somebody looks whether the one that runs is done.
const LOOK: Duration = Duration::from_secs(2);
/// How long to wait before the inbox is asked again that did not answer.
const AGAIN: Duration = Duration::from_millis(50);

/// An entry of ours.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) id: EntryId,
    pub(crate) read: Read,
    pub(crate) count: u32,
    /// Whether it may have run before.
    pub(crate) ran: bool,
    /// When its lease began.
    pub(crate) at: Instant,
}

/// What becomes of an entry.
#[derive(Debug)]
pub(crate) enum Verdict {
    /// It is claimed, or has no id to be claimed by.
    Goes(Box<(Entry, Option<Held>)>),
    /// Its id was handled, or dead-lettered.
    Duplicate(EntryId),
}

/// Claims the ids of entries. Those of which a copy is out are put off.
pub(crate) async fn claim(
    group: &Group,
    source: &Source,
    entries: VecDeque<Entry>,
) -> Vec<Verdict> {
    let server = &group.connection.server;
    let limits = server.settings.inbox.unwrap_or_default();
    let (mut verdicts, mut asked) = (Vec::with_capacity(entries.len()), Vec::new());
    // The same owners ask again when an answer is lost.
    let mut asks = Vec::new();
    for entry in entries {
        let Some(message_id) = entry.read.envelope.id() else {
            verdicts.push(Verdict::Goes(Box::new((entry, None))));
            continue;
        };
        let id = message_id.to_string();
        asks.push(Ask {
            key: server
                .names
                .inbox_of(&group.message, &group.who.member, &id),
            owner: Owner::new(),
            generation: entry.read.generation(),
        });
        asked.push(entry);
    }
    if asked.is_empty() {
        return verdicts;
    }
    let told = loop {
        match claim::claim(server, &asks, group.lease, limits.retention).await {
            Ok(told) => break told,
            Err(error) => {
                let age = asked[0].at.elapsed();
                if group.left.is_raised() || server.closed.is_raised() || age >= group.lease {
                    // They come again by their age; what was claimed for them ends with its lease.
                    group.complain(error);
                    return verdicts;
                }
                sleep(jittered(AGAIN)).await;
            }
        }
    };
    let mut put_off = Vec::new();
    for ((mut entry, ask), told) in asked.into_iter().zip(asks).zip(told) {
        match told {
            Told::Granted { attempt, ran, .. } => {
                let held = Held::new(ask.key, ask.owner, limits.retention);
                // Also where the inbox has forgotten what the stream remembers.
                entry.count = attempt.max(entry.count);
                entry.ran |= ran;
                verdicts.push(Verdict::Goes(Box::new((entry, Some(held)))));
            }
            Told::Running { left } => put_off.push(Parked {
                id: entry.id,
                after: left.clamp(AGAIN, LOOK),
                change: -1,
                ran: entry.ran,
            }),
            Told::Completed(_) | Told::Dead { .. } => {
                verdicts.push(Verdict::Duplicate(entry.id));
            }
        }
    }
    if !put_off.is_empty() {
        if let Err(error) = source.park(server, "receive", &group.who, &put_off).await {
            tracing::debug!(message = %group.message, %error, "copies were not put off; they come again when their leases end");
        }
        group.parked.notify_one();
    }
    verdicts
}

/// Whether a script did it: the claim and the entry were still ours.
pub(crate) fn did(told: &Value) -> bool {
    value::int(told).is_some_and(|told| told > 0)
}
