//! Reads the function below `#[handler]`, and checks that it can be one.

use proc_macro2::{TokenStream, TokenTree};
use quote::ToTokens;
use syn::ext::IdentExt;
use syn::parse::{ParseStream, Parser};
use syn::{Attribute, FnArg, Ident, PatType, ReturnType, Safety, Signature, Type, Visibility};

use crate::mistakes::Mistakes;

/// The most arguments beside the message.
const MAX_EXTRACTORS: usize = 8;

/// A function without its body, which is the user's alone: it may even be half written.
pub(crate) struct Function {
    pub(crate) attributes: Vec<Attribute>,
    pub(crate) visibility: Visibility,
    pub(crate) signature: Signature,
    /// Whether `impl` or `Self` occurs at all: few functions have to be searched for where.
    odd: bool,
}

impl Function {
    /// Reads a function up to its body.
    pub(crate) fn read(tokens: TokenStream) -> syn::Result<Self> {
        let odd = ["impl", "Self"]
            .iter()
            .any(|word| find(tokens.clone(), word).is_some());
        let read = |input: ParseStream<'_>| {
            let function = Self {
                attributes: input.call(Attribute::parse_outer)?,
                visibility: input.parse()?,
                signature: input.parse()?,
                odd,
            };
            input.parse::<TokenStream>()?;
            Ok(function)
        };
        read.parse2(tokens)
    }

    /// The first `impl` among these tokens of the function.
    fn find_impl(&self, tokens: &impl ToTokens) -> Option<TokenTree> {
        self.odd
            .then(|| find(tokens.to_token_stream(), "impl"))
            .flatten()
    }
}

/// A function that can be a handler.
pub(crate) struct Handler {
    pub(crate) message: Type,
    pub(crate) by_reference: bool,
    pub(crate) extractors: Vec<Type>,
}

/// What the function takes, if it can be a handler.
pub(crate) fn check(function: &Function, mistakes: &mut Mistakes) -> Option<Handler> {
    let signature = &function.signature;
    if let Some(method) = method_token(function) {
        mistakes.at(
            method,
            "`#[handler]` takes a free function, not a method: move it out of the `impl` and let it take `State<..>`",
        );
        return None;
    }
    check_qualifiers(signature, mistakes);
    if !signature.generics.params.is_empty() {
        mistakes.at(
            &signature.generics.params,
            "a handler cannot be generic or have lifetimes: it handles one message type, taken as `M` or `&M`",
        );
    }
    if let ReturnType::Type(_, output) = &signature.output
        && let Some(token) = function.find_impl(output)
    {
        mistakes.at(
            token,
            "a handler returns a named type: nothing, `Result<()>` or `Result<Response>`",
        );
    }
    let mut arguments = signature
        .inputs
        .iter()
        .filter_map(|argument| match argument {
            FnArg::Typed(argument) => Some(argument),
            FnArg::Receiver(_) => None,
        });
    let Some(message) = arguments.next() else {
        mistakes.at(
            &signature.ident,
            format_args!(
                "a handler takes its message first; write `async fn {}(message: Message, ..)`",
                signature.ident
            ),
        );
        return None;
    };
    let (message, by_reference) = check_message(function, message, mistakes);
    let extractors: Vec<_> = arguments
        .map(|argument| check_extractor(function, argument, mistakes))
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
pub(crate) fn method_token(function: &Function) -> Option<TokenStream> {
    let signature = &function.signature;
    match signature.receiver() {
        Some(receiver) => Some(receiver.self_token.to_token_stream()),
        None if !function.odd => None,
        None => find(signature.to_token_stream(), "Self").map(TokenTree::into_token_stream),
    }
}

fn check_qualifiers(signature: &Signature, mistakes: &mut Mistakes) {
    if let Some(token) = &signature.constness {
        mistakes.at(token, "a handler cannot be `const`");
    } else if signature.asyncness.is_none() {
        let message = format!(
            "`#[handler]` needs an async function; write `async fn {}(..)`",
            signature.ident
        );
        mistakes.at(signature.fn_token, message);
    }
    if let Safety::Unsafe(token) = &signature.safety {
        mistakes.at(
            token,
            "a handler cannot be `unsafe`: nobody is there to keep its conditions",
        );
    }
    if let Some(abi) = &signature.abi {
        mistakes.at(abi, "a handler cannot be `extern`");
    }
    if let Some(variadic) = &signature.variadic {
        mistakes.at(variadic.dots, "a handler cannot be variadic");
    }
}

/// The message's type, and whether it is taken by reference.
fn check_message(function: &Function, argument: &PatType, mistakes: &mut Mistakes) -> (Type, bool) {
    check_argument(function, argument, mistakes);
    let Type::Reference(reference) = peel(&argument.ty) else {
        return ((*argument.ty).clone(), false);
    };
    if let Some(token) = &reference.mutability {
        mistakes.at(
            token,
            "a handler cannot change a message that others may see: take it by value, or as `&`",
        );
    } else if let Some(lifetime) = reference
        .lifetime
        .as_ref()
        .filter(|lifetime| lifetime.ident == "static")
    {
        mistakes.at(
            lifetime,
            "a handler borrows its message for the call: write `&` without `'static`",
        );
    }
    ((*reference.elem).clone(), true)
}

fn check_extractor(function: &Function, argument: &PatType, mistakes: &mut Mistakes) -> Type {
    check_argument(function, argument, mistakes);
    if let Type::Reference(reference) = peel(&argument.ty) {
        mistakes.at(
            reference.and_token,
            "extractors are taken by value; only the message, which comes first, may be a reference",
        );
    }
    (*argument.ty).clone()
}

fn check_argument(function: &Function, argument: &PatType, mistakes: &mut Mistakes) {
    if let Some(token) = function.find_impl(&argument.ty) {
        mistakes.at(
            token,
            "a handler cannot be generic: name the type of this argument",
        );
    }
    for attribute in &argument.attrs {
        if attribute.path().is_ident("cfg") || attribute.path().is_ident("cfg_attr") {
            mistakes.at(attribute, "an argument of a handler cannot be conditional: write the condition on the function");
        }
    }
}

/// A type without what a `macro_rules!` macro or parentheses put around it.
fn peel(mut ty: &Type) -> &Type {
    loop {
        ty = match ty {
            Type::Group(group) => &group.elem,
            Type::Paren(paren) => &paren.elem,
            other => return other,
        };
    }
}

/// The first token that is this word, at any depth.
fn find(tokens: TokenStream, word: &str) -> Option<TokenTree> {
    tokens.into_iter().find_map(|token| match token {
        TokenTree::Group(group) => find(group.stream(), word),
        TokenTree::Ident(ident) => (ident == word).then_some(TokenTree::Ident(ident)),
        TokenTree::Punct(_) | TokenTree::Literal(_) => None,
    })
}

/// Conditions under which the function exists: what stands beside it must follow them.
pub(crate) fn conditions(function: &Function) -> impl Iterator<Item = &Attribute> {
    function
        .attributes
        .iter()
        .filter(|attribute| attribute.path().is_ident("cfg"))
}

/// A function's name without `r#`.
pub(crate) fn plain_name(ident: &Ident) -> String {
    ident.unraw().to_string()
}
