//! Why the bucket cannot be followed, for those who wait for what it says.

use std::sync::Arc;

use arc_swap::ArcSwapOption;
use catga_core::{Error, ErrorKind};
use tokio::sync::Notify;

use crate::error;

/// The last problem, as long as it is one.
#[derive(Debug, Default)]
pub(crate) struct Trouble {
    last: ArcSwapOption<Error>,
    noted: Notify,
}

impl Trouble {
    pub(crate) fn note(&self, error: Error) {
        self.last.store(Some(Arc::new(error)));
        self.noted.notify_waiters();
    }

    pub(crate) fn is_over(&self) {
        self.last.store(None);
    }

    /// Why a call came to no answer in time.
    pub(crate) fn slow(&self, operation: &'static str) -> Error {
        let slow = error::slow_registry(operation);
        match self.last.load_full() {
            None => slow,
            Some(why) => {
                let text = format!(
                    "{}; the node registry cannot be followed: {}",
                    slow.message(),
                    why.message()
                );
                Error::new(slow.kind(), operation, text)
                    .with_retry(slow.retry())
                    .with_unknown_outcome()
                    .with_source(why)
            }
        }
    }

    /// Why a call cannot be answered at all, where waiting does not help.
    pub(crate) fn lasting(&self, operation: &'static str) -> Option<Error> {
        let why = self.last.load_full().filter(|why| lasts(why))?;
        let text = format!("the node registry cannot be followed: {}", why.message());
        let error = Error::new(why.kind(), operation, text).with_retry(why.retry());
        Some(error::of_bucket(error.with_source(why)))
    }

    /// Waits until there is such a problem.
    pub(crate) async fn until_lasting(&self, operation: &'static str) -> Error {
        loop {
            // Made before it is asked: a problem between the two still wakes it.
            let noted = self.noted.notified();
            if let Some(error) = self.lasting(operation) {
                return error;
            }
            noted.await;
        }
    }
}

/// Whether somebody has to do something about it.
pub(crate) fn lasts(error: &Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::Permission | ErrorKind::Conflict | ErrorKind::Config | ErrorKind::Unsupported
    )
}
