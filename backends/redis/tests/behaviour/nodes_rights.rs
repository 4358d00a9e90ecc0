//! The rights that the README lists for each kind of registry: they are enough, and none is too much.

use catga_core::{Load, Name};
use catga_testkit::server::RedisServer;
use catga_testkit::server::Server as _;
use tokio::time::timeout;

use crate::nodes::{KINDS, Seen, connect, event, follow, node, told};
use crate::{SECOND, SOON, Space};

/// Everything that the registry of nodes does.
async fn exercise(space: &Space, kind: &str) {
    // Longer than a busy machine takes to look at both.
    let backend = connect(space, kind, SECOND * 4).await;
    let registry = backend.registry.unwrap();
    let (mut one, silent) = (node("one"), node("silent"));
    registry.register(&one).await.unwrap();
    registry.register(&silent).await.unwrap();
    let mut watch = registry.watch().await.unwrap();
    let mut seen = Seen::new();
    follow(&mut *watch, &mut seen, &["one", "silent"]).await;
    one.load = Load::percent(50);
    registry.heartbeat(&one).await.unwrap();
    assert_eq!(event(&mut *watch).await, told("updated", "one"));
    assert_eq!(registry.nodes().await.unwrap().len(), 2);
    registry.unregister(&one).await.unwrap();
    assert_eq!(event(&mut *watch).await, told("left", "one"));
    assert_eq!(event(&mut *watch).await, told("left", "silent"));
    timeout(SOON, backend.transport.close())
        .await
        .unwrap()
        .unwrap();
}

/// The commands that the README lists for a kind of registry.
fn commands(kind: &str) -> Vec<&'static str> {
    let readme = include_str!("../../README.md");
    let row = format!("| `{}` | `", kind.trim_start_matches('?'));
    let line = readme.lines().find_map(|line| line.strip_prefix(&row));
    let (commands, _) = line.unwrap().split_once('`').unwrap();
    commands
        .split(' ')
        .map(|command| command.strip_prefix('+').unwrap())
        .collect()
}

fn grant(server: &RedisServer, namespace: &str, commands: &[&str]) {
    let granted = commands.join(" +");
    let (keys, channels) = (
        format!("{{{namespace}::nodes}}*"),
        format!("{{{namespace}:*"),
    );
    let line = format!("ACL SETUSER {namespace} on >pw ~{keys} &{channels} -@all +{granted}");
    server.ask(&line).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_listed_for_each_kind_is_enough_and_none_is_too_much() {
    let server = RedisServer::start().unwrap();
    for (index, kind) in KINDS.into_iter().enumerate() {
        let space = |namespace: &str| Space {
            url: format!("redis://{namespace}:pw@{}", server.address()),
            namespace: Name::new(namespace).unwrap(),
        };
        let commands = commands(kind);
        let all = format!("all{index}");
        grant(&server, &all, &commands);
        exercise(&space(&all), kind).await;
        let mut tried = Vec::new();
        for index in 0..commands.len() {
            let namespace = format!("{all}w{index}");
            let mut fewer = commands.clone();
            let without = fewer.remove(index);
            grant(&server, &namespace, &fewer);
            let space = space(&namespace);
            let exercise = tokio::spawn(async move { exercise(&space, kind).await });
            tried.push((without, exercise));
        }
        let mut harmless = Vec::new();
        for (without, tried) in tried {
            if tried.await.is_ok() {
                harmless.push(without);
            }
        }
        // It is for a server that does not know a script yet, and this one does.
        assert_eq!(harmless, ["eval"], "{kind}");
    }
}
