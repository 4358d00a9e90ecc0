//! One connection through a proxy: a reader and a writer for each direction.

use std::io;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, sleep_until};

use super::{Direction, Fault, Settings, Shared};

/// The most bytes of one read.
const CHUNK: usize = 16 * 1024;

/// The most reads on their way: what a slow direction holds is bounded, as a socket's buffer is.
const ON_THE_WAY: usize = 64;

/// Why a direction ended, when it takes the other one with it.
struct Cut;

/// Carries bytes both ways until both have ended, or one is cut, or all connections are reset.
pub(super) async fn run(client: TcpStream, server: TcpStream, number: u64, shared: &Shared) {
    // What is delayed is delayed by us.
    let _ = client.set_nodelay(true);
    let _ = server.set_nodelay(true);
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    let both = async {
        let there = carry(from_client, &to_server, Direction::ToServer, number, shared);
        let back = carry(from_server, &to_client, Direction::ToClient, number, shared);
        let _ = tokio::try_join!(there, back);
    };
    let reset = tokio::select! {
        biased;
        () = resets(shared) => true,
        () = both => false,
    };
    if reset {
        for half in [to_client, to_server] {
            rst(half.as_ref());
            // Else it says goodbye first.
            half.forget();
        }
    }
}

/// Holds a connection that nothing answers.
pub(super) async fn silent(client: &TcpStream, shared: &Shared) {
    resets(shared).await;
    rst(client);
}

/// Waits until all connections are reset.
async fn resets(shared: &Shared) {
    let mut settings = shared.settings.subscribe();
    let before = settings.borrow().resets;
    let reset = settings.wait_for(|settings| settings.resets > before);
    if reset.await.is_err() {
        std::future::pending::<()>().await;
    }
}

/// Lets the connection end with RST instead of FIN when it is dropped.
fn rst(stream: &TcpStream) {
    let _ = stream.set_zero_linger();
}

async fn carry(
    from: OwnedReadHalf,
    to: &OwnedWriteHalf,
    direction: Direction,
    number: u64,
    shared: &Shared,
) -> Result<(), Cut> {
    let (sender, receiver) = mpsc::channel(ON_THE_WAY);
    let chance = fastrand::Rng::with_seed(shared.seed.wrapping_add(number));
    let read = read(from, sender, direction, chance, shared);
    let write = write(to, receiver, direction, shared);
    let read = async {
        read.await;
        Ok(())
    };
    tokio::try_join!(read, write).map(|_| ())
}

/// Reads what is sent, and says when it is to arrive.
async fn read(
    mut from: OwnedReadHalf,
    to: mpsc::Sender<(Instant, Vec<u8>)>,
    direction: Direction,
    mut chance: fastrand::Rng,
    shared: &Shared,
) {
    let mut settings = shared.settings.subscribe();
    let mut last = Instant::now();
    let mut buffer = vec![0; CHUNK];
    loop {
        // A network that swallows everything fills the sender's buffers.
        if hole(&mut settings, direction).await.is_err() {
            return;
        }
        // One that failed has ended, as far as the other side is to know.
        let Ok(length @ 1..) = from.read(&mut buffer).await else {
            return;
        };
        let later = match settings.borrow().fault(direction) {
            Fault::Delay { by, jitter } => by + jitter.mul_f64(chance.f64()),
            _ => Duration::ZERO,
        };
        last = last.max(Instant::now() + later);
        if to.send((last, buffer[..length].to_vec())).await.is_err() {
            return;
        }
    }
}

/// Writes what was read, as the fault of the moment says.
async fn write(
    to: &OwnedWriteHalf,
    mut from: mpsc::Receiver<(Instant, Vec<u8>)>,
    direction: Direction,
    shared: &Shared,
) -> Result<(), Cut> {
    let mut settings = shared.settings.subscribe();
    while let Some((due, mut bytes)) = from.recv().await {
        sleep_until(due).await;
        if hole(&mut settings, direction).await.is_err() {
            return Err(Cut);
        }
        let cut = strike(&mut bytes, direction, shared);
        let written = deliver(to, &bytes, &mut settings, direction, shared).await;
        if cut {
            return Err(Cut);
        }
        if written.is_err() {
            // Nobody hears of it through a black hole.
            let _ = hole(&mut settings, direction.opposite()).await;
            return Err(Cut);
        }
    }
    if hole(&mut settings, direction).await.is_err() {
        return Err(Cut);
    }
    // The other direction may go on.
    if finish(to).is_err() {
        let _ = hole(&mut settings, direction.opposite()).await;
        return Err(Cut);
    }
    Ok(())
}

fn finish(to: &OwnedWriteHalf) -> io::Result<()> {
    // Through the socket itself, since the half belongs to the connection, which may have to reset it.
    rustix::net::shutdown(to.as_ref(), rustix::net::Shutdown::Write).map_err(Into::into)
}

/// Does what happens once, and tells whether the connection ends behind what is left of the bytes.
fn strike(bytes: &mut Vec<u8>, direction: Direction, shared: &Shared) -> bool {
    let mut cut = false;
    shared.settings.send_if_modified(|settings| {
        let fault = settings.fault_mut(direction);
        let length = bytes.len() as u64;
        match fault {
            Fault::CutAfter(left) | Fault::CorruptAfter(left) if *left >= length => {
                *left -= length;
                return false;
            }
            Fault::CutAfter(left) => {
                bytes.truncate(usize::try_from(*left).expect("less than a length"));
                cut = true;
            }
            Fault::CorruptAfter(left) => {
                let index = usize::try_from(*left).expect("less than a length");
                bytes[index] ^= 1 << (shared.seed % 8);
            }
            _ => return false,
        }
        *fault = Fault::Pass;
        true
    });
    cut
}

/// Writes as fast as the fault of the moment allows; it may change at any piece.
async fn deliver(
    to: &OwnedWriteHalf,
    mut bytes: &[u8],
    settings: &mut watch::Receiver<Settings>,
    direction: Direction,
    shared: &Shared,
) -> io::Result<()> {
    while !bytes.is_empty() {
        let fault = settings.borrow_and_update().fault(direction);
        let piece = match fault {
            Fault::Throttle { bytes_per_second } => {
                let per_second = bytes_per_second.max(1);
                // Ten times in a second.
                let piece = usize::try_from(per_second.div_ceil(10)).unwrap_or(usize::MAX);
                let piece = piece.min(bytes.len());
                let share = f64::from(u32::try_from(piece).unwrap_or(u32::MAX));
                let time = Duration::from_secs_f64(share / f64::from(per_second));
                tokio::select! {
                    biased;
                    // Looked at anew.
                    changed = settings.changed() => match changed {
                        Ok(()) => continue,
                        Err(_) => return Err(io::ErrorKind::Interrupted.into()),
                    },
                    () = sleep(time) => piece,
                }
            }
            Fault::BlackHole => {
                let healed = hole(settings, direction).await;
                healed.map_err(|_| io::ErrorKind::Interrupted)?;
                continue;
            }
            _ => bytes.len(),
        };
        let (now, later) = bytes.split_at(piece);
        write_all(to, now).await?;
        let passed = shared.passed(direction);
        passed.fetch_add(now.len() as u64, Ordering::Relaxed);
        bytes = later;
    }
    Ok(())
}

async fn write_all(to: &OwnedWriteHalf, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        to.writable().await?;
        match to.try_write(bytes) {
            Ok(written) => bytes = &bytes[written..],
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Waits as long as the direction is a black hole; an error when the proxy has ended.
async fn hole(
    settings: &mut watch::Receiver<Settings>,
    direction: Direction,
) -> Result<(), watch::error::RecvError> {
    let passes = |settings: &Settings| settings.fault(direction) != Fault::BlackHole;
    settings.wait_for(passes).await.map(drop)
}
