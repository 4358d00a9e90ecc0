//! Real servers for scenarios: processes on free ports with fresh data folders, that are killed, paused and restarted.
//!
//! ```no_run
//! use catga_testkit::server::{NatsServer, Server};
//!
//! # fn main() -> Result<(), catga_testkit::server::ServerError> {
//! let mut server = NatsServer::start()?;
//! println!("{} at {}", server.version(), server.url());
//! server.pause()?;     // SIGSTOP, and waits until it stands
//! server.resume()?;
//! server.kill()?;      // SIGKILL
//! server.restart()?;   // the same port and data
//! # Ok(())
//! # }
//! ```
//!
//! A server ends with its value, and also when the process that started it is killed. Everything here blocks: in
//! asynchronous tests call it in [`spawn_blocking`](tokio::task::spawn_blocking), or where nothing else has to go on.

mod binary;
mod daemon;
mod error;
mod nats;
mod process;
mod redis;
mod redis_cluster;
mod resp;
mod sentinel;
mod wait;

pub use binary::{Binary, nats_server, redis_server};
pub use daemon::{Daemon, Server};
pub use error::ServerError;
pub use nats::{NatsCluster, NatsOptions, NatsServer};
pub use process::Process;
pub use redis::{RedisOptions, RedisServer, Role};
pub use redis_cluster::RedisCluster;
pub use sentinel::RedisSentinel;
