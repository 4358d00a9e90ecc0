//! The command line.

use std::ffi::OsString;
use std::path::PathBuf;

pub(crate) const USAGE: &str = "\
Three nodes in one process take orders; at the end every count has to add up.

usage: orders [--orders N | --input FILE] [--url URL] [--verbose]

  --orders N    take N made-up orders (default: 100000)
  --input FILE  take the orders of a file of JSON lines; lines that are no order are
                reported with their numbers and skipped
  --url URL     the backend, in a namespace of its own unless the URL names one: memory:// (the
                default), or nats://.., redis://.. when built with that feature
  --verbose     print what each node sees, instead of a progress bar
  --help        print this

exit codes: 0 everything adds up, 1 something does not, 2 wrong usage or unreadable input
";

/// What to do.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Args {
    Help,
    Run {
        orders: Orders,
        /// The backend; none is the embedded one.
        url: Option<String>,
        verbose: bool,
    },
}

/// Where the orders come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Orders {
    MadeUp(u64),
    File(PathBuf),
}

/// Reads the arguments behind the program's name.
pub(crate) fn parse(args: impl IntoIterator<Item = OsString>) -> Result<Args, String> {
    let mut args = args.into_iter();
    let (mut orders, mut url, mut verbose) = (None, None, false);
    while let Some(arg) = args.next() {
        let text = arg.to_string_lossy();
        let source = match &*text {
            "--help" | "-h" => return Ok(Args::Help),
            "--verbose" => {
                verbose = true;
                continue;
            }
            "--url" => {
                let given = value(&mut args, "--url", "a URL")?;
                let given = given.into_string();
                let given = given.map_err(|_| "--url needs a URL in UTF-8".to_owned())?;
                if url.replace(given).is_some() {
                    return Err("say once where the backend is: --url".to_owned());
                }
                continue;
            }
            "--orders" => Orders::MadeUp(count(&value(&mut args, "--orders", "a number")?)?),
            "--input" => Orders::File(value(&mut args, "--input", "a file")?.into()),
            unknown => return Err(format!("unknown argument {unknown:?}")),
        };
        if orders.replace(source).is_some() {
            return Err("say once where the orders come from: --orders or --input".to_owned());
        }
    }
    let orders = orders.unwrap_or(Orders::MadeUp(100_000));
    Ok(Args::Run {
        orders,
        url,
        verbose,
    })
}

fn value(
    args: &mut impl Iterator<Item = OsString>,
    option: &str,
    what: &str,
) -> Result<OsString, String> {
    args.next().ok_or_else(|| format!("{option} needs {what}"))
}

fn count(value: &OsString) -> Result<u64, String> {
    let number = value.to_str().and_then(|text| text.parse().ok());
    number.filter(|number| *number > 0).ok_or_else(|| {
        format!(
            "--orders needs a whole number from 1, not {:?}",
            value.to_string_lossy()
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(args: &[&str]) -> Result<Args, String> {
        parse(args.iter().map(OsString::from))
    }

    #[test]
    fn orders_come_from_one_place() {
        let run = |orders, verbose| {
            Ok(Args::Run {
                orders,
                url: None,
                verbose,
            })
        };
        assert_eq!(read(&[]), run(Orders::MadeUp(100_000), false));
        assert_eq!(
            read(&["--verbose", "--orders", "7"]),
            run(Orders::MadeUp(7), true)
        );
        assert_eq!(
            read(&["--input", "-x"]),
            run(Orders::File("-x".into()), false)
        );
        assert!(read(&["--orders", "7", "--input", "x"]).is_err());
        assert_eq!(read(&["--verbose", "-h", "--nonsense"]), Ok(Args::Help));
    }

    #[test]
    fn the_backend_has_one_url() {
        let Ok(Args::Run { url, .. }) = read(&["--url", "nats://here"]) else {
            panic!("that is how it is said");
        };
        assert_eq!(url.as_deref(), Some("nats://here"));
        assert!(read(&["--url", "nats://here", "--url", "nats://there"]).is_err());
    }

    #[test]
    fn a_mistake_is_named() {
        for (args, part) in [
            (&["--order"][..], "\"--order\""),
            (&["orders.jsonl"], "\"orders.jsonl\""),
            (&["--orders"], "needs a number"),
            (&["--orders", "0"], "from 1"),
            (&["--orders", "-3"], "\"-3\""),
            (&["--orders", "99999999999999999999"], "whole number"),
            (&["--input"], "needs a file"),
            (&["--url"], "needs a URL"),
        ] {
            let problem = read(args).unwrap_err();
            assert!(problem.contains(part), "{args:?}: {problem}");
        }
    }
}
