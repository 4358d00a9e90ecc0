//! The starters of real servers, proved with the raw clients. A missing server is a failure here: `./scripts/test`
//! installs what is missing.

#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "versions and roles are for whoever reads the log"
)]

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use async_nats::jetstream;
use catga_testkit::proxy::{Direction, Fault, Gate, Proxy};
use catga_testkit::server::{
    NatsCluster, NatsOptions, NatsServer, RedisCluster, RedisOptions, RedisSentinel, RedisServer,
    Role, Server, nats_server, redis_server,
};
use redis::aio::MultiplexedConnection;
use redis::cluster::ClusterClientBuilder;

type Outcome = Result<(), Box<dyn std::error::Error + Send + Sync>>;

const LIMIT: Duration = Duration::from_secs(20);

async fn in_time<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(LIMIT, future).await.expect("in time")
}

async fn nats(url: &str) -> Result<async_nats::Client, async_nats::ConnectError> {
    in_time(async_nats::connect(url)).await
}

async fn nats_of(urls: &[String]) -> Result<async_nats::Client, async_nats::Error> {
    let addresses = urls.iter().map(|url| url.parse());
    let addresses: Vec<async_nats::ServerAddr> = addresses.collect::<Result<_, _>>()?;
    Ok(in_time(async_nats::connect(addresses)).await?)
}

async fn redis(url: &str) -> redis::RedisResult<MultiplexedConnection> {
    let client = redis::Client::open(url)?;
    in_time(client.get_multiplexed_async_connection()).await
}

async fn get(
    connection: &mut MultiplexedConnection,
    key: &str,
) -> redis::RedisResult<Option<String>> {
    in_time(redis::cmd("GET").arg(key).query_async(connection)).await
}

async fn set(
    connection: &mut MultiplexedConnection,
    key: &str,
    value: &str,
) -> redis::RedisResult<()> {
    in_time(
        redis::cmd("SET")
            .arg(key)
            .arg(value)
            .query_async(connection),
    )
    .await
}

/// Waits until the replica has all that was written.
async fn replicated(connection: &mut MultiplexedConnection) -> redis::RedisResult<()> {
    let replicas: u64 =
        in_time(redis::cmd("WAIT").arg(1).arg(5000).query_async(connection)).await?;
    assert_eq!(replicas, 1);
    Ok(())
}

/// A stream of one subject, with so many copies.
async fn stream(
    client: &async_nats::Client,
    replicas: usize,
) -> Result<jetstream::Context, async_nats::Error> {
    let jetstream = jetstream::new(client.clone());
    let config = jetstream::stream::Config {
        name: "orders".to_owned(),
        subjects: vec!["orders".to_owned()],
        num_replicas: replicas,
        ..jetstream::stream::Config::default()
    };
    in_time(jetstream.get_or_create_stream(config)).await?;
    Ok(jetstream)
}

async fn store(
    jetstream: &jetstream::Context,
    text: &'static str,
) -> Result<u64, async_nats::Error> {
    let ack = in_time(jetstream.publish("orders", text.into())).await?;
    Ok(in_time(ack.into_future()).await?.sequence)
}

#[test]
fn versions_are_printed() {
    let (nats, redis) = (nats_server().unwrap(), redis_server().unwrap());
    println!("nats-server {} ({})", nats.version(), nats.path().display());
    println!(
        "redis-server {} ({})",
        redis.version(),
        redis.path().display()
    );
    for version in [nats.version(), redis.version()] {
        assert!(
            version.starts_with(|c: char| c.is_ascii_digit()),
            "{version}"
        );
        assert!(version.split('.').count() >= 3, "{version}");
    }
}

#[tokio::test]
async fn a_stored_message_survives_a_killed_server() -> Outcome {
    let mut server = NatsServer::start()?;
    let client = nats(&server.url()).await?;
    let jetstream = stream(&client, 1).await?;
    assert_eq!(store(&jetstream, "one").await?, 1);
    drop(client);
    server.kill()?;
    assert!(nats(&server.url()).await.is_err(), "nobody listens");
    server.restart()?;
    let client = nats(&server.url()).await?;
    let jetstream = stream(&client, 1).await?;
    assert_eq!(
        store(&jetstream, "two").await?,
        2,
        "the first is still there"
    );
    server.stop()?;
    server.wipe()?;
    server.restart()?;
    let client = nats(&server.url()).await?;
    let jetstream = stream(&client, 1).await?;
    assert_eq!(store(&jetstream, "three").await?, 1, "its data is gone");
    Ok(())
}

#[tokio::test]
async fn a_paused_server_answers_when_it_goes_on() -> Outcome {
    let mut server = NatsServer::start()?;
    let client = nats(&server.url()).await?;
    server.pause()?;
    let mut flush = tokio::spawn(async move {
        client.publish("x", "y".into()).await?;
        let ping = client.request("nobody", "x".into()).await;
        Ok::<_, async_nats::Error>(ping.is_err())
    });
    assert!(
        tokio::time::timeout(Duration::from_millis(200), &mut flush)
            .await
            .is_err()
    );
    server.resume()?;
    assert!(in_time(flush).await??, "no responders, said by the server");
    server.pause()?;
    server.restart()?;
    nats(&server.url()).await?;
    Ok(())
}

#[tokio::test]
async fn options_reach_the_server() -> Outcome {
    let config = "max_payload: 1024\nauthorization { user: tester, password: secret }";
    let options = NatsOptions::default().without_jetstream().config(config);
    let server = NatsServer::with(&options)?;
    assert!(nats(&server.url()).await.is_err(), "without a password");
    let login =
        async_nats::ConnectOptions::with_user_and_password("tester".into(), "secret".into());
    let client = in_time(login.connect(server.url())).await?;
    assert_eq!(client.server_info().max_payload, 1024);
    let no_jetstream = jetstream::new(client).query_account().await;
    assert!(no_jetstream.is_err());

    let wrong = NatsServer::with(&NatsOptions::default().config("no_such_option: {{"));
    let error = wrong
        .err()
        .map(|error| error.to_string())
        .unwrap_or_default();
    assert!(error.contains("has ended"), "{error}");
    Ok(())
}

#[tokio::test]
async fn clients_do_not_walk_around_a_proxy() -> Outcome {
    let proxy = Proxy::start("127.0.0.1:1".parse()?, 1).await?;
    let server = NatsServer::with(&NatsOptions::default().advertise(proxy.address()))?;
    proxy.forward_to(server.address());
    let client = nats(&format!("nats://{}", proxy.address())).await?;
    let connected = client.server_info().connect_urls;
    assert!(
        !connected.contains(&server.address().to_string()),
        "{connected:?}"
    );
    client.publish("x", vec![0; 1000].into()).await?;
    in_time(client.flush()).await?;
    let passed = async {
        while proxy.passed(Direction::ToServer) < 1000 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    in_time(passed).await;
    proxy.set_both(Fault::BlackHole);
    let request = tokio::time::timeout(Duration::from_millis(200), client.request("x", "y".into()));
    assert!(request.await.is_err(), "no answer through a black hole");
    Ok(())
}

#[tokio::test]
async fn a_cluster_of_nats_servers_elects_another_leader() -> Outcome {
    let mut cluster = NatsCluster::start()?;
    println!("before: {}", cluster.roles());
    let client = nats_of(&cluster.urls()).await?;
    let jetstream = stream(&client, 3).await?;
    assert_eq!(store(&jetstream, "one").await?, 1);
    let leader = cluster.wait_for_leader()?;
    cluster.server_mut(leader).kill()?;
    let next = cluster.wait_for_leader()?;
    println!("after:  {}", cluster.roles());
    assert_ne!(next, leader);
    let stored = async {
        // The stream elects a leader of its own.
        loop {
            match store(&jetstream, "two").await {
                Ok(sequence) => return sequence,
                Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
    };
    assert!(in_time(stored).await >= 2, "what was stored is still there");
    cluster.server_mut(leader).restart()?;
    cluster.wait_for_leader()?;
    Ok(())
}

#[tokio::test]
async fn only_the_append_only_file_survives_a_killed_redis() -> Outcome {
    for (options, kept) in [
        (RedisOptions::default(), None),
        (
            RedisOptions::default()
                .append_only()
                .setting("appendfsync", "always"),
            Some("one"),
        ),
    ] {
        let mut server = RedisServer::with(&options)?;
        let mut connection = redis(&server.url()).await?;
        set(&mut connection, "key", "one").await?;
        server.kill()?;
        assert!(redis(&server.url()).await.is_err(), "nobody listens");
        server.restart()?;
        let mut connection = redis(&server.url()).await?;
        assert_eq!(get(&mut connection, "key").await?.as_deref(), kept);
        server.kill()?;
        server.wipe()?;
        server.restart()?;
        let mut connection = redis(&server.url()).await?;
        assert_eq!(get(&mut connection, "key").await?, None);
    }
    Ok(())
}

#[tokio::test]
async fn settings_and_passwords_reach_redis() -> Outcome {
    let options = RedisOptions::default()
        .password("secret")
        .setting("maxmemory", "8mb");
    let mut server = RedisServer::with(&options)?;
    server.ask("SET key one")?;
    let without = format!("redis://{}", server.address());
    let refused = get(&mut redis(&without).await?, "key").await.unwrap_err();
    assert_eq!(refused.code(), Some("NOAUTH"));
    let mut connection = redis(&server.url()).await?;
    let settings: Vec<String> = in_time(
        redis::cmd("CONFIG")
            .arg("GET")
            .arg("maxmemory")
            .query_async(&mut connection),
    )
    .await?;
    assert_eq!(settings, ["maxmemory", "8388608"]);
    server.pause()?;
    let paused = tokio::time::timeout(Duration::from_millis(200), get(&mut connection, "key"));
    assert!(paused.await.is_err());
    server.resume()?;

    let wrong = RedisServer::with(&RedisOptions::default().setting("no-such-setting", "1"));
    let error = wrong
        .err()
        .map(|error| error.to_string())
        .unwrap_or_default();
    assert!(
        error.contains("has ended") && error.contains("no-such-setting"),
        "{error}"
    );
    Ok(())
}

#[tokio::test]
async fn sentinels_put_the_replica_in_the_place_of_the_primary() -> Outcome {
    let mut redis_servers = RedisSentinel::start(&RedisOptions::default().password("secret"))?;
    println!("before: {}", redis_servers.roles());
    assert_eq!(redis_servers.primary(), Some(0));
    let mut connection = redis(&redis_servers.servers()[0].url()).await?;
    set(&mut connection, "key", "one").await?;
    replicated(&mut connection).await?;
    redis_servers.server_mut(0).kill()?;
    assert_eq!(redis_servers.wait_for_fail_over(0)?, 1);
    println!("after:  {}", redis_servers.roles());
    let mut connection = redis(&redis_servers.servers()[1].url()).await?;
    assert_eq!(get(&mut connection, "key").await?.as_deref(), Some("one"));
    set(&mut connection, "key", "two").await?;
    Ok(())
}

#[tokio::test]
async fn a_replica_takes_over_its_part_of_a_redis_cluster() -> Outcome {
    let mut cluster = RedisCluster::start(&RedisOptions::default().password("secret"))?;
    println!("before: {}", cluster.roles());
    // Of the slots of the third primary: CRC16("foo") is 12182.
    let mut connection = redis(&cluster.servers()[2].url()).await?;
    set(&mut connection, "foo", "one").await?;
    replicated(&mut connection).await?;
    let mut other = redis(&cluster.servers()[0].url()).await?;
    let elsewhere = get(&mut other, "foo").await.unwrap_err();
    assert_eq!(elsewhere.code(), Some("MOVED"));
    cluster.server_mut(2).kill()?;
    let replica = cluster.wait_for_fail_over(2)?;
    println!("after:  {}", cluster.roles());
    assert_eq!(cluster.servers()[replica].role()?, Role::Primary);
    let mut connection = redis(&cluster.servers()[replica].url()).await?;
    assert_eq!(get(&mut connection, "foo").await?.as_deref(), Some("one"));
    Ok(())
}

/// Proxies for servers that are started after them.
async fn proxies<const N: usize>() -> std::io::Result<[Proxy; N]> {
    let mut proxies = Vec::new();
    for seed in 0..N {
        proxies.push(Proxy::ahead(seed as u64).await?);
    }
    Ok(proxies.try_into().expect("as many as were made"))
}

/// What has to become true, as soon as the last change has got round.
async fn becomes(what: &str, holds: impl Fn() -> Result<(), String>) {
    let waiting = async {
        while holds().is_err() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let became = tokio::time::timeout(LIMIT, waiting).await;
    assert!(became.is_ok(), "{what}: {:?}", holds());
}

/// Whether all whom a server sees come from its proxy, or are one: a replica sees its primary, too.
fn none_walks_around(
    proxies: &[Proxy],
    own: &Proxy,
    seen: impl IntoIterator<Item = SocketAddr>,
) -> Result<(), String> {
    let (from_own, others) = (own.upstream(), proxies.iter().map(Proxy::address));
    let allowed: BTreeSet<_> = from_own.into_iter().chain(others).collect();
    match seen.into_iter().find(|seen| !allowed.contains(seen)) {
        Some(around) => Err(format!("{around} walked around {own:?}")),
        None => Ok(()),
    }
}

/// The other ends of a Redis server's connections, but for the one that asks.
fn seen_by_redis(server: &RedisServer) -> Vec<SocketAddr> {
    let list = server.ask("CLIENT LIST").unwrap_or_default();
    let others = list
        .lines()
        .filter(|line| !line.contains("cmd=client|list"));
    let addresses = others.filter_map(|line| line.split(' ').find_map(|f| f.strip_prefix("addr=")));
    addresses
        .map(|address| address.parse().expect("an address"))
        .collect()
}

/// A client of the cluster that gives up soon, and does not try again.
async fn cluster_client(
    urls: Vec<String>,
) -> redis::RedisResult<redis::cluster_async::ClusterConnection> {
    let client = ClusterClientBuilder::new(urls)
        .retries(0)
        .connection_timeout(Duration::from_secs(5))
        .response_timeout(Duration::from_millis(500))
        .build()?;
    in_time(client.get_async_connection()).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_of_a_redis_cluster_do_not_walk_around_its_proxies() -> Outcome {
    // One key of each primary's share, by the CRC16 of the key.
    const KEYS: [&str; 3] = ["b", "c", "foo"];
    let proxies = proxies().await?;
    let cluster = RedisCluster::behind(&RedisOptions::default().password("secret"), &proxies)?;
    println!("{}", cluster.roles());
    let mut client = cluster_client(cluster.urls()).await?;
    let set = |key: &str| redis::cmd("SET").arg(key).arg("one").to_owned();
    for (primary, key) in KEYS.iter().enumerate() {
        in_time(set(key).query_async::<()>(&mut client)).await?;
        let kept = cluster.servers()[primary].ask(&format!("GET {key}"))?;
        assert_eq!(kept, "one", "{key} is of the primary {primary}");
    }
    for (server, own) in cluster.servers().iter().zip(&proxies) {
        let slots = server.ask("CLUSTER SLOTS")?;
        for other in cluster.servers() {
            let port = other.address().port().to_string();
            assert!(!slots.lines().any(|line| line == port), "{slots}");
        }
        becomes("nobody walks around a proxy", || {
            none_walks_around(&proxies, own, seen_by_redis(server))
        })
        .await;
    }
    let upstream = proxies[..RedisCluster::PRIMARIES]
        .iter()
        .map(Proxy::upstream);
    assert!(
        upstream.into_iter().all(|from| !from.is_empty()),
        "{proxies:?}"
    );

    proxies[1].set_both(Fault::BlackHole);
    let lost = in_time(set(KEYS[1]).query_async::<()>(&mut client)).await;
    assert!(lost.is_err(), "it came through a black hole");
    for key in [KEYS[0], KEYS[2]] {
        in_time(set(key).query_async::<()>(&mut client)).await?;
    }
    proxies[1].heal();

    proxies[1].gate(Gate::Refuse);
    proxies[1].reset();
    let lost = in_time(set(KEYS[1]).query_async::<()>(&mut client)).await;
    assert!(lost.is_err(), "it came through a closed gate");
    assert_eq!(
        cluster.servers()[1].role()?,
        Role::Primary,
        "the servers see it"
    );
    proxies[1].heal();
    let mut client = cluster_client(cluster.urls()).await?;
    in_time(set(KEYS[1]).query_async::<()>(&mut client)).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_of_a_nats_cluster_do_not_walk_around_its_proxies() -> Outcome {
    let proxies = proxies().await?;
    let cluster = NatsCluster::behind(&NatsOptions::default(), &proxies)?;
    println!("{}", cluster.roles());
    let client = nats(&cluster.urls()[0]).await?;
    let own: BTreeSet<_> = proxies
        .iter()
        .map(|proxy| proxy.address().to_string())
        .collect();
    let told: BTreeSet<_> = client.server_info().connect_urls.into_iter().collect();
    assert!(
        told.is_subset(&own) && told.len() > 1,
        "{told:?} of {own:?}"
    );
    stream(&client, 3).await?;

    // It goes to another server, by its proxy.
    let before: Vec<_> = proxies.iter().map(Proxy::connections).collect();
    proxies[0].gate(Gate::Refuse);
    proxies[0].reset();
    let stored = async {
        let jetstream = jetstream::new(client.clone());
        while store(&jetstream, "one").await.is_err() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    in_time(stored).await;
    let after: Vec<_> = proxies.iter().map(Proxy::connections).collect();
    assert!(
        after[1] + after[2] > before[1] + before[2],
        "{before:?} {after:?}"
    );
    for (server, own) in cluster.servers().iter().zip(&proxies) {
        becomes("nobody walks around a proxy", || {
            none_walks_around(&proxies, own, seen_by_nats(server))
        })
        .await;
    }
    for proxy in &proxies {
        proxy.set_both(Fault::BlackHole);
    }
    let jetstream = jetstream::new(client);
    let lost = tokio::time::timeout(Duration::from_millis(500), store(&jetstream, "two")).await;
    assert!(!matches!(lost, Ok(Ok(_))), "it came through a black hole");
    Ok(())
}

/// The other ends of a NATS server's connections.
fn seen_by_nats(server: &NatsServer) -> Vec<SocketAddr> {
    let connections = server.get("/connz").unwrap_or_default();
    let field = |text: &str, name: &str| {
        let (_, rest) = text.split_once(&format!("\"{name}\": "))?;
        let value = rest.split([',', '\n']).next()?;
        Some(value.trim_matches('"').to_owned())
    };
    let connections = connections.split("\"cid\"").skip(1);
    let addresses = connections.map(|connection| {
        let (ip, port) = (field(connection, "ip"), field(connection, "port"));
        let address = format!("{}:{}", ip.unwrap_or_default(), port.unwrap_or_default());
        address
            .parse()
            .unwrap_or_else(|_| panic!("no address: {connection}"))
    });
    addresses.collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sentinels_tell_of_proxies_and_go_by_them() -> Outcome {
    let proxies = proxies().await?;
    let servers = RedisSentinel::behind(&RedisOptions::default().password("secret"), &proxies)?;
    println!("before: {}", servers.roles());
    assert_eq!(servers.primary(), Some(0));
    let ask_for_primary = || async {
        let sentinel = redis(&format!("redis://{}", servers.sentinels()[0])).await?;
        let (ip, port): (String, u16) = in_time(
            redis::cmd("SENTINEL")
                .arg("get-master-addr-by-name")
                .arg(servers.name())
                .query_async(&mut { sentinel }),
        )
        .await?;
        Ok::<_, redis::RedisError>(format!("{ip}:{port}"))
    };
    assert_eq!(ask_for_primary().await?, proxies[0].address().to_string());
    let mut connection = redis(&servers.servers()[0].url()).await?;
    set(&mut connection, "key", "one").await?;
    replicated(&mut connection).await?;
    for (server, own) in servers.servers().iter().zip(&proxies) {
        becomes("nobody walks around a proxy", || {
            none_walks_around(&proxies, own, seen_by_redis(server))
        })
        .await;
    }

    // Cut off, it is down for the sentinels, though it lives.
    proxies[0].set_both(Fault::BlackHole);
    let waits = tokio::time::timeout(Duration::from_millis(200), get(&mut connection, "key"));
    assert!(waits.await.is_err(), "no answer through a black hole");
    assert_eq!(servers.wait_for_fail_over(0)?, 1);
    println!("after:  {}", servers.roles());
    assert!(servers.servers()[0].is_alive());
    assert_eq!(ask_for_primary().await?, proxies[1].address().to_string());
    let mut connection = redis(&servers.servers()[1].url()).await?;
    assert_eq!(get(&mut connection, "key").await?.as_deref(), Some("one"));
    Ok(())
}

/// Starts servers, says their process ids, and waits for its end.
const CHILD: &str = "CATGA_TEST_OF_A_KILLED_KIT";

#[test]
fn a_killed_kit_leaves_no_server() -> Outcome {
    if std::env::var_os(CHILD).is_some() {
        let (nats, redis) = (NatsServer::start()?, RedisServer::start()?);
        let ids = [nats.process(), redis.process()].map(|process| process.expect("it runs").id());
        eprintln!("pids {} {}", ids[0], ids[1]);
        loop {
            std::thread::park();
        }
    }
    let mut child = Command::new(std::env::current_exe()?)
        .args(["--exact", "a_killed_kit_leaves_no_server", "--nocapture"])
        .env(CHILD, "1")
        .stderr(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()?;
    let said = child.stderr.take().expect("it is piped");
    let lines = std::io::BufRead::lines(std::io::BufReader::new(said));
    let mut ids = lines.map_while(Result::ok).find_map(|line| {
        let ids = line.strip_prefix("pids ")?.split(' ').map(str::to_owned);
        Some(ids.collect::<Vec<_>>())
    });
    let ids = ids.take().expect("it says its process ids");
    let there = |id: &String| Path::new("/proc").join(id).exists();
    assert!(ids.len() == 2 && ids.iter().all(there), "{ids:?}");
    // SIGKILL: nothing of the kit runs any more.
    child.kill()?;
    child.wait()?;
    let begun = std::time::Instant::now();
    while ids.iter().any(there) {
        assert!(begun.elapsed() < LIMIT, "left behind: {ids:?}");
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

#[test]
fn two_at_once_do_not_meet() -> Outcome {
    let start = || {
        let servers = (0..3)
            .map(|_| NatsServer::start())
            .collect::<Result<Vec<_>, _>>();
        Ok::<_, catga_testkit::server::ServerError>((servers?, RedisServer::start()?))
    };
    let (first, second) = std::thread::scope(|scope| {
        let first = scope.spawn(start);
        let second = start();
        (first.join().expect("no panic"), second)
    });
    let (first, second) = (first?, second?);
    let names = first.0.iter().chain(&second.0).map(NatsServer::name);
    let mut names: Vec<_> = names.collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), 6);
    assert_ne!(first.1.address(), second.1.address());
    Ok(())
}
