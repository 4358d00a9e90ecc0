//! What layers do around a handler, without what receives and settles.

use std::future::{Future, Ready, poll_fn, ready};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context as TaskContext, Poll};
use std::time::Duration;

use catga_core::{BoxError, Bytes, Codecs, ErrorKind, Name, Payload, Retry};
use crossbeam_queue::ArrayQueue;
use serde::{Deserialize, Serialize};
use tokio::sync::{Notify, mpsc};
use tokio::time::Instant;
use tower::ServiceBuilder;
use tower::limit::{ConcurrencyLimit, ConcurrencyLimitLayer, RateLimitLayer};
use tower::load_shed::LoadShedLayer;
use tower::retry::{Policy, RetryLayer};
use tower::timeout::TimeoutLayer;
use tower::util::MapResponseLayer;
use tower_layer::layer_fn;
use tower_service::Service;

use crate::builder::CatgaBuilder;
use crate::guard::Failure;
use crate::handlers::{Breaker, HandlerDef, HandlerOptions, Rate};
use crate::layered::{Calling, Layered, Ready as LayersReady};
use crate::origin::Origin;
use crate::prelude::*;
use crate::service::Serving;
use crate::{Call, CallError, Erased, HandlerError, Reply, handlers};

/// What the handler does next.
#[derive(Debug)]
pub(crate) enum Do {
    Fail,
    FailAfter(Duration),
    End,
    Panic,
    /// Waits for the gate.
    Wait,
    Hang,
}

/// What the handler is to do, and how often it was called.
#[derive(Clone, Debug)]
pub(crate) struct Script(Arc<(ArrayQueue<Do>, AtomicU32, Notify)>);

impl Script {
    pub(crate) fn next(&self, what: impl IntoIterator<Item = Do>) {
        for what in what {
            self.0.0.push(what).unwrap();
        }
    }

    pub(crate) fn calls(&self) -> u32 {
        self.0.1.load(Ordering::SeqCst)
    }

    pub(crate) fn go_on(&self) {
        self.0.2.notify_one();
    }

    async fn play(&self) -> Result<()> {
        self.0.1.fetch_add(1, Ordering::SeqCst);
        match self.0.0.pop() {
            None => Ok(()),
            Some(Do::Fail) => Err("it failed").retry(),
            Some(Do::FailAfter(delay)) => Err("it is busy").retry_after(delay),
            Some(Do::End) => Err("it never works").terminal(),
            Some(Do::Panic) => panic!("it panicked"),
            Some(Do::Wait) => {
                self.0.2.notified().await;
                Ok(())
            }
            Some(Do::Hang) => std::future::pending().await,
        }
    }
}

#[derive(Event, Serialize, Deserialize)]
pub(crate) struct Work;

#[derive(Request, Serialize, Deserialize)]
#[response(u32)]
#[request(idempotent = false)]
pub(crate) struct Ask;

/// May be handled again, so that its context has an origin.
#[derive(Event, Serialize, Deserialize)]
#[qos(at_least_once)]
struct Lend;

#[handler]
async fn work(_: Work, State(script): State<Script>) -> Result<()> {
    script.play().await
}

#[handler]
async fn ask(_: Ask, State(script): State<Script>) -> Result<u32> {
    script.play().await.map(|()| 7)
}

/// Gives its context away.
#[handler]
async fn lend(_: Lend, context: Context, State(to): State<mpsc::UnboundedSender<Context>>) {
    let _ = to.send(context);
}

pub(crate) fn worker(options: HandlerOptions) -> Arc<HandlerDef> {
    with(&handlers![work].defs()[0], options)
}

pub(crate) fn asker(options: HandlerOptions) -> Arc<HandlerDef> {
    with(&handlers![ask].defs()[0], options)
}

fn with(def: &HandlerDef, options: HandlerOptions) -> Arc<HandlerDef> {
    Arc::new(HandlerDef {
        options,
        ..def.clone()
    })
}

/// An application, and the context of a call in it.
pub(crate) struct App {
    pub(crate) catga: Catga,
    pub(crate) context: Context,
    pub(crate) script: Script,
}

impl App {
    pub(crate) async fn start() -> Self {
        let (sender, mut contexts) = mpsc::unbounded_channel();
        let script = Script(Arc::new((
            ArrayQueue::new(64),
            AtomicU32::new(0),
            Notify::new(),
        )));
        let catga = Catga::builder()
            .connect("memory://")
            .state(sender)
            .state(script.clone())
            .handlers(handlers![lend])
            .start()
            .await
            .unwrap();
        catga.publish(Lend).await.unwrap();
        let context = contexts.recv().await.unwrap();
        Self {
            catga,
            context,
            script,
        }
    }

    /// Waits until the layers are ready, and calls the handler.
    pub(crate) async fn call(&self, layered: &Layered) -> Result<Reply, Failure> {
        let ready = in_time(layered.ready()).await?;
        in_time(ready.call(self.a_call(layered))?).await
    }

    /// Waits until the layers are ready, and begins a call.
    async fn begun(&self, layered: &Layered) -> Calling {
        begun(layered, self.a_call(layered)).await
    }

    pub(crate) fn a_call(&self, layered: &Layered) -> Call {
        layered.call(Payload::typed(Work), 1, self.context.clone())
    }
}

async fn begun(layered: &Layered, call: Call) -> Calling {
    let ready = in_time(layered.ready()).await.unwrap();
    ready.call(call).unwrap()
}

#[expect(clippy::needless_pass_by_value, reason = "as the builder is written")]
pub(crate) fn layered(def: Arc<HandlerDef>, builder: CatgaBuilder) -> Layered {
    let (group, timeout) = (Name::from_static("group"), Duration::from_secs(30));
    Layered::new(&def, &group, timeout, &builder.layers).expect("it has layers")
}

fn worked(builder: CatgaBuilder) -> Layered {
    layered(worker(HandlerOptions::default()), builder)
}

fn builder() -> CatgaBuilder {
    CatgaBuilder::default()
}

/// Ends what would hang: later than anything here takes, also by the paused clock.
pub(crate) async fn in_time<F: Future>(future: F) -> F::Output {
    let ended = tokio::time::timeout(Duration::from_secs(100), future).await;
    ended.expect("it does not hang")
}

pub(crate) async fn pending(future: &mut (impl Future + Unpin)) -> bool {
    poll_fn(|cx| Poll::Ready(std::pin::Pin::new(&mut *future).poll(cx).is_pending())).await
}

#[derive(Clone)]
struct Tries(u32);

impl Policy<Call, Reply, BoxError> for Tries {
    type Future = Ready<()>;

    fn retry(&mut self, _: &mut Call, result: &mut Result<Reply, BoxError>) -> Option<Ready<()>> {
        let error: Option<&CallError> = result.as_ref().err()?.downcast_ref();
        if error.is_some_and(CallError::is_terminal) {
            return None;
        }
        self.0 = self.0.checked_sub(1)?;
        Some(ready(()))
    }

    fn clone_request(&mut self, call: &Call) -> Option<Call> {
        Some(call.clone())
    }
}

#[tokio::test]
async fn without_layers_rate_and_breaker_the_call_is_direct() {
    let def = worker(HandlerOptions::default());
    let group = Name::from_static("group");
    assert!(Layered::new(&def, &group, Duration::MAX, &builder().layers).is_none());
    let others = builder().layer_for(handlers![ask], TimeoutLayer::new(Duration::from_secs(1)));
    assert!(Layered::new(&def, &group, Duration::MAX, &others.layers).is_none());
}

#[tokio::test]
async fn a_layer_sees_the_call() {
    let app = App::start().await;
    let layer = layer_fn(|mut inner: Erased| {
        tower::service_fn(move |call: Call| {
            assert_eq!((call.message(), call.handler()), ("Work", "work"));
            assert_eq!((call.group().as_str(), call.headers().len()), ("group", 0));
            assert_eq!(call.id(), call.clone().context().id());
            assert!(call.attempt().number() == 1 && format!("{call:?}").contains("Work"));
            inner.call(call)
        })
    });
    let reply = app.call(&worked(builder().layer(layer))).await.unwrap();
    assert_eq!(reply.downcast_ref(), Some(&()));
}

#[tokio::test(start_paused = true)]
async fn a_timeout_layer_ends_what_takes_too_long() {
    let app = App::start().await;
    let layered = worked(builder().layer(TimeoutLayer::new(Duration::from_secs(1))));
    app.script.next([Do::Hang]);
    let failure = app.call(&layered).await.unwrap_err();
    assert!(matches!(failure, Failure::Elapsed), "{failure}");
    assert!(!failure.is_final() && failure.delay().is_none());
    let error = failure.into_error("Ask");
    assert_eq!(error.kind(), ErrorKind::Timeout);
    app.call(&layered).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_concurrency_limit_makes_the_next_call_wait() {
    let app = App::start().await;
    let layered = worked(builder().layer(ConcurrencyLimitLayer::new(1)));
    app.script.next([Do::Wait]);
    let mut first = app.begun(&layered).await;
    assert!(pending(&mut first).await);
    assert!(layered.try_ready().is_none());
    let mut second = Box::pin(layered.ready());
    assert!(pending(&mut second).await);
    app.script.go_on();
    in_time(first).await.unwrap();
    let second = in_time(second).await.unwrap();
    in_time(second.call(app.a_call(&layered)).unwrap())
        .await
        .unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_rate_limit_makes_the_third_call_wait_for_its_period() {
    let app = App::start().await;
    let options = HandlerOptions {
        rate: Some(Rate {
            calls: 2,
            per: Duration::from_secs(1),
        }),
        ..HandlerOptions::default()
    };
    let by_layer = worked(builder().layer(RateLimitLayer::new(2, Duration::from_secs(1))));
    for layered in [by_layer, layered(worker(options), builder())] {
        let start = Instant::now();
        for _ in 0..2 {
            app.call(&layered).await.unwrap();
        }
        assert_eq!(start.elapsed(), Duration::ZERO);
        assert!(layered.try_ready().is_none());
        app.call(&layered).await.unwrap();
        let took = start.elapsed();
        assert!((1000..1100).contains(&took.as_millis()), "{took:?}");
    }
}

#[tokio::test]
async fn load_shed_refuses_what_would_wait() {
    let app = App::start().await;
    let both = builder()
        .layer(LoadShedLayer::new())
        .layer(ConcurrencyLimitLayer::new(1));
    let layered = worked(both);
    app.script.next([Do::Wait]);
    let mut first = app.begun(&layered).await;
    assert!(pending(&mut first).await);
    let failure = app.call(&layered).await.unwrap_err();
    assert!(matches!(
        &failure,
        Failure::Refused {
            retry: Retry::Now,
            ..
        }
    ));
    let error = failure.into_error("Ask");
    assert_eq!(
        (error.kind(), error.retry()),
        (ErrorKind::Unavailable, Retry::Now)
    );
    app.script.go_on();
    first.await.unwrap();
    app.call(&layered).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_retry_layer_stands_around_a_rate_limit_that_cannot_be_cloned() {
    let app = App::start().await;
    let both = builder()
        .layer(RetryLayer::new(Tries(3)))
        .layer(RateLimitLayer::new(1, Duration::from_secs(1)));
    let layered = worked(both);
    let start = Instant::now();
    app.script.next([Do::Fail, Do::Panic]);
    app.call(&layered).await.unwrap();
    assert_eq!(app.script.calls(), 3);
    assert!(start.elapsed() >= Duration::from_secs(2));
    app.script.next([Do::End]);
    assert!(app.call(&layered).await.unwrap_err().is_final());
    assert_eq!(app.script.calls(), 4);
}

#[tokio::test(start_paused = true)]
async fn a_retry_is_not_held_up_by_a_caller_who_is_ready_and_does_not_call() {
    let app = App::start().await;
    let both = builder()
        .layer(RetryLayer::new(Tries(3)))
        .layer(RateLimitLayer::new(5, Duration::from_secs(1)));
    let layered = worked(both);
    app.script.next([Do::Fail]);
    let first = layered.ready().await.unwrap();
    let call = first.call(app.a_call(&layered)).unwrap();
    let idle = layered.ready().await.unwrap();
    in_time(call).await.unwrap();
    in_time(idle.call(app.a_call(&layered)).unwrap())
        .await
        .unwrap();
}

#[tokio::test]
async fn several_tower_layers_at_once_and_the_first_is_outermost() {
    let app = App::start().await;
    let note = |name: &'static str, to: &mpsc::UnboundedSender<&'static str>| {
        let to = to.clone();
        layer_fn(move |mut inner: Erased| {
            let to = to.clone();
            tower::service_fn(move |call: Call| {
                to.send(name).unwrap();
                inner.call(call)
            })
        })
    };
    let (to, mut names) = mpsc::unbounded_channel();
    let stack = ServiceBuilder::new()
        .layer(TimeoutLayer::new(Duration::from_secs(1)))
        .layer(note("third", &to))
        .into_inner();
    let layered = worked(
        builder()
            .layer_for(handlers![work], stack)
            .layer(note("first", &to))
            .layer(note("second", &to)),
    );
    app.call(&layered).await.unwrap();
    let mut order = Vec::new();
    names.recv_many(&mut order, 9).await;
    assert_eq!(order, ["first", "second", "third"]);
}

#[tokio::test]
async fn the_turn_goes_round_and_nobody_who_leaves_keeps_it() {
    let layered = worked(builder().layer(TimeoutLayer::new(Duration::from_secs(1))));
    let held = layered.ready().await.unwrap();
    let mut waiters: Vec<_> = (0..4).map(|_| Box::pin(layered.ready())).collect();
    for waiter in &mut waiters {
        assert!(pending(waiter).await);
    }
    drop(held);
    // A newcomer does not overtake; one who leaves with the turn in hand passes it on.
    assert!(layered.try_ready().is_none());
    drop(waiters.remove(0));
    let turn = in_time(waiters.remove(0)).await.unwrap();
    assert!(pending(&mut waiters[0]).await && pending(&mut waiters[1]).await);
    // One who leaves out of the middle of the queue is not waited for.
    drop(waiters.remove(0));
    drop(turn);
    drop(in_time(waiters.remove(0)).await.unwrap());
    assert!(layered.try_ready().is_some());
}

#[tokio::test(start_paused = true)]
async fn a_waiter_who_leaves_hands_on_what_it_polled() {
    let app = App::start().await;
    let layered = worked(builder().layer(RateLimitLayer::new(1, Duration::from_secs(1))));
    app.call(&layered).await.unwrap();
    let mut first = Box::pin(layered.ready());
    let mut second = Box::pin(layered.ready());
    assert!(pending(&mut first).await && pending(&mut second).await);
    drop(first);
    // Its own waker is the one that the limit's timer wakes now.
    let second = in_time(second).await.unwrap();
    in_time(second.call(app.a_call(&layered)).unwrap())
        .await
        .unwrap();
}

/// A request's first poll may take long, and others want to call meanwhile.
#[tokio::test]
async fn the_turn_is_free_while_a_call_is_polled_for_the_first_time() {
    let app = App::start().await;
    let place: Arc<OnceLock<Layered>> = Arc::default();
    let inside = Arc::clone(&place);
    let looks = layer_fn(move |mut inner: Erased| {
        let place = Arc::clone(&inside);
        tower::service_fn(move |call: Call| {
            let (place, serving) = (Arc::clone(&place), inner.call(call));
            async move {
                let free = place.get().unwrap().try_ready().is_some();
                assert!(free, "the next caller waits for the outcome");
                serving.await
            }
        })
    });
    let layered = place.get_or_init(|| worked(builder().layer(looks)));
    let ready = LayersReady::at_once(layered.served()).unwrap().unwrap();
    let outcome = ready.begin(app.a_call(layered));
    outcome.expect("it is ready at once").unwrap();
}

type Polled = Poll<Result<Reply, BoxError>>;

/// Panics where it is told to, once.
struct Fragile(Erased, Option<&'static str>);

impl Service<Call> for Fragile {
    type Response = Reply;
    type Error = BoxError;
    type Future = <Erased as Service<Call>>::Future;

    fn poll_ready(&mut self, cx: &mut TaskContext<'_>) -> Poll<Result<(), BoxError>> {
        match self.1 {
            Some("ready") => panic!("at {:?}", self.1.take()),
            Some("error") => Poll::Ready(Err(self.1.take().unwrap().into())),
            _ => self.0.poll_ready(cx),
        }
    }

    fn call(&mut self, call: Call) -> Self::Future {
        match self.1.take() {
            Some("call") => panic!("at the call"),
            Some("poll") => Serving::new(poll_fn(|_| -> Polled { panic!("at the poll") })),
            Some("drop") => {
                let (bomb, serving) = (Bomb, self.0.call(call));
                Serving::new::<_, BoxError>(async move {
                    let _bomb = &bomb;
                    std::mem::forget(serving.await);
                    std::future::pending().await
                })
            }
            _ => self.0.call(call),
        }
    }
}

#[tokio::test]
async fn panics_of_layers_do_not_escape_and_the_service_stays_in_use() {
    let app = App::start().await;
    for place in ["ready", "call", "poll", "error"] {
        let layer = layer_fn(move |inner| Fragile(inner, Some(place)));
        let layered = worked(
            builder()
                .layer(layer)
                .layer(TimeoutLayer::new(Duration::from_secs(1))),
        );
        let failure = app.call(&layered).await.unwrap_err();
        let panicked = matches!(failure, Failure::Panic(_));
        assert_eq!(panicked, place != "error", "{place}: {failure}");
        app.call(&layered).await.unwrap();
    }
    // The panic passes through the service of the layer outside, which stays in use too.
    let layer = layer_fn(move |inner| Fragile(inner, Some("call")));
    let outside = TimeoutLayer::new(Duration::from_secs(1));
    let layered = worked(builder().layer(outside).layer(layer));
    app.call(&layered).await.unwrap_err();
    app.call(&layered).await.unwrap();
    let layer = layer_fn(move |inner| Fragile(inner, Some("drop")));
    let layered = worked(builder().layer(layer));
    let mut calling = app.begun(&layered).await;
    assert!(pending(&mut calling).await);
    drop(calling);
    app.call(&layered).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_layer_sees_what_the_handler_failed_with() {
    let app = App::start().await;
    let (to, mut errors) = mpsc::unbounded_channel();
    let layer = layer_fn(move |mut inner: Erased| {
        let to = to.clone();
        tower::service_fn(move |call: Call| {
            let (to, serving) = (to.clone(), inner.call(call));
            async move {
                let error: Box<CallError> = serving.await.unwrap_err().downcast().unwrap();
                let seen = (
                    error.is_terminal(),
                    error.retry_after(),
                    error.is_panic(),
                    error.is_timeout(),
                );
                to.send(seen).unwrap();
                Err::<Reply, _>(*error)
            }
        })
    });
    let layered = worked(builder().layer(layer));
    let delay = Duration::from_secs(9);
    app.script
        .next([Do::Fail, Do::FailAfter(delay), Do::End, Do::Panic, Do::Hang]);
    for (seen, failure) in [
        ((false, None, false, false), "it failed"),
        ((false, Some(delay), false, false), "it is busy"),
        ((true, None, false, false), "it never works"),
        ((false, None, true, false), "panicked: it panicked"),
        ((false, None, false, true), "took longer than 30s"),
    ] {
        let outcome = app.call(&layered).await.unwrap_err();
        assert_eq!(errors.recv().await.unwrap(), seen);
        assert_eq!(outcome.to_string(), failure);
        assert_eq!((outcome.is_final(), outcome.delay()), (seen.0, seen.1));
    }
    let garbage = Payload::from(Bytes::from_static(b"{"));
    let call = layered.call(garbage, 1, app.context.clone());
    let outcome = begun(&layered, call).await.await.unwrap_err();
    assert!(matches!(outcome, Failure::Decode(_)) && errors.recv().await.unwrap().0);
}

#[derive(Debug)]
struct Wrapped(BoxError);

impl std::fmt::Display for Wrapped {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("wrapped")
    }
}

impl std::error::Error for Wrapped {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&*self.0)
    }
}

#[tokio::test]
async fn an_error_that_a_layer_makes_or_wraps_means_what_it_says() {
    let app = App::start().await;
    let wraps = layer_fn(|mut inner: Erased| {
        tower::service_fn(move |call: Call| {
            let serving = inner.call(call);
            async move { serving.await.map_err(Wrapped) }
        })
    });
    let layered = worked(builder().layer(wraps));
    app.script.next([Do::End, Do::Fail]);
    let failure = app.call(&layered).await.unwrap_err();
    assert_eq!(failure.to_string(), "wrapped: it never works");
    assert!(failure.is_final());
    assert!(!app.call(&layered).await.unwrap_err().is_final());
    let denies = layer_fn(|_: Erased| {
        tower::service_fn(|_: Call| async {
            Err::<Reply, _>(CallError::from(HandlerError::terminal("not allowed")))
        })
    });
    let failure = app
        .call(&worked(builder().layer(denies)))
        .await
        .unwrap_err();
    assert_eq!(
        (failure.is_final(), failure.to_string().as_str()),
        (true, "not allowed")
    );
}

#[tokio::test]
async fn the_reply_is_typed_and_can_be_encoded() {
    let app = App::start().await;
    let layer = TimeoutLayer::new(Duration::from_secs(1));
    let asked = layered(asker(HandlerOptions::default()), builder().layer(layer));
    let request = || asked.call(Payload::typed(Ask), 1, app.context.clone());
    let reply = begun(&asked, request()).await.await.unwrap();
    assert_eq!(reply.encode(&Codecs::default(), "Ask").unwrap(), "7");
    let reply = reply.downcast::<String>().unwrap_err();
    assert_eq!(reply.downcast::<u32>().unwrap(), 7);
    let answers = |reply: fn() -> Reply| {
        layer_fn(move |_: Erased| {
            tower::service_fn(move |_: Call| async move { Ok::<_, BoxError>(reply()) })
        })
    };
    let right = builder().layer(answers(|| Reply::new(8_u32)));
    let right = layered(asker(HandlerOptions::default()), right);
    let reply = begun(&right, request()).await.await.unwrap();
    assert_eq!(reply.downcast_ref(), Some(&8_u32));
    for reply in [|| Reply::new("8"), || Reply::new(Bomb)] {
        let wrong = builder().layer(answers(reply));
        let wrong = layered(asker(HandlerOptions::default()), wrong);
        let failure = begun(&wrong, request()).await.await;
        let failure = failure.unwrap_err();
        assert!(failure.is_final(), "{failure}");
        assert!(failure.to_string().contains("another type"), "{failure}");
    }
}

/// A reply of the wrong type, and a mean one.
#[derive(Serialize)]
struct Bomb;

impl Drop for Bomb {
    fn drop(&mut self) {
        panic!("at its drop");
    }
}

#[tokio::test]
async fn a_reply_in_the_place_of_the_handlers_commits_what_the_success_wrote() {
    let app = App::start().await;
    assert!(app.context.origin().is_some(), "nothing to lose");
    let (to, mut origins) = mpsc::unbounded_channel();
    let replaces = MapResponseLayer::new(move |reply: Reply| {
        let origin: Option<Arc<Origin>> = reply.origin.clone();
        to.send(origin.expect("the handler gave the reply"))
            .unwrap();
        Reply::new(())
    });
    let tries = RetryLayer::new(Tries(3));
    let layered = worked(builder().layer(replaces).layer(tries));
    app.script.next([Do::Fail]);
    for runs in [2, 3] {
        let mut calling = app.begun(&layered).await;
        assert!(calling.won().is_none());
        let reply = in_time(&mut calling).await.unwrap();
        assert!(reply.origin.is_none());
        let (won, given) = (calling.won().unwrap(), origins.recv().await.unwrap());
        assert!(Arc::ptr_eq(&won, &given));
        assert_eq!(app.script.calls(), runs);
    }
}

#[tokio::test]
async fn a_fallback_for_a_failure_commits_nothing() {
    let app = App::start().await;
    let falls_back = layer_fn(|mut inner: Erased| {
        tower::service_fn(move |call: Call| {
            let serving = inner.call(call);
            async move { serving.await.or_else(|_| Ok::<_, BoxError>(Reply::new(()))) }
        })
    });
    let layered = worked(builder().layer(falls_back));
    for what in [Do::Fail, Do::End, Do::Panic] {
        app.script.next([what]);
        let mut calling = app.begun(&layered).await;
        let reply = in_time(&mut calling).await.unwrap();
        assert!(reply.origin.is_none() && calling.won().is_none());
    }
}

#[tokio::test(start_paused = true)]
async fn whether_its_own_limits_are_open_is_seen_without_a_reservation() {
    let app = App::start().await;
    let options = HandlerOptions {
        rate: Some(Rate {
            calls: 2,
            per: Duration::from_secs(1),
        }),
        breaker: Some(Breaker {
            failures: 1,
            open: Duration::from_secs(30),
        }),
        ..HandlerOptions::default()
    };
    let outside = || builder().layer(ConcurrencyLimitLayer::new(1));
    let layered = layered(worker(options), outside());
    for _ in 0..2 {
        assert!((0..5).all(|_| layered.is_open()));
        app.call(&layered).await.unwrap();
    }
    assert!(!layered.is_open(), "the rate is used up");
    tokio::time::advance(Duration::from_millis(1001)).await;
    assert!(layered.is_open());
    let held = layered.ready().await.unwrap();
    assert!(layered.is_open(), "what holds the layers is not its own");
    drop(held);
    app.script.next([Do::Fail]);
    app.call(&layered).await.unwrap_err();
    assert!(!layered.is_open(), "the breaker is open");
    in_time(layered.open()).await;
    assert!(layered.is_open());
    assert!(worked(outside()).is_open());
}

#[tokio::test(start_paused = true)]
async fn a_call_ends_with_the_application() {
    let app = App::start().await;
    let layered = worked(builder().layer(RetryLayer::new(Tries(u32::MAX))));
    app.script.next([Do::Hang]);
    let mut calling = app.begun(&layered).await;
    assert!(pending(&mut calling).await);
    app.catga.shutdown().await.unwrap();
    assert!(matches!(in_time(calling).await, Err(Failure::Stopped)));
}

#[tokio::test]
async fn a_layer_for_a_handler_that_is_not_registered_is_a_problem() {
    let error = Catga::builder()
        .connect("memory://")
        .handlers(handlers![ask])
        .layer_for(handlers![work], TimeoutLayer::new(Duration::from_secs(1)))
        .state(String::new())
        .start()
        .await
        .unwrap_err()
        .to_string();
    assert!(error.contains("::work`"), "{error}");
    assert!(error.contains("is not registered"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn no_wake_up_is_lost_among_many_clones_of_one_service() {
    let app = App::start().await;
    let layered = worked(builder().layer(TimeoutLayer::new(Duration::from_secs(1))));
    let service = Erased::new(ConcurrencyLimit::new(Erased::handler(), 1));
    let tasks: Vec<_> = (0..8)
        .map(|_| {
            let mut service = service.clone();
            let calls: Vec<_> = (0..100).map(|_| app.a_call(&layered)).collect();
            tokio::spawn(async move {
                for (i, call) in calls.into_iter().enumerate() {
                    if i % 3 > 0 {
                        poll_fn(|cx| service.poll_ready(cx)).await.unwrap();
                    }
                    service.call(call).await.unwrap();
                }
            })
        })
        .collect();
    let all = async {
        for task in tasks {
            task.await.unwrap();
        }
    };
    tokio::time::timeout(Duration::from_secs(30), all)
        .await
        .unwrap();
    assert_eq!(app.script.calls(), 800);
}
