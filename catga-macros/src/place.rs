//! Where the compiler points when it refuses generated code.

use proc_macro2::{Group, Span, TokenStream, TokenTree};

/// A span that points at the user's code but belongs to ours, so that lints leave it alone.
pub(crate) fn generated(place: Span) -> Span {
    Span::call_site().located_at(place)
}

/// Moves generated code to a place.
pub(crate) fn moved(tokens: TokenStream, place: Span) -> TokenStream {
    tokens.into_iter().map(|token| at(token, place)).collect()
}

/// Moves a token to a place.
pub(crate) fn at(mut token: TokenTree, place: Span) -> TokenTree {
    match &token {
        TokenTree::Group(group) => {
            token = Group::new(group.delimiter(), moved(group.stream(), place)).into();
        }
        // Its span says which crate it means.
        TokenTree::Ident(ident) if ident == "$crate" => return token,
        _ => {}
    }
    token.set_span(place);
    token
}
