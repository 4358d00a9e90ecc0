//! Where generated code finds the facade.

use std::cell::RefCell;
use std::env::var_os;
use std::ffi::OsString;
use std::fs::read_to_string;
use std::path::Path as FilePath;
use std::time::{Duration, Instant};

use proc_macro_crate::{FoundCrate, crate_name};
use proc_macro2::{Span, TokenStream, TokenTree};
use quote::{ToTokens, quote};
use syn::{Ident, Path};

/// A path that is written many times: its tokens one by one, since each stream that is put into another one is a
/// call of the compiler.
#[derive(Clone, Default)]
pub(crate) struct Root(Vec<TokenTree>);

impl Root {
    /// The path of the facade: as given, else by the name that the user's `Cargo.toml` has for it.
    ///
    /// `::catga` serves the facade itself too, which names itself so, and a crate that gets it by other means.
    pub(crate) fn new(given: Option<&Path>) -> Self {
        if let Some(path) = given {
            return Self(path.to_token_stream().into_iter().collect());
        }
        let name = if keeps_its_name() {
            None
        } else {
            crate_name("catga").ok()
        };
        let name = match name {
            Some(FoundCrate::Name(name)) => Ident::new(&name, Span::call_site()),
            Some(FoundCrate::Itself) | None => Ident::new("catga", Span::call_site()),
        };
        Self(quote!(::#name).into_iter().collect())
    }

    /// What generated code alone may call.
    pub(crate) fn private(&self) -> Self {
        let private = quote!(::__private).into_iter();
        Self(self.0.iter().cloned().chain(private).collect())
    }
}

impl ToTokens for Root {
    fn to_tokens(&self, tokens: &mut TokenStream) {
        tokens.extend(self.0.iter().cloned());
    }
}

/// Whether the user's `Cargo.toml` plainly has a dependency `catga`. To parse the file takes longer than all else that
/// the macros do in a crate.
fn keeps_its_name() -> bool {
    /// A language server runs the macros for days, and for many crates.
    const FRESH: Duration = Duration::from_secs(1);
    thread_local! {
        /// What was read of a package, and when.
        static LAST: RefCell<Option<(OsString, Instant, bool)>> = const { RefCell::new(None) };
    }
    let Some(package) = var_os("CARGO_MANIFEST_DIR") else {
        return false;
    };
    LAST.with_borrow_mut(|last| match last {
        Some((of, at, keeps)) if *of == package && at.elapsed() < FRESH => *keeps,
        _ => {
            let manifest = FilePath::new(&package).join("Cargo.toml");
            let keeps = read_to_string(manifest).is_ok_and(|text| names_it(&text));
            *last = Some((package, Instant::now(), keeps));
            keeps
        }
    })
}

/// Whether a manifest has a line that cannot but be a dependency of this name. (`catga = [..]` may be a feature, and a
/// `package` may be another one.)
fn names_it(manifest: &str) -> bool {
    manifest.lines().any(|line| {
        let line = line.trim();
        if line.contains("package") {
            return false;
        }
        let value = line.strip_prefix("catga").map(str::trim_start);
        value.is_some_and(|value| {
            let version = value.strip_prefix('=').map(str::trim_start);
            value.starts_with(".workspace")
                || version.is_some_and(|version| version.starts_with(['"', '{']))
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plain_dependency_is_seen() {
        for line in [
            "catga = \"0.1\"",
            "  catga={ path = \"../catga\" }",
            "catga.workspace = true",
        ] {
            assert!(
                names_it(&format!("[dependencies]\nserde = \"1\"\n{line}")),
                "{line}"
            );
        }
        for line in [
            "bus = { package = \"catga\", version = \"0.1\" }",
            "catga = { package = \"other\", version = \"0.1\" }",
            "catga = [\"dep:bus\"]",
            "catga-core = \"0.1\"",
            "# catga = \"0.1\"",
            "name = \"catga\"",
            "bus.workspace = true",
        ] {
            assert!(!names_it(line), "{line}");
        }
    }
}
