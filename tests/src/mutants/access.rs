//! Bugs in how a connection is made.

use std::net::{Ipv4Addr, TcpListener};

use catga::{Error, ErrorKind};
use catga_core::BackendUrl;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

use super::Mutant;

/// The URL that is connected to instead.
///
/// # Errors
/// When there is none.
pub(super) fn instead(mutant: Mutant, url: &BackendUrl) -> Result<BackendUrl, Error> {
    let options = |leave_out: &str| {
        let left = url
            .options()
            .filter(|(name, _)| !name.starts_with(leave_out));
        let left: Vec<_> = left
            .map(|(name, value)| format!("{name}={}", encoded(value)))
            .collect();
        left.join("&")
    };
    match (mutant, url.option("password_file")) {
        (Mutant::ForgetsTls, _) => {
            let scheme = match url.scheme() {
                "tls" => "nats",
                "rediss" => "redis",
                scheme => scheme,
            };
            format!("{scheme}://{}?{}", url.hosts(), options("tls")).parse()
        }
        (Mutant::RemembersThePassword, Some(file)) => {
            let password = std::fs::read_to_string(file).unwrap_or_default();
            let (user, password) = (url.user().unwrap_or_default(), encoded(password.trim()));
            let (scheme, hosts) = (url.scheme(), url.hosts());
            let options = options("password_file");
            format!("{scheme}://{user}:{password}@{hosts}?{options}").parse()
        }
        _ => Ok(url.clone()),
    }
}

/// Listens on a port, for as long as this process lives.
///
/// # Errors
/// When there is none.
pub(super) fn open_a_door() -> Result<(), Error> {
    let none =
        |error| Error::new(ErrorKind::Connect, "connect", "no port is free").with_source(error);
    let door = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).map_err(none)?;
    std::mem::forget(door);
    Ok(())
}

fn encoded(text: &str) -> String {
    utf8_percent_encode(text, NON_ALPHANUMERIC).to_string()
}
