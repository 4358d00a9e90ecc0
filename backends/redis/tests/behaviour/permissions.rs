//! The rights that the README lists: they are enough, and none is too much.

use std::num::NonZeroU16;

use catga_core::{
    Bytes, ClaimEnd, ClaimOutcome, ConnectOptions, DeadLetterFilter, Driver as _, Envelope,
    ErrorKind, InboxKey, MessageId, Name, NodeId, Owner, QoS, Reason, ReasonKind, Reply, Serve,
    Settlement, Subscription, Target,
};
use catga_testkit::server::{RedisServer, Server as _};
use tokio::time::{Instant, timeout};

use crate::nodes::{self, KINDS};
use crate::{NAME, SECOND, SOON, Space, in_group, message, on_node, publish, text};

/// Rights that only make something quicker or tidier; and `eval`, where the server knows all scripts already.
const WITHOUT_HARM: &[&str] = &["unsubscribe", "xread", "eval", "script|load"];

/// The commands of the line in the README.
fn commands() -> Vec<&'static str> {
    let readme = include_str!("../../README.md");
    let line = readme.lines().find(|line| line.starts_with("ACL SETUSER"));
    let (_, commands) = line.unwrap().split_once("-@all ").unwrap();
    commands
        .split(' ')
        .map(|command| command.strip_prefix('+').unwrap())
        .collect()
}

fn grant(server: &RedisServer, namespace: &str, commands: &[&str]) {
    let granted = commands.join(" +");
    let line = format!(
        "ACL SETUSER {namespace} on >pw ~{{{namespace}:* &{{{namespace}:* -@all +{granted}"
    );
    server.ask(&line).unwrap();
}

async fn next(subscription: &mut dyn Subscription) -> catga_core::Delivery {
    let mut into = Vec::new();
    let by = Instant::now() + SECOND * 8;
    while into.is_empty() {
        let received = tokio::time::timeout_at(by, subscription.recv(1, &mut into));
        let received = received.await.expect("nothing came in time");
        if let Err(error) = received {
            assert_ne!(error.kind(), ErrorKind::Permission, "{error:?}");
        }
    }
    into.pop().unwrap()
}

/// Does everything once.
#[expect(clippy::too_many_lines, reason = "one thing after the other")]
async fn exercise(url: String, namespace: Name) {
    let space = Space {
        url: url.clone(),
        namespace: namespace.clone(),
    };
    let backend = space.connect().await;
    let (bus, letters) = (backend.transport, backend.dead_letters.unwrap());
    let inbox = backend.inbox.unwrap();
    // QoS 0.
    for subscribe in [
        in_group(QoS::AtMostOnce, "e"),
        on_node(QoS::AtMostOnce, "n"),
    ] {
        let mut events = bus.subscribe(&subscribe).await.unwrap();
        publish(&*bus, QoS::AtMostOnce, "event").await;
        assert_eq!(text(&next(&mut *events).await), "event");
    }
    // QoS 1 and 2.
    for (qos, group) in [(QoS::AtLeastOnce, "g"), (QoS::ExactlyOnce, "h")] {
        let name = Name::new(format!("m.{group}")).unwrap();
        let mut subscribe = in_group(qos, group).with_ack_wait(SECOND);
        subscribe.message = name.clone();
        let mut subscription = bus.subscribe(&subscribe).await.unwrap();
        let envelope = || Envelope::received(name.clone(), qos, Bytes::from("a"));
        bus.publish(&mut envelope().with_partition(Some(1)), SOON)
            .await
            .unwrap();
        let after = SECOND / 20;
        next(&mut *subscription)
            .await
            .settle(Settlement::Nak { after })
            .await
            .unwrap();
        let mut again = next(&mut *subscription).await;
        again.extend().await.unwrap();
        // Taken over when its lease ends.
        drop(again);
        let last = next(&mut *subscription).await;
        let reason = Reason::new(ReasonKind::Terminal, "no");
        last.settle(Settlement::DeadLetter {
            reason,
            claim: None,
        })
        .await
        .unwrap();
        let page = letters
            .list(&DeadLetterFilter::all(), None, 10)
            .await
            .unwrap();
        letters.redrive(&page.letters[0].id).await.unwrap();
        let redriven = next(&mut *subscription).await;
        redriven.settle(Settlement::Term).await.unwrap();
        letters.purge(&DeadLetterFilter::all()).await.unwrap();
        subscription.close().await.unwrap();
    }
    // In order, and to each node.
    let ordered = in_group(QoS::AtLeastOnce, "o").with_ordered(NonZeroU16::new(2));
    let mut subscription = bus.subscribe(&ordered).await.unwrap();
    drop(
        bus.subscribe(&on_node(QoS::AtLeastOnce, "gone"))
            .await
            .unwrap(),
    );
    let here = on_node(QoS::AtLeastOnce, "here").with_absence(SECOND / 2);
    let mut node = bus.subscribe(&here).await.unwrap();
    for turn in 0..2 {
        let mut envelope = message(QoS::AtLeastOnce, "a").with_partition(Some(1));
        bus.publish(&mut envelope, SOON).await.unwrap();
        let delivery = next(&mut *subscription).await;
        delivery.settle(Settlement::Ack).await.unwrap();
        next(&mut *node)
            .await
            .settle(Settlement::Ack)
            .await
            .unwrap();
        if turn == 0 {
            // Idle for a while, so that it is looked for what comes.
            tokio::time::sleep(SECOND / 5).await;
        }
    }
    let by = Instant::now() + SECOND * 5;
    while letters
        .list(&DeadLetterFilter::all(), None, 10)
        .await
        .unwrap()
        .letters
        .is_empty()
    {
        assert!(Instant::now() < by, "nobody was given up");
        tokio::time::sleep(SECOND / 20).await;
    }
    subscription.close().await.unwrap();
    // The stream is cut behind what all have acked.
    let stream = format!("{{{namespace}:m.g}}:p:1");
    let admin = url.replace(&format!("{namespace}:pw@"), "");
    let by = Instant::now() + SECOND * 10;
    while crate::number(&admin, &["XLEN", &stream]).await > 0 {
        assert!(Instant::now() < by, "nothing is cut");
        tokio::time::sleep(SECOND / 10).await;
    }
    // Requests.
    let service = Name::from_static("shop");
    let serve = Serve::new(NAME, service.clone(), NodeId::from_static("n1"));
    let mut server = bus.serve(&serve).await.unwrap();
    let asked = message(QoS::AtLeastOnce, "ask").with_id(MessageId::new());
    let to = Target::Service(service);
    let (reply, ()) = tokio::join!(bus.request(&to, &asked, 1, Some(SECOND * 5)), async {
        let completion = catga_core::Completion::new().with_response(Reply::ok("yes".into()));
        let delivery = next(&mut *server).await;
        delivery
            .settle(Settlement::Complete(completion))
            .await
            .unwrap();
    });
    assert_eq!(reply.unwrap().result.unwrap(), "yes");
    server.close().await.unwrap();
    let nobody = bus.request(&to, &asked, 1, Some(SECOND)).await;
    assert_eq!(nobody.unwrap_err().kind(), ErrorKind::NoResponders);
    // The inbox.
    let key = InboxKey::new(NAME, NAME, MessageId::new());
    let ClaimOutcome::Granted(mut claim) = inbox.claim(&key, Owner::new(), SOON, 0).await.unwrap()
    else {
        panic!("not granted");
    };
    inbox.renew(&mut claim, SOON).await.unwrap();
    inbox.release(&claim, ClaimEnd::NotBegun).await.unwrap();
    for kind in KINDS {
        exercise_nodes(&space, kind).await;
    }
    timeout(SOON, bus.close()).await.unwrap().unwrap();
}

/// Everything that the registry of nodes does.
async fn exercise_nodes(space: &Space, kind: &str) {
    let backend = nodes::connect(space, kind, SECOND).await;
    let registry = backend.registry.unwrap();
    let (mut one, silent) = (nodes::node("one"), nodes::node("silent"));
    registry.register(&one).await.unwrap();
    registry.register(&silent).await.unwrap();
    let mut watch = registry.watch().await.unwrap();
    let mut seen = nodes::Seen::new();
    nodes::follow(&mut *watch, &mut seen, &["one", "silent"]).await;
    one.load = catga_core::Load::percent(50);
    registry.heartbeat(&one).await.unwrap();
    assert_eq!(
        nodes::event(&mut *watch).await,
        nodes::told("updated", "one")
    );
    assert_eq!(registry.nodes().await.unwrap().len(), 2);
    registry.unregister(&one).await.unwrap();
    assert_eq!(nodes::event(&mut *watch).await, nodes::told("left", "one"));
    assert_eq!(
        nodes::event(&mut *watch).await,
        nodes::told("left", "silent")
    );
    timeout(SOON, backend.transport.close())
        .await
        .unwrap()
        .unwrap();
}

/// The commands that the README lists for a kind of registry.
fn commands_of_nodes(kind: &str) -> Vec<&'static str> {
    let readme = include_str!("../../README.md");
    let row = format!("| `{}` | `", kind.trim_start_matches('?'));
    let line = readme.lines().find_map(|line| line.strip_prefix(&row));
    let (commands, _) = line.unwrap().split_once('`').unwrap();
    commands
        .split(' ')
        .map(|command| command.strip_prefix('+').unwrap())
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_rights_that_each_registry_of_nodes_needs_are_enough_and_none_is_too_much() {
    let server = RedisServer::start().unwrap();
    for (index, kind) in KINDS.into_iter().enumerate() {
        let space = |namespace: &str| Space {
            url: format!("redis://{namespace}:pw@{}", server.address()),
            namespace: Name::new(namespace).unwrap(),
        };
        let commands = commands_of_nodes(kind);
        let grant = |namespace: &str, commands: &[&str]| {
            let granted = commands.join(" +");
            let (keys, channels) = (
                format!("{{{namespace}::nodes}}*"),
                format!("{{{namespace}:*"),
            );
            let line =
                format!("ACL SETUSER {namespace} on >pw ~{keys} &{channels} -@all +{granted}");
            server.ask(&line).unwrap();
        };
        let all = format!("all{index}");
        grant(&all, &commands);
        exercise_nodes(&space(&all), kind).await;
        let mut tried = Vec::new();
        for index in 0..commands.len() {
            let namespace = format!("{all}w{index}");
            let mut fewer = commands.clone();
            let without = fewer.remove(index);
            grant(&namespace, &fewer);
            let space = space(&namespace);
            let exercise = tokio::spawn(async move { exercise_nodes(&space, kind).await });
            tried.push((without, exercise));
        }
        let mut harmless = Vec::new();
        for (without, tried) in tried {
            if tried.await.is_ok() {
                harmless.push(without);
            }
        }
        assert_eq!(harmless, ["eval"], "{kind}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_rights_in_the_readme_are_enough_and_none_is_too_much() {
    let server = RedisServer::start().unwrap();
    let url = |namespace: &str| format!("redis://{namespace}:pw@{}", server.address());
    let commands = commands();
    grant(&server, "all", &commands);
    exercise(url("all"), Name::from_static("all")).await;
    // What belongs to another namespace is not ours: neither channels nor keys.
    let options = ConnectOptions::new(Name::from_static("other"));
    let all = url("all").parse().unwrap();
    let foreign = async || catga_redis::DRIVER.connect(&all, &options).await;
    let error = foreign().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Permission, "{error:?}");
    server.ask("ACL SETUSER all &*").unwrap();
    let bus = foreign().await.unwrap().transport;
    let mut stored = message(QoS::AtLeastOnce, "a");
    let error = bus.publish(&mut stored, SECOND).await.unwrap_err();
    assert_eq!(
        (error.kind(), error.may_be_stored()),
        (ErrorKind::Permission, false)
    );

    let mut harmless = Vec::new();
    for some in (0..commands.len()).collect::<Vec<_>>().chunks(12) {
        let mut tried = Vec::new();
        for index in some {
            let namespace = format!("w{index}");
            let mut fewer = commands.clone();
            let without = fewer.remove(*index);
            grant(&server, &namespace, &fewer);
            let name = Name::new(&namespace).unwrap();
            tried.push((without, tokio::spawn(exercise(url(&namespace), name))));
        }
        for (without, tried) in tried {
            if tried.await.is_ok() {
                harmless.push(without);
            }
        }
    }
    assert_eq!(harmless, WITHOUT_HARM);
}
