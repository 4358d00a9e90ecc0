//! `cluster audit`: what nodes and loads wrote down, held against each other: was an order made twice?
//!
//! That all tries of an order have one id says nothing: the same handler may have run for it at two nodes. So each run counts
//! that came to its end, wherever and in whichever life of a node, and whoever tells of an order has to name the same maker.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;

/// So many runs that ended last before their node was killed may not have been answered, and are made up for elsewhere: more than there are
/// requests on their way to it at once.
const UNANSWERED: usize = 64;
/// So many problems are shown; the others are counted.
const SHOWN: usize = 10;

/// Reads the files, and says what they come to.
pub(crate) fn run(files: &[String]) -> Result<bool, String> {
    let mut audit = Audit::default();
    for file in files {
        let text = std::fs::read(file).map_err(|error| format!("{file}: {error}"))?;
        audit.read(String::from_utf8_lossy(&text).lines());
    }
    let findings = audit.end();
    crate::print(&findings);
    Ok(findings.is_good())
}

/// What was read so far.
#[derive(Debug, Default)]
pub(crate) struct Audit {
    nodes: HashMap<String, Node>,
    orders: BTreeMap<String, Order>,
}

/// A node, in its present life.
#[derive(Debug, Default)]
struct Node {
    life: usize,
    /// The orders whose runs ended in this life, in that order.
    ended: Vec<String>,
}

#[derive(Debug, Default)]
struct Order {
    begun: usize,
    /// The runs that ended, by node and life.
    ended: Vec<(String, usize)>,
    /// Those of them that may not have been answered, since the node was killed.
    unanswered: usize,
    /// Who made it, as whoever speaks of it says.
    makers: BTreeSet<String>,
    /// Where its event had an effect, by node and life.
    shipped: Vec<(String, usize)>,
    shipped_again: usize,
    answered: bool,
}

/// What there is to be said.
#[derive(Debug, Default)]
pub(crate) struct Findings {
    orders: usize,
    runs: usize,
    begun_again: usize,
    shipped_again: usize,
    problems: Vec<String>,
}

impl Audit {
    /// Reads lines in the order in which they were written; a node's are all in one place.
    pub(crate) fn read<'a>(&mut self, lines: impl IntoIterator<Item = &'a str>) {
        for line in lines {
            self.line(line);
        }
    }

    /// A line that says nothing of an order or of a life is of no interest.
    fn line(&mut self, line: &str) {
        if let Some((id, maker)) = line.strip_prefix("answered ").and_then(made) {
            let order = self.order(id);
            order.answered = true;
            order.makers.insert(maker.to_owned());
            return;
        }
        let Some((name, what)) = line
            .strip_prefix('[')
            .and_then(|line| line.split_once("] "))
        else {
            return;
        };
        let node = self.nodes.entry(name.to_owned()).or_default();
        let place = (name.to_owned(), node.life);
        if let Some(rest) = what.strip_prefix("Processing order ") {
            if let Some((id, _)) = rest.split_once(':') {
                self.order(id).begun += 1;
            }
        } else if let Some((id, maker)) = what.strip_prefix("Processed order ").and_then(made) {
            node.ended.push(id.to_owned());
            let order = self.order(id);
            order.ended.push(place);
            order.makers.insert(maker.to_owned());
        } else if let Some(rest) = what.strip_prefix("[QoS 1] order shipped received ") {
            self.shipped(rest, place);
        } else if what == "killed" {
            let cut = std::mem::take(&mut node.ended);
            node.life += 1;
            for id in cut.iter().rev().take(UNANSWERED) {
                self.order(id).unanswered += 1;
            }
        } else if what == "stopped" {
            node.ended.clear();
            node.life += 1;
        }
    }

    fn shipped(&mut self, rest: &str, place: (String, usize)) {
        let Some((how, rest)) = rest.split_once(": ") else {
            return;
        };
        let Some((id, maker)) = rest.split_once(", made by ") else {
            return;
        };
        let order = self.order(id);
        order.makers.insert(maker.to_owned());
        match how {
            "(guaranteed)" => order.shipped.push(place),
            _ => order.shipped_again += 1,
        }
    }

    fn order(&mut self, id: &str) -> &mut Order {
        self.orders.entry(id.to_owned()).or_default()
    }

    pub(crate) fn end(self) -> Findings {
        let mut findings = Findings::default();
        for (id, order) in &self.orders {
            findings.orders += 1;
            findings.runs += order.begun;
            findings.begun_again += order.begun.saturating_sub(1);
            findings.shipped_again += order.shipped_again;
            findings.problems.extend(order.problems(id));
        }
        if findings.runs == 0 {
            findings.problems.push("no order was made".to_owned());
        }
        findings
    }
}

/// `ID: made by NODE`.
fn made(text: &str) -> Option<(&str, &str)> {
    text.split_once(": made by ")
}

impl Order {
    fn problems(&self, id: &str) -> Vec<String> {
        let mut problems = Vec::new();
        let whole = self.ended.len() - self.unanswered.min(self.ended.len());
        if whole > 1 {
            let places = shown(&self.ended);
            problems.push(format!("{id} was made {whole} times: {places}"));
        }
        if self.makers.len() > 1 {
            let makers: Vec<_> = self.makers.iter().map(String::as_str).collect();
            let makers = makers.join(" and by ");
            problems.push(format!("{id} is said to be made by {makers}"));
        }
        let mut places = self.shipped.clone();
        places.sort_unstable();
        if places.windows(2).any(|two| two[0] == two[1]) {
            let places = shown(&self.shipped);
            problems.push(format!("{id} was shipped twice with effect: {places}"));
        }
        if self.begun == 0 {
            problems.push(format!("{id} was made by nobody"));
        }
        if self.answered && self.ended.is_empty() {
            problems.push(format!("{id} was answered, and no run of it ended"));
        }
        problems
    }
}

/// Nodes with their lives, from 1.
fn shown(places: &[(String, usize)]) -> String {
    let places = places
        .iter()
        .map(|(node, life)| format!("{node} in its life {}", life + 1));
    places.collect::<Vec<_>>().join(", ")
}

impl Findings {
    pub(crate) fn is_good(&self) -> bool {
        self.problems.is_empty()
    }
}

impl fmt::Display for Findings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            orders,
            runs,
            begun_again,
            shipped_again,
            problems,
        } = self;
        writeln!(
            f,
            "audit                {orders:>7}  orders in {runs} runs ({begun_again} begun again after a failure), {shipped_again} events received again without effect, {} problems",
            problems.len()
        )?;
        for problem in problems.iter().take(SHOWN) {
            writeln!(f, "  {problem}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn findings(lines: &[String]) -> Findings {
        let mut audit = Audit::default();
        audit.read(lines.iter().map(String::as_str));
        audit.end()
    }

    /// A node runs an order to its end.
    fn run(node: &str, id: &str, maker: &str) -> [String; 2] {
        [
            format!("[{node}] Processing order {id}: 1 x lamp"),
            format!("[{node}] Processed order {id}: made by {maker}"),
        ]
    }

    fn says(node: &str, what: &str) -> String {
        format!("[{node}] {what}")
    }

    fn hears(node: &str, id: &str, maker: &str) -> String {
        let shipped = "[QoS 1] order shipped received (guaranteed)";
        format!("[{node}] {shipped}: {id}, made by {maker}")
    }

    fn answered(id: &str, maker: &str) -> String {
        format!("answered {id}: made by {maker}")
    }

    /// Two orders, of which one was posted twice and run once.
    fn good() -> Vec<String> {
        let mut lines = vec![says("node1", "listening on http://127.0.0.1:1, over nats")];
        lines.extend(run("node1", "a", "node1"));
        lines.extend(run("node2", "b", "node2"));
        for node in ["node1", "node2"] {
            lines.push(hears(node, "a", "node1"));
            lines.push(hears(node, "b", "node2"));
        }
        lines.extend([answered("a", "node1"), answered("b", "node2")]);
        assert!(findings(&lines).is_good(), "{}", findings(&lines));
        lines
    }

    fn finds(lines: &[String], part: &str) {
        let findings = findings(lines);
        assert!(
            !findings.is_good() && findings.to_string().contains(part),
            "{part}: {findings}"
        );
    }

    #[test]
    fn an_order_that_two_nodes_made_is_found() {
        // The second node did not know, although all ids are the same, and so is the maker.
        let mut lines = good();
        lines.extend(run("node2", "a", "node1"));
        finds(
            &lines,
            "a was made 2 times: node1 in its life 1, node2 in its life 1",
        );
        // A node that stopped in order had answered.
        let mut lines = good();
        lines.extend([says("node1", "stopping"), says("node1", "stopped")]);
        lines.extend(run("node1", "a", "node1"));
        finds(
            &lines,
            "a was made 2 times: node1 in its life 1, node1 in its life 2",
        );
    }

    #[test]
    fn two_makers_of_one_order_are_found() {
        for line in [
            hears("node3", "a", "node2"),
            answered("a", "node2"),
            run("node2", "a", "node2")[1].clone(),
        ] {
            let mut lines = good();
            lines.push(line);
            finds(&lines, "a is said to be made by node1 and by node2");
        }
    }

    #[test]
    fn an_event_with_a_second_effect_is_found() {
        let mut lines = good();
        lines.push(hears("node2", "a", "node1"));
        finds(
            &lines,
            "a was shipped twice with effect: node1 in its life 1, node2 in its life 1, node2",
        );
        // Its book is another one after that.
        let mut lines = good();
        lines.extend([says("node2", "killed"), hears("node2", "a", "node1")]);
        assert!(findings(&lines).is_good());
        let mut lines = good();
        let again = "[QoS 1] order shipped received again (without effect): a, made by node1";
        lines.push(says("node2", again));
        let found = findings(&lines);
        assert!(found.is_good() && found.shipped_again == 1, "{found}");
    }

    #[test]
    fn what_a_dead_node_had_not_answered_is_made_up_for() {
        let mut lines = good();
        lines.push(says("node1", "Processing order c: 1 x lamp"));
        lines.extend(run("node1", "d", "node1"));
        lines.push(says("node1", "killed"));
        lines.extend(run("node2", "c", "node2"));
        lines.extend(run("node2", "d", "node1"));
        lines.extend([answered("c", "node2"), answered("d", "node1")]);
        let found = findings(&lines);
        assert!(found.is_good() && found.begun_again == 2, "{found}");
        // Not what it had made long before.
        let mut lines = good();
        for number in 0..UNANSWERED {
            lines.extend(run("node1", &format!("later-{number}"), "node1"));
        }
        lines.push(says("node1", "killed"));
        lines.extend(run("node2", "a", "node1"));
        finds(&lines, "a was made 2 times");
        // And not twice by those who live.
        let mut lines = good();
        lines.push(says("node1", "killed"));
        lines.extend(run("node2", "a", "node1"));
        assert!(findings(&lines).is_good());
        lines.extend(run("node3", "a", "node1"));
        finds(&lines, "a was made 2 times");
    }

    #[test]
    fn what_nobody_made_is_found() {
        finds(&[], "no order was made");
        let mut lines = good();
        lines.push(answered("z", "node1"));
        finds(&lines, "z was made by nobody");
        let mut lines = good();
        lines.push(says("node1", "Processing order z: 1 x lamp"));
        lines.push(answered("z", "node1"));
        finds(&lines, "z was answered, and no run of it ended");
    }
}
