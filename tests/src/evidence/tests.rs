//! Evidence survives its writers.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use tempfile::TempDir;

use super::{EffectKind, Event, Evidence, Follower, Outcome, Reply, What, checksum, read};

/// Tells the test binary that it is a worker, and where to write.
const WORKER: &str = "CATGA_TESTKIT_EVIDENCE_WORKER";
const SOON: Duration = Duration::from_secs(30);

fn place() -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("run.jsonl");
    (folder, path)
}

fn killed(process: &str) -> What {
    What::Killed {
        process: process.to_owned(),
    }
}

fn add(path: &PathBuf, text: &str) {
    let mut file = fs::OpenOptions::new().append(true).open(path).unwrap();
    file.write_all(text.as_bytes()).unwrap();
}

#[test]
fn what_is_written_is_read() {
    let (_folder, path) = place();
    let evidence = Evidence::create(&path, "parent \"1\"").unwrap();
    let text = "a line\nand {\"at\":1,\"process\":\"no line\"}".to_owned();
    let deadline = Duration::from_micros(1_500);
    let all = [
        What::Text { text },
        What::ShutdownCalled { deadline },
        What::Memory { bytes: u64::MAX },
        What::Effect {
            run: None,
            kind: EffectKind::Committed,
        },
        What::RequestResolved {
            call: 1,
            reply: Reply::Foreign,
        },
        What::Published {
            call: u64::MAX,
            outcome: Outcome::Unknown,
        },
    ];
    for what in &all {
        evidence.write(("billing", u64::MAX), what.clone()).unwrap();
    }
    let events = read(&path).unwrap();
    assert_eq!(
        events
            .iter()
            .map(|event| event.what.clone())
            .collect::<Vec<_>>(),
        all
    );
    for event in events {
        assert_eq!(event.process, "parent \"1\"");
        assert_eq!(
            (event.group.as_deref(), event.id),
            (Some("billing"), Some(u64::MAX))
        );
        assert!(event.at > 1_700_000_000_000_000);
    }
}

#[test]
fn a_run_begins_in_a_new_file_and_workers_open_it() {
    let (_folder, path) = place();
    assert!(Evidence::open(&path, "worker").is_err());
    let evidence = Evidence::create(&path, "parent").unwrap();
    assert!(Evidence::create(&path, "parent").is_err());
    let worker = Evidence::open(&path, "worker").unwrap();
    evidence.write((), What::Memory { bytes: 1 }).unwrap();
    worker.write("g", What::GroupCreated).unwrap();
    evidence.named("other").write(3, What::Acked).unwrap();
    let who: Vec<_> = read(&path)
        .unwrap()
        .into_iter()
        .map(|event| event.process)
        .collect();
    assert_eq!(who, ["parent", "worker", "other"]);
}

#[test]
fn lines_of_many_threads_and_descriptors_stay_whole() {
    let (_folder, path) = place();
    Evidence::create(&path, "parent").unwrap();
    thread::scope(|scope| {
        for number in 0..8 {
            let path = &path;
            scope.spawn(move || {
                let evidence = Evidence::open(path, &format!("p{number}")).unwrap();
                for id in 0..500 {
                    let text = "x".repeat(usize::try_from(id).unwrap() % 97 * 40);
                    evidence.write(id, What::Text { text }).unwrap();
                }
            });
        }
    });
    let mut ids: BTreeMap<String, Vec<u64>> = BTreeMap::new();
    for event in read(&path).unwrap() {
        ids.entry(event.process).or_default().extend(event.id);
    }
    assert_eq!(ids.len(), 8);
    for of_process in ids.into_values() {
        assert_eq!(of_process, (0..500).collect::<Vec<_>>());
    }
}

#[test]
fn numbers_are_fresh_in_every_thread() {
    let (_folder, path) = place();
    let evidence = Evidence::create(&path, "parent").unwrap();
    let count = || (0..1_000).map(|_| evidence.fresh()).collect::<Vec<_>>();
    let mut all: Vec<u64> = thread::scope(|scope| {
        let threads: Vec<_> = (0..4).map(|_| scope.spawn(count)).collect();
        threads
            .into_iter()
            .flat_map(|thread| thread.join().unwrap())
            .collect()
    });
    all.sort_unstable();
    all.dedup();
    assert_eq!(all.len(), 4_000);
}

/// A process of its own, which is this test again, writes without end from three threads and is killed.
#[tokio::test]
async fn a_kill_erases_nothing() {
    if let Ok(path) = std::env::var(WORKER) {
        write_without_end(&Evidence::open(path, "worker").unwrap());
    }
    let (_folder, path) = place();
    let evidence = Evidence::create(&path, "parent").unwrap();
    let mut follower = Follower::open(&path).unwrap();
    for round in 0..5 {
        let mut worker = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "evidence::tests::a_kill_erases_nothing"])
            .env(WORKER, &path)
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let pid = u64::from(worker.id());
        let (mut count, mut writers) = (0, BTreeSet::new());
        let last = follower.wait_for("the worker writes", SOON, |event| {
            if event.process == "worker" && event.id.map(|id| id / 10) == Some(pid) {
                count += 1;
                writers.insert(event.id);
            }
            count > 300 && writers.len() == 3
        });
        let last = last.await.unwrap();
        worker.kill().unwrap();
        worker.wait().unwrap();
        evidence.write((), killed("worker")).unwrap();
        let events = read(&path).unwrap();
        assert!(
            events.contains(&last),
            "round {round}: what was seen is there"
        );
        assert_no_gaps(&events);
        follower
            .wait_for("the kill", SOON, |event| event.what == killed("worker"))
            .await
            .unwrap();
    }
}

fn write_without_end(evidence: &Evidence) -> ! {
    thread::scope(|scope| {
        for writer in 0..3 {
            scope.spawn(move || {
                // Parent and test outlive a worker by far: this is for a parent that was killed itself.
                for bytes in 0..3_000_000 {
                    let about = evidence.named("worker");
                    about
                        .write(
                            u64::from(std::process::id()) * 10 + writer,
                            What::Memory { bytes },
                        )
                        .unwrap();
                }
            });
        }
    });
    panic!("nobody killed the worker");
}

/// Every thread of every worker counts from nothing.
fn assert_no_gaps(events: &[Event]) {
    let mut counts: BTreeMap<u64, Vec<u64>> = BTreeMap::new();
    for event in events {
        if let (Some(id), What::Memory { bytes }) = (event.id, &event.what) {
            counts.entry(id).or_default().push(*bytes);
        }
    }
    for mut of_thread in counts.into_values() {
        // Two threads may be interrupted between the look at the clock and the write.
        of_thread.sort_unstable();
        let expected: Vec<u64> = (0..).take(of_thread.len()).collect();
        assert_eq!(of_thread, expected);
    }
}

#[test]
fn the_torn_line_of_a_killed_process_is_left_out() {
    let (_folder, path) = place();
    let evidence = Evidence::create(&path, "parent").unwrap();
    let worker = evidence.named("worker");
    worker.write(1, What::Acked).unwrap();
    for torn in [
        "{\"at\":17,\"process\":\"worker\",\"id\":4,\"wh",
        "{\"at\":17,\"pro",
        "{",
    ] {
        add(&path, torn);
        evidence.write((), killed("worker")).unwrap();
        evidence
            .write(
                (),
                What::Restarted {
                    process: "worker".to_owned(),
                },
            )
            .unwrap();
        worker.write(2, What::Acked).unwrap();
    }
    let acked = read(&path).unwrap();
    let acked = acked.iter().filter(|event| event.what == What::Acked);
    assert_eq!(acked.count(), 4);
}

#[test]
fn the_torn_line_of_a_process_that_lives_is_reported() {
    let (_folder, path) = place();
    let evidence = Evidence::create(&path, "parent").unwrap();
    let worker = evidence.named("worker");
    add(&path, "{\"at\":17,\"process\":\"worker\",\"id\":4,\"wh");
    worker.write(2, What::Acked).unwrap();
    evidence.write((), killed("worker")).unwrap();
    let error = read(&path).unwrap_err().to_string();
    assert!(error.contains("\"id\":4,\"wh"), "{error}");
    assert!(error.contains("not killed there"), "{error}");
}

#[test]
fn a_torn_line_is_not_excused_by_the_kill_of_another() {
    let (_folder, path) = place();
    let evidence = Evidence::create(&path, "parent").unwrap();
    add(&path, "{\"at\":17,\"process\":\"worker\",\"id\":4,\"wh");
    evidence.write((), killed("other")).unwrap();
    assert!(read(&path).is_err());
}

#[test]
fn the_last_line_may_be_torn() {
    let (_folder, path) = place();
    let evidence = Evidence::create(&path, "parent").unwrap();
    evidence.write(1, What::Acked).unwrap();
    add(&path, "{\"at\":17,\"process\":\"worker\"");
    assert_eq!(read(&path).unwrap().len(), 1);
    add(&path, "}\n");
    assert!(read(&path).is_err(), "a whole line that is no event");
}

#[tokio::test]
async fn a_follower_waits_for_what_comes() {
    let (_folder, path) = place();
    let evidence = Evidence::create(&path, "parent").unwrap();
    let mut follower = Follower::open(&path).unwrap();
    for id in 1..=3 {
        evidence.write(id, What::Acked).unwrap();
    }
    let second = follower
        .wait_for("2", SOON, |event| event.id == Some(2))
        .await
        .unwrap();
    assert_eq!(second.id, Some(2));
    // What is behind an event that was waited for is for the next wait.
    let third = follower.wait_for("any", SOON, |_| true).await.unwrap();
    assert_eq!(third.id, Some(3));
    assert_eq!(follower.next_event().unwrap(), None);
    let writer = thread::spawn(move || {
        add(&path, "{\"at\":1,\"process\":\"slow\",\"id\":4,");
        evidence.write(5, What::Acked).unwrap();
        add(&path, "{\"at\":1,\"process\":\"slow\",\"id\":6,");
        add(&path, "\"what\":\"pending\"}\n");
    });
    let next = follower.wait_for("5", SOON, |_| true).await.unwrap();
    assert_eq!(next.id, Some(5), "the torn line before it is no event");
    let next = follower.wait_for("6", SOON, |_| true).await.unwrap();
    assert_eq!((next.id, next.what), (Some(6), What::Pending));
    writer.join().unwrap();
}

#[tokio::test]
async fn a_wait_in_vain_says_for_what() {
    let (_folder, path) = place();
    Evidence::create(&path, "parent")
        .unwrap()
        .write(1, What::Acked)
        .unwrap();
    let mut follower = Follower::open(&path).unwrap();
    let wait = follower.wait_for("message 17", Duration::from_millis(20), |event| {
        event.id == Some(17)
    });
    let error = wait.await.unwrap_err().to_string();
    assert_eq!(
        error,
        "not within 20ms: message 17 (1 events so far, of {\"parent\"})"
    );
}

#[test]
fn a_checksum_tells_every_difference() {
    let sum = |id, headers: &[(&'static str, &'static str)], payload: &[u8]| {
        checksum(id, headers.iter().copied(), payload)
    };
    let one = sum("id", &[("a", "1"), ("b", "2")], b"payload");
    assert_eq!(one, sum("id", &[("b", "2"), ("a", "1")], b"payload"));
    for other in [
        sum("ie", &[("a", "1"), ("b", "2")], b"payload"),
        sum("id", &[("a", "2"), ("b", "1")], b"payload"),
        sum("id", &[("a", "1")], b"payload"),
        sum("id", &[("a", "1"), ("b", "2")], b"payloae"),
        sum("id", &[("a1", ""), ("b", "2")], b"payload"),
        sum("", &[("a", "1"), ("b", "2")], b"idpayload"),
    ] {
        assert_ne!(one, other);
    }
}
