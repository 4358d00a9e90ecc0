//! What a `nats://` URL says.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use async_nats::jetstream::stream::{RetentionPolicy, StorageType};
use catga_core::{BackendUrl, ConnectOptions, Error, ErrorKind, InboxLimits};

/// The names of the URL options.
pub(crate) const NAMES: &[&str] = &[
    "call_timeout",
    "connect_timeout",
    "creds_file",
    "discovery",
    "domain",
    "inbox_prefix",
    "manage",
    "max_age",
    "max_bytes",
    "nkey_file",
    "password_file",
    "pull_heartbeat",
    "replicas",
    "retention",
    "ring",
    "storage",
    "tls",
    "tls_ca",
    "tls_cert",
    "tls_first",
    "tls_key",
    "token",
    "token_file",
];

/// The most that a ring holds: its memory is taken when somebody subscribes.
const MAX_RING: usize = 1 << 20;

/// How a connection is made and what it asks of the server.
#[derive(Clone)]
pub(crate) struct Settings {
    /// The servers, as the client takes them: without credentials.
    pub(crate) servers: Vec<String>,
    /// Who we are.
    pub(crate) credentials: Credentials,
    pub(crate) tls: Tls,
    /// Where replies go.
    pub(crate) inbox_prefix: String,
    /// The JetStream domain.
    pub(crate) domain: Option<String>,
    pub(crate) connect_timeout: Duration,
    /// How long the server may take for one call that has no deadline of its own.
    pub(crate) call_timeout: Duration,
    /// How often the server says that an idle pull is still there.
    pub(crate) pull_heartbeat: Duration,
    /// The most QoS 0 messages that wait for one subscription.
    pub(crate) ring: usize,
    /// Whether streams and consumers are created, or only used.
    pub(crate) manage: bool,
    pub(crate) stream: StreamSettings,
    pub(crate) inbox: Option<InboxLimits>,
    pub(crate) discovery: Discovery,
    /// What the server calls the connection.
    pub(crate) client_name: &'static str,
}

/// By which means nodes find each other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Discovery {
    /// A key-value bucket.
    #[default]
    Kv,
    /// Words that nobody keeps.
    PubSub,
}

/// Who we are. Files are read again at each connect, so that what is in them can be changed.
#[derive(Clone, Default)]
pub(crate) enum Credentials {
    #[default]
    None,
    Password {
        user: String,
        password: String,
    },
    PasswordFile {
        user: String,
        file: PathBuf,
    },
    Token(String),
    TokenFile(PathBuf),
    NkeyFile(PathBuf),
    CredsFile(PathBuf),
}

/// How the connection is encrypted.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tls {
    /// Never without.
    pub(crate) required: bool,
    /// Before the server greets.
    pub(crate) first: bool,
    pub(crate) ca: Option<PathBuf>,
    pub(crate) identity: Option<(PathBuf, PathBuf)>,
}

/// What streams are made with, and are compared with where the URL says it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct StreamSettings {
    pub(crate) replicas: Option<usize>,
    pub(crate) storage: Option<StorageType>,
    pub(crate) retention: Option<RetentionPolicy>,
    pub(crate) max_age: Option<Duration>,
    pub(crate) max_bytes: Option<i64>,
    pub(crate) duplicate_window: Option<Duration>,
}

impl StreamSettings {
    /// How long messages are kept where nobody says otherwise: 7 days.
    pub(crate) const MAX_AGE: Duration = Duration::from_secs(7 * 24 * 60 * 60);
}

impl Settings {
    /// Reads a URL, and what is asked for beside it.
    pub(crate) fn read(url: &BackendUrl, options: &ConnectOptions) -> Result<Self, Error> {
        if !url.path().is_empty() {
            return Err(config(format!(
                "a nats:// URL has no path, and this one has `/{}`",
                url.path()
            )));
        }
        let tls = tls(url)?;
        Ok(Self {
            servers: servers(url)?,
            credentials: credentials(url)?,
            tls,
            inbox_prefix: subject(url, "inbox_prefix")?.unwrap_or_else(|| "_INBOX".to_owned()),
            domain: subject(url, "domain")?,
            connect_timeout: duration(url, "connect_timeout")?.unwrap_or(Duration::from_secs(5)),
            call_timeout: duration(url, "call_timeout")?.unwrap_or(Duration::from_secs(5)),
            pull_heartbeat: duration(url, "pull_heartbeat")?.unwrap_or(Duration::from_secs(5)),
            ring: number(url, "ring", MAX_RING)?.unwrap_or(8192),
            manage: flag(url, "manage")?.unwrap_or(true),
            stream: StreamSettings {
                replicas: number(url, "replicas", 5)?,
                storage: choice(
                    url,
                    "storage",
                    &[("file", StorageType::File), ("memory", StorageType::Memory)],
                )?,
                retention: choice(
                    url,
                    "retention",
                    &[
                        ("limits", RetentionPolicy::Limits),
                        ("interest", RetentionPolicy::Interest),
                    ],
                )?,
                max_age: duration(url, "max_age")?,
                max_bytes: number(url, "max_bytes", usize::MAX >> 1)?
                    .and_then(|bytes| i64::try_from(bytes).ok()),
                duplicate_window: options.duplicate_window,
            },
            inbox: options.inbox,
            discovery: choice(
                url,
                "discovery",
                &[("kv", Discovery::Kv), ("pubsub", Discovery::PubSub)],
            )?
            .unwrap_or_default(),
            client_name: "catga",
        })
    }
}

fn servers(url: &BackendUrl) -> Result<Vec<String>, Error> {
    let hosts = url.hosts();
    if hosts.is_empty() {
        return Err(config(
            "the nats:// URL has no host: write nats://localhost:4222",
        ));
    }
    let servers = hosts.split(',').map(|host| {
        let odd = |c: char| c.is_whitespace() || c == '@' || c == '/';
        if host.is_empty() || host.contains(odd) {
            return Err(config(
                "the nats:// URL has a host that is none: write nats://a:4222,b:4222",
            ));
        }
        Ok(format!("{}://{host}", url.scheme()))
    });
    servers.collect()
}

fn credentials(url: &BackendUrl) -> Result<Credentials, Error> {
    let file = |option| url.option(option).map(PathBuf::from);
    let mut found = Vec::new();
    match (url.user(), url.password(), file("password_file")) {
        (Some(user), Some(password), None) => found.push(Credentials::Password {
            user: user.to_owned(),
            password: password.to_owned(),
        }),
        (Some(user), None, Some(file)) => found.push(Credentials::PasswordFile {
            user: user.to_owned(),
            file,
        }),
        // The client's own convention: what stands alone before the host is a token.
        (Some(token), None, None) => found.push(Credentials::Token(token.to_owned())),
        (None, None, None) => {}
        (Some(_), Some(_), Some(_)) => {
            return Err(config(
                "the URL has both a password and `password_file`: leave one out",
            ));
        }
        (None, _, _) => {
            return Err(config(
                "the URL has a password and no user: write nats://user:password@host",
            ));
        }
    }
    let token = url
        .option("token")
        .map(|token| Credentials::Token(token.to_owned()));
    found.extend(token);
    found.extend(file("token_file").map(Credentials::TokenFile));
    found.extend(file("nkey_file").map(Credentials::NkeyFile));
    found.extend(file("creds_file").map(Credentials::CredsFile));
    if found.len() > 1 {
        return Err(config(
            "the URL names us more than once: write one of user and password, `token`, `token_file`, `nkey_file`, `creds_file`",
        ));
    }
    Ok(found.pop().unwrap_or_default())
}

fn tls(url: &BackendUrl) -> Result<Tls, Error> {
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
    let (ca, first) = (file("tls_ca"), flag(url, "tls_first")?.unwrap_or(false));
    let asked = url.scheme() == "tls" || ca.is_some() || identity.is_some() || first;
    let required = flag(url, "tls")?;
    if asked && required == Some(false) {
        return Err(config(
            "the URL asks for TLS and says `tls=false`: leave one out",
        ));
    }
    Ok(Tls {
        required: required.unwrap_or(asked),
        first,
        ca,
        identity,
    })
}

/// A prefix of subjects: tokens of letters, digits, `_` and `-`.
fn subject(url: &BackendUrl, option: &str) -> Result<Option<String>, Error> {
    let Some(text) = url.option(option) else {
        return Ok(None);
    };
    match catga_core::Name::new(text) {
        Ok(_) => Ok(Some(text.to_owned())),
        Err(error) => Err(config(format!(
            "the URL option `{option}` is no prefix of subjects"
        ))
        .with_source(error)),
    }
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
    choice(url, option, &[("true", true), ("false", false)])
}

fn choice<T: Copy>(
    url: &BackendUrl,
    option: &str,
    choices: &[(&str, T)],
) -> Result<Option<T>, Error> {
    let Some(text) = url.option(option) else {
        return Ok(None);
    };
    match choices.iter().find(|(name, _)| *name == text) {
        Some((_, value)) => Ok(Some(*value)),
        None => {
            let names: Vec<_> = choices.iter().map(|(name, _)| *name).collect();
            Err(config(format!(
                "the URL option `{option}` is {text:?}: write {}",
                names.join(" or ")
            )))
        }
    }
}

fn config(message: impl fmt::Display) -> Error {
    Error::new(ErrorKind::Config, "connect", message.to_string())
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "none",
            Self::Password { .. } | Self::PasswordFile { .. } => "user and password",
            Self::Token(_) | Self::TokenFile(_) => "token",
            Self::NkeyFile(_) => "nkey",
            Self::CredsFile(_) => "creds",
        })
    }
}

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Settings")
            .field("servers", &self.servers)
            .field("credentials", &self.credentials)
            .field("tls", &self.tls)
            .field("manage", &self.manage)
            .field("stream", &self.stream)
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
        let set =
            read("nats://a:4222,b?replicas=3&storage=memory&max_age=2h&manage=false").unwrap();
        assert_eq!(set.servers, ["nats://a:4222", "nats://b"]);
        assert_eq!(
            (set.stream.replicas, set.stream.storage, set.stream.max_age),
            (
                Some(3),
                Some(StorageType::Memory),
                Some(Duration::from_secs(7200))
            )
        );
        assert!(!set.manage && !set.tls.required);
        let bare = read("nats://h").unwrap();
        assert_eq!((bare.stream, bare.ring), (StreamSettings::default(), 8192));
        assert!(bare.manage && matches!(bare.credentials, Credentials::None));
    }

    #[test]
    fn who_we_are_is_read_from_where_it_stands() {
        let of = |url: &str| read(url).unwrap().credentials;
        assert!(
            matches!(of("nats://u:p%40@h"), Credentials::Password { user, password } if user == "u" && password == "p@")
        );
        assert!(matches!(of("nats://secret@h"), Credentials::Token(token) if token == "secret"));
        assert!(
            matches!(of("nats://h?token=secret"), Credentials::Token(token) if token == "secret")
        );
        assert!(matches!(
            of("nats://u@h?password_file=/p"),
            Credentials::PasswordFile { .. }
        ));
        assert!(matches!(
            of("nats://h?nkey_file=/seed"),
            Credentials::NkeyFile(_)
        ));
        assert!(matches!(
            of("nats://h?creds_file=/creds"),
            Credentials::CredsFile(_)
        ));
    }

    #[test]
    fn tls_is_required_as_soon_as_something_asks_for_it() {
        for url in [
            "tls://h",
            "nats://h?tls=true",
            "nats://h?tls_ca=/ca",
            "nats://h?tls_cert=/c&tls_key=/k",
        ] {
            assert!(read(url).unwrap().tls.required, "{url}");
        }
    }

    #[test]
    fn a_bad_value_is_named_with_what_is_allowed() {
        for (url, part) in [
            ("nats://", "no host"),
            ("nats://a,,b", "a host that is none"),
            ("nats://h/x", "no path"),
            ("nats://:p@h", "no user"),
            ("nats://u:p@h?token=t", "more than once"),
            ("nats://u:p@h?password_file=/p", "both a password"),
            ("nats://h?tls_cert=/c", "belong together"),
            ("tls://h?tls=false", "`tls=false`"),
            ("nats://h?replicas=6", "from 1 to 5"),
            ("nats://h?storage=tape", "write file or memory"),
            ("nats://h?retention=workqueue", "limits or interest"),
            ("nats://h?max_age=7", "`max_age` is \"7\""),
            ("nats://h?manage=yes", "write true or false"),
            ("nats://h?inbox_prefix=a.*", "`inbox_prefix`"),
            ("nats://h?discovery=true", "write kv or pubsub"),
        ] {
            let error = read(url).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Config, "{url}");
            assert!(error.message().contains(part), "{url}: {error}");
        }
    }

    #[test]
    fn secrets_are_never_shown() {
        for url in [
            "nats://u:sentinel@h",
            "nats://sentinel@h",
            "nats://h?token=sentinel",
        ] {
            let shown = format!("{:?}", read(url).unwrap());
            assert!(!shown.contains("sentinel"), "{shown}");
        }
        let error = read("nats://u:sentinel@h?token=sentinel").unwrap_err();
        assert!(!format!("{error:?}").contains("sentinel"), "{error:?}");
    }
}
