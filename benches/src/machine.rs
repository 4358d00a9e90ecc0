//! Where a run took place, and whether somebody else was at work there.

use std::fs;
use std::process::Command;
use std::thread::available_parallelism;
use std::time::Duration;

use catga_testkit::server::{nats_server, redis_server};
use nix::unistd::{SysconfVar, sysconf};
use serde::Serialize;

/// What the figures of a run depend on.
#[derive(Serialize)]
pub struct Machine {
    pub cpu: String,
    pub cores: usize,
    pub memory_mib: u64,
    pub kernel: String,
    pub rustc: String,
    pub nats_server: String,
    pub redis_server: String,
    /// Name and version of the crates that are measured.
    pub crates: Vec<String>,
}

/// The crates whose speed a row shows.
const MEASURED: [&str; 9] = [
    "async-nats",
    "catga",
    "omniqueue",
    "redis",
    "ruststream",
    "ruststream-fred",
    "ruststream-nats",
    "sea-streamer-redis",
    "tokio",
];

impl Machine {
    pub fn look() -> Self {
        let version = |binary: Result<catga_testkit::server::Binary, _>| match binary {
            Ok(binary) => binary.version().to_owned(),
            Err(_) => "not installed".to_owned(),
        };
        Self {
            cpu: field("/proc/cpuinfo", "model name"),
            cores: cores(),
            memory_mib: field("/proc/meminfo", "MemTotal")
                .split_whitespace()
                .next()
                .and_then(|kib| kib.parse::<u64>().ok())
                .unwrap_or_default()
                / 1024,
            kernel: line("uname", &["-sr"]),
            rustc: line("rustc", &["--version"]),
            nats_server: version(nats_server()),
            redis_server: version(redis_server()),
            crates: crates(include_str!("../Cargo.lock")),
        }
    }
}

/// `[[package]]` of the lock file, as `name version`.
fn crates(lock: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut name = "";
    for line in lock.lines() {
        let quoted = line.split('"').nth(1).unwrap_or_default();
        if line.starts_with("name = ") {
            name = quoted;
        } else if line.starts_with("version = ") && MEASURED.contains(&name) {
            found.push(format!("{name} {quoted}"));
        }
    }
    found
}

fn line(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output();
    let text = output.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned());
    text.unwrap_or_else(|_| "unknown".to_owned())
}

fn field(file: &str, name: &str) -> String {
    let text = fs::read_to_string(file).unwrap_or_default();
    let value = text.lines().find_map(|line| {
        let (key, value) = line.split_once(':')?;
        (key.trim() == name).then(|| value.trim().to_owned())
    });
    value.unwrap_or_else(|| "unknown".to_owned())
}

/// All cores of the machine, also those that this process may not use.
pub fn cores() -> usize {
    sysconf(SysconfVar::_NPROCESSORS_ONLN)
        .ok()
        .flatten()
        .and_then(|cores| usize::try_from(cores).ok())
        .unwrap_or_else(|| available_parallelism().map_or(1, usize::from))
}

/// Now, in UTC.
pub fn date() -> String {
    line("date", &["-u", "+%Y-%m-%d %H:%M UTC"])
}

/// The load average of the last minute.
pub fn load() -> f64 {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let first = text.split_whitespace().next();
    first.and_then(|load| load.parse().ok()).unwrap_or_default()
}

/// What all cores have worked so far, for whomever: also what a hypervisor took away.
pub fn busy() -> Duration {
    let text = fs::read_to_string("/proc/stat").unwrap_or_default();
    let first = text.lines().next().unwrap_or_default();
    let ticks = first.split_whitespace().skip(1).take(8).enumerate();
    // user nice system idle iowait irq softirq steal
    let busy = ticks
        .filter(|(index, _)| !matches!(index, 3 | 4))
        .filter_map(|(_, ticks)| ticks.parse::<u64>().ok())
        .sum::<u64>();
    let per_second = sysconf(SysconfVar::CLK_TCK).ok().flatten().unwrap_or(100);
    Duration::from_secs_f64(busy as f64 / per_second as f64)
}

#[cfg(test)]
mod tests {
    use super::crates;

    #[test]
    fn the_lock_file_tells_versions() {
        let lock = "[[package]]\nname = \"redis\"\nversion = \"1.8.1\"\n\n[[package]]\nname = \"syn\"\nversion = \"3.0.9\"\n";
        assert_eq!(crates(lock), ["redis 1.8.1"]);
    }
}
