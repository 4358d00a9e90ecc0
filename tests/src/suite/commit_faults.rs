//! Whoever is told that a message was handled finds what its handler committed.

use std::time::Duration;

use catga::memory::Memory;
use catga::prelude::{Commit, Context, Request, Result, handler, handlers};
use catga::{ErrorKind, FromContext};
use serde::{Deserialize, Serialize};
use tower::util::MapResponseLayer;

use super::commit::written;
use crate::flawed::{Asked, Mood, Moody};
use crate::harness::{Bus, SOON, scenarios, wait_until};
use crate::journal::{Journal, Step};
use crate::reliable::{Deposit, inbox_of_another_bus, on_deposit, pay, write_payment};

scenarios! { Runtime "commit_faults":
    Paused a_completion_that_fails,
    Paused a_completion_that_fails_for_a_caller_elsewhere,
    Paused without_a_claim,
    Paused a_layer_that_replaces_the_reply,
}

const MINUTE: Duration = Duration::from_secs(60);

/// A request whose effects could not be recorded was not handled: its caller is not told Ok.
async fn a_completion_that_fails(bus: Bus) -> Result<()> {
    ok_when_it_is_there(bus, true).await
}

/// Also where the caller is another node.
async fn a_completion_that_fails_for_a_caller_elsewhere(bus: Bus) -> Result<()> {
    ok_when_it_is_there(bus, false).await
}

async fn ok_when_it_is_there(bus: Bus, sends_itself: bool) -> Result<()> {
    // Once; more often than a completion is tried; always.
    for (times, is_recorded) in [(1, Some(true)), (7, None), (u32::MAX, Some(false))] {
        let store = inbox_of_another_bus().await?;
        let inbox = Moody::at_first(store, Asked::Complete, times, Mood::Unavailable);
        let journal = Journal::default();
        let node = |id: &str| bus.node(id).request_deadline(5 * MINUTE);
        let answers = node("a").state(journal.plain()).inbox(inbox);
        let answers = answers.handlers(handlers![on_deposit]).start().await?;
        let caller = node("caller").handlers(handlers![]).start().await?;
        let from = if sends_itself { &answers } else { &caller };
        let answer = from.send(Deposit { id: 7 }).await;
        let there = written(&answers).await?;
        assert!(journal.count(Step::Done) > 0);
        assert_eq!(there, usize::from(answer.is_ok()), "{times}: {answer:?}");
        assert!(is_recorded.is_none_or(|is| is == answer.is_ok()), "{times}");
        if let Err(error) = answer {
            assert!(error.may_be_stored(), "nobody knows: {error:?}");
        }
        caller.shutdown().await?;
        answers.shutdown().await?;
    }
    Ok(())
}

/// A request whose handler does not say that it commits.
#[derive(Request, Clone, Debug, Serialize, Deserialize)]
#[response(())]
struct Hide {
    id: u32,
}

#[handler]
async fn on_hide(hide: Hide, context: Context) -> Result<()> {
    let mut tx = Commit::<Memory>::from_context(&context).await?;
    tx.put(hide.id.to_string(), "hidden".to_owned());
    Ok(())
}

/// What is written where nobody has a claim would be committed by nobody: it is an error.
async fn without_a_claim(bus: Bus) -> Result<()> {
    let node = bus.node("a").handlers(handlers![on_hide]).start().await?;
    // No other node sees it, and `start()` could not know of the transaction.
    let plain = node.send(Hide { id: 1 }).await;
    let error = plain.expect_err("told Ok, and nothing was committed");
    assert_eq!(error.kind(), ErrorKind::Handler);
    assert_eq!(written(&node).await?, 0);
    // Those that another node may see as well are claimed, wherever they are handled.
    let letter = node.request(Hide { id: 2 }).header("tenant", "acme");
    letter.send().await?;
    assert_eq!(written(&node).await?, 1);
    let caller = bus.observer().await?;
    caller.send(Hide { id: 3 }).await?;
    assert_eq!(written(&node).await?, 2);
    Ok(())
}

/// A layer that makes an answer of its own leaves what was written to be committed.
async fn a_layer_that_replaces_the_reply(bus: Bus) -> Result<()> {
    let journal = Journal::default();
    let other = MapResponseLayer::new(|_: catga::Reply| catga::Reply::new(()));
    let node = bus.node("a").state(journal.plain()).layer(other);
    let node = node.handlers(handlers![write_payment]).start().await?;
    pay(&node, 1, "1").await?;
    wait_until("it is handled", SOON, || {
        node.handlers()[0].stats.handled == 1
    })
    .await;
    tokio::time::sleep(MINUTE).await;
    assert_eq!(
        (written(&node).await?, journal.count(Step::Started)),
        (1, 1)
    );
    Ok(())
}
