//! Processes that are killed at any moment, and what the others find.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader, Lines};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, SystemTime};

use catga_core::{DeadLetterFilter, Reason, ReasonKind, Settlement};
use tokio::time::timeout;

use crate::common::*;

/// How this binary is told to be a worker, and where.
const ROLE: &str = "CATGA_FILE_ROLE";
const FOLDER: &str = "CATGA_FILE_FOLDER";

const LEASE: Duration = Duration::from_millis(200);

/// A process that runs until it is killed, at the latest when this is dropped.
struct Worker {
    process: Child,
    said: Lines<BufReader<ChildStdout>>,
}

impl Worker {
    /// Runs this test again, in a process of its own and in a role.
    fn start(test: &str, role: &str, folder: &Path) -> Self {
        let mut process = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "--nocapture", test])
            .env(ROLE, role)
            .env(FOLDER, folder)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let said = BufReader::new(process.stdout.take().unwrap()).lines();
        Self { process, said }
    }

    /// Waits for the next word; lines of others are skipped.
    fn word(&mut self) -> Option<String> {
        let mut lines = self.said.by_ref().map_while(Result::ok);
        lines.find_map(|line| Some(line.strip_prefix("said ")?.to_owned()))
    }

    /// Kills it, and returns what it had said before that was not read yet.
    fn kill(mut self) -> Vec<String> {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
        std::iter::from_fn(|| self.word()).collect()
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The role that this process has, and its folder; none for the test itself.
fn role() -> Option<(String, PathBuf)> {
    Some((std::env::var(ROLE).ok()?, std::env::var_os(FOLDER)?.into()))
}

fn say(word: &str) {
    use std::io::Write;
    // One write for a line, so that a kill leaves none half.
    let line = format!("said {word}\n");
    std::io::stdout().write_all(line.as_bytes()).unwrap();
}

#[tokio::test]
async fn what_a_killed_member_had_comes_to_another() {
    let name = "kills::what_a_killed_member_had_comes_to_another";
    if let Some((_, folder)) = role() {
        let backend = connect(&folder, QUICK).await;
        let mut subscription = subscribe(&backend, &to_group("g").with_ack_wait(LEASE)).await;
        let taken = batch(&mut *subscription).await;
        say(&taken.len().to_string());
        return std::future::pending().await;
    }
    let folder = folder();
    let backend = connect(folder.path(), QUICK).await;
    let mut subscription = subscribe(&backend, &to_group("g")).await;
    for number in 0..20 {
        publish(&backend, &number.to_string()).await.unwrap();
    }
    let mut worker = Worker::start(name, "member", folder.path());
    let taken: usize = worker.word().unwrap().parse().unwrap();
    assert_eq!(taken, 20);
    worker.kill();
    let mut again = Vec::new();
    while again.len() < 20 {
        again.append(&mut batch(&mut *subscription).await);
    }
    assert!(
        again.iter().all(|delivery| delivery.count() == 2),
        "{again:?}"
    );
}

/// A publisher says each message that is stored; a member says each that it handles, and settles in one of many ways.
async fn work(role: &str, folder: &Path) {
    let backend = connect(folder, QUICK).await;
    if let Some(number) = role.strip_prefix("publisher-") {
        for next in 0.. {
            let text = format!("{number}-{next}");
            publish(&backend, &text).await.unwrap();
            say(&text);
        }
    }
    let mut subscription = subscribe(&backend, &to_group("g").with_ack_wait(LEASE)).await;
    let letters = backend.dead_letters.clone().unwrap();
    for turn in 0.. {
        for delivery in batch(&mut *subscription).await {
            let text = text(&delivery).to_owned();
            let settlement = match (turn + delivery.count()) % 5 {
                0 => Settlement::Nak { after: LEASE / 10 },
                1 => Settlement::Release { began: true },
                2 if delivery.generation() == 0 => Settlement::DeadLetter {
                    reason: Reason::new(ReasonKind::Terminal, "by turns"),
                    claim: None,
                },
                _ => Settlement::Ack,
            };
            let handled = matches!(settlement, Settlement::Ack);
            if handled {
                say(&text);
            }
            // The lease may be over on a machine that is busy.
            let _ = delivery.settle(settlement).await;
        }
        let page = letters.list(&DeadLetterFilter::all(), None, 100).await;
        for letter in page.unwrap().letters {
            // Another member may have been quicker.
            let _ = letters.redrive(&letter.id).await;
        }
    }
}

/// Two publishers and two members, one of which is killed every few milliseconds and followed by another.
#[tokio::test]
async fn processes_that_are_killed_at_any_moment_lose_nothing() {
    let name = "kills::processes_that_are_killed_at_any_moment_lose_nothing";
    if let Some((role, folder)) = role() {
        return work(&role, &folder).await;
    }
    let folder = folder();
    let backend = connect(folder.path(), QUICK).await;
    let mut last = subscribe(&backend, &to_group("g")).await;
    let mut handled: BTreeMap<String, u32> = BTreeMap::new();
    let mut stored = Vec::new();
    // So that members are always in the middle of something.
    for number in 0..1000 {
        let text = format!("early-{number}");
        publish(&backend, &text).await.unwrap();
        stored.push(text);
    }
    let mut number = 0;
    let mut start = |role: &str| {
        number += 1;
        let worker = Worker::start(name, &format!("{role}-{number}"), folder.path());
        (role.to_owned(), worker)
    };
    let roles = ["publisher", "member", "publisher", "member"];
    let mut workers = roles.map(&mut start);
    for kills in 0..80 {
        let (role, worker) = &mut workers[kills % 4];
        // At work, and somewhere in the middle of it.
        let first = worker.word().expect("the worker ended by itself");
        std::thread::sleep(Duration::from_micros(kills as u64 * 617 % 10_000));
        let role = role.clone();
        let (_, killed) = std::mem::replace(&mut workers[kills % 4], start(&role));
        let said = std::iter::once(first).chain(killed.kill());
        match &*role {
            "publisher" => stored.extend(said),
            _ => said.for_each(|text| *handled.entry(text).or_default() += 1),
        }
    }
    for (role, worker) in workers {
        match &*role {
            "publisher" => stored.extend(worker.kill()),
            _ => worker
                .kill()
                .into_iter()
                .for_each(|text| *handled.entry(text).or_default() += 1),
        }
    }
    // What is left comes within a lease.
    let letters = backend.dead_letters.unwrap();
    let all = DeadLetterFilter::all();
    loop {
        for letter in letters.list(&all, None, 100_000).await.unwrap().letters {
            letters.redrive(&letter.id).await.unwrap();
        }
        let mut batch = Vec::new();
        if timeout(LEASE * 3, last.recv(1000, &mut batch))
            .await
            .is_err()
        {
            break;
        }
        for delivery in batch {
            *handled.entry(text(&delivery).to_owned()).or_default() += 1;
            delivery.settle(Settlement::Ack).await.unwrap();
        }
    }
    let missing: Vec<_> = stored
        .iter()
        .filter(|text| !handled.contains_key(*text))
        .collect();
    assert!(missing.is_empty(), "lost: {missing:?}");
    assert!(
        letters
            .list(&all, None, 1)
            .await
            .unwrap()
            .letters
            .is_empty()
    );
    let left = files(folder.path(), "topics/orders.shipped/groups/g");
    assert_eq!(left.len(), 1, "only the mark of a complete group: {left:?}");

    // What killed processes left is nobody's after an hour: who connects then sweeps it, and who needs the room
    // drops the rest.
    let long_ago = SystemTime::now() - Duration::from_secs(2 * 3600);
    for draft in files(folder.path(), "tmp") {
        File::open(draft).unwrap().set_modified(long_ago).unwrap();
    }
    for reason in files(folder.path(), "topics/orders.shipped/groups/g/dead") {
        File::open(reason).unwrap().set_modified(long_ago).unwrap();
    }
    let full = connect(folder.path(), "sync=false&max_messages=1").await;
    publish(&full, "one more").await.unwrap();
    assert_eq!(
        files(folder.path(), "topics/orders.shipped/messages").len(),
        1
    );
    for swept in ["tmp", "topics/orders.shipped/groups/g/dead"] {
        let left = files(folder.path(), swept);
        assert!(left.is_empty(), "{swept}: {left:?}");
    }
}
