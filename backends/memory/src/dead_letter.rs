//! The dead letters of a bus: each stream keeps its own, this joins them.

use std::sync::Arc;

use catga_core::{
    DeadLetter, DeadLetterFilter, DeadLetterId, DeadLetters, Error, ErrorKind, Page, async_trait,
};
use tokio::sync::oneshot;

use crate::bus::Connection;
use crate::error;
use crate::letters::parse_id;
use crate::stream::{Control, Stream};

/// The store of a bus.
#[derive(Debug)]
pub(crate) struct MemoryDeadLetters {
    connection: Arc<Connection>,
}

impl MemoryDeadLetters {
    pub(crate) fn new(connection: Arc<Connection>) -> Self {
        Self { connection }
    }

    /// The streams that may have what is meant.
    fn streams(&self, filter: &DeadLetterFilter) -> Vec<Arc<Stream>> {
        let streams = self.connection.bus.tables.streams.load();
        match &filter.message {
            Some(name) => streams.get(name).cloned().into_iter().collect(),
            None => streams.values().cloned().collect(),
        }
    }

    /// The stream and the number of a letter, unless no such letter can be.
    fn find(&self, id: &DeadLetterId) -> Option<(Arc<Stream>, u64)> {
        let (number, message) = parse_id(id)?;
        let streams = self.connection.bus.tables.streams.load();
        Some((Arc::clone(streams.get(message)?), number))
    }
}

async fn ask<T>(
    stream: &Stream,
    operation: &'static str,
    control: impl FnOnce(oneshot::Sender<T>) -> Control,
) -> Result<T, Error> {
    let (reply, answer) = oneshot::channel();
    let sent = stream.control.send(control(reply));
    sent.map_err(|_| error::gone(operation))?;
    answer.await.map_err(|_| error::gone(operation))
}

#[async_trait]
impl DeadLetters for MemoryDeadLetters {
    async fn list(
        &self,
        filter: &DeadLetterFilter,
        after: Option<&DeadLetterId>,
        limit: usize,
    ) -> Result<Page, Error> {
        self.connection.check_open("list")?;
        let after = match after {
            Some(id) => Some(parse_id(id).ok_or_else(|| not_found("list", id))?.0),
            None => None,
        };
        let limit = limit.max(1);
        let mut letters: Vec<DeadLetter> = Vec::new();
        for stream in self.streams(filter) {
            // One more than asked for tells whether there is a next page.
            let some = ask(&stream, "list", |reply| Control::ListLetters {
                filter: filter.clone(),
                after,
                limit: limit.saturating_add(1),
                reply,
            });
            letters.extend(some.await?);
        }
        letters.sort_by(|a, b| a.id.cmp(&b.id));
        let more = letters.len() > limit;
        letters.truncate(limit);
        let last = letters.last().map(|letter| letter.id.clone());
        Ok(Page::new(letters, last.filter(|_| more)))
    }

    async fn inspect(&self, id: &DeadLetterId) -> Result<Option<DeadLetter>, Error> {
        self.connection.check_open("inspect")?;
        let Some((stream, number)) = self.find(id) else {
            return Ok(None);
        };
        ask(&stream, "inspect", |reply| Control::InspectLetter {
            number,
            reply,
        })
        .await
    }

    async fn redrive(&self, id: &DeadLetterId) -> Result<(), Error> {
        self.connection.check_open("redrive")?;
        let (stream, number) = self.find(id).ok_or_else(|| not_found("redrive", id))?;
        let found = ask(&stream, "redrive", |reply| Control::Redrive {
            number,
            reply,
        });
        if found.await? {
            Ok(())
        } else {
            Err(not_found("redrive", id))
        }
    }

    async fn purge(&self, filter: &DeadLetterFilter) -> Result<u64, Error> {
        self.connection.check_open("purge")?;
        let mut sum = 0;
        for stream in self.streams(filter) {
            let purged = ask(&stream, "purge", |reply| Control::Purge {
                filter: filter.clone(),
                reply,
            });
            sum += purged.await?;
        }
        Ok(sum)
    }
}

fn not_found(operation: &'static str, id: &DeadLetterId) -> Error {
    Error::new(
        ErrorKind::NotFound,
        operation,
        format!("there is no dead letter `{id}`: it was redriven or purged, or is of another bus"),
    )
}
