//! The options of `#[handler(..)]`.

use std::ops::RangeInclusive;
use std::time::Duration;

use proc_macro2::TokenStream;
use syn::{Ident, Lit, Path};

use crate::attr::{Setting, Value, settings};
use crate::check::unknown;
use crate::mistakes::Mistakes;

/// Every option there is.
const KNOWN: &[&str] = &[
    "each_node",
    "group",
    "concurrency",
    "attempts",
    "timeout",
    "backoff",
    "rate",
    "breaker",
    "ordered",
    "start",
    "crate",
];

/// What `breaker(..)` knows.
const BREAKER: &[&str] = &["failures", "open"];

/// What `#[handler(..)]` says; an option that is not there is `None` or `false`.
#[derive(Default)]
pub(crate) struct Options {
    pub(crate) facade: Option<Path>,
    pub(crate) group: Option<String>,
    pub(crate) concurrency: Option<u32>,
    pub(crate) attempts: Option<u32>,
    pub(crate) timeout: Option<Duration>,
    pub(crate) backoff: Option<(Duration, Duration)>,
    /// The calls, and the time.
    pub(crate) rate: Option<(u64, Duration)>,
    pub(crate) breaker: Option<Breaker>,
    pub(crate) each_node: bool,
    pub(crate) ordered: bool,
    pub(crate) start_new: bool,
    /// The keys of the options that were given and ask something of the message.
    pub(crate) demands: Vec<Ident>,
}

/// `breaker(failures = 5, open = "30s")`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Breaker {
    pub(crate) failures: u32,
    pub(crate) open: Duration,
}

impl Default for Breaker {
    fn default() -> Self {
        Self {
            failures: 5,
            open: Duration::from_secs(30),
        }
    }
}

/// Any number but zero.
const ANY: RangeInclusive<u32> = 1..=u32::MAX;

/// Reads the options; those that are wrong are left out.
pub(crate) fn read(tokens: TokenStream, mistakes: &mut Mistakes) -> Options {
    let mut options = Options::default();
    for setting in settings(tokens, KNOWN, mistakes) {
        let read = apply(&setting, &mut options, mistakes);
        mistakes.keep(read);
    }
    options
}

fn apply(setting: &Setting, options: &mut Options, mistakes: &mut Mistakes) -> syn::Result<()> {
    let demand = match setting.key.to_string().as_str() {
        "crate" => {
            options.facade = Some(setting.path("a path", "path::to::catga")?.clone());
            false
        }
        "group" => {
            options.group = Some(setting.name("billing")?);
            false
        }
        "concurrency" => {
            options.concurrency = Some(setting.whole(ANY, 16)?);
            false
        }
        "rate" => {
            options.rate = Some(setting.rate("100/s")?);
            false
        }
        "breaker" => {
            options.breaker = Some(breaker(setting, mistakes)?);
            false
        }
        "timeout" => {
            options.timeout = Some(setting.duration("30s")?);
            false
        }
        "start" => {
            options.start_new = start_new(setting)?;
            false
        }
        "attempts" => {
            options.attempts = Some(setting.whole(ANY, 5)?);
            true
        }
        "backoff" => {
            options.backoff = Some(setting.durations("200ms..30s")?);
            true
        }
        "each_node" => {
            options.each_node = setting.flag()?;
            options.each_node
        }
        "ordered" => {
            options.ordered = setting.flag()?;
            options.ordered
        }
        _ => false,
    };
    if demand {
        options.demands.push(setting.key.clone());
    }
    Ok(())
}

/// `breaker`, or `breaker(..)` with what differs from the defaults.
fn breaker(setting: &Setting, mistakes: &mut Mistakes) -> syn::Result<Breaker> {
    let mut breaker = Breaker::default();
    let list = match (&setting.value, setting.literal()) {
        (Value::Absent, _) => return Ok(breaker),
        (Value::List(list), _) => list,
        (_, Some(Lit::Bool(literal))) if !literal.value => {
            let message = "there is no breaker unless one is asked for: leave `breaker` out";
            return Err(syn::Error::new_spanned(literal, message));
        }
        _ => {
            return Err(setting.takes(
                "nothing, or settings in parentheses",
                "breaker(failures = 5, open = \"30s\")",
            ));
        }
    };
    for setting in settings(list.clone(), BREAKER, mistakes) {
        if setting.key == "failures" {
            let failures = mistakes.keep(setting.whole(ANY, breaker.failures));
            breaker.failures = failures.unwrap_or(breaker.failures);
        } else {
            let open = mistakes.keep(setting.duration("30s"));
            breaker.open = open.unwrap_or(breaker.open);
        }
    }
    Ok(breaker)
}

/// `start = "new"` or `start = "oldest"`.
fn start_new(setting: &Setting) -> syn::Result<bool> {
    let literal = setting.text("`\"oldest\"` or `\"new\"`", "new")?;
    match literal.value().as_str() {
        "new" => Ok(true),
        "oldest" => Ok(false),
        other => Err(syn::Error::new_spanned(
            literal,
            unknown("start", other, &["oldest", "new"]),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use quote::{ToTokens, quote};

    fn of(failures: u32, open_secs: u64) -> Breaker {
        Breaker {
            failures,
            open: Duration::from_secs(open_secs),
        }
    }

    #[test]
    fn a_breaker_has_defaults() {
        for (tokens, expected) in [
            (quote!(breaker), of(5, 30)),
            (quote!(breaker()), of(5, 30)),
            (quote!(breaker(failures = 2)), of(2, 30)),
            (quote!(breaker(open = "1m",)), of(5, 60)),
        ] {
            let mut mistakes = Mistakes::default();
            let options = read(tokens.clone(), &mut mistakes);
            assert!(mistakes.is_empty(), "{tokens}");
            assert_eq!(options.breaker, Some(expected), "{tokens}");
            assert!(options.demands.is_empty(), "{tokens}");
        }
    }

    #[test]
    fn a_breaker_says_what_is_wrong_inside() {
        for (tokens, text) in [
            (quote!(breaker = false), "leave `breaker` out"),
            (quote!(breaker = true), "takes nothing, or settings"),
            (quote!(breaker = 5), "takes nothing, or settings"),
            (quote!(breaker["5"]), "takes nothing, or settings"),
            (quote!(breaker(5)), "expected an option, one of: failures"),
            (quote!(breaker(failure = 5)), "did you mean `failures`"),
            (quote!(breaker(failures = 0)), "must be at least 1"),
            (quote!(breaker(open = "0s")), "longer than zero"),
            (quote!(breaker(open, open = "1s")), "takes a duration"),
        ] {
            let mut mistakes = Mistakes::default();
            read(tokens.clone(), &mut mistakes);
            let mistakes = mistakes.to_token_stream().to_string();
            assert!(mistakes.contains(text), "{tokens}: {mistakes}");
        }
    }

    #[test]
    fn every_option_is_read() {
        let mut mistakes = Mistakes::default();
        let options = read(
            quote!(
                each_node,
                group = "a.b",
                concurrency = 2,
                attempts = 3,
                timeout = "4s",
                backoff = "5ms..6s",
                rate = "7/8s",
                breaker(failures = 9, open = "10s"),
                ordered = true,
                start = "new",
                crate = a::b
            ),
            &mut mistakes,
        );
        assert!(mistakes.is_empty(), "{}", mistakes.to_token_stream());
        assert_eq!(options.group.as_deref(), Some("a.b"));
        assert_eq!((options.concurrency, options.attempts), (Some(2), Some(3)));
        assert_eq!(options.timeout, Some(Duration::from_secs(4)));
        assert_eq!(
            options.backoff,
            Some((Duration::from_millis(5), Duration::from_secs(6)))
        );
        assert_eq!(options.rate, Some((7, Duration::from_secs(8))));
        assert_eq!(options.breaker, Some(of(9, 10)));
        assert!(
            options.each_node && options.ordered && options.start_new && options.facade.is_some()
        );
        assert_eq!(options.demands.len(), 4);
    }

    #[test]
    fn an_option_that_is_off_demands_nothing() {
        let options = read(
            quote!(each_node = false, start = "oldest"),
            &mut Mistakes::default(),
        );
        assert!(!options.each_node && !options.start_new && options.demands.is_empty());
    }
}
