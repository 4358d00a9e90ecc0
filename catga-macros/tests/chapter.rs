//! The chapter of the docs about the compiler's messages is made of the UI tests. After a change of these:
//! `CHAPTER=overwrite cargo test -p catga-macros --test chapter`.

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::{env, fs};

/// The folders of `tests/ui`, and what they are about.
const PARTS: [(&str, &str); 5] = [
    ("signature", "The function below `#[handler]`"),
    ("option", "The options of `#[handler(..)]`"),
    ("message", "Messages and their attributes"),
    ("version", "Versions of messages"),
    ("type", "Types that do not fit"),
];

const HEAD: &str = "\
# When the compiler complains

Each mistake that the macros know, what the compiler says to it, and so what to write instead. This page is made of the
tests of these messages, on the toolchain of `rust-toolchain.toml`: it says what the compiler says.
";

fn tests() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/ui")
}

/// The cases of a folder, sorted, without their ending.
fn cases(folder: &str) -> Vec<PathBuf> {
    let files = fs::read_dir(tests().join(folder)).expect("the folder is there");
    let mut cases: Vec<_> = files
        .map(|file| file.expect("a file").path())
        .filter(|path| path.extension().is_some_and(|ending| ending == "rs"))
        .map(|path| path.with_extension(""))
        .collect();
    cases.sort();
    cases
}

fn read(case: &Path, ending: &str) -> String {
    let path = case.with_extension(ending);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The title in the first line, and the code without what every case has.
fn parts(source: &str) -> (&str, String) {
    let (first, code) = source.split_once('\n').expect("more than a line");
    let title = first
        .strip_prefix("// ")
        .expect("a title in the first line");
    let code: String = code
        .lines()
        .filter(|line| {
            !line.starts_with("use catga::prelude")
                && !line.starts_with("use serde::")
                && *line != "fn main() {}"
        })
        .fold(String::new(), |code, line| code + line + "\n");
    (title, code.trim().to_owned())
}

fn chapter() -> String {
    let mut chapter = HEAD.to_owned();
    for (folder, about) in PARTS {
        write!(chapter, "\n## {about}\n").expect("a string takes all");
        for case in cases(folder) {
            let source = read(&case, "rs");
            let (title, code) = parts(&source);
            let said = read(&case, "stderr");
            let said = said.trim_end();
            write!(
                chapter,
                "\n### {title}\n\n```rust\n{code}\n```\n\n```text\n{said}\n```\n"
            )
            .expect("a string takes all");
        }
    }
    chapter
}

#[test]
fn the_chapter_says_what_the_compiler_says() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/when-the-compiler-complains.md");
    let chapter = chapter();
    if env::var_os("CHAPTER").is_some_and(|value| value == "overwrite") {
        fs::write(&path, &chapter).expect("the chapter is written");
    }
    let written = fs::read_to_string(&path).unwrap_or_default();
    assert!(
        chapter == written,
        "docs/when-the-compiler-complains.md is stale: CHAPTER=overwrite cargo test -p catga-macros --test chapter"
    );
}

#[test]
fn there_are_many_cases_and_each_has_its_title() {
    let mut titles: Vec<String> = PARTS
        .iter()
        .flat_map(|(folder, _)| cases(folder))
        .map(|case| parts(&read(&case, "rs")).0.to_owned())
        .collect();
    let count = titles.len();
    assert!(count >= 60, "only {count} cases");
    titles.sort();
    titles.dedup();
    assert_eq!(titles.len(), count, "two cases have one title");
}

/// Every public trait says what to write when a type does not implement it.
#[test]
fn every_public_trait_says_what_to_write() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut traits = 0;
    for folder in ["catga/src", "catga-core/src"] {
        for file in fs::read_dir(root.join(folder)).expect("the sources are there") {
            let path = file.expect("a file").path();
            if path.extension().is_none_or(|ending| ending != "rs")
                || path.ends_with("__private.rs")
            {
                continue;
            }
            let source = fs::read_to_string(&path).expect("a source file");
            let lines: Vec<_> = source.lines().collect();
            for (at, line) in lines
                .iter()
                .enumerate()
                .filter(|(_, line)| line.starts_with("pub trait "))
            {
                // What only generated code names is not named by a bound of the users'.
                if ["Callable", "Borrows"]
                    .iter()
                    .any(|hidden| line.contains(hidden))
                {
                    continue;
                }
                traits += 1;
                let above = lines[..at]
                    .iter()
                    .rev()
                    .take_while(|line| !line.is_empty() && **line != "}");
                assert!(
                    above
                        .into_iter()
                        .any(|line| line.contains("diagnostic::on_unimplemented")),
                    "{}:{}: {line} has no `#[diagnostic::on_unimplemented]`",
                    path.display(),
                    at + 1
                );
            }
        }
    }
    assert!(traits > 15, "only {traits} public traits were found");
}
