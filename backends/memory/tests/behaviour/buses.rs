use catga_core::{
    Capability, ConnectOptions, ConnectionState, Driver, ErrorKind, Name, QoS, Serve, Settlement,
    Target,
};
use catga_memory::{DRIVER, MemoryDriver};
use tokio::runtime::{Builder, Handle, Runtime};

use crate::{
    NAME, NAMESPACE, SECOND, connect, in_group, message, next, nothing, publish, text, transport,
    try_connect,
};

const QOS: QoS = QoS::AtLeastOnce;

#[tokio::test(start_paused = true)]
async fn a_name_is_shared_within_its_namespace() {
    let here = transport("memory://shared").await;
    let there = transport("memory://shared").await;
    let elsewhere = ConnectOptions::new(Name::from_static("other"));
    let url = "memory://shared".parse().unwrap();
    let apart = DRIVER.connect(&url, &elsewhere).await.unwrap().transport;
    for qos in [QoS::AtMostOnce, QOS] {
        let mut subscription = here.subscribe(&in_group(qos, "g")).await.unwrap();
        publish(&*apart, qos, "from apart").await;
        publish(&*there, qos, "from there").await;
        assert_eq!(text(&next(&mut *subscription).await), "from there");
        nothing(&mut *subscription).await;
    }
}

#[tokio::test(start_paused = true)]
async fn without_a_name_nobody_shares() {
    let here = transport("memory://").await;
    let there = transport("memory://").await;
    let mut subscription = here.subscribe(&in_group(QOS, "g")).await.unwrap();
    publish(&*there, QOS, "a").await;
    nothing(&mut *subscription).await;
}

#[tokio::test]
async fn a_bus_cannot_be_set_in_two_ways() {
    let _present = connect("memory://set?ring=8").await;
    assert!(try_connect("memory://set").await.is_ok());
    let error = try_connect("memory://set?ring=9").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict);
    let error = try_connect("memory://set?ring=0").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config);
}

#[tokio::test]
async fn a_bus_ends_with_its_last_connection() {
    publish(&*transport("memory://last?capacity=5").await, QOS, "a").await;
    // Another setting would conflict if the bus were there.
    let bus = transport("memory://last?capacity=6").await;
    let subscription = bus.subscribe(&in_group(QOS, "g")).await.unwrap();
    assert_eq!(subscription.stats().waiting, Some(0));
}

fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().build().unwrap()
}

#[test]
fn a_bus_whose_runtime_is_gone_is_replaced() {
    let first = runtime();
    let old = first.block_on(transport("memory://phoenix"));
    let subscribe = in_group(QoS::AtMostOnce, "g");
    let mut ring = first.block_on(old.subscribe(&subscribe)).unwrap();
    let mut log = first.block_on(old.subscribe(&in_group(QOS, "g"))).unwrap();
    drop(first);
    assert_eq!(old.state(), ConnectionState::Closed);
    runtime().block_on(async {
        for subscription in [&mut ring, &mut log] {
            let error = subscription.recv(1, &mut Vec::new()).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Closed);
        }
        for qos in [QoS::AtMostOnce, QOS] {
            let error = old
                .publish(&mut message(qos, "a"), SECOND)
                .await
                .unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Closed);
        }
        let new = transport("memory://phoenix").await;
        publish(&*new, QOS, "a").await;
        let mut subscription = new.subscribe(&in_group(QOS, "g")).await.unwrap();
        assert_eq!(text(&next(&mut *subscription).await), "a");
    });
}

#[tokio::test]
async fn a_closed_connection_refuses_and_leaves_others_alone() {
    let closed = connect("memory://closing").await;
    let open = transport("memory://closing").await;
    let mut parked = closed
        .transport
        .subscribe(&in_group(QOS, "g"))
        .await
        .unwrap();
    let mut quick = closed
        .transport
        .subscribe(&in_group(QoS::AtMostOnce, "g"))
        .await
        .unwrap();
    let waiting = tokio::spawn(async move { parked.recv(1, &mut Vec::new()).await });
    tokio::task::yield_now().await;
    closed.transport.close().await.unwrap();
    closed.transport.close().await.unwrap();
    assert_eq!(closed.transport.state(), ConnectionState::Closed);
    let errors = [
        waiting.await.unwrap().unwrap_err(),
        quick.recv(1, &mut Vec::new()).await.unwrap_err(),
        closed
            .transport
            .publish(&mut message(QOS, "a"), SECOND)
            .await
            .unwrap_err(),
        closed
            .transport
            .subscribe(&in_group(QOS, "g"))
            .await
            .unwrap_err(),
        closed
            .transport
            .request(&Target::Service(NAME), &message(QOS, "a"), 1, Some(SECOND))
            .await
            .unwrap_err(),
        closed.transport.flush().await.unwrap_err(),
    ];
    for error in errors {
        assert_eq!(error.kind(), ErrorKind::Closed, "{error}");
    }
    assert_eq!(open.state(), ConnectionState::Connected);
    publish(&*open, QOS, "a").await;
    let mut subscription = open.subscribe(&in_group(QOS, "g")).await.unwrap();
    assert_eq!(text(&next(&mut *subscription).await), "a");
}

#[tokio::test]
async fn everything_ends_when_dropped() {
    let tasks = || Handle::current().metrics().num_alive_tasks();
    assert_eq!(tasks(), 0);
    let backend = connect("memory://").await;
    let bus = backend.transport.clone();
    let mut log = bus.subscribe(&in_group(QOS, "g")).await.unwrap();
    let ring = bus
        .subscribe(&in_group(QoS::AtMostOnce, "g"))
        .await
        .unwrap();
    let serve = Serve::new(NAME, NAMESPACE, NAME);
    let server = bus.serve(&serve).await.unwrap();
    let watch = backend.registry.as_ref().unwrap().watch().await.unwrap();
    publish(&*bus, QOS, "a").await;
    let delivery = next(&mut *log).await;
    assert_eq!(
        tasks(),
        6,
        "keeper, members, inbox, store, a stream, a desk"
    );
    drop((backend, bus, log, ring, server, watch));
    // A delivery that is out can still be settled; then the last task ends.
    delivery.settle(Settlement::Term).await.unwrap();
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    assert_eq!(tasks(), 0);
}

#[test]
fn the_driver_says_what_it_is() {
    let driver: &dyn Driver = &MemoryDriver;
    assert_eq!(
        (driver.name(), driver.schemes()),
        ("memory", &["memory"][..])
    );
    assert!(driver.options().contains(&"capacity"));
    assert!(driver.capabilities().contains(&Capability::DelayedNak));
    assert!(!driver.capabilities().contains(&Capability::Persistent));
}
