//! What Catga adds in process, beside the same work done by hand.
//!
//! `cargo run --release` runs every case for several rounds, one after the other within each round,
//! so that what the machine does meanwhile falls on all of them; the table has the median, and as
//! ratio the median over that of the case it is held against. `cargo run --release -- send` runs the
//! cases whose name holds `send`. How to read it, and what was learned: README.md.

mod cases;
mod raw;
mod report;
mod work;

use report::Row;

const ROUNDS: usize = 5;

fn main() {
    let filter = std::env::args().nth(1).unwrap_or_default();
    let mut rows: Vec<Row> = cases::all()
        .into_iter()
        .filter(|case| case.name.contains(&filter))
        .map(Row::new)
        .collect();
    if rows.is_empty() {
        eprintln!("no case has {filter:?} in its name; there are:");
        cases::all()
            .iter()
            .for_each(|case| eprintln!("  {}", case.name));
        std::process::exit(2);
    }
    for round in 1..=ROUNDS {
        for row in &mut rows {
            eprint!("\r\x1b[Kround {round} of {ROUNDS}: {}", row.case.name);
            row.measure();
        }
    }
    eprintln!("\r\x1b[K");
    report::print(&rows);
}
