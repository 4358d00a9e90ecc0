// A raw message whose payload is no `Bytes`
use catga::prelude::*;
use catga::Bytes;
use serde::{Deserialize, Serialize};

#[derive(Event)]
#[message(codec = "raw")]
struct Copied(Vec<u8>);

#[derive(Event)]
#[message(codec = "raw")]
struct Labelled {
    label: String,
    pixels: Bytes,
}

#[derive(Request)]
#[message(codec = "raw")]
struct Empty;

#[derive(Event)]
#[message(codec = "raw")]
enum Either {
    Frame(Bytes),
}

#[derive(Event, Serialize, Deserialize)]
#[message(codec = "json")]
struct Chosen(u32);

#[derive(Event, Serialize, Deserialize)]
#[message(codec = Raw)]
struct NoText(u32);

fn main() {}
