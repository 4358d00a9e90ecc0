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

use crate::place::at;

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

    /// The same path, written at a place.
    pub(crate) fn at(&self, place: Span) -> Self {
        Self(
            self.0
                .iter()
                .cloned()
                .map(|token| at(token, place))
                .collect(),
        )
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

/// Whether a manifest has a dependency of this name in one line of its own, and no other one that leads to it: whatever
/// is written in another way is left to the parser.
fn names_it(manifest: &str) -> bool {
    let mut in_dependencies = false;
    let mut found = false;
    for line in manifest.lines().map(str::trim) {
        if line.contains("package") && line.contains("\"catga\"") {
            return false;
        }
        if line.starts_with('[') {
            in_dependencies = is_of_dependencies(line);
        } else if in_dependencies && let Some(value) = line.strip_prefix("catga") {
            let value = value.trim_start();
            let version = value.strip_prefix('=').map(str::trim_start);
            found |= value.starts_with(".workspace")
                || version.is_some_and(|version| {
                    version.starts_with(['"', '{']) && !version.contains("package")
                });
        }
    }
    found
}

/// Whether what stands below a header can be named in the code of the package.
fn is_of_dependencies(header: &str) -> bool {
    let table = header.trim_start_matches('[').split(']').next();
    match table.unwrap_or_default().rsplit_once('.') {
        None => ["[dependencies]", "[dev-dependencies]"].contains(&header),
        // The target may have brackets and dots of its own, in quotes: `[target.'cfg(unix)'.dependencies]`.
        Some((before, "dependencies" | "dev-dependencies")) => before.starts_with("target."),
        Some(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plain_dependency_is_seen() {
        for (header, line) in [
            ("[dependencies]", "catga = \"0.1\""),
            ("[dependencies]", "  catga={ path = \"../catga\" }"),
            ("[dev-dependencies]", "catga.workspace = true"),
            ("[target.'cfg(unix)'.dependencies]", "catga = \"0.1\""),
        ] {
            let manifest = format!("[package]\nname = \"x\"\n\n{header}\nserde = \"1\"\n{line}\n");
            assert!(names_it(&manifest), "{header} {line}");
        }
    }

    #[test]
    fn what_may_be_something_else_is_left_to_the_parser() {
        for (header, line) in [
            (
                "[dependencies]",
                "bus = { package = \"catga\", version = \"0.1\" }",
            ),
            (
                "[dependencies]",
                "catga = { package = \"other\", version = \"0.1\" }",
            ),
            ("[dependencies]", "catga-core = \"0.1\""),
            ("[dependencies]", "# catga = \"0.1\""),
            ("[dependencies]", "bus.workspace = true"),
            ("[dependencies.catga]", "version = \"0.1\""),
            ("[features]", "catga = [\"dep:bus\"]"),
            ("[patch.crates-io]", "catga = { path = \"../catga\" }"),
            ("[workspace.dependencies]", "catga = \"0.1\""),
            ("[build-dependencies]", "catga = \"0.1\""),
            ("[package.metadata.deps]", "catga = \"0.1\""),
            ("[package]", "name = \"catga\""),
        ] {
            assert!(!names_it(&format!("{header}\n{line}\n")), "{header} {line}");
        }
        let patched = "[dependencies]\nbus = { package = \"catga\", version = \"0.1\" }\n\n[patch.crates-io]\ncatga = { path = \"..\" }\n";
        assert!(!names_it(patched));
    }
}
