use std::io::Write as _;

use catga_core::{ConnectionState, Driver as _, ErrorKind, QoS, Retry};
use catga_testkit::server::{NatsOptions, NatsServer, Server as _};

use crate::{SECOND, Space, in_group, message, publish, until};

#[tokio::test]
async fn one_of_several_hosts_is_enough() {
    let shared = crate::shared().strip_prefix("nats://").unwrap();
    let backend = Space::at(&format!("nats://127.0.0.1:1,{shared}"))
        .connect()
        .await;
    assert_eq!(backend.transport.state(), ConnectionState::Connected);
}

#[tokio::test]
async fn who_we_are_is_told_from_the_url() {
    let options =
        NatsOptions::default().config("authorization { user: app, password: \"s3cret @:\" }");
    let server = NatsServer::with(&options).unwrap();
    let address = server.address();
    let right = format!("nats://app:s3cret%20%40%3A@{address}");
    let backend = Space::at(&right).connect().await;
    publish(&*backend.transport, QoS::AtMostOnce, "a").await;

    let mut file = tempfile();
    file.write_all(b"s3cret @:\n").unwrap();
    let path = file.path().display();
    let space = Space::at(&format!("nats://app@{address}?password_file={path}"));
    space.connect().await;

    let wrong = Space::at(&format!("nats://app:sentinel@{address}"));
    let error = wrong.try_connect("").await.unwrap_err();
    assert_eq!(
        (error.kind(), error.retry()),
        (ErrorKind::Permission, Retry::Never)
    );
    assert!(
        !format!("{error:?} {error}").contains("sentinel"),
        "{error:?}"
    );
    let missing = Space::at(&format!("nats://app@{address}?password_file=/nowhere"));
    assert_eq!(
        missing.try_connect("").await.unwrap_err().kind(),
        ErrorKind::Config
    );
}

fn tempfile() -> tempfile::NamedTempFile {
    tempfile::NamedTempFile::new().unwrap()
}

#[tokio::test]
async fn a_token_is_told_from_the_url() {
    let options = NatsOptions::default().config("authorization { token: t0ken }");
    let server = NatsServer::with(&options).unwrap();
    let address = server.address();
    for url in [
        format!("nats://t0ken@{address}"),
        format!("nats://{address}?token=t0ken"),
    ] {
        Space::at(&url).connect().await;
    }
    let error = Space::at(&server.url()).try_connect("").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Permission);
}

#[tokio::test]
async fn tls_that_is_asked_for_never_falls_back() {
    let space = Space::new();
    let error = space.try_connect("?tls=true").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Connect, "{error:?}");
}

#[tokio::test]
async fn what_is_closed_stays_closed() {
    let space = Space::new();
    let bus = space.transport().await;
    let mut subscription = bus
        .subscribe(&in_group(QoS::AtMostOnce, "g"))
        .await
        .unwrap();
    bus.close().await.unwrap();
    bus.close().await.unwrap();
    assert_eq!(bus.state(), ConnectionState::Closed);
    let mut into = Vec::new();
    let errors = [
        bus.publish(&mut message(QoS::AtMostOnce, "a"), SECOND)
            .await
            .unwrap_err(),
        bus.subscribe(&in_group(QoS::AtMostOnce, "g"))
            .await
            .unwrap_err(),
        subscription.recv(1, &mut into).await.unwrap_err(),
        bus.flush().await.unwrap_err(),
    ];
    for error in errors {
        assert_eq!(error.kind(), ErrorKind::Closed, "{error:?}");
    }
}

#[tokio::test]
async fn a_dropped_connection_leaves_nothing_at_the_server() {
    let server = NatsServer::start().unwrap();
    let connections = || {
        let varz = server.get("/varz").unwrap();
        let (_, rest) = varz.split_once("\"connections\":").unwrap();
        rest.trim_start().split(',').next().unwrap().to_owned()
    };
    let space = Space::at(&server.url());
    let bus = space.transport().await;
    let subscription = bus
        .subscribe(&in_group(QoS::AtMostOnce, "g"))
        .await
        .unwrap();
    assert_eq!(connections(), "1");
    drop((bus, subscription));
    until("it is gone", || async { connections() == "0" }).await;
}

#[tokio::test]
async fn unknown_options_are_listed_by_the_driver() {
    assert!(catga_nats::DRIVER.options().is_sorted());
    let error = Space::new()
        .try_connect("?replicas=many")
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config);
}
