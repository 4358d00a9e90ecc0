//! The URL of a backend.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

use crate::{Error, ErrorKind};

/// `scheme://[user[:password]@]host[:port][,host[:port]..][/path][?option=value&..]`.
///
/// Several hosts may stand in one URL, as NATS and Redis clusters have it, which [RFC 3986] does not
/// know. Neither `Display` nor `Debug` shows the password.
///
/// # Examples
/// ```
/// use catga_core::BackendUrl;
///
/// let url: BackendUrl = "nats://app:s3cret@a:4222,b:4222?replicas=3".parse()?;
/// assert_eq!((url.scheme(), url.hosts()), ("nats", "a:4222,b:4222"));
/// assert_eq!(url.option("replicas"), Some("3"));
/// assert_eq!(url.to_string(), "nats://app:***@a:4222,b:4222?replicas=3");
/// # Ok::<(), catga_core::Error>(())
/// ```
///
/// [RFC 3986]: https://www.rfc-editor.org/rfc/rfc3986
#[derive(Clone, PartialEq, Eq)]
pub struct BackendUrl {
    scheme: String,
    user: Option<String>,
    password: Option<String>,
    hosts: String,
    path: String,
    options: Vec<(String, String)>,
}

impl BackendUrl {
    /// The scheme, in lower case.
    #[must_use]
    pub fn scheme(&self) -> &str {
        &self.scheme
    }

    /// The user name.
    #[must_use]
    pub fn user(&self) -> Option<&str> {
        self.user.as_deref()
    }

    /// The password.
    #[must_use]
    pub fn password(&self) -> Option<&str> {
        self.password.as_deref()
    }

    /// The hosts with their ports, as written: may be empty.
    #[must_use]
    pub fn hosts(&self) -> &str {
        &self.hosts
    }

    /// What follows the hosts, without the slash: may be empty.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The options, in the order written.
    pub fn options(&self) -> impl Iterator<Item = (&str, &str)> {
        self.options
            .iter()
            .map(|(key, value)| (key.as_str(), value.as_str()))
    }

    /// One option.
    #[must_use]
    pub fn option(&self, key: &str) -> Option<&str> {
        self.options()
            .find_map(|(k, value)| (k == key).then_some(value))
    }
}

impl FromStr for BackendUrl {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        // The text may hold a password, so that no message repeats it.
        let wrong = |problem: &str| {
            Error::new(
                ErrorKind::Config,
                "connect",
                format!(
                    "the URL {problem}; write scheme://[user:password@]host[:port][?option=value], as in memory://orders"
                ),
            )
        };
        let (scheme, rest) = text
            .split_once("://")
            .ok_or_else(|| wrong("has no `scheme://`"))?;
        let first = scheme
            .chars()
            .next()
            .ok_or_else(|| wrong("has an empty scheme"))?;
        if !first.is_ascii_alphabetic()
            || !scheme
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || "+-.".contains(c))
        {
            return Err(wrong("has a scheme that is none"));
        }
        if text.chars().any(|c| c.is_control() || c.is_whitespace()) {
            return Err(wrong("holds white space"));
        }
        // A password with one of these characters in it would be taken for a host and a path, and shown.
        if rest
            .split_once(['/', '?', '#'])
            .is_some_and(|(_, behind)| behind.contains('@'))
        {
            return Err(wrong(
                "has an `@` behind a `/`, `?` or `#`: in a user or password write these as %2F, %3F, %23, and `@` as %40 elsewhere",
            ));
        }
        let rest = rest.split_once('#').map_or(rest, |(rest, _)| rest);
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        let (userinfo, hosts) = match authority.rsplit_once('@') {
            Some((userinfo, hosts)) => (Some(userinfo), hosts),
            None => (None, authority),
        };
        let decode = |part: &str| {
            percent_decode_str(part)
                .decode_utf8()
                .map(Cow::into_owned)
                .map_err(|_| wrong("has a part that is not UTF-8"))
        };
        let (user, password) =
            match userinfo.map(|u| u.split_once(':').map_or((u, None), |(u, p)| (u, Some(p)))) {
                Some((user, password)) => (Some(decode(user)?), password.map(decode).transpose()?),
                None => (None, None),
            };
        let options: Vec<(String, String)> = form_urlencoded::parse(query.as_bytes())
            .into_owned()
            .collect();
        for (i, (key, _)) in options.iter().enumerate() {
            if options[..i].iter().any(|(earlier, _)| earlier == key) {
                return Err(wrong(&format!("has the option `{key}` twice")));
            }
        }
        Ok(Self {
            scheme: scheme.to_ascii_lowercase(),
            user: user.filter(|u| !u.is_empty()),
            password,
            hosts: hosts.to_owned(),
            path: decode(path)?,
            options,
        })
    }
}

/// What stands for itself in a URL that is shown; the rest was decoded, and is encoded again.
const SHOWN: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~')
    .remove(b'*')
    .remove(b':')
    .remove(b',')
    .remove(b'/');

impl fmt::Display for BackendUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = |text| utf8_percent_encode(text, SHOWN);
        write!(f, "{}://", self.scheme)?;
        match (self.user.as_deref().map(shown), &self.password) {
            (Some(user), Some(_)) => write!(f, "{user}:***@")?,
            (Some(user), None) => write!(f, "{user}@")?,
            (None, Some(_)) => write!(f, "***@")?,
            (None, None) => {}
        }
        write!(f, "{}", self.hosts)?;
        if !self.path.is_empty() {
            write!(f, "/{}", shown(&self.path))?;
        }
        for (i, (key, value)) in self.options.iter().enumerate() {
            let secret = ["password", "token", "secret"]
                .iter()
                .any(|word| key.contains(word));
            let value = if secret { "***" } else { value };
            let mark = if i == 0 { '?' } else { '&' };
            write!(f, "{mark}{}={}", shown(key), shown(value))?;
        }
        Ok(())
    }
}

impl fmt::Debug for BackendUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{self}\"")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_found_and_decoded() {
        let url: BackendUrl = "REDIS://:p%40ss@h:6379/2?a=1%262&b=".parse().unwrap();
        assert_eq!(
            (url.scheme(), url.user(), url.password()),
            ("redis", None, Some("p@ss"))
        );
        assert_eq!((url.hosts(), url.path()), ("h:6379", "2"));
        assert_eq!(url.options().collect::<Vec<_>>(), [("a", "1&2"), ("b", "")]);
        let bare: BackendUrl = "memory://".parse().unwrap();
        assert_eq!((bare.hosts(), bare.path()), ("", ""));
    }

    #[test]
    fn what_was_decoded_is_shown_encoded() {
        let text = "redis://a%40b@h:1,h:2/p%0Aq?x=1%262&y=a+b&z=c:d";
        let url: BackendUrl = text.parse().unwrap();
        let shown = "redis://a%40b@h:1,h:2/p%0Aq?x=1%262&y=a%20b&z=c:d";
        assert_eq!(url.to_string(), shown);
        assert_eq!(shown.parse::<BackendUrl>().unwrap(), url);
    }

    #[test]
    fn secrets_are_never_shown() {
        for text in [
            "nats://u:sentinel@h",
            "redis://:sentinel@h",
            "nats://h?token=sentinel",
            "nats://u:sentinel @h",
            "nats://u:a/sentinel@h",
            "nats://u:a?sentinel@h",
            "nats://u:a#sentinel@h",
            "sentinel",
        ] {
            let shown = match text.parse::<BackendUrl>() {
                Ok(url) => format!("{url} {url:?}"),
                Err(error) => format!("{error} {error:?}"),
            };
            assert!(!shown.contains("sentinel"), "{shown}");
        }
    }

    #[test]
    fn what_is_no_url_is_refused() {
        for text in [
            "",
            "orders",
            "://x",
            "1a://x",
            "me mory://x",
            "memory:/x",
            "memory://x?a=1&a=2",
        ] {
            assert_eq!(
                text.parse::<BackendUrl>().unwrap_err().kind(),
                ErrorKind::Config,
                "{text:?}"
            );
        }
    }
}
