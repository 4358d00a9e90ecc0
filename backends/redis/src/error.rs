//! The one place that turns what the client and the server say into our errors.
//!
//! What matters most is [`Error::may_be_stored`]: it says "no" only where the message certainly never arrives.

use std::fmt;
use std::time::Duration;

use catga_core::{Capability, Error, ErrorKind, Name, QoS, Retry, Target};
use redis::{RedisError, ServerErrorKind};

/// The same error, for another who waits for the same answer.
pub(crate) fn once_more(error: &Error) -> Error {
    let again = Error::new(error.kind(), error.operation(), error.message());
    let again = again.with_retry(error.retry());
    if error.may_be_stored() {
        again.with_unknown_outcome()
    } else {
        again
    }
}

/// Whether the server answered, if with an error: a command that it refused changed nothing.
pub(crate) fn is_answer(error: &RedisError) -> bool {
    matches!(
        error.kind(),
        redis::ErrorKind::Server(_) | redis::ErrorKind::Extension
    )
}

/// Whether the connection that gave this error is of no use any more.
pub(crate) fn is_broken(error: &RedisError) -> bool {
    !is_answer(error)
        || matches!(
            code(error),
            "READONLY" | "MASTERDOWN" | "NOAUTH" | "UNBLOCKED"
        )
}

/// What an answer begins with.
pub(crate) fn code(error: &RedisError) -> &str {
    if error.kind() == redis::ErrorKind::AuthenticationFailed {
        // The client puts its own words before those of the server.
        return "WRONGPASS";
    }
    error.code().unwrap_or("")
}

/// Whether an answer says that there is no such group, or no such stream.
pub(crate) fn is_no_group(error: &RedisError) -> bool {
    says(error, "NOGROUP") || says(error, "UNBLOCKED")
}

/// Whether an error begins with this code, or a script failed on a command whose error did.
pub(crate) fn says(error: &RedisError, word: &str) -> bool {
    code(error) == word || error.detail().is_some_and(|detail| detail.contains(word))
}

/// Whether a node of a cluster says that a slot is elsewhere, or will be.
pub(crate) fn is_redirected(error: &RedisError) -> bool {
    let codes = ["MOVED", "ASK", "TRYAGAIN", "CLUSTERDOWN", "READONLY"];
    codes.contains(&code(error))
}

/// A pipeline that a node of a cluster did not serve as a whole.
pub(crate) fn partly_redirected(operation: &'static str, error: &RedisError) -> Error {
    let text = "the slot moves to another node, and what was sent with this message may be stored or not: publish it again with the same id";
    Error::new(ErrorKind::Unavailable, operation, text)
        .with_retry(Retry::Now)
        .with_unknown_outcome()
        .with_context("code", code(error))
        .with_source(said(error))
}

/// An error of a command.
pub(crate) fn of(operation: &'static str, what: &str, error: &RedisError) -> Error {
    if !is_answer(error) && error.kind() != redis::ErrorKind::AuthenticationFailed {
        return no_answer(operation, what, error);
    }
    let mut known = KNOWN.iter();
    // A script that failed on a command repeats what that was told.
    let found = known.find(|(word, ..)| says(error, word));
    let (kind, retry, text) = match found {
        Some((_, kind, retry, text)) => (*kind, *retry, *text),
        None if error.kind() == redis::ErrorKind::Server(ServerErrorKind::ResponseError) => (
            ErrorKind::Unavailable,
            Retry::Never,
            "the server refused a command",
        ),
        None => (
            ErrorKind::Unavailable,
            Retry::Now,
            "the server refused a command",
        ),
    };
    Error::new(kind, operation, format!("{what}: {text}"))
        .with_retry(retry)
        .with_context("code", code(error))
        .with_source(said(error))
}

/// What servers say, and what it means.
const KNOWN: &[(&str, ErrorKind, Retry, &str)] = &[
    (
        "OOM",
        ErrorKind::LimitReached,
        Retry::Now,
        "the server's memory is full: raise `maxmemory`, or let the groups catch up",
    ),
    // As the system says it, in what follows MISCONF.
    (
        "No space left on device",
        ErrorKind::LimitReached,
        Retry::Now,
        "the server's disk is full",
    ),
    (
        "MISCONF",
        ErrorKind::Unavailable,
        Retry::Now,
        "the server cannot write to its disk: look at its log",
    ),
    (
        "READONLY",
        ErrorKind::Unavailable,
        Retry::Reconnect,
        "this server is a replica: connect to the primary, or through sentinels",
    ),
    (
        "LOADING",
        ErrorKind::Unavailable,
        Retry::Now,
        "the server reads its data from the disk: wait",
    ),
    (
        "NOREPLICAS",
        ErrorKind::Unavailable,
        Retry::Now,
        "the server has too few replicas to write (`min-replicas-to-write`)",
    ),
    (
        "MASTERDOWN",
        ErrorKind::Unavailable,
        Retry::Reconnect,
        "this replica has lost its primary",
    ),
    (
        "CLUSTERDOWN",
        ErrorKind::Unavailable,
        Retry::Now,
        "the cluster does not serve all slots now",
    ),
    (
        "TRYAGAIN",
        ErrorKind::Unavailable,
        Retry::Now,
        "the slot moves to another node now",
    ),
    (
        "MOVED",
        ErrorKind::Config,
        Retry::Never,
        "this server is a node of a cluster: add `cluster=true` to the URL",
    ),
    (
        "CROSSSLOT",
        ErrorKind::Config,
        Retry::Never,
        "the keys are in several slots of the cluster",
    ),
    (
        "BUSY",
        ErrorKind::Unavailable,
        Retry::Now,
        "the server is busy with a script",
    ),
    // What a script may not do.
    (
        "can't run this command",
        ErrorKind::Permission,
        Retry::Never,
        "the server does not let this user do it: grant it, as the README of catga-redis lists",
    ),
    (
        "can't access at least one of the keys",
        ErrorKind::Permission,
        Retry::Never,
        "the server does not let this user use these keys: grant them, as the README of catga-redis lists",
    ),
    (
        "NOPERM",
        ErrorKind::Permission,
        Retry::Never,
        "the server does not let this user do it: grant it, as the README of catga-redis lists",
    ),
    (
        "WRONGPASS",
        ErrorKind::Permission,
        Retry::Never,
        "the server does not accept who we are: check user and password",
    ),
    (
        "NOAUTH",
        ErrorKind::Permission,
        Retry::Never,
        "the server asks for a password, and the URL has none",
    ),
    (
        "WRONGTYPE",
        ErrorKind::Conflict,
        Retry::Never,
        "there is a key of another type where ours should be: delete it, or use another namespace",
    ),
    (
        "NOGROUP",
        ErrorKind::NotFound,
        Retry::Now,
        "the stream or its group is gone: it is made anew",
    ),
    (
        "UNBLOCKED",
        ErrorKind::NotFound,
        Retry::Now,
        "the stream is gone: it is made anew",
    ),
];

/// The server's own words, which hold no secret of ours.
fn said(error: &RedisError) -> String {
    match error.detail() {
        Some(detail) => format!("the server says: {} {detail}", code(error)),
        None => format!("the server says: {}", code(error)),
    }
}

/// A command whose answer did not come: it may have been done.
fn no_answer(operation: &'static str, what: &str, error: &RedisError) -> Error {
    let (kind, text) = match error.kind() {
        redis::ErrorKind::Io if error.is_timeout() => (
            ErrorKind::Timeout,
            "no answer in time: it may have been done",
        ),
        redis::ErrorKind::Parse => (
            ErrorKind::Unavailable,
            "the answer cannot be read: it may have been done",
        ),
        _ => (
            ErrorKind::Unavailable,
            "the connection was lost before the answer: it may have been done",
        ),
    };
    Error::new(kind, operation, format!("{what}: {text}"))
        .with_retry(Retry::Reconnect)
        .with_unknown_outcome()
        .with_source(error.to_string())
}

/// The same error where nothing was to be stored: looking, and making what is not there.
pub(crate) fn certain(error: Error) -> Error {
    if !error.may_be_stored() {
        return error;
    }
    let (kind, retry, operation) = (error.kind(), error.retry(), error.operation());
    Error::new(kind, operation, "the server could not be asked before")
        .with_retry(retry)
        .with_source(error)
}

/// No connection was made.
pub(crate) fn connect(error: &RedisError, hosts: &str) -> Error {
    let denied = ["WRONGPASS", "NOAUTH", "NOPERM"];
    let text = error.to_string();
    let lower = text.to_ascii_lowercase();
    let (kind, retry, what) = if denied.iter().any(|word| says(error, word)) {
        (
            ErrorKind::Permission,
            Retry::Never,
            format!("{hosts} does not accept who we are: check user and password"),
        )
    } else if [
        "certificate",
        "tls",
        "handshake",
        "alert",
        "corrupt message",
    ]
    .iter()
    .any(|word| lower.contains(word))
    {
        (
            ErrorKind::Connect,
            Retry::Never,
            format!(
                "no TLS with {hosts}: check `tls_ca`, `tls_cert`, `tls_key` and the host's name"
            ),
        )
    } else if error.kind() == redis::ErrorKind::MasterNameNotFoundBySentinel {
        (
            ErrorKind::Connect,
            Retry::Reconnect,
            format!("the sentinels at {hosts} know no primary of this name now"),
        )
    } else if says(error, "LOADING") {
        (
            ErrorKind::Connect,
            Retry::Reconnect,
            format!("the server at {hosts} reads its data from the disk"),
        )
    } else {
        (
            ErrorKind::Connect,
            Retry::Reconnect,
            format!("no Redis server at {hosts}"),
        )
    };
    Error::new(kind, "connect", what)
        .with_retry(retry)
        .with_source(text)
}

/// The server hung up when we said something, with TLS: a client's certificate is looked at behind the handshake.
pub(crate) fn hung_up(error: &RedisError, hosts: &str) -> Error {
    let text = format!(
        "{hosts} hung up after the handshake: it may ask for a certificate, or not accept ours (`tls_cert`, `tls_key`)"
    );
    Error::new(ErrorKind::Connect, "connect", text)
        .with_retry(Retry::Never)
        .with_source(error.to_string())
}

/// The server speaks TLS, and was not spoken to so.
pub(crate) fn needs_tls(hosts: &str) -> Error {
    Error::new(
        ErrorKind::Connect,
        "connect",
        format!("{hosts} asks for TLS: write rediss:// instead of redis://"),
    )
    .with_retry(Retry::Never)
}

/// The server speaks plain text, and was not spoken to so.
pub(crate) fn speaks_plain(hosts: &str) -> Error {
    Error::new(
        ErrorKind::Connect,
        "connect",
        format!(
            "{hosts} does not speak TLS: give it a certificate, or write redis:// instead of rediss:// where plain text will do"
        ),
    )
    .with_retry(Retry::Never)
}

/// Nobody answered in time.
pub(crate) fn connect_timeout(hosts: &str, after: Duration) -> Error {
    Error::new(
        ErrorKind::Connect,
        "connect",
        format!("no answer from {hosts} within {after:?}"),
    )
}

/// A file that is named in the URL cannot be read.
pub(crate) fn file(what: &str, path: &std::path::Path, error: std::io::Error) -> Error {
    Error::new(
        ErrorKind::Config,
        "connect",
        format!("{what} {} cannot be read", path.display()),
    )
    .with_source(error)
}

/// The settings of a client that cannot work.
pub(crate) fn settings(error: &RedisError) -> Error {
    Error::new(
        ErrorKind::Config,
        "connect",
        "the URL makes no connection to Redis",
    )
    .with_source(error.to_string())
}

/// The server is older than what this backend is built on.
pub(crate) fn too_old(version: &str) -> Error {
    Error::new(
        ErrorKind::Unsupported,
        "connect",
        format!("the server is Redis {version}: 7.0 or newer is needed"),
    )
    .with_context("backend", "redis")
}

/// What the server is set to is weaker than what `durable` asks for.
pub(crate) fn not_durable(weak: &str) -> Error {
    Error::new(
        ErrorKind::Config,
        "connect",
        format!("the URL asks for `durable`, and {weak}"),
    )
}

/// This connection was closed by its owner.
pub(crate) fn closed(operation: &'static str) -> Error {
    Error::new(
        ErrorKind::Closed,
        operation,
        "this connection to Redis was closed",
    )
}

/// A message is in its stream, and nobody was told that there is this stream.
pub(crate) fn half_done(operation: &'static str) -> Error {
    let text = "the message was stored, but not that its partition has a stream, which groups need to find it: \
                publish it again with the same id, and look at the rights of this user";
    Error::new(ErrorKind::Unavailable, operation, text)
        .with_retry(Retry::Now)
        .with_unknown_outcome()
}

/// Something was handed over before this connection was closed.
pub(crate) fn closed_meanwhile(operation: &'static str) -> Error {
    closed(operation).with_unknown_outcome()
}

/// There is no connection, and nothing was handed over.
pub(crate) fn not_connected(operation: &'static str, problem: Option<&Error>) -> Error {
    let denied = problem.filter(|problem| problem.kind() == ErrorKind::Permission);
    let kind = denied.map_or(ErrorKind::Unavailable, Error::kind);
    let why = problem
        .map(|problem| format!(" ({})", problem.message()))
        .unwrap_or_default();
    Error::new(
        kind,
        operation,
        format!("there is no connection to Redis now{why}: it is being made again"),
    )
    .with_retry(Retry::Reconnect)
}

/// The queue to the server had no room in time, so that nothing was handed over.
pub(crate) fn queue_full(operation: &'static str) -> Error {
    Error::new(
        ErrorKind::Unavailable,
        operation,
        "nothing was taken in time: the queue to the server is full",
    )
    .with_retry(Retry::Reconnect)
}

/// Something was handed over, and nothing came back in time.
pub(crate) fn unanswered(operation: &'static str, what: &str) -> Error {
    Error::new(
        ErrorKind::Timeout,
        operation,
        format!("{what}: no answer in time: it may have been done"),
    )
    .with_unknown_outcome()
}

/// Fewer replicas than asked for have a message.
pub(crate) fn too_few_replicas(operation: &'static str, have: i64, asked: u32) -> Error {
    Error::new(
        ErrorKind::Unavailable,
        operation,
        format!("{have} replicas have it, and `wait_replicas={asked}` asks for more: it may be lost when the primary is"),
    )
    .with_retry(Retry::Now)
    .with_unknown_outcome()
}

/// A message is larger than what can be published.
pub(crate) fn too_large(operation: &'static str, name: &Name, size: usize, max: usize) -> Error {
    Error::new(
        ErrorKind::PayloadTooLarge,
        operation,
        format!(
            "`{name}` has {size} bytes with its headers, and {max} are allowed: raise the URL option `max_payload`, and `proto-max-bulk-len` of the server"
        ),
    )
}

/// A payload that nobody encoded.
pub(crate) fn not_encoded(operation: &'static str, name: &Name) -> Error {
    Error::new(
        ErrorKind::Encode,
        operation,
        format!("the payload of `{name}` is a value: encode it before"),
    )
}

/// A stream or group is not there, and is not to be made.
pub(crate) fn missing(operation: &'static str, what: &str) -> Error {
    Error::new(
        ErrorKind::NotFound,
        operation,
        format!("there is no {what}, and `manage=false` forbids to create it"),
    )
}

/// An answer that cannot be read.
pub(crate) fn unreadable(operation: &'static str, what: &str) -> Error {
    Error::new(
        ErrorKind::Decode,
        operation,
        format!("{what} cannot be read: it was written by somebody else, or by another version"),
    )
}

/// The lease of a delivery ran out before.
pub(crate) fn lost_ownership(operation: &'static str) -> Error {
    Error::new(
        ErrorKind::LostOwnership,
        operation,
        "the lease of this delivery ran out and the message is redelivered: settle or extend it within the ack wait",
    )
}

/// The lease of a claim ran out before.
pub(crate) fn lost_claim(operation: &'static str) -> Error {
    Error::new(
        ErrorKind::LostOwnership,
        operation,
        "this claim is not held, or no longer: its lease ran out, or it was settled otherwise",
    )
}

/// Effects of another store.
pub(crate) fn foreign_effects(operation: &'static str) -> Error {
    Error::new(
        ErrorKind::Unsupported,
        operation,
        "these effects are of another store: the inbox of redis commits what was written with `Commit<catga::redis::Redis>`",
    )
    .with_context("backend", "redis")
}

/// A claim that somebody else granted.
pub(crate) fn foreign_claim(operation: &'static str) -> Error {
    Error::new(
        ErrorKind::Unsupported,
        operation,
        "a claim was passed with a settlement: redis ends the claims that it hands out with a delivery, and no others",
    )
    .with_context("backend", "redis")
    .with_context("capability", Capability::FusedCompletion)
}

/// A settlement that came into the contract after this backend was written.
pub(crate) fn unknown_settlement() -> Error {
    Error::new(
        ErrorKind::Unsupported,
        "settle",
        "the backend redis does not know this settlement: use versions of catga that belong together",
    )
}

/// What is not redelivered has no order to be kept.
pub(crate) fn ordered_at_qos_0(message: &Name) -> Error {
    Error::new(
        ErrorKind::Unsupported,
        "subscribe",
        format!("the backend redis cannot handle `{message}` ordered at {}: subscribe at a higher guarantee", QoS::AtMostOnce),
    )
    .with_context("backend", "redis")
    .with_context("capability", Capability::Ordered)
}

/// Members of one group ask for different things.
pub(crate) fn other_order(
    message: &Name,
    member: &impl fmt::Display,
    there: &str,
    asked: &str,
) -> Error {
    let shown = |order: &str| match order {
        "0" => "no order".to_owned(),
        partitions => format!("order in {partitions} partitions"),
    };
    Error::new(
        ErrorKind::Conflict,
        "subscribe",
        format!(
            "`{member}` handles `{message}` with {}, and this member asks for {}: all members must ask for the same; to change it, let the group finish and delete its key",
            shown(there),
            shown(asked),
        ),
    )
}

/// Nobody answers a request.
pub(crate) fn no_responders(request: &Name, to: &Target) -> Error {
    Error::new(
        ErrorKind::NoResponders,
        "request",
        format!("nobody answers `{request}` at {to}"),
    )
}

/// A request was not answered in time.
pub(crate) fn request_timeout(request: &Name, time_left: Duration) -> Error {
    Error::new(
        ErrorKind::Timeout,
        "request",
        format!("no answer to `{request}` within {time_left:?}: it may have run"),
    )
    .with_unknown_outcome()
}

/// A reply may have been published while nobody listened.
pub(crate) fn reply_may_be_lost(request: &Name) -> Error {
    Error::new(
        ErrorKind::Unavailable,
        "request",
        format!("the connection for answers was lost while `{request}` waited, and its answer may be: ask again with the same id"),
    )
    .with_retry(Retry::Reconnect)
    .with_unknown_outcome()
}

/// Too many replies are waited for.
pub(crate) fn too_many_waiting(operation: &'static str) -> Error {
    Error::new(
        ErrorKind::LimitReached,
        operation,
        "too many answers are waited for at once",
    )
}

#[cfg(test)]
mod tests {
    use redis::Value;

    use super::*;

    fn answer(text: &str) -> RedisError {
        let line = format!("-{text}\r\n");
        match redis::parse_redis_value(line.as_bytes()).unwrap() {
            Value::ServerError(error) => error.into(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn every_answer_has_its_kind_and_says_that_nothing_was_stored() {
        for (text, kind, retry) in [
            (
                "OOM command not allowed",
                ErrorKind::LimitReached,
                Retry::Now,
            ),
            ("MISCONF Errors writing", ErrorKind::Unavailable, Retry::Now),
            (
                "READONLY You can't write",
                ErrorKind::Unavailable,
                Retry::Reconnect,
            ),
            (
                "LOADING Redis is loading",
                ErrorKind::Unavailable,
                Retry::Now,
            ),
            ("NOREPLICAS Not enough", ErrorKind::Unavailable, Retry::Now),
            ("MASTERDOWN Link", ErrorKind::Unavailable, Retry::Reconnect),
            ("CLUSTERDOWN Hash slot", ErrorKind::Unavailable, Retry::Now),
            ("TRYAGAIN Multiple keys", ErrorKind::Unavailable, Retry::Now),
            ("MOVED 3999 127.0.0.1:6381", ErrorKind::Config, Retry::Never),
            ("CROSSSLOT Keys", ErrorKind::Config, Retry::Never),
            ("BUSY Redis is busy", ErrorKind::Unavailable, Retry::Now),
            ("NOPERM this user", ErrorKind::Permission, Retry::Never),
            (
                "ERR The user executing the script can't run this command or subcommand script: a, on b",
                ErrorKind::Permission,
                Retry::Never,
            ),
            ("WRONGPASS invalid", ErrorKind::Permission, Retry::Never),
            ("NOAUTH Authentication", ErrorKind::Permission, Retry::Never),
            ("WRONGTYPE Operation", ErrorKind::Conflict, Retry::Never),
            ("NOGROUP No such key", ErrorKind::NotFound, Retry::Now),
            (
                "ERR NOGROUP No such key script: abc",
                ErrorKind::NotFound,
                Retry::Now,
            ),
            ("ERR syntax error", ErrorKind::Unavailable, Retry::Never),
            ("HUH what", ErrorKind::Unavailable, Retry::Now),
        ] {
            let error = of("publish", "stream `s`", &answer(text));
            assert_eq!((error.kind(), error.retry()), (kind, retry), "{text}");
            assert!(!error.may_be_stored(), "{text}");
        }
    }

    #[test]
    fn what_was_not_answered_may_be_stored() {
        for kind in [
            std::io::ErrorKind::BrokenPipe,
            std::io::ErrorKind::ConnectionReset,
            std::io::ErrorKind::TimedOut,
            std::io::ErrorKind::UnexpectedEof,
        ] {
            let lost = RedisError::from(std::io::Error::from(kind));
            let error = of("publish", "stream `s`", &lost);
            assert!(error.may_be_stored() && is_broken(&lost), "{kind}");
            assert_eq!(error.retry(), Retry::Reconnect, "{kind}");
            assert!(!certain(error).may_be_stored());
        }
    }
}
