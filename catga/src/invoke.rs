//! How a handler is called: what is made of its function, and the message as it arrives.

use std::any::Any;
use std::fmt;
use std::future::Future;
use std::marker::PhantomData;
use std::ops::Deref;
use std::pin::Pin;
use std::sync::Arc;

use catga_core::{Codecs, Encoded, Error, Message, Payload};

use crate::handlers::{HandlerDef, HandlerOptions, Site};
use crate::seat::{Reused, Seat};
use crate::{Context, FromContext, HandlerError, Requirements};

/// A future as handlers are called through.
pub(crate) type BoxFuture<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// What a handler ended with.
type Outcome<M> = Result<<M as Message>::Response, HandlerError>;

/// A handler at work.
pub(crate) type HandlerFuture<M> = BoxFuture<Outcome<M>>;

/// How a handler is called: with its message, or with one that it may share.
#[derive(Debug)]
pub(crate) enum Invoke<M: Message> {
    /// The handler takes the message.
    ByValue(Box<dyn Callable<M, M>>),
    /// The handler looks at the message.
    ByRef(Box<dyn Callable<M, Received<M>>>),
}

impl<M: Message> Invoke<M> {
    /// The call of a definition whose message is `M`.
    pub(crate) fn of(call: &(dyn Any + Send + Sync)) -> &Self {
        call.downcast_ref()
            .expect("a definition keeps the call of its own message")
    }

    /// Calls the handler with a message of its own.
    pub(crate) fn with_value(&self, message: M, context: Context) -> HandlerFuture<M> {
        match self {
            Self::ByValue(handler) => handler.call(message, context),
            Self::ByRef(handler) => handler.call(Received::Owned(message), context),
        }
    }
}

/// Adds what the arguments of a handler of `M` need.
pub(crate) fn requires<M: Message>(
    call: &(dyn Any + Send + Sync),
    requirements: &mut Requirements,
) {
    match Invoke::<M>::of(call) {
        Invoke::ByValue(handler) => handler.requires(requirements),
        Invoke::ByRef(handler) => handler.requires(requirements),
    }
}

/// A message that a handler looks at: its own, or one that other handlers look at too.
#[derive(Debug)]
pub(crate) enum Received<M> {
    /// Decoded for this handler.
    Owned(M),
    /// Published in this process.
    Shared(Arc<M>),
}

impl<M> Deref for Received<M> {
    type Target = M;

    fn deref(&self) -> &M {
        match self {
            Self::Owned(message) => message,
            Self::Shared(message) => message,
        }
    }
}

/// A handler that is called with a `T`, without the types of its function and of what else that takes.
pub(crate) trait Callable<M: Message, T>: Send + Sync + fmt::Debug {
    /// Calls the handler.
    fn call(&self, message: T, context: Context) -> HandlerFuture<M>;

    /// Where it is called for one message after the other.
    fn seat(&self) -> Box<dyn Seat<M, T>>;

    /// Adds what its arguments need.
    fn requires(&self, requirements: &mut Requirements);
}

/// A function that takes its message by value, and its types.
pub(crate) struct ByValue<F, S>(F, PhantomData<S>);

/// A function that takes its message by reference, and its types.
pub(crate) struct ByRef<F, S>(F, PhantomData<S>);

impl<F, S> fmt::Debug for ByValue<F, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ByValue").finish_non_exhaustive()
    }
}

impl<F, S> fmt::Debug for ByRef<F, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ByRef").finish_non_exhaustive()
    }
}

/// An `async fn` that borrows its message for as long as it runs: its future is another type for each lifetime,
/// which bounds on `F: Fn(&M, ..)` cannot say.
pub trait Borrows<'m, M: 'm, A> {
    /// What it returns in the end.
    type Outcome;
    /// What it returns at once.
    type Future: Future<Output = Self::Outcome> + Send;

    /// Calls the function.
    fn call(self, message: &'m M, arguments: A) -> Self::Future;
}

/// The functions that make the definition of a handler, one for each number of arguments beside the message: in generated
/// code `by_value2::<Message, A, B, Outcome, _, _>(..)`. That the future is `Send` is asked here, and all that is done with it
/// stands here, once for all handlers, so that there is little to check in generated code.
macro_rules! arity {
    ($by_value:ident $by_ref:ident ($($argument:ident $local:ident),*)) => {
        /// The definition of a function that takes its message by value.
        pub fn $by_value<M, $($argument,)* R, F, O>(
            site: Site,
            options: HandlerOptions,
            function: F,
        ) -> HandlerDef
        where
            M: Message,
            $($argument: FromContext + 'static,)*
            R: IntoOutcome<M::Response>,
            F: FnOnce(M, $($argument),*) -> O + Copy + Send + Sync + 'static,
            O: Future<Output = R> + Send + 'static,
        {
            let handler = ByValue(function, PhantomData::<fn(M, $($argument),*) -> O>);
            HandlerDef::new(site, options, Invoke::ByValue(Box::new(handler)))
        }

        /// The definition of a function that takes its message by reference.
        pub fn $by_ref<M, $($argument,)* R, F>(
            site: Site,
            options: HandlerOptions,
            function: F,
        ) -> HandlerDef
        where
            M: Message,
            $($argument: FromContext + 'static,)*
            R: IntoOutcome<M::Response> + 'static,
            F: for<'m> Borrows<'m, M, ($($argument,)*), Outcome = R> + Copy + Send + Sync + 'static,
        {
            let handler = ByRef(function, PhantomData::<fn(M, $($argument),*) -> R>);
            HandlerDef::new(site, options, Invoke::ByRef(Box::new(handler)))
        }

        impl<M, $($argument,)* F, O> ByValue<F, fn(M, $($argument),*) -> O>
        where
            M: Message,
            $($argument: FromContext,)*
            F: FnOnce(M, $($argument),*) -> O + Copy + Send + Sync + 'static,
            O: Future<Output: IntoOutcome<M::Response>> + Send,
        {
            async fn future(function: F, message: M, _context: Context) -> Outcome<M> {
                // The context is not even kept where nothing asks for it.
                $(let $local = $argument::from_context(&_context).await?;)*
                function(message, $($local),*).await.into_outcome()
            }
        }

        impl<M, $($argument,)* F, O> Callable<M, M> for ByValue<F, fn(M, $($argument),*) -> O>
        where
            M: Message,
            $($argument: FromContext + 'static,)*
            F: FnOnce(M, $($argument),*) -> O + Copy + Send + Sync + 'static,
            O: Future<Output: IntoOutcome<M::Response>> + Send + 'static,
        {
            fn call(&self, message: M, context: Context) -> HandlerFuture<M> {
                Box::pin(Self::future(self.0, message, context))
            }

            fn seat(&self) -> Box<dyn Seat<M, M>> {
                let function = self.0;
                Reused::boxed(move |message, context| Self::future(function, message, context))
            }

            fn requires(&self, _requirements: &mut Requirements) {
                $($argument::requires(_requirements);)*
            }
        }

        impl<M, $($argument,)* F, R> ByRef<F, fn(M, $($argument),*) -> R>
        where
            M: Message,
            $($argument: FromContext,)*
            R: IntoOutcome<M::Response>,
            F: for<'m> Borrows<'m, M, ($($argument,)*), Outcome = R> + Copy + Send + Sync + 'static,
        {
            async fn future(function: F, message: Received<M>, _context: Context) -> Outcome<M> {
                // The context is not even kept where nothing asks for it.
                $(let $local = $argument::from_context(&_context).await?;)*
                function.call(&message, ($($local,)*)).await.into_outcome()
            }
        }

        impl<M, $($argument,)* F, R> Callable<M, Received<M>> for ByRef<F, fn(M, $($argument),*) -> R>
        where
            M: Message,
            $($argument: FromContext + 'static,)*
            R: IntoOutcome<M::Response> + 'static,
            F: for<'m> Borrows<'m, M, ($($argument,)*), Outcome = R> + Copy + Send + Sync + 'static,
        {
            fn call(&self, message: Received<M>, context: Context) -> HandlerFuture<M> {
                Box::pin(Self::future(self.0, message, context))
            }

            fn seat(&self) -> Box<dyn Seat<M, Received<M>>> {
                let function = self.0;
                Reused::boxed(move |message, context| Self::future(function, message, context))
            }

            fn requires(&self, _requirements: &mut Requirements) {
                $($argument::requires(_requirements);)*
            }
        }

        impl<'m, M: 'm, $($argument,)* F, O> Borrows<'m, M, ($($argument,)*)> for F
        where
            F: FnOnce(&'m M, $($argument),*) -> O,
            O: Future + Send,
        {
            type Outcome = O::Output;
            type Future = O;

            fn call(self, message: &'m M, ($($local,)*): ($($argument,)*)) -> O {
                self(message, $($local),*)
            }
        }
    };
}

arity!(by_value0 by_ref0());
arity!(by_value1 by_ref1(A1 a1));
arity!(by_value2 by_ref2(A1 a1, A2 a2));
arity!(by_value3 by_ref3(A1 a1, A2 a2, A3 a3));
arity!(by_value4 by_ref4(A1 a1, A2 a2, A3 a3, A4 a4));
arity!(by_value5 by_ref5(A1 a1, A2 a2, A3 a3, A4 a4, A5 a5));
arity!(by_value6 by_ref6(A1 a1, A2 a2, A3 a3, A4 a4, A5 a5, A6 a6));
arity!(by_value7 by_ref7(A1 a1, A2 a2, A3 a3, A4 a4, A5 a5, A6 a6, A7 a7));
arity!(by_value8 by_ref8(A1 a1, A2 a2, A3 a3, A4 a4, A5 a5, A6 a6, A7 a7, A8 a8));

/// What a handler may return: nothing, a `Result<()>`, or for a request a `Result` of its response.
#[diagnostic::on_unimplemented(
    message = "a handler of this message cannot return `{Self}`",
    label = "expected `Result<{R}>`",
    note = "the handler of an event returns nothing or `Result<()>`; that of a request `Result<Response>`, with the type of its `#[response(..)]`",
    note = "its error is a `HandlerError`, as in `catga::prelude::Result`, or any `std::error::Error`; of others make one: `.retry()?`, `.terminal()?`"
)]
pub trait IntoOutcome<R> {
    /// The outcome.
    ///
    /// # Errors
    /// What the handler failed with.
    fn into_outcome(self) -> Result<R, HandlerError>;
}

#[diagnostic::do_not_recommend]
impl IntoOutcome<()> for () {
    fn into_outcome(self) -> Result<(), HandlerError> {
        Ok(())
    }
}

#[diagnostic::do_not_recommend]
impl<R, E: Into<HandlerError>> IntoOutcome<R> for Result<R, E> {
    fn into_outcome(self) -> Result<R, HandlerError> {
        self.map_err(Into::into)
    }
}

/// A message as it arrived, yet to be decoded.
pub(crate) struct Arrived<'a> {
    pub(crate) payload: Payload,
    pub(crate) version: u32,
    /// Absent where it is the default of the message.
    pub(crate) content_type: Option<&'a str>,
    pub(crate) codecs: &'a Codecs,
}

/// Decodes the message and calls the handler with it.
pub(crate) fn invoke<M: Message>(
    call: &(dyn Any + Send + Sync),
    arrived: Arrived<'_>,
    context: Context,
) -> Result<HandlerFuture<M>, Error> {
    Ok(match Invoke::<M>::of(call) {
        Invoke::ByValue(handler) => handler.call(owned(arrived)?, context),
        Invoke::ByRef(handler) => handler.call(received(arrived)?, context),
    })
}

/// The message as it is shared, else a decoded copy.
pub(crate) fn received<M: Message>(mut arrived: Arrived<'_>) -> Result<Received<M>, Error> {
    match arrived.payload.into_shared() {
        Ok(shared) => Ok(Received::Shared(shared)),
        Err(payload) => {
            arrived.payload = payload;
            owned(arrived).map(Received::Owned)
        }
    }
}

/// The message itself where nobody shares it, else a decoded copy.
pub(crate) fn owned<M: Message>(arrived: Arrived<'_>) -> Result<M, Error> {
    let Arrived {
        payload,
        version,
        content_type,
        codecs,
    } = arrived;
    match payload.into_value() {
        Ok(message) => Ok(message),
        Err(mut shared) if shared.as_bytes().is_none() => {
            let content_type = shared.encode(codecs.writer())?;
            let bytes = shared.as_bytes().expect("encoded above");
            M::from_version(version, &Encoded::new(codecs, content_type, bytes))
        }
        Err(encoded) => {
            let bytes = encoded.as_bytes().expect("seen above");
            M::from_version(version, &Encoded::new(codecs, content_type, bytes))
        }
    }
}
