//! What a user needs for each of the means, as the README lists it.

use catga_core::ErrorKind;
use catga_testkit::server::{NatsOptions, NatsServer, Server};
use tokio::time::Instant;

use super::{Means, Seat, ids, node, seat_with, told};
use crate::{SECOND, SOON, Space};

/// The entries of a list in the README.
fn listed(name: &str) -> Vec<(&'static str, &'static str)> {
    let readme = include_str!("../../../README.md");
    let (_, list) = readme
        .split_once(&format!("```{name}\n"))
        .expect("it is there");
    let (list, _) = list.split_once("```").expect("it ends");
    let entry = |line: &'static str| {
        let (what, rest) = line.split_once(" = \"")?;
        Some((what, rest.split_once('"')?.0))
    };
    list.lines().filter_map(entry).collect()
}

/// What the registry needs of the list for everything.
fn of_kv() -> Vec<(&'static str, &'static str)> {
    let mut all = listed("permissions");
    all.retain(|(what, subject)| {
        *what == "subscribe" && subject.starts_with("_INBOX")
            || subject.starts_with("catga.nodes.")
            || *what == "publish"
                && [
                    "_INBOX.>",
                    "$JS.API.STREAM.INFO.*",
                    "$JS.API.STREAM.CREATE.*",
                ]
                .contains(subject)
            || subject.contains("catga_nodes")
    });
    all
}

fn of_pubsub() -> Vec<(&'static str, &'static str)> {
    let mut all = listed("permissions-pubsub");
    all.extend([("publish", "_INBOX.>"), ("subscribe", "_INBOX.>")]);
    all
}

/// Whether a registry does all it does for a user with these rights.
async fn works(means: Means, rights: &[(&str, &str)]) -> Result<(), String> {
    let of = |wanted: &str| {
        let mut list: Vec<_> = rights.iter().filter(|(what, _)| *what == wanted).collect();
        list.sort();
        let list: Vec<_> = list.iter().map(|(_, subject)| *subject).collect();
        // A list without entries would allow everything.
        if list.is_empty() { vec!["none"] } else { list }
    };
    let lines = format!(
        "authorization {{ users: [ {{ user: app, password: app, permissions: {{ publish: {:?}, subscribe: {:?} }} }} ] }}",
        of("publish"),
        of("subscribe")
    );
    let server = NatsServer::with(&NatsOptions::default().config(&lines)).unwrap();
    let mut space = Space::at(&format!("nats://app:app@{}", server.address()));
    space.namespace = catga_core::Name::from_static("catga");
    let options = format!("{}&call_timeout=1s", means.option());
    let mut seats = Vec::new();
    for _ in 0..2 {
        let backend = space
            .try_connect(&options)
            .await
            .map_err(|e| e.to_string())?;
        let registry = backend.registry.clone().unwrap();
        seats.push(Seat { backend, registry });
    }
    let a = node("a");
    let all = async {
        seats[0].register(&a).await?;
        seats[0].heartbeat(&a).await?;
        let mut watch = seats[1].watch().await?;
        // Another of its name finds it.
        match seats[1].register(&node("a")).await {
            Err(error) if error.kind() == ErrorKind::DuplicateNode => {}
            other => return other.map(|()| false),
        }
        let joined = told(&mut *watch).await == "+a";
        seats[0].unregister(&a).await?;
        let left = told(&mut *watch).await == "-a";
        Ok::<_, catga_core::Error>(joined && left && ids(&*seats[1]).await.is_empty())
    };
    match all.await {
        Ok(true) => Ok(()),
        Ok(false) => Err("something is not seen".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

async fn just_enough(means: Means, rights: Vec<(&'static str, &'static str)>) {
    assert!(rights.len() > 3, "{rights:?}");
    works(means, &rights).await.unwrap();
    for without in 0..rights.len() {
        let mut fewer = rights.clone();
        let entry = fewer.remove(without);
        let refused = works(means, &fewer).await;
        assert!(refused.is_err(), "{entry:?} is not needed");
    }
}

#[tokio::test]
async fn the_list_is_just_enough_by_kv() {
    just_enough(Means::Kv, of_kv()).await;
}

#[tokio::test]
async fn the_list_is_just_enough_by_pubsub() {
    just_enough(Means::PubSub, of_pubsub()).await;
}

#[tokio::test]
async fn who_may_not_follow_the_bucket_is_told_so_at_once() {
    let rights = "publish: { allow: [\">\"], deny: [\"$JS.API.CONSUMER.CREATE.>\"] }";
    let lines = format!(
        "authorization {{ users: [ {{ user: app, password: app, permissions: {{ {rights} }} }} ] }}"
    );
    let server = NatsServer::with(&NatsOptions::default().config(&lines)).unwrap();
    let space = Space::at(&format!("nats://app:app@{}", server.address()));
    let here = seat_with(&space, Means::Kv, "", SOON).await;
    let began = Instant::now();
    let calls = [
        here.nodes().await.map(drop),
        here.watch().await.map(drop),
        here.register(&node("a")).await,
    ];
    for call in calls {
        let error = call.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Permission, "{error}");
        assert!(error.message().contains("CONSUMER.CREATE"), "{error}");
    }
    assert!(began.elapsed() < SECOND * 2, "{:?}", began.elapsed());
}
