//! Incarnations that said that they leave: what they said before may come later.

use std::collections::HashMap;
use std::time::Duration;

use catga_core::Incarnation;
use tokio::time::Instant;

/// How many are remembered.
const MOST: usize = 1024;

/// Those that left within the last node timeout.
#[derive(Debug)]
pub(crate) struct Gone {
    left: HashMap<Incarnation, Instant>,
    timeout: Duration,
}

impl Gone {
    pub(crate) fn new(timeout: Duration) -> Self {
        Self {
            left: HashMap::new(),
            timeout,
        }
    }

    pub(crate) fn note(&mut self, incarnation: Incarnation) {
        if self.left.len() >= MOST {
            self.left.retain(|_, at| at.elapsed() < self.timeout);
        }
        // One too many is a ghost for a timeout, as it would be without this.
        if self.left.len() < MOST {
            self.left.insert(incarnation, Instant::now());
        }
    }

    pub(crate) fn forget(&mut self, incarnation: Incarnation) {
        self.left.remove(&incarnation);
    }

    pub(crate) fn has(&self, incarnation: Incarnation) -> bool {
        let left = self.left.get(&incarnation);
        left.is_some_and(|at| at.elapsed() < self.timeout)
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn those_that_left_are_remembered_for_a_timeout_and_not_too_many() {
        let timeout = Duration::from_secs(30);
        let mut gone = Gone::new(timeout);
        let (back, last) = (Incarnation::new(), Incarnation::new());
        gone.note(back);
        assert!(gone.has(back) && !gone.has(last));
        gone.forget(back);
        assert!(!gone.has(back));
        for _ in 0..2 * MOST {
            gone.note(Incarnation::new());
        }
        assert_eq!(gone.left.len(), MOST);
        advance(timeout).await;
        gone.note(last);
        assert!(gone.has(last));
        assert_eq!(gone.left.len(), 1);
    }
}
