//! What a direct call costs: the future of its handler, and nothing else.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;

use allocation_counter::{AllocationInfo, measure};
use catga::prelude::{Catga, Context, Request, Result, State, handler, handlers};
use serde::{Deserialize, Serialize};

#[derive(Request, Serialize, Deserialize)]
#[response(u64)]
#[request(idempotent = false)]
struct Double(u64);

#[handler]
async fn double(request: Double) -> Result<u64> {
    Ok(request.0 * 2)
}

#[derive(Request, Serialize, Deserialize)]
#[response(u64)]
#[request(idempotent = false)]
struct Scale(u64);

#[handler]
async fn scale(request: Scale, context: Context, State(by): State<Arc<u64>>) -> Result<u64> {
    assert_eq!(context.attempt().number(), 1);
    Ok(request.0 * *by)
}

/// What a future allocates that is ready at its first poll.
async fn allocations<T>(future: impl Future<Output = T>) -> (T, AllocationInfo) {
    let mut future = pin!(future);
    poll_fn(|cx| {
        let mut polled = Poll::Pending;
        let info = measure(|| polled = future.as_mut().poll(cx));
        match polled {
            Poll::Ready(output) => Poll::Ready((output, info)),
            Poll::Pending => panic!("a handler that is ready at once is called in place"),
        }
    })
    .await
}

#[tokio::test]
async fn a_direct_call_allocates_its_future_and_nothing_else() {
    let catga = Catga::builder()
        .connect("memory://")
        .request_deadline(None)
        .state(Arc::new(3_u64))
        .handlers(handlers![double, scale])
        .start()
        .await
        .unwrap();
    for warm_up in 0..10 {
        catga.send(Double(warm_up)).await.unwrap();
        catga.send(Scale(warm_up)).await.unwrap();
    }
    let (answer, info) = allocations(catga.send(Double(21))).await;
    assert_eq!((answer.unwrap(), info.count_total), (42, 1), "{info:?}");
    assert_eq!(info.count_current, 0, "freed when it returns: {info:?}");
    let (answer, info) = allocations(catga.send(Scale(21))).await;
    assert_eq!((answer.unwrap(), info.count_total), (63, 1), "{info:?}");
    catga.shutdown().await.unwrap();
}
