//! What a handler fails with.

use std::error::Error as StdError;
use std::fmt;
use std::time::Duration;

use catga_core::{BoxError, Error, Retry};

/// The error of a handler: any error, and whether to try again.
///
/// `?` turns every error into one that says *try again*; [`FailWith`] has the other words. It is no
/// [`std::error::Error`] itself, so that `?` can take every error that is; print it with `{}` or `{:?}`.
pub struct HandlerError {
    cause: BoxError,
    retry: Retry,
}

impl HandlerError {
    /// An error that is worth another attempt.
    #[must_use]
    pub fn retry(cause: impl Into<BoxError>) -> Self {
        Self {
            cause: cause.into(),
            retry: Retry::Now,
        }
    }

    /// An error that no further attempt can mend: the message is dead-lettered now.
    #[must_use]
    pub fn terminal(cause: impl Into<BoxError>) -> Self {
        Self {
            cause: cause.into(),
            retry: Retry::Never,
        }
    }

    /// An error that is worth another attempt, but not before `delay`.
    #[must_use]
    pub fn retry_after(cause: impl Into<BoxError>, delay: Duration) -> Self {
        Self {
            cause: cause.into(),
            retry: Retry::After(delay),
        }
    }

    /// The error that was met.
    #[must_use]
    pub fn cause(&self) -> &(dyn StdError + Send + Sync + 'static) {
        &*self.cause
    }

    /// The framework's own error, when that is what was met.
    #[must_use]
    pub fn as_catga(&self) -> Option<&Error> {
        self.cause.downcast_ref()
    }

    /// Whether no further attempt can mend it.
    #[must_use]
    pub fn is_terminal(&self) -> bool {
        self.retry == Retry::Never
    }

    /// The delay that was asked for before the next attempt.
    #[must_use]
    pub fn delay(&self) -> Option<Duration> {
        match self.retry {
            Retry::After(delay) => Some(delay),
            _ => None,
        }
    }

    pub(crate) fn retry_hint(&self) -> Retry {
        self.retry
    }
}

impl<E: StdError + Send + Sync + 'static> From<E> for HandlerError {
    fn from(error: E) -> Self {
        let cause: BoxError = Box::new(error);
        // Only a delay that our own error names is taken over: what cannot succeed as it is may well
        // succeed when the handler runs again (a publish on a lost connection, say).
        let retry = match cause.downcast_ref::<Error>().map(Error::retry) {
            Some(Retry::After(delay)) => Retry::After(delay),
            _ => Retry::Now,
        };
        Self { cause, retry }
    }
}

/// The error that was met, without what was said of it: so that `.terminal()` and its like take the
/// error of one handler that another one calls.
impl From<HandlerError> for BoxError {
    fn from(error: HandlerError) -> Self {
        error.cause
    }
}

impl fmt::Display for HandlerError {
    /// The error and its causes on one line.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.cause)?;
        let mut source = self.cause.source();
        while let Some(error) = source {
            write!(f, ": {error}")?;
            source = error.source();
        }
        Ok(())
    }
}

impl fmt::Debug for HandlerError {
    /// As [`Display`](fmt::Display), and that of a catga error in full: this is what `main` prints.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.as_catga() {
            Some(error) => write!(f, "{error:?}"),
            None => write!(f, "{self}"),
        }
    }
}

/// Says in a handler what an error means for the message: `.terminal()?`, `.retry()?`, `.retry_after(delay)?`.
///
/// # Examples
/// ```
/// use std::time::Duration;
/// use catga::prelude::*;
///
/// fn quantity(text: &str) -> Result<u32> {
///     let quantity = text.parse().terminal()?;                    // never again: dead-letter it now
///     check(quantity).retry_after(Duration::from_secs(5))?;       // again, in five seconds
///     Ok(quantity)
/// }
///
/// // Boxed errors, which `?` alone cannot take, say what they mean too.
/// fn check(quantity: u32) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
///     if quantity > 100 { Err("the warehouse is closed".into()) } else { Ok(()) }
/// }
///
/// assert!(quantity("many").unwrap_err().is_terminal());
/// assert_eq!(quantity("101").unwrap_err().delay(), Some(Duration::from_secs(5)));
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` does not say what went wrong",
    label = "not a `Result` of an error",
    note = "`.retry()?`, `.terminal()?` and `.retry_after(..)?` stand behind a `Result` whose error is a `std::error::Error`, a boxed one, an `anyhow::Error`, or a text"
)]
pub trait FailWith<T>: Sized + sealed::Sealed {
    /// Try again, with the usual back-off: what `?` alone says of an error that is a `std::error::Error`.
    ///
    /// # Errors
    /// The error, as one to try again.
    fn retry(self) -> Result<T, HandlerError>;

    /// Never try again: dead-letter the message now.
    ///
    /// # Errors
    /// The error, as one that ends it.
    fn terminal(self) -> Result<T, HandlerError>;

    /// Try again, but not before `delay`.
    ///
    /// # Errors
    /// The error, as one to try again after the delay.
    fn retry_after(self, delay: Duration) -> Result<T, HandlerError>;
}

mod sealed {
    /// Only results can say what their error means.
    pub trait Sealed {}
    impl<T, E> Sealed for Result<T, E> {}
}

impl<T, E: Into<BoxError>> FailWith<T> for Result<T, E> {
    fn retry(self) -> Result<T, HandlerError> {
        self.map_err(HandlerError::retry)
    }

    fn terminal(self) -> Result<T, HandlerError> {
        self.map_err(HandlerError::terminal)
    }

    fn retry_after(self, delay: Duration) -> Result<T, HandlerError> {
        self.map_err(|error| HandlerError::retry_after(error, delay))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use catga_core::ErrorKind;

    #[test]
    fn a_question_mark_means_try_again() {
        let error: HandlerError = std::io::Error::other("disk").into();
        assert!(!error.is_terminal());
        assert_eq!(error.to_string(), "disk");
    }

    #[test]
    fn the_error_of_another_handler_can_be_ended() {
        let other: Result<(), HandlerError> = Err(HandlerError::retry("busy"));
        let error = other.terminal().unwrap_err();
        assert!(error.is_terminal());
        assert_eq!(error.to_string(), "busy");
    }

    #[test]
    fn our_own_error_keeps_its_delay() {
        let delay = Duration::from_secs(3);
        let error: HandlerError = Error::new(ErrorKind::Unavailable, "publish", "gone")
            .with_retry(Retry::After(delay))
            .into();
        assert_eq!(error.delay(), Some(delay));
        assert_eq!(
            error.as_catga().map(Error::kind),
            Some(ErrorKind::Unavailable)
        );
    }
}
