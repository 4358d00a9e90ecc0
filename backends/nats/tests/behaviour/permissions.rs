use std::time::Duration;

use catga_core::{
    Backend, Completion, ConnectOptions, DeadLetterFilter, Delivery, Driver, Error, ErrorKind,
    InboxKey, MessageId, Name, NodeId, Owner, QoS, Reason, ReasonKind, Reply, Serve, Settlement,
    Subscription, Target,
};
use catga_nats::DRIVER;
use catga_testkit::server::{NatsOptions, NatsServer, Server};

use crate::{NAME, SOON, in_group, message, on_node};

/// The list of the README, entry by entry.
fn listed() -> Vec<(&'static str, &'static str)> {
    let readme = include_str!("../../README.md");
    let (_, list) = readme.split_once("```permissions\n").unwrap();
    let (list, _) = list.split_once("```").unwrap();
    let entries = list.lines().map(|line| {
        let (what, rest) = line.split_once(" = \"").unwrap();
        (what, rest.split_once('"').unwrap().0)
    });
    entries.collect()
}

fn server(entries: &[(&str, &str)]) -> NatsServer {
    let of = |what| {
        let subjects = entries.iter().filter(|entry| entry.0 == what);
        let subjects: Vec<_> = subjects.map(|entry| entry.1).collect();
        // A list without entries would allow everything.
        format!(
            "{:?}",
            if subjects.is_empty() {
                vec!["none"]
            } else {
                subjects
            }
        )
    };
    let lines = format!(
        "authorization {{ users: [ {{ user: admin, password: admin }}, {{ user: app, password: app, permissions: {{ publish: {}, subscribe: {} }} }} ] }}",
        of("publish"),
        of("subscribe")
    );
    NatsServer::with(&NatsOptions::default().config(&lines)).unwrap()
}

async fn connect(server: &NatsServer) -> Result<Backend, Error> {
    let url = format!("nats://app:app@{}?call_timeout=1s", server.address());
    let options = ConnectOptions::new(Name::from_static("catga"));
    DRIVER.connect(&url.parse().unwrap(), &options).await
}

async fn next(subscription: &mut dyn Subscription) -> Result<Delivery, Error> {
    let mut into = Vec::new();
    let silent = || Error::new(ErrorKind::Timeout, "test", "nothing came");
    let received = tokio::time::timeout(Duration::from_secs(5), subscription.recv(1, &mut into));
    received.await.map_err(|_| silent())??;
    into.pop().ok_or_else(silent)
}

async fn bury(delivery: Delivery) -> Result<(), Error> {
    let reason = Reason::new(ReasonKind::Terminal, "no");
    delivery
        .settle(Settlement::DeadLetter {
            reason,
            claim: None,
        })
        .await
}

/// All that the backend does, once.
async fn everything(server: &NatsServer) -> Result<(), Error> {
    let backend = connect(server).await?;
    let (bus, letters) = (backend.transport, backend.dead_letters.unwrap());
    let limit = Duration::from_secs(2);

    let mut events = bus.subscribe(&in_group(QoS::AtMostOnce, "g")).await?;
    bus.publish(&mut message(QoS::AtMostOnce, "a"), limit)
        .await?;
    let event = next(&mut *events).await?;
    assert!(!event.is_acknowledged());

    let mut group = bus.subscribe(&in_group(QoS::AtLeastOnce, "g")).await?;
    bus.publish(&mut message(QoS::AtLeastOnce, "a"), limit)
        .await?;
    bury(next(&mut *group).await?).await?;
    let all = DeadLetterFilter::all();
    let page = letters.list(&all, None, 10).await?;
    letters.redrive(&page.letters[0].id).await?;
    bury(next(&mut *group).await?).await?;
    assert_eq!(letters.purge(&all).await?, 1);

    let inbox = backend.inbox.unwrap();
    let key = InboxKey::new(NAME, NAME, MessageId::new());
    for _ in 0..2 {
        inbox.claim(&key, Owner::new(), SOON, 0).await?;
    }

    let serve = Serve::new(NAME, NAME, NodeId::from_static("n"));
    let mut requests = bus.serve(&serve).await?;
    for to in [
        Target::Service(NAME),
        Target::Node(NodeId::from_static("n")),
    ] {
        let asked = message(QoS::AtLeastOnce, "a").with_id(MessageId::new());
        let answer = async {
            let response = Completion::new().with_response(Reply::ok("re".into()));
            next(&mut *requests)
                .await?
                .settle(Settlement::Complete(response))
                .await
        };
        let (asked, answered) = tokio::join!(bus.request(&to, &asked, 1, Some(limit)), answer);
        asked?;
        answered?;
    }

    drop(bus.subscribe(&on_node(QoS::AtLeastOnce, "gone")).await?);
    let stays = on_node(QoS::AtLeastOnce, "stays").with_absence(Duration::from_millis(400));
    let _stays = bus.subscribe(&stays).await?;
    let admin = async_nats::ConnectOptions::with_user_and_password("admin".into(), "admin".into());
    let admin = admin.connect(server.url());
    let jetstream = async_nats::jetstream::new(admin.await.unwrap());
    let stream = jetstream.get_stream("catga~orders=created").await.unwrap();
    let by = tokio::time::Instant::now() + Duration::from_secs(3);
    while stream.consumer_info("each~gone").await.is_ok() {
        if tokio::time::Instant::now() > by {
            return Err(Error::new(
                ErrorKind::Timeout,
                "test",
                "it is not forgotten",
            ));
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_listed_permissions_are_enough() {
    let server = server(&listed());
    everything(&server).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_of_the_listed_permissions_is_needed() {
    let entries = listed();
    assert!(entries.len() > 15);
    let tries = (0..entries.len()).map(|without| {
        let mut entries = entries.clone();
        let entry = entries.remove(without);
        async move {
            let server = server(&entries);
            let done = everything(&server).await;
            assert!(done.is_err(), "{entry:?} is not needed");
        }
    });
    futures_util::future::join_all(tries).await;
}
