// Something that is no function
use catga::prelude::*;

#[handler]
struct Nothing;

#[handler]
mod handlers {}

fn main() {}
