//! `GET /metrics`: what Catga tells the recorder of the `metrics` crate, as Prometheus reads it. `docs/metrics.md` lists it.

use std::sync::OnceLock;
use std::time::Duration;

use axum::extract::State;
use axum::http::header;
use axum::response::IntoResponse;
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};

use crate::api::App;

/// Seconds, for the durations of requests and runs.
const BUCKETS: [f64; 12] = [
    0.000_1, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1.0, 5.0,
];
/// How often what waits for the next look is put into its buckets, so that it does not pile up when nobody looks.
const UPKEEP: Duration = Duration::from_secs(5);

/// The recorder, of which a process has one; it is there before an application starts, or that would not see it.
pub(crate) fn recorder() -> PrometheusHandle {
    static RECORDER: OnceLock<PrometheusHandle> = OnceLock::new();
    let install = || {
        let builder = PrometheusBuilder::new().set_buckets(&BUCKETS);
        let builder = builder.expect("there are buckets");
        builder.install_recorder().expect("nobody else records")
    };
    RECORDER.get_or_init(install).clone()
}

/// Runs for as long as the runtime it is spawned in.
pub(crate) async fn upkeep(recorder: PrometheusHandle) {
    loop {
        tokio::time::sleep(UPKEEP).await;
        recorder.run_upkeep();
    }
}

pub(crate) async fn show(State(app): State<App>) -> impl IntoResponse {
    let text = "text/plain; version=0.0.4";
    ([(header::CONTENT_TYPE, text)], app.metrics.render())
}
