//! What a node says of itself is only said: others keep it as it is, and trust nothing of it: rows 80 and 93.

use std::io::ErrorKind as IoErrorKind;
use std::net::TcpListener;

use catga::prelude::{Result, handlers};
use catga::{ErrorKind, Name};
use catga_core::{Load, NodeInfo};

use crate::harness::{Bus, SOON, scenarios, wait_for_nodes};
use crate::journal::Journal;
use crate::messages::{Ask, on_ask};
use crate::peers::{Beating, Connection, HEARTBEAT, TIMEOUT, peer, until_seen};

scenarios! { Backend "odd_nodes":
    Paused they_disturb_nobody [80],
    Paused endpoints_are_never_dialled [93],
}

/// What a node may say of itself that nobody expects.
fn odd() -> Vec<NodeInfo> {
    let with_endpoint = |number: usize, endpoint: &str| {
        peer(&format!("odd-{number}")).with_endpoint(Some(endpoint.to_owned()))
    };
    let endpoints = [
        "",
        " ",
        "not a url",
        "http://",
        "file:///etc/passwd",
        "http://user:pw@[::1]:99999/\r\nHost: x",
        "javascript:alert(1)",
        "\u{0}\u{202e}",
        "*.>",
        "{}",
    ];
    let mut odd: Vec<_> = endpoints
        .iter()
        .enumerate()
        .map(|(at, endpoint)| with_endpoint(at, endpoint))
        .collect();
    let mut with_metadata = |key: String, value: String| {
        let mut node = peer(&format!("odd-{}", odd.len()));
        node.metadata.insert(key, value);
        odd.push(node);
    };
    with_metadata(String::new(), String::new());
    with_metadata("\u{0}\r\n\"\\{}".to_owned(), "]]>\u{fffd}'--".to_owned());
    with_metadata("x".repeat(10_000), "y".to_owned());
    with_metadata("huge".to_owned(), "y".repeat(4 << 20));
    let names = (0..5_000).map(|number| Name::new(format!("request-{number}")).expect("a name"));
    odd.push(peer("odd-names").with_requests(names.collect()));
    odd.push(peer("odd-twice").with_requests(vec![Name::from_static("Ask"); 3]));
    odd
}

/// Row 80: a node whose entry is odd, or too large, is listed as it is or refused, and disturbs nobody.
async fn they_disturb_nobody(bus: Bus) -> Result<()> {
    let (there, watcher) = (
        Connection::patient(&bus).await?,
        Connection::patient(&bus).await?,
    );
    let mut eyes = watcher.eyes().await?;
    let app = bus.node("app").state(Journal::default().plain());
    let app = app.handlers(handlers![on_ask]).start().await?;
    let mut good = peer("good");
    there.registry.register(&good).await?;
    let (mut accepted, mut refused) = (0, 0);
    for (number, node) in odd().into_iter().enumerate() {
        match there.registry.register(&node).await {
            Ok(()) => {
                accepted += 1;
                let listed = watcher.listed().await?;
                let seen = listed.get(&node.id).expect("what was accepted is listed");
                assert_eq!(
                    (&seen.endpoint, &seen.metadata, &seen.requests),
                    (&node.endpoint, &node.metadata, &node.requests)
                );
                eyes.until("it is seen", SOON, |view| view.contains_key(&node.id))
                    .await;
            }
            Err(error) => {
                refused += 1;
                let kinds = [
                    ErrorKind::PayloadTooLarge,
                    ErrorKind::LimitReached,
                    ErrorKind::Config,
                    ErrorKind::Encode,
                ];
                assert!(
                    kinds.contains(&error.kind()),
                    "{} is refused by {error:?}",
                    node.id
                );
                assert!(
                    !watcher.listed().await?.contains_key(&node.id),
                    "it is listed all the same"
                );
            }
        }
        // Everybody else is seen, changes and answers as before.
        good.load = Load::percent(if number % 2 == 0 { 50 } else { 0 });
        there.registry.heartbeat(&good).await?;
        let load = good.load;
        eyes.until("the good one changes", SOON, |view| {
            view.get("good").is_some_and(|seen| seen.load == load)
        })
        .await;
        assert_eq!(app.send_to("app", Ask { id: 1 }).await?.node, "app");
    }
    assert!(
        accepted >= 10,
        "{accepted} were accepted, {refused} refused"
    );
    let late = peer("late");
    there.registry.register(&late).await?;
    until_seen(&app, &late, true).await;
    until_seen(&app, &good, true).await;
    Ok(())
}

/// Row 93: where a node says that people reach it is for people: nobody of us connects to it, whatever it is.
async fn endpoints_are_never_dialled(bus: Bus) -> Result<()> {
    let trap = TcpListener::bind("127.0.0.1:0")?;
    trap.set_nonblocking(true)?;
    let at = trap.local_addr()?;
    let connection = Connection::open(&bus).await?;
    let journal = Journal::default();
    let mut apps = Vec::new();
    for id in ["a", "b"] {
        let app = bus
            .node(id)
            .heartbeat(HEARTBEAT, TIMEOUT)
            .endpoint(format!("http://{at}/{id}"));
        let app = app.state(journal.plain()).handlers(handlers![on_ask]);
        apps.push(app.start().await?);
    }
    let endpoints = [
        format!("http://{at}"),
        format!("https://user:secret@{at}/?x=http://{at}"),
        format!("tcp://{at}"),
        format!("nats://{at}"),
        format!("redis://{at}/0"),
        at.to_string(),
        format!("file://{at}/etc/passwd"),
        "http://169.254.169.254/latest/meta-data".to_owned(),
    ];
    let mut beating = Vec::new();
    for (number, endpoint) in endpoints.iter().enumerate() {
        let node = peer(&format!("node-{number}")).with_requests(vec![Name::from_static("Ask")]);
        let node = node.with_endpoint(Some(endpoint.clone()));
        beating.push(Beating::start(&connection.registry, node).await?);
    }
    let seen = apps.len() + endpoints.len();
    wait_for_nodes(&apps[0], seen).await;
    let told: Vec<_> = apps[0]
        .nodes()
        .into_iter()
        .filter_map(|node| node.endpoint)
        .collect();
    assert!(
        endpoints.iter().all(|endpoint| told.contains(endpoint)),
        "they are not as they were given: {told:?}"
    );
    for id in 0..30 {
        // Some of these go to who does not answer.
        drop(apps[0].send(Ask { id }).await);
    }
    drop(apps[0].send_to("node-0", Ask { id: 0 }).await);
    drop(apps[0].broadcast(Ask { id: 0 }).await);
    drop(apps[0].health());
    drop(beating);
    // Until they are given up: nobody asks there whether they live, either.
    wait_for_nodes(&apps[1], apps.len()).await;
    match trap.accept() {
        Err(error) if error.kind() == IoErrorKind::WouldBlock => Ok(()),
        dialled => panic!("somebody connected to an endpoint: {dialled:?}"),
    }
}
