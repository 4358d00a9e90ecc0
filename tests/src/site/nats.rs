//! `nats-server`, administered with the raw client.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::time::Duration;

use async_nats::jetstream;
use async_nats::jetstream::consumer::{Consumer, Info, pull};
use async_nats::jetstream::context::ConsumerInfoErrorKind;
use async_nats::jetstream::stream::Stream;
use catga_core::{Bytes, Name, NodeId, async_trait};
use futures_util::StreamExt;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;
use tokio::time::timeout;

use super::nodes::{self, Discovery};
use super::{Backlog, Client, Counts, Lack, Secret, Site, SiteOptions};
use crate::server::{NatsOptions, NatsServer, Server, ServerError};

/// Who administers where there are users.
const ADMIN: &str = "admin";
/// The room that the bucket of the nodes takes for itself, whatever is in it.
const NODES: u64 = 10 << 20;
/// The longest to wait for what nodes tell.
const LIMIT: Duration = Duration::from_secs(2);
/// The user that clients are.
const USER: &str = "app";

/// A `nats-server` with JetStream, and its administrator.
#[derive(Debug)]
pub struct NatsSite {
    server: NatsServer,
    options: SiteOptions,
    permissions: Vec<String>,
    discovery: Discovery,
}

impl NatsSite {
    /// Starts one. `permissions` are the lines of what a user needs, each as in `publish = "catga.>"`.
    ///
    /// # Errors
    /// When there is no server, or it does not become ready.
    pub fn start(options: &SiteOptions, permissions: &str) -> Result<Self, ServerError> {
        if options.stand_by {
            return Err(ServerError::new("no nats-server stands by"));
        }
        let lines = permissions.lines().map(str::trim);
        let permissions = lines.filter(|line| !line.is_empty()).map(str::to_owned);
        Ok(Self {
            server: NatsServer::with(&configured(options))?,
            options: options.clone(),
            permissions: permissions.collect(),
            discovery: Discovery::Bucket,
        })
    }

    /// Sets how its nodes are known: by a bucket unless told otherwise.
    #[must_use]
    pub fn with_discovery(mut self, discovery: Discovery) -> Self {
        self.discovery = discovery;
        self
    }

    async fn client(&self) -> Result<async_nats::Client, ServerError> {
        let options = if has_users(&self.options) {
            async_nats::ConnectOptions::with_user_and_password(ADMIN.into(), ADMIN.into())
        } else {
            async_nats::ConnectOptions::new()
        };
        let address = self.server.address().to_string();
        options.connect(address).await.map_err(wrong)
    }

    async fn admin(&self) -> Result<jetstream::Context, ServerError> {
        Ok(jetstream::new(self.client().await?))
    }

    async fn stream(&self, message: &Name) -> Result<Stream, ServerError> {
        let stream = self.admin().await?.get_stream(stream_of(message)).await;
        stream.map_err(wrong)
    }

    async fn consumer(&self, message: &Name, durable: &str) -> Result<Option<Info>, ServerError> {
        let stream = self.stream(message).await?;
        match stream.consumer_info(durable).await {
            Ok(info) => Ok(Some(info)),
            Err(error) if error.kind() == ConsumerInfoErrorKind::NotFound => Ok(None),
            Err(error) => Err(wrong(error)),
        }
    }
}

fn stream_of(message: &Name) -> String {
    format!("catga~{}", message.as_str().replace('.', "="))
}

fn durable_of(group: &Name) -> String {
    group.as_str().replace('.', "=")
}

fn wrong(error: impl Display) -> ServerError {
    ServerError::new(error.to_string())
}

fn has_users(options: &SiteOptions) -> bool {
    options.password.is_some() || options.permissions.is_some()
}

fn configured(options: &SiteOptions) -> NatsOptions {
    let mut nats = NatsOptions::default();
    if let Some(room) = options.room {
        nats = nats.room(room + NODES);
    }
    if let Some(folder) = &options.folder {
        nats = nats.store(folder);
    }
    if let Some(made) = &options.certificate {
        let clients = options
            .clients
            .as_ref()
            .map(|authority| format!("ca_file: \"{}\", verify: true", authority.display()));
        nats = nats.config(&format!(
            "tls {{ cert_file: \"{}\", key_file: \"{}\", {} }}",
            made.certificate.display(),
            made.key.display(),
            clients.unwrap_or_default()
        ));
    }
    if has_users(options) {
        let password = options.password.as_deref().unwrap_or(USER);
        let permissions = options.permissions.as_ref().map(|lines| allowed(lines));
        nats = nats.config(&format!(
            "authorization {{ users: [ {{ user: {ADMIN}, password: {ADMIN} }}, {{ user: {USER}, password: {password:?} {} }} ] }}",
            permissions.unwrap_or_default()
        ));
    }
    nats
}

/// Lines as in `publish = "catga.>"`, for the configuration file.
fn allowed(lines: &[String]) -> String {
    let mut subjects: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    // A list without entries would allow everything.
    for what in ["publish", "subscribe"] {
        subjects.insert(what, vec!["none"]);
    }
    for line in lines {
        let entry = line.split_once(" = \"").and_then(|(what, rest)| {
            let (subject, _) = rest.split_once('"')?;
            Some((what, subject))
        });
        let (what, subject) = entry.expect("an entry as in `publish = \"catga.>\"`");
        subjects.entry(what).or_default().push(subject);
    }
    let lists: Vec<_> = subjects
        .into_iter()
        .map(|(what, subjects)| format!("{what}: {subjects:?}"))
        .collect();
    format!(", permissions: {{ {} }}", lists.join(", "))
}

#[derive(Deserialize)]
struct Varz {
    connections: u64,
    subscriptions: u64,
}

#[derive(Deserialize)]
struct Jsz {
    consumers: u64,
}

#[async_trait]
impl Site for NatsSite {
    fn server(&self) -> &(dyn Server + Send + Sync) {
        &self.server
    }

    fn server_mut(&mut self) -> &mut (dyn Server + Send + Sync) {
        &mut self.server
    }

    fn url(&self, at: &str, client: &Client) -> String {
        // What is gone is to be noticed soon.
        let mut options = vec![
            "pull_heartbeat=300ms".to_owned(),
            "call_timeout=2s".to_owned(),
        ];
        options.extend(self.discovery.option().map(str::to_owned));
        if let Some(own) = &client.shows {
            options.push(format!("tls_cert={}", own.certificate.display()));
            options.push(format!("tls_key={}", own.key.display()));
        }
        let scheme = match &client.trusts {
            Some(authority) => {
                options.push(format!("tls_ca={}", authority.display()));
                "tls"
            }
            None => "nats",
        };
        let password = match &client.password {
            Some(secret) => Some(secret.clone()),
            None if self.options.permissions.is_some() => {
                let given = self.options.password.as_deref().unwrap_or(USER);
                Some(Secret::Given(given.to_owned()))
            }
            None => None,
        };
        let user = match password {
            None => String::new(),
            Some(Secret::Given(password)) => {
                format!(
                    "{USER}:{}@",
                    utf8_percent_encode(&password, NON_ALPHANUMERIC)
                )
            }
            Some(Secret::File(file)) => {
                options.push(format!("password_file={}", file.display()));
                format!("{USER}@")
            }
        };
        format!("{scheme}://{user}{at}?{}", options.join("&"))
    }

    fn permissions(&self) -> Vec<String> {
        self.permissions.clone()
    }

    fn permissions_without(&self, lack: Lack) -> Vec<String> {
        let entry = match lack {
            Lack::Publishing => "publish = \"catga.>\"",
            Lack::Listening => "subscribe = \"catga.e.>\"",
            Lack::Storing => "publish = \"$JS.API.STREAM.CREATE.*\"",
            Lack::Answers => "subscribe = \"_INBOX.>\"",
        };
        let mut entries = self.permissions();
        entries.retain(|line| !line.starts_with(entry));
        assert!(
            entries.len() < self.permissions.len(),
            "`{entry}` is not listed"
        );
        entries
    }

    async fn stored(&self, message: &Name) -> Result<Vec<String>, ServerError> {
        let admin = self.admin().await?;
        let mut stream = match admin.get_stream(stream_of(message)).await {
            Ok(stream) => stream,
            Err(error) if error.to_string().contains("10059") => return Ok(Vec::new()),
            Err(error) => return Err(wrong(error)),
        };
        let state = stream.info().await.map_err(wrong)?.state.clone();
        let mut ids = Vec::new();
        if state.messages > 0 {
            for sequence in state.first_sequence..=state.last_sequence {
                let Ok(stored) = stream.get_raw_message(sequence).await else {
                    continue;
                };
                let id = stored.headers.get("Nats-Msg-Id");
                ids.push(id.map(ToString::to_string).unwrap_or_default());
            }
        }
        Ok(ids)
    }

    async fn delete(&self, message: &Name) -> Result<(), ServerError> {
        let admin = self.admin().await?;
        let deleted = admin.delete_stream(stream_of(message)).await;
        deleted.map(drop).map_err(wrong)
    }

    async fn empty(&self, message: &Name) -> Result<(), ServerError> {
        let stream = self.stream(message).await?;
        stream.purge().await.map(drop).map_err(wrong)
    }

    async fn delete_group(&self, message: &Name, group: &Name) -> Result<(), ServerError> {
        let stream = self.stream(message).await?;
        let durable = durable_of(group);
        let made = |info: Option<Info>| info.map(|info| info.created);
        let before = made(self.consumer(message, &durable).await?);
        let deleted = stream.delete_consumer(&durable).await;
        let after = made(self.consumer(message, &durable).await?);
        match deleted {
            // 2.9 may be writing where it deletes, and complain of the folder; it is gone all the same, or made anew by now.
            Err(_) if after != before => Ok(()),
            deleted => deleted.map(drop).map_err(wrong),
        }
    }

    async fn spoil_group(&self, message: &Name, group: &Name) -> Result<(), ServerError> {
        let stream = self.stream(message).await?;
        let durable = durable_of(group);
        let consumer: Consumer<pull::Config> =
            stream.get_consumer(&durable).await.map_err(wrong)?;
        let mut config = consumer.cached_info().config.clone();
        config.max_deliver = 2;
        let config = pull::Config {
            durable_name: Some(durable),
            max_deliver: 2,
            ack_wait: config.ack_wait,
            filter_subject: config.filter_subject,
            max_ack_pending: config.max_ack_pending,
            deliver_policy: config.deliver_policy,
            ..Default::default()
        };
        stream
            .create_consumer(config)
            .await
            .map(drop)
            .map_err(wrong)
    }

    async fn backlog(&self, message: &Name, group: &Name) -> Result<Option<Backlog>, ServerError> {
        let info = self.consumer(message, &durable_of(group)).await?;
        Ok(info.map(|info| Backlog {
            pending: info.num_ack_pending as u64,
            waiting: info.num_pending,
        }))
    }

    async fn has_member(
        &self,
        message: &Name,
        group: &Name,
        node: &NodeId,
    ) -> Result<bool, ServerError> {
        let durable = format!("{}~{}", durable_of(group), durable_of(node));
        Ok(self.consumer(message, &durable).await?.is_some())
    }

    fn counts(&self) -> Result<Counts, ServerError> {
        let varz: Varz = serde_json::from_str(&self.server.get("/varz")?).map_err(wrong)?;
        let jsz: Jsz = serde_json::from_str(&self.server.get("/jsz")?).map_err(wrong)?;
        Ok(Counts {
            consumers: jsz.consumers,
            subscriptions: varz.subscriptions,
            connections: varz.connections,
        })
    }

    async fn lose_nodes(&self) -> Result<bool, ServerError> {
        if self.discovery == Discovery::PubSub {
            return Ok(false);
        }
        let deleted = self.admin().await?.delete_stream(nodes::STREAM).await;
        deleted.map(|_| true).map_err(wrong)
    }

    async fn entry_of(&self, node: &NodeId) -> Result<Vec<u8>, ServerError> {
        if self.discovery == Discovery::PubSub {
            let client = self.client().await?;
            let told = client.subscribe(nodes::beat_of(node.as_str())).await;
            let next = timeout(LIMIT, told.map_err(wrong)?.next()).await;
            let told = next.map_err(wrong)?;
            let told = told.ok_or_else(|| ServerError::new("nothing is told of it"))?;
            return Ok(told.payload.to_vec());
        }
        let stream = self.admin().await?.get_stream(nodes::STREAM).await;
        let kept = stream.map_err(wrong)?;
        let subject = nodes::kept_at(node.as_str());
        let kept = kept.get_last_raw_message_by_subject(&subject);
        Ok(kept.await.map_err(wrong)?.payload.to_vec())
    }

    async fn write_entry(&self, id: &str, entry: &[u8]) -> Result<(), ServerError> {
        let entry: Bytes = entry.to_vec().into();
        let mut told = vec![nodes::REPORTS.to_owned()];
        if self.discovery == Discovery::PubSub {
            told.extend([nodes::told_at(id), nodes::beat_of(id)]);
        }
        let client = self.client().await?;
        for subject in told {
            let told = client.publish(subject, entry.clone()).await;
            told.map_err(wrong)?;
        }
        client.flush().await.map_err(wrong)?;
        if self.discovery == Discovery::PubSub {
            return Ok(());
        }
        // Without it nobody hears the answer.
        let admin = self.admin().await?;
        let kept = admin.publish(nodes::kept_at(id), entry).await;
        kept.map_err(wrong)?.await.map(drop).map_err(wrong)
    }

    fn change_password(&mut self, password: &str) -> Result<(), ServerError> {
        self.options.password = Some(password.to_owned());
        self.server.reload(configured(&self.options))
    }
}
