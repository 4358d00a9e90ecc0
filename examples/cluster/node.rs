//! A node: Catga, and HTTP in front of it.

use std::fmt;
use std::future::IntoFuture;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use axum::serve::ListenerExt;
use catga::prelude::{Catga, HandlerError};
use catga::{CatgaBuilder, ErrorKind};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};

use crate::api::{App, router};
use crate::book::Book;
use crate::catch_up::catch_up;
use crate::log::Log;
use crate::roster::Roster;
use crate::{metrics, signal, trace};

/// Shorter than the defaults (10 s, 30 s and 30 s), so that one can watch how a dead node is noticed, and so that the order that it
/// had begun is taken over while its client waits: after the node was given up another claims it, when its lease is over.
const HEARTBEAT: Duration = Duration::from_secs(1);
const NODE_TIMEOUT: Duration = Duration::from_secs(4);
const ACK_WAIT: Duration = Duration::from_secs(3);
/// Longer than the default (10 s), since a node that dies costs up to the sum of these.
const REQUEST_DEADLINE: Duration = Duration::from_secs(15);
/// How long the node before of the same name may be listed after it was killed.
const DOUBLE: Duration = Duration::from_secs(30);
/// How long HTTP requests may take to end when the node stops.
const HTTP_DRAIN: Duration = Duration::from_secs(20);

/// What a node is to be.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Settings {
    pub(crate) name: String,
    /// Where HTTP listens; port 0 is any free one.
    pub(crate) host: IpAddr,
    pub(crate) port: u16,
    /// Where others reach it, when that is not where it listens.
    pub(crate) endpoint: Option<String>,
    pub(crate) url: String,
    /// Write nothing of single orders.
    pub(crate) quiet: bool,
    /// Write each span.
    pub(crate) trace: bool,
}

impl fmt::Debug for Settings {
    /// Without the URL, which may have a password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Settings")
            .field("name", &self.name)
            .field("host", &self.host)
            .field("port", &self.port)
            .field("endpoint", &self.endpoint)
            .field("quiet", &self.quiet)
            .field("trace", &self.trace)
            .finish_non_exhaustive()
    }
}

/// A node that runs.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) catga: Catga,
    pub(crate) address: SocketAddr,
    log: Log,
    stop: watch::Sender<bool>,
    server: JoinHandle<io::Result<()>>,
}

/// Runs one node until it is asked to end.
#[tokio::main]
pub(crate) async fn run(settings: &Settings) -> Result<bool, String> {
    let log = if settings.quiet {
        Log::Quiet
    } else {
        Log::Stdout
    };
    if settings.trace {
        trace::install(&settings.name)?;
    }
    let mut node = Node::start(settings, log).await?;
    let ended = tokio::select! {
        biased;
        ended = &mut node.server => Some(ended),
        asked = signal::asked_to_end() => { asked?; None }
    };
    if let Some(ended) = ended {
        let why = match ended {
            Ok(Ok(())) => "it stopped by itself".to_owned(),
            Ok(Err(error)) => error.to_string(),
            Err(panic) => panic.to_string(),
        };
        return Err(format!("{}: HTTP ended: {why}", settings.name));
    }
    node.stop().await?;
    Ok(true)
}

impl Node {
    /// Joins the cluster, and takes orders from then on.
    pub(crate) async fn start(settings: &Settings, log: Log) -> Result<Self, String> {
        let Settings {
            name, host, port, ..
        } = settings;
        let metrics = metrics::recorder();
        tokio::spawn(metrics::upkeep(metrics.clone()));
        // First, since its port is told to the others. Who connects already is let in when the node is ready.
        let listener = TcpListener::bind((*host, *port)).await;
        let listener = listener
            .map_err(|error| format!("{name}: cannot listen at port {port} of {host}: {error}"))?;
        let address = listener.local_addr();
        let address = address.map_err(|error| format!("{name}: {error}"))?;

        let book = Book::open();
        let catga = join(settings, address, &book, &log).await?;
        catch_up(&catga, &book, &log).await;
        let (stop, stopping) = watch::channel(false);
        let app = App {
            roster: Roster::of(&catga),
            catga: catga.clone(),
            book,
            metrics,
            stopping: stopping.clone(),
        };
        // Answers are small, and nothing follows that they could wait for.
        let listener = listener.tap_io(|connection| drop(connection.set_nodelay(true)));
        let mut stopping = stopping;
        let stopped = async move {
            // The sender lives as long as the node.
            let _ = stopping.wait_for(|stopping| *stopping).await;
        };
        let server = axum::serve(listener, router(app)).with_graceful_shutdown(stopped);
        let server = tokio::spawn(server.into_future());
        let backend = catga.backend().name;
        log.tell(
            name,
            format_args!("listening on http://{address}, over {backend}"),
        );
        Ok(Self {
            catga,
            address,
            log,
            stop,
            server,
        })
    }

    /// Ends without failing anybody: no new connection, then answers for whoever waits for one, then out of the cluster.
    pub(crate) async fn stop(mut self) -> Result<(), String> {
        let name = self.catga.node().clone();
        self.log.tell(&name, format_args!("stopping"));
        self.stop.send_replace(true);
        let drained = timeout(HTTP_DRAIN, &mut self.server).await;
        if drained.is_err() {
            self.server.abort();
        }
        let report = self.catga.shutdown().await;
        let report = report.map_err(|error| format!("{name}: {error}"))?;
        if drained.is_err() {
            return Err(format!(
                "{name}: HTTP requests still ran after {HTTP_DRAIN:?}"
            ));
        }
        if report.unfinished > 0 {
            let unfinished = report.unfinished;
            return Err(format!(
                "{name}: {unfinished} handlers still ran at the end"
            ));
        }
        self.log.tell(&name, format_args!("stopped"));
        Ok(())
    }
}

/// Starts Catga. A node that was killed is listed until it has been silent for long enough: its successor waits for that.
async fn join(
    settings: &Settings,
    address: SocketAddr,
    book: &Book,
    log: &Log,
) -> Result<Catga, String> {
    let name = &settings.name;
    let began = Instant::now();
    let mut waits = false;
    loop {
        let builder = builder(settings, address);
        let builder = builder.state(book.clone()).state(log.clone());
        match builder.start().await {
            Ok(catga) => return Ok(catga),
            Err(error) if error.kind() == ErrorKind::DuplicateNode && began.elapsed() < DOUBLE => {
                if !waits {
                    log.tell(
                        name,
                        format_args!("waiting: another {name} is there, or has not been silent for long enough"),
                    );
                }
                waits = true;
                sleep(HEARTBEAT / 4).await;
            }
            // With its causes on the same line.
            Err(error) => return Err(format!("{name}: {}", HandlerError::from(error))),
        }
    }
}

fn builder(settings: &Settings, address: SocketAddr) -> CatgaBuilder {
    let Settings { name, url, .. } = settings;
    let endpoint = settings.endpoint.clone();
    let mut builder = Catga::builder()
        .connect(url)
        .service("orders")
        .node(name)
        .endpoint(endpoint.unwrap_or_else(|| format!("http://{address}")));
    // What the URL says is left alone.
    if !url.contains("heartbeat=") && !url.contains("node_timeout=") {
        builder = builder.heartbeat(HEARTBEAT, NODE_TIMEOUT);
    }
    if !url.contains("ack_wait=") {
        builder = builder.ack_wait(ACK_WAIT);
    }
    if !url.contains("request_deadline=") {
        builder = builder.request_deadline(REQUEST_DEADLINE);
    }
    builder
}
