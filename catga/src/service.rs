//! The services that layers wrap: the handler itself, and any service as one that can be cloned.

use std::fmt;
use std::future::{Future, poll_fn, ready as ready_future};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering, fence};
use std::task::{Context as TaskContext, Poll, Wake, Waker, ready};

use catga_core::{BoxError, Message};
use crossbeam_utils::atomic::AtomicCell;
use tokio::sync::Notify;
use tokio::sync::futures::OwnedNotified;
use tower_service::Service;

use crate::guard::{self, Failure};
use crate::handlers::{BoxFuture, HandlerFuture, invoke};
use crate::layer::{Call, CallError, Reply};

/// A call at work.
pub(crate) type Serving = BoxFuture<Result<Reply, BoxError>>;

/// What a layer wraps: the handler, or the next layer around it.
///
/// All clones lead to one service, whether that can be cloned or not: a retry layer may stand around a rate
/// limit. A clone that found it ready has not reserved it, so that nobody waits for one that is never called;
/// when another clone was faster, the call itself waits.
#[derive(Clone)]
pub struct Erased(Which);

#[derive(Clone)]
enum Which {
    /// Always ready, and without state.
    Handler,
    Shared(Handle),
}

struct Handle {
    one: Arc<One>,
    /// Ready when the service may be.
    waiting: Option<Pin<Box<OwnedNotified>>>,
}

impl Erased {
    /// The handler of a call: contained, and within its own time limit.
    pub(crate) fn handler() -> Self {
        Self(Which::Handler)
    }

    pub(crate) fn new<S>(service: S) -> Self
    where
        S: Service<Call, Response = Reply> + Send + 'static,
        S::Error: Into<BoxError>,
        S::Future: Send + 'static,
    {
        Self(Which::Shared(Handle {
            one: One::new(Box::new(Wrap(service))),
            waiting: None,
        }))
    }

    /// Whether nothing stands around the handler.
    pub(crate) fn is_bare(&self) -> bool {
        matches!(self.0, Which::Handler)
    }

    /// Polls once, and says whether there is nothing to wait for. While somebody else uses the service,
    /// that is taken to be so: it is but for a moment.
    pub(crate) fn may_be_ready(&self) -> bool {
        match &self.0 {
            Which::Handler => true,
            Which::Shared(handle) => !matches!(handle.one.poll_ready(), Some(Poll::Pending)),
        }
    }
}

impl Service<Call> for Erased {
    type Response = Reply;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Reply, BoxError>> + Send>>;

    fn poll_ready(&mut self, cx: &mut TaskContext<'_>) -> Poll<Result<(), BoxError>> {
        match &mut self.0 {
            Which::Handler => Poll::Ready(Ok(())),
            Which::Shared(handle) => handle.poll_ready(cx),
        }
    }

    fn call(&mut self, call: Call) -> Self::Future {
        match &mut self.0 {
            Which::Handler => (call.shared.served.def.serve)(call),
            Which::Shared(handle) => handle.call(call),
        }
    }
}

impl Handle {
    fn poll_ready(&mut self, cx: &mut TaskContext<'_>) -> Poll<Result<(), BoxError>> {
        loop {
            if let Some(waiting) = &mut self.waiting {
                ready!(waiting.as_mut().poll(cx));
                self.waiting = None;
            }
            if let Some(Poll::Ready(outcome)) = self.one.poll_ready() {
                return Poll::Ready(outcome);
            }
            // Listen before looking once more, so that what changes in between wakes us.
            let mut waiting = Box::pin(Arc::clone(&self.one.changed).notified_owned());
            if waiting.as_mut().poll(cx).is_pending() {
                let polled = self.one.poll_ready().or_else(|| {
                    self.one.missed.store(true, Ordering::SeqCst);
                    fence(Ordering::SeqCst);
                    self.one.poll_ready()
                });
                if let Some(Poll::Ready(outcome)) = polled {
                    return Poll::Ready(outcome);
                }
                self.waiting = Some(waiting);
            }
        }
    }

    fn call(&mut self, call: Call) -> Serving {
        self.waiting = None;
        match self.one.try_call(call) {
            Ok(serving) => serving,
            Err(mut call) => {
                let mut handle = self.clone();
                Box::pin(async move {
                    loop {
                        poll_fn(|cx| handle.poll_ready(cx)).await?;
                        call = match handle.one.try_call(call) {
                            Ok(serving) => return serving.await,
                            Err(call) => call,
                        };
                    }
                })
            }
        }
    }
}

impl Clone for Handle {
    fn clone(&self) -> Self {
        Self {
            one: Arc::clone(&self.one),
            waiting: None,
        }
    }
}

impl fmt::Debug for Erased {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Erased").finish_non_exhaustive()
    }
}

/// One service for many handles, none of which keeps it for longer than a poll or the start of a call: one
/// that is left lying, in a layer whose caller went away, is in nobody's way.
struct One {
    /// Empty only while somebody is within a poll or a call of the service.
    /// A box of a box, since one word can be swapped at once.
    service: AtomicCell<Option<Box<Box<dyn Wrapped>>>>,
    /// Whether somebody came while it was empty, and wants to be woken.
    missed: AtomicBool,
    changed: Arc<Notify>,
    /// Wakes all who wait: the service knows one waker alone, so that no handle puts out that of another.
    waker: Waker,
}

impl One {
    fn new(service: Box<dyn Wrapped>) -> Arc<Self> {
        let changed = Arc::new(Notify::new());
        let one = Self {
            service: AtomicCell::new(None),
            missed: AtomicBool::new(false),
            waker: Waker::from(Arc::new(WakeAll(Arc::clone(&changed)))),
            changed,
        };
        one.put(Box::new(service));
        Arc::new(one)
    }

    fn put(&self, service: Box<Box<dyn Wrapped>>) {
        self.service.store(Some(service));
        // Either we see who missed it, or who missed it sees the service.
        fence(Ordering::SeqCst);
        if self.missed.load(Ordering::SeqCst) && self.missed.swap(false, Ordering::SeqCst) {
            self.changed.notify_waiters();
        }
    }

    /// Uses the service, unless somebody else does. One that panics goes back as it is: what it counts is
    /// not lost.
    fn with<T>(
        &self,
        use_it: impl FnOnce(&mut dyn Wrapped, &mut TaskContext<'_>) -> T,
    ) -> Option<T> {
        struct Lent<'a>(&'a One, Option<Box<Box<dyn Wrapped>>>);
        impl Drop for Lent<'_> {
            fn drop(&mut self) {
                if let Some(service) = self.1.take() {
                    self.0.put(service);
                }
            }
        }
        let mut lent = Lent(self, self.service.take());
        let service = lent.1.as_mut()?;
        Some(use_it(
            &mut ***service,
            &mut TaskContext::from_waker(&self.waker),
        ))
    }

    /// Whether the service is ready; `None` while somebody else uses it.
    fn poll_ready(&self) -> Option<Poll<Result<(), BoxError>>> {
        self.with(|service, cx| service.poll_ready(cx))
    }

    /// Calls the service if it is ready and free; else gives the call back.
    fn try_call(&self, call: Call) -> Result<Serving, Call> {
        let mut call = Some(call);
        let serving = self.with(|service, cx| match service.poll_ready(cx) {
            Poll::Ready(Ok(())) => call.take().map(|call| service.call(call)),
            Poll::Ready(Err(error)) => Some(Box::pin(ready_future(Err(error))) as Serving),
            Poll::Pending => None,
        });
        serving
            .flatten()
            .ok_or_else(|| call.expect("it was not called"))
    }
}

struct WakeAll(Arc<Notify>);

impl Wake for WakeAll {
    fn wake(self: Arc<Self>) {
        self.0.notify_waiters();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.0.notify_waiters();
    }
}

/// A service without its type.
trait Wrapped: Send {
    fn poll_ready(&mut self, cx: &mut TaskContext<'_>) -> Poll<Result<(), BoxError>>;
    fn call(&mut self, call: Call) -> Serving;
}

struct Wrap<S>(S);

impl<S> Wrapped for Wrap<S>
where
    S: Service<Call, Response = Reply> + Send,
    S::Error: Into<BoxError>,
    S::Future: Send + 'static,
{
    fn poll_ready(&mut self, cx: &mut TaskContext<'_>) -> Poll<Result<(), BoxError>> {
        self.0.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, call: Call) -> Serving {
        let future = self.0.call(call);
        Box::pin(async move { future.await.map_err(Into::into) })
    }
}

/// The innermost service: runs the handler to its end, or to the end of its time or of the application.
pub(crate) fn serve<M: Message>(call: Call) -> Serving {
    Box::pin(async move {
        match attempt::<M>(call).await {
            Ok(reply) => Ok(reply),
            // The whole call ends now: no layer is to take it for something to try again.
            Err(Failure::Stopped) => std::future::pending().await,
            Err(failure) => Err(CallError(failure).into()),
        }
    })
}

async fn attempt<M: Message>(call: Call) -> Result<Reply, Failure> {
    let shared = Arc::clone(&call.shared);
    let inner = &shared.context.inner;
    if inner.lifecycle.is_stopped() {
        return Err(Failure::Stopped);
    }
    let app = inner.address();
    let mut origin = None;
    let started = guard::contain_inner(app, || {
        call.arrived(&inner.codecs, |def, arrived, context| {
            origin = context.origin_arc();
            invoke::<M>(def.call, arrived, context)
        })
    })?;
    let mut handler = Contained::<M> {
        app,
        future: Some(started.map_err(Failure::Decode)?),
    };
    let limit = shared.served.timeout;
    let outcome = match poll_fn(|cx| Poll::Ready(handler.poll(cx))).await {
        Poll::Ready(outcome) => outcome,
        Poll::Pending => guard::finish(inner, limit, |cx| handler.poll(cx)).await,
    };
    outcome.map(|response| {
        let mut reply = Reply::new(response);
        if let Some(origin) = &origin {
            shared.succeeded(Arc::clone(origin));
        }
        reply.origin = origin;
        reply
    })
}

/// A handler whose panics stay its own, also when a layer drops it half-way.
struct Contained<M: Message> {
    app: usize,
    future: Option<HandlerFuture<M>>,
}

impl<M: Message> Contained<M> {
    fn poll(&mut self, cx: &mut TaskContext<'_>) -> Poll<Result<M::Response, Failure>> {
        let app = self.app;
        let future = self
            .future
            .as_mut()
            .expect("it is there until it is dropped");
        match guard::contain_inner(app, || future.as_mut().poll(cx)) {
            Ok(Poll::Pending) => Poll::Pending,
            Ok(Poll::Ready(outcome)) => {
                Poll::Ready(outcome.map_err(|error| Failure::returned(app, error)))
            }
            Err(panic) => Poll::Ready(Err(panic)),
        }
    }
}

impl<M: Message> Drop for Contained<M> {
    fn drop(&mut self) {
        // It was reported by the panic hook; nobody waits for the outcome.
        let _ = guard::contain_inner(self.app, || drop(self.future.take()));
    }
}

#[cfg(test)]
mod tests {
    use std::future::{Ready, poll_fn, ready};
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
    use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
    use std::task::{Context as TaskContext, Poll, Wake, Waker};
    use std::time::{Duration, Instant};

    use catga_core::BoxError;
    use tower::timeout::TimeoutLayer;
    use tower_service::Service;

    use super::Erased;
    use crate::builder::CatgaBuilder;
    use crate::handlers::HandlerOptions;
    use crate::layer::{Call, Reply};
    use crate::layer_tests::{App, layered, worker};

    async fn a_call() -> Call {
        let app = App::start().await;
        let layer = TimeoutLayer::new(Duration::from_secs(1));
        let builder = CatgaBuilder::default().layer(layer);
        app.a_call(&layered(worker(HandlerOptions::default()), builder))
    }

    struct Woken(AtomicBool);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.store(true, Ordering::SeqCst);
        }
    }

    /// Says that it is polled, and goes on when it is told to, or its teller is gone.
    struct Held(SyncSender<()>, Receiver<()>);

    impl Service<Call> for Held {
        type Response = Reply;
        type Error = BoxError;
        type Future = Ready<Result<Reply, BoxError>>;

        fn poll_ready(&mut self, _: &mut TaskContext<'_>) -> Poll<Result<(), BoxError>> {
            let _ = self.0.try_send(());
            let _ = self.1.recv_timeout(Duration::from_secs(10));
            Poll::Ready(Ok(()))
        }

        fn call(&mut self, _: Call) -> Self::Future {
            ready(Ok(Reply::new(())))
        }
    }

    #[test]
    fn who_comes_while_it_is_lent_is_woken_when_it_is_back() {
        let ((entered, enter), (go_on, go)) = (sync_channel(1), sync_channel(1));
        let mut first = Erased::new(Held(entered, go));
        let mut second = first.clone();
        let woken = Arc::new(Woken(AtomicBool::new(false)));
        let waker = Waker::from(Arc::clone(&woken));
        let mut cx = TaskContext::from_waker(&waker);
        std::thread::scope(|scope| {
            let first = scope.spawn(move || {
                let mut cx = TaskContext::from_waker(Waker::noop());
                first.poll_ready(&mut cx).is_ready()
            });
            enter.recv_timeout(Duration::from_secs(10)).unwrap();
            assert!(second.may_be_ready(), "it is lent but for a moment");
            assert!(second.poll_ready(&mut cx).is_pending());
            assert!(!woken.0.load(Ordering::SeqCst));
            drop(go_on);
            assert!(first.join().unwrap());
        });
        assert!(woken.0.load(Ordering::SeqCst));
        assert!(second.poll_ready(&mut cx).is_ready());
    }

    fn spin(random: &mut fastrand::Rng, most: u8) {
        for _ in 0..random.u8(..most) {
            std::hint::spin_loop();
        }
    }

    /// Ready, after a moment.
    struct Slow(fastrand::Rng);

    impl Service<Call> for Slow {
        type Response = Reply;
        type Error = BoxError;
        type Future = Ready<Result<Reply, BoxError>>;

        fn poll_ready(&mut self, _: &mut TaskContext<'_>) -> Poll<Result<(), BoxError>> {
            spin(&mut self.0, 32);
            Poll::Ready(Ok(()))
        }

        fn call(&mut self, _: Call) -> Self::Future {
            ready(Ok(Reply::new(())))
        }
    }

    /// Of two who come at once, one may find it lent; by the time that both have looked, it is back and that
    /// one is woken.
    #[test]
    fn of_two_who_come_at_once_none_is_forgotten() {
        const ROUNDS: usize = 200_000;
        let service = Erased::new(Slow(fastrand::Rng::new()));
        let arrived = AtomicUsize::new(0);
        let start = Instant::now();
        let meet = |number: usize| {
            arrived.fetch_add(1, Ordering::SeqCst);
            for spins in 0_u32.. {
                if arrived.load(Ordering::SeqCst) >= 2 * number {
                    break;
                }
                if spins % 256 == 255 {
                    assert!(start.elapsed() < Duration::from_secs(60), "the other came");
                    std::thread::yield_now();
                }
            }
        };
        let come = || {
            let mut random = fastrand::Rng::new();
            let mut forgotten = 0;
            for round in 0..ROUNDS {
                let mut service = service.clone();
                let woken = Arc::new(Woken(AtomicBool::new(false)));
                let waker = Waker::from(Arc::clone(&woken));
                meet(2 * round + 1);
                spin(&mut random, 16);
                let polled = service.poll_ready(&mut TaskContext::from_waker(&waker));
                meet(2 * round + 2);
                forgotten += usize::from(polled.is_pending() && !woken.0.load(Ordering::SeqCst));
            }
            forgotten
        };
        let forgotten = std::thread::scope(|scope| {
            let both = [scope.spawn(come), scope.spawn(come)];
            both.map(|one| one.join().expect("it does not panic"))
        });
        assert_eq!(forgotten, [0, 0]);
    }

    /// Never ready; ends who asks in a loop, which no time limit would.
    struct Never(u32);

    impl Service<Call> for Never {
        type Response = Reply;
        type Error = BoxError;
        type Future = Ready<Result<Reply, BoxError>>;

        fn poll_ready(&mut self, _: &mut TaskContext<'_>) -> Poll<Result<(), BoxError>> {
            self.0 += 1;
            assert!(self.0 < 10, "it is polled in a loop");
            Poll::Pending
        }

        fn call(&mut self, _: Call) -> Self::Future {
            unreachable!("it is never ready")
        }
    }

    #[test]
    fn who_waits_does_not_wake_itself() {
        let mut service = Erased::new(Never(0));
        let mut cx = TaskContext::from_waker(Waker::noop());
        assert!(service.poll_ready(&mut cx).is_pending());
        assert!(service.poll_ready(&mut cx).is_pending());
    }

    /// Takes its time, and is not ready now and then: it wakes before it has answered, or from elsewhere.
    struct Moody(fastrand::Rng);

    impl Service<Call> for Moody {
        type Response = Reply;
        type Error = BoxError;
        type Future = Ready<Result<Reply, BoxError>>;

        fn poll_ready(&mut self, cx: &mut TaskContext<'_>) -> Poll<Result<(), BoxError>> {
            spin(&mut self.0, 255);
            match self.0.u8(0..8) {
                0 => cx.waker().wake_by_ref(),
                1 => {
                    let waker = cx.waker().clone();
                    tokio::spawn(async move { waker.wake() });
                }
                _ => return Poll::Ready(Ok(())),
            }
            Poll::Pending
        }

        fn call(&mut self, _: Call) -> Self::Future {
            ready(Ok(Reply::new(())))
        }
    }

    const ROUNDS: u64 = 2000;

    /// Many short rounds: a wake-up that is lost is made good by the next who comes, and only the last waits
    /// for ever.
    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    #[allow(clippy::print_stdout, reason = "the seed, to run a failure again")]
    async fn every_call_of_a_moody_service_ends() {
        let call = a_call().await;
        let seed = fastrand::u64(..);
        println!("seed {seed}");
        for round in 0..ROUNDS {
            let random = fastrand::Rng::with_seed(seed.wrapping_add(round));
            let service = Erased::new(Moody(random));
            let tasks: Vec<_> = (0..4)
                .map(|i| {
                    let (mut service, call) = (service.clone(), call.clone());
                    tokio::spawn(async move {
                        if i > 0 {
                            poll_fn(|cx| service.poll_ready(cx)).await?;
                        }
                        service.call(call).await
                    })
                })
                .collect();
            for task in tasks {
                let ended = tokio::time::timeout(Duration::from_secs(10), task).await;
                ended.expect("nobody is forgotten").unwrap().unwrap();
            }
        }
    }
}
