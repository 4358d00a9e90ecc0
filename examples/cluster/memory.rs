//! Three nodes in one process, on the embedded backend.
//!
//! Each has a runtime of its own. One that is killed loses that: its tasks end wherever they are, its connections are reset, and
//! nobody leaves the registry in its name; as if its process had been killed.

use std::collections::BTreeMap;
use std::io::BufRead;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use catga::NodeRegistry;
use catga::prelude::{Catga, handlers};
use tokio::runtime::Runtime;
use tokio::sync::mpsc;

use crate::log::Log;
use crate::node::{Node, Settings};
use crate::signal;

const NAMES: [&str; 3] = ["node1", "node2", "node3"];
/// How long the tasks of a node that is killed may take to get to the next point where they can be.
const DYING: Duration = Duration::from_secs(5);

/// Runs three nodes until the process is asked to end, and does what is said on standard input: `kill node2`,
/// `stop node2`, `start node2`.
#[tokio::main]
pub(crate) async fn run(ports: [u16; 3], log: Log) -> Result<bool, String> {
    let mut house = House::open("cluster", log).await?;
    for (name, port) in NAMES.into_iter().zip(ports) {
        house.start(name, port).await?;
    }
    let mut lines = lines();
    let asked = signal::asked_to_end();
    tokio::pin!(asked);
    loop {
        let line = tokio::select! {
            biased;
            asked = &mut asked => break asked?,
            Some(line) = lines.recv() => line,
        };
        if let Err(problem) = house.obey(&line).await {
            crate::complain(&problem);
        }
    }
    house.close().await?;
    Ok(true)
}

/// The lines of standard input; none any more when it has ended. By a thread, since reading it cannot be given up.
fn lines() -> mpsc::Receiver<String> {
    let (tell, told) = mpsc::channel(1);
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines().map_while(Result::ok) {
            if tell.blocking_send(line).is_err() {
                return;
            }
        }
    });
    told
}

/// Where the nodes live.
#[derive(Debug)]
pub(crate) struct House {
    bus: String,
    log: Log,
    rooms: BTreeMap<String, Room>,
    /// They keep the bus, so that it does not end with the runtime of one of the nodes.
    _keepers: [Catga; 2],
}

#[derive(Debug)]
struct Room {
    settings: Settings,
    /// The node that lives there, if one does.
    living: Option<(Runtime, Node)>,
}

impl House {
    /// A house without nodes, around a bus.
    pub(crate) async fn open(bus: &str, log: Log) -> Result<Self, String> {
        let aside = keeper("aside", "memory://", None).await?;
        // The bus lives in the runtime of who makes it: ours. It is no node of the cluster, and has another registry.
        let registry = aside.backend().registry.clone();
        let keeper = keeper("keeper", &format!("memory://{bus}"), registry).await?;
        Ok(Self {
            bus: bus.to_owned(),
            log,
            rooms: BTreeMap::new(),
            _keepers: [aside, keeper],
        })
    }

    /// Starts a node at a port, where 0 is any free one.
    pub(crate) async fn start(&mut self, name: &str, port: u16) -> Result<(), String> {
        let settings = Settings {
            name: name.to_owned(),
            host: Ipv4Addr::LOCALHOST.into(),
            port,
            endpoint: None,
            url: format!("memory://{}", self.bus),
            quiet: false,
            trace: false,
        };
        let room = Room {
            settings,
            living: None,
        };
        self.rooms.insert(name.to_owned(), room);
        self.restart(name).await
    }

    /// Starts a node again, at its port.
    pub(crate) async fn restart(&mut self, name: &str) -> Result<(), String> {
        let log = self.log.clone();
        let room = self.room(name)?;
        if room.living.is_some() {
            return Err(format!("{name} runs"));
        }
        let runtime = Runtime::new().map_err(|error| format!("{name}: {error}"))?;
        let settings = room.settings.clone();
        let started = runtime.spawn(async move { Node::start(&settings, log).await });
        match started.await.map_err(|panic| panic.to_string()) {
            Ok(Ok(node)) => {
                room.settings.port = node.address.port();
                room.living = Some((runtime, node));
                Ok(())
            }
            Ok(Err(problem)) | Err(problem) => {
                runtime.shutdown_background();
                Err(problem)
            }
        }
    }

    /// Ends a node without a word.
    pub(crate) async fn kill(&mut self, name: &str) -> Result<(), String> {
        let (runtime, node) = self.leave(name)?;
        let log = self.log.clone();
        // Its handle goes last: while there is one nothing shuts the node down in good order.
        let died = tokio::task::spawn_blocking(move || {
            runtime.shutdown_timeout(DYING);
            drop(node);
        });
        died.await.map_err(|panic| panic.to_string())?;
        log.tell(name, format_args!("killed"));
        Ok(())
    }

    /// Ends a node in good order.
    pub(crate) async fn stop(&mut self, name: &str) -> Result<(), String> {
        let (runtime, node) = self.leave(name)?;
        let stopped = runtime.spawn(node.stop()).await;
        runtime.shutdown_background();
        stopped.map_err(|panic| panic.to_string())?
    }

    /// Ends all nodes in good order.
    pub(crate) async fn close(mut self) -> Result<(), String> {
        let living = self.rooms.iter().filter(|(_, room)| room.living.is_some());
        let living: Vec<_> = living.map(|(name, _)| name.clone()).collect();
        for name in living {
            self.stop(&name).await?;
        }
        Ok(())
    }

    /// A node that lives here.
    #[cfg(test)]
    pub(crate) fn node(&self, name: &str) -> &Node {
        let living = self.rooms[name].living.as_ref();
        &living.expect("it was not killed").1
    }

    async fn obey(&mut self, line: &str) -> Result<(), String> {
        match line.split_whitespace().collect::<Vec<_>>()[..] {
            [] => Ok(()),
            ["kill", name] => self.kill(name).await,
            ["stop", name] => self.stop(name).await,
            ["start", name] => self.restart(name).await,
            _ => Err(format!(
                "{line:?} is nothing to do: write `kill`, `stop` or `start` and the name of a node"
            )),
        }
    }

    fn room(&mut self, name: &str) -> Result<&mut Room, String> {
        let known: Vec<_> = self.rooms.keys().cloned().collect();
        let room = self.rooms.get_mut(name);
        room.ok_or_else(|| format!("there is no {name:?}: the nodes are {}", known.join(", ")))
    }

    fn leave(&mut self, name: &str) -> Result<(Runtime, Node), String> {
        let living = self.room(name)?.living.take();
        living.ok_or_else(|| format!("{name} does not run"))
    }
}

async fn keeper(
    name: &str,
    url: &str,
    registry: Option<Arc<dyn NodeRegistry>>,
) -> Result<Catga, String> {
    let builder = Catga::builder().connect(url).service("keeper");
    let builder = builder.node(name).handlers(handlers![]);
    let builder = match registry {
        Some(registry) => builder.registry(registry),
        None => builder,
    };
    let started = builder.start().await;
    started.map_err(|error| error.to_string())
}
