//! What Catga costs, beside the same work by hand and by others. How to run it and how to read it: README.md.

mod bench;
mod case;
mod cases;
mod charts;
mod child;
mod docs;
mod figure;
mod latency;
mod machine;
mod options;
mod pace;
mod recorder;
mod report;
mod row;
mod runner;
mod running;

use std::process::ExitCode;

use stats_alloc::Stats;

use options::Command;

/// The whole program. `heap` counts allocations, in the program that has such an allocator.
pub fn main(heap: Option<fn() -> Stats>) -> ExitCode {
    if let Some(heap) = heap {
        bench::HEAP.set(heap).expect("it is set once");
    }
    let outcome = match options::parse(std::env::args().skip(1)) {
        Ok(Command::Child(child)) => child::run(&child),
        Ok(Command::List) => {
            cases::all()
                .iter()
                .for_each(|case| println!("{:<32} {}", case.name, case.does));
            Ok(true)
        }
        Ok(Command::Run(options)) => runner::run(&options),
        Err(problem) => Err(problem),
    };
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(problem) => {
            eprintln!("benches: {problem}");
            ExitCode::from(2)
        }
    }
}
