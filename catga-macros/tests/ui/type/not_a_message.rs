// A message that derives nothing
use catga::prelude::*;

struct Forgotten;

#[handler(attempts = 3, ordered)]
async fn on_forgotten(forgotten: Forgotten, context: Context) -> Result<()> {
    drop((forgotten, context));
    Ok(())
}

mod other {
    pub struct Forgotten;
}

#[handler]
async fn on_borrowed(forgotten: &other::Forgotten) {
    let _ = forgotten;
}

fn main() {}
