//! Writes the impls of `Message` and of `Event` or `Request`.

use proc_macro2::{Literal, TokenStream};
use quote::{quote, quote_spanned};
use syn::Path;
use syn::spanned::Spanned;

use crate::message::{Message, Quality, Role, Route};
use crate::place::{generated, moved};

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
    let (upcast, from_version) = message
        .upcast_from
        .as_ref()
        .map(|old| (upcast(message, old), from_version(message)))
        .unzip();
    quote! {
        #[allow(deprecated)]
        const _: () = {
            #upcast
            #[automatically_derived]
            impl #root::Message for #ident {
                type Response = #response;
                const NAME: &'static str = #name;
                const VERSION: u32 = #version;
                const QOS: #root::QoS = #root::QoS::#quality;
                const KIND: #root::Kind = #root::Kind::#kind;
                #routing
                #from_version
            }
            // The clause, always met, keeps a missing `Serialize` from being reported for this impl as well.
            #[automatically_derived]
            impl #root::#role for #ident where for<'a> #ident: #root::Message {}
        };
    }
}

/// How an older version is read: a static, so that its conditions are judged with no handler in sight,
/// and once, where a constant would be judged again by whoever uses it.
///
/// All that uses the older type stands in one body and on one token: the compiler then tells an unmet
/// bound once. And it is used through functions: `<Type as Message>::VERSION` would tell of a missing
/// `Serialize` once more.
fn upcast(message: &Message, old: &Path) -> TokenStream {
    let Message {
        root,
        ident,
        name,
        version,
        ..
    } = message;
    let private = quote!(#root::__private);
    let place = generated(
        old.segments
            .last()
            .map_or_else(|| old.span(), |segment| segment.ident.span()),
    );
    let segments: Vec<_> = old
        .segments
        .iter()
        .map(|segment| segment.ident.to_string())
        .collect();
    let shown = segments.join("::");
    let other_name = format!(
        "`{shown}` has another name on the wire: write `#[message(name = \"{name}\")]` on it, the name of `{ident}`"
    );
    let not_older = format!(
        "`{shown}` is no older version: its `version` must be less than {version}, that of `{ident}`"
    );
    let read = moved(
        quote! {{
            ::core::assert!(#private::has_name::<__CatgaOld>(#name), #other_name);
            ::core::assert!(#private::is_older::<__CatgaOld>(#version), #not_older);
            #private::upcast::<__CatgaOld, #ident>
        }},
        place,
    );
    quote! {
        type __CatgaOld = #old;
        static __CATGA_UPCAST: fn(
            u32,
            &#private::Encoded<'_>,
        ) -> ::core::result::Result<#ident, #root::Error> = #read;
    }
}

fn from_version(message: &Message) -> TokenStream {
    let Message { root, version, .. } = message;
    // Arguments of names that the user's constants do not have: a pattern would mean the constant.
    quote! {
        fn from_version(
            __version: u32,
            __payload: &#root::__private::Encoded<'_>,
        ) -> ::core::result::Result<Self, #root::Error> {
            if __version < #version {
                __CATGA_UPCAST(__version, __payload)
            } else {
                __payload.decode_version(__version)
            }
        }
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
