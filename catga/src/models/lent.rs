use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use shuttle::future::{block_on, spawn};
use shuttle::sync::Mutex;
use shuttle::sync::atomic::{AtomicBool, Ordering};

use super::{check, once, step};
use crate::lent::Lent;

/// What becomes ready when somebody opens it, and tells the last waker that it saw.
#[derive(Default)]
struct Gate {
    open: AtomicBool,
    waker: Mutex<Option<Waker>>,
}

impl Gate {
    fn open(&self) {
        self.open.store(true, Ordering::SeqCst);
        if let Some(waker) = self.waker.lock().unwrap().take() {
            waker.wake();
        }
    }
}

struct Service {
    gate: Arc<Gate>,
    in_use: bool,
}

impl Service {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        assert!(!self.in_use, "lent to two");
        self.in_use = true;
        *self.gate.waker.lock().unwrap() = Some(cx.waker().clone());
        let open = self.gate.open.load(Ordering::SeqCst);
        self.in_use = false;
        if open { Poll::Ready(()) } else { Poll::Pending }
    }
}

async fn ready(lent: &Lent<Service>) {
    let mut waiting = None;
    poll_fn(|cx| lent.poll(&mut waiting, cx, Service::poll)).await;
}

fn tasks(open: bool) {
    let gate = Arc::new(Gate::default());
    gate.open.store(open, Ordering::SeqCst);
    let service = Service {
        gate: Arc::clone(&gate),
        in_use: false,
    };
    let lent = Arc::new(Lent::new(service));
    let mut tasks: Vec<_> = (0..2)
        .map(|_| {
            let lent = Arc::clone(&lent);
            spawn(async move { ready(&lent).await })
        })
        .collect();
    let gives_up = Arc::clone(&lent);
    tasks.push(spawn(async move {
        let mut waiting = Box::pin(ready(&gives_up));
        once(&mut waiting).await;
        step();
    }));
    gate.open();
    block_on(async {
        for task in tasks {
            task.await.unwrap();
        }
    });
}

#[test]
fn who_comes_while_it_is_lent_is_not_forgotten() {
    check(|| tasks(true));
}

#[test]
fn who_waits_until_it_is_ready_is_not_forgotten() {
    check(|| tasks(false));
}
