//! Message headers.

use std::fmt;
use std::sync::Arc;

use crate::{Error, ErrorKind};

/// Text headers of a message. Names are case-sensitive, as NATS has them; a name occurs once.
///
/// No header costs nothing: an empty map allocates nothing, and a clone shares its entries. Order is
/// kept in this process and means nothing: a broker may change it, and equality does not look at it.
///
/// # Examples
/// ```
/// use catga_core::Headers;
///
/// let mut headers = Headers::new();
/// headers.insert("tenant", "acme")?;
/// assert_eq!(headers.get("tenant"), Some("acme"));
/// # Ok::<(), catga_core::Error>(())
/// ```
#[derive(Clone, Default)]
pub struct Headers(Option<Arc<Vec<(String, String)>>>);

impl Headers {
    /// The id that all messages of one business transaction share; that of the first message when
    /// absent. ([Enterprise Integration Patterns, Correlation Identifier][eip])
    ///
    /// [eip]: https://www.enterpriseintegrationpatterns.com/patterns/messaging/CorrelationIdentifier.html
    pub const CORRELATION_ID: &str = "correlation-id";
    /// The id of the message whose handler published this one.
    pub const CAUSATION_ID: &str = "causation-id";
    /// The media type of the payload ([RFC 9110, section 8.3]); when absent, raw bytes for a message that is raw, and
    /// JSON for all others.
    ///
    /// [RFC 9110, section 8.3]: https://www.rfc-editor.org/rfc/rfc9110#section-8.3
    pub const CONTENT_TYPE: &str = "content-type";
    /// The version of the message's schema; 1 when absent.
    pub const VERSION: &str = "message-version";
    /// The trace that this message belongs to ([W3C Trace Context]).
    ///
    /// [W3C Trace Context]: https://www.w3.org/TR/trace-context/
    pub const TRACEPARENT: &str = "traceparent";

    /// The longest name, in bytes.
    pub const MAX_NAME_BYTES: usize = 128;
    /// The longest value, in bytes.
    pub const MAX_VALUE_BYTES: usize = 8 * 1024;

    /// No headers.
    #[must_use]
    pub const fn new() -> Self {
        Self(None)
    }

    /// Sets a header and returns the value it had.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidName`] when the name is no token of [RFC 9110, section 5.6.2] or begins with `Nats-` or
    /// `Catga-` (brokers obey such headers: `Nats-Rollup` deletes a stream); when the value holds a control
    /// character (a line break would end the header) or begins or ends with a space (which does not
    /// survive the wire); or when either is too long.
    ///
    /// [RFC 9110, section 5.6.2]: https://www.rfc-editor.org/rfc/rfc9110#section-5.6.2
    pub fn insert(
        &mut self,
        name: impl Into<String>,
        value: impl Into<String>,
    ) -> Result<Option<String>, Error> {
        let (name, value) = (name.into(), value.into());
        check(&name, &value)?;
        let entries = Arc::make_mut(self.0.get_or_insert_default());
        if let Some((_, old)) = entries.iter_mut().find(|(key, _)| *key == name) {
            return Ok(Some(std::mem::replace(old, value)));
        }
        entries.push((name, value));
        Ok(None)
    }

    /// Takes a header out.
    pub fn remove(&mut self, name: &str) -> Option<String> {
        let at = self.iter().position(|(key, _)| key == name)?;
        let entries = Arc::make_mut(self.0.as_mut()?);
        let (_, value) = entries.remove(at);
        if entries.is_empty() {
            self.0 = None;
        }
        Some(value)
    }

    /// The value of a header.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        self.iter()
            .find_map(|(key, value)| (key == name).then_some(value))
    }

    /// All headers, in the order in which they were set.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0
            .iter()
            .flat_map(|entries| entries.iter())
            .map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// How many headers there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.as_ref().map_or(0, |entries| entries.len())
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    /// The bytes of all names and values, which brokers count towards their size limit.
    #[must_use]
    pub fn size_bytes(&self) -> usize {
        self.iter()
            .map(|(name, value)| name.len() + value.len())
            .sum()
    }
}

fn is_reserved(name: &str) -> bool {
    let begins = |prefix: &str| {
        name.get(..prefix.len())
            .is_some_and(|start| start.eq_ignore_ascii_case(prefix))
    };
    begins("Nats-") || begins("Catga-")
}

fn check(name: &str, value: &str) -> Result<(), Error> {
    let token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
    let problem = if name.is_empty() || !name.bytes().all(token) {
        "its name is not a token of letters, digits and !#$%&'*+-.^_`|~"
    } else if is_reserved(name) {
        "names that begin with `Nats-` or `Catga-` are the broker's and ours"
    } else if name.len() > Headers::MAX_NAME_BYTES {
        "its name is longer than 128 bytes"
    } else if value.chars().any(char::is_control) {
        "its value holds a control character"
    } else if value.trim() != value {
        "its value begins or ends with a space"
    } else if value.len() > Headers::MAX_VALUE_BYTES {
        "its value is longer than 8 KiB"
    } else {
        return Ok(());
    };
    let shown: String = name.chars().take(40).collect();
    Err(Error::new(
        ErrorKind::InvalidName,
        "header",
        format!("invalid header {shown:?}: {problem}"),
    ))
}

impl PartialEq for Headers {
    fn eq(&self, other: &Self) -> bool {
        self.len() == other.len()
            && self
                .iter()
                .all(|(name, value)| other.get(name) == Some(value))
    }
}

impl Eq for Headers {}

impl fmt::Debug for Headers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clone_is_not_changed_by_the_original() {
        let mut headers = Headers::new();
        headers.insert("a", "1").unwrap();
        let copy = headers.clone();
        assert_eq!(headers.insert("a", "2").unwrap().as_deref(), Some("1"));
        assert_eq!((headers.get("a"), copy.get("a")), (Some("2"), Some("1")));
        assert_eq!(headers.remove("a").as_deref(), Some("2"));
        assert!(headers.is_empty() && !copy.is_empty());
    }

    #[test]
    fn order_means_nothing() {
        let (mut a, mut b) = (Headers::new(), Headers::new());
        for (name, value) in [("x", "1"), ("y", "2")] {
            a.insert(name, value).unwrap();
        }
        for (name, value) in [("y", "2"), ("x", "1")] {
            b.insert(name, value).unwrap();
        }
        assert_eq!(a, b);
        b.insert("y", "3").unwrap();
        assert_ne!(a, b);
    }

    #[test]
    fn what_would_break_the_wire_is_refused() {
        let long = "v".repeat(Headers::MAX_VALUE_BYTES + 1);
        for (name, value) in [
            ("", "v"),
            ("a b", "v"),
            ("a:b", "v"),
            ("ä", "v"),
            ("Nats-Rollup", "all"),
            ("nats-msg-id", "7"),
            ("CATGA-x", "v"),
            ("a", " v"),
            ("a", "v\t"),
            ("a", "x\r\ny"),
            ("a", "\0"),
            ("a", long.as_str()),
        ] {
            assert_eq!(
                Headers::new().insert(name, value).unwrap_err().kind(),
                ErrorKind::InvalidName,
                "{name:?}"
            );
        }
    }
}
