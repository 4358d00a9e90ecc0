//! Where the nodes meet.

use std::fmt;

use catga::MessageId;
use catga::prelude::{Catga, handlers};
use catga::{CatgaBuilder, Handlers};

use crate::handlers::{bill, book, book_by_key, create_order, log_created, log_shipped};

/// One bus for all nodes, with room enough for the loggers that QoS 0 rarely drops.
const EMBEDDED: &str = "memory://orders?ring=16384";

/// A backend, and a namespace on it.
#[derive(Debug)]
pub(crate) struct Site {
    url: String,
    /// Of this run, so that what an earlier one left on the server is not counted; none where the URL names one.
    namespace: Option<String>,
}

impl Site {
    pub(crate) fn new(url: Option<String>) -> Self {
        let url = url.unwrap_or_else(|| EMBEDDED.to_owned());
        let mut site = Self {
            url,
            namespace: None,
        };
        if !site.is_embedded() && !site.url.contains("namespace=") {
            site.namespace = Some(format!("orders-{}", MessageId::new()));
        }
        site
    }

    /// Whether the backend lives and ends with this process.
    pub(crate) fn is_embedded(&self) -> bool {
        self.scheme() == "memory"
    }

    /// A node that is to be started there.
    pub(crate) fn node(&self, name: &str) -> CatgaBuilder {
        let builder = Catga::builder()
            .connect(&self.url)
            .service("orders")
            .node(name)
            .handlers(self.handlers());
        match &self.namespace {
            Some(namespace) => builder.namespace(namespace),
            None => builder,
        }
    }

    /// Who books payments: where the backend keeps the books they are committed with the claim, else elsewhere,
    /// by the idempotency key.
    fn handlers(&self) -> Handlers {
        if self.is_embedded() {
            handlers![create_order, bill, book, log_created, log_shipped]
        } else {
            handlers![create_order, bill, book_by_key, log_created, log_shipped]
        }
    }

    /// The handler that books payments.
    pub(crate) fn bookkeeper(&self) -> &'static str {
        if self.is_embedded() {
            "book"
        } else {
            "book_by_key"
        }
    }

    fn scheme(&self) -> &str {
        self.url.split_once(':').map_or("", |(scheme, _)| scheme)
    }
}

/// Without what else stands in the URL: there may be a password in it.
impl fmt::Display for Site {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://", self.scheme())?;
        match &self.namespace {
            Some(namespace) => write!(f, " in the namespace {namespace}"),
            None => Ok(()),
        }
    }
}
