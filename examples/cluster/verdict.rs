//! What became of the orders of a load.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

/// So many problems are shown; the others are counted.
const SHOWN: usize = 5;

/// An order that was made.
#[derive(Debug)]
pub(crate) struct Placed {
    pub(crate) number: u64,
    pub(crate) id: String,
    /// The node that made it.
    pub(crate) by: String,
    /// The id of the answer when it was posted once more with its key.
    pub(crate) again: Option<String>,
    pub(crate) tries: usize,
    pub(crate) took: Duration,
}

#[derive(Debug, Default)]
pub(crate) struct Verdict {
    pub(crate) took: Duration,
    /// By id.
    made: BTreeMap<String, u64>,
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
        let Placed { number, id, .. } = &placed;
        if let Some(again) = &placed.again {
            self.again += 1;
            if again != id {
                self.twice += 1;
                self.problem(format!("order {number} was made as {id} and as {again}"));
            }
        }
        if let Some(other) = self.made.insert(id.clone(), *number) {
            self.twice += 1;
            self.problem(format!("{id} is order {number} and order {other}"));
        }
        *self.by.entry(placed.by).or_default() += 1;
        self.went_on += u64::from(placed.tries > 1);
        self.slowest = self.slowest.max(placed.took);
    }

    /// The orders that were made: id and number.
    pub(crate) fn orders(&self) -> Vec<(String, u64)> {
        let made = self.made.iter();
        made.map(|(id, number)| (id.clone(), *number)).collect()
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

    fn placed(number: u64, id: &str, again: Option<&str>) -> Placed {
        Placed {
            number,
            id: id.to_owned(),
            by: "node1".to_owned(),
            again: again.map(str::to_owned),
            tries: 1,
            took: Duration::from_millis(1),
        }
    }

    #[test]
    fn one_wrong_order_is_enough() {
        assert!(!Verdict::default().is_good(), "nothing was made");
        let good = || {
            let mut verdict = Verdict::default();
            verdict.note(Ok(placed(1, "a", Some("a"))));
            verdict.note(Ok(placed(2, "b", None)));
            verdict.looked_up(Ok(()));
            assert!(verdict.is_good());
            verdict
        };
        for wrong in [
            Ok(placed(3, "c", Some("d"))),
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
