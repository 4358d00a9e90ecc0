//! Names that mean something to a broker, or nearly the same: row 90.

use std::collections::BTreeMap;
use std::time::Duration;

use catga::prelude::{Catga, Headers, Result};
use catga::{Bytes, Envelope, ErrorKind, MessageId, Name, QoS};
use catga_core::{Consumers, Settlement, Subscribe};

use crate::harness::{Bus, SOON, scenarios};

scenarios! { Backend "names":
    Paused hostile_names_are_refused [90],
    Paused names_that_are_alike_stay_apart [90],
    Paused hostile_headers_are_refused_or_kept [90],
}

/// What no name may be.
fn hostile() -> Vec<String> {
    let mut names: Vec<_> = [
        "",
        " ",
        ".",
        "..",
        "a..b",
        ".a",
        "a.",
        "*",
        ">",
        "a.*",
        "a.>",
        "a b",
        "a\tb",
        "a\r\nPUB x 0",
        "a\0b",
        "a:b",
        "{a}",
        "[a]",
        "a/b",
        "a?b",
        "a\\b",
        "$JS.API.>",
        "_INBOX.>",
        "__key*",
        "ä",
        "名",
        "\u{202e}a",
    ]
    .map(str::to_owned)
    .into();
    names.push("n".repeat(300));
    names
}

/// Row 90: message, group, service and node: what a broker could misread is refused before the wire.
async fn hostile_names_are_refused(bus: Bus) -> Result<()> {
    for name in hostile() {
        for refused in [Name::new(&name), Name::token(&name)] {
            let error = refused.expect_err("nobody may have this name");
            assert_eq!(error.kind(), ErrorKind::InvalidName, "{name:?}");
        }
        for node in [
            bus.node(&name),
            bus.node("a").service(&name),
            bus.node("a").namespace(&name),
        ] {
            let error = node.handlers(catga::handlers![]).start().await;
            let error = error.expect_err("nobody may have this name");
            assert_eq!(error.kind(), ErrorKind::Config, "{name:?}: {error}");
        }
    }
    Ok(())
}

/// Row 90: names that differ in a case, a dot or a hyphen are different messages and different groups.
async fn names_that_are_alike_stay_apart(bus: Bus) -> Result<()> {
    let node = bus.observer().await?;
    let names = [
        "a.b", "a_b", "a-b", "A.b", "a.B", "ab", "a.b.c", "a.b-c", "a__b", "a--b",
    ];
    let names = names.map(Name::from_static);
    let mut subscriptions = BTreeMap::new();
    for message in &names {
        for group in &names {
            let group_of = Consumers::Group(group.clone());
            let subscribe = Subscribe::new(message.clone(), QoS::AtLeastOnce, group_of);
            let subscription = node.backend().transport.subscribe(&subscribe).await?;
            subscriptions.insert((message.to_string(), group.to_string()), subscription);
        }
    }
    for message in &names {
        publish(&node, message).await?;
    }
    for ((message, group), subscription) in &mut subscriptions {
        let mut received = Vec::new();
        while received.is_empty() {
            tokio::time::timeout(SOON, subscription.recv(10, &mut received)).await??;
        }
        assert_eq!(received.len(), 1, "`{message}` in `{group}`");
        for delivery in received {
            let bytes = delivery.envelope().payload().as_bytes().cloned();
            assert_eq!(bytes, Some(Bytes::from(message.clone())), "in `{group}`");
            delivery.settle(Settlement::Ack).await?;
        }
    }
    bus.quiet(Duration::from_secs(60)).await;
    let mut more = Vec::new();
    for subscription in subscriptions.values_mut() {
        let recv = subscription.recv(10, &mut more);
        drop(tokio::time::timeout(Duration::from_millis(1), recv).await);
    }
    assert!(more.is_empty(), "something went astray: {more:?}");
    Ok(())
}

async fn publish(node: &Catga, message: &Name) -> Result<()> {
    let payload = Bytes::from(message.to_string());
    let mut envelope =
        Envelope::received(message.clone(), QoS::AtLeastOnce, payload).with_id(MessageId::new());
    node.backend()
        .transport
        .publish(&mut envelope, SOON)
        .await?;
    Ok(())
}

/// Row 90: a header that would break the wire is refused; one that only looks like it arrives as it was.
async fn hostile_headers_are_refused_or_kept(bus: Bus) -> Result<()> {
    let node = bus.observer().await?;
    let group = Consumers::Group(Name::new("readers")?);
    let subscribe = Subscribe::new(Name::new("Odd")?, QoS::AtLeastOnce, group);
    let mut subscription = node.backend().transport.subscribe(&subscribe).await?;
    let mut headers = Headers::new();
    for (key, value) in [
        ("a\r\nb", "x"),
        ("a b", "x"),
        ("a:b", "x"),
        ("", "x"),
        ("a", "x\r\nNats-Msg-Id: y"),
        ("a", "x\0"),
        ("Nats-Msg-Id", "x"),
        ("Catga-Id", "x"),
    ] {
        assert!(headers.insert(key, value).is_err(), "{key:?}: {value:?}");
    }
    for (key, value) in [
        ("note", "ÄÖ 名 {a} [b] * > $JS._INBOX"),
        ("x-$JS.API", "a: b; c=d"),
    ] {
        // What is let in has to come out.
        let _ = headers.insert(key, value);
    }
    assert!(!headers.is_empty());
    let mut envelope = Envelope::received(Name::new("Odd")?, QoS::AtLeastOnce, Bytes::new())
        .with_id(MessageId::new())
        .with_headers(headers.clone());
    node.backend()
        .transport
        .publish(&mut envelope, SOON)
        .await?;
    let mut received = Vec::new();
    tokio::time::timeout(SOON, subscription.recv(1, &mut received)).await??;
    assert_eq!(received.len(), 1);
    for delivery in received {
        for (key, value) in headers.iter() {
            assert_eq!(delivery.envelope().headers().get(key), Some(value));
        }
        delivery.settle(Settlement::Ack).await?;
    }
    Ok(())
}
