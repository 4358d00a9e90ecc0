//! The breaker of a handler, with virtual time.

use std::future::poll_fn;
use std::time::Duration;

use catga_core::{Bytes, ErrorKind, Payload, Retry};
use tokio::time::Instant;
use tower::limit::{RateLimit, rate};
use tower::timeout::TimeoutLayer;
use tower_service::Service;

use crate::Erased;
use crate::breaker::Guarded;
use crate::builder::CatgaBuilder;
use crate::guard::Failure;
use crate::handlers::{Breaker, HandlerOptions, Rate};
use crate::layer_tests::{App, Ask, Do, asker, in_time, layered, pending, worker};
use crate::layered::{Calling, Layered};

const OPEN: Duration = Duration::from_secs(30);

fn options() -> HandlerOptions {
    HandlerOptions {
        breaker: Some(Breaker {
            failures: 3,
            open: OPEN,
        }),
        ..HandlerOptions::default()
    }
}

/// An event's handler, whose breaker opens after three failures for 30 s.
fn event() -> Layered {
    layered(worker(options()), CatgaBuilder::default())
}

fn request() -> Layered {
    layered(asker(options()), CatgaBuilder::default())
}

impl App {
    async fn ask(&self, layered: &Layered) -> Result<(), Failure> {
        let call = layered.call(Payload::typed(Ask), 1, self.context.clone());
        let ready = in_time(layered.ready()).await?;
        in_time(ready.call(call)?).await.map(drop)
    }

    fn begin(&self, layered: &Layered) -> Calling {
        let ready = layered.try_ready().expect("it is ready").unwrap();
        ready.call(self.a_call(layered)).unwrap()
    }

    async fn fail(&self, layered: &Layered, what: impl IntoIterator<Item = Do>) {
        for what in what {
            self.script.next([what]);
            self.call(layered).await.unwrap_err();
        }
    }
}

#[tokio::test(start_paused = true)]
async fn it_opens_half_opens_and_closes() {
    let (app, layered) = (App::start().await, event());
    let start = Instant::now();
    // Two failures and a success do not open it.
    app.fail(&layered, [Do::Fail, Do::Fail]).await;
    app.call(&layered).await.unwrap();
    app.fail(&layered, [Do::Fail, Do::Fail]).await;
    assert!(layered.try_ready().is_some());
    app.fail(&layered, [Do::Fail]).await;
    assert!(layered.try_ready().is_none(), "open");
    let mut open = Box::pin(layered.open());
    assert!(pending(&mut open).await);
    tokio::time::advance(Duration::from_millis(29_999)).await;
    assert!(
        layered.try_ready().is_none() && pending(&mut open).await,
        "still open"
    );
    in_time(open).await;
    // One failed trial opens it again.
    app.fail(&layered, [Do::Fail]).await;
    assert!((30_000..30_010).contains(&start.elapsed().as_millis()));
    assert!(layered.try_ready().is_none(), "open again");
    // The call waits, and the trial closes it.
    app.call(&layered).await.unwrap();
    assert!((60_000..60_020).contains(&start.elapsed().as_millis()));
    app.fail(&layered, [Do::Fail, Do::Fail]).await;
    assert!(
        layered.try_ready().is_some(),
        "closed, and counts from zero"
    );
}

#[tokio::test(start_paused = true)]
async fn one_trial_runs_at_once() {
    let (app, layered) = (App::start().await, event());
    app.fail(&layered, [Do::Fail, Do::Fail, Do::Fail]).await;
    layered.open().await;
    app.script.next([Do::Wait]);
    let mut trial = app.begin(&layered);
    assert!(pending(&mut trial).await);
    let mut next = Box::pin(layered.ready());
    tokio::time::advance(2 * OPEN).await;
    assert!(
        pending(&mut next).await,
        "it waits for the trial, not for time"
    );
    app.script.go_on();
    in_time(trial).await.unwrap();
    let next = in_time(next).await.unwrap();
    in_time(next.call(app.a_call(&layered)).unwrap())
        .await
        .unwrap();
}

#[tokio::test(start_paused = true)]
async fn two_that_were_ready_make_one_trial_and_the_other_waits() {
    let (app, layered) = (App::start().await, event());
    app.fail(&layered, [Do::Fail, Do::Fail, Do::Fail]).await;
    layered.open().await;
    app.script.next([Do::Wait]);
    // Ready while it is half open, called when the trial runs already.
    let (mut first, second) = (app.begin(&layered), app.a_call(&layered));
    assert!(pending(&mut first).await);
    let calls = app.script.calls();
    let mut second = {
        let mut ready = Box::pin(layered.ready());
        assert!(pending(&mut ready).await);
        Box::pin(async move { ready.await.unwrap().call(second)?.await })
    };
    assert!(pending(&mut second).await);
    assert_eq!(app.script.calls(), calls);
    app.script.go_on();
    in_time(first).await.unwrap();
    in_time(second).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_trial_that_is_dropped_or_says_nothing_gives_way_to_the_next() {
    let (app, layered) = (App::start().await, event());
    app.fail(&layered, [Do::Fail, Do::Fail, Do::Fail]).await;
    layered.open().await;
    app.script.next([Do::Hang]);
    let mut trial = app.begin(&layered);
    assert!(pending(&mut trial).await && layered.try_ready().is_none());
    let mut next = Box::pin(layered.ready());
    assert!(pending(&mut next).await);
    drop(trial);
    let start = Instant::now();
    let garbage = layered.call(Bytes::from_static(b"{").into(), 1, app.context.clone());
    let failure = in_time(next).await.unwrap().call(garbage).unwrap().await;
    assert!(matches!(failure, Err(Failure::Decode(_))));
    app.call(&layered).await.unwrap();
    assert_eq!(start.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn a_trial_that_is_dropped_or_says_nothing_leaves_it_open() {
    let app = App::start().await;
    for dropped in [true, false] {
        let layered = event();
        app.fail(&layered, [Do::Fail, Do::Fail, Do::Fail]).await;
        in_time(layered.open()).await;
        if dropped {
            app.script.next([Do::Hang]);
            let mut trial = app.begin(&layered);
            assert!(pending(&mut trial).await);
        } else {
            let garbage = layered.call(Bytes::from_static(b"{").into(), 1, app.context.clone());
            let ready = layered.try_ready().expect("a trial may begin").unwrap();
            assert!(matches!(
                ready.call(garbage).unwrap().await,
                Err(Failure::Decode(_))
            ));
        }
        app.script.next([Do::Wait]);
        let mut trial = app.begin(&layered);
        assert!(pending(&mut trial).await);
        assert!(layered.try_ready().is_none(), "the next call is the trial");
        app.script.go_on();
        in_time(trial).await.unwrap();
        assert!(layered.try_ready().is_some());
    }
}

#[tokio::test(start_paused = true)]
async fn panics_and_time_outs_count_and_terminal_errors_are_signs_of_life() {
    let (app, layered) = (App::start().await, event());
    app.fail(&layered, [Do::Panic, Do::Hang, Do::End]).await;
    app.fail(&layered, [Do::Fail, Do::Hang]).await;
    let garbage = || layered.call(Bytes::from_static(b"{").into(), 1, app.context.clone());
    for _ in 0..5 {
        let ready = layered.try_ready().unwrap().unwrap();
        ready.call(garbage()).unwrap().await.unwrap_err();
    }
    assert!(
        layered.try_ready().is_some(),
        "what cannot be read says nothing"
    );
    app.fail(&layered, [Do::Panic]).await;
    assert!(layered.try_ready().is_none());
    // A terminal error closes it too: what it guards answered.
    app.fail(&layered, [Do::End]).await;
    assert!(layered.try_ready().is_some());
}

#[tokio::test(start_paused = true)]
async fn what_began_before_it_opened_neither_closes_nor_prolongs_it() {
    let (app, layered) = (App::start().await, event());
    app.script.next([Do::Wait]);
    let mut early = app.begin(&layered);
    assert!(pending(&mut early).await);
    app.fail(&layered, [Do::Fail, Do::Fail, Do::Fail]).await;
    app.script.go_on();
    in_time(early).await.unwrap();
    assert!(layered.try_ready().is_none(), "still open");
}

/// A breaker that opens after five failures for 10 s, closed by a trial since `early` began.
async fn closed_again(app: &App, early: impl Fn() -> Do) -> (Layered, Vec<Calling>) {
    let breaker = Some(Breaker {
        failures: 5,
        open: Duration::from_secs(10),
    });
    let options = HandlerOptions {
        breaker,
        ..HandlerOptions::default()
    };
    let layered = layered(worker(options), CatgaBuilder::default());
    let mut calls = Vec::new();
    for _ in 0..5 {
        app.script.next([early()]);
        let mut call = app.begin(&layered);
        assert!(pending(&mut call).await);
        calls.push(call);
    }
    app.fail(&layered, (0..5).map(|_| Do::Fail)).await;
    assert!(layered.try_ready().is_none(), "open");
    app.call(&layered).await.unwrap();
    assert!(layered.try_ready().is_some(), "closed by the trial");
    (layered, calls)
}

#[tokio::test(start_paused = true)]
async fn failures_from_before_it_opened_do_not_count_once_it_is_closed_again() {
    let app = App::start().await;
    let (layered, early) = closed_again(&app, || Do::Hang).await;
    for call in early {
        let failure = in_time(call).await.unwrap_err();
        assert!(matches!(failure, Failure::TimedOut(_)));
        assert!(layered.try_ready().is_some(), "it stays closed");
    }
    app.fail(&layered, (0..4).map(|_| Do::Fail)).await;
    assert!(layered.try_ready().is_some(), "it counts from zero");
    app.fail(&layered, [Do::Fail]).await;
    assert!(layered.try_ready().is_none());
}

#[tokio::test(start_paused = true)]
async fn a_success_from_before_it_opened_does_not_reset_the_count() {
    let app = App::start().await;
    let (layered, early) = closed_again(&app, || Do::Wait).await;
    app.fail(&layered, (0..4).map(|_| Do::Fail)).await;
    for call in early {
        app.script.go_on();
        in_time(call).await.unwrap();
    }
    app.fail(&layered, [Do::Fail]).await;
    assert!(layered.try_ready().is_none());
}

/// One failure opens it, for 30 s.
fn with_rate(calls: u64, per: Duration) -> HandlerOptions {
    HandlerOptions {
        rate: Some(Rate { calls, per }),
        breaker: Some(Breaker {
            failures: 1,
            open: OPEN,
        }),
        ..HandlerOptions::default()
    }
}

#[tokio::test(start_paused = true)]
async fn what_it_refuses_neither_waits_for_the_rate_nor_uses_it_up() {
    let (app, start) = (App::start().await, Instant::now());
    let options = with_rate(2, Duration::from_secs(60));
    let limited = layered(asker(options), CatgaBuilder::default());
    app.script.next([Do::Fail]);
    app.ask(&limited).await.unwrap_err();
    for _ in 0..5 {
        let failure = app.ask(&limited).await.unwrap_err();
        assert!(matches!(failure, Failure::Refused { .. }), "{failure}");
        assert!(limited.is_open(), "nothing is to be waited for");
    }
    assert_eq!(start.elapsed(), Duration::ZERO);
    tokio::time::advance(OPEN).await;
    // The trial is the second call in the window, and the third one waits for the next.
    app.script.next([Do::Fail]);
    app.ask(&limited).await.unwrap_err();
    assert_eq!((start.elapsed(), app.script.calls()), (OPEN, 2));
    let failure = app.ask(&limited).await.unwrap_err();
    assert!(matches!(failure, Failure::Refused { .. }), "{failure}");
    assert_eq!(start.elapsed(), OPEN, "refused while the rate is used up");
    tokio::time::advance(Duration::from_secs(29)).await;
    assert!(limited.is_open());
    tokio::time::advance(Duration::from_secs(1)).await;
    app.ask(&limited).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn an_event_waits_for_the_breaker_and_then_for_the_rate() {
    let (app, start) = (App::start().await, Instant::now());
    let options = with_rate(1, Duration::from_secs(40));
    let limited = layered(worker(options), CatgaBuilder::default());
    app.fail(&limited, [Do::Fail]).await;
    app.call(&limited).await.unwrap();
    assert!((40_000..40_010).contains(&start.elapsed().as_millis()));
}

#[tokio::test(start_paused = true)]
async fn a_call_that_did_not_become_the_trial_waits_for_the_rate_too() {
    let (app, start) = (App::start().await, Instant::now());
    let layered = event();
    let rate = rate::Rate::new(1, Duration::from_secs(40));
    let inner = Erased::new(RateLimit::new(Erased::handler(), rate));
    let mut guarded = Guarded::new(inner, options().breaker.unwrap(), true);
    app.script.next([Do::Fail, Do::Fail, Do::Fail]);
    for _ in 0..3 {
        in_time(poll_fn(|cx| guarded.poll_ready(cx))).await.unwrap();
        guarded.call(app.a_call(&layered)).await.unwrap_err();
    }
    assert!((80_000..80_010).contains(&start.elapsed().as_millis()));
    in_time(poll_fn(|cx| guarded.poll_ready(cx))).await.unwrap();
    assert!((120_000..120_010).contains(&start.elapsed().as_millis()));
    // As if two clones had found it ready at once.
    app.script.next([Do::Wait]);
    let mut trial = guarded.call(app.a_call(&layered));
    assert!(pending(&mut trial).await);
    let mut other = guarded.call(app.a_call(&layered));
    assert!(pending(&mut other).await);
    assert_eq!(app.script.calls(), 4);
    app.script.go_on();
    in_time(trial).await.unwrap();
    assert!(pending(&mut other).await, "the rate is used up");
    in_time(other).await.unwrap();
    assert!((160_000..160_010).contains(&start.elapsed().as_millis()));
}

#[tokio::test(start_paused = true)]
async fn a_request_is_refused_at_once_and_its_caller_told_when_to_come_again() {
    let (app, layered) = (App::start().await, request());
    for _ in 0..3 {
        app.script.next([Do::Fail]);
        app.ask(&layered).await.unwrap_err();
    }
    tokio::time::advance(Duration::from_secs(10)).await;
    let (start, calls) = (Instant::now(), app.script.calls());
    let failure = app.ask(&layered).await.unwrap_err();
    assert_eq!(
        (start.elapsed(), app.script.calls()),
        (Duration::ZERO, calls)
    );
    let left = failure.delay().unwrap();
    assert!((19_000..=20_000).contains(&left.as_millis()), "{left:?}");
    let error = failure.into_error("Ask");
    assert_eq!(
        (error.kind(), error.retry()),
        (ErrorKind::Unavailable, Retry::After(left))
    );
    tokio::time::advance(left).await;
    app.ask(&layered).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn layers_stand_outside_of_rate_and_breaker() {
    let app = App::start().await;
    let limit = TimeoutLayer::new(Duration::from_secs(1));
    let layered = layered(worker(options()), CatgaBuilder::default().layer(limit));
    // Cut off by the layer, which may have its own reasons: not counted.
    app.fail(&layered, [Do::Hang, Do::Hang, Do::Hang]).await;
    assert!(layered.try_ready().is_some());
    app.fail(&layered, [Do::Fail, Do::Fail, Do::Fail]).await;
    assert!(layered.try_ready().is_none());
    layered.open().await;
    app.call(&layered).await.unwrap();
}
