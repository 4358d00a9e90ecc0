//! Reads the function below `#[handler]`, and checks that it can be one.

use std::iter::Peekable;

use proc_macro2::{Delimiter, Group, Ident, Span, TokenStream, TokenTree};
use syn::ext::IdentExt;

use crate::mistakes::Mistakes;
use crate::tokens::{Tokens, colon, is, is_attribute, is_word, sign, split, step};

/// The most arguments beside the message.
const MAX_EXTRACTORS: usize = 8;

/// A function without its body, which is the user's alone: it may even be half written.
///
/// rustc has parsed it already, and has refused what is not written as a function is.
pub(crate) struct Function {
    /// Conditions under which it exists: what stands beside it must follow them.
    pub(crate) conditions: Tokens,
    pub(crate) visibility: Tokens,
    /// `async unsafe extern "C"`
    qualifiers: Tokens,
    fn_token: TokenTree,
    pub(crate) ident: Ident,
    /// What stands in `<..>`.
    generics: Tokens,
    arguments: Vec<Argument>,
    /// What it returns in the end.
    pub(crate) output: Tokens,
}

/// An argument; what has no type is a receiver.
struct Argument {
    pattern: Tokens,
    ty: Option<Tokens>,
}

impl Function {
    /// Reads an item up to its body, if it is a function.
    pub(crate) fn read(item: TokenStream) -> Option<Self> {
        let mut tokens = item.into_iter().peekable();
        let mut conditions = Tokens::default();
        while let Some(hash) = tokens.next_if(|token| is(token, '#')) {
            let attribute = tokens.next()?;
            if is_attribute(&attribute, &["cfg"]) {
                conditions.extend([hash, attribute]);
            }
        }
        let mut visibility = Tokens::default();
        while let Some(token) =
            tokens.next_if(|token| !QUALIFIERS.iter().any(|word| is_word(token, word)))
        {
            visibility.push(token);
        }
        let mut qualifiers = Tokens::default();
        while let Some(token) = tokens.next_if(|token| !is_word(token, "fn")) {
            qualifiers.push(token);
        }
        let fn_token = tokens.next()?;
        let TokenTree::Ident(ident) = tokens.next()? else {
            return None;
        };
        let generics = angles(&mut tokens);
        let TokenTree::Group(arguments) = tokens.next()? else {
            return None;
        };
        Some(Self {
            conditions,
            visibility,
            qualifiers,
            fn_token,
            generics,
            arguments: split(arguments.stream())
                .into_iter()
                .map(argument)
                .collect(),
            output: output(tokens.collect(), ident.span()),
            ident,
        })
    }

    /// Whether the compiler has refused it already, for a type that is not there.
    pub(crate) fn is_half_written(&self) -> bool {
        let lacks_its_type =
            |argument: &Argument| argument.ty.as_ref().is_some_and(|ty| ty.is_empty());
        self.arguments.iter().any(lacks_its_type)
    }

    fn qualifier(&self, word: &str) -> Option<&TokenTree> {
        self.qualifiers.iter().find(|token| is_word(token, word))
    }
}

/// What may begin a function behind its visibility.
const QUALIFIERS: &[&str] = &["async", "fn", "const", "unsafe", "extern"];

/// What stands within `<..>`, if the next token opens such a list.
fn angles(tokens: &mut Peekable<impl Iterator<Item = TokenTree>>) -> Tokens {
    let mut inside = Tokens::default();
    if tokens.next_if(|token| is(token, '<')).is_none() {
        return inside;
    }
    let (mut depth, mut before) = (1, ' ');
    for token in tokens {
        let this = sign(&token);
        depth += step(before, this);
        if depth == 0 {
            break;
        }
        before = this;
        inside.push(token);
    }
    inside
}

fn argument(tokens: Tokens) -> Argument {
    match colon(&tokens) {
        Some(at) => Argument {
            ty: Some(tokens.iter().skip(at + 1).cloned().collect()),
            pattern: tokens.iter().take(at).cloned().collect(),
        },
        None => Argument {
            pattern: tokens,
            ty: None,
        },
    }
}

/// The type behind the arrow in what follows the arguments, or `()`.
fn output(mut rest: Vec<TokenTree>, place: Span) -> Tokens {
    rest.pop_if(
        |token| matches!(token, TokenTree::Group(group) if group.delimiter() == Delimiter::Brace),
    );
    let ends = rest.iter().position(|token| is_word(token, "where"));
    rest.truncate(ends.unwrap_or(rest.len()));
    if rest.is_empty() {
        let mut nothing = Group::new(Delimiter::Parenthesis, TokenStream::new());
        nothing.set_span(place);
        return Tokens::from_iter([nothing.into()]);
    }
    rest.into_iter().skip("->".len()).collect()
}

/// A function that can be a handler.
pub(crate) struct Handler {
    pub(crate) message: Tokens,
    pub(crate) by_reference: bool,
    pub(crate) extractors: Vec<Tokens>,
}

/// What the function takes, if it can be a handler.
pub(crate) fn check(function: &Function, mistakes: &mut Mistakes) -> Option<Handler> {
    if let Some(method) = method_token(function) {
        mistakes.at(
            method,
            "`#[handler]` takes a free function, not a method: move it out of the `impl` and let it take `State<..>`",
        );
        return None;
    }
    check_qualifiers(function, mistakes);
    if !function.generics.is_empty() {
        mistakes.at(
            &function.generics,
            "a handler cannot be generic or have lifetimes: it handles one message type, taken as `M` or `&M`",
        );
    }
    if let Some(token) = function.output.find("impl") {
        mistakes.at(
            token,
            "a handler returns a named type: nothing, `Result<()>` or `Result<Response>`",
        );
    }
    let mut arguments = function.arguments.iter();
    let Some(message) = arguments.next() else {
        mistakes.at(
            &function.ident,
            format_args!(
                "a handler takes its message first; write `async fn {}(message: Message, ..)`",
                function.ident
            ),
        );
        return None;
    };
    let (message, by_reference) = check_message(message, mistakes);
    let extractors: Vec<_> = arguments
        .map(|argument| check_extractor(argument, mistakes))
        .collect();
    if let Some(ninth) = extractors.get(MAX_EXTRACTORS) {
        mistakes.at(
            ninth,
            format_args!("a handler takes at most {MAX_EXTRACTORS} arguments beside its message"),
        );
    }
    Some(Handler {
        message,
        by_reference,
        extractors,
    })
}

/// The token that shows a function to be a method.
pub(crate) fn method_token(function: &Function) -> Option<TokenTree> {
    let receiver = function
        .arguments
        .first()
        .filter(|first| first.ty.is_none());
    if let Some(receiver) = receiver.and_then(|first| first.pattern.find("self")) {
        return Some(receiver);
    }
    let types = function
        .arguments
        .iter()
        .filter_map(|argument| argument.ty.as_ref());
    types
        .chain([&function.output, &function.generics])
        .find_map(|tokens| tokens.find("Self"))
}

fn check_qualifiers(function: &Function, mistakes: &mut Mistakes) {
    if let Some(token) = function.qualifier("const") {
        mistakes.at(token, "a handler cannot be `const`");
    } else if function.qualifier("async").is_none() {
        let message = format!(
            "`#[handler]` needs an async function; write `async fn {}(..)`",
            function.ident
        );
        mistakes.at(&function.fn_token, message);
    }
    if let Some(token) = function.qualifier("unsafe") {
        mistakes.at(
            token,
            "a handler cannot be `unsafe`: nobody is there to keep its conditions",
        );
    }
    if function.qualifier("extern").is_some() {
        let abi: Tokens = function
            .qualifiers
            .iter()
            .skip_while(|token| !is_word(token, "extern"))
            .cloned()
            .collect();
        mistakes.at(abi, "a handler cannot be `extern`");
    }
}

/// The message's type, and whether it is taken by reference.
fn check_message(argument: &Argument, mistakes: &mut Mistakes) -> (Tokens, bool) {
    let ty = check_argument(argument, mistakes);
    let Some(reference) = Reference::of(&ty) else {
        return (ty, false);
    };
    if let Some(token) = reference.mutability {
        mistakes.at(
            token,
            "a handler cannot change a message that others may see: take it by value, or as `&`",
        );
    } else if reference
        .lifetime
        .iter()
        .any(|token| is_word(token, "static"))
    {
        mistakes.at(
            reference.lifetime,
            "a handler borrows its message for the call: write `&` without `'static`",
        );
    }
    (reference.referent, true)
}

fn check_extractor(argument: &Argument, mistakes: &mut Mistakes) -> Tokens {
    let ty = check_argument(argument, mistakes);
    if let Some(reference) = Reference::of(&ty) {
        mistakes.at(
            reference.and,
            "extractors are taken by value; only the message, which comes first, may be a reference",
        );
    }
    ty
}

/// The argument's type.
fn check_argument(argument: &Argument, mistakes: &mut Mistakes) -> Tokens {
    let ty = argument.ty.clone().unwrap_or_default();
    if let Some(token) = ty.find("impl") {
        mistakes.at(
            token,
            "a handler cannot be generic: name the type of this argument",
        );
    }
    for pair in argument.pattern.windows(2) {
        if is(&pair[0], '#') && is_attribute(&pair[1], &["cfg", "cfg_attr"]) {
            let attribute: Tokens = pair.iter().cloned().collect();
            mistakes.at(attribute, "an argument of a handler cannot be conditional: write the condition on the function");
        }
    }
    ty
}

/// `&'lifetime mut Referent`
struct Reference {
    and: TokenTree,
    lifetime: Tokens,
    mutability: Option<TokenTree>,
    referent: Tokens,
}

impl Reference {
    /// A type as a reference, if it is one.
    fn of(ty: &Tokens) -> Option<Self> {
        let mut tokens = ty.peeled().into_iter().peekable();
        let and = tokens.next_if(|token| is(token, '&'))?;
        let mut lifetime = Tokens::default();
        if let Some(quote) = tokens.next_if(|token| is(token, '\'')) {
            lifetime.extend([quote].into_iter().chain(tokens.next()));
        }
        Some(Self {
            and,
            lifetime,
            mutability: tokens.next_if(|token| is_word(token, "mut")),
            referent: tokens.collect(),
        })
    }
}

/// A function's name without `r#`.
pub(crate) fn plain_name(ident: &Ident) -> String {
    ident.unraw().to_string()
}

#[cfg(test)]
mod tests {
    use quote::ToTokens;

    use super::*;

    fn read(function: &str) -> Function {
        Function::read(function.parse().unwrap()).unwrap()
    }

    fn shown<'a>(tokens: impl IntoIterator<Item = &'a Tokens>) -> Vec<String> {
        let tokens = tokens.into_iter();
        tokens
            .map(|tokens| tokens.to_token_stream().to_string())
            .collect()
    }

    #[test]
    fn a_function_is_read_up_to_its_body() {
        let function = read(
            "/// A doc.\n#[cfg(unix)] #[inline] pub(in a::b) const async unsafe extern \"C\" \
             fn r#f<'a, F: Fn(A) -> B>(a: A, B { b }: &'a b::B<C, D>) -> E<{ 1 }> where A: B { f(); }",
        );
        assert_eq!(
            shown([&function.conditions, &function.visibility]),
            ["# [cfg (unix)]", "pub (in a :: b)"]
        );
        assert_eq!(
            shown([&function.qualifiers]),
            ["const async unsafe extern \"C\""]
        );
        assert_eq!(plain_name(&function.ident), "f");
        assert_eq!(shown([&function.generics]), ["'a , F : Fn (A) -> B"]);
        assert_eq!(
            shown(function.arguments.iter().map(|argument| &argument.pattern)),
            ["a", "B { b }"]
        );
        assert_eq!(
            shown(function.arguments.iter().flat_map(|argument| &argument.ty)),
            ["A", "&'a b :: B < C , D >"]
        );
        assert_eq!(shown([&function.output]), ["E < { 1 } >"]);
    }
}
