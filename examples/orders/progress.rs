//! The live bar: drawn where standard error is a terminal, and nowhere else.

use std::io::{IsTerminal, Write};
use std::time::Duration;

use indicatif::{HumanCount, ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::intake::Source;
use crate::ledger::Ledger;

const REDRAWN_EVERY: Duration = Duration::from_millis(100);

/// How far the run is, in orders or, where nobody knows how many there are, in bytes of the file.
#[derive(Clone, Debug)]
pub(crate) struct Progress {
    bar: ProgressBar,
    in_bytes: bool,
}

impl Progress {
    pub(crate) fn new(source: &Source, hidden: bool) -> Self {
        let (length, in_bytes, template) = match source {
            Source::MadeUp(count) => (
                Some(*count),
                false,
                "{bar:32} {percent:>3} %  {msg}  {eta} left",
            ),
            // A pipe has no length.
            Source::File { bytes: 0, .. } => (None, true, "{spinner} {bytes}  {msg}"),
            Source::File { bytes, .. } => (
                Some(*bytes),
                true,
                "{bar:32} {bytes} of {total_bytes}  {msg}",
            ),
        };
        let target = if hidden {
            ProgressDrawTarget::hidden()
        } else {
            ProgressDrawTarget::stderr()
        };
        let style = ProgressStyle::with_template(template).expect("the templates are right");
        let bar = ProgressBar::with_draw_target(length, target).with_style(style);
        Self { bar, in_bytes }
    }

    /// A line that stays, above the bar.
    pub(crate) fn say(&self, line: &str) {
        // Whoever reads may have gone: the orders go on.
        self.bar
            .suspend(|| drop(writeln!(std::io::stderr(), "{line}")));
    }

    /// So many bytes of the file are read.
    pub(crate) fn read(&self, bytes: u64) {
        self.bar.set_position(bytes);
    }

    /// Follows the ledger until it is aborted.
    pub(crate) async fn follow(self, ledger: impl AsRef<Ledger>) {
        let ledger = ledger.as_ref();
        while std::io::stderr().is_terminal() {
            let (done, hiccups) = (ledger.done(), ledger.hiccups.count());
            if !self.in_bytes {
                self.bar.set_position(done);
            }
            self.bar.set_message(format!(
                "{} billed, {} tried again",
                HumanCount(done),
                HumanCount(hiccups)
            ));
            tokio::time::sleep(REDRAWN_EVERY).await;
        }
    }

    pub(crate) fn clear(&self) {
        self.bar.finish_and_clear();
    }
}
