//! The one place that turns what the client and the server say into our errors.
//!
//! What matters most is [`Error::may_be_stored`]: it says "no" only where the message certainly never arrives.

use std::fmt;
use std::time::Duration;

use async_nats::jetstream::context::{RequestError, RequestErrorKind};
use async_nats::{ConnectError, ConnectErrorKind, PublishError, PublishErrorKind};
use catga_core::{Capability, Error, ErrorKind, Name, NodeInfo, Retry, Target};

/// This connection was closed by its owner.
pub(crate) fn closed(operation: &'static str) -> Error {
    Error::new(
        ErrorKind::Closed,
        operation,
        "this connection to NATS was closed",
    )
}

/// No connection was made.
pub(crate) fn connect(error: ConnectError, servers: &[String]) -> Error {
    let servers = servers.join(", ");
    let (kind, retry, text) = match error.kind() {
        ConnectErrorKind::AuthorizationViolation | ConnectErrorKind::Authentication => (
            ErrorKind::Permission,
            Retry::Never,
            format!(
                "{servers} does not accept who we are: check user, password, token, key or credentials"
            ),
        ),
        kind if kind == ConnectErrorKind::Tls || is_about_tls(&error) => (
            ErrorKind::Connect,
            Retry::Never,
            format!(
                "no TLS with {servers}: check `tls_ca`, `tls_cert`, `tls_key` and the host's name"
            ),
        ),
        ConnectErrorKind::ServerParse => (
            ErrorKind::Config,
            Retry::Never,
            format!("{servers} is no address of a server"),
        ),
        _ => (
            ErrorKind::Connect,
            Retry::Reconnect,
            format!("no NATS server at {servers}"),
        ),
    };
    Error::new(kind, "connect", text)
        .with_retry(retry)
        .with_source(error)
}

/// Whether what came was no TLS, or a certificate that is not to be trusted: the client calls that an input error as it
/// calls a server that is not there.
fn is_about_tls(error: &ConnectError) -> bool {
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        let io = cause.downcast_ref::<std::io::Error>();
        if io.is_some_and(|io| io.kind() == std::io::ErrorKind::InvalidData) {
            return true;
        }
        source = cause.source();
    }
    false
}

/// The server is older than what this backend is built on.
pub(crate) fn too_old(version: &str) -> Error {
    Error::new(
        ErrorKind::Unsupported,
        "connect",
        format!("the server is nats-server {version}: 2.9 or newer is needed"),
    )
    .with_context("backend", "nats")
}

/// There is no connection, and nothing was handed over.
pub(crate) fn not_connected(operation: &'static str, problem: Option<&str>) -> Error {
    let refused = problem.is_some_and(|text| text.contains("authorization violation"));
    let kind = if refused {
        ErrorKind::Permission
    } else {
        ErrorKind::Unavailable
    };
    let why = problem.map(|text| format!(" ({text})")).unwrap_or_default();
    Error::new(
        kind,
        operation,
        format!("there is no connection to NATS now{why}: it is being made again"),
    )
    .with_retry(Retry::Reconnect)
}

/// The client's queue had no room in time, so that nothing was handed over.
pub(crate) fn queue_full(operation: &'static str) -> Error {
    Error::new(
        ErrorKind::Unavailable,
        operation,
        "the client took nothing in time: its queue to the server is full",
    )
    .with_retry(Retry::Reconnect)
}

/// The client did not take a message.
pub(crate) fn not_sent(operation: &'static str, error: PublishError) -> Error {
    let (kind, text) = match error.kind() {
        PublishErrorKind::MaxPayloadExceeded => (
            ErrorKind::PayloadTooLarge,
            "the message is larger than the server takes: raise `max_payload` there",
        ),
        PublishErrorKind::InvalidSubject => (
            ErrorKind::InvalidName,
            "the name makes no subject that NATS takes",
        ),
        PublishErrorKind::Send => (ErrorKind::Closed, "the connection to NATS ended"),
    };
    Error::new(kind, operation, text).with_source(error)
}

/// The client made no subscription.
pub(crate) fn not_subscribed(operation: &'static str, error: async_nats::SubscribeError) -> Error {
    Error::new(ErrorKind::Closed, operation, "the connection to NATS ended").with_source(error)
}

/// A message is larger than what can be published.
pub(crate) fn too_large(operation: &'static str, name: &Name, size: usize, max: usize) -> Error {
    Error::new(
        ErrorKind::PayloadTooLarge,
        operation,
        format!(
            "`{name}` has {size} bytes with its headers, and the server takes {max}: raise `max_payload` there"
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

/// Something was handed over, and nothing came back in time.
pub(crate) fn unanswered(operation: &'static str, subject: &str) -> Error {
    Error::new(
        ErrorKind::Timeout,
        operation,
        format!("no answer from `{subject}` in time: it may have been done"),
    )
    .with_unknown_outcome()
}

/// Something was handed over, and the connection that its answer was to come by is gone.
pub(crate) fn lost(operation: &'static str, subject: &str) -> Error {
    Error::new(
        ErrorKind::Unavailable,
        operation,
        format!(
            "the connection to NATS was lost before `{subject}` answered: it may have been done"
        ),
    )
    .with_retry(Retry::Reconnect)
    .with_unknown_outcome()
}

/// Something was handed over before this connection was closed.
pub(crate) fn closed_meanwhile(operation: &'static str) -> Error {
    closed(operation).with_unknown_outcome()
}

/// The server told that this subject is not ours.
pub(crate) fn denied(operation: &'static str, subject: &str) -> Error {
    Error::new(
        ErrorKind::Permission,
        operation,
        format!(
            "the server does not let this user use `{subject}`: grant it, as the README of catga-nats lists"
        ),
    )
}

/// Some consumers did not answer, so that nobody knows where they are.
pub(crate) fn not_all_listed(operation: &'static str, stream: &str) -> Error {
    let text = format!("not all consumers of the stream `{stream}` answered");
    Error::new(ErrorKind::Unavailable, operation, text).with_retry(Retry::Now)
}

/// Nobody listens to a subject of JetStream's.
pub(crate) fn no_jetstream(operation: &'static str) -> Error {
    Error::new(
        ErrorKind::Unavailable,
        operation,
        "JetStream does not answer: it is off on this server or for this account, or has no leader now",
    )
    .with_retry(Retry::Now)
}

/// What stops a node registry that needs JetStream, with the way out where it is JetStream that is missing.
pub(crate) fn of_bucket(error: Error) -> Error {
    let kind = error.kind();
    let missing = [ErrorKind::Unavailable, ErrorKind::Unsupported].contains(&kind)
        && error.message().contains("JetStream");
    if !missing {
        return error;
    }
    let text = format!(
        "{}; without JetStream nodes find each other by `?discovery=pubsub`",
        error.message()
    );
    Error::new(kind, error.operation(), text)
        .with_retry(error.retry())
        .with_source(error)
}

/// Nothing keeps what is published to this subject.
pub(crate) fn no_stream(operation: &'static str, subject: &str, managed: bool) -> Error {
    let error = Error::new(
        ErrorKind::NotFound,
        operation,
        format!("no stream keeps `{subject}`: it was deleted, or has no leader now"),
    );
    // Who creates streams makes it anew at the next try.
    error.with_retry(if managed { Retry::Now } else { Retry::Never })
}

/// A stream, consumer or bucket is not there, and is not to be made.
pub(crate) fn missing(operation: &'static str, what: &str) -> Error {
    Error::new(
        ErrorKind::NotFound,
        operation,
        format!("there is no {what}, and `manage=false` forbids to create it"),
    )
}

/// Something on the server is set otherwise than asked for.
pub(crate) fn differs(
    operation: &'static str,
    what: &str,
    setting: &str,
    present: &dyn fmt::Debug,
    asked: &dyn fmt::Debug,
) -> Error {
    Error::new(
        ErrorKind::Conflict,
        operation,
        format!(
            "the {what} is there with {setting}={present:?}, and {setting}={asked:?} is asked for: change one of them"
        ),
    )
}

/// A call of JetStream's API that got no answer of its own.
pub(crate) fn api(operation: &'static str, subject: &str, error: RequestError) -> Error {
    let error_of = |kind, text: String| Error::new(kind, operation, text);
    match error.kind() {
        RequestErrorKind::NoResponders => no_jetstream(operation),
        RequestErrorKind::TimedOut => unanswered(operation, subject),
        RequestErrorKind::InvalidSubject => error_of(
            ErrorKind::InvalidName,
            format!("`{subject}` is no subject of JetStream's API"),
        )
        .with_source(error),
        RequestErrorKind::Other => error_of(
            ErrorKind::Unavailable,
            format!("`{subject}` was not answered as it should"),
        )
        .with_unknown_outcome()
        .with_source(error),
    }
}

/// An error that JetStream answered with. What is not known here may have happened all the same.
pub(crate) fn jetstream(
    operation: &'static str,
    what: &str,
    error: &async_nats::jetstream::Error,
) -> Error {
    let code = error.error_code().0;
    let (kind, retry) = match code {
        // Nothing goes in: limits of the stream, the account or the server.
        10077 | 10023 | 10047 | 10028 | 10002 | 10122 | 10053 => {
            (ErrorKind::LimitReached, Retry::Now)
        }
        // The message is above a limit of the stream.
        10054 | 10097 => (ErrorKind::PayloadTooLarge, Retry::Never),
        // The key or stream moved on.
        10071 | 10164 | 10070 => (ErrorKind::Conflict, Retry::Never),
        // JetStream is off.
        10039 | 10076 | 10035 => (ErrorKind::Unsupported, Retry::Never),
        // No leader, or not yet.
        10003..=10009 | 10118 | 10119 => (ErrorKind::Unavailable, Retry::Now),
        10059 | 10014 | 10037 | 10149 => (ErrorKind::NotFound, Retry::Never),
        // Another setting, name or use than ours.
        10058 | 10065 | 10013 | 10148 | 10105 | 10109 | 10061 | 10069 => {
            (ErrorKind::Conflict, Retry::Never)
        }
        10074 | 10052 | 10096 | 10025 | 10102 | 10103 | 10100 | 10099 => {
            (ErrorKind::Config, Retry::Never)
        }
        // Another copy of it in work (10158), a raft that stumbles, and what newer servers say.
        _ => {
            return said(operation, what, error, ErrorKind::Unavailable, Retry::Now)
                .with_unknown_outcome();
        }
    };
    said(operation, what, error, kind, retry)
}

fn said(
    operation: &'static str,
    what: &str,
    error: &async_nats::jetstream::Error,
    kind: ErrorKind,
    retry: Retry,
) -> Error {
    Error::new(kind, operation, format!("{what}: the server says: {error}"))
        .with_retry(retry)
        .with_context("code", error.error_code().0)
}

/// An answer that cannot be read.
pub(crate) fn unreadable(operation: &'static str, what: &str) -> Error {
    Error::new(
        ErrorKind::Decode,
        operation,
        format!("{what} cannot be read: it was written by somebody else, or by a newer version"),
    )
}

/// The consumer that a delivery came from is gone.
pub(crate) fn no_consumer(operation: &'static str) -> Error {
    Error::new(
        ErrorKind::NotFound,
        operation,
        "the consumer of this delivery is gone: the message is delivered again",
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

/// This backend lacks an ability.
pub(crate) fn unsupported(operation: &'static str, capability: Capability) -> Error {
    Error::new(
        ErrorKind::Unsupported,
        operation,
        format!("the backend nats has no `{capability}`: use one that has it"),
    )
    .with_context("backend", "nats")
    .with_context("capability", capability)
}

/// A handler wrote for a store to be committed with a claim.
pub(crate) fn no_effects(operation: &'static str) -> Error {
    Error::new(
        ErrorKind::Unsupported,
        operation,
        "the backend nats commits no effects: key them by `ctx.idempotency_key()`, or give an inbox that can",
    )
    .with_context("backend", "nats")
}

/// A settlement that came into the contract after this backend was written.
pub(crate) fn unknown_settlement() -> Error {
    Error::new(
        ErrorKind::Unsupported,
        "settle",
        "the backend nats does not know this settlement: use versions of catga that belong together",
    )
}

/// What is not redelivered has no order to be kept.
pub(crate) fn ordered_at_qos_0(message: &Name) -> Error {
    Error::new(
        ErrorKind::Unsupported,
        "subscribe",
        format!("the backend nats cannot handle `{message}` ordered at at_most_once: subscribe at a higher guarantee"),
    )
    .with_context("backend", "nats")
    .with_context("capability", Capability::Ordered)
}

/// Members of one group ask for different things.
pub(crate) fn other_order(message: &Name, member: &str, partitions: u16) -> Error {
    let asked = match partitions {
        0 => "no order".to_owned(),
        partitions => format!("order in {partitions} partitions"),
    };
    Error::new(
        ErrorKind::Conflict,
        "subscribe",
        format!(
            "`{member}` handles `{message}` in another order, and this member asks for {asked}: all members must ask for the same; to change it, let the group finish and delete its consumers"
        ),
    )
}

/// A node that cannot be written down.
pub(crate) fn unwritable(
    operation: &'static str,
    node: &NodeInfo,
    error: serde_json::Error,
) -> Error {
    let text = format!("the node `{}` cannot be written as JSON", node.id);
    Error::new(ErrorKind::Encode, operation, text).with_source(error)
}

/// A node that says too much.
pub(crate) fn large_node(
    operation: &'static str,
    node: &NodeInfo,
    size: usize,
    most: usize,
) -> Error {
    Error::new(
        ErrorKind::PayloadTooLarge,
        operation,
        format!(
            "the node `{}` takes {size} bytes with its metadata, and the registry takes {most}: say less",
            node.id
        ),
    )
}

/// Another live node has this id.
pub(crate) fn duplicate_node(node: &NodeInfo, left: Duration) -> Error {
    Error::new(
        ErrorKind::DuplicateNode,
        "register",
        format!(
            "another live node has the id `{}`: give each node its own; where it is this node before it crashed, its id is free in {left:.1?}",
            node.id
        ),
    )
}

/// Another incarnation has taken this node's id.
pub(crate) fn lost_node(operation: &'static str, node: &NodeInfo) -> Error {
    Error::new(
        ErrorKind::LostOwnership,
        operation,
        format!(
            "another incarnation has the node id `{}` now: this one was replaced",
            node.id
        ),
    )
}

/// The registry does not know this node, or not any more.
pub(crate) fn unknown_node(operation: &'static str, node: &NodeInfo) -> Error {
    Error::new(
        ErrorKind::NotFound,
        operation,
        format!(
            "the registry does not list the node `{}`, or gave it up after a silence: register it again",
            node.id
        ),
    )
}

/// The node registry did not come to an answer in time.
pub(crate) fn slow_registry(operation: &'static str) -> Error {
    Error::new(
        ErrorKind::Timeout,
        operation,
        "the node registry came to no answer in time: it may have been done",
    )
    .with_retry(Retry::Now)
    .with_unknown_outcome()
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
    use super::*;

    fn answer(code: u64) -> Error {
        let json = format!(r#"{{"code":503,"err_code":{code},"description":"text"}}"#);
        jetstream(
            "publish",
            "stream `s`",
            &serde_json::from_str(&json).unwrap(),
        )
    }

    #[test]
    fn every_answer_has_its_kind_and_says_no_only_where_that_is_certain() {
        for (code, kind, retry, may_be_stored) in [
            (10077, ErrorKind::LimitReached, Retry::Now, false),
            (10023, ErrorKind::LimitReached, Retry::Now, false),
            (10054, ErrorKind::PayloadTooLarge, Retry::Never, false),
            (10071, ErrorKind::Conflict, Retry::Never, false),
            (10076, ErrorKind::Unsupported, Retry::Never, false),
            (10039, ErrorKind::Unsupported, Retry::Never, false),
            (10008, ErrorKind::Unavailable, Retry::Now, false),
            (10059, ErrorKind::NotFound, Retry::Never, false),
            (10058, ErrorKind::Conflict, Retry::Never, false),
            (10074, ErrorKind::Config, Retry::Never, false),
            (10158, ErrorKind::Unavailable, Retry::Now, true),
            (10041, ErrorKind::Unavailable, Retry::Now, true),
            (19999, ErrorKind::Unavailable, Retry::Now, true),
        ] {
            let error = answer(code);
            assert_eq!(
                (error.kind(), error.retry(), error.may_be_stored()),
                (kind, retry, may_be_stored),
                "{code}"
            );
            assert!(error.message().contains("text"), "{error}");
        }
    }

    #[test]
    fn what_was_not_handed_over_is_not_stored_and_what_was_may_be() {
        assert!(!not_connected("publish", None).may_be_stored());
        assert!(!queue_full("publish").may_be_stored());
        assert!(!denied("publish", "a").may_be_stored());
        assert!(!no_stream("publish", "a", true).may_be_stored());
        assert!(unanswered("publish", "a").may_be_stored());
        assert!(closed_meanwhile("publish").may_be_stored());
    }

    #[test]
    fn a_revoked_password_is_a_matter_of_permission() {
        let error = not_connected("publish", Some("nats: authorization violation"));
        assert_eq!(error.kind(), ErrorKind::Permission);
        assert_eq!(
            not_connected("publish", Some("io")).kind(),
            ErrorKind::Unavailable
        );
    }
}
