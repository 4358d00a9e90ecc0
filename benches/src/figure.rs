//! What a case measures beside time and CPU: messages as the server counts them, how long until all know, memory.

use serde::{Deserialize, Serialize};

use crate::report::time;

/// One of them, from one run.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Figure {
    pub name: String,
    pub value: f64,
    pub unit: Unit,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Unit {
    Number,
    Bytes,
    Nanos,
}

impl Figure {
    pub fn number(name: &str, value: f64) -> Self {
        Self::new(name, value, Unit::Number)
    }

    pub fn bytes(name: &str, value: f64) -> Self {
        Self::new(name, value, Unit::Bytes)
    }

    pub fn time(name: &str, value: std::time::Duration) -> Self {
        Self::new(name, value.as_nanos() as f64, Unit::Nanos)
    }

    fn new(name: &str, value: f64, unit: Unit) -> Self {
        let name = name.to_owned();
        Self { name, value, unit }
    }
}

impl Unit {
    /// With two or three digits.
    pub fn show(self, value: f64) -> String {
        match self {
            Self::Number => number(value),
            Self::Bytes => format!("{} B", number(value)),
            Self::Nanos => time(value),
        }
    }
}

fn number(value: f64) -> String {
    match value.abs() {
        n if n < 1000.0 && n.fract() == 0.0 => format!("{value:.0}"),
        n if n < 10.0 => format!("{value:.2}"),
        n if n < 100.0 => format!("{value:.1}"),
        _ => thousands(value.round() as i64),
    }
}

fn thousands(value: i64) -> String {
    let digits = value.to_string();
    let mut shown = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) && !shown.ends_with('-') {
            shown.push(',');
        }
        shown.push(digit);
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::Unit;

    #[test]
    fn figures_are_short() {
        let shown =
            [0.0, 0.1, 30.0, 9.25, 9_000.4, 1_234_567.0].map(|value| Unit::Number.show(value));
        assert_eq!(shown, ["0", "0.10", "30", "9.25", "9,000", "1,234,567"]);
        assert_eq!(Unit::Bytes.show(-2048.0), "-2,048 B");
        assert_eq!(Unit::Nanos.show(1.5e6), "1.50 ms");
    }
}
