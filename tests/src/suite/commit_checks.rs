//! Effects that cannot be committed are refused: at the start where that can be seen, else in words.

use std::sync::Arc;
use std::time::Duration;

use catga::memory::Memory;
use catga::prelude::{Commit, Result, State, handler, handlers};
use catga::{ErrorKind, HandlerError, ReasonKind};
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};

use super::commit::written;
use crate::flawed::NoCommits;
use crate::harness::{Bus, scenarios, wait_for_dead_letters};
use crate::messages::{Answer, Work};
use crate::reliable::{Deposit, Payment, inbox_of_another_bus, pay};

scenarios! { Runtime "commit_checks":
    Paused one_that_outlives_its_handler,
    Paused a_second_one_at_run_time,
    Paused refused_at_the_start,
}

const MINUTE: Duration = Duration::from_secs(60);

/// Where commits are put that are not to end with their handler.
type Keep = UnboundedSender<Commit<Memory>>;

#[handler]
async fn keep_payment(_: Payment, tx: Commit<Memory>, State(keep): State<Keep>) -> Result<()> {
    Ok(keep.send(tx)?)
}

/// A transaction that its handler let out commits nothing, and fails the message for good, in words.
async fn one_that_outlives_its_handler(bus: Bus) -> Result<()> {
    let (keep, mut kept) = unbounded_channel::<Commit<Memory>>();
    let node = bus.node("a").state(keep);
    let node = node.handlers(handlers![keep_payment]).start().await?;
    pay(&node, 7, "one").await?;
    let letters = wait_for_dead_letters(node.backend(), 1).await?;
    assert_eq!(letters[0].reason.kind, ReasonKind::Terminal);
    let detail = &letters[0].reason.detail;
    assert!(
        detail.contains("`Commit`") && detail.contains("keep it in the handler"),
        "{detail}"
    );
    let mut tx = kept.recv().await.expect("the handler ran");
    tx.put("late", "write");
    drop(tx);
    tokio::time::sleep(MINUTE).await;
    assert_eq!(written(&node).await?, 0);
    Ok(())
}

/// An extractor that takes a transaction of its own, and does not say so.
struct Sly(#[expect(dead_code, reason = "only held")] Commit<Memory>);

impl catga::FromContext for Sly {
    async fn from_context(context: &catga::Context) -> Result<Self> {
        Ok(Self(Commit::from_context(context).await?))
    }
}

#[handler]
async fn sly_payment(_: Payment, _first: Commit<Memory>, _second: Sly) {}

#[handler]
async fn sly_work(_: Work, _tx: Sly) {}

/// A second transaction that nobody could see at the start fails for good, in words; so does one without a claim.
async fn a_second_one_at_run_time(bus: Bus) -> Result<()> {
    let node = bus.node("a").handlers(handlers![sly_payment, sly_work]);
    let node = node.start().await?;
    pay(&node, 7, "one").await?;
    let letters = wait_for_dead_letters(node.backend(), 1).await?;
    let detail = &letters[0].reason.detail;
    assert!(detail.contains("takes one `Commit`"), "{detail}");
    node.publish(Work { id: 0 }).await?;
    let letters = wait_for_dead_letters(node.backend(), 2).await?;
    let detail = &letters[1].reason.detail;
    assert!(detail.contains("exactly_once"), "{detail}");
    assert!(
        letters
            .iter()
            .all(|l| l.reason.kind == ReasonKind::Terminal)
    );
    assert_eq!(written(&node).await?, 0);
    Ok(())
}

#[handler]
async fn commits_unclaimed(_: Work, _tx: Commit<Memory>) {}

#[handler]
async fn commits_twice(_: Payment, _one: Commit<Memory>, _two: Commit<Memory>) {}

#[handler]
async fn commits_once(_: Payment, _tx: Commit<Memory>) {}

#[handler]
async fn answers_and_commits(deposit: Deposit, _tx: Commit<Memory>) -> Result<Answer> {
    Err(HandlerError::terminal(format!(
        "never called: {}",
        deposit.id
    )))
}

/// What cannot be committed is refused at the start: one problem each, with the handler and what to do.
async fn refused_at_the_start(bus: Bus) -> Result<()> {
    let plain: Arc<dyn catga::InboxStore> = Arc::new(NoCommits(inbox_of_another_bus().await?));
    let node = || bus.node("a");
    for (node, handler, kind, parts) in [
        (
            node().handlers(handlers![commits_unclaimed]),
            "commits_unclaimed",
            ErrorKind::Config,
            ["`Work` is not claimed", "#[qos(exactly_once)]"],
        ),
        (
            node().handlers(handlers![commits_twice]),
            "commits_twice",
            ErrorKind::Config,
            ["two `Commit`s", "commits once"],
        ),
        (
            node()
                .inbox(Arc::clone(&plain))
                .handlers(handlers![commits_once]),
            "commits_once",
            ErrorKind::Unsupported,
            ["`memory`", "ctx.idempotency_key()"],
        ),
        (
            node().inbox(plain).handlers(handlers![answers_and_commits]),
            "answers_and_commits",
            ErrorKind::Unsupported,
            ["`memory`", ".inbox(..)"],
        ),
    ] {
        let error = node.start().await.expect_err("it cannot work");
        let text = error.to_string();
        assert_eq!(error.kind(), kind, "{text}");
        assert!(
            text.contains(handler) && text.contains("commit_checks.rs:"),
            "{text}"
        );
        for part in parts {
            assert!(text.contains(part), "{part:?} is not in: {text}");
        }
        assert!(!text.contains("problems:"), "more than one: {text}");
    }
    Ok(())
}
