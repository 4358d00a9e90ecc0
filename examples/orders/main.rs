//! Run with `cargo run --release --example orders`, or with `-- --help` behind it: three nodes in one process
//! take 100,000 orders, over `memory://` unless a URL is given, with failures on purpose, and at the end every count adds up.
//!
//! `CreateOrder` (a request) is answered by one node, which publishes `OrderCreated` (QoS 0, logged by
//! each node) and `OrderShipped` (QoS 1, billed by the group `billing`, and logged by each node). Who bills
//! publishes `PaymentTaken` (QoS 2), which the group `books` books once, whatever fails and is repeated.
//! Begin with `messages.rs` and `handlers.rs`; what goes wrong on purpose stands in `fate.rs`.
//! With `-- --input examples/orders/orders.jsonl` the orders come from a file, malformed lines and all.

mod args;
mod books;
mod desk;
mod fate;
mod handlers;
mod histogram;
mod input;
mod intake;
mod ledger;
mod messages;
mod progress;
mod report;
mod shop;
mod site;
mod table;

use std::fmt::Display;
use std::io::Write;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Instant;

use args::{Args, USAGE};
use indicatif::HumanCount;
use intake::Source;
use progress::Progress;
use report::{PATIENCE, Report};
use shop::Shop;
use site::Site;
use table::Table;

fn main() -> ExitCode {
    let (orders, url, verbose) = match args::parse(std::env::args_os().skip(1)) {
        Ok(Args::Run {
            orders,
            url,
            verbose,
        }) => (orders, url, verbose),
        Ok(Args::Help) => {
            print(USAGE);
            return ExitCode::SUCCESS;
        }
        Err(problem) => return refuse(&format!("{problem}\n\n{USAGE}")),
    };
    let source = match Source::open(orders) {
        Ok(source) => source,
        Err(problem) => return refuse(&problem),
    };
    match run(source, &Site::new(url), verbose) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(problem) => {
            complain(&problem);
            ExitCode::FAILURE
        }
    }
}

/// Takes all orders; says whether everything adds up.
#[tokio::main]
async fn run(source: Source, site: &Site, verbose: bool) -> Result<bool, String> {
    let shop = Shop::open(site, verbose).await?;
    print(match &source {
        Source::MadeUp(count) => format!(
            "three nodes take {} orders over {site}\n",
            HumanCount(*count)
        ),
        Source::File { name, .. } => {
            format!("three nodes take the orders of {name} over {site}\n")
        }
    });
    let progress = Progress::new(&source, verbose);
    let drawing = tokio::spawn(progress.clone().follow(Arc::clone(&shop.ledger)));

    let began = Instant::now();
    let (orders, reader) = source.read(progress.clone());
    let placed = shop.place(orders).await;
    let intake = reader
        .await
        .map_err(|error| format!("the reader: {error}"))?;
    let mut report = Report::when_done(&shop, &intake, began).await;

    drawing.abort();
    progress.clear();
    let mut problems = placed.problems;
    if placed.failed > problems.len() as u64 {
        problems.push(format!("{} requests failed in all", placed.failed));
    }
    problems.extend(intake.problem.clone());
    if report.stuck {
        problems.push(format!("given up: nothing moved for {PATIENCE:?}"));
    }
    let unfinished = shop.close().await.map_err(|error| error.to_string())?;
    report.closed(&shop);
    if unfinished > 0 {
        problems.push(format!("{unfinished} handlers still ran at the end"));
    }
    print(Table {
        report: &report,
        ledger: &shop.ledger,
        intake: &intake,
        problems: &problems,
    });
    Ok(problems.is_empty() && report.wrong().next().is_none())
}

fn refuse(problem: &str) -> ExitCode {
    complain(problem);
    ExitCode::from(2)
}

// Whoever reads may have gone, as with `| head`: that is no reason to panic.

fn print(text: impl Display) {
    let _ = write!(std::io::stdout().lock(), "{text}");
}

fn complain(problem: &str) {
    let _ = writeln!(std::io::stderr(), "orders: {}", problem.trim_end());
}
