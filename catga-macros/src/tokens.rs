//! What the user wrote, as its tokens: types and patterns are handed on as they are. Cargo builds macros without optimisation,
//! and to parse them would take longer than all else that is done for a handler or a message.

use std::mem::take;
use std::ops::{Deref, DerefMut};

use proc_macro2::{Delimiter, Spacing, Span, TokenStream, TokenTree};
use quote::ToTokens;

/// A part of an item: a type, say.
#[derive(Clone, Default)]
pub(crate) struct Tokens(Vec<TokenTree>);

impl Tokens {
    /// Where it begins.
    pub(crate) fn begin(&self) -> Span {
        self.first().map_or_else(Span::call_site, TokenTree::span)
    }

    /// Where its last token stands.
    pub(crate) fn end(&self) -> Span {
        self.last().map_or_else(Span::call_site, TokenTree::span)
    }

    /// The first token that is this word, at any depth.
    pub(crate) fn find(&self, word: &str) -> Option<TokenTree> {
        find(self.iter().cloned(), word)
    }

    /// What is inside, where all of it is in parentheses or in what a `macro_rules!` macro put around it.
    pub(crate) fn peeled(&self) -> Self {
        let [TokenTree::Group(group)] = self.as_slice() else {
            return self.clone();
        };
        let inside: Self = group.stream().into_iter().collect();
        let is_around = match group.delimiter() {
            // Else it is a tuple.
            Delimiter::Parenthesis => {
                split(group.stream()).len() == 1 && !inside.last().is_some_and(|last| is(last, ','))
            }
            Delimiter::None => true,
            Delimiter::Brace | Delimiter::Bracket => false,
        };
        if is_around {
            inside.peeled()
        } else {
            self.clone()
        }
    }
}

impl Deref for Tokens {
    type Target = Vec<TokenTree>;

    fn deref(&self) -> &Vec<TokenTree> {
        &self.0
    }
}

impl DerefMut for Tokens {
    fn deref_mut(&mut self) -> &mut Vec<TokenTree> {
        &mut self.0
    }
}

impl FromIterator<TokenTree> for Tokens {
    fn from_iter<I: IntoIterator<Item = TokenTree>>(tokens: I) -> Self {
        Self(tokens.into_iter().collect())
    }
}

impl IntoIterator for Tokens {
    type Item = TokenTree;
    type IntoIter = std::vec::IntoIter<TokenTree>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

impl ToTokens for Tokens {
    fn to_tokens(&self, tokens: &mut TokenStream) {
        tokens.extend(self.iter().cloned());
    }
}

fn find(mut tokens: impl Iterator<Item = TokenTree>, word: &str) -> Option<TokenTree> {
    tokens.find_map(|token| match token {
        TokenTree::Group(group) => find(group.stream().into_iter(), word),
        TokenTree::Ident(ident) => (ident == word).then_some(TokenTree::Ident(ident)),
        TokenTree::Punct(_) | TokenTree::Literal(_) => None,
    })
}

/// The parts of a list between its commas, but for those within `<..>`.
pub(crate) fn split(list: TokenStream) -> Vec<Tokens> {
    let mut parts = Vec::new();
    let mut part = Tokens::default();
    let (mut depth, mut before) = (0, ' ');
    for token in list {
        let this = sign(&token);
        depth += step(before, this);
        before = this;
        if this == ',' && depth == 0 {
            parts.push(take(&mut part));
        } else {
            part.push(token);
        }
    }
    if !part.is_empty() {
        parts.push(part);
    }
    parts
}

/// By how much a sign leads deeper into `<..>`.
pub(crate) fn step(before: char, this: char) -> i32 {
    match this {
        '<' => 1,
        // Not the head of an arrow.
        '>' if before != '-' => -1,
        _ => 0,
    }
}

/// Where the first colon stands that is not of a `::`.
pub(crate) fn colon(tokens: &[TokenTree]) -> Option<usize> {
    let is_colon = |at: usize| tokens.get(at).is_some_and(|token| is(token, ':'));
    let mut at = 0;
    while at < tokens.len() {
        let joint =
            matches!(&tokens[at], TokenTree::Punct(punct) if punct.spacing() == Spacing::Joint);
        match (is_colon(at), joint && is_colon(at + 1)) {
            (true, true) => at += 2,
            (true, false) => return Some(at),
            (false, _) => at += 1,
        }
    }
    None
}

/// The sign that a token is, or a space.
pub(crate) fn sign(token: &TokenTree) -> char {
    match token {
        TokenTree::Punct(punct) => punct.as_char(),
        _ => ' ',
    }
}

/// Whether a token is this sign.
pub(crate) fn is(token: &TokenTree, wanted: char) -> bool {
    sign(token) == wanted
}

/// Whether a token is this word.
pub(crate) fn is_word(token: &TokenTree, word: &str) -> bool {
    matches!(token, TokenTree::Ident(ident) if ident == word)
}

/// Whether a token is the brackets of an attribute of one of these names.
pub(crate) fn is_attribute(token: &TokenTree, names: &[&str]) -> bool {
    let TokenTree::Group(group) = token else {
        return false;
    };
    let name = group.stream().into_iter().next();
    name.is_some_and(|token| names.iter().any(|name| is_word(&token, name)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use quote::quote;

    fn shown(parts: &[Tokens]) -> Vec<String> {
        parts
            .iter()
            .map(|part| part.to_token_stream().to_string())
            .collect()
    }

    #[test]
    fn lists_are_split_at_their_own_commas_alone() {
        for (list, parts) in [
            (quote!(), vec![]),
            (quote!(a: A), vec!["a : A"]),
            (quote!(a: A, b: B,), vec!["a : A", "b : B"]),
            (
                quote!((a, b): (A, B), c: Map<K, Vec<V>>, d: D),
                vec!["(a , b) : (A , B)", "c : Map < K , Vec < V >>", "d : D"],
            ),
            (
                quote!(a: fn(A, B) -> Map<A, B>, b: <B as Of<C, D>>::E),
                vec![
                    "a : fn (A , B) -> Map < A , B >",
                    "b : < B as Of < C , D >> :: E",
                ],
            ),
        ] {
            assert_eq!(shown(&split(list.clone())), parts, "{list}");
        }
    }

    #[test]
    fn a_colon_is_told_from_that_of_a_path() {
        for (tokens, place) in [
            ("a: A", Some(1)),
            ("a::B(c): D", Some(5)),
            ("a: ::b::C", Some(1)),
            ("a:&'a A", Some(1)),
            ("&mut self", None),
            ("a::b", None),
        ] {
            let tokens: TokenStream = tokens.parse().unwrap();
            let tokens: Tokens = tokens.into_iter().collect();
            assert_eq!(colon(&tokens), place, "{}", tokens.to_token_stream());
        }
    }

    #[test]
    fn parentheses_are_peeled_off_a_type_but_not_off_a_tuple() {
        for (tokens, peeled) in [
            (quote!(A), "A"),
            (quote!((&A)), "& A"),
            (quote!((A, B)), "(A , B)"),
            (quote!((A,)), "(A ,)"),
            (quote!(()), "()"),
            (quote!([A]), "[A]"),
        ] {
            let tokens: Tokens = tokens.into_iter().collect();
            assert_eq!(shown(&[tokens.peeled()]), [peeled]);
        }
    }
}
