//! Writes what stands beside a handler: a type of its name, its description, its registration.

use std::iter::repeat_n;
use std::time::Duration;

use proc_macro2::{Delimiter, Group, Ident, Literal, Span, TokenStream};
use quote::{ToTokens, quote, quote_spanned};
use syn::Token;

use crate::options::Options;
use crate::place::generated;
use crate::root::Root;
use crate::signature::{Function, Handler, plain_name};
use crate::tokens::Tokens;

/// What stands beside a handler.
///
/// All that a type of the user's has to be is asked of it as a generic argument, `f::<Type>()`: there the compiler
/// points at the type, and tells an unmet bound once per place.
pub(crate) fn expand(
    root: &Root,
    options: &Options,
    function: &Function,
    handler: &Handler,
) -> TokenStream {
    let private = root.private();
    let item = item(function);
    let name = type_name(function);
    let cfgs = &function.conditions;
    let fits = handles(&private, function, handler);
    let extractors = handler.extractors.iter();
    let extractors = extractors.map(|ty| Over::asking(&private, "extractor_argument", ty, [ty]));
    let call = call(&private, options, function, handler);
    let demands = demands(&private, options, function, handler);
    quote! {
        #item
        #cfgs
        #[allow(deprecated)]
        #[automatically_derived]
        impl #private::HandlerItem for #name {
            fn def() -> #private::HandlerDef {
                #fits;
                #(#extractors;)*
                #call
            }
        }
        #demands
        #cfgs
        #private::inventory::submit!(#private::Registered(<#name as #private::HandlerItem>::def));
    }
}

/// The call that makes the definition.
fn call(private: &Root, options: &Options, function: &Function, handler: &Handler) -> TokenStream {
    let name = &function.ident;
    let (by, inferred) = if handler.by_reference {
        ("ref", 1)
    } else {
        ("value", 2)
    };
    let by = format!("by_{by}{}", handler.extractors.len());
    // The types of the function and of its future, where there is something wrong with them.
    let any = Tokens::from_iter([Ident::new("_", name.span()).into()]);
    let types = [&handler.message]
        .into_iter()
        .chain(&handler.extractors)
        .chain([&function.output])
        .chain(repeat_n(&any, inferred));
    let site = site(private, name);
    let values = values(private, options);
    let call = Over {
        private,
        function: &by,
        at: &handler.message,
        types: types.collect(),
        arguments: quote!(#site, #values, #name),
    };
    call.into_token_stream()
}

/// The question whether a handler returns what fits its message.
fn handles<'a>(private: &'a Root, function: &'a Function, handler: &'a Handler) -> Over<'a> {
    let message = &handler.message;
    Over::asking(private, "handles", message, [message, &function.output])
}

/// `function::<types>(arguments)`, from where a type begins to where it ends: what follows from a type that is none of those
/// asked for is then told where that itself is told, which is once.
struct Over<'a> {
    private: &'a Root,
    function: &'a str,
    at: &'a Tokens,
    types: Vec<&'a Tokens>,
    arguments: TokenStream,
}

impl<'a> Over<'a> {
    fn asking(
        private: &'a Root,
        function: &'a str,
        at: &'a Tokens,
        types: impl Into<Vec<&'a Tokens>>,
    ) -> Self {
        Self {
            private,
            function,
            at,
            types: types.into(),
            arguments: TokenStream::new(),
        }
    }
}

impl ToTokens for Over<'_> {
    fn to_tokens(&self, tokens: &mut TokenStream) {
        let (begin, end) = (self.at.begin(), self.at.end());
        self.private.at(begin).to_tokens(tokens);
        Token![::]([begin; 2]).to_tokens(tokens);
        Ident::new(self.function, begin).to_tokens(tokens);
        Token![::]([begin; 2]).to_tokens(tokens);
        Token![<](begin).to_tokens(tokens);
        for ty in &self.types {
            ty.to_tokens(tokens);
            Token![,](end).to_tokens(tokens);
        }
        Token![>](end).to_tokens(tokens);
        let mut arguments = Group::new(Delimiter::Parenthesis, self.arguments.clone());
        arguments.set_span(end);
        arguments.to_tokens(tokens);
    }
}

/// Where the handler stands.
fn site(private: &Root, function: &Ident) -> TokenStream {
    let name = plain_name(function);
    // At the function, else the line would be that of the attribute.
    let here = private.at(function.span());
    quote_spanned!(function.span()=> #here::Site::here(#name, ::core::module_path!()))
}

/// The conditions that the options put on the message's type, which only the compiler can judge: judged in a static,
/// and so once.
fn demands(
    private: &Root,
    options: &Options,
    function: &Function,
    handler: &Handler,
) -> Option<TokenStream> {
    if options.demands.is_empty() {
        return None;
    }
    let demands = options.demands.iter();
    let demands = demands.map(|option| demand(private, &handler.message, option));
    // Asked here too, in the same words: of all that asks the same of a type at one place, the compiler tells one.
    let fits = handles(private, function, handler);
    let cfgs = &function.conditions;
    Some(quote! {
        #cfgs
        #[allow(deprecated)]
        const _: () = {
            static OPTIONS: () = {
                #fits;
                #(#demands)*
            };
        };
    })
}

/// What stands beside a function that cannot be a handler, so that `handlers![..]` does not complain as well.
pub(crate) fn stand_in(root: &Root, function: &Function) -> TokenStream {
    let item = item(function);
    let name = type_name(function);
    let cfgs = &function.conditions;
    quote! {
        #item
        #cfgs
        #[automatically_derived]
        impl #root::__private::HandlerItem for #name {}
    }
}

/// The type that has the function's name: types and functions have name spaces of their own.
fn item(function: &Function) -> TokenStream {
    let visibility = &function.visibility;
    let name = type_name(function);
    let cfgs = &function.conditions;
    quote! {
        #cfgs
        #[doc(hidden)]
        #[allow(missing_debug_implementations)]
        #visibility struct #name {}
    }
}

fn type_name(function: &Function) -> Ident {
    let mut name = function.ident.clone();
    name.set_span(generated(name.span()));
    name
}

/// The options that are given.
fn values(private: &Root, options: &Options) -> TokenStream {
    let group = options.group.iter();
    let concurrency = options.concurrency.into_iter().map(Literal::u32_unsuffixed);
    let attempts = options.attempts.into_iter().map(Literal::u32_unsuffixed);
    let timeout = options.timeout.into_iter().map(nanos);
    let pairs = [
        options
            .backoff
            .map(|(least, most)| ("backoff_ns", nanos(least), nanos(most))),
        options
            .rate
            .map(|(calls, per)| ("rate_per_ns", Literal::u64_unsuffixed(calls), nanos(per))),
        options.breaker.map(|breaker| {
            (
                "breaker_ns",
                Literal::u32_unsuffixed(breaker.failures),
                nanos(breaker.open),
            )
        }),
    ];
    let pairs = pairs.into_iter().flatten().map(|(option, first, second)| {
        let option = Ident::new(option, Span::call_site());
        quote!(.#option(#first, #second))
    });
    let flags = [
        ("each_node", options.each_node),
        ("ordered", options.ordered),
        ("start_new", options.start_new),
    ];
    let flags = flags
        .iter()
        .filter(|(_, given)| *given)
        .map(|(flag, _)| Ident::new(flag, Span::call_site()));
    quote! {
        #private::HandlerOptions::NONE
            #(.group(#group))*
            #(.concurrency(#concurrency))*
            #(.attempts(#attempts))*
            #(.timeout_ns(#timeout))*
            #(#pairs)*
            #(.#flags())*
    }
}

/// A duration, or the longest of 584 years.
fn nanos(duration: Duration) -> Literal {
    Literal::u64_unsuffixed(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX))
}

fn demand(private: &Root, message: &Tokens, option: &Ident) -> TokenStream {
    let refuse = |condition: &'static str, text: &str| {
        let condition = Over::asking(private, condition, message, [message]);
        quote_spanned!(generated(option.span())=> ::core::assert!(#condition, #text);)
    };
    if option == "each_node" {
        return refuse(
            "is_of_event",
            "`each_node` is for events: one node answers a request; ask all of them with `broadcast`",
        );
    }
    let redelivered = refuse(
        "is_redelivered",
        &format!(
            "`{option}` needs a message that is redelivered: write `#[qos(at_least_once)]` on it, or leave `{option}` out"
        ),
    );
    if option != "ordered" {
        return redelivered;
    }
    let routed = refuse(
        "is_routed",
        "`ordered` needs a message that says what to order by: write `#[route_by(field)]` on it",
    );
    quote!(#redelivered #routed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mistakes::Mistakes;
    use crate::options::read;

    #[test]
    fn what_an_option_says_is_written() {
        let given = quote!(rate = "100/5ms", breaker(open = "2m"), timeout = "600y");
        let options = read(given, &mut Mistakes::default());
        let root: syn::Path = syn::parse_quote!(p);
        let values = values(&Root::new(Some(&root)), &options);
        let expected = quote! {
            p::HandlerOptions::NONE
                .timeout_ns(18446744073709551615)
                .rate_per_ns(100, 5000000)
                .breaker_ns(5, 120000000000)
        };
        assert_eq!(values.to_string(), expected.to_string());
    }
}
