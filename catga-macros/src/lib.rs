//! The macros of [Catga]: `#[derive(Event)]`, `#[derive(Request)]` and `#[handler]`.
//!
//! Programs reach them through `catga`, whose private names generated code uses: the two crates have
//! the same version always.
//!
//! [Catga]: https://docs.rs/catga

mod attr;
mod check;
mod expand_handler;
mod expand_message;
#[cfg(test)]
mod expansions;
mod handler;
mod message;
mod mistakes;
mod options;
mod place;
mod root;
mod signature;
mod tokens;
mod value;

use proc_macro::TokenStream;

use crate::message::Role;

/// Makes a struct or enum an event: something that happened, published to everybody whom it concerns.
///
/// `Serialize` and `Deserialize` are derived beside it. The derives come first: rustc refuses the
/// attributes below when they stand above them.
///
/// | attribute | says | default |
/// |---|---|---|
/// | `#[qos(at_most_once)]` | fire and forget; may be lost | this |
/// | `#[qos(at_least_once)]` | stored before `publish` returns, redelivered until a handler succeeds | |
/// | `#[qos(exactly_once)]` | the same, with duplicates recognised when published and when handled | |
/// | `#[message(name = "orders.created")]` | the name on the wire: `A-Z a-z 0-9 _ -`, single dots between, at most 128 bytes | the type's name |
/// | `#[message(version = 2)]` | the version of the schema, from 1 | 1 |
/// | `#[message(version = 2, upcast_from = OrderShippedV1)]` | older versions are read as this type, and converted | read as today's type, by serde's rules |
/// | `#[message(codec = "raw")]` | the payload is the bytes of its one field, which no codec writes: `struct Frame(Bytes);` | the application's codec |
/// | `#[route_by(field, partitions = 16)]` | messages with one value of this field keep their order in `ordered` handlers; 1 to 65535 partitions | no order; 16 |
/// | `#[catga(crate = path)]` | where `catga` is, if not in `Cargo.toml` | found there, renamed or not |
///
/// The type owns its data: it has no generic parameters and no lifetimes. `#[route_by]` takes a field of a
/// struct, by its name or, in a tuple struct, by its number.
///
/// The type that `upcast_from` names is a message too, of the same name and an older version, and converts with
/// `From` into this one. It may have an `upcast_from` of its own: the third version then reads the first by way of
/// the second. Handlers see today's type alone.
///
/// A raw message, `codec = "raw"`, derives neither `Serialize` nor `Deserialize`. Its bytes are shared and never copied, on
/// their way out and in. The wire does not say that they are raw: the type does, on both sides.
///
/// # Examples
/// ```
/// use catga::{Event, Message, QoS};
/// use serde::{Deserialize, Serialize};
///
/// #[derive(Event, Serialize, Deserialize)]
/// #[qos(at_least_once)]
/// #[message(name = "orders.shipped", version = 2)]
/// #[route_by(order_id, partitions = 8)]
/// struct OrderShipped {
///     order_id: String,
///     tracking_number: String,
/// }
///
/// assert_eq!(OrderShipped::NAME, "orders.shipped");
/// assert_eq!(OrderShipped::QOS, QoS::AtLeastOnce);
/// let shipped = OrderShipped { order_id: "o-1".into(), tracking_number: "t-9".into() };
/// assert_eq!(shipped.routing_key().as_deref(), Some("o-1"));
/// ```
///
/// Bytes that are what they are:
/// ```
/// use catga::{Bytes, Event, Message};
///
/// #[derive(Event)]
/// #[message(codec = "raw")]
/// struct Frame(Bytes);
///
/// let frame = Frame(Bytes::from_static(&[0, 159, 146, 150]));
/// assert_eq!(frame.as_raw(), Some(&frame.0));
/// ```
///
/// A version that today's type cannot read:
/// ```
/// use catga::{Event, Message};
/// use serde::{Deserialize, Serialize};
///
/// #[derive(Event, Serialize, Deserialize)]
/// #[message(name = "Weighed")]
/// struct WeighedV1 {
///     kilograms: u32,
/// }
///
/// #[derive(Event, Serialize, Deserialize)]
/// #[message(version = 2, upcast_from = WeighedV1)]
/// struct Weighed {
///     grams: u64,
/// }
///
/// impl From<WeighedV1> for Weighed {
///     fn from(old: WeighedV1) -> Self {
///         Self { grams: u64::from(old.kilograms) * 1000 }
///     }
/// }
///
/// assert_eq!((WeighedV1::NAME, WeighedV1::VERSION), (Weighed::NAME, 1));
/// ```
#[proc_macro_derive(Event, attributes(qos, message, route_by, response, request, catga))]
pub fn derive_event(input: TokenStream) -> TokenStream {
    message::derive(Role::Event, input.into()).into()
}

/// Makes a struct or enum a request: something that one node is asked to do or to tell, and answers.
///
/// Takes the attributes of [`Event`](derive@Event), and these:
///
/// | attribute | says | default |
/// |---|---|---|
/// | `#[response(OrderAccepted)]` | the type of the answer, which is `Serialize` and `Deserialize` too; `Bytes` are answered as they are | `()` |
/// | `#[request(idempotent = false)]` | for pure queries: answered anew each time, so that no store is asked whether it ran before | `true` |
/// | `#[qos(at_least_once)]` | retried while its caller waits | this |
/// | `#[qos(at_most_once)]` | one try | |
///
/// `#[qos(exactly_once)]` is refused: a request is idempotent already, a retry gets the response that was kept.
///
/// # Examples
/// ```
/// use catga::{Kind, Message, Request};
/// use serde::{Deserialize, Serialize};
///
/// #[derive(Request, Serialize, Deserialize)]
/// #[response(u32)]
/// #[request(idempotent = false)]
/// struct StockOf(String);
///
/// assert_eq!(StockOf::KIND, Kind::Request { idempotent: false });
/// ```
#[proc_macro_derive(Request, attributes(qos, message, route_by, response, request, catga))]
pub fn derive_request(input: TokenStream) -> TokenStream {
    message::derive(Role::Request, input.into()).into()
}

/// Registers an `async fn` as the handler of a message.
///
/// The first argument is the message, taken by value or by `&`. Up to eight more are extractors, taken by
/// value: `Context`, `State<T>`, `Headers`, `Attempt`, or anything that implements `FromContext`. The
/// handler of an event returns nothing or `Result<()>`, that of a request `Result<Response>`.
///
/// | option | says | default |
/// |---|---|---|
/// | `group = "billing"` | the consumer group: each message goes to one member of each group; events only | `{service}.{message name}` |
/// | `each_node` | every node handles every message; events only | one node of the group does |
/// | `concurrency = 16` | the most calls at once, on this node | 64 |
/// | `attempts = 5` | attempts before a message is dead-lettered; not for `at_most_once`, nor for requests, which their caller tries again | 4 |
/// | `timeout = "30s"` | the longest that one attempt may take | 30 s |
/// | `backoff = "200ms..30s"` | the shortest and the longest delay between attempts; as `attempts` | 200 ms to 30 s |
/// | `breaker` | after failures in a row, the handler is left alone for a while: `breaker(failures = 5, open = "30s")` | none; 5 and 30 s |
/// | `rate = "100/s"` | at most so many calls in each window of that time, on this node; a unit alone means one of it, else as in `"10/100ms"` | no limit |
/// | `ordered` | one message of a partition at a time, in order; needs `#[route_by(..)]`; not for `at_most_once` | no order |
/// | `start = "new"` | a new group skips what was published before it; as `attempts` | `"oldest"`: starts at the oldest message retained |
/// | `crate = path` | where `catga` is, if not in `Cargo.toml` | found there, renamed or not |
///
/// The defaults of numbers and durations are those of the application. The flags `each_node` and `ordered`
/// may be spelled out, as in `each_node = true`. Durations are written as in `"1m 30s"`, `"200ms"`.
///
/// The windows of `rate` are fixed, as those of tower's `RateLimit`: around the edge of two of them there may be up
/// to twice as many calls within the time of one. What an open `breaker` refuses or keeps back does not count in the
/// `rate`. From outside to inside stand the application's layers, those of the handler, its `breaker`, its `rate`, its
/// `timeout`, and the handler.
///
/// The function stays as it is, so that a test just calls it. Beside it stands a hidden type of the same name, by
/// which `handlers![on_order, billing::bill]` finds it: a scope that has a type or module of that name already
/// cannot have the handler as well.
///
/// Handlers register themselves wherever they are, also in a library. But **a library that the program never
/// names is not linked**, and its handlers are silently missing: name it once, `use orders as _;`, in `main.rs`
/// and in each file of integration tests. In static libraries even that may not help: register with
/// `.handlers(handlers![..])` there. Generic functions and methods cannot register themselves and are refused.
///
/// # Examples
/// ```
/// use catga::prelude::*;
/// use serde::{Deserialize, Serialize};
///
/// #[derive(Event, Serialize, Deserialize)]
/// #[qos(at_least_once)]
/// struct OrderShipped {
///     order_id: String,
/// }
///
/// #[derive(Clone)]
/// struct Invoices;
///
/// impl Invoices {
///     async fn send(&self, _order_id: &str) -> std::io::Result<()> {
///         Ok(())
///     }
/// }
///
/// #[handler(group = "billing", concurrency = 16, attempts = 5, timeout = "30s")]
/// async fn bill(shipped: OrderShipped, State(invoices): State<Invoices>) -> Result<()> {
///     invoices.send(&shipped.order_id).await?;
///     Ok(())
/// }
///
/// // The carrier takes ten calls in each second, and is spared for a minute after five that failed.
/// #[handler(group = "tracking", rate = "10/s", breaker(open = "1m"))]
/// async fn track(shipped: &OrderShipped) -> Result<()> {
///     # let _ = shipped;
///     Ok(())
/// }
///
/// // A test calls it as the function that it is.
/// let billed = bill(OrderShipped { order_id: "o-1".into() }, State(Invoices));
/// # drop(billed);
/// ```
#[proc_macro_attribute]
pub fn handler(arguments: TokenStream, item: TokenStream) -> TokenStream {
    handler::handler(arguments.into(), &item.into()).into()
}
