//! Names that could be taken for something else, and conditions.

#![deny(warnings)]

use catga::prelude::*;
use serde::{Deserialize, Serialize};

#[derive(Event, Serialize, Deserialize)]
#[route_by(r#type)]
struct r#Struct {
    r#type: String,
}

#[derive(Event, Serialize, Deserialize)]
struct Message;

#[derive(Event, Serialize, Deserialize)]
struct Option;

#[handler]
async fn r#match(_: r#Struct) {}

// As the locals of the generated code.
#[handler]
async fn message(context: Message, argument1: Context) {
    drop((context, argument1));
}

#[handler]
async fn context(_: &Message) {}

#[handler]
async fn argument1(_: &Option, _: Context) {}

const LINE: u32 = line!() + 6;

/// The attribute's line is another.
#[handler]
#[allow(clippy::unused_async)]
#[doc(alias = "here")]
async fn at_this_line(_: &Message) {}

#[handler]
#[deprecated]
async fn old(_: &Message) {}

#[deprecated]
#[derive(Event, Serialize, Deserialize)]
struct Older;

#[handler]
#[cfg(any())]
async fn absent(_: NoSuchMessage) {}

#[handler]
#[cfg(all())]
async fn present(_: &Message) {}

macro_rules! handlers_of {
    ($($name:ident: $message:ty, $extractor:ty, $attempts:literal;)*) => {$(
        #[handler(concurrency = $attempts)]
        async fn $name(message: &$message, other: $extractor) {
            let _ = (message, other);
        }
    )*};
}

handlers_of! {
    first: Message, State<Vec<u32>>, 1;
    second: r#Struct, Context, 2;
}

mod scattered {
    // A module may have no message, extractor or prelude in scope.
    #[catga::prelude::handler]
    async fn alone(_: super::Message, _: ::catga::State<u8>) -> ::catga::prelude::Result<()> {
        Ok(())
    }
}

fn main() {
    #[derive(Event, Serialize, Deserialize)]
    struct Inner;

    #[handler]
    async fn inner(_: Inner, _: State<u32>) {}

    assert_eq!(<r#Struct as catga::Message>::NAME, "Struct");
    let shown = format!("{:?}", handlers![r#match]);
    assert!(shown.contains("names::match` (") || shown.contains("::match` ("), "{shown}");
    let shown = format!("{:?}", handlers![at_this_line]);
    assert!(shown.contains(&format!(":{LINE})")), "{shown} is not in line {LINE}");
    drop(handlers![message, context, argument1, inner, old, present, first, second]);
}
