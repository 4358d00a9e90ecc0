//! Messages that are published at a steady rate, while something else happens.

use std::time::Duration;

use catga::prelude::{Catga, Result};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, MissedTickBehavior, interval};

use crate::evidence::{Evidence, Outcome};
use crate::worker;

/// How often a publisher gets its share of the rate.
const STEP: Duration = Duration::from_millis(5);
/// The most publishes at once.
const AT_ONCE: usize = 512;

/// A publisher that goes on until it is told to stop. What is not known to be stored it publishes again under its id, as an
/// outbox does.
#[derive(Debug)]
pub(crate) struct Load {
    stop: watch::Sender<bool>,
    published: watch::Receiver<u64>,
    running: JoinHandle<Result<Loaded>>,
}

/// What was published.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Loaded {
    /// The ids went up to this one.
    pub(crate) end: u64,
    /// How long it took.
    pub(crate) took: Duration,
}

impl Loaded {
    /// Messages by the second.
    pub(crate) fn rate(&self, begin: u64) -> f64 {
        let count = u32::try_from(self.end - begin).unwrap_or(u32::MAX);
        f64::from(count) / self.took.as_secs_f64()
    }
}

impl Load {
    /// Publishes ids from `begin` on, so many by the second.
    pub(crate) fn start(
        node: Catga,
        evidence: Evidence,
        once: bool,
        begin: u64,
        per_second: u32,
    ) -> Self {
        let (stop, stopped) = watch::channel(false);
        let (tell, published) = watch::channel(begin);
        let running = tokio::spawn(async move {
            let started = Instant::now();
            let mut ticks = interval(STEP);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
            let mut calls: JoinSet<Result<()>> = JoinSet::new();
            let mut next = begin;
            while !*stopped.borrow() {
                ticks.tick().await;
                let due = started.elapsed().mul_f64(f64::from(per_second)).as_secs();
                while next < begin + due && calls.len() < AT_ONCE {
                    let (node, evidence, id) = (node.clone(), evidence.clone(), next);
                    calls.spawn(async move { until_stored(&node, &evidence, once, id).await });
                    next += 1;
                    tell.send_replace(next);
                }
                while let Some(ended) = calls.try_join_next() {
                    ended??;
                }
            }
            let took = started.elapsed();
            while let Some(ended) = calls.join_next().await {
                ended??;
            }
            Ok(Loaded { end: next, took })
        });
        Self {
            stop,
            published,
            running,
        }
    }

    /// Waits until so many more were published.
    pub(crate) async fn more(&mut self, count: u64) -> Result<()> {
        let to = *self.published.borrow() + count;
        self.published
            .wait_for(|published| *published >= to)
            .await?;
        Ok(())
    }

    /// Publishes no more, and waits until all that was begun is stored.
    pub(crate) async fn stop(self) -> Result<Loaded> {
        self.stop.send_replace(true);
        self.running.await?
    }
}

async fn until_stored(node: &Catga, evidence: &Evidence, once: bool, id: u64) -> Result<()> {
    while worker::publish(node, evidence, once, id).await? != Outcome::Ok {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}
