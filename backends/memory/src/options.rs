//! What a `memory://` URL says.

use std::fmt;
use std::time::Duration;

use catga_core::{BackendUrl, ConnectOptions, Error, ErrorKind, InboxLimits, Name};

/// The names of the URL options.
pub(crate) const NAMES: &[&str] = &["capacity", "ring", "max_payload", "dead_letters", "inbox"];

/// The most that a ring holds: its memory is taken when somebody subscribes.
const MAX_RING: usize = 1 << 20;
/// The most of anything else, far below where sums could overflow.
const MAX: usize = 1 << 31;

/// How a bus is set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Settings {
    /// The most messages that the log of one name holds.
    pub(crate) capacity: usize,
    /// The most QoS 0 messages that wait for one subscription.
    pub(crate) ring: usize,
    /// The most bytes of payload and headers.
    pub(crate) max_payload: usize,
    /// The most dead letters of one message name.
    pub(crate) dead_letters: usize,
    /// The most ids that an inbox keeps of one message name while nobody handles them.
    pub(crate) inbox: usize,
    /// What else an inbox keeps.
    pub(crate) limits: InboxLimits,
    /// How long the id of a QoS 2 publish is remembered.
    pub(crate) duplicate_window: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            capacity: 100_000,
            ring: 1024,
            max_payload: 1024 * 1024,
            dead_letters: 10_000,
            inbox: 1_000_000,
            limits: InboxLimits::default(),
            duplicate_window: ConnectOptions::DUPLICATE_WINDOW,
        }
    }
}

/// A URL as read, with the options beside it: what they do not say is left to the bus, when there is one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Asked {
    /// The bus to share; without one the connection has a bus of its own.
    pub(crate) bus: Option<Name>,
    capacity: Option<usize>,
    ring: Option<usize>,
    max_payload: Option<usize>,
    dead_letters: Option<usize>,
    inbox: Option<usize>,
    limits: Option<InboxLimits>,
    duplicate_window: Option<Duration>,
}

impl Asked {
    /// Reads a URL.
    pub(crate) fn read(url: &BackendUrl) -> Result<Self, Error> {
        Ok(Self {
            bus: bus_name(url)?,
            capacity: number(url, "capacity", MAX)?,
            ring: number(url, "ring", MAX_RING)?,
            max_payload: number(url, "max_payload", MAX)?,
            dead_letters: number(url, "dead_letters", MAX)?,
            inbox: number(url, "inbox", MAX)?,
            limits: None,
            duplicate_window: None,
        })
    }

    /// Adds what is asked for beside the URL.
    pub(crate) fn with_options(mut self, options: &ConnectOptions) -> Self {
        self.limits = options.inbox;
        self.duplicate_window = options.duplicate_window;
        self
    }

    /// The settings of a new bus.
    pub(crate) fn settings(&self) -> Settings {
        let default = Settings::default();
        Settings {
            capacity: self.capacity.unwrap_or(default.capacity),
            ring: self.ring.unwrap_or(default.ring),
            max_payload: self.max_payload.unwrap_or(default.max_payload),
            dead_letters: self.dead_letters.unwrap_or(default.dead_letters),
            inbox: self.inbox.unwrap_or(default.inbox),
            limits: self.limits.unwrap_or(default.limits),
            duplicate_window: self.duplicate_window.unwrap_or(default.duplicate_window),
        }
    }

    /// Checks that a bus which is there is set as this URL asks.
    pub(crate) fn check(&self, present: &Settings) -> Result<(), Error> {
        let options = [
            ("capacity", self.capacity, present.capacity),
            ("ring", self.ring, present.ring),
            ("max_payload", self.max_payload, present.max_payload),
            ("dead_letters", self.dead_letters, present.dead_letters),
            ("inbox", self.inbox, present.inbox),
        ];
        for (option, asked, is) in options {
            self.same(option, asked, &is)?;
        }
        let (asked, is) = (self.limits, present.limits);
        self.same("inbox retention", asked.map(|l| l.retention), &is.retention)?;
        let responses = |l: InboxLimits| (l.response_retention, l.response_limit);
        self.same("inbox responses", asked.map(responses), &responses(is))?;
        let (asked, is) = (self.duplicate_window, present.duplicate_window);
        self.same("duplicate window", asked, &is)
    }

    fn same<T: PartialEq + fmt::Debug>(
        &self,
        option: &str,
        asked: Option<T>,
        is: &T,
    ) -> Result<(), Error> {
        let Some(asked) = asked.filter(|asked| asked != is) else {
            return Ok(());
        };
        let bus = self.bus.as_ref().map_or("", Name::as_str);
        Err(Error::new(
            ErrorKind::Conflict,
            "connect",
            format!(
                "the bus `{bus}` is there with {option}={is:?} and this connection asks for {option}={asked:?}: write the same in both, or leave it out"
            ),
        ))
    }
}

fn bus_name(url: &BackendUrl) -> Result<Option<Name>, Error> {
    if url.user().is_some() || url.password().is_some() {
        return Err(config("a memory:// URL has no user and no password"));
    }
    if !url.path().is_empty() {
        return Err(config(format!(
            "a memory:// URL has no path, and this one has `/{}`",
            url.path()
        )));
    }
    let hosts = url.hosts();
    if let Some((name, port)) = hosts.split_once(':') {
        return Err(config(format!(
            "a memory:// URL has no port, and this one has `:{port}`: write memory://{name}"
        )));
    }
    if hosts.is_empty() {
        return Ok(None);
    }
    Name::new(hosts).map(Some).map_err(|error| {
        config(format!("`{hosts}` cannot be the name of a bus")).with_source(error)
    })
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

fn config(message: impl fmt::Display) -> Error {
    Error::new(ErrorKind::Config, "connect", message.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(url: &str) -> Result<Asked, Error> {
        Asked::read(&url.parse().unwrap())
    }

    #[test]
    fn options_are_read_and_the_rest_is_default() {
        let asked =
            read("memory://orders?capacity=5&ring=8&max_payload=100&dead_letters=2").unwrap();
        assert_eq!(asked.bus.as_ref().map(Name::as_str), Some("orders"));
        let set = asked.settings();
        assert_eq!(
            (set.capacity, set.ring, set.max_payload, set.dead_letters),
            (5, 8, 100, 2)
        );
        assert_eq!(
            read("memory://").unwrap().settings(),
            Settings::default(),
            "strict=true is not ours"
        );
        assert_eq!(read("memory://?strict=true").unwrap(), Asked::default());
    }

    #[test]
    fn a_bad_value_is_named_with_what_is_allowed() {
        for (url, part) in [
            ("memory://?capacity=0", "`capacity` is \"0\""),
            ("memory://?ring=many", "from 1 to 1048576"),
            ("memory://?ring=1048577", "from 1 to 1048576"),
            ("memory://?max_payload=1MiB", "`max_payload` is \"1MiB\""),
            ("memory://?dead_letters=-1", "`dead_letters` is \"-1\""),
            ("memory://orders/x", "no path"),
            ("memory://orders:80", "no port"),
            ("memory://u:p@orders", "no user"),
            ("memory://a,b", "cannot be the name"),
        ] {
            let error = read(url).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Config, "{url}");
            assert!(error.message().contains(part), "{url}: {error}");
        }
    }

    #[test]
    fn what_comes_beside_the_url_decides_for_a_new_bus_and_can_conflict() {
        let options = ConnectOptions::new(Name::from_static("catga"));
        let hour = Duration::from_secs(3600);
        let brief = options
            .clone()
            .with_inbox(InboxLimits::default().with_retention(hour));
        let asked = read("memory://b?inbox=9").unwrap();
        let present = asked.clone().with_options(&brief).settings();
        assert_eq!((present.inbox, present.limits.retention), (9, hour));
        for agrees in [&brief, &options] {
            assert!(asked.clone().with_options(agrees).check(&present).is_ok());
        }
        let others = [
            (
                asked
                    .clone()
                    .with_options(&options.clone().with_inbox(InboxLimits::default())),
                "inbox retention=3600s",
            ),
            (
                asked.clone().with_options(
                    &brief
                        .clone()
                        .with_inbox(present.limits.with_responses(hour, 1)),
                ),
                "inbox responses=(600s, 65536)",
            ),
            (
                asked.with_options(&brief.with_duplicate_window(hour)),
                "duplicate window=120s",
            ),
        ];
        for (other, part) in others {
            let error = other.check(&present).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Conflict);
            assert!(error.message().contains(part), "{error}");
        }
    }

    #[test]
    fn only_what_is_asked_for_can_conflict() {
        let present = read("memory://b?capacity=5").unwrap().settings();
        assert!(read("memory://b").unwrap().check(&present).is_ok());
        assert!(
            read("memory://b?capacity=5")
                .unwrap()
                .check(&present)
                .is_ok()
        );
        let error = read("memory://b?capacity=6")
            .unwrap()
            .check(&present)
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Conflict);
        assert!(
            error.message().contains("capacity=5") && error.message().contains("capacity=6"),
            "{error}"
        );
    }
}
