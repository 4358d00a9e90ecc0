//! Proves the contracts of catga-core on real brokers: `cargo run`, from this directory. Writes OUTPUT.txt.

mod nats;
mod nats_stores;
mod probe;
mod redis_driver;
mod redis_stores;
mod scenario;
mod server;
mod shared;

use std::fmt::Write as _;
use std::time::Duration;

use catga_core::{Backend, BackendUrl, ConnectOptions, Driver, Name};
use scenario::World;
use server::Server;

async fn connect(driver: &dyn Driver, port: u16) -> Backend {
    let url: BackendUrl = format!("{}://127.0.0.1:{port}", driver.schemes()[0])
        .parse()
        .unwrap();
    let options = ConnectOptions::new(Name::token("spike").unwrap())
        .with_node_timeout(Duration::from_millis(1200));
    driver.connect(&url, &options).await.unwrap()
}
async fn nats() -> World {
    let server = Server::start("nats-server", |port, dir| {
        ["-a", "127.0.0.1", "-p", port, "-js", "-sd", dir]
            .map(String::from)
            .to_vec()
    });
    let client = async_nats::connect(format!("127.0.0.1:{}", server.port))
        .await
        .unwrap();
    let driver = nats::NatsDriver;
    World {
        a: connect(&driver, server.port).await,
        b: connect(&driver, server.port).await,
        server,
        probe: Box::new(probe::NatsProbe(async_nats::jetstream::new(client))),
    }
}
async fn redis() -> World {
    let server = Server::start("redis-server", |port, dir| {
        [
            "--port",
            port,
            "--bind",
            "127.0.0.1",
            "--dir",
            dir,
            "--save",
            "",
            "--appendonly",
            "yes",
        ]
        .map(String::from)
        .to_vec()
    });
    let client = ::redis::Client::open(format!("redis://127.0.0.1:{}", server.port)).unwrap();
    let driver = redis_driver::RedisDriver;
    World {
        a: connect(&driver, server.port).await,
        b: connect(&driver, server.port).await,
        server,
        probe: Box::new(probe::RedisProbe(
            client.get_connection_manager().await.unwrap(),
        )),
    }
}

#[tokio::main]
async fn main() {
    let mut out = String::new();
    let only = std::env::args().nth(1);
    let mut failed = 0;
    for backend in ["nats", "redis"] {
        if only.as_ref().is_some_and(|o| o != backend) {
            continue;
        }
        let w = if backend == "nats" {
            nats().await
        } else {
            redis().await
        };
        writeln!(
            out,
            "== {} ({}): {:?}",
            w.a.name,
            w.probe.version().await,
            w.a.transport.capabilities()
        )
        .unwrap();
        println!("{}", out.lines().last().unwrap());
        macro_rules! steps { ($($title:literal $step:ident),*) => { $(
            let (word, notes) = match tokio::time::timeout(Duration::from_secs(40), scenario::$step(&w)).await {
                Ok(Ok(notes)) => ("PASS", notes),
                Ok(Err(why)) => { failed += 1; ("FAIL", vec![why]) }
                Err(_) => { failed += 1; ("FAIL", vec!["no end in 40 s".into()]) }
            };
            let text = format!("{word} {}\n{}", $title, notes.iter().map(|n| format!("     {n}\n")).collect::<String>());
            print!("{text}");
            out.push_str(&text);
        )* } }
        steps!("1 publish: ok, rejected, unknown" publish, "2 batch receive, dropped futures" receive, "3 ack" ack, "4 delayed nak" nak,
            "5 complete and ack, lost owner" complete, "6 dead letter, list, redrive, purge" dead_letter, "7 request and reply" request,
            "8 node registry" nodes, "9 lease extension, release, term" leases, "+ edges (observed, not promised)" edges);
    }
    writeln!(out, "{failed} failed").unwrap();
    println!("{failed} failed");
    if only.is_none() {
        std::fs::write("OUTPUT.txt", out).unwrap();
    }
}
