//! The server of a case, which ends with its process.

use catga_testkit::server::{NatsServer, RedisOptions, RedisServer, Server, ServerError};
use nix::unistd::Pid;

use crate::case::Needs;

pub enum Running {
    Nats(NatsServer),
    Redis(RedisServer),
}

impl Running {
    pub fn start(needs: Needs) -> Result<Option<Self>, ServerError> {
        Ok(match needs {
            Needs::Nothing => None,
            Needs::Nats => Some(Self::Nats(NatsServer::start()?)),
            Needs::Redis => Some(Self::Redis(RedisServer::start()?)),
            Needs::RedisOnFile => {
                let options = RedisOptions::default()
                    .append_only()
                    .setting("appendfsync", "everysec");
                Some(Self::Redis(RedisServer::with(&options)?))
            }
        })
    }

    pub fn url(&self) -> String {
        match self {
            Self::Nats(server) => server.url(),
            Self::Redis(server) => server.url(),
        }
    }

    pub fn pid(&self) -> Option<Pid> {
        let process = match self {
            Self::Nats(server) => server.process(),
            Self::Redis(server) => server.process(),
        };
        process.map(|process| Pid::from_raw(process.id()))
    }

    /// Kills it, and starts it again on its port, with what it has on file.
    pub fn kill_and_restart(&mut self) -> Result<(), ServerError> {
        match self {
            Self::Nats(server) => {
                server.kill()?;
                server.restart()
            }
            Self::Redis(server) => {
                server.kill()?;
                server.restart()
            }
        }
    }
}
