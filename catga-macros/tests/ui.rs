//! What is refused, in which words, and what is accepted under strict settings.

/// One test, since each builds its dependencies anew. After a change of words: `TRYBUILD=overwrite`.
#[rustversion::attr(
    not(stable(1.95)),
    ignore = "the texts are those of Rust 1.95, and differ between compilers"
)]
#[test]
fn every_mistake_gets_one_clear_message() {
    let cases = trybuild::TestCases::new();
    cases.compile_fail("tests/ui/signature/*.rs");
    cases.compile_fail("tests/ui/option/*.rs");
    cases.compile_fail("tests/ui/type/*.rs");
    cases.compile_fail("tests/ui/message/*.rs");
    cases.compile_fail("tests/ui/version/*.rs");
    cases.pass("tests/ui/pass/*.rs");
}
