//! Settings: defaults, then the URL, then the environment, then the builder.

use std::env::VarError;
use std::time::Duration;

use catga_core::{BackendUrl, ConnectOptions, Driver, Error, ErrorKind, InboxLimits, Name, NodeId};

use crate::backoff::Backoff;
use crate::time::FAR;

/// Reads an environment variable, as [`std::env::var`] does.
pub(crate) type Env<'a> = &'a dyn Fn(&str) -> Result<String, VarError>;

/// What an application runs with.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) namespace: Name,
    pub(crate) service: Name,
    /// `None`: a fresh id at each start.
    pub(crate) node: Option<NodeId>,
    pub(crate) endpoint: Option<String>,
    pub(crate) attempts: u32,
    pub(crate) backoff: Backoff,
    pub(crate) concurrency: u32,
    pub(crate) handler_timeout: Duration,
    pub(crate) ack_wait: Duration,
    pub(crate) publish_deadline: Duration,
    pub(crate) request_deadline: Option<Duration>,
    pub(crate) request_retries: u32,
    pub(crate) heartbeat: Duration,
    pub(crate) node_timeout: Duration,
    pub(crate) absence: Duration,
    /// `None`: 2 min, or what the publish deadline needs.
    pub(crate) duplicate_window: Option<Duration>,
    /// `None`: 24 h, or what the attempts need.
    pub(crate) inbox_retention: Option<Duration>,
    /// `None`: 10 min, or the request deadline.
    pub(crate) response_retention: Option<Duration>,
    /// In bytes.
    pub(crate) response_limit: usize,
    pub(crate) shutdown_timeout: Duration,
    pub(crate) strict: bool,
}

impl Settings {
    /// The defaults, with the executable's name as the service.
    fn new() -> Self {
        Self {
            namespace: Name::from_static("catga"),
            service: executable(),
            node: None,
            endpoint: None,
            attempts: 4,
            backoff: Backoff::default(),
            concurrency: 64,
            handler_timeout: Duration::from_secs(30),
            ack_wait: Duration::from_secs(30),
            publish_deadline: Duration::from_secs(5),
            request_deadline: Some(Duration::from_secs(10)),
            request_retries: 3,
            heartbeat: Duration::from_secs(10),
            node_timeout: Duration::from_secs(30),
            absence: Duration::from_secs(24 * 60 * 60),
            duplicate_window: None,
            inbox_retention: None,
            response_retention: None,
            response_limit: 64 * 1024,
            shutdown_timeout: Duration::from_secs(30),
            strict: false,
        }
    }

    /// What URL and environment say; every problem goes into `problems`. Without a driver nobody knows
    /// which other options there are.
    pub(crate) fn read(
        url: Option<&BackendUrl>,
        driver: Option<&dyn Driver>,
        env: Env<'_>,
        problems: &mut Vec<String>,
    ) -> Self {
        let mut settings = Self::new();
        for (key, value) in url.iter().flat_map(|url| url.options()) {
            match (option(key), driver) {
                (Some(set), _) => {
                    if let Err(problem) = set(&mut settings, value) {
                        problems.push(format!("URL option `{key}={value}`: {problem}"));
                    }
                }
                (None, Some(driver)) if !driver.options().contains(&key) => {
                    problems.push(unknown_option(key, driver));
                }
                (None, _) => {}
            }
        }
        for (name, key) in VARIABLES {
            let set = option(key).expect("every variable is an option");
            match variable(name, env) {
                Ok(None) => {}
                Ok(Some(value)) => {
                    if let Err(problem) = set(&mut settings, &value) {
                        problems.push(format!("environment variable `{name}={value}`: {problem}"));
                    }
                }
                Err(problem) => problems.push(problem),
            }
        }
        settings
    }

    /// What does not fit together.
    pub(crate) fn check(&self, problems: &mut Vec<String>) {
        let mut demand = |fits: bool, problem: &str| {
            if !fits {
                problems.push(problem.to_owned());
            }
        };
        demand(self.attempts > 0, "`attempts` must be at least 1");
        demand(self.concurrency > 0, "`concurrency` must be at least 1");
        demand(
            !self.ack_wait.is_zero(),
            "`ack_wait` must be longer than nothing",
        );
        demand(
            !self.handler_timeout.is_zero(),
            "`handler_timeout` must be longer than nothing",
        );
        demand(
            !self.heartbeat.is_zero(),
            "`heartbeat` must be longer than nothing",
        );
        demand(
            self.node_timeout >= self.heartbeat.saturating_mul(2),
            "`node_timeout` must be at least two heartbeats, or a single late one takes the node out",
        );
        demand(
            self.duplicate_window() >= self.publish_deadline.saturating_mul(4),
            "`duplicate_window` must be at least four publish deadlines, or a late retry is no duplicate any more",
        );
        demand(
            self.inbox_retention() >= self.handling(),
            "`inbox_retention` must be at least `attempts` times `ack_wait` and the most of `backoff`, or a message is forgotten while it is tried again",
        );
        demand(
            self.response_retention() >= self.request_deadline.unwrap_or_default(),
            "`response_retention` must be at least `request_deadline`, or a late retry is run again",
        );
    }

    /// How long the id of a publish is remembered.
    fn duplicate_window(&self) -> Duration {
        let least = self.publish_deadline.saturating_mul(4);
        self.duplicate_window
            .unwrap_or(least.max(ConnectOptions::DUPLICATE_WINDOW))
    }

    /// How long an id that was handled is remembered.
    fn inbox_retention(&self) -> Duration {
        let day = Duration::from_secs(24 * 60 * 60);
        self.inbox_retention.unwrap_or(self.handling().max(day))
    }

    /// How long responses are kept.
    fn response_retention(&self) -> Duration {
        let least = self.request_deadline.unwrap_or_default();
        self.response_retention
            .unwrap_or(least.max(InboxLimits::default().response_retention))
    }

    /// What all attempts at one message may take.
    fn handling(&self) -> Duration {
        let one = self.ack_wait.saturating_add(self.backoff.most());
        one.saturating_mul(self.attempts)
    }

    /// What the backend is to know.
    pub(crate) fn connect_options(&self) -> ConnectOptions {
        let inbox = InboxLimits::default()
            .with_retention(self.inbox_retention().min(FAR))
            .with_responses(self.response_retention().min(FAR), self.response_limit);
        let window = self.duplicate_window().min(FAR);
        let mut options =
            ConnectOptions::new(self.namespace.clone()).with_node_timeout(self.node_timeout);
        // What is as everybody has it is not asked for: it may be set otherwise by who was there first.
        if inbox != InboxLimits::default() {
            options = options.with_inbox(inbox);
        }
        if window != ConnectOptions::DUPLICATE_WINDOW {
            options = options.with_duplicate_window(window);
        }
        options
    }

    /// Takes absurd durations for what they mean, for ever: an instant that far away would overflow.
    pub(crate) fn cap(&mut self) {
        let durations = [
            &mut self.handler_timeout,
            &mut self.ack_wait,
            &mut self.publish_deadline,
            &mut self.heartbeat,
            &mut self.node_timeout,
            &mut self.absence,
            &mut self.shutdown_timeout,
        ];
        for duration in durations.into_iter().chain(&mut self.request_deadline) {
            *duration = (*duration).min(FAR);
        }
        self.backoff = self.backoff.capped(FAR);
    }
}

/// An environment variable, if it is set.
pub(crate) fn variable(name: &str, env: Env<'_>) -> Result<Option<String>, String> {
    match env(name) {
        Ok(value) => Ok(Some(value)),
        Err(VarError::NotPresent) => Ok(None),
        // What it holds is not shown: it may be a URL with a password.
        Err(VarError::NotUnicode(_)) => Err(format!("environment variable `{name}` is not UTF-8")),
    }
}

type Set = fn(&mut Settings, &str) -> Result<(), String>;

/// What the URL can say to any backend.
const OPTIONS: &[(&str, Set)] = &[
    ("absence", |s, v| duration(v).map(|d| s.absence = d)),
    ("ack_wait", |s, v| duration(v).map(|d| s.ack_wait = d)),
    ("attempts", |s, v| number(v).map(|n| s.attempts = n)),
    ("backoff", |s, v| Backoff::parse(v).map(|b| s.backoff = b)),
    ("concurrency", |s, v| number(v).map(|n| s.concurrency = n)),
    ("duplicate_window", |s, v| {
        duration(v).map(|d| s.duplicate_window = Some(d))
    }),
    ("endpoint", |s, v| {
        s.endpoint = Some(v.to_owned());
        Ok(())
    }),
    ("handler_timeout", |s, v| {
        duration(v).map(|d| s.handler_timeout = d)
    }),
    ("heartbeat", |s, v| duration(v).map(|d| s.heartbeat = d)),
    ("inbox_retention", |s, v| {
        duration(v).map(|d| s.inbox_retention = Some(d))
    }),
    ("namespace", |s, v| token(v).map(|n| s.namespace = n)),
    ("node", |s, v| token(v).map(|n| s.node = Some(n))),
    ("node_timeout", |s, v| {
        duration(v).map(|d| s.node_timeout = d)
    }),
    ("publish_deadline", |s, v| {
        duration(v).map(|d| s.publish_deadline = d)
    }),
    ("request_deadline", |s, v| match v {
        "none" => {
            s.request_deadline = None;
            Ok(())
        }
        _ => duration(v).map(|d| s.request_deadline = Some(d)),
    }),
    ("request_retries", |s, v| {
        number(v).map(|n| s.request_retries = n)
    }),
    ("response_limit", |s, v| {
        v.parse()
            .map(|n| s.response_limit = n)
            .map_err(|_| "write a number of bytes".to_owned())
    }),
    ("response_retention", |s, v| {
        duration(v).map(|d| s.response_retention = Some(d))
    }),
    ("service", |s, v| token(v).map(|n| s.service = n)),
    ("shutdown_timeout", |s, v| {
        duration(v).map(|d| s.shutdown_timeout = d)
    }),
    ("strict", |s, v| {
        v.parse()
            .map(|b| s.strict = b)
            .map_err(|_| "write `true` or `false`".to_owned())
    }),
];

/// What the environment can say, beside `CATGA_URL`: the variable, and the option that it sets.
const VARIABLES: &[(&str, &str)] = &[
    ("CATGA_SERVICE", "service"),
    ("CATGA_NODE", "node"),
    ("CATGA_ENDPOINT", "endpoint"),
    ("CATGA_NAMESPACE", "namespace"),
];

fn option(key: &str) -> Option<Set> {
    OPTIONS
        .iter()
        .find(|option| option.0 == key)
        .map(|option| option.1)
}

fn unknown_option(key: &str, driver: &dyn Driver) -> String {
    let shown: String = key.chars().take(40).collect();
    let mut known: Vec<_> = OPTIONS
        .iter()
        .map(|option| option.0)
        .chain(driver.options().iter().copied())
        .collect();
    known.sort_unstable();
    format!(
        "unknown URL option {shown:?} (known for {}: {})",
        driver.name(),
        known.join(", ")
    )
}

fn number(text: &str) -> Result<u32, String> {
    text.parse().map_err(|_| "write a whole number".to_owned())
}

fn duration(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text)
        .map_err(|e| format!("write a duration, as in 500ms or 30s ({e})"))
}

fn token(text: &str) -> Result<Name, String> {
    Name::token(text).map_err(|e| e.message().to_owned())
}

/// The name of the executable, made into a token.
fn executable() -> Name {
    let path = std::env::current_exe().unwrap_or_default();
    let stem = path
        .file_stem()
        .and_then(|stem| stem.to_str())
        .unwrap_or_default();
    let allowed = |c: char| {
        if c.is_ascii_alphanumeric() || c == '_' {
            c
        } else {
            '-'
        }
    };
    let token: String = stem.chars().take(64).map(allowed).collect();
    Name::token(token).unwrap_or(Name::from_static("catga"))
}

/// All problems in one error, numbered, a line each.
pub(crate) fn all_problems(kind: ErrorKind, problems: &[String]) -> Error {
    let text = match problems {
        [one] => one.clone(),
        many => {
            let lines: Vec<_> = many
                .iter()
                .enumerate()
                .map(|(i, p)| format!("\n  {}. {p}", i + 1))
                .collect();
            format!("{} problems:{}", many.len(), lines.concat())
        }
    };
    Error::new(kind, "start", text)
}

#[cfg(test)]
mod tests;
