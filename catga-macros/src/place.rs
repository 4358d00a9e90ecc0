//! Where the compiler points when it refuses generated code.

use proc_macro2::{Group, Span, TokenStream, TokenTree};
use syn::Type;
use syn::spanned::Spanned;

/// The token that stands for a type: its name without the path to it.
pub(crate) fn of_type(ty: &Type) -> Span {
    match ty {
        Type::Path(path) => path
            .path
            .segments
            .last()
            .map_or_else(|| ty.span(), |segment| segment.ident.span()),
        Type::Group(group) => of_type(&group.elem),
        Type::Paren(paren) => of_type(&paren.elem),
        _ => ty.span(),
    }
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
