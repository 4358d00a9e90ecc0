//! How a server is reached: who we are, over which TLS, and how soon again when it is lost.

use std::sync::Arc;
use std::time::Duration;

use async_nats::Client;
use catga_core::Error;
use tokio::time::timeout_at;

use crate::link::Link;
use crate::options::Settings;
use crate::time::from_now;
use crate::{credentials, error};

/// Makes a connection that is made again by itself, for ever.
pub(crate) async fn client(settings: &Settings, link: &Arc<Link>) -> Result<Client, Error> {
    let mut options = credentials::options(&settings.credentials)
        .await?
        .name(settings.client_name)
        .connection_timeout(settings.connect_timeout)
        .request_timeout(Some(settings.call_timeout))
        .custom_inbox_prefix(&settings.inbox_prefix)
        // Names are checked once, where they are made.
        .skip_subject_validation(true)
        .max_reconnects(None)
        .reconnect_delay_callback(reconnect_delay)
        .require_tls(settings.tls.required)
        .event_callback({
            let link = Arc::clone(link);
            move |event| {
                link.hear(&event);
                std::future::ready(())
            }
        });
    if settings.tls.first {
        options = options.tls_first();
    }
    if let Some(ca) = &settings.tls.ca {
        options = options.add_root_certificates(ca.clone());
    }
    if let Some((certificate, key)) = &settings.tls.identity {
        options = options.add_client_certificate(certificate.clone(), key.clone());
    }
    let servers = settings.servers.iter().map(|server| server.parse());
    let servers: Result<Vec<async_nats::ServerAddr>, _> = servers.collect();
    let servers = servers.map_err(|error| {
        let text = "a host of the nats:// URL is no address of a server";
        Error::new(catga_core::ErrorKind::Config, "connect", text).with_source(error)
    })?;
    let connecting = options.connect(servers);
    let limit = settings.connect_timeout.saturating_mul(2);
    match timeout_at(from_now(limit), connecting).await {
        Ok(connected) => connected.map_err(|error| error::connect(error, &settings.servers)),
        Err(_) => Err(error::connect(
            async_nats::ConnectErrorKind::TimedOut.into(),
            &settings.servers,
        )),
    }
}

/// At once, then twice as long each time up to half a second, so that nobody is taken for silent who only finds the server late; and
/// up to half as long again, so that not all come at once.
fn reconnect_delay(attempts: usize) -> Duration {
    if attempts <= 1 {
        return Duration::ZERO;
    }
    let doubled = u32::try_from(attempts - 2).unwrap_or(u32::MAX).min(4);
    let delay = Duration::from_millis(50 << doubled).min(Duration::from_millis(500));
    delay + delay.mul_f64(fastrand::f64() / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reconnects_are_quick_at_first_and_never_slow() {
        assert_eq!(reconnect_delay(1), Duration::ZERO);
        for attempts in 2..200 {
            let delay = reconnect_delay(attempts);
            assert!(
                delay <= Duration::from_millis(750) && delay >= Duration::from_millis(50),
                "{delay:?}"
            );
        }
    }
}
