//! The same work by hand: what each case is held against.

use std::hint::black_box;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crossbeam_queue::ArrayQueue;
use tokio::runtime::Runtime;
use tokio::sync::{Notify, mpsc, oneshot};
use tower::timeout::TimeoutLayer;
use tower::{BoxError, Layer, Service, ServiceExt, service_fn};

use crate::cases::two_cores;
use crate::work::{Order, Quote};

type BoxFuture<T> = Pin<Box<dyn Future<Output = T> + Send>>;

trait Handler: Send + Sync {
    fn call(&self, request: Quote) -> BoxFuture<u64>;
}

struct Price;

impl Handler for Price {
    fn call(&self, request: Quote) -> BoxFuture<u64> {
        Box::pin(async move { request.quantity * request.unit_price })
    }
}

/// A boxed future through `Arc<dyn Handler>`.
pub fn boxed_call(runtime: &Runtime, operations: u64) -> Duration {
    let handler: Arc<dyn Handler> = black_box(Arc::new(Price));
    runtime.block_on(async {
        let began = Instant::now();
        for i in 0..operations {
            black_box(
                handler
                    .call(Quote {
                        quantity: i,
                        unit_price: 3,
                    })
                    .await,
            );
        }
        began.elapsed()
    })
}

/// The same behind tower's own time-out.
pub fn boxed_call_in_time(runtime: &Runtime, operations: u64) -> Duration {
    let handler: Arc<dyn Handler> = black_box(Arc::new(Price));
    let service = service_fn(move |request| {
        let answer = handler.call(request);
        Box::pin(async move { Ok(answer.await) }) as BoxFuture<Result<u64, BoxError>>
    });
    let mut service = TimeoutLayer::new(Duration::from_secs(30)).layer(service);
    runtime.block_on(async {
        let began = Instant::now();
        for i in 0..operations {
            let service = service.ready().await.expect("always ready");
            let answer = service.call(Quote {
                quantity: i,
                unit_price: 3,
            });
            black_box(answer.await.expect("in time"));
        }
        began.elapsed()
    })
}

/// A request over a channel with a channel for its reply.
pub fn channel_request(runtime: &Runtime, operations: u64) -> Duration {
    runtime.block_on(async {
        let (requests, mut inbox) = mpsc::channel::<(Quote, oneshot::Sender<u64>)>(1024);
        tokio::spawn(async move {
            while let Some((request, reply)) = inbox.recv().await {
                let _ = reply.send(request.quantity * request.unit_price);
            }
        });
        let began = Instant::now();
        for i in 0..operations {
            let (reply, answer) = oneshot::channel();
            requests
                .send((
                    Quote {
                        quantity: i,
                        unit_price: 3,
                    },
                    reply,
                ))
                .await
                .expect("the server lives");
            black_box(answer.await.expect("the server answers"));
        }
        began.elapsed()
    })
}

/// Raw bounded queues carrying an `Arc`, each with a task that waits on a `Notify`: QoS 0 by hand.
pub fn queues(operations: u64, consumers: usize) -> Duration {
    struct Ring {
        queue: ArrayQueue<Arc<Order>>,
        filled: Notify,
    }
    two_cores(async move {
        let seen = Arc::new(AtomicU64::new(0));
        let rings: Vec<_> = (0..consumers)
            .map(|_| {
                Arc::new(Ring {
                    queue: ArrayQueue::new(1024),
                    filled: Notify::new(),
                })
            })
            .collect();
        let tasks: Vec<_> = rings
            .iter()
            .map(|ring| {
                let (ring, seen) = (Arc::clone(ring), Arc::clone(&seen));
                tokio::spawn(async move {
                    loop {
                        while let Some(order) = ring.queue.pop() {
                            black_box(order.quantity);
                            seen.fetch_add(1, Ordering::Relaxed);
                        }
                        ring.filled.notified().await;
                    }
                })
            })
            .collect();
        let began = Instant::now();
        for i in 0..operations {
            let order = Arc::new(Order::new(i));
            for ring in &rings {
                let mut order = Arc::clone(&order);
                while let Err(back) = ring.queue.push(order) {
                    order = back;
                    tokio::task::yield_now().await;
                }
                ring.filled.notify_one();
            }
        }
        while seen.load(Ordering::Relaxed) < operations * consumers as u64 {
            tokio::task::yield_now().await;
        }
        let took = began.elapsed();
        tasks.iter().for_each(tokio::task::JoinHandle::abort);
        took
    })
}

/// Three queue hops: to a log's owner and back as confirmation, from it to the consumer, and the
/// consumer's ack to it: QoS 1 by hand, without its leases.
pub fn three_hops(operations: u64, window: usize) -> Duration {
    enum Command {
        Publish(Arc<Order>, oneshot::Sender<()>),
        Ack,
    }
    two_cores(async move {
        let (commands, mut log) = mpsc::channel(1024);
        let (deliveries, mut inbox) = mpsc::channel::<Arc<Order>>(1024);
        tokio::spawn(async move {
            while let Some(command) = log.recv().await {
                if let Command::Publish(order, stored) = command {
                    if deliveries.send(order).await.is_err() {
                        return;
                    }
                    let _ = stored.send(());
                }
            }
        });
        let acks = commands.clone();
        let handled = Arc::new(AtomicU64::new(0));
        let counter = Arc::clone(&handled);
        tokio::spawn(async move {
            while let Some(order) = inbox.recv().await {
                black_box(order.quantity);
                counter.fetch_add(1, Ordering::Relaxed);
                if acks.send(Command::Ack).await.is_err() {
                    return;
                }
            }
        });
        let began = Instant::now();
        let mut publishers = tokio::task::JoinSet::new();
        for lane in 0..window as u64 {
            let commands = commands.clone();
            publishers.spawn(async move {
                for i in (lane..operations).step_by(window) {
                    let (stored, confirmed) = oneshot::channel();
                    let order = Arc::new(Order::new(i));
                    commands
                        .send(Command::Publish(order, stored))
                        .await
                        .ok()
                        .expect("the log lives");
                    confirmed.await.expect("the log confirms");
                }
            });
        }
        publishers.join_all().await;
        while handled.load(Ordering::Relaxed) < operations {
            tokio::task::yield_now().await;
        }
        began.elapsed()
    })
}

/// Burns CPU for 100 µs.
pub fn burn() {
    let began = Instant::now();
    while began.elapsed() < Duration::from_micros(100) {
        std::hint::spin_loop();
    }
}
