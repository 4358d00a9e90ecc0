// A message that borrows
use catga::prelude::*;

#[derive(Event)]
struct Borrowed<'a>(&'a str);

fn main() {}
