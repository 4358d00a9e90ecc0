//! What handlers commit together with their claims.

use std::fmt;
use std::sync::Arc;

use catga_core::{Bytes, CommitStore, Effects, Error, Name};
use redis::Cmd;

use crate::error;
use crate::server::Server;
use crate::value;

/// The Redis of a connection, in which handlers commit effects together with the claim of their message.
///
/// This is the way to read a value; writing goes through a [`RedisTransaction`] and is done, as a whole, in the script
/// that completes the claim. Whoever knows of the completion reads what was committed.
#[derive(Clone)]
pub struct Redis {
    server: Arc<Server>,
}

impl Redis {
    pub(crate) fn new(server: Arc<Server>) -> Self {
        Self { server }
    }

    /// The value of `key`, when there is one and it is a string.
    ///
    /// # Errors
    /// As any command: [`Unavailable`](catga_core::ErrorKind::Unavailable), [`Timeout`](catga_core::ErrorKind::Timeout),
    /// [`Closed`](catga_core::ErrorKind::Closed) and what the server refuses.
    ///
    /// # Cancel safety
    /// Dropping the future changes nothing.
    pub async fn get(&self, key: &str) -> Result<Option<Bytes>, Error> {
        let mut get = redis::cmd("GET");
        get.arg(key);
        let by = self.server.call_deadline();
        let found = self.server.call("get", key, &get, by).await?;
        Ok(value::bytes(found).map(Bytes::from))
    }

    /// A key that is in one slot of a cluster with everything of a message: on a cluster a handler of `message` can
    /// commit to no others.
    #[must_use]
    pub fn key(&self, message: &Name, key: &str) -> String {
        self.server.names.committed(message, key)
    }
}

impl fmt::Debug for Redis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Redis")
    }
}

impl CommitStore for Redis {
    const NAME: &'static str = "redis";
    type Transaction = RedisTransaction;
}

/// What one handler writes: commands that are run in their order when its claim is completed, or not at all.
///
/// A command that the server refuses (of another type than the key has, say) ends the transaction: the claim is not
/// completed, and as in `MULTI` the commands before it are done.
///
/// # Examples
/// ```
/// use catga_redis::RedisTransaction;
///
/// let mut tx = RedisTransaction::default();
/// tx.put("order-17", "shipped");
/// tx.cmd(["HINCRBY", "stock", "lamp", "-1"]);
/// ```
#[derive(Debug, Default)]
pub struct RedisTransaction {
    commands: Vec<Vec<Bytes>>,
}

impl RedisTransaction {
    /// Adds a command with its arguments.
    pub fn cmd<T: Into<Bytes>>(&mut self, words: impl IntoIterator<Item = T>) {
        let words: Vec<Bytes> = words.into_iter().map(Into::into).collect();
        if !words.is_empty() {
            self.commands.push(words);
        }
    }

    /// Sets the value of `key`.
    pub fn put(&mut self, key: impl Into<Bytes>, value: impl Into<Bytes>) {
        self.cmd([Bytes::from_static(b"SET"), key.into(), value.into()]);
    }

    /// Removes `key` with its value, if it has one.
    pub fn delete(&mut self, key: impl Into<Bytes>) {
        self.cmd([Bytes::from_static(b"DEL"), key.into()]);
    }
}

/// Refuses effects that are of another store.
pub(crate) fn check(operation: &'static str, effects: Option<&Effects>) -> Result<(), Error> {
    match effects {
        Some(effects) if effects.downcast_ref::<RedisTransaction>().is_none() => {
            Err(error::foreign_effects(operation))
        }
        _ => Ok(()),
    }
}

/// Adds what was written to the call of a script: for each command how many words it has, and the words.
pub(crate) fn add(call: &mut Cmd, effects: Option<&Effects>) {
    let transaction = effects.and_then(|effects| effects.downcast_ref::<RedisTransaction>());
    for command in transaction
        .iter()
        .flat_map(|transaction| &transaction.commands)
    {
        call.arg(command.len());
        for word in command {
            call.arg(&word[..]);
        }
    }
}
