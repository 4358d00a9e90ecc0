//! Rules and words that the macros share.

/// The longest name, in bytes.
const MAX_NAME_BYTES: usize = 128;

/// What is wrong with a name on the wire: the rule of `catga_core::Name`, told where the name is written.
pub(crate) fn name_problem(name: &str) -> Option<String> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
    let problem = if name.is_empty() {
        "it is empty"
    } else if name.len() > MAX_NAME_BYTES {
        "it is too long"
    } else if !name.chars().all(allowed) {
        "it has a character that is not allowed"
    } else if name.split('.').any(str::is_empty) {
        "it has an empty segment"
    } else {
        return None;
    };
    let shown: String = name.chars().take(40).collect();
    Some(format!(
        "invalid name {shown:?}: {problem} (allowed: A-Z a-z 0-9 _ - and single dots between, at most {MAX_NAME_BYTES} bytes)"
    ))
}

/// The mistake of a word that is none of `known`.
pub(crate) fn unknown(what: &str, word: &str, known: &[&str]) -> String {
    format!(
        "unknown {what} `{word}`{}",
        instead(word, known, "expected one of")
    )
}

/// What to write instead of `word`: the nearest of `known`, if any is near, and all of them.
pub(crate) fn instead(word: &str, known: &[&str], list: &str) -> String {
    let known_words = known.join(", ");
    match nearest(word, known) {
        Some(nearest) => format!("; did you mean `{nearest}`? {list}: {known_words}"),
        None => format!("; {list}: {known_words}"),
    }
}

fn nearest<'a>(word: &str, known: &[&'a str]) -> Option<&'a str> {
    let distance = |known: &&str| strsim::osa_distance(word, known);
    let nearest = known.iter().copied().min_by_key(distance)?;
    // A third of the letters, as rustc judges it.
    (distance(&nearest) <= word.len().max(3) / 3).then_some(nearest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_the_rule_of_the_wire() {
        for name in [
            "OrderCreated",
            "orders.created",
            "a-b_C9",
            "a.b.c",
            &"x".repeat(128),
        ] {
            assert_eq!(name_problem(name), None);
        }
        for name in [
            "",
            ".",
            "a.",
            ".a",
            "a..b",
            "a b",
            "a*",
            ">",
            "ä",
            "a:b",
            &"x".repeat(129),
        ] {
            assert!(name_problem(name).is_some(), "{name:?}");
        }
    }

    #[test]
    fn only_near_misses_are_suggested() {
        let known = ["attempts", "group"];
        assert_eq!(nearest("grop", &known), Some("group"));
        assert_eq!(nearest("max_attempts", &known), Some("attempts"));
        assert_eq!(nearest("durable", &known), None);
        assert_eq!(nearest("x", &[]), None);
    }
}
