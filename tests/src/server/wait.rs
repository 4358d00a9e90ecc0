//! Waiting for a server, and finding a place for it.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::thread::sleep;
use std::time::{Duration, Instant};

use super::ServerError;

/// The longest that a server may take to do what it is told, on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// Asks again and again until there is an answer.
pub(crate) fn wait_for<T>(
    what: &str,
    mut ask: impl FnMut() -> Result<Option<T>, ServerError>,
) -> Result<T, ServerError> {
    let begun = Instant::now();
    loop {
        if let Some(answer) = ask()? {
            return Ok(answer);
        }
        if begun.elapsed() > PATIENCE {
            return Err(ServerError::new(format!("not within {PATIENCE:?}: {what}")));
        }
        sleep(Duration::from_millis(5));
    }
}

/// A port of the loopback that nobody listens on now. Somebody else may take it before the server does: then the
/// server ends, and its starter tries another one.
pub(crate) fn free_port() -> io::Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?
        .local_addr()?
        .port())
}

pub(crate) fn loopback(port: u16) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, port).into()
}
