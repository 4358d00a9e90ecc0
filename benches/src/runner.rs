//! Rounds over all cases, interleaved, so that what the machine does meanwhile falls on all of them.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use std::{env, fs, thread};

use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;

use crate::bench::{Measured, Pass};
use crate::case::{Bar, Case};
use crate::machine::{self, Machine};
use crate::options::Options;
use crate::report::{self, Run};
use crate::row::{Row, STALLED};
use crate::{cases, charts, docs};

/// Groups that take long, and run when they are asked for: each has a report of its own.
pub const BY_NAME: [&str; 2] = ["discovery", "http"];

/// Cases that run side by side begin one after the other: when one has begun to measure, all have begun.
const APART: Duration = Duration::from_secs(1);

/// Runs what was asked for, and says whether all of it worked.
pub fn run(options: &Options) -> Result<bool, String> {
    let mut rows: Vec<Row> = chosen(&options.groups)?.into_iter().map(Row::new).collect();
    if options.pinned {
        pin()?;
        let one_core = |bar: &Bar| !matches!(bar, Bar::RatioOnTwoCoresAtLeast(_));
        rows.iter_mut()
            .for_each(|row| row.case.bars.retain(one_core));
    }
    let programs = Programs::find()?;
    let (machine, date, load) = (Machine::look(), machine::date(), machine::load());
    let passes = (0..options.rounds)
        .map(|_| Pass::Time)
        .chain([Pass::Latency, Pass::Allocations]);
    for (index, pass) in passes.enumerate() {
        let mut due: Vec<&mut Row> = rows.iter_mut().collect();
        due.retain(|row| row.failure.is_none() && row.case.takes_part(pass, index));
        for mut batch in batches(due) {
            let beside = match batch.len() - 1 {
                0 => String::new(),
                others => format!(", and {others} beside it"),
            };
            eprint!(
                "\r\x1b[Kround {}: {}{beside}",
                index + 1,
                batch[0].case.name
            );
            let measured = measure_all(&programs, &batch, pass, options);
            for (row, measured) in batch.iter_mut().zip(measured) {
                match measured {
                    Ok(measured) => row.add(pass, measured),
                    Err(problem) => {
                        eprintln!("\r\x1b[K{} ({}): {problem}", row.case.name, pass.name());
                        row.failed(pass, problem);
                    }
                }
            }
        }
    }
    eprintln!("\r\x1b[K");
    rows.iter_mut().for_each(Row::conclude);
    let run = Run {
        machine,
        date,
        pinned: options.pinned,
        quick: options.scale < 1.0,
        rounds: options.rounds,
        load_before: load,
        load_after: machine::load(),
        rows,
    };
    let table = report::markdown(&run);
    println!("{table}");
    write(&run, &table, &options.groups).map_err(|error| format!("the report: {error}"))?;
    Ok(run.rows.iter().all(|row| row.failure.is_none()))
}

/// Rows in the order in which they run: those of a batch side by side.
fn batches(rows: Vec<&mut Row>) -> Vec<Vec<&mut Row>> {
    let mut batches: Vec<Vec<&mut Row>> = Vec::new();
    for row in rows {
        let beside = row.case.beside;
        let batch = batches
            .iter_mut()
            .find(|batch| beside.is_some() && batch[0].case.beside == beside);
        match batch {
            Some(batch) => batch.push(row),
            None => batches.push(vec![row]),
        }
    }
    batches
}

/// Runs the cases of a batch, each in a process of its own.
fn measure_all(
    programs: &Programs,
    batch: &[&mut Row],
    pass: Pass,
    options: &Options,
) -> Vec<Result<Measured, String>> {
    let measure = |row: &Row| {
        let length = if row.case.is_long { options.length } else { 1 };
        let scaled = (row.case.operations * length) as f64 * options.scale;
        let limit = row.case.limit * length as u32;
        programs.measure(row.case.name, pass, scaled.ceil() as u64, limit)
    };
    thread::scope(|scope| {
        let running: Vec<_> = batch
            .iter()
            .zip(0..)
            .map(|(row, place)| {
                let (row, measure): (&Row, _) = (row, &measure);
                scope.spawn(move || {
                    thread::sleep(APART * place);
                    measure(row)
                })
            })
            .collect();
        let measured = running.into_iter().map(|running| running.join());
        measured
            .map(|measured| measured.expect("it does not panic"))
            .collect()
    })
}

/// The cases asked for, and those that they are held against.
fn chosen(groups: &[String]) -> Result<Vec<Case>, String> {
    let all = cases::all();
    let mut names: Vec<&str> = Vec::new();
    for group in groups {
        let matching = all.iter().filter(|case| is_meant(case, group));
        let before = names.len();
        names.extend(matching.map(|case| case.name));
        if names.len() == before {
            return Err(format!("no case has {group:?} in its name; see --list"));
        }
    }
    let mut next = 0;
    while let Some(name) = names.get(next) {
        let case = all.iter().find(|case| case.name == *name);
        names.extend(case.and_then(|case| case.against));
        next += 1;
    }
    let wanted = |case: &Case| match groups.is_empty() {
        true => !BY_NAME.contains(&case.group()),
        false => names.contains(&case.name),
    };
    Ok(cases::all().into_iter().filter(wanted).collect())
}

/// Whether a word means a case. `nats` does not mean what takes minutes and has it in its name.
fn is_meant(case: &Case, word: &str) -> bool {
    let by_name = BY_NAME.contains(&case.group());
    case.name.contains(word) && (!by_name || word.starts_with(case.group()))
}

/// Everything that this process starts shares the last core that it may use.
fn pin() -> Result<(), String> {
    let problem = |error| format!("cannot pin to one core: {error}");
    let allowed = sched_getaffinity(Pid::this()).map_err(problem)?;
    let usable = |core: &usize| allowed.is_set(*core).unwrap_or(false);
    let last = (0..CpuSet::count()).rev().find(usable);
    let mut one = CpuSet::new();
    one.set(last.ok_or("this process may use no core")?)
        .map_err(problem)?;
    sched_setaffinity(Pid::this(), &one).map_err(problem)
}

/// This program, and the one beside it that counts allocations.
struct Programs {
    timing: PathBuf,
    counting: PathBuf,
}

impl Programs {
    fn find() -> Result<Self, String> {
        let timing = env::current_exe().map_err(|error| error.to_string())?;
        let counting = timing.with_file_name("counting");
        if !counting.is_file() {
            return Err(format!("{} is not built", counting.display()));
        }
        Ok(Self { timing, counting })
    }

    fn measure(
        &self,
        name: &str,
        pass: Pass,
        operations: u64,
        limit: Duration,
    ) -> Result<Measured, String> {
        let program = match pass {
            Pass::Time | Pass::Latency => &self.timing,
            Pass::Allocations => &self.counting,
        };
        let mut child = Command::new(program)
            .args(["--case", name, pass.name(), &operations.to_string()])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|error| format!("{}: {error}", program.display()))?;
        let output = collect(child.stdout.take());
        let errors = collect(child.stderr.take());
        let began = Instant::now();
        let status = loop {
            match child.try_wait().map_err(|error| error.to_string())? {
                Some(status) => break status,
                None if began.elapsed() > limit => {
                    let _ = child.kill();
                    let _ = child.wait();
                    return Err(format!("{STALLED}: not ended after {limit:?}"));
                }
                None => thread::sleep(Duration::from_millis(5)),
            }
        };
        let (output, errors) = (join(output), join(errors));
        if !status.success() {
            return Err(format!("{status}: {}", errors.trim()));
        }
        let line = output.lines().last().unwrap_or_default();
        serde_json::from_str(line).map_err(|error| format!("{line:?}: {error}"))
    }
}

fn collect(pipe: Option<impl Read + Send + 'static>) -> thread::JoinHandle<String> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        let _ = pipe.map(|mut pipe| pipe.read_to_end(&mut bytes));
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

fn join(text: thread::JoinHandle<String>) -> String {
    text.join().unwrap_or_default()
}

/// A complete run, and one of a whole group that has to be named, is kept with the documentation; part of one beside what cargo
/// builds.
fn write(run: &Run, table: &str, groups: &[String]) -> std::io::Result<()> {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let whole = match groups {
        [one] if !run.quick && !run.pinned => BY_NAME.into_iter().find(|group| group == one),
        _ => None,
    };
    if let Some(group) = whole {
        let folder = here.join("../docs/benchmarks");
        fs::write(folder.join(format!("{group}.md")), table)?;
        fs::write(folder.join(format!("{group}.json")), report::json(run))?;
        eprintln!("written to {}", folder.display());
        return docs::fill(run, &here.join("../docs/discovery.md"));
    }
    let complete = groups.is_empty() && !run.quick;
    let folder = match complete {
        true => here.join("../docs/benchmarks"),
        false => here.join("target/results"),
    };
    fs::create_dir_all(&folder)?;
    let name = if run.pinned { "pinned" } else { "results" };
    fs::write(folder.join(format!("{name}.md")), table)?;
    fs::write(folder.join(format!("{name}.json")), report::json(run))?;
    if !run.pinned {
        for (name, picture) in charts::all(run) {
            fs::write(folder.join(format!("{name}.svg")), picture)?;
        }
    }
    eprintln!("written to {}", folder.display());
    Ok(())
}

impl Row {
    fn add(&mut self, pass: Pass, measured: Measured) {
        match pass {
            Pass::Time => self.rounds.push(Some(measured)),
            // One that tells its latencies in each round has none in a pass of its own.
            Pass::Latency => self.latency = measured.latency,
            Pass::Allocations => {
                self.counted = measured.operations;
                self.allocations = measured.allocations;
                self.counted_figures = measured.figures;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cases_of_one_word_run_side_by_side_and_all_others_alone() {
        let case = |name| Case::new(name, "", 1, |_| unreachable!("it is not run"));
        let cases = [
            case("g/a"),
            case("g/b").beside("g/small"),
            case("g/c"),
            case("g/d").beside("g/other"),
            case("g/e").beside("g/small"),
        ];
        let mut rows: Vec<_> = cases.into_iter().map(Row::new).collect();
        let batches = batches(rows.iter_mut().collect());
        let names = batches.iter().map(|batch| {
            let names = batch.iter().map(|row| row.case.name);
            names.collect::<Vec<_>>()
        });
        let expected = [&["g/a"][..], &["g/b", "g/e"], &["g/c"], &["g/d"]];
        assert!(names.eq(expected.map(<[_]>::to_vec)));
    }
}
