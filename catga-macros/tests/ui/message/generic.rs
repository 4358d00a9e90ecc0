// A generic message
use catga::prelude::*;

#[derive(Event)]
struct Wrapped<T>(T);

fn main() {}
