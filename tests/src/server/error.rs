//! What went wrong with a server.

use std::fmt;
use std::io;

/// What went wrong with a server, in words: for whoever reads the output of a test.
#[derive(Debug)]
pub struct ServerError(String);

impl ServerError {
    pub(crate) fn new(what: impl Into<String>) -> Self {
        Self(what.into())
    }

    /// Whether a server's log, which is in it, says that somebody else took a port that was free.
    pub(crate) fn says_a_port_was_taken(&self) -> bool {
        says_a_port_was_taken(&self.0)
    }
}

/// Whether a text says that somebody else took a port that was free.
pub(super) fn says_a_port_was_taken(text: &str) -> bool {
    text.to_ascii_lowercase().contains("address already in use")
}

impl fmt::Display for ServerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for ServerError {}

impl From<io::Error> for ServerError {
    fn from(error: io::Error) -> Self {
        Self(error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_that_was_taken_is_told_from_what_else_ends_a_server() {
        let says = |log: &str| ServerError::new(log).says_a_port_was_taken();
        assert!(says(
            "redis-server has ended: # Warning: Could not create server TCP listening socket 127.0.0.1:37059: bind: Address already in use"
        ));
        assert!(says(
            "nats-server has ended: [FTL] Error listening on port: listen tcp 127.0.0.1:4222: bind: address already in use"
        ));
        assert!(!says(
            "redis-server has ended: Can't open the append-only file"
        ));
    }
}
