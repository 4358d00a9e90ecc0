//! Runs the cases, each in a process of its own.

fn main() -> std::process::ExitCode {
    catga_benches::main(None)
}
