//! Writes what stands beside a handler: a type of its name, its description, its registration.

use std::time::Duration;

use proc_macro2::{Delimiter, Group, Literal, TokenStream, TokenTree};
use quote::{format_ident, quote, quote_spanned};
use syn::{Ident, ReturnType, Type};

use crate::options::Options;
use crate::place::{ends, generated, moved};
use crate::root::Root;
use crate::signature::{Function, Handler, conditions, plain_name};

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
    let message = &handler.message;
    let item = item(function);
    let name = type_name(function);
    let cfgs: Vec<_> = conditions(function).collect();
    let demands = demands(&private, function, options);
    let site = site(&private, &function.signature.ident);
    let values = values(&private, options);
    let extractors = &handler.extractors;
    let returned = returned(function);
    let check = over(
        message,
        &quote!(#private::handles),
        &quote!(#message, #returned),
        TokenStream::new(),
    );
    let call = call(&private, function, handler, &returned);
    quote! {
        #item
        #(#cfgs)*
        #[allow(deprecated)]
        #[automatically_derived]
        impl #private::HandlerItem for #name {
            const DEF: &'static #private::HandlerDef = {
                #check;
                #(#private::extractor_argument::<#extractors>();)*
                &#private::HandlerDef {
                    site: #site,
                    options: #values,
                    message: #private::MessageDef::of::<#message>(),
                    call: &#call,
                }
            };
        }
        #demands
        #(#cfgs)*
        #private::inventory::submit!(#private::Registered(#private::def::<#name>));
    }
}

/// The conditions that the options put on the message's type, which only the compiler can judge: judged in a static,
/// and so once.
fn demands(private: &Root, function: &Function, options: &Options) -> Option<TokenStream> {
    if options.demands.is_empty() {
        return None;
    }
    let name = type_name(function);
    let demands = options.demands.iter().map(demand);
    let cfgs = conditions(function);
    Some(quote! {
        #(#cfgs)*
        const _: () = {
            static OPTIONS: () = {
                let __def = <#name as #private::HandlerItem>::DEF;
                #(#demands)*
            };
        };
    })
}

/// What the function returns in the end.
fn returned(function: &Function) -> TokenStream {
    match &function.signature.output {
        ReturnType::Type(_, output) => quote!(#output),
        ReturnType::Default => {
            let mut nothing = Group::new(Delimiter::Parenthesis, TokenStream::new());
            nothing.set_span(function.signature.ident.span());
            TokenTree::from(nothing).into()
        }
    }
}

/// What stands beside a function that cannot be a handler, so that `handlers![..]` does not complain as well.
pub(crate) fn stand_in(root: &Root, function: &Function) -> TokenStream {
    let item = item(function);
    let name = type_name(function);
    let cfgs = conditions(function);
    quote! {
        #item
        #(#cfgs)*
        #[automatically_derived]
        impl #root::__private::HandlerItem for #name {}
    }
}

/// The type that has the function's name: types and functions have name spaces of their own.
fn item(function: &Function) -> TokenStream {
    let visibility = &function.visibility;
    let name = type_name(function);
    let cfgs = conditions(function);
    quote! {
        #(#cfgs)*
        #[doc(hidden)]
        #[allow(missing_debug_implementations)]
        #visibility struct #name {}
    }
}

fn type_name(function: &Function) -> Ident {
    let mut name = function.signature.ident.clone();
    name.set_span(generated(name.span()));
    name
}

fn site(private: &Root, function: &Ident) -> TokenStream {
    let name = plain_name(function);
    // The function's own span, else the line would be that of the attribute.
    let here = moved(quote!(#private::Site::here), function.span());
    quote_spanned!(function.span()=> #here(#name, ::core::module_path!()))
}

/// The options that are given.
fn values(private: &Root, options: &Options) -> TokenStream {
    let mut values = quote!(#private::HandlerOptions::NONE);
    if let Some(group) = &options.group {
        values.extend(quote!(.group(#group)));
    }
    if let Some(concurrency) = options.concurrency.map(Literal::u32_unsuffixed) {
        values.extend(quote!(.concurrency(#concurrency)));
    }
    if let Some(attempts) = options.attempts.map(Literal::u32_unsuffixed) {
        values.extend(quote!(.attempts(#attempts)));
    }
    if let Some(timeout) = options.timeout.map(nanos) {
        values.extend(quote!(.timeout_ns(#timeout)));
    }
    if let Some((least, most)) = options.backoff {
        let (least, most) = (nanos(least), nanos(most));
        values.extend(quote!(.backoff_ns(#least, #most)));
    }
    if let Some((calls, per)) = options.rate {
        let (calls, per) = (Literal::u64_unsuffixed(calls), nanos(per));
        values.extend(quote!(.rate_per_ns(#calls, #per)));
    }
    if let Some(breaker) = options.breaker {
        let failures = Literal::u32_unsuffixed(breaker.failures);
        let open = nanos(breaker.open);
        values.extend(quote!(.breaker_ns(#failures, #open)));
    }
    if options.each_node {
        values.extend(quote!(.each_node()));
    }
    if options.ordered {
        values.extend(quote!(.ordered()));
    }
    if options.start_new {
        values.extend(quote!(.start_new()));
    }
    values
}

/// A duration, or the longest of 584 years.
fn nanos(duration: Duration) -> Literal {
    Literal::u64_unsuffixed(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX))
}

fn demand(option: &Ident) -> TokenStream {
    let span = generated(option.span());
    let refuse = |condition: &str, text: &str| {
        let condition = format_ident!("{condition}");
        quote_spanned!(span=> ::core::assert!(__def.#condition(), #text);)
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

/// How the handler is called.
fn call(
    private: &Root,
    function: &Function,
    handler: &Handler,
    returned: &TokenStream,
) -> TokenStream {
    let name = &function.signature.ident;
    let (message, extractors) = (&handler.message, &handler.extractors);
    let (variant, by, inferred) = if handler.by_reference {
        ("ByRef", "ref", 1)
    } else {
        ("ByValue", "value", 2)
    };
    let variant = format_ident!("{variant}");
    let by = format_ident!("by_{by}{}", extractors.len());
    // The types of the function and of its future, where there is something wrong with them.
    let inferred = (0..inferred).map(|_| quote_spanned!(name.span()=> _));
    let types = quote!(#message, #(#extractors,)* #returned, #(#inferred),*);
    let handler = quote!(&#private::#variant(#name, #private::PhantomData));
    over(message, &quote!(#private::#by), &types, handler)
}

/// `function::<types>(arguments)`, from where the message's type begins to where it ends: what follows from a type that is no
/// message is then told where that itself is told, which is once.
fn over(
    message: &Type,
    function: &TokenStream,
    types: &TokenStream,
    arguments: TokenStream,
) -> TokenStream {
    let (begin, end) = ends(message);
    let function = moved(quote!(#function::<), begin);
    let mut arguments = Group::new(Delimiter::Parenthesis, arguments);
    arguments.set_span(end);
    let close = quote_spanned!(end=> >);
    quote!(#function #types #close #arguments)
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
