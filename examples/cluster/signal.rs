//! How a process is asked to end.

/// Waits for ctrl-c, or on Unix also SIGTERM.
pub(crate) async fn asked_to_end() -> Result<(), String> {
    let wrong = |error: std::io::Error| format!("signals cannot be received: {error}");
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};
        let mut term = signal(SignalKind::terminate()).map_err(wrong)?;
        tokio::select! {
            biased;
            _ = term.recv() => Ok(()),
            ctrl_c = tokio::signal::ctrl_c() => ctrl_c.map_err(wrong),
        }
    }
    #[cfg(not(unix))]
    tokio::signal::ctrl_c().await.map_err(wrong)
}
