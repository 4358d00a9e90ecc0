//! What a `redis://` URL says.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use catga_core::{BackendUrl, ConnectOptions, Error, ErrorKind, InboxLimits};

/// The names of the URL options.
pub(crate) const NAMES: &[&str] = &[
    "call_timeout",
    "claim_idle",
    "cluster",
    "connect_timeout",
    "discovery",
    "durable",
    "manage",
    "max_age",
    "max_len",
    "max_payload",
    "password_file",
    "ring",
    "sentinel",
    "sentinel_password",
    "sentinel_user",
    "tls_ca",
    "tls_cert",
    "tls_key",
    "wait_replicas",
];

/// The port of a server, and that of a sentinel.
const PORTS: (u16, u16) = (6379, 26379);
/// The most that a ring holds: its memory is taken when somebody subscribes.
const MAX_RING: usize = 1 << 20;
/// The largest string that a server takes unless it is told otherwise (`proto-max-bulk-len`).
const MAX_PAYLOAD: usize = 512 * 1024 * 1024;

/// How a connection is made and what is kept how long.
#[derive(Clone)]
pub(crate) struct Settings {
    /// Host and port of each server; of the sentinels, where there are some.
    pub(crate) hosts: Vec<(String, u16)>,
    pub(crate) kind: ServerKind,
    pub(crate) credentials: Credentials,
    pub(crate) tls: Option<Tls>,
    /// The number of the database.
    pub(crate) database: i64,
    pub(crate) connect_timeout: Duration,
    /// How long the server may take for one call that has no deadline of its own.
    pub(crate) call_timeout: Duration,
    /// The least time after which a silent member's messages are taken over.
    pub(crate) claim_idle: Option<Duration>,
    /// The most QoS 0 messages that wait for one subscription.
    pub(crate) ring: usize,
    /// Whether streams and groups are created, or only used.
    pub(crate) manage: bool,
    pub(crate) keep: Keep,
    /// The most bytes of a message.
    pub(crate) max_payload: usize,
    /// How many replicas have to have a message before its publish is told to be stored.
    pub(crate) wait_replicas: Option<u32>,
    /// Whether weak settings of the server are refused.
    pub(crate) durable: bool,
    pub(crate) inbox: Option<InboxLimits>,
    /// How long the id of a publish at QoS 2 is known.
    pub(crate) duplicate_window: Duration,
    /// How long a node may be silent.
    pub(crate) node_timeout: Duration,
    pub(crate) discovery: Discovery,
}

/// What is behind the hosts of a URL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ServerKind {
    /// One server.
    Single,
    /// Some nodes of a cluster.
    Cluster,
    /// Sentinels, who know where this primary is.
    Sentinel {
        name: String,
        credentials: Credentials,
    },
}

/// How nodes are registered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Discovery {
    /// In a sorted set, by the time at which their silence is too long.
    #[default]
    SortedSet,
    /// As keys that expire.
    Keys,
}

impl Discovery {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::SortedSet => "sorted_set",
            Self::Keys => "keys",
        }
    }
}

/// Who we are.
#[derive(Clone, Default, PartialEq, Eq)]
pub(crate) struct Credentials {
    pub(crate) user: Option<String>,
    pub(crate) password: Password,
}

/// A file is read again at each connect, so that what is in it can be changed.
#[derive(Clone, Default, PartialEq, Eq)]
pub(crate) enum Password {
    #[default]
    None,
    Given(String),
    File(PathBuf),
}

/// How the connection is encrypted.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tls {
    pub(crate) ca: Option<PathBuf>,
    pub(crate) identity: Option<(PathBuf, PathBuf)>,
}

/// What streams keep.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Keep {
    /// The most messages of a stream, also of such that nobody has acked: a bound of the user's.
    pub(crate) max_len: Option<u64>,
    /// The oldest message, likewise.
    pub(crate) max_age: Option<Duration>,
}

impl Keep {
    /// The most messages of a stream that no group reads, where nobody says otherwise.
    pub(crate) const WITHOUT_GROUP: u64 = 100_000;

    pub(crate) fn without_group(&self) -> u64 {
        self.max_len.unwrap_or(Self::WITHOUT_GROUP)
    }
}

impl Settings {
    /// Reads a URL, and what is asked for beside it.
    pub(crate) fn read(url: &BackendUrl, options: &ConnectOptions) -> Result<Self, Error> {
        let kind = kind(url)?;
        let port = match kind {
            ServerKind::Sentinel { .. } => PORTS.1,
            _ => PORTS.0,
        };
        let database = database(url)?;
        if kind == ServerKind::Cluster && database != 0 {
            return Err(config(
                "a cluster has the database 0 alone: leave out the path",
            ));
        }
        let hosts = hosts(url, port)?;
        if hosts.len() > 1 && kind == ServerKind::Single {
            return Err(config(
                "the URL has several hosts: say `cluster=true`, or `sentinel=` and the name of the primary",
            ));
        }
        Ok(Self {
            hosts,
            kind,
            credentials: credentials(url)?,
            tls: tls(url)?,
            database,
            connect_timeout: duration(url, "connect_timeout")?.unwrap_or(Duration::from_secs(5)),
            call_timeout: duration(url, "call_timeout")?.unwrap_or(Duration::from_secs(5)),
            claim_idle: duration(url, "claim_idle")?,
            ring: number(url, "ring", MAX_RING)?.unwrap_or(8192),
            manage: flag(url, "manage")?.unwrap_or(true),
            keep: Keep {
                max_len: number(url, "max_len", usize::MAX >> 1)?.map(|most| most as u64),
                max_age: duration(url, "max_age")?,
            },
            max_payload: number(url, "max_payload", MAX_PAYLOAD)?.unwrap_or(MAX_PAYLOAD),
            wait_replicas: number(url, "wait_replicas", 100)?
                .and_then(|number| u32::try_from(number).ok()),
            durable: flag(url, "durable")?.unwrap_or(false),
            inbox: options.inbox,
            duplicate_window: options
                .duplicate_window
                .unwrap_or(ConnectOptions::DUPLICATE_WINDOW),
            node_timeout: options.node_timeout,
            discovery: discovery(url)?,
        })
    }

    /// The hosts, as errors show them.
    pub(crate) fn shown_hosts(&self) -> String {
        let hosts: Vec<_> = self
            .hosts
            .iter()
            .map(|(host, port)| format!("{host}:{port}"))
            .collect();
        hosts.join(", ")
    }
}

fn kind(url: &BackendUrl) -> Result<ServerKind, Error> {
    let cluster = flag(url, "cluster")?.unwrap_or(false);
    match (cluster, url.option("sentinel")) {
        (true, Some(_)) => Err(config(
            "the URL says `cluster` and `sentinel`: leave one out",
        )),
        (true, None) => Ok(ServerKind::Cluster),
        (false, Some("")) => Err(config(
            "`sentinel` is the name of the primary, and it is empty: write sentinel=mymaster",
        )),
        (false, Some(name)) => Ok(ServerKind::Sentinel {
            name: name.to_owned(),
            credentials: Credentials {
                user: url.option("sentinel_user").map(str::to_owned),
                password: match url.option("sentinel_password") {
                    Some(password) => Password::Given(password.to_owned()),
                    None => Password::None,
                },
            },
        }),
        (false, None) => {
            for option in ["sentinel_user", "sentinel_password"] {
                if url.option(option).is_some() {
                    return Err(config(format!(
                        "`{option}` means nothing without `sentinel`"
                    )));
                }
            }
            Ok(ServerKind::Single)
        }
    }
}

fn discovery(url: &BackendUrl) -> Result<Discovery, Error> {
    match url.option("discovery") {
        None => Ok(Discovery::default()),
        Some("sorted_set") => Ok(Discovery::SortedSet),
        Some("keys") => Ok(Discovery::Keys),
        Some(text) => Err(config(format!(
            "the URL option `discovery` is {text:?}: write sorted_set or keys"
        ))),
    }
}

fn hosts(url: &BackendUrl, port: u16) -> Result<Vec<(String, u16)>, Error> {
    let wrong = || config("the URL has a host that is none: write redis://a:6379,b:6379");
    if url.hosts().is_empty() {
        return Err(config("the URL has no host: write redis://localhost:6379"));
    }
    let hosts = url.hosts().split(',').map(|text| {
        let (host, port) = match text.rsplit_once(':') {
            // The colons of an address of version 6 stand in brackets.
            Some((host, number)) if !number.contains(']') => {
                (host, number.parse().map_err(|_| wrong())?)
            }
            _ => (text, port),
        };
        let host = host
            .strip_prefix('[')
            .and_then(|host| host.strip_suffix(']'))
            .unwrap_or(host);
        let odd = |c: char| c.is_whitespace() || "@/[]".contains(c);
        if host.is_empty() || host.contains(odd) || port == 0 {
            return Err(wrong());
        }
        Ok((host.to_owned(), port))
    });
    hosts.collect()
}

fn database(url: &BackendUrl) -> Result<i64, Error> {
    match url.path() {
        "" => Ok(0),
        text => match text.parse::<u32>() {
            Ok(number) => Ok(number.into()),
            Err(_) => Err(config(format!(
                "the path of a redis:// URL is the number of a database, and this one has `/{text}`"
            ))),
        },
    }
}

fn credentials(url: &BackendUrl) -> Result<Credentials, Error> {
    let file = url.option("password_file").map(PathBuf::from);
    let password = match (url.password(), file) {
        (Some(_), Some(_)) => {
            return Err(config(
                "the URL has both a password and `password_file`: leave one out",
            ));
        }
        (Some(password), None) => Password::Given(password.to_owned()),
        (None, Some(file)) => Password::File(file),
        (None, None) => Password::None,
    };
    let user = url.user().map(str::to_owned);
    if user.is_some() && password == Password::None {
        return Err(config(
            "the URL has a user and no password: write redis://user:password@host, or redis://:password@host for the default user",
        ));
    }
    Ok(Credentials { user, password })
}

fn tls(url: &BackendUrl) -> Result<Option<Tls>, Error> {
    let file = |option| url.option(option).map(PathBuf::from);
    let identity = match (file("tls_cert"), file("tls_key")) {
        (Some(certificate), Some(key)) => Some((certificate, key)),
        (None, None) => None,
        _ => {
            return Err(config(
                "`tls_cert` and `tls_key` belong together: give both or neither",
            ));
        }
    };
    let tls = Tls {
        ca: file("tls_ca"),
        identity,
    };
    if url.scheme() == "rediss" {
        return Ok(Some(tls));
    }
    if tls.ca.is_some() || tls.identity.is_some() {
        return Err(config(
            "the URL asks for TLS and begins with redis://: write rediss://",
        ));
    }
    Ok(None)
}

fn duration(url: &BackendUrl, option: &str) -> Result<Option<Duration>, Error> {
    let Some(text) = url.option(option) else {
        return Ok(None);
    };
    match humantime::parse_duration(text) {
        Ok(value) if value >= Duration::from_millis(1) => Ok(Some(value)),
        _ => Err(config(format!(
            "the URL option `{option}` is {text:?}: write a duration as in 500ms, 30s, 7days"
        ))),
    }
}

fn number(url: &BackendUrl, option: &str, max: usize) -> Result<Option<usize>, Error> {
    let Some(text) = url.option(option) else {
        return Ok(None);
    };
    match text.parse() {
        Ok(value) if (1..=max).contains(&value) => Ok(Some(value)),
        _ => Err(config(format!(
            "the URL option `{option}` is {text:?}: allowed are the numbers from 1 to {max}"
        ))),
    }
}

fn flag(url: &BackendUrl, option: &str) -> Result<Option<bool>, Error> {
    match url.option(option) {
        None => Ok(None),
        Some("true") => Ok(Some(true)),
        Some("false") => Ok(Some(false)),
        Some(text) => Err(config(format!(
            "the URL option `{option}` is {text:?}: write true or false"
        ))),
    }
}

fn config(message: impl fmt::Display) -> Error {
    Error::new(ErrorKind::Config, "connect", message.to_string())
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match (&self.user, &self.password) {
            (None, Password::None) => "none",
            (None, _) => "password",
            (Some(_), _) => "user and password",
        })
    }
}

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Settings")
            .field("hosts", &self.hosts)
            .field("kind", &self.kind)
            .field("credentials", &self.credentials)
            .field("tls", &self.tls)
            .field("database", &self.database)
            .field("keep", &self.keep)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use catga_core::Name;

    use super::*;

    fn read(url: &str) -> Result<Settings, Error> {
        let options = ConnectOptions::new(Name::from_static("catga"));
        Settings::read(&url.parse().unwrap(), &options)
    }

    #[test]
    fn hosts_and_options_are_read_and_the_rest_is_default() {
        let set = read("redis://h:7000/3?max_len=5&max_age=2h&manage=false").unwrap();
        assert_eq!(set.hosts, [("h".to_owned(), 7000)]);
        assert_eq!((set.database, set.manage), (3, false));
        let max_age = Some(Duration::from_secs(7200));
        let max_len = Some(5);
        assert_eq!(set.keep, Keep { max_len, max_age });
        let bare = read("redis://h").unwrap();
        assert_eq!(bare.hosts, [("h".to_owned(), 6379)]);
        assert_eq!((bare.keep.without_group(), bare.ring), (100_000, 8192));
        assert_eq!(bare.credentials, Credentials::default());
        assert!(bare.tls.is_none() && bare.manage);
        assert_eq!(bare.discovery, Discovery::SortedSet);
        let keys = read("redis://h?discovery=keys").unwrap();
        assert_eq!(keys.discovery, Discovery::Keys);
        let six = read("redis://[::1]:7001").unwrap();
        assert_eq!(six.hosts, [("::1".to_owned(), 7001)]);
    }

    #[test]
    fn what_is_behind_the_hosts_is_said() {
        let cluster = read("redis://a:1,b:2?cluster=true").unwrap();
        assert_eq!(
            (cluster.kind, cluster.hosts.len()),
            (ServerKind::Cluster, 2)
        );
        let sentinel = read("redis://a,b?sentinel=main&sentinel_password=p").unwrap();
        assert_eq!(sentinel.hosts[1].1, 26379);
        assert!(matches!(sentinel.kind, ServerKind::Sentinel { name, .. } if name == "main"));
    }

    #[test]
    fn who_we_are_is_read_from_where_it_stands() {
        let of = |url: &str| read(url).unwrap().credentials;
        assert_eq!(of("redis://u:p%40@h").user.as_deref(), Some("u"));
        assert!(of("redis://u:p%40@h").password == Password::Given("p@".to_owned()));
        assert!(of("redis://:p@h").password == Password::Given("p".to_owned()));
        let file = of("redis://u@h?password_file=/p");
        assert!(file.password == Password::File("/p".into()));
    }

    #[test]
    fn a_bad_value_is_named_with_what_is_allowed() {
        for (url, part) in [
            ("redis://", "no host"),
            ("redis://a,,b", "a host that is none"),
            ("redis://a:x", "a host that is none"),
            ("redis://a,b", "several hosts"),
            ("redis://h/x", "the number of a database"),
            ("redis://u@h", "no password"),
            ("redis://u:p@h?password_file=/p", "both a password"),
            ("rediss://h?tls_cert=/c", "belong together"),
            ("redis://h?tls_ca=/c", "write rediss://"),
            ("redis://h/1?cluster=true", "database 0"),
            ("redis://h?cluster=true&sentinel=m", "leave one out"),
            ("redis://h?sentinel=", "it is empty"),
            ("redis://h?sentinel_user=u", "without `sentinel`"),
            ("redis://h?max_len=0", "from 1 to"),
            ("redis://h?max_age=7", "`max_age` is \"7\""),
            ("redis://h?manage=yes", "write true or false"),
            ("redis://h?discovery=kv", "write sorted_set or keys"),
        ] {
            let error = read(url).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Config, "{url}");
            assert!(error.message().contains(part), "{url}: {error}");
        }
    }

    #[test]
    fn secrets_are_never_shown() {
        for url in [
            "redis://u:sentinel_@h",
            "redis://:sentinel_@h",
            "redis://h?sentinel=m&sentinel_password=sentinel_",
        ] {
            let shown = format!("{:?}", read(url).unwrap());
            assert!(!shown.contains("sentinel_"), "{shown}");
        }
        let error = read("redis://u:sentinel_@h?password_file=/p").unwrap_err();
        assert!(!format!("{error:?}").contains("sentinel_"), "{error:?}");
    }
}
