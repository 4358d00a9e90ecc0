//! Pictures of a run: dots on a logarithmic axis, readable on light and dark pages, with their conditions.

use std::fmt::Write as _;

use crate::report::{Run, time};
use crate::row::Row;

const WIDTH: f64 = 960.0;
const LABELS: f64 = 250.0;
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
    rows: Vec<(&'static str, Vec<f64>)>,
}

/// Every picture that the run has rows for, by the name of its file.
pub fn all(run: &Run) -> Vec<(&'static str, String)> {
    let picked = |values: &dyn Fn(&Row) -> Option<Vec<f64>>| -> Vec<_> {
        let rows = run.rows.iter().filter(|row| row.failure.is_none());
        rows.filter_map(|row| Some((row.case.name, values(row)?)))
            .collect()
    };
    let ratios = Chart {
        title: "Throughput, as a ratio to the same work by hand",
        subtitle: "least, median and most of the rounds; right of the line: faster than what it is held against",
        series: &["least", "median", "most"],
        mark: Some(1.0),
        show: |ratio| format!("{ratio}×"),
        rows: picked(&|row| {
            let ratio = row.ratio(&run.rows)?;
            Some(vec![ratio.least, ratio.median, ratio.most])
        }),
    };
    let latencies = Chart {
        title: "Latency of one message or request, at full load",
        subtitle: "further left is faster; from being published or sent to being handled, acknowledged or answered",
        series: &["p50", "p90", "p99", "p99.9"],
        mark: None,
        show: time,
        rows: picked(&|row| {
            let of = row.latency.as_ref()?;
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

impl Chart<'_> {
    fn draw(&self, conditions: &[String]) -> String {
        let values = || {
            self.rows
                .iter()
                .flat_map(|(_, values)| values.iter().copied())
        };
        let positive = || values().filter(|value| *value > 0.0);
        // Whole powers of ten around what there is.
        let low = positive().fold(f64::MAX, f64::min).log10().floor();
        let high = positive()
            .fold(f64::MIN, f64::max)
            .log10()
            .ceil()
            .max(low + 1.0);
        let plot = WIDTH - LABELS - 30.0;
        let x = |value: f64| LABELS + (value.max(1e-12).log10() - low) / (high - low) * plot;
        let top = 92.0;
        let bottom = top + LINE * self.rows.len() as f64;
        let height = bottom + 40.0 + 15.0 * conditions.len() as f64;

        let mut svg = String::new();
        let mut line = |text: std::fmt::Arguments<'_>| {
            writeln!(svg, "{text}").expect("a string takes all");
        };
        line(format_args!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" width=\"{WIDTH}\" height=\"{height}\" role=\"img\">"
        ));
        line(format_args!(
            "<title>{}</title>\n{STYLE}",
            escape(self.title)
        ));
        line(format_args!(
            "<rect class=\"page\" width=\"{WIDTH}\" height=\"{height}\" rx=\"6\"/>"
        ));
        line(format_args!(
            "<text x=\"16\" y=\"26\" class=\"title\">{}</text>",
            escape(self.title)
        ));
        line(format_args!(
            "<text x=\"16\" y=\"44\">{}</text>",
            escape(self.subtitle)
        ));
        for (index, name) in self.series.iter().enumerate() {
            let (at, colour) = (20.0 + 90.0 * index as f64, COLOURS[index]);
            line(format_args!(
                "<circle class=\"{colour}\" cx=\"{at}\" cy=\"60\" r=\"4\"/>"
            ));
            line(format_args!(
                "<text x=\"{}\" y=\"64\">{name}</text>",
                at + 9.0
            ));
        }
        for power in low as i32..=high as i32 {
            let value = 10f64.powi(power);
            let at = x(value);
            line(format_args!(
                "<line class=\"grid\" x1=\"{at:.1}\" y1=\"{top}\" x2=\"{at:.1}\" y2=\"{bottom}\"/>"
            ));
            let shown = escape(&(self.show)(value));
            line(format_args!(
                "<text x=\"{at:.1}\" y=\"{}\" text-anchor=\"middle\">{shown}</text>",
                top - 6.0
            ));
        }
        if let Some(at) = self.mark.map(x) {
            line(format_args!(
                "<line class=\"mark\" x1=\"{at:.1}\" y1=\"{top}\" x2=\"{at:.1}\" y2=\"{bottom}\"/>"
            ));
        }
        for (index, (name, values)) in self.rows.iter().enumerate() {
            let y = top + LINE * (index as f64 + 0.5);
            line(format_args!(
                "<text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{name}</text>",
                LABELS - 10.0,
                y + 4.0
            ));
            if let [first, .., last] = values[..] {
                let (from, to) = (x(first), x(last));
                line(format_args!(
                    "<line class=\"range\" x1=\"{from:.1}\" y1=\"{y:.1}\" x2=\"{to:.1}\" y2=\"{y:.1}\"/>"
                ));
            }
            for (value, colour) in values.iter().zip(COLOURS) {
                let at = x(*value);
                line(format_args!(
                    "<circle class=\"{colour}\" cx=\"{at:.1}\" cy=\"{y:.1}\" r=\"3.5\"/>"
                ));
            }
        }
        for (index, condition) in conditions.iter().enumerate() {
            let y = bottom + 28.0 + 15.0 * index as f64;
            line(format_args!(
                "<text x=\"16\" y=\"{y:.1}\" class=\"small\">{}</text>",
                escape(condition)
            ));
        }
        line(format_args!("</svg>"));
        svg
    }
}

const STYLE: &str = "<style>
text { font: 12px system-ui, sans-serif; fill: #24292f }
.title { font-size: 16px; font-weight: 600 }
.small { font-size: 11px; fill: #57606a }
.page { fill: #ffffff; stroke: #d0d7de }
.grid { stroke: #d8dee4 }
.range { stroke: #8c959f; stroke-width: 2 }
.mark { stroke: #24292f; stroke-dasharray: 4 3 }
.a { fill: #0969da } .b { fill: #bc4c00 } .c { fill: #1a7f37 } .d { fill: #8250df }
@media (prefers-color-scheme: dark) {
text { fill: #e6edf3 }
.small { fill: #9198a1 }
.page { fill: #0d1117; stroke: #3d444d }
.grid { stroke: #2a313c }
.range { stroke: #656c76 }
.mark { stroke: #e6edf3 }
.a { fill: #4493f8 } .b { fill: #f0883e } .c { fill: #3fb950 } .d { fill: #ab7df8 }
}
</style>";

fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}
