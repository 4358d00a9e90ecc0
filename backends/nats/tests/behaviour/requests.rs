use std::sync::Arc;
use std::time::{Duration, Instant};

use catga_core::{
    Bytes, Completion, Delivery, Envelope, Error, ErrorKind, MessageId, Name, NodeId, QoS, Reason,
    ReasonKind, Reply, Serve, Settlement, Subscription, Target, Transport,
};
use tokio::task::JoinHandle;

use crate::{NAME, SECOND, SOON, Space, next, nothing, text};

const SERVICE: Name = Name::from_static("shop");

async fn serve(bus: &dyn Transport, node: &'static str) -> Box<dyn Subscription> {
    let serve = Serve::new(NAME, SERVICE, NodeId::from_static(node));
    bus.serve(&serve).await.unwrap()
}

fn envelope(text: &str) -> Envelope {
    let body = Bytes::copy_from_slice(text.as_bytes());
    Envelope::received(NAME, QoS::AtLeastOnce, body).with_id(MessageId::from_key(text))
}

fn to_service() -> Target {
    Target::Service(SERVICE)
}

fn to_node(node: &'static str) -> Target {
    Target::Node(NodeId::from_static(node))
}

fn ask(
    bus: &Arc<dyn Transport>,
    to: Target,
    text: &str,
    time_left: Duration,
) -> JoinHandle<Result<Reply, Error>> {
    let (bus, envelope) = (Arc::clone(bus), envelope(text));
    tokio::spawn(async move { bus.request(&to, &envelope, 2, Some(time_left)).await })
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

#[tokio::test]
async fn a_request_gets_its_own_reply_from_whom_it_was_sent_to() {
    let space = Space::new();
    let bus = space.transport().await;
    let mut one = serve(&*bus, "n1").await;
    let mut two = serve(&*space.transport().await, "n2").await;
    let named = ask(&bus, to_node("n2"), "a", SOON);
    let delivery = next(&mut *two).await;
    assert_eq!((text(&delivery).as_str(), delivery.count()), ("a", 2));
    assert_eq!(delivery.envelope().id(), Some(MessageId::from_key("a")));
    let left = delivery.time_left().unwrap();
    assert!(left <= SOON && left > SOON / 2, "{left:?}");
    nothing(&mut *one).await;
    answer(delivery).await;
    assert_eq!(answered(named).await, "re a");
    two.close().await.unwrap();
    let shared = ask(&bus, to_service(), "b", SOON);
    answer(next(&mut *one).await).await;
    assert_eq!(answered(shared).await, "re b");
}

#[tokio::test]
async fn nobody_there_is_said_at_once() {
    let space = Space::new();
    let bus = space.transport().await;
    let began = Instant::now();
    let nobody = async |to: Target| {
        let asked = bus.request(&to, &envelope("a"), 1, Some(SOON)).await;
        let error = asked.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NoResponders, "{to}");
        assert!(!error.may_be_stored());
    };
    nobody(to_service()).await;
    let mut server = serve(&*bus, "n1").await;
    nobody(to_node("n2")).await;
    nobody(Target::Service(Name::from_static("other"))).await;
    nobody(Target::Service(Name::from_static("n1"))).await;
    server.close().await.unwrap();
    nobody(to_service()).await;
    assert!(began.elapsed() < SOON / 2);
}

#[tokio::test]
async fn a_request_times_out_and_is_not_started_later() {
    let space = Space::new();
    let bus = space.transport().await;
    let mut server = serve(&*bus, "n1").await;
    let asked = ask(&bus, to_service(), "late", SECOND / 5);
    let error = asked.await.unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout);
    assert!(error.may_be_stored());
    // A server counts from when it came there, which may be long after it was sent.
    tokio::time::sleep(SECOND / 5).await;
    let asked = ask(&bus, to_service(), "in time", SOON);
    let delivery = next(&mut *server).await;
    assert_eq!(text(&delivery), "in time");
    answer(delivery).await;
    assert_eq!(answered(asked).await, "re in time");
}

#[tokio::test]
async fn a_caller_may_wait_for_as_long_as_it_takes() {
    let space = Space::new();
    let bus = space.transport().await;
    let mut server = serve(&*bus, "n1").await;
    let asked = {
        let bus = Arc::clone(&bus);
        tokio::spawn(async move { bus.request(&to_service(), &envelope("a"), 1, None).await })
    };
    let delivery = next(&mut *server).await;
    assert_eq!(delivery.time_left(), None);
    answer(delivery).await;
    assert_eq!(answered(asked).await, "re a");
}

#[tokio::test]
async fn what_a_server_gives_back_its_caller_may_ask_again() {
    let space = Space::new();
    let bus = space.transport().await;
    let mut server = serve(&*bus, "n1").await;
    for (settlement, may_have_run) in [
        (Some(Settlement::Release { began: false }), false),
        (Some(Settlement::Release { began: true }), true),
        (None, true),
    ] {
        let asked = ask(&bus, to_service(), "a", SOON);
        let delivery = next(&mut *server).await;
        match settlement {
            Some(settlement) => delivery.settle(settlement).await.unwrap(),
            None => drop(delivery),
        }
        let error = asked.await.unwrap().unwrap().result.unwrap_err();
        assert_eq!(
            (error.kind.as_str(), error.retryable),
            ("unavailable", true)
        );
        assert_eq!(error.may_have_run, may_have_run);
    }
}

#[tokio::test]
async fn what_a_server_puts_off_comes_again_or_goes_back_when_it_leaves() {
    let space = Space::new();
    let bus = space.transport().await;
    let mut server = serve(&*bus, "n1").await;
    let after = SECOND / 2;
    for settlement in [Settlement::Defer { after }, Settlement::Nak { after }] {
        let asked = ask(&bus, to_service(), "a", SOON);
        next(&mut *server).await.settle(settlement).await.unwrap();
        let began = Instant::now();
        let again = next(&mut *server).await;
        assert!(began.elapsed() >= after * 9 / 10);
        answer(again).await;
        assert_eq!(answered(asked).await, "re a");
    }
    let asked = ask(&bus, to_service(), "a", SOON);
    let delivery = next(&mut *server).await;
    delivery
        .settle(Settlement::Defer { after: SOON })
        .await
        .unwrap();
    server.close().await.unwrap();
    let error = asked.await.unwrap().unwrap().result.unwrap_err();
    assert_eq!(
        (error.kind.as_str(), error.may_have_run),
        ("unavailable", false)
    );
}

#[tokio::test]
async fn a_request_that_failed_for_good_answers_with_the_error() {
    let space = Space::new();
    let bus = space.transport().await;
    let mut server = serve(&*bus, "n1").await;
    let reason = Reason::new(ReasonKind::Decode, "no JSON");
    for (settlement, kind) in [
        (
            Settlement::DeadLetter {
                reason,
                claim: None,
            },
            "decode",
        ),
        (Settlement::Term, "handler"),
        (Settlement::Ack, "handler"),
    ] {
        let asked = ask(&bus, to_service(), "a", SOON);
        next(&mut *server).await.settle(settlement).await.unwrap();
        let error = asked.await.unwrap().unwrap().result.unwrap_err();
        assert_eq!((error.kind.as_str(), error.retryable), (kind, false));
    }
}

#[tokio::test]
async fn a_response_that_is_too_large_is_an_error_of_its_request() {
    let space = Space::new();
    let bus = space.transport().await;
    let mut server = serve(&*bus, "n1").await;
    let asked = ask(&bus, to_service(), "a", SOON);
    let huge = Reply::ok(Bytes::from(vec![b'x'; 2 << 20]));
    let completion = Completion::new().with_response(huge);
    let delivery = next(&mut *server).await;
    delivery
        .settle(Settlement::Complete(completion))
        .await
        .unwrap();
    let error = asked.await.unwrap().unwrap().result.unwrap_err();
    assert_eq!(
        (error.kind.as_str(), error.may_have_run),
        ("payload_too_large", true)
    );
}

#[tokio::test]
async fn a_node_holds_no_more_than_its_limit() {
    let space = Space::new();
    let bus = space.transport().await;
    let limited = Serve::new(NAME, SERVICE, NodeId::from_static("n1")).with_max_in_flight(1);
    let mut server = bus.serve(&limited).await.unwrap();
    let first = ask(&bus, to_service(), "a", SOON);
    let held = next(&mut *server).await;
    let second = ask(&bus, to_service(), "b", SOON);
    nothing(&mut *server).await;
    server.set_max_in_flight(2);
    let other = next(&mut *server).await;
    answer(other).await;
    assert_eq!(answered(second).await, "re b");
    answer(held).await;
    assert_eq!(answered(first).await, "re a");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_at_once_each_get_their_own() {
    let space = Space::new();
    let bus = space.transport().await;
    for node in ["n1", "n2"] {
        let there = space.transport().await;
        let mut server = serve(&*there, node).await;
        tokio::spawn(async move {
            let (mut into, _there) = (Vec::new(), there);
            while server.recv(16, &mut into).await.is_ok() {
                for delivery in into.drain(..) {
                    answer(delivery).await;
                }
            }
        });
    }
    let asked: Vec<_> = (0..1000)
        .map(|i| (i, ask(&bus, to_service(), &i.to_string(), SOON)))
        .collect();
    for (i, asked) in asked {
        assert_eq!(answered(asked).await, format!("re {i}"));
    }
}

#[tokio::test]
async fn late_and_double_replies_disturb_nobody() {
    let space = Space::new();
    let bus = space.transport().await;
    let mut server = serve(&*bus, "n1").await;
    let late = ask(&bus, to_service(), "late", SECOND / 5);
    let delivery = next(&mut *server).await;
    late.await.unwrap().unwrap_err();
    answer(delivery).await;
    // Somebody who answers twice, by the wire alone.
    let client = async_nats::connect(crate::shared()).await.unwrap();
    let subject = format!("{}.r.twice.{NAME}", space.namespace);
    let mut requests = client.subscribe(subject.clone()).await.unwrap();
    // What it hears itself tells that the server knows of it.
    client.publish(subject, "heard".into()).await.unwrap();
    futures_util::StreamExt::next(&mut requests).await.unwrap();
    let twice = Target::Service(Name::from_static("twice"));
    for i in 0..10 {
        let asked = ask(&bus, twice.clone(), &i.to_string(), SOON);
        let request = futures_util::StreamExt::next(&mut requests).await.unwrap();
        for answer in ["first", "second"] {
            client
                .publish(request.reply.clone().unwrap(), answer.into())
                .await
                .unwrap();
        }
        assert_eq!(answered(asked).await, "first");
    }
}

#[tokio::test]
async fn whoever_speaks_nats_may_ask() {
    let space = Space::new();
    let bus = space.transport().await;
    let mut server = serve(&*bus, "n1").await;
    let client = async_nats::connect(crate::shared()).await.unwrap();
    let subject = format!("{}.r.{SERVICE}.{NAME}", space.namespace);
    let asked = tokio::spawn(async move { client.request(subject, "plain".into()).await });
    let delivery = next(&mut *server).await;
    assert_eq!(
        (delivery.envelope().id(), delivery.time_left()),
        (None, None)
    );
    answer(delivery).await;
    assert_eq!(asked.await.unwrap().unwrap().payload, "re plain");
}

#[tokio::test]
async fn of_two_processes_with_one_id_one_runs_a_request() {
    let space = Space::new();
    let (here, there) = (space.transport().await, space.transport().await);
    let mut one = serve(&*here, "n1").await;
    let mut other = serve(&*there, "n1").await;
    for text in ["a", "b", "c", "d"] {
        let asked = ask(&here, to_node("n1"), text, SOON);
        let delivery = tokio::select! {
            delivery = next(&mut *one) => delivery,
            delivery = next(&mut *other) => delivery,
        };
        answer(delivery).await;
        assert_eq!(answered(asked).await, format!("re {text}"));
    }
    nothing(&mut *one).await;
    nothing(&mut *other).await;
}
