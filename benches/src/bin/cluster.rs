//! The example `cluster`, built as everything else here is, so that nothing but the code differs from the loop by hand.

fn main() -> std::process::ExitCode {
    catga_cluster::main()
}
