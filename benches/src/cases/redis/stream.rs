//! At least once over Streams: appending until stored, consuming until acknowledged, and both at once.

use futures_util::{StreamExt, stream};
use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Pipeline, Value, cmd, pipe};

use super::{Entry, connect, connect_with, entries};
use crate::bench::{Bench, Measured, two_cores};
use crate::case::{Case, Needs, Terms};
use crate::cases::work::{RAW_PAYLOAD, number, payload};
use crate::latency::Tally;
use crate::pace;

const PIPELINE: u64 = 100;

async fn append(connection: &mut MultiplexedConnection, i: u64, size: usize) {
    let mut command = cmd("XADD");
    command
        .arg("orders")
        .arg("*")
        .arg("p")
        .arg(&payload(i, size)[..]);
    let id: String = command.query_async(connection).await.expect("stored");
    assert!(id.contains('-'), "an id: {id}");
}

/// One command for each, so many at once from one task.
async fn append_all(
    connection: &MultiplexedConnection,
    tally: &Tally,
    count: u64,
    at_once: usize,
    size: usize,
) {
    let each = stream::iter(0..count).map(|i| {
        let mut connection = connection.clone();
        async move {
            tally.sent(i);
            append(&mut connection, i, size).await;
            i
        }
    });
    each.buffer_unordered(at_once)
        .for_each(|i| {
            tally.one(i);
            std::future::ready(())
        })
        .await;
}

async fn append_in_pipelines(
    connection: &mut MultiplexedConnection,
    count: u64,
    tally: Option<&Tally>,
) {
    for first in (0..count).step_by(PIPELINE as usize) {
        let numbers = first..(first + PIPELINE).min(count);
        let mut pipeline = pipe();
        for i in numbers.clone() {
            if let Some(tally) = tally {
                tally.sent(i);
            }
            pipeline
                .cmd("XADD")
                .arg("orders")
                .arg("*")
                .arg("p")
                .arg(&payload(i, 100)[..]);
        }
        let ids: Vec<String> = pipeline.query_async(connection).await.expect("stored");
        assert_eq!(ids.len() as u64, numbers.end - numbers.start, "stored");
        if let Some(tally) = tally {
            numbers.for_each(|i| tally.one(i));
        }
    }
}

fn add(bench: Bench, at_once: usize, size: usize, config: AsyncConnectionConfig) -> Measured {
    two_cores(async move {
        let mut connection = connect_with(&bench.url, config).await;
        let tally = bench.tally(1);
        let clock = bench.begin();
        append_all(&connection, &tally, bench.operations, at_once, size).await;
        let measured = clock.end_with(&tally);
        let length = cmd("XLEN").arg("orders").query_async(&mut connection).await;
        assert_eq!(length, Ok(bench.operations), "stored");
        measured
    })
}

fn add_in_pipelines(bench: Bench) -> Measured {
    two_cores(async move {
        let mut connection = connect(&bench.url).await;
        let tally = bench.tally(1);
        let clock = bench.begin();
        append_in_pipelines(&mut connection, bench.operations, Some(&tally)).await;
        clock.end_with(&tally)
    })
}

async fn group(connection: &mut MultiplexedConnection) {
    let mut command = cmd("XGROUP");
    command
        .arg("CREATE")
        .arg("orders")
        .arg("billing")
        .arg("0")
        .arg("MKSTREAM");
    let created = command.query_async::<()>(connection).await;
    created.expect("created");
}

async fn read(connection: &mut MultiplexedConnection, no_ack: bool) -> Vec<Entry> {
    let mut command = cmd("XREADGROUP");
    command
        .arg("GROUP")
        .arg("billing")
        .arg("node")
        .arg("COUNT")
        .arg(100);
    command.arg("BLOCK").arg(1000);
    if no_ack {
        command.arg("NOACK");
    }
    command.arg("STREAMS").arg("orders").arg(">");
    let reply: Value = command.query_async(connection).await.expect("connected");
    entries(reply)
}

/// How what was read is acknowledged.
#[derive(Clone, Copy, PartialEq)]
enum Ack {
    Never,
    /// One `XACK` with all ids of the batch.
    Batch,
    /// The same, while the next batch is read.
    BatchOverlapping,
    /// A pipeline with an `XACK` for each.
    Pipeline,
    /// Each awaited.
    Each,
}

async fn acknowledge(mut connection: MultiplexedConnection, ids: Vec<Vec<u8>>) {
    let mut command = cmd("XACK");
    command.arg("orders").arg("billing").arg(&ids);
    let count = command.query_async(&mut connection).await;
    assert_eq!(count, Ok(ids.len()), "acknowledged");
}

fn consume(bench: Bench, ack: Ack) -> Measured {
    two_cores(async move {
        let mut connection = connect(&bench.url).await;
        append_in_pipelines(&mut connection, bench.operations, None).await;
        group(&mut connection).await;
        let mut reader = connect(&bench.url).await;
        let tally = bench.tally(1);
        let clock = bench.begin();
        let mut received = 0;
        let mut outstanding = None;
        while received < bench.operations {
            let batch = read(&mut reader, ack == Ack::Never).await;
            received += batch.len() as u64;
            batch
                .iter()
                .for_each(|entry| tally.one(number(&entry.payload)));
            let ids: Vec<_> = batch.into_iter().map(|entry| entry.id).collect();
            match ack {
                Ack::Never => {}
                Ack::Batch => acknowledge(connection.clone(), ids).await,
                Ack::BatchOverlapping => {
                    let next = tokio::spawn(acknowledge(connection.clone(), ids));
                    if let Some(last) = outstanding.replace(next) {
                        last.await.expect("acknowledged");
                    }
                }
                Ack::Pipeline => {
                    let mut pipeline = Pipeline::with_capacity(ids.len());
                    for id in &ids {
                        pipeline.cmd("XACK").arg("orders").arg("billing").arg(id);
                    }
                    let counts = pipeline.query_async(&mut connection).await;
                    assert_eq!(counts, Ok(vec![1; ids.len()]), "acknowledged");
                }
                Ack::Each => {
                    for id in ids {
                        acknowledge(connection.clone(), vec![id]).await;
                    }
                }
            }
        }
        if let Some(last) = outstanding {
            last.await.expect("acknowledged");
        }
        let measured = clock.end_with(&tally);
        nothing_pending(&mut connection).await;
        measured
    })
}

async fn nothing_pending(connection: &mut MultiplexedConnection) {
    let mut command = cmd("XPENDING");
    command.arg("orders").arg("billing");
    let pending: Vec<Value> = command.query_async(connection).await.expect("an answer");
    assert_eq!(pending.first(), Some(&Value::Int(0)), "all acknowledged");
}

/// One connection appends, another reads, a third acknowledges.
fn end_to_end(bench: Bench, size: usize, rate: Option<f64>) -> Measured {
    two_cores(async move {
        let writer = connect(&bench.url).await;
        let mut acks = connect(&bench.url).await;
        // What a rehearsal left on this server.
        let emptied = cmd("DEL").arg("orders").query_async::<u64>(&mut acks).await;
        emptied.expect("connected");
        group(&mut acks).await;
        let mut reader = connect(&bench.url).await;
        let (tally, count) = (bench.tally(1), bench.operations);
        let (counter, acknowledger) = (tally.clone(), acks.clone());
        let consumer = tokio::spawn(async move {
            let mut received = 0;
            while received < count {
                let batch = read(&mut reader, false).await;
                received += batch.len() as u64;
                batch
                    .iter()
                    .for_each(|entry| counter.one(number(&entry.payload)));
                let ids: Vec<_> = batch.into_iter().map(|entry| entry.id).collect();
                if !ids.is_empty() {
                    acknowledge(acknowledger.clone(), ids).await;
                }
            }
        });
        let clock = bench.begin();
        let each = pace::numbers(count, rate).map(|i| {
            let (mut connection, tally) = (writer.clone(), &tally);
            async move {
                tally.sent(i);
                append(&mut connection, i, size).await;
            }
        });
        each.buffer_unordered(256).for_each(|()| async {}).await;
        consumer.await.expect("all consumed");
        let measured = clock.end_with(&tally);
        nothing_pending(&mut acks).await;
        measured
    })
}

/// What the loop by hand reaches, in messages a second.
pub(super) fn rate(bench: &Bench) -> f64 {
    let measured = end_to_end(bench.rehearsal(100_000), 100, None);
    measured.operations as f64 / measured.wall.as_secs_f64()
}

pub fn cases() -> Vec<Case> {
    const MANY: u64 = 200_000;
    const MEMORY: &str = "the server's memory";
    const LARGE: &str = "512 B, a number first";
    const ADD: Terms =
        Terms::new("at least once", MEMORY, "the reply to each").payload(RAW_PAYLOAD);
    const READ: Terms = Terms::new("at least once", MEMORY, "one XACK for each batch")
        .payload(RAW_PAYLOAD)
        .settings("batches of 100");
    let adding = |name, does, operations, run| {
        Case::new(name, does, operations, run)
            .terms(ADD.settings("256 in flight on one connection"))
            .needs(Needs::Redis)
            .with_latency()
    };
    let reading = |name, does, operations, run| {
        Case::new(name, does, operations, run)
            .terms(READ)
            .needs(Needs::Redis)
    };
    vec![
        adding(
            "redis/add/alone",
            "XADD, one after the other",
            20_000,
            |bench| add(bench, 1, 100, AsyncConnectionConfig::new()),
        )
        .settings(""),
        adding("redis/add/256", "XADD, one command each", MANY, |bench| {
            add(bench, 256, 100, AsyncConnectionConfig::new())
        }),
        adding(
            "redis/add/256-buffers",
            "the same with larger client buffers",
            MANY,
            |bench| {
                let config = AsyncConnectionConfig::new()
                    .set_pipeline_buffer_size(1024)
                    .set_write_backpressure_boundary(64 * 1024);
                add(bench, 256, 100, config)
            },
        )
        .against("redis/add/256"),
        adding(
            "redis/add/256-512",
            "the same with 512 bytes",
            MANY,
            |bench| add(bench, 256, 512, AsyncConnectionConfig::new()),
        )
        .terms(
            ADD.payload(LARGE)
                .settings("256 in flight on one connection"),
        )
        .against("redis/add/256"),
        adding(
            "redis/add/256-aof",
            "the same with an append-only file",
            MANY,
            |bench| add(bench, 256, 100, AsyncConnectionConfig::new()),
        )
        .terms(
            Terms::new(
                "at least once",
                "file, synced every second",
                "the reply to each",
            )
            .payload(RAW_PAYLOAD)
            .settings("256 in flight on one connection"),
        )
        .needs(Needs::RedisOnFile)
        .against("redis/add/256"),
        adding(
            "redis/add/pipelines",
            "XADD in pipelines",
            MANY,
            add_in_pipelines,
        )
        .settings("pipelines of 100")
        .against("redis/add/256"),
        reading(
            "redis/consume/batch",
            "XREADGROUP, one XACK for each batch",
            MANY,
            |bench| consume(bench, Ack::Batch),
        ),
        reading(
            "redis/consume/overlap",
            "the same, read on while it is acknowledged",
            MANY,
            |bench| consume(bench, Ack::BatchOverlapping),
        )
        .against("redis/consume/batch"),
        reading(
            "redis/consume/pipeline",
            "a pipeline with an XACK for each",
            MANY,
            |bench| consume(bench, Ack::Pipeline),
        )
        .against("redis/consume/batch"),
        reading(
            "redis/consume/each",
            "an XACK for each, awaited",
            MANY / 4,
            |bench| consume(bench, Ack::Each),
        )
        .terms(
            Terms::new("at least once", MEMORY, "each, awaited")
                .payload(RAW_PAYLOAD)
                .settings("batches of 100"),
        )
        .against("redis/consume/batch"),
        reading("redis/consume/no-ack", "XREADGROUP NOACK", MANY, |bench| {
            consume(bench, Ack::Never)
        })
        .terms(
            Terms::new("at most once", MEMORY, "none")
                .payload(RAW_PAYLOAD)
                .settings("batches of 100"),
        )
        .against("redis/consume/batch"),
        reading(
            "redis/end-to-end",
            "XADD, XREADGROUP and XACK, at once",
            MANY,
            |bench| end_to_end(bench, 100, None),
        )
        .settings("256 in flight; batches of 100")
        .with_latency(),
        reading(
            "redis/end-to-end/512",
            "the same with 512 bytes",
            MANY,
            |bench| end_to_end(bench, 512, None),
        )
        .terms(READ.payload(LARGE))
        .settings("256 in flight; batches of 100")
        .against("redis/end-to-end"),
        reading(
            "redis/end-to-end/half",
            "the same at half of what that reaches",
            MANY / 2,
            |bench| {
                let half = rate(&bench) / 2.0;
                end_to_end(bench, 100, Some(half))
            },
        )
        .settings("half of the rate of `redis/end-to-end`, found out first")
        .with_latency()
        .against("redis/end-to-end"),
    ]
}
