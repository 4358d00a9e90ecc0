//! What the macros write, as it is written for three users: `tests/expand/*.rs`, to be read by people. After a change:
//! `EXPAND=overwrite cargo test -p catga-macros --lib`.

use std::path::Path;
use std::{env, fs};

use proc_macro2::TokenStream;
use quote::quote;

use crate::handler::handler;
use crate::message::{Role, derive};

#[track_caller]
fn is_as_in(file: &str, expansion: TokenStream) {
    let expansion = syn::parse2(expansion).expect("what the macros write is Rust");
    let expansion = prettyplease::unparse(&expansion);
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/expand")
        .join(file);
    if env::var_os("EXPAND").is_some_and(|value| value == "overwrite") {
        fs::write(&path, &expansion).expect("the expansion is written");
    }
    let expected = fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(
        expansion, expected,
        "{file} is not what the macros write; EXPAND=overwrite writes it anew"
    );
}

#[test]
fn of_an_event() {
    let event = quote! {
        #[qos(at_least_once)]
        #[message(name = "orders.shipped", version = 2)]
        #[route_by(order_id, partitions = 8)]
        struct OrderShipped {
            order_id: String,
            tracking_number: String,
        }
    };
    is_as_in("event.rs", derive(Role::Event, event));
}

#[test]
fn of_a_raw_event() {
    let event = quote! {
        #[message(codec = "raw")]
        struct Frame(Bytes);
    };
    is_as_in("raw.rs", derive(Role::Event, event));
}

#[test]
fn of_a_request() {
    let request = quote! {
        #[response(OrderAccepted)]
        struct CreateOrder {
            product_id: String,
            quantity: u32,
        }
    };
    is_as_in("request.rs", derive(Role::Request, request));
}

#[test]
fn of_a_handler() {
    let options = quote!(
        group = "billing",
        concurrency = 16,
        attempts = 5,
        timeout = "30s"
    );
    let function = quote! {
        /// Sends an invoice.
        pub async fn bill(event: &OrderShipped, ctx: Context, State(repo): State<Repo>) -> Result<()> {
            repo.bill(event, ctx.idempotency_key()).await?;
            Ok(())
        }
    };
    is_as_in("handler.rs", handler(options, &function));
}
