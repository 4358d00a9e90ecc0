//! The tables of `docs/discovery.md`, from the figures of a run: what stands between its marks is written anew.

use std::path::Path;
use std::{fs, io};

use crate::cases::discovery::named;
use crate::report::{Run, time};
use crate::row::{Row, Spread};

const MEANS: [(&str, &str); 5] = [
    ("memory", "memory"),
    ("nats-kv", "NATS, `kv`"),
    ("nats-pubsub", "NATS, `pubsub`"),
    ("redis-sorted-set", "Redis, `sorted_set`"),
    ("redis-keys", "Redis, `keys`"),
];
const ON_FILE: [(&str, &str); 2] = [
    (
        "redis-sorted-set-on-file",
        "Redis, `sorted_set`, append-only file",
    ),
    ("redis-keys-on-file", "Redis, `keys`, append-only file"),
];
const NODES: [u32; 3] = [3, 30, 300];

/// Writes the tables into a page, where the run has figures for them.
pub fn fill(run: &Run, page: &Path) -> io::Result<()> {
    if run.rows.iter().all(|row| row.case.group() != "discovery") {
        return Ok(());
    }
    let mut text = fs::read_to_string(page)?;
    for (mark, table) in tables(run) {
        text = between(&text, mark, &table)
            .ok_or_else(|| io::Error::other(format!("{}: no mark {mark}", page.display())))?;
    }
    fs::write(page, text)
}

/// A page with other lines between the marks of a name.
fn between(page: &str, mark: &str, lines: &str) -> Option<String> {
    let (begin, end) = (format!("<!-- {mark} -->\n"), format!("<!-- /{mark} -->"));
    let (before, rest) = page.split_once(&begin)?;
    let (_, after) = rest.split_once(&end)?;
    Some(format!("{before}{begin}{lines}{end}{after}"))
}

fn tables(run: &Run) -> [(&'static str, String); 5] {
    let conditions = run.conditions();
    let conditions = conditions
        .iter()
        .map(|line| format!("- {line}\n"))
        .collect();
    [
        ("conditions", conditions),
        ("traffic", traffic(run)),
        ("moments", moments(run)),
        ("cost", cost(run)),
        ("restart", restart(run)),
    ]
}

fn row<'a>(run: &'a Run, name: &str) -> Option<&'a Row> {
    let mut rows = run.rows.iter();
    rows.find(|row| row.case.name == name && row.failure.is_none())
}

/// A figure of a case for people; a dash where there is none.
fn shown(run: &Run, case: &str, figure: &str) -> String {
    let found = row(run, case).and_then(|row| {
        let (_, unit) = row
            .figures()
            .into_iter()
            .find(|(name, _)| *name == figure)?;
        Some(unit.show(row.figure(figure)?.median))
    });
    found.unwrap_or_else(|| "-".to_owned())
}

/// A figure by each means at each number of nodes.
fn by_nodes(means: &[(&str, &str)], title: &str, figure: impl Fn(&str) -> String) -> String {
    let heads: Vec<_> = NODES.iter().map(|nodes| format!("{nodes} nodes")).collect();
    let mut text = format!("| {title} | {} |\n|---|--:|--:|--:|\n", heads.join(" | "));
    for (name, shown) in means {
        let cells = NODES.map(|nodes| figure(&format!("discovery/{name}/{nodes}")));
        text += &format!("| {shown} | {} |\n", cells.join(" | "));
    }
    text
}

fn traffic(run: &Run) -> String {
    let figures = [
        ("messages written in a second", named::WRITTEN),
        ("messages delivered in a second", named::DELIVERED),
        ("written in a second for each node", named::WRITTEN_EACH),
        ("delivered in a second for each node", named::DELIVERED_EACH),
        ("bytes in, in a second", named::BYTES_IN),
        ("bytes out, in a second", named::BYTES_OUT),
    ];
    let tables = figures.map(|(title, figure)| {
        // In memory nobody counts.
        by_nodes(&MEANS[1..], title, |case| shown(run, case, figure))
    });
    tables.join("\n")
}

fn moments(run: &Run) -> String {
    let figures = [
        ("a join is seen by all in", named::JOIN),
        ("the newcomer sees all in", named::NEWCOMER),
        ("a death is noticed at first after", named::DEATH_FIRST),
        ("a death is noticed by all after", named::DEATH),
    ];
    let tables =
        figures.map(|(title, figure)| by_nodes(&MEANS, title, |case| shown(run, case, figure)));
    tables.join("\n")
}

fn cost(run: &Run) -> String {
    let cpu = |case: &str, of: fn(&Row) -> Option<Spread>| {
        let spread = row(run, case).and_then(of);
        spread.map_or("-".to_owned(), |spread| time(spread.median))
    };
    let mut memory = String::from("| memory of a node in a view | 300 nodes |\n|---|--:|\n");
    for (name, means) in MEANS {
        let taken = shown(run, &format!("discovery/{name}/300"), named::MEMORY);
        memory += &format!("| {means} | {taken} |\n");
    }
    [
        by_nodes(&MEANS, "a heartbeat is answered in", |case| {
            shown(run, case, named::ANSWERED)
        }),
        by_nodes(&MEANS, "CPU of all nodes for a heartbeat", |case| {
            cpu(case, Row::client_cpu)
        }),
        by_nodes(&MEANS[1..], "CPU of the server for a heartbeat", |case| {
            cpu(case, Row::server_cpu)
        }),
        memory,
    ]
    .join("\n")
}

fn restart(run: &Run) -> String {
    let columns = [named::AT_ONCE, named::COMPLETE, named::WRONG, named::ENDED];
    let mut text = format!("| | {} |\n|---|{}\n", columns.join(" | "), "--:|".repeat(4));
    for (name, means) in MEANS.into_iter().skip(1).chain(ON_FILE) {
        let case = format!("discovery/{name}/restart");
        let cells: Vec<_> = columns
            .iter()
            .map(|figure| shown(run, &case, figure))
            .collect();
        text += &format!("| {means} | {} |\n", cells.join(" | "));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::between;

    #[test]
    fn what_stands_between_marks_is_written_anew() {
        let page = "a\n<!-- x -->\nold\n<!-- /x -->\nb\n";
        let new = between(page, "x", "new\n").unwrap();
        assert_eq!(new, "a\n<!-- x -->\nnew\n<!-- /x -->\nb\n");
        assert_eq!(between(&new, "x", "new\n"), Some(new.clone()));
        assert_eq!(between(page, "y", "new\n"), None);
    }
}
