//! What the server is set to, which decides what a publish that is told to be stored is worth.

use catga_core::{Error, Retry};
use redis::Value;

use crate::options::ServerKind;
use crate::server::Server;
use crate::time::from_now;
use crate::{error, probe, value};

/// Reads the server's settings as far as we may, says what they are worth, and refuses weak ones where that is asked for.
pub(crate) async fn check(server: &Server) -> Result<(), Error> {
    greet(server).await?;
    let info = info(server).await?;
    if let Some(info) = &info {
        // Valkey tells the version of Redis that it is compatible with, which is 7.2.
        let version = field(info, "redis_version").unwrap_or("");
        let major = version
            .split('.')
            .next()
            .and_then(|text| text.parse::<u32>().ok());
        if major.is_some_and(|major| major < 7) {
            return Err(error::too_old(version));
        }
    }
    let settings = Found {
        append_only: setting(server, "appendonly").await?,
        fsync: setting(server, "appendfsync").await?,
        eviction: setting(server, "maxmemory-policy").await?,
        max_memory: setting(server, "maxmemory").await?,
        replicas: info
            .as_deref()
            .and_then(|info| field(info, "connected_slaves")?.parse().ok()),
    };
    let weak = settings.weak();
    let guarantee = settings.guarantee();
    match &weak {
        Some(weak) if server.settings.durable => return Err(error::not_durable(weak)),
        Some(weak) => tracing::warn!(
            server = server.settings.shown_hosts(),
            guarantee,
            "what is stored at QoS 1 and 2 is worth what the server is set to: {weak}"
        ),
        None => tracing::info!(
            server = server.settings.shown_hosts(),
            guarantee,
            "what is stored at QoS 1 and 2 is worth what the server is set to"
        ),
    }
    Ok(())
}

/// A connection that was made is not one yet: the server may ask who we are, or say nothing.
async fn greet(server: &Server) -> Result<(), Error> {
    let within = server.settings.connect_timeout;
    let hosts = server.settings.shown_hosts();
    let ping = redis::cmd("PING");
    match server.ask("connect", "PING", &ping, from_now(within)).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) if error::is_answer(&error) => Err(error::connect(&error, &hosts)),
        Ok(Err(error)) => Err(hung_up(server, &error).await),
        Err(_) => Err(error::connect_timeout(&hosts, within)),
    }
}

/// Why a server that took the connection does not answer.
async fn hung_up(server: &Server, error: &redis::RedisError) -> Error {
    let (settings, hosts) = (&server.settings, server.settings.shown_hosts());
    let told = error::connect(error, &hosts);
    if told.retry() == Retry::Never {
        return told;
    }
    match settings.kind {
        _ if settings.tls.is_some() => error::hung_up(error, &hosts),
        ServerKind::Single => {
            let (host, port) = &settings.hosts[0];
            if probe::speaks_tls(host, *port).await {
                error::needs_tls(&hosts)
            } else {
                told
            }
        }
        _ => told,
    }
}

/// What was found: of each primary of a cluster, of which the weakest counts. Nothing where we may not ask.
#[derive(Debug, Default)]
struct Found {
    append_only: Vec<String>,
    fsync: Vec<String>,
    eviction: Vec<String>,
    max_memory: Vec<String>,
    replicas: Option<u32>,
}

fn any(found: &[String], is: &str) -> bool {
    found.iter().any(|found| found == is)
}

impl Found {
    /// The weakest link.
    fn weak(&self) -> Option<String> {
        let weak = if self.append_only.is_empty() {
            "its settings may not be read (`CONFIG GET`), so that nobody knows"
        } else if any(&self.append_only, "no") {
            "the append-only file is off (`appendonly no`): what was stored since the last snapshot is lost when the server is killed"
        } else if any(&self.fsync, "no") {
            "the append-only file is not synced (`appendfsync no`): seconds may be lost when the machine is"
        } else if self.evicts() {
            "the server evicts keys when its memory is full (`maxmemory-policy`): set noeviction"
        } else {
            return None;
        };
        Some(weak.to_owned())
    }

    /// Streams have no expiry, but the inbox, and what tells duplicates when they are published, have.
    fn evicts(&self) -> bool {
        let bounded = self.max_memory.iter().any(|most| most != "0");
        let mut policies = self.eviction.iter();
        bounded && policies.any(|policy| policy != "noeviction")
    }

    fn guarantee(&self) -> String {
        let disk = if self.append_only.is_empty() {
            "unknown"
        } else if any(&self.append_only, "no") {
            "in memory"
        } else if any(&self.fsync, "no") {
            "on disk when the system writes it"
        } else if any(&self.fsync, "everysec") {
            "on disk within a second or two"
        } else {
            "on disk before it is told"
        };
        match self.replicas {
            Some(replicas) => format!("{disk}, {replicas} replicas, told before they have it"),
            None => disk.to_owned(),
        }
    }
}

async fn info(server: &Server) -> Result<Option<String>, Error> {
    let by = server.call_deadline();
    let mut info = String::new();
    for section in ["server", "replication"] {
        let mut ask = redis::cmd("INFO");
        ask.arg(section);
        match server.ask("connect", "INFO", &ask, by).await? {
            Ok(value) => info.push_str(&text_of(&value)),
            Err(error) if error::is_answer(&error) => return Ok(None),
            Err(error) => return Err(error::of("connect", "INFO", &error)),
        }
    }
    Ok(Some(info))
}

/// The text of an answer; of a cluster's, that of the first node.
fn text_of(value: &Value) -> String {
    match value {
        Value::Map(nodes) => nodes
            .first()
            .map_or_else(String::new, |(_, value)| text_of(value)),
        Value::VerbatimString { text, .. } => text.clone(),
        value => value::text(value).unwrap_or_default().to_owned(),
    }
}

fn field<'a>(info: &'a str, name: &str) -> Option<&'a str> {
    info.lines().find_map(|line| {
        let (known, value) = line.trim().split_once(':')?;
        (known == name).then_some(value)
    })
}

/// What the server is set to, or each primary of a cluster; nothing where we may not ask all of them.
pub(crate) async fn setting(server: &Server, name: &str) -> Result<Vec<String>, Error> {
    let mut ask = redis::cmd("CONFIG");
    ask.arg("GET").arg(name);
    let by = server.call_deadline();
    match server.ask_each("connect", "CONFIG GET", &ask, by).await? {
        Ok(told) => Ok(settings_of(&told).unwrap_or_default()),
        Err(error) if error::is_answer(&error) => Ok(Vec::new()),
        Err(error) => Err(error::of("connect", "CONFIG GET", &error)),
    }
}

fn settings_of(told: &Value) -> Option<Vec<String>> {
    match told {
        Value::Array(pair) => Some(vec![value::text(pair.get(1)?)?.to_owned()]),
        Value::Map(nodes) => {
            let settings = nodes.iter().map(|(_, told)| settings_of(told));
            Some(settings.collect::<Option<Vec<_>>>()?.concat())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(append_only: &str, fsync: &str, policy: &str, max_memory: &str) -> Found {
        Found {
            append_only: vec![append_only.to_owned()],
            fsync: vec![fsync.to_owned()],
            eviction: vec![policy.to_owned()],
            max_memory: vec![max_memory.to_owned()],
            replicas: Some(1),
        }
    }

    #[test]
    fn the_weakest_link_is_named() {
        for (found, part) in [
            (
                found("no", "everysec", "noeviction", "0"),
                Some("`appendonly no`"),
            ),
            (
                found("yes", "no", "noeviction", "0"),
                Some("`appendfsync no`"),
            ),
            (found("yes", "always", "allkeys-lru", "100"), Some("evicts")),
            (found("yes", "always", "allkeys-lru", "0"), None),
            (
                found("yes", "everysec", "volatile-lru", "100"),
                Some("evicts"),
            ),
            (found("yes", "everysec", "noeviction", "100"), None),
            (Found::default(), Some("may not be read")),
        ] {
            let weak = found.weak();
            assert_eq!(weak.is_some(), part.is_some(), "{found:?}");
            assert!(
                part.is_none_or(|part| weak.unwrap().contains(part)),
                "{found:?}"
            );
        }
    }

    #[test]
    fn what_it_is_worth_is_said() {
        let always = found("yes", "always", "noeviction", "0").guarantee();
        assert!(always.starts_with("on disk before it is told"), "{always}");
        assert_eq!(Found::default().guarantee(), "unknown");
    }

    #[test]
    fn the_weakest_node_counts() {
        let text = |text: &str| Value::BulkString(text.into());
        let node = |at: &str, set: &str| {
            let pair = vec![text("appendfsync"), text(set)];
            (text(at), Value::Array(pair))
        };
        let told = Value::Map(vec![node("a:1", "always"), node("b:1", "no")]);
        let mut nodes = found("yes", "always", "noeviction", "0");
        nodes.fsync = settings_of(&told).unwrap();
        assert_eq!(nodes.fsync, ["always", "no"]);
        assert!(nodes.weak().unwrap().contains("`appendfsync no`"));
        assert!(nodes.guarantee().starts_with("on disk when"));
        let refused = Value::Map(vec![node("a:1", "always"), (text("b:1"), Value::Nil)]);
        assert_eq!(settings_of(&refused), None);
    }
}
