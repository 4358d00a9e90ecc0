//! Writes the impl of `Message`.

use proc_macro2::{Delimiter, Group, Ident, Literal, Span, TokenStream};
use quote::{ToTokens, quote, quote_spanned};
use syn::spanned::Spanned;
use syn::{Member, Path};

use crate::message::{Message, Quality, Raw, Role};
use crate::place::{generated, moved};
use crate::root::Root;

/// The impl of a message.
pub(crate) fn expand(message: &Message) -> TokenStream {
    let Message { root, ident, .. } = message;
    let role = match message.role {
        Role::Event => "IsEvent",
        Role::Request => "IsRequest",
    };
    let role = Ident::new(role, Span::call_site());
    let nothing = Group::new(Delimiter::Parenthesis, TokenStream::new());
    let response: &dyn ToTokens = match &message.response {
        Some(response) => response,
        None => &nothing,
    };
    let descriptor = descriptor(message);
    let routing_key = message
        .route
        .as_ref()
        .and_then(|route| route.field.as_ref())
        .map(|field| routing_key(root, field));
    let upcast = message.upcast_from.as_ref().map(|old| upcast(message, old));
    let payload = message.raw.as_ref().and_then(|raw| raw.field.as_ref());
    let as_raw = payload.map(|field| as_raw(root, field));
    let serde = message.raw.as_ref().map(|raw| serde(message, raw));
    let from_version = from_version(message, payload);
    let message = quote! {
        #[allow(deprecated)]
        #[automatically_derived]
        impl #root::Message for #ident {
            type Role = #root::#role;
            type Response = #response;
            const DESCRIPTOR: #root::Descriptor = #descriptor;
            #routing_key
            #as_raw
            #from_version
        }
        #serde
    };
    match upcast {
        Some(upcast) => quote! {
            #[allow(deprecated)]
            const _: () = {
                #upcast
                #message
            };
        },
        // There is no name that would have to be kept to itself.
        None => message,
    }
}

/// What the message says about itself: what differs from the defaults.
fn descriptor(message: &Message) -> TokenStream {
    let Message { root, name, .. } = message;
    let (role, default) = match message.role {
        Role::Event => ("event", Quality::AtMostOnce),
        Role::Request => ("request", Quality::AtLeastOnce),
    };
    let role = Ident::new(role, Span::call_site());
    let quality = match message.quality {
        quality if quality == default => None,
        Quality::AtMostOnce => Some("AtMostOnce"),
        Quality::AtLeastOnce => Some("AtLeastOnce"),
        Quality::ExactlyOnce => Some("ExactlyOnce"),
    };
    let quality = quality
        .iter()
        .map(|quality| Ident::new(quality, Span::call_site()));
    let version = (message.version != 1).then_some(message.version);
    let version = version.into_iter().map(Literal::u32_unsuffixed);
    let not_idempotent = (!message.idempotent).then_some("not_idempotent");
    let not_idempotent = not_idempotent
        .iter()
        .map(|flag| Ident::new(flag, Span::call_site()));
    let partitions = message
        .route
        .iter()
        .map(|route| Literal::u16_unsuffixed(route.partitions));
    quote! {
        #root::Descriptor::#role(#name)
            #(.with_qos(#root::QoS::#quality))*
            #(.with_version(#version))*
            #(.#not_idempotent())*
            #(.with_partitions(#partitions))*
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
    let private = root.private();
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
        static UPCAST_FROM: fn(
            u32,
            &#private::Encoded<'_>,
        ) -> ::core::result::Result<#ident, #root::Error> = #read;
    }
}

/// How a payload is read, where that is not how all are.
fn from_version(message: &Message, payload: Option<&Member>) -> Option<TokenStream> {
    let Message { root, version, .. } = message;
    if message.upcast_from.is_none() && payload.is_none() {
        return None;
    }
    // Arguments of names that the user's constants do not have: a pattern would mean the constant.
    let older = message.upcast_from.as_ref().map(|_| {
        quote! {
            if __version < #version {
                return UPCAST_FROM(__version, __payload);
            }
        }
    });
    let read = match payload {
        Some(field) => quote! {
            ::core::result::Result::Ok(Self { #field: __payload.raw_version::<Self>(__version)? })
        },
        None => quote!(__payload.decode_version(__version)),
    };
    Some(quote! {
        fn from_version(
            __version: u32,
            __payload: &#root::__private::Encoded<'_>,
        ) -> ::core::result::Result<Self, #root::Error> {
            #older
            #read
        }
    })
}

fn as_raw(root: &Root, field: &Member) -> TokenStream {
    quote! {
        fn as_raw(&self) -> ::core::option::Option<&#root::Bytes> {
            ::core::option::Option::Some(&self.#field)
        }
    }
}

/// The impls that every message has, of one that no codec writes. They stand on what asks for them, so that who derives
/// them too is told by what they are written already.
fn serde(message: &Message, raw: &Raw) -> TokenStream {
    let Message { root, ident, .. } = message;
    let (write, read) = match &raw.field {
        Some(field) => (
            quote!(#root::__private::serde::Serialize::serialize(&self.#field, __serializer)),
            quote! {
                ::core::result::Result::Ok(Self {
                    #field: #root::__private::serde::Deserialize::deserialize(__deserializer)?,
                })
            },
        ),
        // So that nothing else complains that they are missing.
        None => (
            quote!(::core::unreachable!()),
            quote!(::core::unreachable!()),
        ),
    };
    let serde = quote!(#root::__private::serde);
    moved(
        quote! {
            #[allow(deprecated)]
            #[automatically_derived]
            impl #serde::Serialize for #ident {
                fn serialize<__S: #serde::Serializer>(
                    &self,
                    __serializer: __S,
                ) -> ::core::result::Result<__S::Ok, __S::Error> {
                    #write
                }
            }
            #[allow(deprecated)]
            #[automatically_derived]
            impl<'__de> #serde::Deserialize<'__de> for #ident {
                fn deserialize<__D: #serde::Deserializer<'__de>>(
                    __deserializer: __D,
                ) -> ::core::result::Result<Self, __D::Error> {
                    #read
                }
            }
        },
        generated(raw.place),
    )
}

fn routing_key(root: &Root, field: &Member) -> TokenStream {
    // Spanned on the field's name, so that a field that is no key is pointed at.
    let place = field.span();
    let routing_key = moved(quote!(#root::RoutingKey::routing_key), place);
    let key = quote_spanned!(place=> #routing_key(&self.#field));
    quote! {
        fn routing_key(&self) -> ::core::option::Option<#root::__private::Cow<'_, str>> {
            ::core::option::Option::Some(#key)
        }
    }
}
