use super::*;
use catga_core::{Backend, Capability, async_trait};

#[derive(Debug)]
struct Nowhere;

#[async_trait]
impl Driver for Nowhere {
    fn name(&self) -> &'static str {
        "nowhere"
    }
    fn schemes(&self) -> &'static [&'static str] {
        &["nowhere"]
    }
    fn options(&self) -> &'static [&'static str] {
        &["capacity"]
    }
    fn capabilities(&self) -> &'static [Capability] {
        &[]
    }
    async fn connect(&self, _: &BackendUrl, _: &ConnectOptions) -> Result<Backend, Error> {
        Err(Error::new(ErrorKind::Connect, "connect", "nowhere"))
    }
}

fn read(url: &str, env: &[(&str, &str)]) -> (Settings, Vec<String>) {
    let mut problems = Vec::new();
    let get = |key: &str| {
        env.iter()
            .find(|(k, _)| *k == key)
            .map(|(_, v)| (*v).to_owned())
            .ok_or(VarError::NotPresent)
    };
    let url = url.parse().unwrap();
    let mut settings = Settings::read(Some(&url), Some(&Nowhere), &get, &mut problems);
    settings.check(&mut problems);
    settings.service = Name::from_static("test");
    (settings, problems)
}

#[test]
fn the_environment_wins_over_the_url() {
    let (settings, problems) = read(
        "nowhere://?node=a&attempts=7&capacity=1",
        &[("CATGA_NODE", "b")],
    );
    assert!(problems.is_empty(), "{problems:?}");
    assert_eq!(
        (settings.node.unwrap().as_str(), settings.attempts),
        ("b", 7)
    );
}

#[test]
fn every_problem_is_reported_and_an_unknown_option_lists_the_known() {
    let url = "nowhere://?atempts=1&backoff=fast&attempts=0&heartbeat=20s&service=a.b";
    let (_, problems) = read(url, &[("CATGA_NAMESPACE", "x y")]);
    assert_eq!(problems.len(), 6, "{problems:#?}");
    assert!(problems[0].contains("atempts") && problems[0].contains("attempts, backoff, capacity"));
    let error = all_problems(ErrorKind::Config, &problems).to_string();
    assert!(
        error.contains("6 problems:") && error.contains("\n  6. "),
        "{error}"
    );
}

#[test]
fn a_variable_that_is_not_utf_8_is_named_and_not_shown() {
    let mut problems = Vec::new();
    let env = |name: &str| match name {
        "CATGA_NODE" => Err(VarError::NotUnicode("sentinel".into())),
        _ => Err(VarError::NotPresent),
    };
    let settings = Settings::read(None, None, &env, &mut problems);
    assert_eq!(problems, ["environment variable `CATGA_NODE` is not UTF-8"]);
    assert_eq!(settings.node, None);
}

#[test]
fn without_a_driver_unknown_options_are_nobodys_problem() {
    let mut problems = Vec::new();
    let url = "nats://?replicas=3&attempts=many".parse().unwrap();
    let none = |_: &str| Err(VarError::NotPresent);
    Settings::read(Some(&url), None, &none, &mut problems);
    assert_eq!(
        problems,
        ["URL option `attempts=many`: write a whole number"]
    );
}

#[test]
fn no_instant_overflows() {
    let (mut settings, problems) = read(
        "nowhere://?absence=9000000000years&request_deadline=9000000000years&backoff=1s..9000000000years",
        &[],
    );
    assert!(problems.is_empty(), "{problems:?}");
    settings.ack_wait = Duration::MAX;
    settings.cap();
    assert_eq!(
        (
            settings.absence,
            settings.ack_wait,
            settings.request_deadline
        ),
        (FAR, FAR, Some(FAR))
    );
    assert_eq!(
        settings.backoff,
        Backoff::new(Duration::from_secs(1), FAR).unwrap()
    );
    assert_eq!(settings.heartbeat, Duration::from_secs(10));
}

#[test]
fn options_are_sorted_for_the_message_that_lists_them() {
    assert!(OPTIONS.is_sorted_by_key(|option| option.0));
}
