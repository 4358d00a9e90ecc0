//! Writes the impls of `Message` and of `Event` or `Request`.

use proc_macro2::{Literal, TokenStream};
use quote::{quote, quote_spanned};
use syn::spanned::Spanned;

use crate::message::{Message, Quality, Role, Route};
use crate::place::moved;

/// The impls of a message.
pub(crate) fn expand(message: &Message) -> TokenStream {
    let Message {
        root, ident, name, ..
    } = message;
    let version = Literal::u32_unsuffixed(message.version);
    let quality = match message.quality {
        Quality::AtMostOnce => quote!(AtMostOnce),
        Quality::AtLeastOnce => quote!(AtLeastOnce),
        Quality::ExactlyOnce => quote!(ExactlyOnce),
    };
    let idempotent = message.idempotent;
    let (role, kind) = match message.role {
        Role::Event => (quote!(Event), quote!(Event)),
        Role::Request => (quote!(Request), quote!(Request { idempotent: #idempotent })),
    };
    let response = match &message.response {
        Some(response) => quote!(#response),
        None => quote!(()),
    };
    let routing = message.route.as_ref().map(|route| routing(root, route));
    quote! {
        #[allow(deprecated)]
        const _: () = {
            #[automatically_derived]
            impl #root::Message for #ident {
                type Response = #response;
                const NAME: &'static str = #name;
                const VERSION: u32 = #version;
                const QOS: #root::QoS = #root::QoS::#quality;
                const KIND: #root::Kind = #root::Kind::#kind;
                #routing
            }
            // The clause, always met, keeps a missing `Serialize` from being reported for this impl as well.
            #[automatically_derived]
            impl #root::#role for #ident where for<'a> #ident: #root::Message {}
        };
    }
}

fn routing(root: &TokenStream, route: &Route) -> TokenStream {
    let partitions = Literal::u32_unsuffixed(route.partitions);
    let key = route.field.as_ref().map(|field| {
        // Spanned on the field's name, so that a field that is no key is pointed at.
        let place = field.span();
        let routing_key = moved(quote!(#root::RoutingKey::routing_key), place);
        let key = quote_spanned!(place=> #routing_key(&self.#field));
        quote! {
            fn routing_key(&self) -> ::core::option::Option<#root::__private::Cow<'_, str>> {
                ::core::option::Option::Some(#key)
            }
        }
    });
    quote! {
        const PARTITIONS: ::core::option::Option<::core::num::NonZeroU16> =
            ::core::num::NonZeroU16::new(#partitions);
        #key
    }
}
