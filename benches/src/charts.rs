//! Pictures of a run: dots on a logarithmic axis, readable on light and dark pages, with their conditions.

use std::fmt::Write as _;

use crate::case::Bar;
use crate::report::{Run, time};
use crate::row::Row;

const WIDTH: f64 = 960.0;
const LINE: f64 = 17.0;
const COLOURS: [&str; 4] = ["a", "b", "c", "d"];

/// One picture.
struct Chart<'a> {
    title: &'a str,
    /// What is better, and what the dots are.
    subtitle: &'a str,
    series: &'a [&'a str],
    /// A value that deserves a line across.
    mark: Option<f64>,
    show: fn(f64) -> String,
    rows: Vec<Dots>,
}

/// One line of a picture.
struct Dots {
    label: String,
    /// For each series, as far as there is one.
    values: Vec<f64>,
    asked: Option<f64>,
}

/// Every picture that the run has rows for, by the name of its file.
pub fn all(run: &Run) -> Vec<(&'static str, String)> {
    let picked = |values: &dyn Fn(&Row) -> Option<Vec<f64>>| -> Vec<Dots> {
        let rows = run.rows.iter().filter(|row| row.failure.is_none());
        rows.filter_map(|row| {
            Some(Dots {
                label: row.case.name.to_owned(),
                values: values(row)?,
                asked: None,
            })
        })
        .collect()
    };
    let ratios = Chart {
        title: "Throughput, as a ratio to what a case is held against",
        subtitle: "right of the line: faster than that; a tick: what is asked",
        series: &["slowest round", "fastest", "median"],
        mark: Some(1.0),
        show: |ratio| format!("{ratio}×"),
        rows: run
            .rows
            .iter()
            .filter_map(|row| ratio(row, &run.rows))
            .collect(),
    };
    let latencies = Chart {
        title: "Latency of one message or request, at full load",
        subtitle: "further left is faster; from being published or sent to being handled, acknowledged or answered",
        series: &["p50", "p90", "p99", "p99.9"],
        mark: None,
        show: time,
        rows: picked(&|row| {
            let of = row.latencies()?;
            let values = [of.p50, of.p90, of.p99, of.p999];
            Some(values.iter().map(|nanos| *nanos as f64).collect())
        }),
    };
    let costs = Chart {
        title: "CPU for one message or request",
        subtitle: "further left is cheaper; medians; no dot for a server: there is none",
        series: &["client", "server"],
        mark: None,
        show: time,
        rows: picked(&|row| {
            let cpu = [row.client_cpu(), row.server_cpu()];
            Some(cpu.iter().flatten().map(|cpu| cpu.median).collect())
        }),
    };
    let charts = [("ratio", ratios), ("latency", latencies), ("cost", costs)];
    let drawn = charts
        .into_iter()
        .filter(|(_, chart)| !chart.rows.is_empty());
    drawn
        .map(|(name, chart)| (name, chart.draw(&run.conditions())))
        .collect()
}

fn ratio(row: &Row, rows: &[Row]) -> Option<Dots> {
    let ratio = row.ratio(rows)?;
    let asked = row.case.bars.iter().find_map(|bar| match bar {
        Bar::RatioAtLeast(least) | Bar::RatioOnTwoCoresAtLeast(least) => Some(*least),
        _ => None,
    });
    Some(Dots {
        label: format!("{} of {}", row.case.name, row.case.against?),
        values: vec![ratio.least, ratio.most, ratio.median],
        asked,
    })
}

impl Chart<'_> {
    fn draw(&self, conditions: &[String]) -> String {
        let top = 92.0;
        let bottom = top + LINE * self.rows.len() as f64;
        let axis = Axis::over(&self.rows);
        let mut page = Page::new(self.title, bottom + 40.0 + 15.0 * conditions.len() as f64);
        page.text(16.0, 44.0, "", self.subtitle);
        for (index, (name, colour)) in self.series.iter().zip(COLOURS).enumerate() {
            let x = 20.0 + 110.0 * index as f64;
            page.dot(x, 60.0, colour);
            page.text(x + 9.0, 64.0, "", name);
        }
        for value in axis.powers() {
            let x = axis.at(value);
            page.line("grid", (x, top), (x, bottom));
            page.text(x, top - 6.0, "middle", &(self.show)(value));
        }
        if let Some(x) = self.mark.map(|mark| axis.at(mark)) {
            page.line("mark", (x, top), (x, bottom));
        }
        for (index, row) in self.rows.iter().enumerate() {
            let y = top + LINE * (index as f64 + 0.5);
            page.text(axis.left - 10.0, y + 4.0, "end", &row.label);
            let (least, most) = ends(row.values.iter().copied());
            page.line("range", (axis.at(least), y), (axis.at(most), y));
            for (value, colour) in row.values.iter().zip(COLOURS) {
                page.dot(axis.at(*value), y, colour);
            }
            if let Some(x) = row.asked.map(|asked| axis.at(asked)) {
                page.line("asked", (x, y - 6.0), (x, y + 6.0));
            }
        }
        for (index, condition) in conditions.iter().enumerate() {
            let y = bottom + 28.0 + 15.0 * index as f64;
            page.text(16.0, y, "small", condition);
        }
        page.end()
    }
}

fn ends(values: impl Iterator<Item = f64>) -> (f64, f64) {
    values.fold((f64::MAX, f64::MIN), |(least, most), value| {
        (least.min(value), most.max(value))
    })
}

/// Whole powers of ten around what there is.
struct Axis {
    left: f64,
    low: i32,
    high: i32,
}

impl Axis {
    fn over(rows: &[Dots]) -> Self {
        let values = rows
            .iter()
            .flat_map(|row| row.values.iter().chain(&row.asked));
        let (least, most) = ends(values.copied().filter(|value| *value > 0.0));
        let low = least.log10().floor() as i32;
        let longest = rows.iter().map(|row| row.label.len()).max();
        Self {
            // A letter is some 6.4 wide.
            left: longest.unwrap_or_default() as f64 * 6.4 + 26.0,
            low,
            high: (most.log10().ceil() as i32).max(low + 1),
        }
    }

    fn powers(&self) -> impl Iterator<Item = f64> {
        (self.low..=self.high).map(|power| 10f64.powi(power))
    }

    /// What is nothing stands at the left end.
    fn at(&self, value: f64) -> f64 {
        let (low, high) = (f64::from(self.low), f64::from(self.high));
        let part = (value.log10().max(low) - low) / (high - low);
        self.left + part * (WIDTH - self.left - 30.0)
    }
}

/// SVG as text.
struct Page(String);

impl Page {
    fn new(title: &str, height: f64) -> Self {
        let title = escape(title);
        Self(format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" width=\"{WIDTH}\" height=\"{height}\" role=\"img\">\n\
             <title>{title}</title>\n{STYLE}\n\
             <rect class=\"page\" width=\"{WIDTH}\" height=\"{height}\" rx=\"6\"/>\n\
             <text x=\"16\" y=\"26\" class=\"title\">{title}</text>\n"
        ))
    }

    /// `class` places or sizes it.
    fn text(&mut self, x: f64, y: f64, class: &str, text: &str) {
        let text = escape(text);
        let _ = writeln!(
            self.0,
            "<text x=\"{x:.1}\" y=\"{y:.1}\" class=\"{class}\">{text}</text>"
        );
    }

    fn dot(&mut self, x: f64, y: f64, class: &str) {
        let _ = writeln!(
            self.0,
            "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3.5\" class=\"{class}\"/>"
        );
    }

    fn line(&mut self, class: &str, from: (f64, f64), to: (f64, f64)) {
        let ((x1, y1), (x2, y2)) = (from, to);
        let _ = writeln!(
            self.0,
            "<line x1=\"{x1:.1}\" y1=\"{y1:.1}\" x2=\"{x2:.1}\" y2=\"{y2:.1}\" class=\"{class}\"/>"
        );
    }

    fn end(mut self) -> String {
        self.0.push_str("</svg>\n");
        self.0
    }
}

const STYLE: &str = "<style>
text { font: 12px system-ui, sans-serif; fill: #24292f }
.title { font-size: 16px; font-weight: 600 }
.small { font-size: 11px; fill: #57606a }
.middle { text-anchor: middle }
.end { text-anchor: end }
.page { fill: #ffffff; stroke: #d0d7de }
.grid { stroke: #d8dee4 }
.range { stroke: #8c959f; stroke-width: 2 }
.mark { stroke: #24292f; stroke-dasharray: 4 3 }
.asked { stroke: #cf222e; stroke-width: 2 }
.a { fill: #0969da } .b { fill: #bc4c00 } .c { fill: #1a7f37 } .d { fill: #8250df }
@media (prefers-color-scheme: dark) {
text { fill: #e6edf3 }
.small { fill: #9198a1 }
.page { fill: #0d1117; stroke: #3d444d }
.grid { stroke: #2a313c }
.range { stroke: #656c76 }
.mark { stroke: #e6edf3 }
.asked { stroke: #ff7b72 }
.a { fill: #4493f8 } .b { fill: #f0883e } .c { fill: #3fb950 } .d { fill: #ab7df8 }
}
</style>";

fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}
