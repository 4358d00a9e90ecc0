//! `redis-server`, administered with the raw client.

use catga_core::{Incarnation, Name, NodeId, async_trait};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use tempfile::NamedTempFile;

use super::nodes::{self, Discovery};
use super::{Backlog, Client, Counts, Lack, Secret, Site, SiteOptions};
use crate::server::{RedisOptions, RedisServer, Server, ServerError};

/// The password of who administers.
const ADMIN: &str = "admin";
/// How long what is no node would live, in milliseconds.
const EXPIRY: u64 = 120_000;
/// The user that clients are.
const USER: &str = "app";
/// What clients and groups need.
const BASE: u64 = 4 << 20;
/// Counts groups and their members.
const CONSUMERS: &str = "local n=0 for _,key in ipairs(redis.call('KEYS','*')) do if redis.call('TYPE',key).ok=='stream' then for _,g in ipairs(redis.call('XINFO','GROUPS',key)) do n=n+1+g[4] end end end return n";

/// A `redis-server` with the append-only file, and its administrator.
#[derive(Debug)]
pub struct RedisSite {
    server: RedisServer,
    options: SiteOptions,
    permissions: Vec<String>,
    discovery: Discovery,
    /// Users outlive a restart.
    _users: NamedTempFile,
}

impl RedisSite {
    /// Starts one. `permissions` are what a user needs, as in `~{catga:* &{catga:* +ping`.
    ///
    /// # Errors
    /// When there is no server, it does not become ready, or it is to speak TLS, which the kit's server does not.
    pub fn start(options: &SiteOptions, permissions: &str) -> Result<Self, ServerError> {
        if options.certificate.is_some() {
            return Err(ServerError::new(
                "the kit starts no redis-server that speaks TLS: `cargo test -p catga-redis servers` does".to_owned(),
            ));
        }
        let permissions: Vec<_> = permissions.split_whitespace().map(str::to_owned).collect();
        let users = NamedTempFile::with_prefix("catga-users-")?;
        let mut redis = RedisOptions::default().append_only();
        if has_users(options) {
            let password = options.password.as_deref().unwrap_or(USER);
            let granted = options.permissions.as_ref().unwrap_or(&permissions);
            let lines = format!(
                "user default on >{ADMIN} ~* &* +@all\nuser {USER} on >{password} -@all {}\n",
                granted.join(" ")
            );
            std::fs::write(users.path(), lines)?;
            redis = redis
                .setting("aclfile", &users.path().display().to_string())
                .password(ADMIN);
        }
        let server = RedisServer::with(&redis)?;
        if let Some(room) = options.room {
            let used = server.ask("INFO memory")?;
            let used = used
                .lines()
                .find_map(|line| line.trim().strip_prefix("used_memory:"));
            let used: u64 = used.and_then(|used| used.parse().ok()).unwrap_or(0);
            server.ask(&format!("CONFIG SET maxmemory {}", used + BASE + room))?;
        }
        Ok(Self {
            server,
            options: options.clone(),
            permissions,
            discovery: Discovery::SortedSet,
            _users: users,
        })
    }

    /// Sets how its nodes are known: by a sorted set unless told otherwise.
    #[must_use]
    pub fn with_discovery(mut self, discovery: Discovery) -> Self {
        self.discovery = discovery;
        self
    }

    fn lines(&self, command: &str) -> Result<Vec<String>, ServerError> {
        let answer = self.server.ask(command)?;
        Ok(answer.lines().map(str::to_owned).collect())
    }

    /// What is told of a group, by name.
    fn group(&self, message: &Name, group: &str) -> Result<Option<Vec<String>>, ServerError> {
        let told = match self.lines(&format!("XINFO GROUPS {}", stream_of(message))) {
            Err(error) if error.to_string().contains("no such key") => return Ok(None),
            told => told?,
        };
        let groups = told.split(|line| line == "name");
        let found = groups
            .into_iter()
            .find(|lines| lines.first().is_some_and(|name| name == group));
        Ok(found.map(<[String]>::to_vec))
    }
}

fn stream_of(message: &Name) -> String {
    format!("{{catga:{message}}}")
}

fn has_users(options: &SiteOptions) -> bool {
    options.password.is_some() || options.permissions.is_some()
}

/// The number behind a name.
fn number(lines: &[String], name: &str) -> u64 {
    let at = lines.iter().position(|line| line == name);
    let value = at.and_then(|at| lines.get(at + 1));
    value.and_then(|value| value.parse().ok()).unwrap_or(0)
}

#[async_trait]
impl Site for RedisSite {
    fn server(&self) -> &(dyn Server + Send + Sync) {
        &self.server
    }

    fn server_mut(&mut self) -> &mut (dyn Server + Send + Sync) {
        &mut self.server
    }

    fn url(&self, at: &str, client: &Client) -> String {
        // What is gone is to be noticed soon.
        let mut options = vec!["call_timeout=2s".to_owned()];
        options.extend(self.discovery.option().map(str::to_owned));
        let scheme = match &client.trusts {
            Some(authority) => {
                options.push(format!("tls_ca={}", authority.display()));
                "rediss"
            }
            None => "redis",
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
        let lacking: &[&str] = match lack {
            Lack::Publishing => &["+xadd", "+publish"],
            Lack::Listening | Lack::Answers => &["+subscribe"],
            Lack::Storing => &["+xgroup"],
        };
        let mut entries = self.permissions();
        entries.retain(|known| !lacking.contains(&known.as_str()));
        let gone = self.permissions.len() - entries.len();
        assert_eq!(gone, lacking.len(), "{lacking:?} are not all listed");
        entries
    }

    async fn stored(&self, message: &Name) -> Result<Vec<String>, ServerError> {
        let lines = self.lines(&format!("XRANGE {} - +", stream_of(message)))?;
        let pairs = lines.windows(2).filter(|pair| pair[0] == ":id");
        Ok(pairs.map(|pair| pair[1].clone()).collect())
    }

    async fn delete(&self, message: &Name) -> Result<(), ServerError> {
        self.server
            .ask(&format!("DEL {}", stream_of(message)))
            .map(drop)
    }

    async fn empty(&self, message: &Name) -> Result<(), ServerError> {
        let command = format!("XTRIM {} MAXLEN 0", stream_of(message));
        self.server.ask(&command).map(drop)
    }

    async fn delete_group(&self, message: &Name, group: &Name) -> Result<(), ServerError> {
        let command = format!("XGROUP DESTROY {} {group}", stream_of(message));
        self.server.ask(&command).map(drop)
    }

    async fn spoil_group(&self, message: &Name, group: &Name) -> Result<(), ServerError> {
        // It says that it handles in an order that nobody asks for.
        let command = format!("SET {}:order:{group} 7", stream_of(message));
        self.server.ask(&command).map(drop)
    }

    async fn backlog(&self, message: &Name, group: &Name) -> Result<Option<Backlog>, ServerError> {
        let told = self.group(message, group.as_str())?;
        Ok(told.map(|lines| Backlog {
            pending: number(&lines, "pending"),
            waiting: number(&lines, "lag"),
        }))
    }

    async fn has_member(
        &self,
        message: &Name,
        group: &Name,
        node: &NodeId,
    ) -> Result<bool, ServerError> {
        Ok(self.group(message, &format!("{group}~{node}"))?.is_some())
    }

    fn counts(&self) -> Result<Counts, ServerError> {
        let number = |text: &str| text.trim().parse().unwrap_or(0);
        let clients = self.lines("CLIENT LIST")?;
        let clients = clients.iter().filter(|line| line.contains("id=")).count();
        Ok(Counts {
            consumers: number(&self.server.ask(&format!("EVAL \"{CONSUMERS}\" 0"))?),
            subscriptions: self.lines("PUBSUB CHANNELS")?.len() as u64,
            // Without the one that asks.
            connections: clients as u64 - 1,
        })
    }

    async fn lose_nodes(&self) -> Result<bool, ServerError> {
        let keys = self.lines(&format!("KEYS {}*", nodes::KEYS))?;
        let deleted = self.server.ask(&format!("DEL {}", keys.join(" ")));
        deleted.map(|_| true)
    }

    async fn entry_of(&self, node: &NodeId) -> Result<Vec<u8>, ServerError> {
        let key = nodes::key_of(node.as_str());
        let entry = self.server.ask(&format!("HGET {key} node"))?;
        Ok(entry.into_bytes())
    }

    async fn write_entry(&self, id: &str, entry: &[u8]) -> Result<(), ServerError> {
        let (key, keys) = (nodes::key_of(id), nodes::KEYS.as_bytes());
        self.server.ask(&format!("DEL {key}"))?;
        if entry.is_empty() {
            // Something of another type.
            self.server.ask(&format!("SET {key} \"\""))?;
        } else {
            let time = self.lines("TIME")?;
            let seconds = time.first().and_then(|part| part.parse::<u64>().ok());
            let until = (seconds.unwrap_or_default() * 1000 + EXPIRY).to_string();
            let incarnation = Incarnation::new().as_uuid().to_string();
            let record: [&[u8]; 14] = [
                b"HSET",
                key.as_bytes(),
                b"incarnation",
                incarnation.as_bytes(),
                b"node",
                entry,
                b"timeout",
                b"1000",
                b"started",
                until.as_bytes(),
                b"until",
                until.as_bytes(),
                b"load",
                b"0",
            ];
            self.server.ask_in_parts(&record)?;
            match self.discovery {
                Discovery::Keys => {
                    self.server.ask_in_parts(&[b"SADD", keys, id.as_bytes()])?;
                }
                _ => {
                    let listed: [&[u8]; 4] = [b"ZADD", keys, until.as_bytes(), id.as_bytes()];
                    self.server.ask_in_parts(&listed)?;
                }
            }
        }
        // Those who watch hear it, too.
        self.server
            .ask_in_parts(&[b"PUBLISH", keys, entry])
            .map(drop)
    }

    fn change_password(&mut self, password: &str) -> Result<(), ServerError> {
        self.options.password = Some(password.to_owned());
        self.server
            .ask(&format!("ACL SETUSER {USER} resetpass >{password}"))?;
        self.server.ask("ACL SAVE")?;
        self.server
            .ask(&format!("CLIENT KILL USER {USER}"))
            .map(drop)
    }
}
