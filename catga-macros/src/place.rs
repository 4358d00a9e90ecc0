//! Where the compiler points when it refuses generated code.

use proc_macro2::{Group, Span, TokenStream, TokenTree};
use quote::ToTokens;
use syn::Type;

/// Where a type begins, and where it ends.
pub(crate) fn ends(ty: &Type) -> (Span, Span) {
    let mut tokens = ty.to_token_stream().into_iter();
    let begin = tokens
        .next()
        .map_or_else(Span::call_site, |token| token.span());
    let end = tokens.last().map_or(begin, |token| token.span());
    (begin, end)
}

/// A span that points at the user's code but belongs to ours, so that lints leave it alone.
pub(crate) fn generated(place: Span) -> Span {
    Span::call_site().located_at(place)
}

/// Moves generated code to a place.
pub(crate) fn moved(tokens: TokenStream, place: Span) -> TokenStream {
    let moved = |mut token: TokenTree| {
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
    };
    tokens.into_iter().map(moved).collect()
}
