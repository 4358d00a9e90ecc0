//! What is left of the registry when its server was killed and is started again at once, and how soon all are listed again.

use std::time::Instant;

use tokio::time::{sleep, timeout};

use super::crew::{Crew, Times};
use super::means::Means;
use super::named;
use crate::bench::{Bench, Measured, two_cores};
use crate::figure::Figure;
use crate::running::Running;

pub fn run(mut bench: Bench, means: Means, count: usize) -> Measured {
    let mut running = Running::start(means.needs()).expect("the server starts");
    bench.url = means.url(running.as_ref().map(Running::url));
    bench.server = None;
    two_cores(async move {
        let times = Times::of(bench.operations, count);
        let mut crew = Crew::of(means, &bench.url, count, times).await;
        crew.settle().await;

        let clock = bench.begin();
        let killed = Instant::now();
        let restarted = tokio::task::spawn_blocking(move || {
            let server = running.as_mut().expect("it has a server");
            server.kill_and_restart().expect("it starts again");
            running
        });
        // Kept to the end.
        let _running = restarted.await.expect("it does not panic");
        let reader = means.connect(&bench.url, times.node_timeout).await;
        let at_once = reader.registry.nodes().await.expect("it answers").len();
        let mut listed = at_once;
        let complete = timeout(times.node_timeout * 3, async {
            while listed < count {
                sleep(times.heartbeat / 200).await;
                // It may be connecting.
                listed = reader.registry.nodes().await.map_or(0, |nodes| nodes.len());
            }
            killed.elapsed()
        });
        let complete = complete.await.expect("all are listed again");
        // Whoever was to be given up wrongly has been by then.
        sleep(times.node_timeout + times.node_timeout / 3).await;
        let mut measured = clock.stop();
        crew.catch_up();
        let still = reader.registry.nodes().await.expect("it answers").len();
        assert_eq!(still, count, "all are still listed");
        measured.operations = crew.said().said;
        measured.figures.extend([
            Figure::number(named::AT_ONCE, at_once as f64),
            Figure::time(named::COMPLETE, complete),
            Figure::number(named::WRONG, crew.wrongly_left() as f64),
            Figure::number(named::ENDED, crew.ended() as f64),
        ]);
        measured
    })
}
