//! Rounds of a case, and the table.

use crate::cases::Case;

/// One case with what its rounds took.
pub struct Row {
    pub case: Case,
    rounds: Vec<f64>,
}

impl Row {
    pub fn new(case: Case) -> Self {
        Self {
            case,
            rounds: Vec::new(),
        }
    }

    /// Runs one round.
    pub fn measure(&mut self) {
        let took = (self.case.run)(self.case.operations);
        self.rounds
            .push(took.as_nanos() as f64 / self.case.operations as f64);
    }

    fn sorted(&self) -> Vec<f64> {
        let mut rounds = self.rounds.clone();
        rounds.sort_by(f64::total_cmp);
        rounds
    }

    fn median(&self) -> f64 {
        self.sorted()[self.rounds.len() / 2]
    }
}

/// Prints the table.
pub fn print(rows: &[Row]) {
    println!(
        "{:<44} {:>10} {:>19} {:>9}  ratio (rate over rate)",
        "case", "ns/op", "min .. max", "op/s"
    );
    for row in rows {
        let (sorted, median) = (row.sorted(), row.median());
        let spread = format!("{:.0} .. {:.0}", sorted[0], sorted[sorted.len() - 1]);
        let against = row
            .case
            .against
            .and_then(|name| rows.iter().find(|other| other.case.name == name));
        let ratio = against.map_or(String::new(), |other| {
            format!("{:.2} of {}", other.median() / median, other.case.name)
        });
        println!(
            "{:<44} {:>10.0} {:>19} {:>9}  {ratio}",
            row.case.name,
            median,
            spread,
            rate(1e9 / median),
        );
    }
}

fn rate(per_second: f64) -> String {
    match per_second {
        r if r >= 1e6 => format!("{:.2}M", r / 1e6),
        r if r >= 1e3 => format!("{:.0}k", r / 1e3),
        r => format!("{r:.0}"),
    }
}
