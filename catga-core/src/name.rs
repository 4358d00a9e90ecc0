//! Names that go onto the wire: checked once, then trusted.

use std::borrow::Borrow;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::{Error, ErrorKind};

/// The longest name, in bytes.
const MAX_BYTES: usize = 128;

/// The name of a message, group, service or namespace: `[A-Za-z0-9_-]`, in one or more segments
/// separated by single dots, at most 128 bytes.
///
/// Backends build subjects, keys and durables from names, so anything that a broker could read as a
/// wildcard or a separator is refused here, before the wire.
///
/// # Examples
/// ```
/// use catga_core::Name;
///
/// assert_eq!(Name::new("orders.created")?.as_str(), "orders.created");
/// assert!(Name::new("orders.*").is_err());
/// assert!(Name::new("orders..created").is_err());
/// # Ok::<(), catga_core::Error>(())
/// ```
#[derive(Clone, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Name(Repr);

#[derive(Clone)]
enum Repr {
    Static(&'static str),
    Shared(Arc<str>),
}

impl Name {
    /// Checks and takes a name.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidName`] when it is empty, too long, or holds anything but segments of
    /// `[A-Za-z0-9_-]` separated by single dots.
    pub fn new(name: impl AsRef<str>) -> Result<Self, Error> {
        let name = name.as_ref();
        match check(name) {
            Ok(()) => Ok(Self(Repr::Shared(name.into()))),
            Err(problem) => Err(invalid(name, problem, " and single dots between")),
        }
    }

    /// Takes a name without dots: a namespace, a service or a node is one token of a subject.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidName`], as [`new`](Self::new), and for a name with a dot in it.
    pub fn token(name: impl AsRef<str>) -> Result<Self, Error> {
        let name = name.as_ref();
        let checked = if name.contains('.') {
            Err("it has a dot, and this name is a single token")
        } else {
            check(name)
        };
        match checked {
            Ok(()) => Ok(Self(Repr::Shared(name.into()))),
            Err(problem) => Err(invalid(name, problem, "")),
        }
    }

    /// Takes a name written in the program, checked when it is compiled if used in a constant.
    ///
    /// # Panics
    /// Panics when [`new`](Self::new) would refuse the name.
    #[must_use]
    pub const fn from_static(name: &'static str) -> Self {
        assert!(
            check_bytes(name.as_bytes()).is_ok(),
            "not a valid message name"
        );
        Self(Repr::Static(name))
    }

    /// The name as the program writes it, if it does.
    #[must_use]
    pub fn as_static(&self) -> Option<&'static str> {
        match self.0 {
            Repr::Static(name) => Some(name),
            Repr::Shared(_) => None,
        }
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        match &self.0 {
            Repr::Static(name) => name,
            Repr::Shared(name) => name,
        }
    }
}

/// `dots` says where dots may stand, which they may not in a token.
fn invalid(name: &str, problem: &str, dots: &str) -> Error {
    let shown: String = name.chars().take(40).collect();
    Error::new(
        ErrorKind::InvalidName,
        "name",
        format!(
            "invalid name {shown:?}: {problem} (allowed: A-Z a-z 0-9 _ -{dots}, at most {MAX_BYTES} bytes)"
        ),
    )
}

fn check(name: &str) -> Result<(), &'static str> {
    check_bytes(name.as_bytes())
}

const fn check_bytes(name: &[u8]) -> Result<(), &'static str> {
    if name.is_empty() {
        return Err("it is empty");
    }
    if name.len() > MAX_BYTES {
        return Err("it is too long");
    }
    let mut segment = 0;
    let mut i = 0;
    while i < name.len() {
        match name[i] {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-' => segment += 1,
            b'.' if segment > 0 => segment = 0,
            b'.' => return Err("it has an empty segment"),
            _ => return Err("it has a character that is not allowed"),
        }
        i += 1;
    }
    if segment == 0 {
        Err("it ends with a dot")
    } else {
        Ok(())
    }
}

impl PartialEq for Name {
    fn eq(&self, other: &Self) -> bool {
        self.as_str() == other.as_str()
    }
}

impl Eq for Name {}

impl PartialOrd for Name {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Name {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.as_str().cmp(other.as_str())
    }
}

// As `str`, so that a map keyed by names can be asked with a `&str`.
impl Hash for Name {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.as_str().hash(state);
    }
}

impl Borrow<str> for Name {
    fn borrow(&self) -> &str {
        self.as_str()
    }
}

impl AsRef<str> for Name {
    fn as_ref(&self) -> &str {
        self.as_str()
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

impl TryFrom<String> for Name {
    type Error = Error;

    fn try_from(name: String) -> Result<Self, Error> {
        Self::new(name)
    }
}

impl std::str::FromStr for Name {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self, Error> {
        Self::new(name)
    }
}

impl From<Name> for String {
    fn from(name: Name) -> Self {
        name.as_str().to_owned()
    }
}

/// The id of a node: a [`Name`] of one token, unique among the live nodes of a namespace.
pub type NodeId = Name;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hostile_names_are_refused() {
        let long = "x".repeat(129);
        for name in [
            "", ".", "a.", ".a", "a..b", "a b", "a*", ">", "a\tb", "a\r\nb", "a\0", "a:b", "{a}",
            "ä", "$JS.x", &long,
        ] {
            assert_eq!(
                Name::new(name).unwrap_err().kind(),
                ErrorKind::InvalidName,
                "{name:?}"
            );
        }
        assert!(Name::new("x".repeat(128)).is_ok());
        assert!(Name::token("a.b").is_err());
        assert!(Name::token("a-b_C9").is_ok());
    }

    #[test]
    fn a_refused_token_is_not_told_that_dots_are_allowed() {
        let dots = "and single dots between";
        for name in ["a.b", "a b", ""] {
            let error = Name::token(name).unwrap_err();
            let allowed = "(allowed: A-Z a-z 0-9 _ -, at most 128 bytes)";
            assert!(error.message().ends_with(allowed), "{error}");
        }
        assert!(Name::new("a b").unwrap_err().message().contains(dots));
    }

    #[test]
    fn static_and_shared_names_are_equal() {
        let mut map = std::collections::HashMap::new();
        map.insert(Name::from_static("orders.created"), 1);
        assert_eq!(map.get(&Name::new("orders.created").unwrap()), Some(&1));
        assert_eq!(map.get("orders.created"), Some(&1));
    }
}
