use std::sync::Arc;
use std::time::{Duration, Instant};

use catga_core::{
    Bytes, Completion, Delivery, Envelope, Error, ErrorKind, MessageId, Name, NodeId, QoS, Reason,
    ReasonKind, Reply, Serve, Settlement, Subscription, Target, Transport,
};
use catga_testkit::proxy::{Direction, Fault, Proxy};
use catga_testkit::server::{RedisServer, Server as _};
use tokio::task::JoinHandle;

use crate::{NAME, SECOND, SOON, Space, TICK, next, nothing, text, until};

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
    // A request is never taken for older than it is: where it arrives it is late as much later as it took to arrive.
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
        let delivery = next(&mut *server).await;
        let began = Instant::now();
        delivery.settle(settlement).await.unwrap();
        let again = next(&mut *server).await;
        assert!(began.elapsed() + TICK >= after);
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
    let bus = space.try_connect("?max_payload=1048576").await.unwrap();
    let bus = bus.transport;
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_that_was_perhaps_handed_on_may_have_begun() {
    let server = RedisServer::start().unwrap();
    let proxy = Proxy::start(server.address(), 7).await.unwrap();
    let living = Space::at(&server.url());
    let cut = Space {
        url: format!("redis://{}", proxy.address()),
        namespace: living.namespace.clone(),
    };
    let (asks, stays, leaves) = (
        living.transport().await,
        living.transport().await,
        cut.transport().await,
    );
    let mut leaving = serve(&*leaves, "leaving").await;
    let once = Envelope::received(NAME, QoS::AtMostOnce, Bytes::from_static(b"a"));
    let once = once.with_id(MessageId::new());
    let asked =
        tokio::spawn(async move { asks.request(&to_service(), &once, 1, Some(SOON)).await });
    let stream = format!("{{{}:{NAME}}}:r:{SERVICE}", living.namespace);
    // Who reads again has taken in what it read before.
    let clients = |command: &str| {
        let list = server.ask("CLIENT LIST").unwrap();
        let is_it = |line: &&str| line.contains(" flags=b ") && line.contains(command);
        list.lines().filter(is_it).count()
    };
    until("it waits at the one that leaves", async || {
        let groups = server.ask(&format!("XINFO GROUPS {stream}")).unwrap();
        groups.contains("entries-read\n1\n") && clients("cmd=xreadgroup") == 1
    })
    .await;
    let mut staying = serve(&*stays, "stays").await;

    // The one that leaves hands it on, and does not hear that this was done.
    server.ask("CLIENT PAUSE 60000 WRITE").unwrap();
    let closing = tokio::spawn(async move { leaving.close().await });
    until("it is being handed on", async || clients("cmd=xadd") == 1).await;
    proxy.set(Direction::ToClient, Fault::BlackHole);
    server.ask("CLIENT UNPAUSE").unwrap();
    until("it was handed on", async || {
        server.ask(&format!("XLEN {stream}")).unwrap() == "2"
    })
    .await;
    proxy.reset();
    proxy.heal();

    let begins = next(&mut *staying).await;
    assert_eq!(text(&begins), "a");
    // Who is told that it may have begun does not ask again at `at_most_once`: it runs nowhere else.
    let error = asked.await.unwrap().unwrap().result.unwrap_err();
    assert_eq!(
        (error.kind.as_str(), error.may_have_run),
        ("unavailable", true)
    );
    answer(begins).await;
    nothing(&mut *staying).await;
    closing.await.unwrap().unwrap();
}
