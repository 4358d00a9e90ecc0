// A handler without a message
use catga::prelude::*;

#[handler]
async fn on_nothing() {}

fn main() {
    // The hidden type is there nonetheless: one mistake, one message.
    drop(handlers![on_nothing]);
}
