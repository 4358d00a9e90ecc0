//! The options of `#[handler(..)]`.

use std::ops::RangeInclusive;
use std::time::Duration;

use proc_macro2::TokenStream;
use syn::{Ident, Path};

use crate::attr::{Setting, settings};
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
    "ordered",
    "start",
    "crate",
];

/// What `#[handler(..)]` says; an option that is not there is `None` or `false`.
#[derive(Default)]
pub(crate) struct Options {
    pub(crate) facade: Option<Path>,
    pub(crate) group: Option<String>,
    pub(crate) concurrency: Option<u32>,
    pub(crate) attempts: Option<u32>,
    pub(crate) timeout: Option<Duration>,
    pub(crate) backoff: Option<(Duration, Duration)>,
    pub(crate) each_node: bool,
    pub(crate) ordered: bool,
    pub(crate) start_new: bool,
    /// The keys of the options that were given and ask something of the message.
    pub(crate) demands: Vec<Ident>,
}

/// Reads the options; those that are wrong are left out.
pub(crate) fn read(tokens: TokenStream, mistakes: &mut Mistakes) -> Options {
    let mut options = Options::default();
    for setting in settings(tokens, KNOWN, mistakes) {
        let read = apply(&setting, &mut options);
        mistakes.keep(read);
    }
    options
}

fn apply(setting: &Setting, options: &mut Options) -> syn::Result<()> {
    const ANY: RangeInclusive<u32> = 1..=u32::MAX;
    let demand = match setting.key.to_string().as_str() {
        "crate" => {
            options.facade = Some(setting.path("path::to::catga")?.clone());
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
