//! The command line.

use crate::bench::Pass;

pub enum Command {
    Run(Options),
    List,
    Child(Child),
}

/// What to run, and how.
pub struct Options {
    /// Cases with one of these in their name; all of them when there is none.
    pub groups: Vec<String>,
    /// Servers and clients share one core.
    pub pinned: bool,
    pub rounds: usize,
    /// Of the operations of a case.
    pub scale: f64,
    /// So many times the operations of a case about a long run.
    pub length: u64,
}

/// One pass of one case, in this process.
pub struct Child {
    pub case: String,
    pub pass: Pass,
    pub operations: u64,
}

impl Pass {
    pub fn name(self) -> &'static str {
        match self {
            Self::Time => "time",
            Self::Latency => "latency",
            Self::Allocations => "allocations",
        }
    }

    fn named(name: &str) -> Option<Self> {
        let all = [Self::Time, Self::Latency, Self::Allocations];
        all.into_iter().find(|pass| pass.name() == name)
    }
}

pub fn parse(arguments: impl Iterator<Item = String>) -> Result<Command, String> {
    let mut arguments = arguments.peekable();
    match arguments.peek().map(String::as_str) {
        Some("--list") => return Ok(Command::List),
        Some("--case") => return child(arguments.skip(1)).map(Command::Child),
        _ => {}
    }
    let mut options = Options {
        groups: Vec::new(),
        pinned: false,
        rounds: 3,
        scale: 1.0,
        length: 1,
    };
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--pinned" => options.pinned = true,
            "--rounds" => options.rounds = number(&argument, arguments.next())?,
            "--quick" => options.scale = 0.05,
            "--long" => options.length = 10,
            option if option.starts_with("--") => {
                return Err(format!(
                    "unknown option {option}; there are --list, --long, --pinned, --quick, --rounds N"
                ));
            }
            _ => options.groups.push(argument),
        }
    }
    if options.rounds == 0 {
        return Err("--rounds 0 measures nothing".to_owned());
    }
    Ok(Command::Run(options))
}

fn child(mut arguments: impl Iterator<Item = String>) -> Result<Child, String> {
    let case = arguments.next().ok_or("--case needs a name")?;
    let pass = arguments.next().unwrap_or_else(|| "time".to_owned());
    Ok(Child {
        case,
        pass: Pass::named(&pass).ok_or_else(|| format!("no pass is named {pass:?}"))?,
        operations: number("the operations", arguments.next())?,
    })
}

fn number<T: std::str::FromStr>(what: &str, given: Option<String>) -> Result<T, String> {
    let given = given.ok_or_else(|| format!("{what} needs a number"))?;
    given
        .parse()
        .map_err(|_| format!("{what}: {given:?} is no number"))
}
