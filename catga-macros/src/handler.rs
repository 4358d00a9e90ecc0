//! `#[handler]`: reads options and function, checks them, and writes what stands beside the function.

use proc_macro2::{Delimiter, TokenStream, TokenTree};
use quote::quote;

use crate::expand_handler::{expand, stand_in};
use crate::mistakes::Mistakes;
use crate::options;
use crate::root::Root;
use crate::signature::{Function, check, method_token};

/// The function as it was written, and its registration or its mistakes.
pub(crate) fn handler(arguments: TokenStream, item: &TokenStream) -> TokenStream {
    let mut mistakes = Mistakes::default();
    let options = options::read(arguments, &mut mistakes);
    let root = Root::new(options.facade.as_ref());
    let function = match Function::read(without_body(item)) {
        Ok(function) => function,
        Err(error) => {
            mistakes.add(not_a_function(item, error));
            return quote!(#item #mistakes);
        }
    };
    match check(&function, &mut mistakes) {
        Some(handler) if mistakes.is_empty() => {
            let beside = expand(&root, &options, &function, &handler);
            // The attribute asks for `async`, so that clippy need not ask why.
            quote!(#[allow(clippy::unused_async)] #item #beside)
        }
        _ => {
            // Not beside a method: an `impl` can hold no type.
            let beside = method_token(&function)
                .is_none()
                .then(|| stand_in(&root, &function));
            quote!(#item #mistakes #beside)
        }
    }
}

/// The function up to its body, which is not looked at: it is the longest part, and may even be half written.
fn without_body(item: &TokenStream) -> TokenStream {
    let is_body = |token: &TokenTree| matches!(token, TokenTree::Group(group) if group.delimiter() == Delimiter::Brace);
    let mut tokens: Vec<_> = item.clone().into_iter().collect();
    if tokens.last().is_some_and(is_body) {
        tokens.pop();
    }
    tokens.into_iter().collect()
}

/// Says that the item is no function, unless it looks like one with a mistake in its signature.
fn not_a_function(item: &TokenStream, error: syn::Error) -> syn::Error {
    let has_fn = item
        .clone()
        .into_iter()
        .any(|token| token.to_string() == "fn");
    if has_fn {
        return error;
    }
    let first = item.clone().into_iter().find(|token| !is_attribute(token));
    syn::Error::new_spanned(first, "`#[handler]` belongs on an async function")
}

/// Whether a token is `#` or the brackets behind it.
fn is_attribute(token: &TokenTree) -> bool {
    match token {
        TokenTree::Punct(punct) => punct.as_char() == '#',
        TokenTree::Group(group) => group.delimiter() == Delimiter::Bracket,
        _ => false,
    }
}
