//! Effects that are committed together with the claim of the message that is handled.

use std::fmt;
use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};

use catga_core::{CommitStore, Effects};

use crate::extract::FromContext;
use crate::hidden::Hidden;
use crate::origin::Origin;
use crate::{Context, HandlerError, Requirements};

/// A transaction that is committed in one step with the completion of the message, or not at all.
///
/// It is an argument of a handler whose message is `#[qos(exactly_once)]`, or is an idempotent request. What
/// is written through it is collected; when the handler has returned `Ok`, and its claim is still held,
/// all of it is applied together with the record that the message was handled. A handler that fails,
/// panics, dies, or has lost its claim to another leaves nothing behind. So the effect happens once.
///
/// `S` is the store of the backend's inbox; `start()` refuses a handler whose store the inbox is not.
///
/// # Examples
/// ```standalone_crate
/// use catga::memory::Memory;
/// use catga::prelude::*;
/// use serde::{Deserialize, Serialize};
///
/// #[derive(Event, Serialize, Deserialize)]
/// #[qos(exactly_once)]
/// struct PaymentTaken { order_id: String, cents: u64 }
///
/// #[handler]
/// async fn book(payment: PaymentTaken, mut tx: Commit<Memory>) -> Result<()> {
///     tx.put(payment.order_id, payment.cents.to_string());
///     Ok(())
/// }
///
/// #[tokio::main(flavor = "current_thread")]
/// async fn main() -> Result<()> {
///     let catga = Catga::builder().connect("memory://").start().await?;
///     catga.publish(PaymentTaken { order_id: "17".into(), cents: 999 }).await?;
///     let books = catga.commit_store::<Memory>().expect("`start()` saw to it").clone();
///     while books.get("17").await?.is_none() {
///         tokio::task::yield_now().await;
///     }
///     catga.shutdown().await?;
///     Ok(())
/// }
/// ```
pub struct Commit<S> {
    /// What is collected. Without its type, so that the compiler tells once, and where `S` is asked to be a store, that
    /// it is none.
    effects: Option<Effects>,
    origin: Hidden<Origin>,
    store: PhantomData<fn() -> S>,
}

const HELD: &str = "made with this type, and given away only when it is dropped";

impl<S: CommitStore> FromContext for Commit<S> {
    async fn from_context(context: &Context) -> Result<Self, HandlerError> {
        let origin = context.claimed_origin().ok_or_else(|| {
            HandlerError::terminal(
                "`Commit` needs a message that is claimed: `#[qos(exactly_once)]`, or an idempotent request that came through the broker",
            )
        })?;
        if !origin.effects.begin() {
            let text = "a handler takes one `Commit`, and this is the second";
            return Err(HandlerError::terminal(text));
        }
        Ok(Self {
            effects: Some(Effects::new(S::Transaction::default())),
            origin: origin.clone(),
            store: PhantomData,
        })
    }

    fn requires(requirements: &mut Requirements) {
        requirements.commit::<S>();
    }
}

impl<S> Drop for Commit<S> {
    fn drop(&mut self) {
        self.origin.effects.end(self.effects.take().expect(HELD));
    }
}

impl<S: CommitStore> Deref for Commit<S> {
    type Target = S::Transaction;

    fn deref(&self) -> &S::Transaction {
        let effects = self.effects.as_ref().expect(HELD);
        effects.downcast_ref().expect(HELD)
    }
}

impl<S: CommitStore> DerefMut for Commit<S> {
    fn deref_mut(&mut self) -> &mut S::Transaction {
        let effects = self.effects.as_mut().expect(HELD);
        effects.downcast_mut().expect(HELD)
    }
}

impl<S: CommitStore> fmt::Debug for Commit<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Commit<{}>", S::NAME)
    }
}
