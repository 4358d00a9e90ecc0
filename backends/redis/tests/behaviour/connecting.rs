use std::io::Write as _;

use catga_core::{ConnectionState, Driver as _, ErrorKind, QoS, Retry};
use catga_testkit::server::{RedisOptions, RedisServer, Server as _};

use crate::{
    SECOND, SOON, Space, in_group, message, next, nothing, on_node, publish, raw, text, until,
};

/// How many clients a server has, without the one that asks.
pub(crate) fn clients(server: &RedisServer) -> usize {
    let list = server.ask("CLIENT LIST").unwrap();
    list.lines().filter(|line| line.contains("id=")).count() - 1
}

#[tokio::test]
async fn who_we_are_is_told_from_the_url() {
    let server = RedisServer::with(&RedisOptions::default().password("s3cret@:")).unwrap();
    server.ask("ACL SETUSER app on >p@ss ~* &* +@all").unwrap();
    let address = server.address();
    for right in [
        format!("redis://:s3cret%40%3A@{address}"),
        format!("redis://app:p%40ss@{address}/3"),
    ] {
        let backend = Space::at(&right).connect().await;
        publish(&*backend.transport, QoS::AtLeastOnce, "a").await;
    }
    let in_third = server.ask("INFO keyspace").unwrap();
    assert!(in_third.contains("db3:"), "{in_third}");

    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(b"p@ss\n").unwrap();
    let path = file.path().display();
    let space = Space::at(&format!("redis://app@{address}?password_file={path}"));
    space.connect().await;

    for wrong in [
        format!("redis://app:sentinel@{address}"),
        format!("redis://:sentinel@{address}"),
        format!("redis://{address}"),
    ] {
        let error = Space::at(&wrong).try_connect("").await.unwrap_err();
        assert_eq!(
            (error.kind(), error.retry()),
            (ErrorKind::Permission, Retry::Never),
            "{error:?}"
        );
        assert!(
            !format!("{error:?} {error}").contains("sentinel"),
            "{error:?}"
        );
    }
    let missing = Space::at(&format!("redis://app@{address}?password_file=/nowhere"));
    assert_eq!(
        missing.try_connect("").await.unwrap_err().kind(),
        ErrorKind::Config
    );
}

#[tokio::test]
async fn weak_settings_are_refused_where_durability_is_asked_for() {
    let error = Space::new().try_connect("?durable=true").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config);
    assert!(error.message().contains("appendonly no"), "{error}");
    let synced = |how: &str| {
        let options = RedisOptions::default().append_only();
        RedisServer::with(&options.setting("appendfsync", how)).unwrap()
    };
    let not_synced = Space::at(&synced("no").url())
        .try_connect("?durable=true")
        .await;
    assert!(not_synced.unwrap_err().message().contains("appendfsync no"));
    let kept = synced("everysec");
    Space::at(&kept.url())
        .try_connect("?durable=true")
        .await
        .unwrap();
    kept.ask("CONFIG SET maxmemory 100mb").unwrap();
    kept.ask("CONFIG SET maxmemory-policy allkeys-lru").unwrap();
    let error = Space::at(&kept.url()).try_connect("?durable=true").await;
    assert!(error.unwrap_err().message().contains("evicts"));
    // Who may not look does not know.
    kept.ask("CONFIG SET maxmemory-policy noeviction").unwrap();
    kept.ask("ACL SETUSER app on >pw ~* &* +@all -config|get")
        .unwrap();
    let blind = kept.url().replace("redis://", "redis://app:pw@");
    let error = Space::at(&blind).try_connect("?durable=true").await;
    let error = error.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config);
    assert!(error.message().contains("may not be read"), "{error}");
    Space::at(&blind).try_connect("").await.unwrap();
}

#[tokio::test]
async fn a_lost_connection_is_made_again() {
    let mut server = RedisServer::start().unwrap();
    let space = Space::at(&server.url());
    let (here, there) = (space.transport().await, space.transport().await);
    let mut group = here
        .subscribe(&in_group(QoS::AtMostOnce, "g"))
        .await
        .unwrap();
    let mut node = here
        .subscribe(&on_node(QoS::AtMostOnce, "n"))
        .await
        .unwrap();
    publish(&*there, QoS::AtMostOnce, "before").await;
    for subscription in [&mut group, &mut node] {
        assert_eq!(text(&next(&mut **subscription).await), "before");
    }
    server.kill().unwrap();
    until("both know", || async {
        [&here, &there]
            .iter()
            .all(|bus| bus.state() == ConnectionState::Reconnecting)
    })
    .await;
    server.restart().unwrap();
    until("both are back", || async {
        [&here, &there]
            .iter()
            .all(|bus| bus.state() == ConnectionState::Connected)
    })
    .await;
    for subscription in [&mut group, &mut node] {
        let by = tokio::time::Instant::now() + SOON;
        let mut into = Vec::new();
        while into.is_empty() {
            assert!(tokio::time::Instant::now() < by, "it is heard again");
            publish(&*there, QoS::AtMostOnce, "after").await;
            let _ = tokio::time::timeout(SECOND / 10, subscription.recv(1, &mut into)).await;
        }
    }
}

#[tokio::test]
async fn what_is_closed_stays_closed() {
    let space = Space::new();
    let bus = space.transport().await;
    for qos in [QoS::AtMostOnce, QoS::AtLeastOnce] {
        let bus = space.transport().await;
        let mut subscription = bus.subscribe(&in_group(qos, "g")).await.unwrap();
        bus.close().await.unwrap();
        let mut into = Vec::new();
        let error = subscription.recv(1, &mut into).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Closed, "{error:?}");
    }
    bus.close().await.unwrap();
    bus.close().await.unwrap();
    assert_eq!(bus.state(), ConnectionState::Closed);
    let errors = [
        bus.publish(&mut message(QoS::AtMostOnce, "a"), SECOND)
            .await
            .unwrap_err(),
        bus.publish(&mut message(QoS::AtLeastOnce, "a"), SECOND)
            .await
            .unwrap_err(),
        bus.subscribe(&in_group(QoS::AtMostOnce, "g"))
            .await
            .unwrap_err(),
        bus.flush().await.unwrap_err(),
    ];
    for error in errors {
        assert_eq!(error.kind(), ErrorKind::Closed, "{error:?}");
    }
}

#[tokio::test]
async fn there_are_as_many_connections_as_are_told_and_none_is_left() {
    let server = RedisServer::start().unwrap();
    let space = Space::at(&server.url());
    let bus = space.transport().await;
    assert_eq!(clients(&server), 2, "for commands, and for channels");
    let mut stored = bus
        .subscribe(&in_group(QoS::AtLeastOnce, "g"))
        .await
        .unwrap();
    // It is made for who receives.
    nothing(&mut *stored).await;
    let more = bus
        .subscribe(&in_group(QoS::AtMostOnce, "g"))
        .await
        .unwrap();
    until("one for each reader", || async { clients(&server) == 4 }).await;
    let nodes = [
        bus.subscribe(&on_node(QoS::AtMostOnce, "n")).await.unwrap(),
        bus.subscribe(&on_node(QoS::AtMostOnce, "m")).await.unwrap(),
    ];
    assert_eq!(clients(&server), 4, "one for all channels");
    drop(stored);
    until("a reader that leaves", || async { clients(&server) == 3 }).await;
    drop((bus, more, nodes));
    until("all are gone", || async { clients(&server) == 0 }).await;
}

#[tokio::test]
async fn unknown_options_are_listed_by_the_driver() {
    assert!(catga_redis::DRIVER.options().is_sorted());
    let error = Space::new().try_connect("?max_len=many").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config);
}

#[tokio::test]
async fn a_key_of_another_type_is_a_conflict() {
    let space = Space::new();
    let bus = space.transport().await;
    let key = format!("{{{}:orders.created}}", space.namespace);
    raw(crate::shared(), &["SET", &key, "x"]).await;
    let errors = [
        bus.publish(&mut message(QoS::AtLeastOnce, "a"), SOON)
            .await
            .unwrap_err(),
        bus.subscribe(&in_group(QoS::AtLeastOnce, "g"))
            .await
            .unwrap_err(),
    ];
    for error in errors {
        assert_eq!(
            (error.kind(), error.retry()),
            (ErrorKind::Conflict, Retry::Never),
            "{error:?}"
        );
        assert!(!error.may_be_stored());
    }
    raw(crate::shared(), &["DEL", &key]).await;
    publish(&*bus, QoS::AtLeastOnce, "a").await;
}
