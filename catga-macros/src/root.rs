//! Where generated code finds the facade.

use proc_macro_crate::{FoundCrate, crate_name};
use proc_macro2::{Span, TokenStream};
use quote::{ToTokens, quote};
use syn::{Ident, Path};

/// The path of the facade: as given, else by the name that the user's `Cargo.toml` has for it.
///
/// `::catga` serves the facade itself too, which names itself so, and a crate that gets it by other means.
pub(crate) fn root(given: Option<&Path>) -> TokenStream {
    if let Some(path) = given {
        return path.to_token_stream();
    }
    let name = match crate_name("catga") {
        Ok(FoundCrate::Name(name)) => Ident::new(&name, Span::call_site()),
        Ok(FoundCrate::Itself) | Err(_) => Ident::new("catga", Span::call_site()),
    };
    quote!(::#name)
}
