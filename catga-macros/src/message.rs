//! `#[derive(Event)]` and `#[derive(Request)]`: reads the type and its helper attributes, and checks them.

use proc_macro2::{Span, TokenStream};
use quote::{ToTokens, quote};
use syn::ext::IdentExt;
use syn::parse::{ParseStream, Parser};
use syn::{Attribute, Data, DeriveInput, Fields, Ident, Member, Path, Token, Type};

use crate::attr::{Setting, argument, arguments, incomplete, name_of, read_settings, settings};
use crate::check::{instead, name_problem, unknown};
use crate::expand_message;
use crate::mistakes::Mistakes;
use crate::root::Root;

/// What is derived.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    Event,
    Request,
}

/// The delivery guarantee.
#[allow(clippy::enum_variant_names, reason = "the words that users write")]
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Quality {
    AtMostOnce,
    AtLeastOnce,
    ExactlyOnce,
}

/// `#[route_by(field, partitions = 16)]`.
pub(crate) struct Route {
    /// Absent when what was written names no field.
    pub(crate) field: Option<Member>,
    pub(crate) partitions: u16,
}

/// `#[message(codec = "raw")]`.
pub(crate) struct Raw {
    /// Absent when no field can be it.
    pub(crate) field: Option<Member>,
    /// What asks for it.
    pub(crate) place: Span,
}

/// A message as the type and its attributes describe it.
pub(crate) struct Message {
    pub(crate) root: Root,
    pub(crate) ident: Ident,
    pub(crate) role: Role,
    pub(crate) name: String,
    pub(crate) version: u32,
    /// The type that the version before was.
    pub(crate) upcast_from: Option<Path>,
    pub(crate) quality: Quality,
    pub(crate) route: Option<Route>,
    pub(crate) response: Option<Type>,
    pub(crate) idempotent: bool,
    /// The one field of a message that no codec writes.
    pub(crate) raw: Option<Raw>,
}

const HELPERS: &[&str] = &["qos", "message", "route_by", "response", "request", "catga"];

/// Derives `role`: the impls, and what is wrong.
///
/// A type with a mistake gets impls nonetheless, so that nothing else complains that they are missing.
pub(crate) fn derive(role: Role, input: TokenStream) -> TokenStream {
    let input: DeriveInput = match syn::parse2(input) {
        Ok(input) => input,
        Err(error) => return error.to_compile_error(),
    };
    let mut mistakes = Mistakes::default();
    let mut message = read(role, &input, &mut mistakes);
    // Impls of a generic type would need bounds that nobody wrote, and give rise to more errors.
    let supported = check_shape(&input, &mut mistakes);
    check_places(&input, &mut mistakes);
    if !mistakes.is_empty() {
        // It would be held to a name and a version that are not what was meant.
        message.upcast_from = None;
    }
    let impls = supported.then(|| expand_message::expand(&message));
    quote!(#mistakes #impls)
}

fn read(role: Role, input: &DeriveInput, mistakes: &mut Mistakes) -> Message {
    let mut message = Message {
        root: Root::default(),
        ident: input.ident.clone(),
        role,
        name: String::new(),
        version: 1,
        upcast_from: None,
        quality: match role {
            Role::Event => Quality::AtMostOnce,
            Role::Request => Quality::AtLeastOnce,
        },
        route: None,
        response: None,
        idempotent: true,
        raw: None,
    };
    let mut facade = None;
    let mut seen: Vec<String> = Vec::new();
    for attribute in &input.attrs {
        let helper = name_of(attribute);
        if !HELPERS.contains(&helper.as_str()) {
            continue;
        }
        if seen.contains(&helper) {
            mistakes.at(
                attribute.path(),
                format_args!("`#[{helper}]` is given twice"),
            );
            continue;
        }
        match (helper.as_str(), role) {
            ("qos", _) => message.quality = read_quality(attribute, role, mistakes),
            ("message", _) => read_message(attribute, input, &mut message, mistakes),
            ("route_by", _) => message.route = Some(read_route(attribute, input, mistakes)),
            ("catga", _) => facade = read_facade(attribute, mistakes),
            (_, Role::Event) => {
                mistakes.at(
                    attribute.path(),
                    format_args!("`#[{helper}]` belongs on a request: nobody answers an event"),
                );
            }
            ("response", _) => {
                message.response = mistakes.keep(argument(attribute, "#[response(OrderAccepted)]"));
            }
            (_, Role::Request) => message.idempotent = read_idempotent(attribute, mistakes),
        }
        seen.push(helper);
    }
    message.root = Root::new(facade.as_ref());
    if message.name.is_empty() {
        message.name = default_name(&input.ident, mistakes);
    }
    message
}

fn read_quality(attribute: &Attribute, role: Role, mistakes: &mut Mistakes) -> Quality {
    // After a mistake the one that most options of a handler work with.
    const FALLBACK: Quality = Quality::AtLeastOnce;
    let known: &[&str] = match role {
        Role::Event => &["at_most_once", "at_least_once", "exactly_once"],
        Role::Request => &["at_most_once", "at_least_once"],
    };
    let word = |input: ParseStream<'_>| input.call(Ident::parse_any);
    let Some(tokens) = mistakes.keep(arguments(attribute, "#[qos(at_least_once)]")) else {
        return FALLBACK;
    };
    let Ok(word) = word.parse2(tokens.clone()) else {
        let message = unknown("quality", &tokens.to_string(), known);
        mistakes.at(tokens, message);
        return FALLBACK;
    };
    match word.to_string().as_str() {
        "at_most_once" => Quality::AtMostOnce,
        "at_least_once" => Quality::AtLeastOnce,
        "exactly_once" if role == Role::Event => Quality::ExactlyOnce,
        "exactly_once" => {
            mistakes.at(
                word,
                "a request is already idempotent: a retry gets the response that was kept; leave `#[qos]` out, or write `at_least_once`",
            );
            FALLBACK
        }
        other => {
            mistakes.at(&word, unknown("quality", other, known));
            FALLBACK
        }
    }
}

fn read_message(
    attribute: &Attribute,
    input: &DeriveInput,
    message: &mut Message,
    mistakes: &mut Mistakes,
) {
    const EXAMPLE: &str = "#[message(name = \"orders.created\", version = 2)]";
    const KNOWN: &[&str] = &["name", "version", "upcast_from", "codec"];
    let Some(tokens) = mistakes.keep(arguments(attribute, EXAMPLE)) else {
        return;
    };
    let mut version = Some(1);
    let mut upcast = None;
    for setting in settings(tokens, KNOWN, mistakes) {
        if setting.key == "name" {
            // After a mistake any name will do, so that the type's own is not judged beside it.
            message.name = mistakes
                .keep(setting.name("orders.created"))
                .unwrap_or_else(|| "invalid".to_owned());
        } else if setting.key == "version" {
            version = mistakes.keep(setting.whole(1..=u32::MAX, 2));
        } else if setting.key == "codec" {
            message.raw = mistakes.keep(check_codec(&setting)).map(|place| Raw {
                field: mistakes.keep(check_raw(place, input)),
                place,
            });
        } else if let Some(path) = mistakes.keep(setting.path("a type", "OrderShippedV1")) {
            upcast = Some((setting.key.clone(), path.clone()));
        }
    }
    match (version, upcast) {
        (Some(1), Some((key, _))) => mistakes.at(
            key,
            "`upcast_from` names an older version, and none is older than version 1; write the version of this type too, as in `version = 2`",
        ),
        (Some(version), upcast) => {
            message.version = version;
            message.upcast_from = upcast.map(|(_, path)| path);
        }
        // What it would be compared with is wrong already.
        (None, _) => {}
    }
}

/// Where `codec = "raw"` stands: the only codec that a type chooses.
fn check_codec(setting: &Setting) -> syn::Result<Span> {
    let literal = setting.text("a codec in quotes", "raw")?;
    let word = literal.value();
    if word == "raw" {
        return Ok(literal.span());
    }
    let message = format!(
        "unknown codec \"{word}\"; a type chooses `codec = \"raw\"` alone, for a payload that no codec writes: which one writes all others is said by `.codec(..)` on the builder"
    );
    Err(syn::Error::new_spanned(literal, message))
}

/// The one field of a message that is its payload.
fn check_raw(place: Span, input: &DeriveInput) -> syn::Result<Member> {
    let instead = format!("write `struct {}(Bytes);`", input.ident);
    let fields = match &input.data {
        Data::Struct(data) => &data.fields,
        Data::Enum(data) => {
            let message = format!("a raw message is a struct, and not an enum: {instead}");
            return Err(syn::Error::new_spanned(data.enum_token, message));
        }
        // Refused as a whole.
        Data::Union(_) => &Fields::Unit,
    };
    let mut each = fields.iter().zip(fields.members());
    let (Some((field, member)), None) = (each.next(), each.next()) else {
        let message = format!(
            "a raw message has one field, its payload, and `{}` has {}: {instead}, or leave `codec = \"raw\"` out",
            input.ident,
            fields.len()
        );
        return Err(syn::Error::new(place, message));
    };
    let is_bytes = match &field.ty {
        Type::Path(path) => path
            .path
            .segments
            .last()
            .is_some_and(|last| last.ident == "Bytes"),
        _ => false,
    };
    if !is_bytes {
        let message = format!(
            "the payload of a raw message is `catga::Bytes`, which is shared and not copied: {instead}"
        );
        return Err(syn::Error::new_spanned(&field.ty, message));
    }
    Ok(member)
}

fn read_route(attribute: &Attribute, input: &DeriveInput, mistakes: &mut Mistakes) -> Route {
    const EXAMPLE: &str = "#[route_by(order_id, partitions = 16)]";
    let mut route = Route {
        field: None,
        partitions: 16,
    };
    let read = |input: ParseStream<'_>| {
        let field: Member = input.parse()?;
        let comma: Option<Token![,]> = input.parse()?;
        if comma.is_none() && !input.is_empty() {
            return Err(input.error("expected a comma"));
        }
        Ok((field, read_settings(input, &["partitions"], mistakes)))
    };
    let read = arguments(attribute, EXAMPLE).and_then(|tokens| {
        read.parse2(tokens.clone())
            .map_err(|_| incomplete(attribute, EXAMPLE))
    });
    let Some((field, settings)) = mistakes.keep(read) else {
        return route;
    };
    for setting in settings {
        let partitions = mistakes.keep(setting.whole(1..=u32::from(u16::MAX), 16));
        let partitions = partitions.and_then(|partitions| u16::try_from(partitions).ok());
        route.partitions = partitions.unwrap_or(route.partitions);
    }
    route.field = mistakes.keep(check_route(attribute, field, input));
    route
}

/// The field that a message is routed by, if there is such a field.
fn check_route(attribute: &Attribute, field: Member, input: &DeriveInput) -> syn::Result<Member> {
    let fields = match &input.data {
        Data::Struct(data) => &data.fields,
        Data::Enum(_) => {
            let message = "`#[route_by]` needs a struct: it routes by a field that every message of the type has";
            return Err(syn::Error::new_spanned(attribute.path(), message));
        }
        // Refused as a whole.
        Data::Union(_) => return Ok(field),
    };
    if fields.members().any(|member| member == field) {
        return Ok(field);
    }
    let names: Vec<_> = fields
        .members()
        .map(|member| member.to_token_stream().to_string())
        .collect();
    let known: Vec<_> = names.iter().map(String::as_str).collect();
    let word = field.to_token_stream().to_string();
    let message = if known.is_empty() {
        format!("no field `{word}` in `{}`: it has no fields", input.ident)
    } else {
        let instead = instead(&word, &known, "it has");
        format!("no field `{word}` in `{}`{instead}", input.ident)
    };
    Err(syn::Error::new_spanned(field, message))
}

fn read_idempotent(attribute: &Attribute, mistakes: &mut Mistakes) -> bool {
    let mut idempotent = true;
    if let Some(tokens) = mistakes.keep(arguments(attribute, "#[request(idempotent = false)]")) {
        for setting in settings(tokens, &["idempotent"], mistakes) {
            idempotent = mistakes.keep(setting.truth()).unwrap_or(idempotent);
        }
    }
    idempotent
}

fn read_facade(attribute: &Attribute, mistakes: &mut Mistakes) -> Option<Path> {
    let tokens = mistakes.keep(arguments(attribute, "#[catga(crate = path::to::catga)]"))?;
    let settings = settings(tokens, &["crate"], mistakes);
    mistakes.keep(settings.first()?.path("a path", "path::to::catga").cloned())
}

fn default_name(ident: &Ident, mistakes: &mut Mistakes) -> String {
    let name = ident.unraw().to_string();
    if let Some(problem) = name_problem(&name) {
        mistakes.at(
            ident,
            format_args!("{problem}; give it one: `#[message(name = \"..\")]`"),
        );
        return "invalid".to_owned();
    }
    name
}

/// Whether impls can be written for a type of this shape.
fn check_shape(input: &DeriveInput, mistakes: &mut Mistakes) -> bool {
    if let Data::Union(data) = &input.data {
        mistakes.at(
            data.union_token,
            "a message is a struct or an enum, not a union",
        );
        return false;
    }
    if !input.generics.params.is_empty() {
        mistakes.at(
            &input.generics.params,
            "a message cannot be generic or borrow: its name on the wire stands for one type that owns its data",
        );
        return false;
    }
    true
}

/// Refuses helper attributes that stand on fields and variants.
fn check_places(input: &DeriveInput, mistakes: &mut Mistakes) {
    let mut refuse = |attributes: &[Attribute], owner: &str, place: &str| {
        for attribute in attributes {
            let helper = name_of(attribute);
            if HELPERS.contains(&helper.as_str()) {
                mistakes.at(
                    attribute.path(),
                    format_args!("`#[{helper}]` belongs on the {owner}, not on a {place}"),
                );
            }
        }
    };
    let mut refuse_fields = |fields: &Fields, owner: &str| {
        for field in fields {
            refuse(&field.attrs, owner, "field");
        }
    };
    match &input.data {
        Data::Struct(data) => refuse_fields(&data.fields, "struct"),
        Data::Enum(data) => {
            for variant in &data.variants {
                refuse_fields(&variant.fields, "enum");
            }
            for variant in &data.variants {
                refuse(&variant.attrs, "enum", "variant");
            }
        }
        Data::Union(_) => {}
    }
}
