//! Claiming ids in the inbox. Most ids are new: a plain command claims them, in pipelines, for a third of what a script
//! costs the server. What is there already is judged by a script.

use std::time::Duration;

use catga_core::{Error, Owner};
use redis::{Pipeline, Value};

use crate::server::Server;
use crate::time::millis;
use crate::{error, script, value};

/// A claim that is asked for. The same owner asks again when an answer is lost.
#[derive(Debug)]
pub(crate) struct Ask {
    /// The record.
    pub(crate) key: String,
    pub(crate) owner: Owner,
    pub(crate) generation: u32,
}

/// What the inbox says to it.
#[derive(Debug)]
pub(crate) enum Told {
    Granted {
        generation: u32,
        attempt: u32,
        ran: bool,
    },
    /// Another owner has it, for so long.
    Running { left: Duration },
    /// It was handled, with this answer: body, media type, whether it is an error, whether it was too large to be kept.
    Completed(Vec<Value>),
    /// It was dead-lettered in this generation.
    Dead { generation: u32 },
}

/// Claims ids of one message name for one lease; an answer for each, in order. A record is kept for `keep`.
pub(crate) async fn claim(
    server: &Server,
    asks: &[Ask],
    lease: Duration,
    keep: Duration,
) -> Result<Vec<Told>, Error> {
    let Some(first) = asks.first() else {
        return Ok(Vec::new());
    };
    let mut pipeline = Pipeline::with_capacity(asks.len());
    for ask in asks {
        pipeline.add_command(set_new(ask, lease, keep));
    }
    let by = server.call_deadline();
    let answers = server.pipeline("claim", &first.key, &pipeline, by).await?;
    let mut told = Vec::with_capacity(asks.len());
    for (ask, answer) in asks.iter().zip(answers) {
        let answer = answer.map_err(|error| error::of("claim", &ask.key, &error))?;
        told.push(is_new(ask, &answer));
    }
    let known: Vec<_> = (0..asks.len()).filter(|it| told[*it].is_none()).collect();
    if !known.is_empty() {
        let judged = judge(server, asks, &known, lease, keep).await?;
        for (number, judged) in known.into_iter().zip(judged) {
            told[number] = Some(judged);
        }
    }
    Ok(told.into_iter().flatten().collect())
}

/// The record of a first claim, as `prelude.lua` reads it; written where there is none.
fn set_new(ask: &Ask, lease: Duration, keep: Duration) -> redis::Cmd {
    let (owner, generation) = (ask.owner.as_uuid(), ask.generation);
    let (lease, keep) = (millis(lease), millis(keep));
    let mut set = redis::cmd("SET");
    set.arg(&ask.key)
        .arg(format!("r {owner} {keep} {generation} 1 0"));
    set.arg("NX").arg("PX").arg(keep.saturating_add(lease));
    set
}

fn is_new(ask: &Ask, answer: &Value) -> Option<Told> {
    matches!(answer, Value::Okay).then_some(Told::Granted {
        generation: ask.generation,
        attempt: 1,
        ran: false,
    })
}

/// Asks of those that are there already, which the script may grant all the same.
async fn judge(
    server: &Server,
    asks: &[Ask],
    known: &[usize],
    lease: Duration,
    keep: Duration,
) -> Result<Vec<Told>, Error> {
    let mut call = script::CLAIM.call(known.len());
    script::args(&mut call, known.iter().map(|number| &asks[*number].key));
    call.arg(millis(lease)).arg(millis(keep));
    for number in known {
        let ask = &asks[*number];
        call.arg(ask.owner.as_uuid().to_string())
            .arg(ask.generation);
    }
    let what = &asks[known[0]].key;
    let told = server.run("claim", what, &script::CLAIM, &call).await?;
    let told: Option<Vec<_>> = value::list(told).into_iter().map(read).collect();
    told.filter(|told| told.len() == known.len())
        .ok_or_else(|| error::unreadable("claim", &format!("the inbox record `{what}`")))
}

fn read(told: Value) -> Option<Told> {
    let told = value::list(told);
    let number = |index: usize| told.get(index).map_or(0, value::count);
    let small = |index| u32::try_from(number(index)).unwrap_or(u32::MAX);
    match told.first().and_then(value::int)? {
        0 => Some(Told::Granted {
            generation: small(3),
            attempt: small(1),
            ran: number(2) == 1,
        }),
        1 => Some(Told::Running {
            left: Duration::from_millis(number(1)),
        }),
        2 => Some(Told::Completed(told.into_iter().skip(1).collect())),
        3 => Some(Told::Dead {
            generation: small(1),
        }),
        _ => None,
    }
}
