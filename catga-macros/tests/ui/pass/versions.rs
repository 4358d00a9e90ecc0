//! Older versions of a message, read as the types that they were.

#![forbid(unsafe_code)]
#![deny(warnings, missing_docs, unreachable_pub, unused_qualifications, non_local_definitions)]

use catga::__private::Encoded;
use catga::prelude::*;
use catga::{Bytes, ErrorKind, Message};
use serde::{Deserialize, Serialize};

/// Has no unit.
#[deprecated]
#[derive(Event, Serialize, Deserialize)]
#[message(name = "Weighed")]
pub struct WeighedV1 {
    /// In kilograms.
    pub weight: u32,
}

/// Types of another module, one of them with the name of today's.
pub mod v2 {
    use super::{Deserialize, Event, Serialize};

    /// Has a unit.
    #[allow(deprecated)]
    #[derive(Event, Serialize, Deserialize)]
    #[message(version = 2, upcast_from = super::WeighedV1)]
    pub struct Weighed {
        /// In grams.
        pub grams: u32,
    }

    #[allow(deprecated)]
    impl From<super::WeighedV1> for Weighed {
        fn from(old: super::WeighedV1) -> Self {
            Self { grams: old.weight * 1000 }
        }
    }
}

/// Today's.
#[derive(Debug, Event, PartialEq, Serialize, Deserialize)]
#[message(version = 3, upcast_from = v2::Weighed)]
pub struct Weighed {
    /// In grams.
    pub grams: u64,
    /// Who weighed it; unknown at first.
    pub by: Option<String>,
}

impl From<v2::Weighed> for Weighed {
    fn from(old: v2::Weighed) -> Self {
        Self { grams: old.grams.into(), by: None }
    }
}

/// The handler knows today's type alone.
#[handler]
pub async fn on_weighed(_: &Weighed) {}

#[derive(Request, Serialize, Deserialize)]
#[message(name = "StockOf")]
struct StockOfV1(u32);

// From the first to the third: there never was a second.
#[derive(Request, Serialize, Deserialize)]
#[message(upcast_from = StockOfV1, version = 3)]
#[response(u32)]
struct StockOf(String);

impl From<StockOfV1> for StockOf {
    fn from(old: StockOfV1) -> Self {
        Self(old.0.to_string())
    }
}

macro_rules! versions {
    ($name:literal: $old:ident < $new:ident from $from:ty) => {
        #[derive(Event, Serialize, Deserialize)]
        #[message(name = $name)]
        struct $old;

        #[derive(Event, Serialize, Deserialize)]
        #[message(name = $name, version = 2, upcast_from = $from)]
        struct $new;

        impl From<$old> for $new {
            fn from(_: $old) -> Self {
                Self
            }
        }
    };
}

versions!("macro.made": First < Second from First);

// Names that generated code must not take for its own.
#[allow(unused)]
mod core {}
#[allow(unused)]
struct Result;

fn read<M: Message>(version: u32, json: &str) -> std::result::Result<M, catga::Error> {
    let codecs = Default::default();
    M::from_version(version, &Encoded::new(&codecs, Some("application/json"), &Bytes::copy_from_slice(json.as_bytes())))
}

fn main() {
    #[derive(Event, Serialize, Deserialize)]
    #[message(name = "Inner")]
    struct Older;

    #[derive(Event, Serialize, Deserialize)]
    #[message(upcast_from = Older, version = 2)]
    struct Inner;

    impl From<Older> for Inner {
        fn from(Older: Older) -> Self {
            Self
        }
    }

    #[allow(unused, non_upper_case_globals)]
    const payload: () = ();
    #[allow(unused, non_upper_case_globals)]
    const version: () = ();

    assert!(read::<Inner>(1, "null").is_ok());
    let of = |grams, by: Option<&str>| Weighed { grams, by: by.map(Into::into) };
    assert_eq!(read::<Weighed>(1, r#"{"weight":2}"#).unwrap(), of(2000, None));
    assert_eq!(read::<Weighed>(2, r#"{"grams":7}"#).unwrap(), of(7, None));
    assert_eq!(read::<Weighed>(3, r#"{"grams":7,"by":"me"}"#).unwrap(), of(7, Some("me")));

    let newer = read::<Weighed>(4, r#"{"grams":7}"#).unwrap_err();
    assert_eq!(newer.kind(), ErrorKind::Version);
    assert!(newer.message().contains("up to 3"), "{newer}");
    // Each version is read as what it was, not as what it might pass for.
    let misread = read::<Weighed>(1, r#"{"grams":7}"#).unwrap_err();
    assert_eq!(misread.kind(), ErrorKind::Decode);

    assert_eq!(read::<StockOf>(1, "7").unwrap().0, "7");
    assert_eq!(read::<StockOf>(3, "\"a\"").unwrap().0, "a");
    assert_eq!(read::<StockOf>(2, "7").err().unwrap().kind(), ErrorKind::Version);
    assert!(read::<Second>(1, "null").is_ok());
    assert_eq!(handlers![on_weighed].len(), 1);
}
