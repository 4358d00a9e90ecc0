//! What a handler can ask for beside its message.

use std::any::{Any, TypeId, type_name};
use std::collections::HashMap;
use std::fmt;
use std::future::Future;
use std::hash::{BuildHasherDefault, Hasher};
use std::ops::Deref;

use catga_core::{CommitStore, Headers};

use crate::handlers::HandlerDef;
use crate::{Attempt, Context, HandlerError};

/// An argument of a handler beside the message: taken from the [`Context`] of the call.
///
/// [`Context`], [`State`], [`Headers`], [`Attempt`] and [`Commit`](crate::Commit) are such arguments. An own one says in
/// [`requires`](Self::requires) what it needs, so that `start()` reports what is missing instead of
/// the first message.
///
/// # Examples
/// ```
/// use catga::prelude::*;
/// use catga::{Context, HandlerError, Requirements};
///
/// struct Tenant(String);
///
/// impl FromContext for Tenant {
///     async fn from_context(context: &Context) -> Result<Self, HandlerError> {
///         let tenant = context.headers().get("tenant").ok_or("no tenant header").terminal()?;
///         Ok(Self(tenant.to_owned()))
///     }
/// }
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be an argument of a handler",
    label = "not an extractor",
    note = "after its one message a handler takes `Context`, `State<T>`, `Headers`, `Attempt`, `Commit<S>`, or a type that implements `FromContext`"
)]
pub trait FromContext: Sized + Send {
    /// Takes the argument from the context of a call.
    ///
    /// # Errors
    /// What is wrong; it counts as an error of the handler.
    fn from_context(context: &Context) -> impl Future<Output = Result<Self, HandlerError>> + Send;

    /// Says what must be there for this to work: checked once, at start.
    fn requires(requirements: &mut Requirements) {
        let _ = requirements;
    }
}

impl FromContext for Context {
    async fn from_context(context: &Context) -> Result<Self, HandlerError> {
        Ok(context.clone())
    }
}

impl FromContext for Headers {
    async fn from_context(context: &Context) -> Result<Self, HandlerError> {
        Ok(context.headers().clone())
    }
}

impl FromContext for Attempt {
    async fn from_context(context: &Context) -> Result<Self, HandlerError> {
        Ok(context.attempt())
    }
}

/// What the application was given with `.state(value)`: a clone of it.
///
/// # Examples
/// ```
/// # use catga::prelude::*;
/// # use serde::{Deserialize, Serialize};
/// # use std::sync::Arc;
/// #[derive(Clone)]
/// struct Prices(Arc<Vec<u64>>);
///
/// #[derive(Event, Serialize, Deserialize)]
/// struct Sold { item: usize }
///
/// #[handler]
/// async fn on_sold(sold: Sold, State(prices): State<Prices>) {
///     let _ = prices.0.get(sold.item);
/// }
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct State<T>(pub T);

impl<T: Clone + Send + Sync + 'static> FromContext for State<T> {
    async fn from_context(context: &Context) -> Result<Self, HandlerError> {
        match context.state::<T>() {
            Some(state) => Ok(Self(state.clone())),
            None => Err(HandlerError::terminal(format!(
                "no state `{}` was given",
                type_name::<T>()
            ))),
        }
    }

    fn requires(requirements: &mut Requirements) {
        requirements.state::<T>();
    }
}

impl<T> Deref for State<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

/// What the arguments of a handler need: collected at start, and compared with what is there.
#[derive(Debug, Default)]
pub struct Requirements {
    pub(crate) states: Vec<(TypeId, &'static str)>,
    pub(crate) commits: Vec<(TypeId, &'static str)>,
}

impl Requirements {
    /// Needs a state of this type.
    pub fn state<T: Clone + Send + Sync + 'static>(&mut self) {
        self.states.push((TypeId::of::<T>(), type_name::<T>()));
    }

    /// Needs an inbox that commits effects to this store.
    pub fn commit<S: CommitStore>(&mut self) {
        self.commits.push((TypeId::of::<S>(), S::NAME));
    }

    pub(crate) fn of(def: &HandlerDef) -> Self {
        let mut requirements = Self::default();
        (def.message.requires)(&*def.call, &mut requirements);
        requirements
    }
}

/// Values by their type.
#[derive(Default)]
pub(crate) struct States(
    HashMap<TypeId, Box<dyn Any + Send + Sync>, BuildHasherDefault<TypeIdHasher>>,
);

impl States {
    pub(crate) fn insert<T: Clone + Send + Sync + 'static>(&mut self, value: T) {
        self.0.insert(TypeId::of::<T>(), Box::new(value));
    }

    pub(crate) fn get<T: Clone + Send + Sync + 'static>(&self) -> Option<&T> {
        self.0
            .get(&TypeId::of::<T>())
            .and_then(|value| value.downcast_ref())
    }

    pub(crate) fn contains(&self, id: TypeId) -> bool {
        self.0.contains_key(&id)
    }
}

impl fmt::Debug for States {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} states", self.0.len())
    }
}

/// A `TypeId` is a hash already: hashing it again costs more than the rest of a lookup.
#[derive(Default)]
pub(crate) struct TypeIdHasher(u64);

impl Hasher for TypeIdHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(byte);
        }
    }

    fn write_u64(&mut self, value: u64) {
        self.0 ^= value;
    }
}
