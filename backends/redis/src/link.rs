//! The connection that all commands share, made again when it breaks.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use catga_core::Error;
use redis::aio::ConnectionLike;
use tokio::select;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, timeout, timeout_at};

use crate::client::{Conn, Factory};
use crate::closed::Closed;
use crate::{error, script};

/// How often a connection that nothing is heard of is asked whether it is there.
const KEEP_ALIVE: Duration = Duration::from_secs(2);
/// The first and the longest wait between two tries to connect.
const BACK_OFF: (Duration, Duration) = (Duration::from_millis(20), Duration::from_millis(500));

/// The shared connection.
pub(crate) struct Link {
    live: ArcSwapOption<Live>,
    /// How often a connection was made.
    epoch: AtomicU64,
    /// Wakes who waits for a connection, and who makes one.
    changed: Notify,
    broke: Notify,
    /// Why there is none.
    problem: ArcSwapOption<Error>,
}

/// A connection that was made.
pub(crate) struct Live {
    pub(crate) conn: Conn,
    epoch: u64,
}

impl Link {
    /// Starts with a connection that was made.
    pub(crate) fn new(conn: Conn) -> Self {
        let this = Self::idle();
        this.made(conn);
        this
    }

    /// Starts without a connection: [`keep`](Self::keep) makes it.
    pub(crate) fn idle() -> Self {
        Self {
            live: ArcSwapOption::empty(),
            epoch: AtomicU64::new(0),
            changed: Notify::new(),
            broke: Notify::new(),
            problem: ArcSwapOption::empty(),
        }
    }

    /// Gives up whatever connection there is.
    pub(crate) fn forget(&self) {
        self.live.store(None);
        self.broke.notify_one();
    }

    fn made(&self, conn: Conn) {
        let epoch = self.epoch.fetch_add(1, Ordering::SeqCst) + 1;
        self.problem.store(None);
        self.live.store(Some(Arc::new(Live { conn, epoch })));
        self.changed.notify_waiters();
    }

    pub(crate) fn is_connected(&self) -> bool {
        self.live.load().is_some()
    }

    /// The connection, when there is one now.
    pub(crate) fn now(&self) -> Option<Arc<Live>> {
        self.live.load_full()
    }

    /// The connection, as soon as there is one.
    pub(crate) async fn live(
        &self,
        operation: &'static str,
        by: Instant,
    ) -> Result<Arc<Live>, Error> {
        loop {
            // Made before it is asked: a connection that is made between the two still wakes it.
            let changed = self.changed.notified();
            if let Some(live) = self.now() {
                return Ok(live);
            }
            if timeout_at(by, changed).await.is_err() {
                let problem = self.problem.load();
                return Err(error::not_connected(operation, problem.as_deref()));
            }
        }
    }

    /// Gives a connection up that is of no use any more.
    pub(crate) fn broken(&self, live: &Live) {
        let present = self.live.load();
        if present.as_ref().is_some_and(|now| now.epoch == live.epoch) {
            let before = self.live.compare_and_swap(&present, None);
            if before.as_ref().map(Arc::as_ptr) == present.as_ref().map(Arc::as_ptr) {
                tracing::warn!("the connection to Redis was lost; it is being made again");
                self.broke.notify_one();
                self.changed.notify_waiters();
            }
        }
    }

    /// Watches the connection and makes it again, until everything is closed.
    pub(crate) async fn keep(
        self: Arc<Self>,
        factory: Factory,
        patience: Duration,
        closed: Closed,
    ) {
        let keep = async {
            loop {
                match self.now() {
                    None => self.connect(&factory, patience).await,
                    Some(live) => {
                        select! {
                            biased;
                            () = self.broke.notified() => {}
                            () = sleep(KEEP_ALIVE) => self.check(&live, patience).await,
                        }
                    }
                }
            }
        };
        select! {
            biased;
            () = closed.raised() => {}
            () = keep => {}
        }
        self.live.store(None);
    }

    /// Nothing tells of a peer that is gone without a word but its silence.
    async fn check(&self, live: &Live, patience: Duration) {
        let Conn::Single(conn) = &live.conn else {
            // The client watches the nodes of a cluster by itself.
            return;
        };
        let mut conn = conn.clone();
        let ping = redis::cmd("PING");
        match timeout(patience, conn.send_packed_command(&ping)).await {
            Ok(Ok(_)) => {}
            Ok(Err(error)) if !error::is_broken(&error) => {}
            _ => self.broken(live),
        }
    }

    async fn connect(&self, factory: &Factory, patience: Duration) {
        let mut wait = BACK_OFF.0;
        loop {
            match factory.commands().await {
                Ok(mut conn) => {
                    prepare(&mut conn, patience).await;
                    tracing::info!("connected to Redis");
                    self.made(conn);
                    return;
                }
                Err(error) => {
                    tracing::debug!(%error, "Redis is not reached");
                    self.problem.store(Some(Arc::new(error)));
                }
            }
            sleep(jittered(wait)).await;
            wait = (wait * 2).min(BACK_OFF.1);
        }
    }
}

/// Makes the script known that publishes go through: a server that was started again knows none. Where this fails, a
/// publish brings the script itself.
pub(crate) async fn prepare(conn: &mut Conn, patience: Duration) {
    let mut load = redis::cmd("SCRIPT");
    load.arg("LOAD").arg(script::ADD_ONCE.body());
    let _ = timeout(patience, conn.req_packed_command(&load)).await;
}

impl std::fmt::Debug for Link {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Link")
            .field("connected", &self.is_connected())
            .field("epoch", &self.epoch)
            .finish_non_exhaustive()
    }
}

/// Between half of it and all of it, so that many do not come at once.
pub(crate) fn jittered(wait: Duration) -> Duration {
    wait.mul_f64(0.5 + fastrand::f64() / 2.0)
}
