//! Rounds of a case, and the table.

use std::time::Duration;

use crate::cases::Case;

/// One case with what its rounds took.
pub struct Row {
    pub case: Case,
    rounds: Vec<f64>,
    allocations: Option<f64>,
}

impl Row {
    pub fn new(case: Case) -> Self {
        Self { case, rounds: Vec::new(), allocations: None }
    }

    /// Runs one round.
    pub fn measure(&mut self) {
        let mut took = Duration::ZERO;
        let counted = allocation_counter::measure(|| took = (self.case.run)(self.case.operations));
        self.rounds.push(took.as_nanos() as f64 / self.case.operations as f64);
        // The counter sees this thread alone: where others work too, it would be a half-truth.
        self.allocations =
            self.case.one_thread.then(|| counted.count_total as f64 / self.case.operations as f64);
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
    println!("{:<44} {:>10} {:>19} {:>9} {:>7}  ratio (rate over rate)", "case", "ns/op", "min .. max", "op/s", "allocs");
    for row in rows {
        let (sorted, median) = (row.sorted(), row.median());
        let spread = format!("{:.0} .. {:.0}", sorted[0], sorted[sorted.len() - 1]);
        let allocations = row.allocations.map_or("-".to_owned(), |count| format!("{count:.2}"));
        let against = row.case.against.and_then(|name| rows.iter().find(|other| other.case.name == name));
        let ratio = against.map_or(String::new(), |other| format!("{:.2} of {}", other.median() / median, other.case.name));
        println!(
            "{:<44} {:>10.0} {:>19} {:>9} {:>7}  {ratio}",
            row.case.name,
            median,
            spread,
            rate(1e9 / median),
            allocations,
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
