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
    pub(crate) hold: std::sync::Arc<Hold>,
}

/// Where whoever writes a line stands still.
#[cfg(test)]
#[derive(Debug, Default)]
pub(crate) struct Hold {
    /// A line with this in it.
    at: std::sync::OnceLock<&'static str>,
    ended: std::sync::atomic::AtomicBool,
}

#[cfg(test)]
impl Hold {
    /// From now on.
    pub(crate) fn begin(&self, at: &'static str) {
        self.at.set(at).expect("a test does this once");
    }

    pub(crate) fn end(&self) {
        self.ended.store(true, std::sync::atomic::Ordering::Relaxed);
    }

    fn stops(&self, line: &str) -> bool {
        self.at.get().is_some_and(|at| line.contains(at))
    }

    fn lasts(&self) -> bool {
        !self.ended.load(std::sync::atomic::Ordering::Relaxed)
    }
}

#[cfg(test)]
impl Lines {
    fn write(&self, line: String) {
        let stops = self.hold.stops(&line);
        // The test may have seen enough.
        let _ = self.tell.send(line);
        while stops && self.hold.lasts() {
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
