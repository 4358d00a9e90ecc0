//! The command line, and what the environment says.

use std::ffi::OsString;
use std::net::{IpAddr, Ipv4Addr};

use crate::load::Load;
use crate::node::Settings;

pub(crate) const USAGE: &str = "\
HTTP nodes that take orders together.

usage: cluster [NODE PORT] [--quiet] [--trace]
                                           one node
       cluster memory [PORT PORT PORT] [--quiet]
                                           three nodes in this process, which does what is said on its
                                           standard input: kill node2, stop node2, start node2
       cluster load [--orders N] [--per-second N] [--at-once N] [--answers] URL..
                                           post orders to nodes (default: 1000, 100 in a second, 16 at
                                           once), and see that none fails and none is made twice;
                                           --answers also writes down each
       cluster audit FILE..                read what nodes and loads wrote down, and see that no
                                           order was made twice

  NODE          the node's id (default: NODE_ID, else node1)
  PORT          where HTTP listens, 0 for any free port (default: NODE_PORT, else 5001)
  --quiet       write nothing of single orders
  --trace       write each span of a trace as a line of JSON; built with --features trace
  --help        print this

environment of one node:
  NATS_URL, REDIS_URL, CATGA_URL   the backend, by one of them: nats://.., redis://.., any; built with
                                   --features nats, redis (default: memory://, alone)
  NODE_HOST                        the address that HTTP listens at (default: 127.0.0.1)
  CATGA_ENDPOINT                   where others reach it (default: http://NODE_HOST:PORT)

exit codes: 0 ended when asked to, no order failed; 1 something failed; 2 wrong usage
";

/// What to do.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Args {
    Help,
    Node(Box<Settings>),
    Memory([u16; 3]),
    QuietMemory([u16; 3]),
    Load(Load),
    Audit(Vec<String>),
}

type Env<'a> = &'a dyn Fn(&str) -> Option<String>;

/// Reads the arguments behind the program's name, and the environment.
pub(crate) fn parse(
    args: impl IntoIterator<Item = OsString>,
    env: Env<'_>,
) -> Result<Args, String> {
    let args = args.into_iter().map(OsString::into_string);
    let args: Vec<String> = args
        .collect::<Result<_, _>>()
        .map_err(|wrong| format!("{:?} is not UTF-8", wrong.to_string_lossy()))?;
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    if args.iter().any(|arg| matches!(*arg, "--help" | "-h")) {
        return Ok(Args::Help);
    }
    match &args[..] {
        ["memory", "--quiet"] => Ok(Args::QuietMemory([5001, 5002, 5003])),
        ["memory", a, b, c, "--quiet"] => Ok(Args::QuietMemory([port(a)?, port(b)?, port(c)?])),
        ["memory"] => Ok(Args::Memory([5001, 5002, 5003])),
        ["memory", a, b, c] => Ok(Args::Memory([port(a)?, port(b)?, port(c)?])),
        ["memory", ..] => Err("`memory` needs three ports, or none".to_owned()),
        ["load", rest @ ..] => load(rest).map(Args::Load),
        ["audit"] => Err("`audit` needs the files that nodes and loads wrote".to_owned()),
        ["audit", files @ ..] => {
            let files = files.iter().map(|file| (*file).to_owned());
            Ok(Args::Audit(files.collect()))
        }
        _ => node(&args, env).map(|node| Args::Node(Box::new(node))),
    }
}

fn node(args: &[&str], env: Env<'_>) -> Result<Settings, String> {
    let quiet = args.contains(&"--quiet");
    let trace = args.contains(&"--trace");
    let args = args
        .iter()
        .filter(|arg| !matches!(**arg, "--quiet" | "--trace"));
    let args: Vec<_> = args.collect();
    if let Some(option) = args.iter().find(|arg| arg.starts_with('-')) {
        return Err(format!("unknown option {option:?}"));
    }
    let given = |variable| env(variable).filter(|value| !value.is_empty());
    let (name, number) = match args[..] {
        [] => (given("NODE_ID"), given("NODE_PORT")),
        [name, number] => (Some((*name).to_owned()), Some((*number).to_owned())),
        _ => return Err("a node needs its id and its port: cluster node1 5001".to_owned()),
    };
    let host = match given("NODE_HOST") {
        None => Ipv4Addr::LOCALHOST.into(),
        Some(host) => host
            .parse::<IpAddr>()
            .map_err(|_| format!("NODE_HOST is {host:?}, and not an IP address"))?,
    };
    let mut endpoint = given("CATGA_ENDPOINT");
    let number = number.map_or(Ok(5001), |number| port(&number))?;
    if endpoint.is_none() && host.is_unspecified() && number != 0 {
        endpoint = Some(format!("http://localhost:{number}"));
    }
    Ok(Settings {
        name: name.unwrap_or_else(|| "node1".to_owned()),
        host,
        port: number,
        endpoint,
        url: url(&given)?,
        quiet,
        trace,
    })
}

/// The one backend. What stands in a URL is not shown: it may have a password.
fn url(given: &dyn Fn(&'static str) -> Option<String>) -> Result<String, String> {
    let known = [
        ("NATS_URL", &["nats", "tls"][..]),
        ("REDIS_URL", &["redis", "rediss"]),
        ("CATGA_URL", &[]),
    ];
    let urls = known.iter().filter_map(|(variable, schemes)| {
        let url = given(variable)?;
        Some((*variable, *schemes, url))
    });
    let urls: Vec<_> = urls.collect();
    match &urls[..] {
        [] => Ok("memory://".to_owned()),
        [(variable, schemes, url)] => {
            let scheme = url.split_once(':').map_or("", |(scheme, _)| scheme);
            if !schemes.is_empty() && !schemes.iter().any(|known| scheme.starts_with(known)) {
                let schemes = schemes.join(":// or ");
                return Err(format!(
                    "{variable} is no URL that begins with {schemes}://"
                ));
            }
            Ok(url.clone())
        }
        several => {
            let names: Vec<_> = several.iter().map(|(variable, ..)| *variable).collect();
            let names = names.join(" and ");
            Err(format!(
                "a node has one backend: {names} are both set, unset all but one"
            ))
        }
    }
}

fn load(args: &[&str]) -> Result<Load, String> {
    let mut load = Load {
        orders: 1000,
        per_second: 100,
        at_once: 16,
        answers: false,
        nodes: Vec::new(),
    };
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        let mut number = |most: u32| {
            let text = args.next();
            let number = text.and_then(|text| text.parse::<u32>().ok());
            let number = number.filter(|number| (1..=most).contains(number));
            number.ok_or_else(|| format!("{arg} needs a whole number from 1 to {most}"))
        };
        match *arg {
            "--orders" => load.orders = number(1_000_000)?.into(),
            "--per-second" => load.per_second = number(100_000)?,
            "--at-once" => load.at_once = number(1_000)? as usize,
            "--answers" => load.answers = true,
            url => {
                let node = url
                    .strip_prefix("http://")
                    .map(|node| node.trim_end_matches('/'));
                let node = node.filter(|node| node.contains(':') && !node.contains('/'));
                let node =
                    node.ok_or_else(|| format!("{url:?} is not like http://127.0.0.1:5001"))?;
                load.nodes.push(node.to_owned());
            }
        }
    }
    if load.nodes.is_empty() {
        return Err("`load` needs the URL of a node: http://127.0.0.1:5001".to_owned());
    }
    Ok(load)
}

fn port(text: &str) -> Result<u16, String> {
    let port = text.parse();
    port.map_err(|_| format!("{text:?} is not a port: 0 to 65535"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(args: &str, env: &[(&str, &str)]) -> Result<Args, String> {
        let args = args.split_whitespace().map(OsString::from);
        let value = |variable: &str| {
            let found = env.iter().find(|(name, _)| *name == variable);
            found.map(|(_, value)| (*value).to_owned())
        };
        parse(args, &value)
    }

    fn node(args: &str, env: &[(&str, &str)]) -> Settings {
        match read(args, env) {
            Ok(Args::Node(settings)) => *settings,
            other => panic!("{args:?} is a node, and not {other:?}"),
        }
    }

    #[test]
    fn a_node_is_what_arguments_and_environment_say() {
        let plain = node("", &[("NODE_ID", ""), ("NATS_URL", "")]);
        let told = (plain.name.as_str(), plain.port, plain.url.as_str());
        assert_eq!(told, ("node1", 5001, "memory://"));
        assert!(plain.host.is_loopback() && !plain.quiet && plain.endpoint.is_none());

        let env = [
            ("NODE_ID", "node7"),
            ("NODE_PORT", "6000"),
            ("NATS_URL", "nats://u:secret@here"),
            ("NODE_HOST", "0.0.0.0"),
        ];
        let told = node("--quiet --trace", &env);
        assert_eq!((told.name.as_str(), told.port), ("node7", 6000));
        assert_eq!(told.url, "nats://u:secret@here");
        assert!(!format!("{told:?}").contains("secret"));
        assert_eq!(told.endpoint.as_deref(), Some("http://localhost:6000"));
        assert!(told.quiet && told.trace && !plain.trace);
        // What is typed is meant.
        let typed = node("node2 0", &env);
        assert_eq!((typed.name.as_str(), typed.port), ("node2", 0));
    }

    #[test]
    fn two_backends_are_a_mistake() {
        let env = [
            ("NATS_URL", "nats://u:secret@here"),
            ("REDIS_URL", "redis://u:secret@there"),
        ];
        let problem = read("node1 5001", &env).unwrap_err();
        assert!(
            problem.contains("NATS_URL and REDIS_URL are both set"),
            "{problem}"
        );
        assert!(!problem.contains("secret"), "{problem}");
        let problem = read("node1 5001", &[("REDIS_URL", "nats://u:secret@here")]).unwrap_err();
        assert!(
            problem.contains("redis://") && !problem.contains("secret"),
            "{problem}"
        );
        assert_eq!(node("", &[("CATGA_URL", "memory://x")]).url, "memory://x");
    }

    #[test]
    fn three_nodes_may_be_quiet() {
        let quiet = Args::QuietMemory([1, 2, 3]);
        assert_eq!(read("memory 1 2 3 --quiet", &[]), Ok(quiet));
        let quiet = Args::QuietMemory([5001, 5002, 5003]);
        assert_eq!(read("memory --quiet", &[]), Ok(quiet));
    }

    #[test]
    fn a_load_has_bounds() {
        let load = Load {
            orders: 7,
            per_second: 100,
            at_once: 2,
            answers: true,
            nodes: vec!["127.0.0.1:1".to_owned(), "h:2".to_owned()],
        };
        let args = "load --orders 7 http://127.0.0.1:1/ --answers --at-once 2 http://h:2";
        assert_eq!(read(args, &[]), Ok(Args::Load(load)));
        assert_eq!(read("memory 1 2 3", &[]), Ok(Args::Memory([1, 2, 3])));
        assert_eq!(read("load -h", &[]), Ok(Args::Help));
        let files = vec!["a.log".to_owned(), "b.log".to_owned()];
        assert_eq!(read("audit a.log b.log", &[]), Ok(Args::Audit(files)));
    }

    #[test]
    fn a_mistake_is_named() {
        for (args, part) in [
            ("node1", "its id and its port"),
            ("node1 x", "\"x\" is not a port"),
            ("node1 70000", "\"70000\""),
            ("--loud", "\"--loud\""),
            ("memory 1 2", "three ports"),
            ("load", "needs the URL"),
            ("audit", "needs the files"),
            ("load localhost:1", "\"localhost:1\""),
            (
                "load --orders 0 http://h:1",
                "--orders needs a whole number",
            ),
            ("load --per-second", "--per-second needs"),
        ] {
            let problem = read(args, &[]).unwrap_err();
            assert!(problem.contains(part), "{args:?}: {problem}");
        }
        let problem = read("node1 1", &[("NODE_HOST", "here")]).unwrap_err();
        assert!(problem.contains("NODE_HOST"), "{problem}");
    }
}
