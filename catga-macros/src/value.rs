//! The values that options take, with what to say when they are something else.

use std::ops::RangeInclusive;
use std::time::Duration;

use syn::{Expr, Lit, LitStr, Path};

use crate::attr::{Setting, Value};
use crate::check::name_problem;

impl Setting {
    /// Nothing for `true`, or `= true`, `= false`.
    pub(crate) fn flag(&self) -> syn::Result<bool> {
        match (&self.value, self.literal()) {
            (Value::Absent, _) => Ok(true),
            (_, Some(Lit::Bool(flag))) => Ok(flag.value),
            _ => Err(self.takes("nothing, `true` or `false`", &self.key.to_string())),
        }
    }

    /// `= true` or `= false`.
    pub(crate) fn truth(&self) -> syn::Result<bool> {
        match self.literal() {
            Some(Lit::Bool(flag)) => Ok(flag.value),
            _ => Err(self.takes("`true` or `false`", &format!("{} = false", self.key))),
        }
    }

    /// `= 5`, within `range`.
    pub(crate) fn whole(&self, range: RangeInclusive<u32>, example: u32) -> syn::Result<u32> {
        let Some(Lit::Int(literal)) = self.literal() else {
            return Err(self.takes("a whole number", &format!("{} = {example}", self.key)));
        };
        let bound = match literal.base10_parse::<u32>() {
            Ok(number) if range.contains(&number) => return Ok(number),
            Ok(number) if number < *range.start() => format!("at least {}", range.start()),
            _ => format!("at most {}", range.end()),
        };
        Err(syn::Error::new_spanned(
            literal,
            format_args!("`{}` must be {bound}", self.key),
        ))
    }

    /// `= "text"`.
    pub(crate) fn text(&self, what: &str, example: &str) -> syn::Result<&LitStr> {
        match self.literal() {
            Some(Lit::Str(text)) => Ok(text),
            _ => Err(self.takes(what, &format!("{} = \"{example}\"", self.key))),
        }
    }

    /// `= "orders.created"`: a name as it goes onto the wire.
    pub(crate) fn name(&self, example: &str) -> syn::Result<String> {
        let literal = self.text("a name in quotes", example)?;
        let name = literal.value();
        match name_problem(&name) {
            Some(problem) => Err(syn::Error::new_spanned(literal, problem)),
            None => Ok(name),
        }
    }

    /// `= "30s"`: longer than zero.
    pub(crate) fn duration(&self, example: &str) -> syn::Result<Duration> {
        let literal = self.text("a duration in quotes", example)?;
        duration(&self.key.to_string(), &literal.value())
            .map_err(|problem| syn::Error::new_spanned(literal, problem))
    }

    /// `= "200ms..30s"`: the shorter first.
    pub(crate) fn durations(&self, example: &str) -> syn::Result<(Duration, Duration)> {
        const WHAT: &str = "the shortest and the longest duration in quotes";
        let literal = self.text(WHAT, example)?;
        let text = literal.value();
        let refuse = |problem: String| syn::Error::new_spanned(literal, problem);
        let Some((min, max)) = text.split_once("..") else {
            return Err(self.takes(WHAT, &format!("{} = \"{example}\"", self.key)));
        };
        let key = self.key.to_string();
        let min = duration(&key, min).map_err(refuse)?;
        let max = duration(&key, max).map_err(refuse)?;
        if min > max {
            return Err(refuse(format!(
                "`{key}` goes from the shorter duration to the longer"
            )));
        }
        Ok((min, max))
    }

    /// `= "100/s"`: the calls, one at least, and the time that they are counted in.
    pub(crate) fn rate(&self, example: &str) -> syn::Result<(u64, Duration)> {
        const WHAT: &str = "calls per time in quotes";
        let literal = self.text(WHAT, example)?;
        let text = literal.value();
        let Some((calls, time)) = text.split_once('/') else {
            return Err(self.takes(WHAT, &format!("{} = \"{example}\"", self.key)));
        };
        rate(&self.key.to_string(), calls.trim(), time.trim())
            .map_err(|problem| syn::Error::new_spanned(literal, problem))
    }

    /// `= a::path`, which `what` it is to be.
    pub(crate) fn path(&self, what: &str, example: &str) -> syn::Result<&Path> {
        match self.expression() {
            Some(Expr::Path(path)) if path.qself.is_none() && path.attrs.is_empty() => {
                Ok(&path.path)
            }
            _ => Err(self.takes(what, &format!("{} = {example}", self.key))),
        }
    }

    pub(crate) fn literal(&self) -> Option<&Lit> {
        match self.expression() {
            Some(Expr::Lit(literal)) => Some(&literal.lit),
            _ => None,
        }
    }

    fn expression(&self) -> Option<&Expr> {
        let Value::Is(value) = &self.value else {
            return None;
        };
        let mut value = value;
        // What a `macro_rules!` macro handed over.
        while let Expr::Group(group) = value {
            value = &group.expr;
        }
        Some(value)
    }

    /// The mistake of a value that is none of `what`.
    pub(crate) fn takes(&self, what: &str, example: &str) -> syn::Error {
        let message = format!("`{}` takes {what}, as in `{example}`", self.key);
        match &self.value {
            Value::Is(value) => syn::Error::new_spanned(value, message),
            Value::Absent | Value::List(_) | Value::Odd => {
                syn::Error::new_spanned(&self.key, message)
            }
        }
    }
}

/// A duration longer than zero.
fn duration(key: &str, text: &str) -> Result<Duration, String> {
    match humantime::parse_duration(text.trim()) {
        Ok(Duration::ZERO) => Err(format!("`{key}` must be longer than zero")),
        Ok(duration) => Ok(duration),
        Err(error) => Err(format!(
            "invalid duration {text:?}: {error}; write it as in \"200ms\" or \"1m 30s\""
        )),
    }
}

/// So many calls in a time, of which a bare unit means one.
fn rate(key: &str, calls: &str, time: &str) -> Result<(u64, Duration), String> {
    const AS_IN: &str = "write it as in \"100/s\" or \"10/100ms\"";
    let calls = match calls.parse() {
        Ok(0) => return Err(format!("`{key}` must be at least 1 call in a time")),
        Ok(calls) => calls,
        Err(_) => return Err(format!("invalid number of calls {calls:?}; {AS_IN}")),
    };
    let is_unit = !time.is_empty() && time.chars().all(char::is_alphabetic);
    let one = if is_unit { "1" } else { "" };
    match humantime::parse_duration(&format!("{one}{time}")) {
        Ok(Duration::ZERO) => Err(format!("`{key}` needs a time longer than zero")),
        Ok(time) => Ok((calls, time)),
        Err(error) => Err(format!("invalid duration {time:?}: {error}; {AS_IN}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attr::settings;
    use crate::mistakes::Mistakes;
    use proc_macro2::TokenStream;
    use quote::quote;

    fn setting(tokens: TokenStream) -> Setting {
        let mut mistakes = Mistakes::default();
        settings(tokens, &["a"], &mut mistakes).remove(0)
    }

    #[test]
    fn whole_numbers_keep_to_their_range() {
        assert_eq!(setting(quote!(a = 7)).whole(1..=9, 5).unwrap(), 7);
        assert_eq!(setting(quote!(a = 7u16)).whole(1..=9, 5).unwrap(), 7);
        for (tokens, text) in [
            (quote!(a = 0), "`a` must be at least 1"),
            (quote!(a = 10), "`a` must be at most 9"),
            (quote!(a = 99999999999999999999999), "`a` must be at most 9"),
            (quote!(a = -1), "`a` takes a whole number, as in `a = 5`"),
            (quote!(a = "1"), "`a` takes a whole number, as in `a = 5`"),
            (quote!(a), "`a` takes a whole number, as in `a = 5`"),
        ] {
            assert_eq!(
                setting(tokens).whole(1..=9, 5).unwrap_err().to_string(),
                text
            );
        }
    }

    #[test]
    fn durations_are_longer_than_zero_and_in_order() {
        let second = Duration::from_secs(1);
        assert_eq!(setting(quote!(a = "1s")).duration("30s").unwrap(), second);
        assert_eq!(
            setting(quote!(a = "500ms .. 1s"))
                .durations("1s..2s")
                .unwrap()
                .1,
            second
        );
        for tokens in [
            quote!(a = "0s"),
            quote!(a = "soon"),
            quote!(a = ""),
            quote!(a = 30),
        ] {
            assert!(setting(tokens.clone()).duration("30s").is_err(), "{tokens}");
        }
        for tokens in [
            quote!(a = "2s..1s"),
            quote!(a = "1s"),
            quote!(a = "0s..1s"),
            quote!(a = "1s.."),
        ] {
            assert!(
                setting(tokens.clone()).durations("1s..2s").is_err(),
                "{tokens}"
            );
        }
    }

    #[test]
    fn a_rate_is_calls_per_time() {
        for (text, calls, millis) in [
            ("100/s", 100, 1_000),
            ("5/min", 5, 60_000),
            ("10/100ms", 10, 100),
            ("1/h", 1, 3_600_000),
            (" 2 / 1m 30s ", 2, 90_000),
            ("18446744073709551615/1ms", u64::MAX, 1),
        ] {
            let rate = setting(quote!(a = #text)).rate("100/s").unwrap();
            assert_eq!(rate, (calls, Duration::from_millis(millis)), "{text:?}");
        }
        for (text, problem) in [
            ("0/s", "`a` must be at least 1 call in a time"),
            ("1/0s", "`a` needs a time longer than zero"),
            (
                "100",
                "`a` takes calls per time in quotes, as in `a = \"100/s\"`",
            ),
            (
                "",
                "`a` takes calls per time in quotes, as in `a = \"100/s\"`",
            ),
            ("/s", "invalid number of calls \"\"; "),
            ("-1/s", "invalid number of calls \"-1\"; "),
            ("18446744073709551616/s", "invalid number of calls \"18"),
            ("1/", "invalid duration \"\": value was empty; "),
            ("1/100", "invalid duration \"100\": time unit needed"),
            (
                "1/parrot",
                "invalid duration \"parrot\": unknown time unit \"parrot\"",
            ),
            ("1/.5s", "invalid duration \".5s\": "),
            ("1/1/s", "invalid duration \"1/s\": "),
        ] {
            let error = setting(quote!(a = #text)).rate("100/s").unwrap_err();
            assert!(error.to_string().starts_with(problem), "{text:?}: {error}");
        }
        for tokens in [quote!(a = 100), quote!(a), quote!(a("1/s"))] {
            assert!(setting(tokens.clone()).rate("100/s").is_err(), "{tokens}");
        }
    }

    #[test]
    fn a_flag_may_be_spelled_out() {
        assert!(setting(quote!(a)).flag().unwrap());
        assert!(setting(quote!(a = true)).flag().unwrap());
        assert!(!setting(quote!(a = false)).flag().unwrap());
        assert!(setting(quote!(a = 1)).flag().is_err());
        assert!(setting(quote!(a)).truth().is_err());
    }
}
