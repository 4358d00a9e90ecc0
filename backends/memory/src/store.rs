//! What handlers commit together with their claims.

use std::collections::HashMap;

use catga_core::{Bytes, CommitStore, Effects, Error};
use tokio::sync::{mpsc, oneshot};

use crate::error;

/// The store of a bus in which handlers commit effects together with the claim of their message.
///
/// This is the way to read it; writing goes through a [`MemoryTransaction`] and is applied, as a whole,
/// when the claim is completed. Whoever knows of the completion reads what was committed. It lives as long as
/// its bus does, or a clone of this.
#[derive(Clone, Debug)]
pub struct Memory {
    // Without a bound, because a completion cannot wait: there are never more than deliveries that are out.
    commands: mpsc::UnboundedSender<Command>,
}

#[derive(Debug)]
enum Command {
    Apply(Effects),
    Get {
        key: String,
        reply: oneshot::Sender<Option<Bytes>>,
    },
    Len(oneshot::Sender<usize>),
}

impl Memory {
    /// Starts the task that owns the values. It ends when the last handle is gone.
    pub(crate) fn spawn() -> Self {
        let (commands, mut queue) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            let mut values = HashMap::new();
            while let Some(command) = queue.recv().await {
                obey(&mut values, command);
            }
        });
        Self { commands }
    }

    /// The value of `key`, when there is one.
    ///
    /// # Errors
    /// [`Closed`](catga_core::ErrorKind::Closed) when the bus ended with its runtime.
    ///
    /// # Cancel safety
    /// Dropping the future changes nothing.
    pub async fn get(&self, key: &str) -> Result<Option<Bytes>, Error> {
        let key = key.to_owned();
        self.ask("get", |reply| Command::Get { key, reply }).await
    }

    /// How many keys have a value.
    ///
    /// # Errors
    /// [`Closed`](catga_core::ErrorKind::Closed) when the bus ended with its runtime.
    ///
    /// # Cancel safety
    /// Dropping the future changes nothing.
    pub async fn len(&self) -> Result<usize, Error> {
        self.ask("len", Command::Len).await
    }

    /// Whether no key has a value.
    ///
    /// # Errors
    /// [`Closed`](catga_core::ErrorKind::Closed) when the bus ended with its runtime.
    ///
    /// # Cancel safety
    /// Dropping the future changes nothing.
    pub async fn is_empty(&self) -> Result<bool, Error> {
        Ok(self.len().await? == 0)
    }

    /// Applies what [`check`] let pass, before anything that is asked from now on.
    pub(crate) fn apply(&self, effects: Effects) {
        // A store that is gone went with the tasks of its bus.
        let _ = self.commands.send(Command::Apply(effects));
    }

    async fn ask<T>(
        &self,
        operation: &'static str,
        command: impl FnOnce(oneshot::Sender<T>) -> Command,
    ) -> Result<T, Error> {
        let (reply, answer) = oneshot::channel();
        let sent = self.commands.send(command(reply));
        sent.map_err(|_| error::gone(operation))?;
        answer.await.map_err(|_| error::gone(operation))
    }
}

impl CommitStore for Memory {
    const NAME: &'static str = "memory";
    type Transaction = MemoryTransaction;
}

/// What one handler writes: applied in the order in which it was written, or not at all.
///
/// # Examples
/// ```
/// use catga_memory::MemoryTransaction;
///
/// let mut tx = MemoryTransaction::default();
/// tx.put("order-17", "shipped");
/// tx.delete("cart-4");
/// ```
#[derive(Debug, Default)]
pub struct MemoryTransaction {
    /// A value to put, or `None` to delete.
    writes: Vec<(String, Option<Bytes>)>,
}

impl MemoryTransaction {
    /// Sets the value of `key`.
    pub fn put(&mut self, key: impl Into<String>, value: impl Into<Bytes>) {
        self.writes.push((key.into(), Some(value.into())));
    }

    /// Removes `key` with its value, if it has one.
    pub fn delete(&mut self, key: impl Into<String>) {
        self.writes.push((key.into(), None));
    }
}

/// Refuses effects that are of another store.
pub(crate) fn check(operation: &'static str, effects: Option<&Effects>) -> Result<(), Error> {
    match effects {
        Some(effects) if effects.downcast_ref::<MemoryTransaction>().is_none() => {
            Err(error::foreign_effects(operation))
        }
        _ => Ok(()),
    }
}

// Who asked may be gone; then nobody misses the reply.
fn obey(values: &mut HashMap<String, Bytes>, command: Command) {
    match command {
        Command::Apply(effects) => {
            let transaction = effects.downcast_ref::<MemoryTransaction>();
            let writes = transaction.map_or(&[][..], |transaction| &transaction.writes);
            for (key, value) in writes.iter().cloned() {
                match value {
                    Some(value) => values.insert(key, value),
                    None => values.remove(&key),
                };
            }
        }
        Command::Get { key, reply } => {
            let _ = reply.send(values.get(&key).cloned());
        }
        Command::Len(reply) => {
            let _ = reply.send(values.len());
        }
    }
}
