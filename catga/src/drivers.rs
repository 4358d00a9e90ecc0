//! Which backend a URL means.

use std::sync::Arc;

use catga_core::{BackendUrl, Driver, Error, ErrorKind};

use crate::settings::all_problems;

/// Backends of our own by scheme, and the feature that brings each.
const FEATURES: &[(&str, &str)] = &[
    ("memory", "memory"),
    ("nats", "nats"),
    ("tls", "nats"),
    ("redis", "redis"),
    ("rediss", "redis"),
];

/// The backends that are compiled in.
pub(crate) fn built_in() -> Vec<Arc<dyn Driver>> {
    vec![
        #[cfg(feature = "memory")]
        Arc::new(catga_memory::MemoryDriver),
        #[cfg(feature = "nats")]
        Arc::new(catga_nats::NatsDriver),
        #[cfg(feature = "redis")]
        Arc::new(catga_redis::RedisDriver),
    ]
}

/// The URL of a text, or the problem with getting one; an empty text is none.
pub(crate) fn read(text: Result<&str, &String>) -> Result<BackendUrl, Error> {
    match text {
        Ok("") => Err(all_problems(ErrorKind::Config, &[
            "no backend was named: add `.connect(\"memory://\")` to the builder, or set CATGA_URL"
                .to_owned(),
        ])),
        Ok(text) => text.parse(),
        Err(problem) => Err(all_problems(ErrorKind::Config, std::slice::from_ref(problem))),
    }
}

/// The driver of a scheme.
pub(crate) fn find(scheme: &str, drivers: &[Arc<dyn Driver>]) -> Result<Arc<dyn Driver>, Error> {
    if let Some(driver) = drivers
        .iter()
        .find(|driver| driver.schemes().contains(&scheme))
    {
        return Ok(Arc::clone(driver));
    }
    let mut known: Vec<_> = drivers
        .iter()
        .flat_map(|driver| driver.schemes())
        .copied()
        .collect();
    known.sort_unstable();
    let known = if known.is_empty() {
        "none".to_owned()
    } else {
        known.join(", ")
    };
    let remedy = match FEATURES.iter().find(|(own, _)| *own == scheme) {
        Some((_, feature)) => format!("enable the feature \"{feature}\" of catga"),
        None => "check the spelling, or add your own with `.driver(..)`".to_owned(),
    };
    Err(Error::new(
        ErrorKind::Config,
        "connect",
        format!("no driver for scheme \"{scheme}\": {remedy} (available: {known})"),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_scheme_lists_the_known() {
        let error = find("natz", &built_in()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Config);
        assert!(
            error.message().contains("no driver for scheme \"natz\""),
            "{error}"
        );
        let mut known: Vec<&str> = Vec::new();
        #[cfg(feature = "memory")]
        known.push("memory");
        #[cfg(feature = "nats")]
        known.extend(["nats", "tls"]);
        #[cfg(feature = "redis")]
        known.extend(["redis", "rediss"]);
        known.sort_unstable();
        let known = match known.join(", ") {
            none if none.is_empty() => "none".to_owned(),
            known => known,
        };
        let part = format!("(available: {known})");
        assert!(error.message().contains(&part), "{error}");
    }

    #[test]
    fn a_scheme_that_is_off_names_its_feature() {
        for (scheme, feature) in FEATURES {
            let error = find(scheme, &[]).unwrap_err();
            let remedy = format!("enable the feature \"{feature}\" of catga (available: none)");
            assert!(error.message().contains(&remedy), "{error}");
        }
    }
}
