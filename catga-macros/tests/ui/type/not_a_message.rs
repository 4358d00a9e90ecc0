use catga::prelude::*;

struct Forgotten;

#[handler(attempts = 3, ordered)]
async fn on_forgotten(forgotten: Forgotten, context: Context) -> Result<()> {
    drop((forgotten, context));
    Ok(())
}

#[handler]
async fn on_borrowed(forgotten: &Forgotten) {
    let _ = forgotten;
}

fn main() {}
