//! A request on its way out, with an id, headers or a node of the caller's choice.

use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;

use catga_core::{Envelope, Error, MessageId, Request};

use crate::Context;
use crate::app::Inner;
use crate::publish::set_header;
use crate::way::Route;

/// A request on its way out: the long form of [`Catga::send`](crate::Catga::send).
#[must_use = "nothing is sent before `.send()`"]
pub struct RequestBuilder<'a, R> {
    inner: Arc<Inner>,
    origin: Option<&'a Context>,
    envelope: Envelope,
    node: Option<String>,
    route: Route,
    problem: Option<Error>,
    request: PhantomData<fn() -> R>,
}

impl<'a, R: Request> RequestBuilder<'a, R> {
    pub(crate) fn new(inner: Arc<Inner>, origin: Option<&'a Context>, request: R) -> Self {
        Self {
            route: inner.route(&request),
            inner,
            origin,
            envelope: Envelope::without_id(request),
            node: None,
            problem: None,
            request: PhantomData,
        }
    }

    /// Sets the id, the idempotency key of the request: who sends it again with the same id, from wherever,
    /// gets the response that was kept, and the handler does not run again; for as long as
    /// [responses are kept](crate::CatgaBuilder::responses), 10 min unless said otherwise.
    pub fn id(mut self, id: MessageId) -> Self {
        self.envelope = self.envelope.with_id(id);
        self
    }

    /// Sets a header. One that cannot go onto the wire, or that the codec sets, is an error of
    /// [`send`](Self::send).
    pub fn header(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        if let Err(error) = set_header(&mut self.envelope, "send", name.into(), value) {
            self.problem.get_or_insert(error);
        }
        self
    }

    /// Sends it to this node, and to no other.
    pub fn to(mut self, node: impl Into<String>) -> Self {
        self.node = Some(node.into());
        self
    }

    /// Sends it, and waits for the answer.
    ///
    /// # Errors
    /// As [`Catga::send`](crate::Catga::send), [`UnknownNode`](catga_core::ErrorKind::UnknownNode) and
    /// [`NodeGone`](catga_core::ErrorKind::NodeGone) as [`Catga::send_to`](crate::Catga::send_to), and [`InvalidName`](catga_core::ErrorKind::InvalidName) for a header that cannot go
    /// onto the wire.
    ///
    /// # Cancel safety
    /// As [`Catga::send`](crate::Catga::send).
    pub async fn send(self) -> Result<R::Response, Error> {
        if let Some(error) = self.problem {
            return Err(error);
        }
        let node = self.node.as_deref();
        self.inner
            .send_letter::<R>(self.envelope, node, self.route, self.origin)
            .await
    }
}

impl<R> fmt::Debug for RequestBuilder<'_, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("RequestBuilder")
            .field(&self.envelope)
            .finish()
    }
}
