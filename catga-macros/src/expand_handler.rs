//! Writes what stands beside a handler: a type of its name, its description, its registration.

use std::time::Duration;

use proc_macro2::{Literal, Span, TokenStream};
use quote::{format_ident, quote, quote_spanned};
use syn::{Ident, ReturnType, Type};

use crate::options::Options;
use crate::place::{generated, moved, of_type};
use crate::signature::{Function, Handler, conditions, plain_name};

/// What stands beside a handler.
pub(crate) fn expand(
    root: &TokenStream,
    options: &Options,
    function: &Function,
    handler: &Handler,
) -> TokenStream {
    let private = quote!(#root::__private);
    let message = Argument::new("__CatgaMessage", &handler.message);
    let extractors: Vec<_> = (1..)
        .zip(&handler.extractors)
        .map(|(i, ty)| Argument::new(&format!("__CatgaArgument{i}"), ty))
        .collect();
    let aliases = extractors.iter().chain([&message]).map(Argument::alias);
    let item = item(function);
    let name = type_name(function);
    let cfgs: Vec<_> = conditions(function).collect();
    let check = message.spanned(quote!(#private::message_argument::<__CatgaMessage>()));
    let demands = options
        .demands
        .iter()
        .map(|key| demand(root, &message, key));
    let site = site(&private, &function.signature.ident);
    let values = values(&private, options);
    let requires = extractors
        .iter()
        .map(|extractor| extractor.member(root, "FromContext", "requires"));
    let call = call(root, function, handler, &message, &extractors);
    let new = message.spanned(quote!(#private::HandlerDef::new::<__CatgaMessage>));
    let definition =
        quote_spanned!(message.alias.span()=> #new(#site, #values, &[#(#requires),*], &#call));
    quote! {
        #item
        #(#cfgs)*
        #[allow(deprecated)]
        const _: () = {
            #(#aliases)*
            static __CATGA_HANDLER: #private::HandlerDef = {
                #check;
                #(#demands)*
                #definition
            };
            #[automatically_derived]
            impl #private::HandlerItem for #name {
                fn def() -> &'static #private::HandlerDef {
                    &__CATGA_HANDLER
                }
            }
            #private::inventory::submit! { #private::Registered(&__CATGA_HANDLER) }
        };
    }
}

/// The type of an argument, under a name of one token.
///
/// Within one body the compiler reports an unmet bound once per place: code that is all spanned on one
/// token of the user's type gives one message, which points there.
struct Argument<'a> {
    alias: Ident,
    ty: &'a Type,
}

impl<'a> Argument<'a> {
    fn new(alias: &str, ty: &'a Type) -> Self {
        Self {
            alias: Ident::new(alias, of_type(ty)),
            ty,
        }
    }

    fn alias(&self) -> TokenStream {
        let Self { alias, ty } = self;
        quote!(type #alias = #ty;)
    }

    /// Moves generated code to the token that stands for the type.
    fn spanned(&self, tokens: TokenStream) -> TokenStream {
        moved(tokens, self.alias.span())
    }

    /// `<Type as Trait>::member`.
    fn member(&self, root: &TokenStream, of: &str, member: &str) -> TokenStream {
        let (alias, of, member) = (
            &self.alias,
            format_ident!("{of}"),
            format_ident!("{member}"),
        );
        self.spanned(quote!(<#alias as #root::#of>::#member))
    }
}

/// What stands beside a function that cannot be a handler, so that `handlers![..]` does not complain as well.
pub(crate) fn stand_in(root: &TokenStream, function: &Function) -> TokenStream {
    let item = item(function);
    let name = type_name(function);
    let cfgs = conditions(function);
    quote! {
        #item
        #(#cfgs)*
        #[automatically_derived]
        impl #root::__private::HandlerItem for #name {
            fn def() -> &'static #root::__private::HandlerDef {
                ::core::unreachable!()
            }
        }
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
        #visibility struct #name {}
    }
}

fn type_name(function: &Function) -> Ident {
    let mut name = function.signature.ident.clone();
    name.set_span(generated(name.span()));
    name
}

fn site(private: &TokenStream, function: &Ident) -> TokenStream {
    let name = plain_name(function);
    // The function's own span, else the line would be that of the attribute.
    let line = quote_spanned!(function.span()=> ::core::line!());
    quote! {
        #private::Site { name: #name, module: ::core::module_path!(), file: ::core::file!(), line: #line }
    }
}

fn values(private: &TokenStream, options: &Options) -> TokenStream {
    let group = option(options.group.as_ref().map(|group| quote!(#group)));
    let concurrency = option(options.concurrency.map(number));
    let attempts = option(options.attempts.map(number));
    let timeout = option(options.timeout.map(duration));
    let backoff = option(options.backoff.map(|(min, max)| {
        let (min, max) = (duration(min), duration(max));
        quote!((#min, #max))
    }));
    let rate = option(options.rate.map(|(calls, per)| {
        let (calls, per) = (Literal::u64_unsuffixed(calls), duration(per));
        quote!(#private::Rate { calls: #calls, per: #per })
    }));
    let breaker = option(options.breaker.map(|breaker| {
        let (failures, open) = (number(breaker.failures), duration(breaker.open));
        quote!(#private::Breaker { failures: #failures, open: #open })
    }));
    let Options {
        each_node,
        ordered,
        start_new,
        ..
    } = options;
    quote! {
        #private::HandlerOptions {
            group: #group,
            concurrency: #concurrency,
            attempts: #attempts,
            timeout: #timeout,
            backoff: #backoff,
            rate: #rate,
            breaker: #breaker,
            each_node: #each_node,
            ordered: #ordered,
            start_new: #start_new,
        }
    }
}

fn option(value: Option<TokenStream>) -> TokenStream {
    match value {
        Some(value) => quote!(::core::option::Option::Some(#value)),
        None => quote!(::core::option::Option::None),
    }
}

fn number(number: u32) -> TokenStream {
    let literal = Literal::u32_unsuffixed(number);
    quote!(#literal)
}

fn duration(duration: Duration) -> TokenStream {
    let seconds = Literal::u64_unsuffixed(duration.as_secs());
    let nanos = Literal::u32_unsuffixed(duration.subsec_nanos());
    quote!(::core::time::Duration::new(#seconds, #nanos))
}

/// A condition that an option puts on the message's type, which only the compiler can judge.
fn demand(root: &TokenStream, message: &Argument<'_>, option: &Ident) -> TokenStream {
    let constant = |name| message.member(root, "Message", name);
    let span = generated(option.span());
    let refuse = |condition: TokenStream, text: &str| quote_spanned!(span=> ::core::assert!(#condition, #text););
    if option == "each_node" {
        let kind = constant("KIND");
        return refuse(
            quote!(::core::matches!(#kind, #root::Kind::Event)),
            "`each_node` is for events: one node answers a request; ask all of them with `broadcast`",
        );
    }
    let quality = constant("QOS");
    let redelivered = refuse(
        quote!(!::core::matches!(#quality, #root::QoS::AtMostOnce)),
        &format!(
            "`{option}` needs a message that is redelivered: write `#[qos(at_least_once)]` on it, or leave `{option}` out"
        ),
    );
    if option != "ordered" {
        return redelivered;
    }
    let partitions = constant("PARTITIONS");
    let keyed = refuse(
        quote!(#partitions.is_some()),
        "`ordered` needs a message that says what to order by: write `#[route_by(field)]` on it",
    );
    quote!(#redelivered #keyed)
}

/// How the handler is called.
fn call(
    root: &TokenStream,
    function: &Function,
    handler: &Handler,
    message: &Argument<'_>,
    extractors: &[Argument<'_>],
) -> TokenStream {
    let private = quote!(#root::__private);
    // Names that no function of the user can be taken for.
    let local = |name: &str| Ident::new(name, Span::mixed_site());
    let (value, context, boxed) = (local("message"), local("context"), local("future"));
    let names: Vec<_> = (1..=extractors.len())
        .map(|i| local(&format!("argument{i}")))
        .collect();
    let extract = extractors.iter().zip(&names).map(|(extractor, name)| {
        let from_context = extractor.member(root, "FromContext", "from_context");
        let context = Ident::new(
            "context",
            Span::mixed_site().located_at(extractor.alias.span()),
        );
        let extracted = quote_spanned!(extractor.alias.span()=> #from_context(&#context).await?);
        quote!(let #name = #extracted;)
    });
    let (variant, argument) = if handler.by_reference {
        (quote!(ByRef), quote!(&#value))
    } else {
        (quote!(ByValue), quote!(#value))
    };
    let name = &function.signature.ident;
    let returned = match &function.signature.output {
        ReturnType::Type(_, output) => of_type(output),
        ReturnType::Default => name.span(),
    };
    let outcome = Ident::new("__catga_outcome", returned);
    // Spanned on the returned type, which is at fault when it is none that fits the message.
    let into_outcome = moved(quote!(#private::IntoOutcome), returned);
    let response = message.member(root, "Message", "Response");
    let into_outcome =
        quote_spanned!(returned=> #into_outcome::<#response>::into_outcome(#outcome));
    // The output is inferred: a type that is no message would be reported here a second time.
    let future = quote_spanned! {generated(name.span())=>
        let #boxed: #private::BoxFuture<_> = ::std::boxed::Box::pin(async move {
            #(#extract)*
            let #outcome = #name(#argument #(, #names)*).await;
            #into_outcome
        });
    };
    let call = message.spanned(quote!(#private::Invoke::<__CatgaMessage>::#variant));
    quote_spanned!(message.alias.span()=> #call(|#value, #context| { #future #boxed }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mistakes::Mistakes;
    use crate::options::read;

    #[test]
    fn what_an_option_says_goes_into_its_field() {
        let given = quote!(rate = "100/5ms", breaker(open = "2m"));
        let options = read(given, &mut Mistakes::default());
        let values = values(&quote!(p), &options).to_string();
        for field in [
            quote!(rate: ::core::option::Option::Some(p::Rate {
                calls: 100,
                per: ::core::time::Duration::new(0, 5000000)
            })),
            quote!(breaker: ::core::option::Option::Some(p::Breaker {
                failures: 5,
                open: ::core::time::Duration::new(120, 0)
            })),
            quote!(timeout: ::core::option::Option::None),
        ] {
            assert!(values.contains(&field.to_string()), "{field} in {values}");
        }
    }
}
