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
