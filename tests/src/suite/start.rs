//! What is wrong is said at the start, all of it.

use std::time::Duration;

use catga::prelude::{Catga, Context, Event, Request, Result, State, handler, handlers};
use catga::{
    Backend, Capability, CatgaBuilder, ConnectOptions, Driver, Error, ErrorKind, HandlerError,
};
use catga_core::{BackendUrl, async_trait};
use serde::{Deserialize, Serialize};

use crate::harness::{Bus, SOON, scenarios};
use crate::journal::{Journal, Play, Step};
use crate::messages::{Answer, Ask, Tick, Work, each_work, on_ask, on_tick, on_work};

scenarios! { Runtime "start":
    Paused wrong_url,
    Paused unknown_scheme,
    Paused wrong_option,
    Paused missing_state,
    Paused all_problems_at_once,
    Paused wrong_url_and_more,
    Paused one_mistake_one_problem,
    Paused builder_settings_name_themselves,
    Paused options_without_meaning,
    Paused guarantees_that_the_backend_has_not,
    Paused node_id_in_use,
    Paused failed_start_leaves_nothing,
}

/// The error of a start that cannot work.
async fn refused(builder: CatgaBuilder, kind: ErrorKind, parts: &[&str]) -> String {
    let error = builder.start().await.expect_err("it cannot work");
    let shown = format!("{error:?}");
    assert_eq!(error.kind(), kind, "{shown}");
    for part in parts {
        assert!(shown.contains(part), "{part:?} is not in: {shown}");
    }
    assert!(!shown.contains("sentinel"), "a password is shown: {shown}");
    shown
}

/// A URL that is none is refused, in words that show how one looks, and no password.
async fn wrong_url(_: Bus) -> Result<()> {
    let node = |url: &str| Catga::builder().connect(url).handlers(handlers![]);
    for url in ["memory", "me mory://x", "://x", "u:sentinel@host"] {
        refused(node(url), ErrorKind::Config, &["scheme://"]).await;
    }
    for (url, part) in [
        ("memory://a/path", "no path"),
        ("memory://a:80", "no port"),
        ("memory://u:sentinel@a", "no user"),
    ] {
        refused(node(url), ErrorKind::Config, &[part]).await;
    }
    Ok(())
}

/// An unknown scheme is refused, with the list of those that are known.
async fn unknown_scheme(_: Bus) -> Result<()> {
    let node = Catga::builder().connect("natz://u:sentinel@localhost");
    let parts = ["no driver for scheme \"natz\"", "available: memory"];
    refused(node.handlers(handlers![]), ErrorKind::Config, &parts).await;
    Ok(())
}

/// An unknown option, or one with a value that cannot be meant, is refused with what is allowed.
async fn wrong_option(bus: Bus) -> Result<()> {
    let node = |option: &str| {
        let node = bus.clone().with_option(option).node("a");
        node.handlers(handlers![])
    };
    for (option, parts) in [
        ("atempts=3", ["atempts", "attempts"]),
        ("attempts=many", ["attempts=many", "whole number"]),
        ("attempts=0", ["attempts", "at least 1"]),
        ("backoff=fast", ["backoff=fast", "200ms..30s"]),
        ("capacity=0", ["capacity", "from 1"]),
    ] {
        refused(node(option), ErrorKind::Config, &parts).await;
    }
    let _first = node("capacity=5").start().await?;
    let conflict = ["capacity=5", "capacity=6"];
    refused(node("capacity=6"), ErrorKind::Conflict, &conflict).await;
    Ok(())
}

/// A State that nobody gave is found at the start, with handler, type, file and line.
async fn missing_state(bus: Bus) -> Result<()> {
    let node = bus.node("a").handlers(handlers![on_work]);
    let parts = ["on_work", "messages.rs:", "Play", ".state(..)"];
    refused(node, ErrorKind::Config, &parts).await;
    Ok(())
}

/// A second type with the name of another.
#[derive(Event, Serialize, Deserialize)]
#[message(name = "Tick")]
struct Tock;

#[handler(group = "tocks")]
async fn on_tock(_: Tock) {}

#[handler]
async fn answer_too(_: Ask, _: State<Play>) -> Result<Answer> {
    Err(HandlerError::terminal("never called"))
}

#[handler(group = "workers")]
async fn work_too(_: Work) {}

/// An idempotent request, whose responses somebody would have to keep.
#[derive(Request, Serialize, Deserialize)]
struct Settle;

#[handler]
async fn on_settle(_: Settle, _: Context) -> Result<()> {
    Ok(())
}

/// Everything that is wrong with settings and handlers is reported at once.
async fn all_problems_at_once(bus: Bus) -> Result<()> {
    let all = handlers![
        on_tick, on_tock, on_ask, answer_too, on_work, work_too, each_work
    ];
    let bus = bus.with_option("atempts=3").with_option("concurrency=few");
    let node = Catga::builder()
        .connect(bus.url())
        .service("a.b")
        .handlers(all);
    let shown = refused(
        node.attempts(0),
        ErrorKind::Config,
        &[
            "unknown URL option \"atempts\"",
            "`concurrency=few`",
            "`service`: invalid name \"a.b\"",
            "`attempts` must be at least 1",
            "needs the state",
            "two message types have the name `Tick`",
            "the request `Ask` already has the handler",
            "the event `Work` already has the handler",
            "`each_node` at `at_least_once` needs a node id",
        ],
    )
    .await;
    assert!(shown.contains("start.rs:"), "no file and line: {shown}");
    Ok(())
}

/// A URL that leads nowhere hides nothing of what is wrong beside it.
async fn wrong_url_and_more(_: Bus) -> Result<()> {
    for (url, part) in [
        ("memory:/u:sentinel@x", "has no `scheme://`"),
        ("natz://?replicas=3&node=a", "no driver for scheme \"natz\""),
    ] {
        let all = handlers![on_ask, answer_too, each_work];
        let node = Catga::builder().connect(url).attempts(0).handlers(all);
        let parts = [
            "6 problems:",
            part,
            "`attempts` must be at least 1",
            "the request `Ask` already has the handler",
        ];
        let shown = refused(node, ErrorKind::Config, &parts).await;
        assert_eq!(shown.matches("needs the state").count(), 3, "{shown}");
        assert!(!shown.contains("node id"), "the URL may name it: {shown}");
    }
    Ok(())
}

#[handler]
async fn answer_thrice(_: Ask, _: State<Play>, _: State<Play>) -> Result<Answer> {
    Err(HandlerError::terminal("never called"))
}

#[handler(group = "workers")]
async fn work_thrice(_: Work) {}

#[handler(group = "more-tocks")]
async fn on_tock_too(_: Tock) {}

/// Each handler too many is one problem, which names the first; so is each state that is missing.
async fn one_mistake_one_problem(bus: Bus) -> Result<()> {
    let all = handlers![
        on_tick,
        on_tock,
        on_tock_too,
        on_ask,
        answer_too,
        answer_thrice,
        on_work,
        work_too,
        work_thrice
    ];
    let shown = refused(bus.node("a").handlers(all), ErrorKind::Config, &[]).await;
    for (problem, count) in [
        ("two message types have the name `Tick`", 1),
        ("the request `Ask` already has the handler", 2),
        ("the event `Work` already has the handler", 2),
        // Of `on_tick`, `on_ask`, `answer_too`, `answer_thrice` and `on_work`.
        ("needs the state", 5),
    ] {
        assert_eq!(shown.matches(problem).count(), count, "{problem}: {shown}");
    }
    assert!(shown.contains("10 problems:"), "{shown}");
    for message in ["request `Ask`", "event `Work`"] {
        let already = format!("{message} already has the handler ");
        let named: Vec<_> = shown.split(&already).skip(1).map(first_word).collect();
        assert_eq!(named[0], named[1], "{shown}");
    }
    Ok(())
}

fn first_word(text: &str) -> &str {
    text.split_whitespace().next().unwrap_or_default()
}

/// A setting of the builder that cannot be meant is refused by its name.
async fn builder_settings_name_themselves(bus: Bus) -> Result<()> {
    let node = || bus.node("a").handlers(handlers![]);
    let (zero, second) = (Duration::ZERO, Duration::from_secs(1));
    for (node, parts) in [
        (
            node().service("a b"),
            ["`service`: invalid name", "\"a b\""],
        ),
        (node().node("a.b"), ["`node`: invalid name", "single token"]),
        (node().namespace(""), ["`namespace`: invalid name", "empty"]),
        (
            node().backoff(zero, second),
            ["`backoff`: 0s..1s", "above 0"],
        ),
        (
            node().backoff(second * 30, second),
            ["`backoff`: 30s..1s", "200ms..30s"],
        ),
    ] {
        let shown = refused(node, ErrorKind::Config, &parts).await;
        assert!(!shown.contains("dots between"), "{shown}");
    }
    Ok(())
}

#[handler(group = "g", attempts = 2, backoff = "1s..2s", start = "new")]
async fn answer_with_options(_: Ask) -> Result<Answer> {
    Err(HandlerError::terminal("never called"))
}

#[handler(start = "new")]
async fn new_ticks(_: Tick) {}

/// Options that mean nothing on a message are refused.
async fn options_without_meaning(bus: Bus) -> Result<()> {
    let node = bus.node("a").handlers(handlers![answer_with_options]);
    let parts = [
        "leave out `group`, `start`, `attempts`, `backoff`: the request `Ask`",
        "tried again by its caller",
    ];
    let shown = refused(node, ErrorKind::Config, &parts).await;
    assert!(!shown.contains("problems:"), "{shown}");
    let node = bus.node("a").handlers(handlers![new_ticks]);
    let parts = ["leave out `start`: `Tick` is `at_most_once`"];
    refused(node, ErrorKind::Config, &parts).await;
    Ok(())
}

#[derive(Event, Serialize, Deserialize)]
#[qos(exactly_once)]
struct Paid;

#[handler]
async fn on_paid(_: Paid) {}

#[derive(Event, Serialize, Deserialize)]
#[qos(at_least_once)]
#[route_by(id)]
struct Moved {
    id: u32,
}

#[handler(ordered)]
async fn on_moved(_: Moved) {}

/// A backend that stores nothing, and is never connected to.
#[derive(Debug)]
struct Plain;

#[async_trait]
impl Driver for Plain {
    fn name(&self) -> &'static str {
        "plain"
    }

    fn schemes(&self) -> &'static [&'static str] {
        &["plain"]
    }

    fn options(&self) -> &'static [&'static str] {
        &[]
    }

    fn capabilities(&self) -> &'static [Capability] {
        &[
            Capability::Groups,
            Capability::AtLeastOnce,
            Capability::Requests,
        ]
    }

    async fn connect(&self, _: &BackendUrl, _: &ConnectOptions) -> Result<Backend, Error> {
        unreachable!("a start that is refused connects to nobody")
    }
}

/// What the backend has not is refused, with the backends that have it, and what to write.
async fn guarantees_that_the_backend_has_not(_: Bus) -> Result<()> {
    let node = Catga::builder().driver(Plain).connect("plain://").node("a");
    let node = node.handlers(handlers![on_paid, on_moved, on_settle]);
    let parts = [
        "3 problems:",
        "`Paid` is `exactly_once`, but the backend `plain` has no exactly_once (backends that have it: memory",
        "handles `Moved` ordered, but the backend `plain` has no ordered (backends that have it: memory",
        "`Settle` is idempotent, but the backend `plain` has no inbox (backends that have it: memory",
        "on_settle",
    ];
    refused(node, ErrorKind::Unsupported, &parts).await;
    Ok(())
}

/// A second live node with the same id is refused; the first is not disturbed.
async fn node_id_in_use(bus: Bus) -> Result<()> {
    let journal = Journal::default();
    let start = async || {
        let node = bus.node("a").state(journal.plain());
        node.handlers(handlers![on_work]).start().await
    };
    let first = start().await?;
    let error = start().await.expect_err("the id is in use");
    assert_eq!(error.kind(), ErrorKind::DuplicateNode);
    assert!(error.message().contains("`a`"), "{error}");
    first.publish(Work { id: 0 }).await?;
    journal.wait(Step::Done, 1, SOON).await;
    assert_eq!(first.nodes().len(), 1);
    first.shutdown().await?;
    start().await?;
    Ok(())
}

/// A start that failed half-way, after it subscribed, takes no messages and no ids with it.
async fn failed_start_leaves_nothing(bus: Bus) -> Result<()> {
    let (journal, ghost) = (Journal::default(), Journal::default());
    let a = bus.node("a").state(journal.plain());
    let a = a.handlers(handlers![on_work, on_tick]).start().await?;
    for _ in 0..3 {
        let double = bus.node("a").state(ghost.plain());
        let double = double.handlers(handlers![on_work, on_tick]).start().await;
        assert!(double.is_err(), "the id is in use");
    }
    for id in 0..20 {
        a.publish(Work { id }).await?;
        a.publish(Tick { id: 100 + id }).await?;
    }
    journal.wait(Step::Done, 40, SOON).await;
    tokio::time::sleep(Duration::from_secs(100)).await;
    assert_eq!(journal.count(Step::Started), 40);
    assert_eq!(ghost.notes(), []);
    Ok(())
}
