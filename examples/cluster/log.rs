//! What a node writes down: a line for each thing, begun with its name.

use std::fmt::{Arguments, Display};

/// Where the lines go.
#[derive(Clone, Debug)]
pub(crate) enum Log {
    Stdout,
    /// To standard output too, but nothing of single orders: a line for each is dear when there are thousands in a second.
    Quiet,
    /// To a test.
    #[cfg(test)]
    Lines(Lines),
}

/// Where a test reads them.
#[cfg(test)]
#[derive(Clone, Debug)]
pub(crate) struct Lines {
    pub(crate) tell: tokio::sync::mpsc::UnboundedSender<String>,
    /// Whoever wrote that it begins an order stands still while this is true.
    pub(crate) holds: std::sync::Arc<std::sync::atomic::AtomicBool>,
}

#[cfg(test)]
impl Lines {
    fn write(&self, line: String) {
        let begins = line.contains("Processing order");
        // The test may have seen enough.
        let _ = self.tell.send(line);
        while begins && self.holds.load(std::sync::atomic::Ordering::Relaxed) {
            std::thread::sleep(std::time::Duration::from_millis(2));
        }
    }
}

impl Log {
    /// Writes what becomes of an order.
    pub(crate) fn say(&self, node: impl Display, what: Arguments<'_>) {
        if !matches!(self, Self::Quiet) {
            self.tell(node, what);
        }
    }

    /// Writes what becomes of a node.
    pub(crate) fn tell(&self, node: impl Display, what: Arguments<'_>) {
        match self {
            // One write, so that nodes that share the output do not write into each other's lines.
            Self::Stdout | Self::Quiet => crate::print(format!("[{node}] {what}\n")),
            #[cfg(test)]
            Self::Lines(lines) => lines.write(format!("[{node}] {what}")),
        }
    }
}
