//! A server that belongs to one scenario: it is killed, filled, wiped and asked, and nobody else minds.
//!
//! A [`Site`] is a server of the kind that a backend talks to, and what an administrator does to it with the raw client. A
//! [`Subject`](crate::Subject) says by [`with_site`](crate::Subject::with_site) how to start one.

mod certificates;
mod disk;
mod nats;
mod nodes;
mod own;
mod redis;

use std::fmt;
use std::path::PathBuf;

use catga_core::{Name, NodeId, async_trait};

pub use crate::server::{Server, ServerError};
pub use certificates::{Authority, Certificate};
pub(crate) use disk::SmallDisk;
pub use nats::NatsSite;
pub use nodes::Discovery;
pub(crate) use own::OwnServer;
pub use redis::RedisSite;

/// How the server of a scenario is set up. Each is left as the server has it where nothing is said.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct SiteOptions {
    /// The password of the user that clients have to be.
    pub password: Option<String>,
    /// What the server shows to those who connect: without it they are not let in.
    pub certificate: Option<Certificate>,
    /// What the user may do, out of [`Site::permissions`].
    pub permissions: Option<Vec<String>>,
    /// How many bytes the server may store.
    pub room: Option<u64>,
    /// Where it stores them.
    pub folder: Option<PathBuf>,
    /// Who signs the certificates that clients have to show, as a certificate of its own.
    pub clients: Option<PathBuf>,
    /// Whether there is a second server that takes the place of the first when that fails.
    pub stand_by: bool,
}

/// Who connects.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Client {
    /// The user's password.
    pub password: Option<Secret>,
    /// The certificate of the authority that is trusted: with one, nothing is said in plain text.
    pub trusts: Option<PathBuf>,
    /// Its own certificate.
    pub shows: Option<Certificate>,
}

/// A password, and where it stands.
#[derive(Clone, Debug)]
pub enum Secret {
    /// In the URL.
    Given(String),
    /// In a file that the URL names.
    File(PathBuf),
}

/// What a user may not do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lack {
    /// Publish messages.
    Publishing,
    /// Listen to messages of QoS 0.
    Listening,
    /// Make a place where messages are stored.
    Storing,
    /// Hear answers.
    Answers,
}

/// What is counted at a server, of all clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counts {
    /// Groups and members that the server keeps.
    pub consumers: u64,
    /// Subscriptions.
    pub subscriptions: u64,
    /// Connections.
    pub connections: u64,
}

/// What a group has before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backlog {
    /// Delivered, and not settled.
    pub pending: u64,
    /// Not delivered yet.
    pub waiting: u64,
}

/// A server, and what an administrator does to it, with an error where the server does not let him. Messages and groups are those of the namespace `catga`.
#[async_trait]
pub trait Site: fmt::Debug + Send + Sync {
    /// The server.
    fn server(&self) -> &(dyn Server + Send + Sync);

    /// The server.
    fn server_mut(&mut self) -> &mut (dyn Server + Send + Sync);

    /// The URL for a client that reaches it at `host:port`: of itself, or of a proxy.
    fn url(&self, at: &str, client: &Client) -> String;

    /// All that a user needs to do everything, each entry as the backend's documentation lists it.
    fn permissions(&self) -> Vec<String>;

    /// The same without what is needed for one thing.
    fn permissions_without(&self, lack: Lack) -> Vec<String>;

    /// The ids of what is stored under a message's name, in its order.
    async fn stored(&self, message: &Name) -> Result<Vec<String>, ServerError>;

    /// Deletes all that is stored under a message's name, and the place of it: the stream, the key.
    async fn delete(&self, message: &Name) -> Result<(), ServerError>;

    /// Deletes what is stored under a message's name; groups stay.
    async fn empty(&self, message: &Name) -> Result<(), ServerError>;

    /// Deletes a group.
    async fn delete_group(&self, message: &Name, group: &Name) -> Result<(), ServerError>;

    /// Changes a group so that it cannot be what it was made for: it drops what fails twice, say.
    async fn spoil_group(&self, message: &Name, group: &Name) -> Result<(), ServerError>;

    /// What a group has before it; none when there is no such group.
    async fn backlog(&self, message: &Name, group: &Name) -> Result<Option<Backlog>, ServerError>;

    /// Whether a node is a member of an `each_node` group.
    async fn has_member(
        &self,
        message: &Name,
        group: &Name,
        node: &NodeId,
    ) -> Result<bool, ServerError>;

    /// What the server keeps for its clients now.
    ///
    /// # Errors
    /// When it does not answer.
    fn counts(&self) -> Result<Counts, ServerError>;

    /// Deletes all that is kept of nodes, and says whether anything is: not where they only tell each other.
    async fn lose_nodes(&self) -> Result<bool, ServerError>;

    /// What is kept, or told to others, of a node that lives, as it is.
    async fn entry_of(&self, node: &NodeId) -> Result<Vec<u8>, ServerError>;

    /// Keeps, or tells, something under what would be a node's id, as a node would that lives.
    async fn write_entry(&self, id: &str, entry: &[u8]) -> Result<(), ServerError>;

    /// Gives the user another password: who is connected by the old one is sent away.
    ///
    /// # Errors
    /// When the server does not take it.
    fn change_password(&mut self, password: &str) -> Result<(), ServerError>;

    /// Puts the server that stands by in the place of the first, which comes back behind it: killed, or asked to step down.
    ///
    /// # Errors
    /// When none takes over, or none stands by.
    fn fail_over(&mut self, killed: bool) -> Result<(), ServerError> {
        let _ = killed;
        Err(ServerError::new("no server stands by"))
    }

    /// Kills the server that has the messages of a name (SIGKILL).
    ///
    /// # Errors
    /// When it does not run.
    fn kill_server_of(&mut self, message: &Name) -> Result<(), ServerError> {
        let _ = message;
        self.server_mut().kill()
    }

    /// Lets the replica of the server that has the messages of a name stand still (SIGSTOP), until it is to take over: then it has
    /// all that was stored when this was called, and not what is stored when it has returned.
    ///
    /// # Errors
    /// When there is none, or it does not follow.
    fn pause_replica_of(&mut self, message: &Name) -> Result<(), ServerError> {
        let _ = message;
        Err(ServerError::new("there is no replica"))
    }

    /// Waits until another server has the place of the one that was killed, and brings that back behind it.
    ///
    /// # Errors
    /// When none takes over, or none stands by.
    fn replace_killed(&mut self) -> Result<(), ServerError> {
        Err(ServerError::new("no server stands by"))
    }

    /// How many servers have taken the place of others.
    ///
    /// # Errors
    /// When one does not answer, or none stands by.
    fn fail_overs(&self) -> Result<usize, ServerError> {
        Err(ServerError::new("no server stands by"))
    }

    /// Lets the server store as much as it likes.
    ///
    /// # Errors
    /// When it cannot be told so while it runs.
    fn make_room(&mut self) -> Result<(), ServerError> {
        Err(ServerError::new("its room is what it was at the start"))
    }
}
