//! One pass of one case, in a process of its own: what it measured is the last line that it writes.

use catga_testkit::server::{NatsServer, RedisOptions, RedisServer, Server, ServerError};
use nix::unistd::Pid;

use crate::bench::{Bench, HEAP, Pass};
use crate::case::Needs;
use crate::cases;
use crate::options::Child;

/// The server of a case, which ends with this process.
enum Running {
    Nats(NatsServer),
    Redis(RedisServer),
}

impl Running {
    fn start(needs: Needs) -> Result<Option<Self>, ServerError> {
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

    fn url(&self) -> String {
        match self {
            Self::Nats(server) => server.url(),
            Self::Redis(server) => server.url(),
        }
    }

    fn pid(&self) -> Option<Pid> {
        let process = match self {
            Self::Nats(server) => server.process(),
            Self::Redis(server) => server.process(),
        };
        process.map(|process| Pid::from_raw(process.id()))
    }
}

pub fn run(child: &Child) -> Result<bool, String> {
    let mut all = cases::all().into_iter();
    let case = all
        .find(|case| case.name == child.case)
        .ok_or_else(|| format!("no case is named {:?}", child.case))?;
    if child.pass == Pass::Allocations && HEAP.get().is_none() {
        return Err("only the program `counting` counts allocations".to_owned());
    }
    let server = Running::start(case.needs).map_err(|error| error.to_string())?;
    let measured = (case.run)(Bench {
        operations: child.operations,
        url: server.as_ref().map(Running::url).unwrap_or_default(),
        server: server.as_ref().and_then(Running::pid),
        pass: child.pass,
    });
    let line = serde_json::to_string(&measured).map_err(|error| error.to_string())?;
    println!("{line}");
    Ok(true)
}
