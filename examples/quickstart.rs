//! Run with `cargo run --example quickstart`: an event and a request meet their handlers, in one process.

#![allow(clippy::print_stdout, reason = "a program that prints")]

use catga::prelude::*;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};

#[derive(Request, Serialize, Deserialize)]
#[response(String)]
#[request(idempotent = false)]
struct Greet {
    name: String,
}

#[derive(Event, Serialize, Deserialize)]
#[qos(at_least_once)]
struct Greeted {
    name: String,
}

#[handler]
async fn greet(request: Greet, ctx: Context) -> Result<String> {
    let name = request.name;
    ctx.publish(Greeted { name: name.clone() }).await?;
    Ok(format!("Hello, {name}!"))
}

#[handler(group = "guest-book")]
async fn sign(event: Greeted, State(book): State<UnboundedSender<String>>) -> Result<()> {
    book.send(event.name)?; // an error means: deliver it again
    Ok(())
}

#[tokio::main]
async fn main() -> Result<()> {
    let (book, mut guests) = unbounded_channel::<String>();
    let catga = Catga::builder()
        .connect("memory://")
        .state(book)
        .start()
        .await?;

    println!("{}", catga.send(Greet { name: "Ada".into() }).await?);
    println!(
        "in the guest book: {}",
        guests.recv().await.expect("the book is open")
    );

    catga.shutdown().await?;
    Ok(())
}
