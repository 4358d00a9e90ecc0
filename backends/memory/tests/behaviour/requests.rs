use std::sync::Arc;
use std::time::Duration;

use catga_core::{
    Bytes, Completion, Delivery, Envelope, Error, ErrorKind, Name, NodeId, QoS, Reason, ReasonKind,
    Reply, Serve, Settlement, Subscription, Target, Transport,
};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::{NAME, SECOND, next, nothing, text, transport};

const SERVICE: Name = Name::from_static("shop");

async fn serve(bus: &dyn Transport, node: &'static str) -> Box<dyn Subscription> {
    let serve = Serve::new(NAME, SERVICE, NodeId::from_static(node));
    bus.serve(&serve).await.unwrap()
}

fn envelope(text: &str) -> Envelope {
    let body = Bytes::copy_from_slice(text.as_bytes());
    Envelope::received(NAME, QoS::AtLeastOnce, body)
}

fn to_service() -> Target {
    Target::Service(SERVICE)
}

fn to_node(node: &'static str) -> Target {
    Target::Node(NodeId::from_static(node))
}

/// A request on its way, from its first poll on.
async fn ask(
    bus: &Arc<dyn Transport>,
    to: Target,
    text: &str,
    time_left: Duration,
) -> JoinHandle<Result<Reply, Error>> {
    let (bus, envelope) = (Arc::clone(bus), envelope(text));
    let asked = tokio::spawn(async move { bus.request(&to, &envelope, 1, Some(time_left)).await });
    tokio::task::yield_now().await;
    asked
}

async fn answer(delivery: Delivery) {
    let response = Reply::ok(Bytes::from(format!("re {}", text(&delivery))));
    let completion = Completion::new().with_response(response);
    delivery
        .settle(Settlement::Complete(completion))
        .await
        .unwrap();
}

async fn answered(asked: JoinHandle<Result<Reply, Error>>) -> String {
    let bytes = asked.await.unwrap().unwrap().result.unwrap();
    String::from_utf8(bytes.to_vec()).unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_request_gets_its_own_reply() {
    let bus = transport("memory://").await;
    let mut one = serve(&*bus, "n1").await;
    let mut two = serve(&*bus, "n2").await;
    let first = ask(&bus, to_service(), "a", SECOND).await;
    let second = ask(&bus, to_service(), "b", SECOND).await;
    let named = ask(&bus, to_node("n2"), "c", SECOND).await;
    let mut at_two = Vec::new();
    two.recv(1, &mut at_two).await.unwrap();
    let named_delivery = at_two.pop().unwrap();
    assert_eq!(text(&named_delivery), "c");
    let delivery = next(&mut *one).await;
    assert_eq!((text(&delivery).as_str(), delivery.count()), ("a", 1));
    assert!(delivery.time_left().unwrap() <= SECOND && delivery.is_acknowledged());
    answer(next(&mut *two).await).await;
    answer(named_delivery).await;
    answer(delivery).await;
    assert_eq!(answered(first).await, "re a");
    assert_eq!(answered(second).await, "re b");
    assert_eq!(answered(named).await, "re c");
}

#[tokio::test(start_paused = true)]
async fn nobody_there_is_said_at_once() {
    let bus = transport("memory://").await;
    let began = Instant::now();
    let nobody = |to: Target| {
        let bus = Arc::clone(&bus);
        async move {
            let asked = bus.request(&to, &envelope("a"), 1, Some(SECOND)).await;
            assert_eq!(asked.unwrap_err().kind(), ErrorKind::NoResponders, "{to}");
        }
    };
    nobody(to_service()).await;
    let server = serve(&*bus, "n1").await;
    nobody(to_node("n2")).await;
    nobody(Target::Service(Name::from_static("other"))).await;
    // A node's name is not a service's.
    nobody(Target::Service(Name::from_static("n1"))).await;
    drop(server);
    nobody(to_service()).await;
    assert_eq!(began.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn a_request_times_out_and_is_not_started_later() {
    let bus = transport("memory://").await;
    let mut server = serve(&*bus, "n1").await;
    let asked = ask(&bus, to_service(), "late", SECOND).await;
    let error = asked.await.unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout);
    assert!(error.may_be_stored());
    let asked = ask(&bus, to_service(), "in time", SECOND).await;
    let delivery = next(&mut *server).await;
    assert_eq!(text(&delivery), "in time");
    answer(delivery).await;
    answered(asked).await;
    // A caller that gave up is not served either.
    ask(&bus, to_service(), "gone", SECOND).await.abort();
    nothing(&mut *server).await;
}

#[tokio::test(start_paused = true)]
async fn what_a_server_gives_back_another_answers() {
    let bus = transport("memory://").await;
    let mut one = serve(&*bus, "n1").await;
    let mut two = serve(&*bus, "n2").await;
    let asked = ask(&bus, to_service(), "a", SECOND * 10).await;
    let delivery = next(&mut *one).await;
    delivery
        .settle(Settlement::Release { began: false })
        .await
        .unwrap();
    let began = Instant::now();
    let after = SECOND / 2;
    let delivery = next(&mut *two).await;
    delivery.settle(Settlement::Nak { after }).await.unwrap();
    let dropped = next(&mut *two).await;
    assert!(began.elapsed() >= after);
    drop(dropped);
    // A batch that was on its way when its server went.
    let delivery = next(&mut *two).await;
    let mut into = Vec::new();
    assert!(
        tokio::time::timeout(SECOND, one.recv(1, &mut into))
            .await
            .is_err()
    );
    delivery
        .settle(Settlement::Release { began: false })
        .await
        .unwrap();
    tokio::task::yield_now().await;
    drop(one);
    answer(next(&mut *two).await).await;
    assert_eq!(answered(asked).await, "re a");
}

#[tokio::test(start_paused = true)]
async fn the_last_server_leaves_no_caller_waiting() {
    let bus = transport("memory://").await;
    let mut server = serve(&*bus, "n1").await;
    let delayed = ask(&bus, to_service(), "tried", SECOND).await;
    let after = SECOND / 2;
    let tried = next(&mut *server).await;
    tried.settle(Settlement::Nak { after }).await.unwrap();
    let asked = ask(&bus, to_service(), "a", SECOND).await;
    let named = ask(&bus, to_node("n1"), "b", SECOND).await;
    let began = Instant::now();
    drop(server);
    for (asked, may_have_run) in [(delayed, true), (asked, false), (named, false)] {
        let error = asked.await.unwrap().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NoResponders);
        assert_eq!(error.may_be_stored(), may_have_run);
    }
    assert_eq!(began.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn a_request_that_failed_for_good_answers_with_the_error() {
    let bus = transport("memory://").await;
    let mut server = serve(&*bus, "n1").await;
    for (settlement, kind) in [
        (
            Settlement::DeadLetter {
                reason: Reason::new(ReasonKind::Decode, "no JSON"),
                claim: None,
            },
            "decode",
        ),
        (Settlement::Term, "handler"),
        (Settlement::Ack, "handler"),
    ] {
        let asked = ask(&bus, to_service(), "a", SECOND).await;
        let delivery = next(&mut *server).await;
        delivery.settle(settlement).await.unwrap();
        let error = asked.await.unwrap().unwrap().result.unwrap_err();
        assert_eq!((error.kind.as_str(), error.retryable), (kind, false));
    }
}

#[tokio::test(start_paused = true)]
async fn a_server_holds_no_more_than_its_limit() {
    let bus = transport("memory://").await;
    let limited = Serve::new(NAME, SERVICE, NodeId::from_static("n1")).with_max_in_flight(1);
    let mut server = bus.serve(&limited).await.unwrap();
    let first = ask(&bus, to_service(), "a", SECOND * 10).await;
    let second = ask(&bus, to_service(), "b", SECOND * 10).await;
    let delivery = next(&mut *server).await;
    nothing(&mut *server).await;
    answer(delivery).await;
    answer(next(&mut *server).await).await;
    assert_eq!(answered(first).await, "re a");
    assert_eq!(answered(second).await, "re b");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_at_once_each_get_their_own() {
    let bus = transport("memory://").await;
    for node in ["n1", "n2"] {
        let mut server = serve(&*bus, node).await;
        tokio::spawn(async move {
            let mut into = Vec::new();
            while server.recv(16, &mut into).await.is_ok() {
                for delivery in into.drain(..) {
                    answer(delivery).await;
                }
            }
        });
    }
    let mut asked = Vec::new();
    for i in 0..1000 {
        asked.push((i, ask(&bus, to_service(), &i.to_string(), SECOND * 5).await));
    }
    for (i, asked) in asked {
        assert_eq!(answered(asked).await, format!("re {i}"));
    }
    bus.close().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_raised_limit_wakes_a_node_that_waits() {
    let bus = transport("memory://").await;
    let one_at_once = Serve::new(NAME, SERVICE, NodeId::from_static("n1")).with_max_in_flight(1);
    let mut node = bus.serve(&one_at_once).await.unwrap();
    let first = ask(&bus, to_service(), "a", SECOND * 9).await;
    let second = ask(&bus, to_service(), "b", SECOND * 9).await;
    let held = next(&mut *node).await;
    nothing(&mut *node).await;
    node.set_max_in_flight(2);
    answer(next(&mut *node).await).await;
    answer(held).await;
    assert_eq!(
        (answered(first).await, answered(second).await),
        ("re a".into(), "re b".into())
    );
}
