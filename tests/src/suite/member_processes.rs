//! Nodes that are processes of their own, and are killed and paused: rows 73, 74, 76, 83 and 94.

use std::collections::BTreeSet;
use std::fs;
use std::time::Duration;

use catga::prelude::{Catga, Result, handlers};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use crate::evidence::{EffectKind, Event, Reply, What};
use crate::harness::{Bus, SOON, scenarios, wait_for_nodes};
use crate::member::{ANSWERING, Look, Made, Make, endpoint};
use crate::party::Party;
use crate::peers::{HEARTBEAT, SWEEP, TIMEOUT};

scenarios! { Backend "member_processes":
    Real killed [73, 74],
    Real they_come_and_go [73, 74, 75],
    Real paused_while_its_successor_lives [76],
    Real killed_with_requests_in_flight [83],
    Real no_door_is_open [94],
}

/// Whether one start of a node sees another, or sees it no more.
fn sees(by: &str, owner: &str) -> impl Fn(&Event) -> bool {
    let (by, owner) = (by.to_owned(), owner.to_owned());
    move |event| matches!(&event.what, What::NodeSeen { by: of, owner: seen, .. } if *of == by && *seen == owner)
}

fn misses(by: &str, node: &str) -> impl Fn(&Event) -> bool {
    let (by, node) = (by.to_owned(), node.to_owned());
    move |event| matches!(&event.what, What::NodeGone { by: of, node: gone } if *of == by && *gone == node)
}

/// Rows 73 and 74: of three processes one is killed: it is gone from the views of the others in time, and its next start is there at
/// once, and sees everybody.
async fn killed(bus: Bus) -> Result<()> {
    let mut party = Party::new(&bus).await?;
    let (a, b) = (
        party.start("a", |_| {}).await?,
        party.start("b", |_| {}).await?,
    );
    let c = party.start("c", |_| {}).await?;
    party.wait_for("the last is seen", sees(&a, &c)).await?;
    party.kill(&b)?;
    let killed = Instant::now();
    let (one, other) = (misses(&a, "b"), misses(&c, "b"));
    let mut left: BTreeSet<_> = ["a", "c"].into();
    party
        .wait_for("it is gone for both", |event| {
            if one(event) {
                left.remove("a");
            }
            if other(event) {
                left.remove("c");
            }
            left.is_empty()
        })
        .await?;
    let took = killed.elapsed();
    assert!(took <= bus.bound(TIMEOUT + SWEEP), "after {took:?}");
    let again = party.start("b", |_| {}).await?;
    party.wait_for("it is back", sees(&a, &again)).await?;
    party.judge()?;
    Ok(())
}

/// Rows 73 to 75: processes start, end, are killed and paused as chance wants, and every view is what it has to be.
async fn they_come_and_go(bus: Bus) -> Result<()> {
    let mut party = Party::new(&bus).await?;
    let mut chance = bus.chance();
    for node in ["a", "b", "c", "d"] {
        party.start(node, |_| {}).await?;
    }
    let node_of = |process: &str| process.split('-').next().unwrap_or_default().to_owned();
    for round in 0..6 {
        let names = party.names();
        let process = names[chance.usize(..names.len())].clone();
        let node = node_of(&process);
        match (round + chance.u32(..2)) % 3 {
            0 => {
                party.kill(&process)?;
                // Its id is free once it has been given up.
                sleep(TIMEOUT + SWEEP + TIMEOUT / 2).await;
                party.start(&node, |_| {}).await?;
            }
            1 => {
                party.terminate(&process)?;
                party.start(&node, |_| {}).await?;
            }
            _ => {
                party.pause(&process)?;
                sleep(TIMEOUT.mul_f64(0.5 + chance.f64())).await;
                party.resume(&process)?;
            }
        }
        sleep(HEARTBEAT).await;
    }
    sleep(TIMEOUT + SWEEP).await;
    let (_, events) = party.judge()?;
    let seen = events
        .iter()
        .filter(|event| matches!(event.what, What::NodeSeen { .. }));
    assert!(seen.count() >= 16, "four that see four");
    Ok(())
}

/// Row 76: a process that stands for three timeouts, and goes on while its successor lives: it is told, and changes nothing.
async fn paused_while_its_successor_lives(bus: Bus) -> Result<()> {
    let mut party = Party::new(&bus).await?;
    let looker = party.start("looker", |_| {}).await?;
    let old = party.start("one", |_| {}).await?;
    party.wait_for("it is seen", sees(&looker, &old)).await?;
    party.pause(&old)?;
    let paused = Instant::now();
    party
        .wait_for("it is given up", misses(&looker, "one"))
        .await?;
    let new = party.start("one", |_| {}).await?;
    party
        .wait_for("its successor is seen", sees(&looker, &new))
        .await?;
    sleep((3 * TIMEOUT).saturating_sub(paused.elapsed())).await;
    let before = party.events()?.len();
    party.resume(&old)?;
    party
        .wait_for(
            "it is told that its id is another's",
            |event| matches!(&event.what, What::NodeLost { owner, .. } if *owner == old),
        )
        .await?;
    sleep(TIMEOUT).await;
    // Its end is nobody else's.
    party.terminate(&old)?;
    sleep(TIMEOUT).await;
    let events = party.events()?;
    let changed = events[before..].iter().find(|event| {
        let old_again = sees(&looker, &old)(event);
        old_again || misses(&looker, "one")(event)
    });
    assert!(
        changed.is_none(),
        "it has power over its successor: {changed:?}"
    );
    party.judge()?;
    Ok(())
}

/// How long a request may take.
const DEADLINE: Duration = Duration::from_secs(8);
/// How many of each kind.
const EACH: u64 = 25;

/// Sends a request that may be sent again, or one that may not, and writes down how that ended.
fn ask(caller: &Catga, party: &Party, id: u64) -> Result<tokio::task::JoinHandle<Result<Ended>>> {
    let again = id < EACH;
    let (caller, evidence) = (caller.clone(), party.evidence.clone());
    let (call, key) = (evidence.fresh(), again.then(|| format!("make {id}")));
    evidence.write(
        id,
        What::RequestSent {
            call,
            key,
            deadline: DEADLINE,
            checksum: 0,
        },
    )?;
    Ok(tokio::spawn(async move {
        let began = Instant::now();
        let result = if again {
            caller.send(Make { id }).await
        } else {
            caller.send(Look { id }).await
        };
        let took = began.elapsed();
        let reply = match &result {
            Ok(made) if made.id == id => Reply::Own,
            Ok(_) => Reply::Foreign,
            Err(_) => Reply::Error,
        };
        evidence.write(id, What::RequestResolved { call, reply })?;
        Ok(Ended { id, result, took })
    }))
}

struct Ended {
    id: u64,
    result: std::result::Result<Made, catga::Error>,
    took: Duration,
}

/// Row 83: a node is killed with 50 requests in flight: those that may be sent again are answered by another, under the same key; the
/// others end as what they are, unknown; each in time.
async fn killed_with_requests_in_flight(bus: Bus) -> Result<()> {
    let mut party = Party::new(&bus).await?;
    let (node, owner) = ("caller".to_owned(), "caller".to_owned());
    let registering = What::NodeRegistering {
        node: node.clone(),
        owner: owner.clone(),
    };
    party.evidence.write((), registering)?;
    let caller = bus
        .node("caller")
        .heartbeat(HEARTBEAT, TIMEOUT)
        .endpoint(endpoint("caller"));
    let caller = caller
        .request_deadline(DEADLINE)
        .handlers(handlers![])
        .start()
        .await?;
    let registered = What::NodeRegistered {
        node: node.clone(),
        owner: owner.clone(),
    };
    party.evidence.write((), registered)?;
    let target = party.start("target", |part| part.stops = true).await?;
    wait_for_nodes(&caller, 2).await;
    let mut calls = JoinSet::new();
    for id in 0..2 * EACH {
        let call = ask(&caller, &party, id)?;
        calls.spawn(async move { call.await? });
    }
    let mut open: BTreeSet<_> = (0..2 * EACH).collect();
    party
        .wait_for("all are in flight", |event| {
            if let (What::Started { .. }, Some(id)) = (&event.what, event.id) {
                open.remove(&id);
            }
            open.is_empty()
        })
        .await?;
    party.start("spare", |_| {}).await?;
    wait_for_nodes(&caller, 3).await;
    // Those that stop after their effect have had it.
    let mut effects = 0;
    let first = party.events()?;
    effects += first
        .iter()
        .filter(|event| matches!(event.what, What::Effect { .. }))
        .count();
    assert_eq!(effects as u64, EACH, "half of them stop after their effect");
    party.kill(&target)?;
    while let Some(ended) = calls.join_next().await {
        let Ended { id, result, took } = ended??;
        assert!(
            took <= DEADLINE + Duration::from_millis(500),
            "request {id} took {took:?}"
        );
        match result {
            Ok(made) if id < EACH => assert_eq!((made.id, made.node.as_str()), (id, "spare")),
            Err(error) if id < EACH => {
                panic!("request {id} may be sent again, and was not: {error:?}")
            }
            Ok(made) => panic!("request {id} was sent again, and may not: {made:?}"),
            Err(error) => assert!(
                error.may_be_stored(),
                "request {id} may have run: {error:?}"
            ),
        }
    }
    wait_for_nodes(&caller, 2).await;
    party.evidence.write((), What::NodeLeft { node, owner })?;
    caller.shutdown_within(SOON).await?;
    let (_, events) = party.judge()?;
    for id in 0..2 * EACH {
        let of_it = || {
            events
                .iter()
                .filter(|event| event.id == Some(id) && event.group.as_deref() == Some(ANSWERING))
        };
        let runs = of_it()
            .filter(|event| matches!(event.what, What::Started { .. }))
            .count();
        let effects = of_it().filter(|event| {
            matches!(
                event.what,
                What::Effect {
                    kind: EffectKind::Keyed,
                    ..
                }
            )
        });
        let effects = effects.count();
        if id < EACH {
            assert_eq!((runs, effects), (2, 1), "request {id}: runs, effects");
        } else {
            assert_eq!(runs, 1, "request {id} ran again");
            assert_eq!(effects as u64, id % 2, "request {id}");
        }
    }
    Ok(())
}

/// The sockets of a process on which others can knock, by what `/proc` says.
fn doors(pid: i32) -> Result<Vec<String>> {
    let mut own = BTreeSet::new();
    for entry in fs::read_dir(format!("/proc/{pid}/fd"))? {
        if let Ok(link) = fs::read_link(entry?.path()) {
            let link = link.display().to_string();
            if let Some(inode) = link.strip_prefix("socket:[") {
                own.insert(inode.trim_end_matches(']').to_owned());
            }
        }
    }
    // Where the state and the inode stand, and what the state is of one that listens.
    let tables = [
        ("tcp", 3, 9, "0A"),
        ("tcp6", 3, 9, "0A"),
        ("udp", 3, 9, "07"),
        ("udp6", 3, 9, "07"),
        ("unix", 3, 6, "00010000"),
    ];
    let mut doors = Vec::new();
    for (table, state, inode, listens) in tables {
        let Ok(lines) = fs::read_to_string(format!("/proc/{pid}/net/{table}")) else {
            continue;
        };
        for line in lines.lines().skip(1) {
            let fields: Vec<_> = line.split_whitespace().collect();
            let is_own = fields.get(inode).is_some_and(|inode| own.contains(*inode));
            if is_own && fields.get(state) == Some(&listens) {
                doors.push(format!("{table}: {line}"));
            }
        }
    }
    Ok(doors)
}

/// Row 94: a node listens nowhere: what it says of itself, and what can be done to it, is for the program that it is a part of.
async fn no_door_is_open(bus: Bus) -> Result<()> {
    let mut party = Party::new(&bus).await?;
    let node = party.start("a", |_| {}).await?;
    let by = Instant::now() + TIMEOUT;
    while Instant::now() < by {
        let open = doors(party.member(&node).id())?;
        assert!(open.is_empty(), "somebody can knock there: {open:?}");
        sleep(HEARTBEAT / 4).await;
    }
    party.terminate(&node)?;
    Ok(())
}
