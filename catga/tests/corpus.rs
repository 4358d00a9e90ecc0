//! What fuzzing began with and found, run again: a crash that was mended stays mended. `scripts/fuzz` looks for more.

use std::fs;
use std::path::Path;

#[path = "../../fuzz/src/lib.rs"]
#[allow(unreachable_pub, reason = "elsewhere it is a library")]
mod targets;

#[test]
fn no_target_panics_at_what_its_corpus_holds() {
    let fuzz = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz");
    for (name, target) in targets::TARGETS {
        let corpus = fuzz.join("corpus").join(name);
        let seeds = fs::read_dir(&corpus).unwrap_or_else(|e| panic!("{}: {e}", corpus.display()));
        let mut count = 0;
        for seed in seeds {
            let seed = seed.expect("a folder that can be read").path();
            let bytes = fs::read(&seed).expect("a file that can be read");
            let outcome = std::panic::catch_unwind(|| target(&bytes));
            assert!(outcome.is_ok(), "{} is a crash", seed.display());
            count += 1;
        }
        assert!(count > 0, "{name} has no corpus");
        let file = fuzz.join("fuzz_targets").join(format!("{name}.rs"));
        assert!(file.exists(), "{name} is not fuzzed");
    }
    let files = fs::read_dir(fuzz.join("fuzz_targets")).expect("there are targets");
    assert_eq!(
        files.count(),
        targets::TARGETS.len(),
        "each file is a target"
    );
}
