//! The processes that serve: the example, or the program that does the same by hand.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use std::{env, fs, thread};

use catga_testkit::server::Process;
use nix::unistd::Pid;
use serde_json::Value;

use super::{What, load};
use crate::case::Needs;
use crate::running::Running;

/// Whoever is not there by then never is.
const PATIENCE: Duration = Duration::from_secs(60);

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Side {
    ByHand,
    Ours,
}

/// Nodes that serve, the first of which is posted to.
pub struct Nodes {
    side: Side,
    processes: Vec<Process>,
    addresses: Vec<SocketAddr>,
    folder: PathBuf,
}

impl Drop for Nodes {
    fn drop(&mut self) {
        // What stays lies in the folder for what is passing.
        let _ = fs::remove_dir_all(&self.folder);
    }
}

impl Nodes {
    /// Returns when each is there, and sees the others.
    pub fn start(what: What, url: &str) -> Self {
        let folder = env::temp_dir().join(format!("catga-http-{}", std::process::id()));
        fs::create_dir_all(&folder).expect("a folder for the logs");
        let mut nodes = Self {
            side: what.side,
            processes: Vec::new(),
            addresses: Vec::new(),
            folder,
        };
        let count = what.nodes.to_string();
        let in_one = |arguments: &[&str]| -> Vec<Vec<String>> {
            vec![arguments.iter().map(|text| (*text).to_owned()).collect()]
        };
        let programs: Vec<Vec<String>> = match (what.side, what.needs) {
            (Side::ByHand, Needs::Nothing) => in_one(&["bare", url, &count]),
            (Side::Ours, Needs::Nothing) if what.nodes == 1 => {
                in_one(&["cluster", "node1", "0", "--quiet"])
            }
            (Side::Ours, Needs::Nothing) => {
                in_one(&["cluster", "memory", "0", "0", "0", "--quiet"])
            }
            _ => (1..=what.nodes)
                .map(|node| program(what, url, node))
                .collect(),
        };
        // One after the other, as the first makes what has to be made.
        for (index, words) in programs.iter().enumerate() {
            nodes.run(what, url, index, words);
            let expected = if programs.len() == 1 {
                what.nodes
            } else {
                index + 1
            };
            nodes.find(expected);
        }
        if what.side == Side::Ours {
            nodes.wait_until_all_see_all(what);
        }
        nodes
    }

    fn run(&mut self, what: What, url: &str, index: usize, words: &[String]) {
        let programs = env::current_exe().expect("this program");
        let program = programs.with_file_name(&words[0]);
        // `env` becomes the program, so that its process is the program's.
        let mut arguments = vec![];
        if what.side == Side::Ours && !what.one_request && what.needs != Needs::Nothing {
            arguments.push(format!("CATGA_URL={url}"));
        }
        arguments.push(program.display().to_string());
        arguments.extend_from_slice(&words[1..]);
        let log = self.folder.join(format!("{index}.log"));
        let process = Process::start(Path::new("env"), arguments, &log);
        self.processes.push(process.expect("it can be started"));
    }

    /// Waits until so many nodes have said where they listen.
    fn find(&mut self, count: usize) {
        self.addresses = wait("nodes listen", self, |nodes| {
            let mut found = BTreeSet::new();
            for index in 0..nodes.processes.len() {
                let log = nodes.folder.join(format!("{index}.log"));
                let log = fs::read_to_string(log).unwrap_or_default();
                for line in log.lines() {
                    if let Some((name, rest)) = line.split_once("listening on http://") {
                        let address = rest.split(',').next().unwrap_or_default();
                        let address: SocketAddr = address.trim().parse().ok()?;
                        found.insert((name.to_owned(), address));
                    }
                }
            }
            let found: Vec<_> = found.into_iter().map(|(_, address)| address).collect();
            (found.len() == count).then_some(found)
        });
    }

    fn wait_until_all_see_all(&self, what: What) {
        wait("all see all", self, |nodes| {
            let sees = |address: &SocketAddr| {
                if what.one_request {
                    return load::get(*address, "/nodes")?.trim().parse().ok();
                }
                let health: Value = serde_json::from_str(&load::get(*address, "/health")?).ok()?;
                health["onlineNodes"].as_u64()
            };
            let mut addresses = nodes.addresses.iter();
            let all = addresses.all(|address| sees(address) == Some(what.nodes as u64));
            all.then_some(())
        });
    }

    /// The node that is posted to.
    pub fn address(&self) -> SocketAddr {
        self.addresses[0]
    }

    pub fn pids(&self) -> Vec<Pid> {
        let processes = self.processes.iter();
        processes
            .map(|process| Pid::from_raw(process.id()))
            .collect()
    }

    fn logs(&self) -> String {
        let logs = (0..self.processes.len()).map(|index| {
            let log = fs::read_to_string(self.folder.join(format!("{index}.log")));
            let log = log.unwrap_or_default();
            let lines: Vec<_> = log.lines().rev().take(5).collect();
            lines.into_iter().rev().collect::<Vec<_>>().join("\n")
        });
        logs.collect::<Vec<_>>().join("\n")
    }

    /// Of each order that was answered an event was stored; of those that wrk did not wait for at the end some, too.
    pub fn check_stored(&self, running: Option<&Running>, orders: u64) {
        let stored = match (running, self.side) {
            (None, _) => return,
            (Some(Running::Nats(server)), side) => {
                let name = match side {
                    Side::ByHand => "shipped",
                    Side::Ours => "catga~OrderShipped",
                };
                let said = server.get("/jsz?streams=1").expect("it answers");
                let said: Value = serde_json::from_str(&said).expect("JSON");
                let streams = said["account_details"][0]["stream_detail"].as_array();
                let mut streams = streams.expect("streams").iter();
                let stream = streams.find(|stream| stream["name"] == name);
                stream.expect("it is there")["state"]["messages"].as_u64()
            }
            (Some(Running::Redis(server)), side) => {
                let key = match side {
                    Side::ByHand => "bare:shipped",
                    Side::Ours => "{catga:OrderShipped}",
                };
                let said = server
                    .ask(&format!("XINFO STREAM {key}"))
                    .expect("it answers");
                let mut lines = said.lines().skip_while(|line| *line != "entries-added");
                lines.nth(1).and_then(|count| count.parse().ok())
            }
        };
        let stored = stored.expect("a number");
        // Two loads of a hundred connections, each of which leaves one behind.
        let most = orders + 2 * load::CONNECTIONS;
        assert!(
            (orders..=most).contains(&stored),
            "{stored} events are stored of {orders} orders that were answered"
        );
    }
}

fn program(what: What, url: &str, node: usize) -> Vec<String> {
    let name = format!("node{node}");
    let words = match (what.side, what.one_request) {
        (Side::Ours, false) => vec!["cluster", &name, "0", "--quiet"],
        (Side::Ours, true) => vec!["one_request", url, &name],
        (Side::ByHand, false) => vec!["bare", url],
        (Side::ByHand, true) => vec!["bare", "--one-request", url],
    };
    let mut words: Vec<String> = words.into_iter().map(str::to_owned).collect();
    if what.side == Side::ByHand {
        words.extend([node.to_string(), what.nodes.to_string()]);
    }
    words
}

fn wait<T>(what: &str, nodes: &Nodes, mut look: impl FnMut(&Nodes) -> Option<T>) -> T {
    let began = Instant::now();
    loop {
        if let Some(found) = look(nodes) {
            return found;
        }
        let dead = nodes.processes.iter().any(|process| !process.is_alive());
        assert!(
            !dead && began.elapsed() < PATIENCE,
            "not so: {what}; {}",
            nodes.logs()
        );
        thread::sleep(Duration::from_millis(20));
    }
}
