use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, timeout};

use super::{Direction, Fault, Gate, Proxy};

const SECOND: Duration = Duration::from_secs(1);
const SHORT: Duration = Duration::from_millis(50);

/// A server that sends back what it gets, and the end too.
async fn echo() -> Proxy {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let (mut from, mut to) = stream.into_split();
                let _ = tokio::io::copy(&mut from, &mut to).await;
            });
        }
    });
    Proxy::start(address, 3).await.unwrap()
}

async fn client(proxy: &Proxy) -> TcpStream {
    TcpStream::connect(proxy.address()).await.unwrap()
}

/// Sends, and reads as many bytes back.
async fn answer(stream: &mut TcpStream, bytes: &[u8]) -> std::io::Result<Vec<u8>> {
    stream.write_all(bytes).await?;
    let mut back = vec![0; bytes.len()];
    timeout(5 * SECOND, stream.read_exact(&mut back))
        .await
        .expect("an answer, or an end")?;
    Ok(back)
}

/// Whether nothing is to be read for a while.
async fn quiet(stream: &mut TcpStream) -> bool {
    quiet_for(stream, SHORT).await
}

async fn quiet_for(stream: &mut TcpStream, time: Duration) -> bool {
    timeout(time, stream.read(&mut [0])).await.is_err()
}

#[tokio::test]
async fn bytes_pass_and_so_does_the_end() {
    let proxy = echo().await;
    let mut stream = client(&proxy).await;
    let bytes = vec![7; 200_000];
    assert_eq!(answer(&mut stream, &bytes).await.unwrap(), bytes);
    stream.shutdown().await.unwrap();
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).await.unwrap();
    assert!(rest.is_empty());
    assert_eq!(proxy.passed(Direction::ToServer), 200_000);
    assert_eq!(proxy.passed(Direction::ToClient), 200_000);
    assert_eq!(proxy.connections(), 1);
}

#[tokio::test]
async fn delayed_bytes_keep_their_order() {
    let proxy = echo().await;
    let mut stream = client(&proxy).await;
    let (by, jitter) = (SHORT, SHORT);
    proxy.set(Direction::ToClient, Fault::Delay { by, jitter });
    let (mut from, mut to) = stream.split();
    let begun = Instant::now();
    let send = async {
        for i in 0..20 {
            to.write_all(&[i]).await.unwrap();
            tokio::task::yield_now().await;
        }
    };
    let mut back = [0; 20];
    let ((), read) = tokio::join!(send, timeout(5 * SECOND, from.read_exact(&mut back)));
    read.unwrap().unwrap();
    assert!(begun.elapsed() >= by, "{:?}", begun.elapsed());
    assert_eq!(back.to_vec(), (0..20).collect::<Vec<u8>>());
}

#[tokio::test]
async fn a_throttled_direction_is_slow() {
    let proxy = echo().await;
    let mut stream = client(&proxy).await;
    let bytes_per_second = 100_000;
    proxy.set(Direction::ToServer, Fault::Throttle { bytes_per_second });
    let begun = Instant::now();
    answer(&mut stream, &vec![1; 20_000]).await.unwrap();
    let took = begun.elapsed();
    assert!(took >= Duration::from_millis(180), "{took:?}");
}

#[tokio::test]
async fn what_a_black_hole_swallows_comes_when_it_is_healed() {
    let proxy = echo().await;
    for direction in [Direction::ToServer, Direction::ToClient] {
        let mut stream = client(&proxy).await;
        answer(&mut stream, b"before").await.unwrap();
        proxy.set(direction, Fault::BlackHole);
        stream.write_all(b"inside").await.unwrap();
        assert!(quiet(&mut stream).await, "no byte, no FIN, no RST");
        proxy.heal();
        let mut back = [0; 6];
        timeout(5 * SECOND, stream.read_exact(&mut back))
            .await
            .unwrap()
            .unwrap();
        assert_eq!(&back, b"inside");
    }
}

#[tokio::test]
async fn an_end_does_not_pass_a_black_hole() {
    let proxy = echo().await;
    let mut stream = client(&proxy).await;
    answer(&mut stream, b"before").await.unwrap();
    proxy.set_both(Fault::BlackHole);
    stream.shutdown().await.unwrap();
    assert!(quiet(&mut stream).await);
    proxy.heal();
    assert_eq!(
        timeout(5 * SECOND, stream.read(&mut [0]))
            .await
            .unwrap()
            .unwrap(),
        0
    );
}

#[tokio::test]
async fn the_end_of_a_server_does_not_pass_a_black_hole_one_way() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let proxy = Proxy::start(listener.local_addr().unwrap(), 3)
        .await
        .unwrap();
    let mut stream = client(&proxy).await;
    stream.write_all(b"hello").await.unwrap();
    let (mut server, _) = listener.accept().await.unwrap();
    server.read_exact(&mut [0; 5]).await.unwrap();
    proxy.set(Direction::ToClient, Fault::BlackHole);
    server.set_zero_linger().unwrap();
    drop(server);
    // Written to one that is gone: TCP says so at the second time.
    for _ in 0..3 {
        stream.write_all(b"anybody?").await.unwrap();
        assert!(quiet(&mut stream).await, "no byte, no FIN, no RST");
    }
    proxy.heal();
    let end = timeout(5 * SECOND, stream.read(&mut [0])).await.unwrap();
    assert!(end.map_or(true, |length| length == 0));
}

#[tokio::test]
async fn healing_reaches_what_is_under_way() {
    let proxy = echo().await;
    let mut stream = client(&proxy).await;
    proxy.set(
        Direction::ToServer,
        Fault::Throttle {
            bytes_per_second: 100,
        },
    );
    stream.write_all(&[1; 10_000]).await.unwrap();
    assert!(
        !quiet_for(&mut stream, SECOND).await,
        "slow, and not silent"
    );
    proxy.heal();
    let mut rest = vec![0; 9_000];
    timeout(5 * SECOND, stream.read_exact(&mut rest))
        .await
        .unwrap()
        .unwrap();
}

#[tokio::test]
async fn a_cut_is_to_the_byte_and_happens_once() {
    let proxy = echo().await;
    let mut stream = client(&proxy).await;
    proxy.set(Direction::ToClient, Fault::CutAfter(4));
    stream.write_all(b"abcdef").await.unwrap();
    let mut back = Vec::new();
    // It ends: how, depends on what was on its way.
    let _ = timeout(5 * SECOND, stream.read_to_end(&mut back))
        .await
        .unwrap();
    assert_eq!(back, b"abcd");
    assert_eq!(proxy.fault(Direction::ToClient), Fault::Pass);
    let mut next = client(&proxy).await;
    assert_eq!(answer(&mut next, b"abcdef").await.unwrap(), b"abcdef");
}

#[tokio::test]
async fn one_bit_is_flipped_once() {
    let proxy = echo().await;
    let mut stream = client(&proxy).await;
    proxy.set(Direction::ToServer, Fault::CorruptAfter(2));
    // Seed 3: the fourth bit.
    assert_eq!(
        answer(&mut stream, &[0, 0, 0, 0]).await.unwrap(),
        [0, 0, 8, 0]
    );
    assert_eq!(answer(&mut stream, &[0, 0, 0, 0]).await.unwrap(), [0; 4]);
}

#[tokio::test]
async fn a_reset_ends_all_connections() {
    let proxy = echo().await;
    let (mut first, mut second) = (client(&proxy).await, client(&proxy).await);
    for stream in [&mut first, &mut second] {
        answer(stream, b"x").await.unwrap();
    }
    proxy.reset();
    for stream in [&mut first, &mut second] {
        let error = timeout(5 * SECOND, stream.read(&mut [0]))
            .await
            .unwrap()
            .unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    }
    answer(&mut client(&proxy).await, b"x").await.unwrap();
}

#[tokio::test]
async fn a_gate_that_refuses_opens_again() {
    let proxy = echo().await;
    let mut there = client(&proxy).await;
    answer(&mut there, b"x").await.unwrap();
    proxy.gate(Gate::Refuse);
    let refused = async {
        while TcpStream::connect(proxy.address()).await.is_ok() {
            tokio::task::yield_now().await;
        }
    };
    timeout(5 * SECOND, refused).await.expect("nobody listens");
    answer(&mut there, b"x")
        .await
        .expect("those who are there stay");
    proxy.heal();
    let opened = async {
        loop {
            if let Ok(mut stream) = TcpStream::connect(proxy.address()).await
                && answer(&mut stream, b"x").await.is_ok()
            {
                return;
            }
            tokio::task::yield_now().await;
        }
    };
    timeout(5 * SECOND, opened).await.expect("it is open again");
}

#[tokio::test]
async fn a_silent_gate_accepts_and_answers_nothing() {
    let proxy = echo().await;
    proxy.gate(Gate::Silent);
    // The gate's change may come behind the first connection.
    let silent = async {
        loop {
            let mut stream = client(&proxy).await;
            stream.write_all(b"x").await.unwrap();
            if quiet(&mut stream).await {
                return stream;
            }
        }
    };
    let mut stream = timeout(5 * SECOND, silent).await.unwrap();
    proxy.reset();
    assert!(
        timeout(5 * SECOND, stream.read(&mut [0]))
            .await
            .unwrap()
            .is_err()
    );
}
