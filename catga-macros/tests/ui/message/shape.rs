use catga::prelude::*;

#[derive(Event)]
struct Wrapped<T>(T);

#[derive(Event)]
struct Borrowed<'a>(&'a str);

#[derive(Event)]
union Either {
    a: u32,
    b: f32,
}

fn main() {}
