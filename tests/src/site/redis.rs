//! `redis-server`, administered with the raw client.

use catga_core::{Incarnation, Name, NodeId, async_trait};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use tempfile::NamedTempFile;

use super::nodes::{self, Discovery};
use super::{Backlog, Client, Counts, Lack, Secret, Site, SiteOptions};
use crate::server::{RedisCluster, RedisOptions, RedisSentinel, RedisServer, Server, ServerError};

/// The password of who administers.
const ADMIN: &str = "admin";
/// How long what is no node would live, in milliseconds: long enough to be looked at, and then its place is free.
const EXPIRY: u64 = 3_000;
/// The user that clients are.
const USER: &str = "app";
/// What clients and groups need.
const BASE: u64 = 4 << 20;
/// Counts groups and their members.
const CONSUMERS: &str = "local n=0 for _,key in ipairs(redis.call('KEYS','*')) do if redis.call('TYPE',key).ok=='stream' then for _,g in ipairs(redis.call('XINFO','GROUPS',key)) do n=n+1+g[4] end end end return n";

/// One server, two of which one stands by, or a cluster, and which of its servers was killed.
#[derive(Debug)]
enum Servers {
    One(Box<RedisServer>),
    Two(Box<RedisSentinel>),
    Six(Box<RedisCluster>, Option<usize>),
}

/// A `redis-server` with the append-only file, and its administrator.
#[derive(Debug)]
pub struct RedisSite {
    servers: Servers,
    options: SiteOptions,
    permissions: Vec<String>,
    discovery: Discovery,
    /// Users outlive a restart.
    _users: NamedTempFile,
}

impl RedisSite {
    /// Starts one, or where another is to stand by a primary, its replica and three sentinels. `permissions` are what a user
    /// needs, as in `~{catga:* &{catga:* -@all +ping`.
    ///
    /// # Errors
    /// When there is no server, or it does not become ready.
    pub fn start(options: &SiteOptions, permissions: &str) -> Result<Self, ServerError> {
        let permissions = permissions.split_whitespace();
        // Nothing is granted that is not listed.
        let permissions = permissions.filter(|entry| *entry != "-@all");
        let users = NamedTempFile::with_prefix("catga-users-")?;
        let mut redis = RedisOptions::default().append_only();
        if let Some(folder) = &options.folder {
            redis = redis.store(folder);
        }
        if let Some(made) = &options.certificate {
            let clients = options.clients.as_deref();
            redis = redis.encrypted(&made.certificate, &made.key, clients);
        }
        if has_users(options) {
            let admin = format!("user default on >{ADMIN} ~* &* +@all\n");
            std::fs::write(users.path(), admin)?;
            redis = redis
                .setting("aclfile", &users.path().display().to_string())
                .password(ADMIN);
        }
        let servers = if options.stand_by {
            Servers::Two(Box::new(RedisSentinel::start(&redis)?))
        } else {
            Servers::One(Box::new(RedisServer::with(&redis)?))
        };
        let this = Self {
            servers,
            options: options.clone(),
            permissions: permissions.map(str::to_owned).collect(),
            discovery: Discovery::SortedSet,
            _users: users,
        };
        if has_users(options) {
            let granted = options.permissions.as_ref().unwrap_or(&this.permissions);
            let granted = format!("-@all {}", granted.join(" "));
            this.set_user(options.password.as_deref().unwrap_or(USER), &granted)?;
        }
        if let Some(room) = options.room {
            let used = this.primary().ask("INFO memory")?;
            let used = used
                .lines()
                .find_map(|line| line.trim().strip_prefix("used_memory:"));
            let used: u64 = used.and_then(|used| used.parse().ok()).unwrap_or(0);
            let most = used + BASE + room;
            this.primary()
                .ask(&format!("CONFIG SET maxmemory {most}"))?;
        }
        Ok(this)
    }

    /// Starts a cluster. What an administrator looks at is at the server of each name, and there is no user but everybody.
    ///
    /// # Errors
    /// When there is no server, or they do not become a cluster.
    pub fn cluster(options: &SiteOptions) -> Result<Self, ServerError> {
        let servers = RedisCluster::start(&RedisOptions::default().append_only())?;
        Ok(Self {
            servers: Servers::Six(Box::new(servers), None),
            options: options.clone(),
            permissions: Vec::new(),
            discovery: Discovery::SortedSet,
            _users: NamedTempFile::with_prefix("catga-users-")?,
        })
    }

    /// The server that takes writes; of a cluster, the one that has the nodes.
    fn primary(&self) -> &RedisServer {
        match &self.servers {
            Servers::Six(cluster, _) => {
                let index = cluster.server_of(nodes::KEYS).unwrap_or(0);
                &cluster.servers()[index]
            }
            Servers::One(server) => server,
            Servers::Two(servers) => &servers.servers()[servers.primary().unwrap_or(0)],
        }
    }

    /// Gives the user a password and what else it may; it is known after a restart, too.
    fn set_user(&self, password: &str, granted: &str) -> Result<(), ServerError> {
        let password = quoted(&format!(">{password}"));
        self.primary().ask(&format!(
            "ACL SETUSER {USER} on resetpass {password} {granted}"
        ))?;
        self.primary().ask("ACL SAVE").map(drop)
    }

    /// Sets how its nodes are known: by a sorted set unless told otherwise.
    #[must_use]
    pub fn with_discovery(mut self, discovery: Discovery) -> Self {
        self.discovery = discovery;
        self
    }

    fn lines(&self, command: &str) -> Result<Vec<String>, ServerError> {
        let answer = self.primary().ask(command)?;
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

/// One word, whatever is in it.
fn quoted(word: &str) -> String {
    let mut quoted = String::from('"');
    for c in word.chars() {
        if matches!(c, '"' | '\\') {
            quoted.push('\\');
        }
        quoted.push(c);
    }
    quoted + "\""
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
        self.primary()
    }

    fn server_mut(&mut self) -> &mut (dyn Server + Send + Sync) {
        match &mut self.servers {
            Servers::One(server) => &mut **server,
            Servers::Two(servers) => {
                let primary = servers.primary().unwrap_or(0);
                servers.server_mut(primary)
            }
            Servers::Six(cluster, _) => {
                let index = cluster.server_of(nodes::KEYS).unwrap_or(0);
                cluster.server_mut(index)
            }
        }
    }

    fn url(&self, at: &str, client: &Client) -> String {
        // What is gone is to be noticed soon.
        let mut options = vec!["call_timeout=2s".to_owned()];
        options.extend(self.discovery.option().map(str::to_owned));
        if let Servers::Six(cluster, _) = &self.servers {
            let urls = cluster.urls();
            let hosts = urls.iter().map(|url| url.trim_start_matches("redis://"));
            let (hosts, options) = (hosts.collect::<Vec<_>>().join(","), options.join("&"));
            return format!("redis://{hosts}?cluster=true&{options}");
        }
        if let Servers::Two(servers) = &self.servers {
            let sentinels: Vec<_> = servers
                .sentinels()
                .iter()
                .map(ToString::to_string)
                .collect();
            // What was told to be stored is to be there after a fail-over.
            let (hosts, name) = (sentinels.join(","), servers.name());
            let options = options.join("&");
            return format!("redis://{hosts}?sentinel={name}&wait_replicas=1&{options}");
        }
        if let Some(own) = &client.shows {
            options.push(format!("tls_cert={}", own.certificate.display()));
            options.push(format!("tls_key={}", own.key.display()));
        }
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
            // Without `+publish` no node is known to others, and so none starts.
            Lack::Publishing => &["+xadd"],
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
        self.primary()
            .ask(&format!("DEL {}", stream_of(message)))
            .map(drop)
    }

    async fn empty(&self, message: &Name) -> Result<(), ServerError> {
        let command = format!("XTRIM {} MAXLEN 0", stream_of(message));
        self.primary().ask(&command).map(drop)
    }

    async fn delete_group(&self, message: &Name, group: &Name) -> Result<(), ServerError> {
        let command = format!("XGROUP DESTROY {} {group}", stream_of(message));
        self.primary().ask(&command).map(drop)
    }

    async fn spoil_group(&self, message: &Name, group: &Name) -> Result<(), ServerError> {
        // It says that it handles in an order that nobody asks for.
        let command = format!("SET {}:order:{group} 7", stream_of(message));
        self.primary().ask(&command).map(drop)
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
            consumers: number(&self.primary().ask(&format!("EVAL \"{CONSUMERS}\" 0"))?),
            subscriptions: self.lines("PUBSUB CHANNELS")?.len() as u64,
            // Without the one that asks.
            connections: clients as u64 - 1,
        })
    }

    async fn lose_nodes(&self) -> Result<bool, ServerError> {
        let keys = self.lines(&format!("KEYS {}*", nodes::KEYS))?;
        let deleted = self.primary().ask(&format!("DEL {}", keys.join(" ")));
        deleted.map(|_| true)
    }

    async fn entry_of(&self, node: &NodeId) -> Result<Vec<u8>, ServerError> {
        let key = nodes::key_of(node.as_str());
        let entry = self.primary().ask(&format!("HGET {key} node"))?;
        Ok(entry.into_bytes())
    }

    async fn write_entry(&self, id: &str, entry: &[u8]) -> Result<(), ServerError> {
        let (key, keys) = (nodes::key_of(id), nodes::KEYS.as_bytes());
        let ask = |parts: &[&[u8]]| self.primary().ask_in_parts(parts).map(drop);
        let is_record = self.primary().ask(&format!("TYPE {key}"))? == "hash";
        let time = self.lines("TIME")?;
        let seconds = time.first().and_then(|part| part.parse::<u64>().ok());
        let until = (seconds.unwrap_or_default() * 1000 + EXPIRY).to_string();
        let (key, id, until) = (key.as_bytes(), id.as_bytes(), until.as_bytes());
        if !is_record {
            ask(&[b"DEL", key])?;
        }
        if entry.is_empty() {
            // Something of another type.
            ask(&[b"SET", key, b"rubbish"])?;
        } else if is_record {
            ask(&[b"HSET", key, b"node", entry])?;
        } else {
            let incarnation = Incarnation::new().as_uuid().to_string();
            let incarnation: [&[u8]; 4] = [b"HSET", key, b"incarnation", incarnation.as_bytes()];
            ask(&incarnation)?;
            ask(&[b"HSET", key, b"node", entry])?;
            ask(&[b"HSET", key, b"timeout", b"1000"])?;
            ask(&[b"HSET", key, b"until", until])?;
        }
        match self.discovery {
            Discovery::Keys => ask(&[b"SADD", keys, id])?,
            _ => ask(&[b"ZADD", keys, until, id])?,
        }
        // Those who watch hear it, too.
        ask(&[b"PUBLISH", keys, entry])
    }

    fn change_password(&mut self, password: &str) -> Result<(), ServerError> {
        self.options.password = Some(password.to_owned());
        self.set_user(password, "")?;
        self.primary()
            .ask(&format!("CLIENT KILL USER {USER}"))
            .map(drop)
    }

    fn fail_over(&mut self, killed: bool) -> Result<(), ServerError> {
        match &mut self.servers {
            Servers::One(_) => Err(ServerError::new("no server stands by")),
            Servers::Two(servers) if killed => servers.kill_primary(),
            Servers::Two(servers) => servers.step_down(),
            Servers::Six(..) => Err(ServerError::new(
                "of a cluster the server of one name is killed",
            )),
        }
    }

    fn kill_server_of(&mut self, message: &Name) -> Result<(), ServerError> {
        let Servers::Six(cluster, killed) = &mut self.servers else {
            return self.server_mut().kill();
        };
        let index = cluster.server_of(&stream_of(message))?;
        cluster.server_mut(index).kill()?;
        *killed = Some(index);
        Ok(())
    }

    fn pause_replica_of(&mut self, message: &Name) -> Result<(), ServerError> {
        let Servers::Six(cluster, _) = &mut self.servers else {
            return Err(ServerError::new("there is no cluster"));
        };
        let index = cluster.server_of(&stream_of(message))?;
        cluster.servers()[index].wait_for_a_replica()?;
        cluster.other_mut(index).pause()?;
        // Else the system would deliver what was sent to it, also from who is dead.
        cluster.servers()[index]
            .ask("CLIENT KILL TYPE replica")
            .map(drop)
    }

    fn fail_overs(&self) -> Result<usize, ServerError> {
        match &self.servers {
            Servers::Six(cluster, _) => cluster.fail_overs(),
            _ => Err(ServerError::new("nobody counts them")),
        }
    }

    fn replace_killed(&mut self) -> Result<(), ServerError> {
        let Servers::Six(cluster, killed) = &mut self.servers else {
            return Err(ServerError::new("no server stands by"));
        };
        let index = killed
            .take()
            .ok_or_else(|| ServerError::new("no server was killed"))?;
        // It may stand.
        cluster.other_mut(index).resume()?;
        cluster.wait_for_fail_over(index)?;
        cluster.bring_back(index)
    }

    fn make_room(&mut self) -> Result<(), ServerError> {
        self.primary().ask("CONFIG SET maxmemory 0").map(drop)
    }
}
