//! Making connections: to one server, to the primary that sentinels know, to the nodes of a cluster.

use std::fs;
use std::future::pending;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use catga_core::Error;
use redis::aio::{ConnectionLike, MultiplexedConnection, PubSub};
use redis::cluster::{ClusterClient, ClusterClientBuilder};
use redis::cluster_async::ClusterConnection;
use redis::cluster_routing::{MultipleNodeRoutingInfo, RoutingInfo};
use redis::io::tcp::TcpSettings;
use redis::sentinel::{SentinelClientBuilder, SentinelServerType};
use redis::{
    AsyncConnectionConfig, Client, ClientTlsConfig, Cmd, ConnectionAddr, ConnectionInfo,
    IntoConnectionInfo, Pipeline, RedisConnectionInfo, RedisFuture, TlsCertificates, TlsMode,
    Value,
};
use tokio::select;
use tokio::time::{sleep, timeout};

use crate::options::{Credentials, Password, ServerKind, Settings, Tls};
use crate::{error, probe};

/// Commands that wait in the client before their senders do.
const QUEUE: usize = 1024;
/// After which silence a server with TLS may be one without.
const SILENCE: Duration = Duration::from_millis(500);
/// The bytes that the client writes at once.
const WRITE_BUFFER: usize = 64 * 1024;
/// How often the client tries a command at the nodes of a cluster, which may have moved.
const CLUSTER_RETRIES: u32 = 3;

/// A connection for commands.
#[derive(Clone)]
pub(crate) enum Conn {
    /// To one server. It is not made again by itself.
    Single(MultiplexedConnection),
    /// To all nodes of a cluster, each made again by itself.
    Cluster(ClusterConnection),
}

impl Conn {
    /// Asks the server, or every primary of a cluster, which are told apart in a map.
    pub(crate) async fn ask_each(&mut self, cmd: &Cmd) -> redis::RedisResult<Value> {
        match self {
            Self::Single(conn) => conn.req_packed_command(cmd).await,
            Self::Cluster(conn) => {
                let all = RoutingInfo::MultiNode((MultipleNodeRoutingInfo::AllNodes, None));
                conn.route_command(cmd.clone(), all).await
            }
        }
    }
}

impl ConnectionLike for Conn {
    fn req_packed_command<'a>(&'a mut self, cmd: &'a Cmd) -> RedisFuture<'a, Value> {
        match self {
            Self::Single(conn) => conn.req_packed_command(cmd),
            Self::Cluster(conn) => conn.req_packed_command(cmd),
        }
    }

    fn req_packed_commands<'a>(
        &'a mut self,
        pipeline: &'a Pipeline,
        offset: usize,
        count: usize,
    ) -> RedisFuture<'a, Vec<Value>> {
        match self {
            Self::Single(conn) => conn.req_packed_commands(pipeline, offset, count),
            Self::Cluster(conn) => conn.req_packed_commands(pipeline, offset, count),
        }
    }

    fn get_db(&self) -> i64 {
        match self {
            Self::Single(conn) => conn.get_db(),
            Self::Cluster(conn) => conn.get_db(),
        }
    }
}

/// Makes connections as the settings say.
#[derive(Clone, Debug)]
pub(crate) struct Factory {
    settings: Arc<Settings>,
}

impl Factory {
    pub(crate) fn new(settings: Arc<Settings>) -> Self {
        if settings.tls.is_some() {
            // The client panics without one; another that the process chose is as good.
            let _ = rustls::crypto::ring::default_provider().install_default();
        }
        Self { settings }
    }

    /// A connection for commands. Whoever uses it sets the time-outs.
    pub(crate) async fn commands(&self) -> Result<Conn, Error> {
        self.connect(CLUSTER_RETRIES).await
    }

    /// The first connection for commands. A server without TLS says nothing to who asks for it, and is asked in plain text then
    /// whether it is one.
    pub(crate) async fn first(&self) -> Result<Conn, Error> {
        let settings = &*self.settings;
        let plain = async {
            if settings.tls.is_none() || settings.kind != ServerKind::Single {
                return pending().await;
            }
            sleep(settings.connect_timeout.min(SILENCE)).await;
            let (host, port) = &settings.hosts[0];
            if !probe::speaks_plain(host, *port).await {
                pending::<()>().await;
            }
        };
        select! {
            biased;
            made = self.commands() => made,
            () = plain => Err(error::speaks_plain(&settings.shown_hosts())),
        }
    }

    /// The same for what may not be done twice unsaid: a command of which the answer is lost is not sent again, nor one that
    /// belongs to another node of a cluster.
    pub(crate) async fn once(&self) -> Result<Conn, Error> {
        self.connect(0).await
    }

    async fn connect(&self, cluster_retries: u32) -> Result<Conn, Error> {
        let made = async {
            match &self.settings.kind {
                ServerKind::Cluster => {
                    let client = self.cluster(cluster_retries)?;
                    let conn = client.get_async_connection().await;
                    conn.map(Conn::Cluster).map_err(|e| self.failed(&e))
                }
                _ => {
                    let config = AsyncConnectionConfig::new()
                        .set_connection_timeout(None)
                        .set_response_timeout(None)
                        .set_pipeline_buffer_size(QUEUE)
                        .set_write_backpressure_boundary(WRITE_BUFFER);
                    let client = self.client().await?;
                    let conn = client.get_multiplexed_async_connection_with_config(&config);
                    conn.await.map(Conn::Single).map_err(|e| self.failed(&e))
                }
            }
        };
        self.in_time(made).await
    }

    /// A connection for messages to channels.
    pub(crate) async fn pubsub(&self) -> Result<PubSub, Error> {
        let made = async {
            let client = self.client().await?;
            let pubsub = client.get_async_pubsub().await;
            pubsub.map_err(|e| self.failed(&e))
        };
        self.in_time(made).await
    }

    async fn in_time<T>(&self, made: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
        let within = self.settings.connect_timeout;
        match timeout(within, made).await {
            Ok(made) => made,
            Err(_) => Err(error::connect_timeout(&self.settings.shown_hosts(), within)),
        }
    }

    /// The client of the one server, of the primary, or of the first node that is there.
    async fn client(&self) -> Result<Client, Error> {
        match &self.settings.kind {
            ServerKind::Sentinel { name, credentials } => {
                let client = self.sentinels(name, credentials)?.async_get_client().await;
                client.map_err(|e| self.failed(&e))
            }
            _ => {
                // The nodes of a cluster stand in for each other, the next at each try.
                let hosts = &self.settings.hosts;
                let (host, port) = &hosts[fastrand::usize(..hosts.len())];
                let info = self.info(host, *port)?;
                let client = match &self.settings.tls {
                    Some(tls) => Client::build_with_tls(info, certificates(tls)?),
                    None => Client::open(info),
                };
                client.map_err(|e| error::settings(&e))
            }
        }
    }

    fn sentinels(
        &self,
        name: &str,
        credentials: &Credentials,
    ) -> Result<redis::sentinel::SentinelClient, Error> {
        let settings = &*self.settings;
        let hosts = settings.hosts.iter();
        let sentinels = hosts.map(|(host, port)| self.address(host, *port));
        let builder = SentinelClientBuilder::new(sentinels, name, SentinelServerType::Master);
        let mut builder = builder.map_err(|e| error::settings(&e))?;
        builder = builder
            .set_client_to_redis_db(settings.database)
            .set_client_to_redis_tcp_settings(no_delay())
            .set_client_to_sentinel_tcp_settings(no_delay());
        if let Some(password) = password(&settings.credentials.password)? {
            builder = builder.set_client_to_redis_password(password);
        }
        if let Some(user) = &settings.credentials.user {
            builder = builder.set_client_to_redis_username(user);
        }
        if let Some(password) = password(&credentials.password)? {
            builder = builder.set_client_to_sentinel_password(password);
        }
        if let Some(user) = &credentials.user {
            builder = builder.set_client_to_sentinel_username(user);
        }
        if let Some(tls) = &settings.tls {
            let certificates = certificates(tls)?;
            builder = builder
                .set_client_to_redis_tls_mode(TlsMode::Secure)
                .set_client_to_sentinel_tls_mode(TlsMode::Secure)
                .set_client_to_redis_certificates(certificates.clone())
                .set_client_to_sentinel_certificates(certificates);
        }
        builder.build().map_err(|e| error::settings(&e))
    }

    fn cluster(&self, retries: u32) -> Result<ClusterClient, Error> {
        let settings = &*self.settings;
        let mut nodes = Vec::with_capacity(settings.hosts.len());
        for (host, port) in &settings.hosts {
            nodes.push(self.info(host, *port)?);
        }
        let mut builder = ClusterClientBuilder::new(nodes)
            .retries(retries)
            .connection_timeout(settings.connect_timeout)
            .response_timeout(settings.call_timeout)
            .overall_response_timeout(None)
            .tcp_settings(no_delay())
            .write_backpressure_boundary(WRITE_BUFFER);
        if let Some(password) = password(&settings.credentials.password)? {
            builder = builder.password(password);
        }
        if let Some(user) = &settings.credentials.user {
            builder = builder.username(user);
        }
        if let Some(tls) = &settings.tls {
            builder = builder.tls(TlsMode::Secure).certs(certificates(tls)?);
        }
        builder.build().map_err(|e| error::settings(&e))
    }

    fn info(&self, host: &str, port: u16) -> Result<ConnectionInfo, Error> {
        let settings = &*self.settings;
        let mut redis = RedisConnectionInfo::default()
            .set_db(settings.database)
            // Not granted by every list of rights, and of no use to us.
            .set_skip_set_lib_name();
        if let Some(password) = password(&settings.credentials.password)? {
            redis = redis.set_password(password);
        }
        if let Some(user) = &settings.credentials.user {
            redis = redis.set_username(user);
        }
        let info = self.address(host, port).into_connection_info();
        let info = info.map_err(|e| error::settings(&e))?;
        Ok(info.set_redis_settings(redis).set_tcp_settings(no_delay()))
    }

    fn address(&self, host: &str, port: u16) -> ConnectionAddr {
        let host = host.to_owned();
        match self.settings.tls {
            Some(_) => ConnectionAddr::TcpTls {
                host,
                port,
                insecure: false,
                tls_params: None,
            },
            None => ConnectionAddr::Tcp(host, port),
        }
    }

    fn failed(&self, error: &redis::RedisError) -> Error {
        error::connect(error, &self.settings.shown_hosts())
    }
}

fn no_delay() -> TcpSettings {
    TcpSettings::default().set_nodelay(true)
}

fn password(password: &Password) -> Result<Option<String>, Error> {
    match password {
        Password::None => Ok(None),
        Password::Given(password) => Ok(Some(password.clone())),
        Password::File(file) => {
            let text = fs::read_to_string(file);
            let text = text.map_err(|e| error::file("the password file", file, e))?;
            Ok(Some(text.trim_end_matches(['\r', '\n']).to_owned()))
        }
    }
}

fn certificates(tls: &Tls) -> Result<TlsCertificates, Error> {
    let read = |what: &str, file: &Path| fs::read(file).map_err(|e| error::file(what, file, e));
    let client_tls = match &tls.identity {
        Some((certificate, key)) => Some(ClientTlsConfig {
            client_cert: read("the client's certificate", certificate)?,
            client_key: read("the client's key", key)?,
        }),
        None => None,
    };
    let root_cert = match &tls.ca {
        Some(file) => Some(read("the certificate of the authority", file)?),
        None => None,
    };
    Ok(TlsCertificates {
        client_tls,
        root_cert,
    })
}
