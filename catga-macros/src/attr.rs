//! Reads what stands in the parentheses of an attribute: `key`, `key = value`, `key(..)`, separated by commas.

use proc_macro2::{TokenStream, TokenTree};
use syn::ext::IdentExt;
use syn::parse::discouraged::Speculative;
use syn::parse::{Parse, ParseStream, Parser};
use syn::token::Paren;
use syn::{Attribute, Expr, ExprLit, Ident, Meta, Token, parenthesized};

use crate::check::unknown;
use crate::mistakes::Mistakes;

/// One `key`, `key = value` or `key(..)`.
#[derive(Clone)]
pub(crate) struct Setting {
    pub(crate) key: Ident,
    pub(crate) value: Value,
}

/// What follows a key.
#[derive(Clone)]
pub(crate) enum Value {
    /// Nothing.
    Absent,
    /// `= value`.
    Is(Expr),
    /// `(..)`: settings of its own.
    List(TokenStream),
    /// Something that is no value: `key =`, `key: value`.
    Odd,
}

/// The settings in `tokens`: each known, and each once.
pub(crate) fn settings(
    tokens: TokenStream,
    known: &[&str],
    mistakes: &mut Mistakes,
) -> Vec<Setting> {
    let read = |input: ParseStream<'_>| Ok(read_settings(input, known, mistakes));
    // The reader leaves nothing behind that could be refused here.
    read.parse2(tokens).unwrap_or_default()
}

/// The settings in the rest of `input`.
pub(crate) fn read_settings(
    input: ParseStream<'_>,
    known: &[&str],
    mistakes: &mut Mistakes,
) -> Vec<Setting> {
    let mut settings: Vec<Setting> = Vec::new();
    while !input.is_empty() {
        if let Some(setting) = mistakes.keep(read_setting(input, known)) {
            let key = setting.key.to_string();
            if !known.contains(&key.as_str()) {
                let message = unknown("option", &key, known);
                mistakes.at(&setting.key, message);
            } else if settings.iter().any(|earlier| earlier.key == setting.key) {
                mistakes.at(
                    &setting.key,
                    format_args!("`{}` is given twice", setting.key),
                );
            } else {
                settings.push(setting);
            }
        }
    }
    settings
}

/// Reads one setting and the comma behind it.
fn read_setting(input: ParseStream<'_>, known: &[&str]) -> syn::Result<Setting> {
    let key = input.call(Ident::parse_any).map_err(|error| {
        skip_to_comma(input);
        syn::Error::new(
            error.span(),
            format_args!("expected an option, one of: {}", known.join(", ")),
        )
    })?;
    let mut value = read_value(input);
    if skip_to_comma(input) {
        value = Value::Odd;
    }
    Ok(Setting { key, value })
}

fn read_value(input: ParseStream<'_>) -> Value {
    if at_end(input) {
        return Value::Absent;
    }
    if input.peek(Paren) {
        return input.call(read_list).map_or(Value::Odd, Value::List);
    }
    if input.parse::<Token![=]>().is_err() || at_end(input) {
        return Value::Odd;
    }
    // Most values are one literal, and to read an expression takes many times as long. (A `-1` is no literal here.)
    let ahead = input.fork();
    if !ahead.peek(Token![-])
        && let Ok(lit) = ahead.parse()
        && at_end(&ahead)
    {
        input.advance_to(&ahead);
        let attrs = Vec::new();
        return Value::Is(Expr::Lit(ExprLit { attrs, lit }));
    }
    input.parse().map_or(Value::Odd, Value::Is)
}

fn read_list(input: ParseStream<'_>) -> syn::Result<TokenStream> {
    let list;
    parenthesized!(list in input);
    list.parse()
}

fn at_end(input: ParseStream<'_>) -> bool {
    input.is_empty() || input.peek(Token![,])
}

/// Skips to behind the next comma; tells whether anything stood before it.
fn skip_to_comma(input: ParseStream<'_>) -> bool {
    let mut skipped = false;
    while !at_end(input) {
        skipped |= input.parse::<TokenTree>().is_ok();
    }
    // At a comma or at the end, where there is nothing to take.
    let _ = input.parse::<Option<Token![,]>>();
    skipped
}

/// What stands in the parentheses of a helper attribute.
pub(crate) fn arguments(attribute: &Attribute, example: &str) -> syn::Result<TokenStream> {
    match &attribute.meta {
        Meta::List(list) if !list.tokens.is_empty() => Ok(list.tokens.clone()),
        _ => Err(incomplete(attribute, example)),
    }
}

/// What stands in the parentheses of a helper attribute, as a `T`.
pub(crate) fn argument<T: Parse>(attribute: &Attribute, example: &str) -> syn::Result<T> {
    let tokens = arguments(attribute, example)?;
    syn::parse2(tokens.clone())
        .map_err(|_| syn::Error::new_spanned(tokens, as_in(attribute, example)))
}

/// The mistake of a helper attribute that lacks what it needs.
pub(crate) fn incomplete(attribute: &Attribute, example: &str) -> syn::Error {
    syn::Error::new_spanned(attribute.path(), as_in(attribute, example))
}

fn as_in(attribute: &Attribute, example: &str) -> String {
    format!("`#[{}]` is written as in `{example}`", name_of(attribute))
}

/// The name of a helper attribute.
pub(crate) fn name_of(attribute: &Attribute) -> String {
    attribute
        .path()
        .get_ident()
        .map(ToString::to_string)
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use quote::{ToTokens, quote};

    const KNOWN: &[&str] = &["group", "ordered", "crate"];

    fn read(tokens: TokenStream) -> (Vec<Setting>, String) {
        let mut mistakes = Mistakes::default();
        let settings = settings(tokens, KNOWN, &mut mistakes);
        (settings, mistakes.to_token_stream().to_string())
    }

    #[test]
    fn flags_values_and_a_trailing_comma_are_read() {
        let (settings, mistakes) = read(quote!(ordered, group = "a", crate = ::b::c,));
        assert_eq!(mistakes, "");
        let keys: Vec<_> = settings
            .iter()
            .map(|setting| setting.key.to_string())
            .collect();
        assert_eq!(keys, ["ordered", "group", "crate"]);
        assert!(matches!(settings[0].value, Value::Absent));
        assert!(matches!(settings[2].value, Value::Is(Expr::Path(_))));
    }

    #[test]
    fn what_is_no_value_is_told_apart() {
        for tokens in [
            quote!(group =),
            quote!(group["a"]),
            quote!(group("a") = "b"),
            quote!(group = "a" "b"),
            quote!(group = =),
        ] {
            let (settings, _) = read(tokens.clone());
            assert!(matches!(settings[0].value, Value::Odd), "{tokens}");
        }
    }

    #[test]
    fn a_list_is_kept_for_its_option() {
        let (settings, mistakes) = read(quote!(group(a = 1, b), ordered()));
        assert_eq!(mistakes, "");
        for (setting, inside) in settings.iter().zip(["a = 1 , b", ""]) {
            assert!(
                matches!(&setting.value, Value::List(list) if list.to_string() == inside),
                "{}",
                setting.key
            );
        }
    }

    #[test]
    fn every_mistake_is_reported() {
        let (settings, mistakes) = read(quote!("a", grop = 1, ordered, ordered));
        assert_eq!(settings.len(), 1);
        for text in [
            "expected an option",
            "did you mean `group`",
            "`ordered` is given twice",
        ] {
            assert!(mistakes.contains(text), "{mistakes}");
        }
    }
}
