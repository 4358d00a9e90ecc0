//! Messages that were given up, kept until somebody looks.

use std::fmt;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use crate::{Envelope, Error, Name, NodeId, async_trait};

/// Why a message was given up.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reason {
    /// The kind, for programs.
    pub kind: ReasonKind,
    /// What happened, for people: the last error with its causes.
    pub detail: String,
}

impl Reason {
    /// The longest detail that is kept, in bytes.
    pub const MAX_DETAIL_BYTES: usize = 4 * 1024;

    /// A reason; `detail` is cut at [`MAX_DETAIL_BYTES`](Self::MAX_DETAIL_BYTES).
    #[must_use]
    pub fn new(kind: ReasonKind, detail: impl Into<String>) -> Self {
        let mut detail = detail.into();
        if detail.len() > Self::MAX_DETAIL_BYTES {
            let mut end = Self::MAX_DETAIL_BYTES;
            while !detail.is_char_boundary(end) {
                end -= 1;
            }
            detail.truncate(end);
        }
        Self { kind, detail }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.kind, self.detail)
    }
}

/// The kind of a [`Reason`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum ReasonKind {
    /// Every attempt failed.
    Exhausted,
    /// The handler said `terminal`.
    Terminal,
    /// The payload could not be decoded.
    Decode,
    /// It is of a newer version than the handler's: redrive it when the new one is rolled out.
    Version,
    /// No handler of the group knows this message.
    NoHandler,
    /// Delivered again and again without any attempt coming to an end: it kills its consumers.
    Crashed,
    /// A member of an `each_node` group stayed away for longer than the absence that is allowed.
    Absent,
}

impl fmt::Display for ReasonKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Exhausted => "exhausted",
            Self::Terminal => "terminal",
            Self::Decode => "decode",
            Self::Version => "version",
            Self::NoHandler => "no_handler",
            Self::Crashed => "crashed",
            Self::Absent => "absent",
        })
    }
}

/// The backend's own key of a dead letter: opaque, and ordered by age within a backend.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct DeadLetterId(String);

impl DeadLetterId {
    /// The key as the backend wrote it.
    #[must_use]
    pub fn new(id: impl Into<String>) -> Self {
        Self(id.into())
    }

    /// The key as text, to be shown and given back.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for DeadLetterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for DeadLetterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A message that one group gave up.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct DeadLetter {
    /// The backend's key.
    pub id: DeadLetterId,
    /// The message: id, headers and payload as they were published.
    pub envelope: Envelope,
    /// The group that failed.
    pub group: Name,
    /// In an `each_node` group, the node that failed: a redrive goes to it alone.
    pub node: Option<NodeId>,
    /// Why.
    pub reason: Reason,
    /// How often it was delivered.
    pub deliveries: u32,
    /// When it was published, by the backend's clock.
    pub published_at: SystemTime,
    /// When it was given up, by the backend's clock.
    pub dead_at: SystemTime,
    /// How often it has been redriven.
    pub generation: u32,
}

impl DeadLetter {
    /// A dead letter of generation 0, of a group that shares its messages; the backend fills in the rest.
    #[must_use]
    pub fn new(
        id: DeadLetterId,
        envelope: Envelope,
        group: Name,
        reason: Reason,
        deliveries: u32,
    ) -> Self {
        let now = SystemTime::now();
        Self {
            id,
            envelope,
            group,
            node: None,
            reason,
            deliveries,
            published_at: now,
            dead_at: now,
            generation: 0,
        }
    }
}

/// Which dead letters.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct DeadLetterFilter {
    /// Of this message.
    pub message: Option<Name>,
    /// Of this group.
    pub group: Option<Name>,
}

impl DeadLetterFilter {
    /// All of them.
    #[must_use]
    pub fn all() -> Self {
        Self::default()
    }

    /// Only those of one message.
    #[must_use]
    pub fn with_message(mut self, message: Name) -> Self {
        self.message = Some(message);
        self
    }

    /// Only those of one group.
    #[must_use]
    pub fn with_group(mut self, group: Name) -> Self {
        self.group = Some(group);
        self
    }

    /// Whether a dead letter is meant.
    #[must_use]
    pub fn matches(&self, letter: &DeadLetter) -> bool {
        self.message
            .as_ref()
            .is_none_or(|name| name == letter.envelope.name())
            && self
                .group
                .as_ref()
                .is_none_or(|group| *group == letter.group)
    }
}

/// One page of dead letters, oldest first.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Page {
    /// The dead letters.
    pub letters: Vec<DeadLetter>,
    /// What to pass as `after` for the next page; `None` at the end.
    pub next: Option<DeadLetterId>,
}

impl Page {
    /// A page, and where the next one begins.
    #[must_use]
    pub fn new(letters: Vec<DeadLetter>, next: Option<DeadLetterId>) -> Self {
        Self { letters, next }
    }
}

/// The store of dead letters. They are written by [`Receipt::settle`](crate::Receipt::settle), together with the ack.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a store of dead letters",
    label = "not a store of dead letters",
    note = "write `impl catga_core::DeadLetters for {Self}`, with `#[catga_core::async_trait]`"
)]
#[async_trait]
pub trait DeadLetters: Send + Sync + fmt::Debug + 'static {
    /// Lists up to `limit` dead letters, oldest first, after the one given, or after where it stood when it is gone.
    async fn list(
        &self,
        filter: &DeadLetterFilter,
        after: Option<&DeadLetterId>,
        limit: usize,
    ) -> Result<Page, Error>;

    /// One dead letter, when it is still there.
    async fn inspect(&self, id: &DeadLetterId) -> Result<Option<DeadLetter>, Error>;

    /// Hands the message to the one group (and node, if the letter names one) that failed, as a first delivery of the next generation,
    /// which is told that it may have run.
    ///
    /// # Errors
    /// [`NotFound`](crate::ErrorKind::NotFound) when there is no such dead letter.
    async fn redrive(&self, id: &DeadLetterId) -> Result<(), Error>;

    /// Deletes dead letters and returns how many there were.
    async fn purge(&self, filter: &DeadLetterFilter) -> Result<u64, Error>;
}
