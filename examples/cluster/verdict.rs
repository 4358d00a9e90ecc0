//! What became of the orders of a load.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

/// So many problems are shown; the others are counted.
const SHOWN: usize = 5;

/// What was answered to an order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Answered {
    pub(crate) id: String,
    /// The node that made it.
    pub(crate) by: String,
}

impl fmt::Display for Answered {
    /// As `cluster audit` reads it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "answered {}: made by {}", self.id, self.by)
    }
}

/// An order that was made.
#[derive(Debug)]
pub(crate) struct Placed {
    pub(crate) number: u64,
    pub(crate) answered: Answered,
    /// The answer when it was posted once more with its key.
    pub(crate) again: Option<Answered>,
    pub(crate) tries: usize,
    pub(crate) took: Duration,
}

#[derive(Debug, Default)]
pub(crate) struct Verdict {
    pub(crate) took: Duration,
    /// By id: its number, and who made it.
    made: BTreeMap<String, (u64, String)>,
    by: BTreeMap<String, u64>,
    failed: u64,
    twice: u64,
    again: u64,
    went_on: u64,
    slowest: Duration,
    found: u64,
    missing: u64,
    problems: Vec<String>,
}

impl Verdict {
    pub(crate) fn note(&mut self, placed: Result<Placed, String>) {
        let placed = match placed {
            Ok(placed) => placed,
            Err(problem) => {
                self.failed += 1;
                return self.problem(problem);
            }
        };
        let Placed {
            number,
            answered: Answered { id, by },
            again,
            ..
        } = placed;
        if let Some(again) = again {
            self.again += 1;
            // Both from the one run that it may have had.
            if (&again.id, &again.by) != (&id, &by) {
                self.twice += 1;
                let Answered { id: other, by: who } = again;
                self.problem(format!(
                    "order {number} was made as {id} by {by} and as {other} by {who}"
                ));
            }
        }
        *self.by.entry(by.clone()).or_default() += 1;
        if let Some((other, _)) = self.made.insert(id.clone(), (number, by)) {
            self.twice += 1;
            self.problem(format!("{id} is order {number} and order {other}"));
        }
        self.went_on += u64::from(placed.tries > 1);
        self.slowest = self.slowest.max(placed.took);
    }

    /// The orders that were made, with their numbers.
    pub(crate) fn orders(&self) -> Vec<(u64, Answered)> {
        let made = self.made.iter();
        let orders = made.map(|(id, (number, by))| {
            let (id, by) = (id.clone(), by.clone());
            (*number, Answered { id, by })
        });
        orders.collect()
    }

    /// What was answered.
    pub(crate) fn answers(&self) -> impl Iterator<Item = Answered> {
        self.orders().into_iter().map(|(_, answered)| answered)
    }

    pub(crate) fn looked_up(&mut self, found: Result<(), String>) {
        match found {
            Ok(()) => self.found += 1,
            Err(problem) => {
                self.missing += 1;
                self.problem(problem);
            }
        }
    }

    fn problem(&mut self, problem: String) {
        if self.problems.len() < SHOWN {
            self.problems.push(problem);
        }
    }

    pub(crate) fn is_good(&self) -> bool {
        !self.made.is_empty() && self.failed == 0 && self.twice == 0 && self.missing == 0
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let by = self
            .by
            .iter()
            .map(|(node, count)| format!("{node} {count}"));
        let by = by.collect::<Vec<_>>().join(", ");
        let seconds = self.took.as_secs_f64();
        writeln!(
            f,
            "made                 {:>7}  in {seconds:.1} s ({by})",
            self.made.len()
        )?;
        writeln!(f, "failed               {:>7}", self.failed)?;
        writeln!(f, "made twice           {:>7}", self.twice)?;
        writeln!(
            f,
            "posted again         {:>7}  with the same key, at another node: the same order",
            self.again
        )?;
        writeln!(
            f,
            "tried at another node{:>7}  since the first did not answer",
            self.went_on
        )?;
        writeln!(f, "found at another node{:>7}", self.found)?;
        writeln!(f, "found nowhere        {:>7}", self.missing)?;
        writeln!(f, "slowest              {:>7} ms", self.slowest.as_millis())?;
        for problem in &self.problems {
            writeln!(f, "  {problem}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answered(id: &str, by: &str) -> Answered {
        Answered {
            id: id.to_owned(),
            by: by.to_owned(),
        }
    }

    fn placed(number: u64, id: &str, again: Option<Answered>) -> Placed {
        Placed {
            number,
            answered: answered(id, "node1"),
            again,
            tries: 1,
            took: Duration::from_millis(1),
        }
    }

    #[test]
    fn one_wrong_order_is_enough() {
        assert!(!Verdict::default().is_good(), "nothing was made");
        let good = || {
            let mut verdict = Verdict::default();
            verdict.note(Ok(placed(1, "a", Some(answered("a", "node1")))));
            verdict.note(Ok(placed(2, "b", None)));
            verdict.looked_up(Ok(()));
            assert!(verdict.is_good());
            verdict
        };
        for wrong in [
            Ok(placed(3, "c", Some(answered("d", "node1")))),
            // The handler ran again, elsewhere.
            Ok(placed(3, "c", Some(answered("c", "node2")))),
            Ok(placed(3, "a", None)),
            Err("no node took it".to_owned()),
        ] {
            let mut verdict = good();
            verdict.note(wrong);
            assert!(!verdict.is_good(), "{verdict}");
        }
        let mut verdict = good();
        verdict.looked_up(Err("nobody has it".to_owned()));
        assert!(!verdict.is_good());
        assert!(verdict.to_string().contains("nobody has it"), "{verdict}");
    }
}
