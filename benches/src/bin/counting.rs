//! The same program with an allocator that counts, for the pass that asks for it.

use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};

#[global_allocator]
static HEAP: &StatsAlloc<std::alloc::System> = &INSTRUMENTED_SYSTEM;

fn main() -> std::process::ExitCode {
    catga_benches::main(Some(|| HEAP.stats()))
}
