//! The suite against every backend that is at hand: `cargo test -p catga-testkit redelivery`.

use std::process::ExitCode;

use catga_testkit::{Bus, seed, suite};
use libtest_mimic::{Arguments, Trial};

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let seed = seed();
    if !arguments.list {
        announce(seed);
        silence_planned_panics();
    }
    let trials = suite().into_iter().map(|scenario| {
        let name = format!("memory::{}", scenario.name());
        Trial::test(name, move || {
            Ok(scenario.run(Bus::memory(scenario.name(), seed))?)
        })
    });
    libtest_mimic::run(&arguments, trials.collect()).exit_code()
}

#[allow(
    clippy::print_stdout,
    reason = "whoever looks for a failure needs the seed"
)]
fn announce(seed: u64) {
    println!("\nseed={seed} (again with CATGA_SEED={seed})");
}

/// Handlers that panic on purpose would fill the report.
fn silence_planned_panics() {
    let print = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        let payload = panic.payload();
        let text = payload
            .downcast_ref::<&str>()
            .copied()
            .or_else(|| payload.downcast_ref::<String>().map(String::as_str));
        let planned = text.is_some_and(|text| text.starts_with("planned panic"));
        if !planned {
            print(panic);
        }
    }));
}
