//! A shared value whose type the compiler does not look into.

use std::ops::Deref;
use std::sync::Arc;

/// As an `Arc`, of which all that is known is that it is `Send` and `Sync`.
///
/// The future of every handler that takes a [`Context`](crate::Context) has to be proved `Send`. Through an `Arc<Inner>` that led
/// to each field of each part of an application, for every handler anew: a tenth of what a check of it costs.
pub(crate) struct Hidden<T: 'static>(Arc<dyn Share<T> + Send + Sync>);

impl<T> Hidden<T> {
    /// The same value, as what it is.
    pub(crate) fn to_arc(&self) -> Arc<T> {
        Arc::clone(&self.0).into_arc()
    }
}

trait Share<T> {
    fn value(&self) -> &T;
    fn into_arc(self: Arc<Self>) -> Arc<T>;
}

impl<T> Share<T> for T {
    fn value(&self) -> &T {
        self
    }

    fn into_arc(self: Arc<Self>) -> Arc<T> {
        self
    }
}

impl<T: Send + Sync> From<Arc<T>> for Hidden<T> {
    fn from(value: Arc<T>) -> Self {
        Self(value)
    }
}

impl<T> Deref for Hidden<T> {
    type Target = T;

    fn deref(&self) -> &T {
        (*self.0).value()
    }
}

impl<T> Clone for Hidden<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}
