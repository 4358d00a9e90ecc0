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
    let Some(function) = Function::read(item.clone()) else {
        mistakes.at(first(item), "`#[handler]` belongs on an async function");
        return quote!(#item #mistakes);
    };
    match check(&function, &mut mistakes) {
        Some(handler) if mistakes.is_empty() && !function.is_half_written() => {
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

/// The first token behind the attributes.
fn first(item: &TokenStream) -> Option<TokenTree> {
    item.clone()
        .into_iter()
        .find(|token| !is_of_attribute(token))
}

/// Whether a token is `#` or the brackets behind it.
fn is_of_attribute(token: &TokenTree) -> bool {
    match token {
        TokenTree::Punct(punct) => punct.as_char() == '#',
        TokenTree::Group(group) => group.delimiter() == Delimiter::Bracket,
        _ => false,
    }
}
