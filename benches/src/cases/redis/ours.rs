//! Ours over Redis, held against the loops by hand.

use catga::prelude::*;
use redis::{Value, cmd};

use super::{connect, stream as by_hand};
use crate::case::{Bar, Case, Needs, Terms};
use crate::cases::ours::requests::{Price, SafePrice, send};
use crate::cases::ours::stored::{consume, end_to_end, paced, publish, publish_many};
use crate::cases::ours::{
    Broker, Frame, Note, OnceFrame, StoredFrame, StoredOrder, events, on_frame,
    on_frame_everywhere, on_note, on_once_frame, on_stored_frame, on_stored_order,
};
use crate::cases::work::RAW_PAYLOAD;

/// As for the loops by hand.
const WINDOW: u64 = 8192;
/// Of twice this, with a block of the server's, nothing is trimmed from a stream that is bounded at 10,000.
const WINDOW_OF_A_GROUP: u64 = 4096;

struct Redis;

impl Broker for Redis {
    async fn stored(url: &str) -> u64 {
        let mut connection = connect(url).await;
        let mut stored = 0;
        for stream in streams(url).await {
            let mut length = cmd("XLEN");
            let length = length.arg(stream).query_async::<u64>(&mut connection);
            stored += length.await.expect("an answer");
        }
        stored
    }

    async fn open(url: &str) -> u64 {
        let mut connection = connect(url).await;
        let mut open = 0;
        for stream in streams(url).await {
            let mut groups = cmd("XINFO");
            groups.arg("GROUPS").arg(stream);
            let groups: Vec<Vec<Value>> =
                groups.query_async(&mut connection).await.expect("groups");
            open += groups.iter().map(|group| left(group)).sum::<u64>();
        }
        open
    }
}

/// What a group has still to read, and to acknowledge.
fn left(group: &[Value]) -> u64 {
    let of = |field: &str| {
        let pair = group
            .chunks(2)
            .find(|pair| matches!(&pair[0], Value::BulkString(name) if name == field.as_bytes()));
        match pair.map(|pair| &pair[1]) {
            Some(Value::Int(number)) => u64::try_from(*number).expect("a count"),
            // Unknown where entries were deleted before they were read.
            other => panic!("no number of {field}: {other:?}"),
        }
    };
    of("pending") + of("lag")
}

/// The streams of messages.
async fn streams(url: &str) -> Vec<String> {
    let mut connection = connect(url).await;
    let (mut cursor, mut streams) = (0, Vec::new());
    loop {
        let mut scan = cmd("SCAN");
        scan.arg(cursor).arg("TYPE").arg("stream");
        let (next, found): (u64, Vec<String>) =
            scan.query_async(&mut connection).await.expect("an answer");
        streams.extend(found);
        if next == 0 {
            return streams;
        }
        cursor = next;
    }
}

pub fn cases() -> Vec<Case> {
    const MANY: u64 = 200_000;
    /// A stream that no group reads keeps 100,000 messages.
    const UNREAD: u64 = 80_000;
    const MEMORY: &str = "the server's memory";
    const LARGE: &str = "512 B, a number first";
    const ORDER: &str = "order, 80 B as JSON";
    const QOS0: Terms = Terms::new("at most once", "nowhere", "none").payload(RAW_PAYLOAD);
    const ADD: Terms = Terms::new("at least once", MEMORY, "the reply to each")
        .payload(RAW_PAYLOAD)
        .settings("256 publishers at once");
    const QOS1: Terms = Terms::new(
        "at least once",
        MEMORY,
        "after its handler, in one XACK with others",
    )
    .payload(RAW_PAYLOAD)
    .settings("256 publishers at once; 256 places");
    const QOS2: Terms = Terms::new("exactly once", MEMORY, "each in one script with its claim")
        .payload(RAW_PAYLOAD)
        .settings("256 publishers at once; 256 places");
    const ANSWER: Terms = Terms::new("at least once", MEMORY, "the answer").payload(RAW_PAYLOAD);
    const ONCE: Terms = Terms::new(
        "at least once, run once",
        "claim and answer in a key",
        "the answer",
    )
    .payload(RAW_PAYLOAD);
    const SEND: &str = "`send` to a handler of another node";
    let case = |name, does, terms, operations, run| {
        Case::new(name, does, operations, run)
            .terms(terms)
            .needs(Needs::Redis)
    };
    vec![
        case(
            "redis/pubsub/ours",
            "publish to a handler of every node",
            QOS0,
            MANY,
            |bench| {
                events::publish::<Frame>(bench, handlers![on_frame_everywhere], 100, WINDOW, None)
            },
        )
        .settings("no group")
        .with_latency()
        .against("redis/pubsub/pipelines")
        .asked(Bar::RatioAtLeast(0.9)),
        case(
            "redis/pubsub/ours-512",
            "publish to a handler of every node",
            QOS0.payload(LARGE),
            MANY,
            |bench| {
                events::publish::<Frame>(bench, handlers![on_frame_everywhere], 512, WINDOW, None)
            },
        )
        .settings("no group")
        .against("redis/pubsub/pipelines-512")
        .asked(Bar::RatioAtLeast(0.9)),
        case(
            "redis/pubsub/ours-group",
            "publish to a handler of a group",
            QOS0,
            MANY,
            |bench| {
                events::publish::<Frame>(bench, handlers![on_frame], 100, WINDOW_OF_A_GROUP, None)
            },
        )
        .settings("by a stream that nobody acknowledges, and PUBLISH beside it")
        .with_latency()
        .against("redis/pubsub/pipelines"),
        case(
            "redis/pubsub/ours-json",
            "publish to a handler of a group",
            QOS0.payload("number and text, 100 B as JSON"),
            MANY,
            |bench| {
                events::publish::<Note>(bench, handlers![on_note], 100, WINDOW_OF_A_GROUP, None)
            },
        )
        .settings("by a stream that nobody acknowledges, and PUBLISH beside it")
        .with_latency()
        .against("redis/pubsub/ours-group"),
        case(
            "redis/add/ours",
            "publish until stored",
            ADD,
            UNREAD,
            |bench| publish::<Redis>(bench, 100),
        )
        .with_latency()
        .against("redis/add/256")
        .asked(Bar::RatioAtLeast(1.0)),
        case(
            "redis/add/ours-512",
            "publish until stored",
            ADD.payload(LARGE),
            UNREAD,
            |bench| publish::<Redis>(bench, 512),
        )
        .against("redis/add/256-512")
        .asked(Bar::RatioAtLeast(1.0)),
        case(
            "redis/add/ours-aof",
            "publish until stored, with an append-only file",
            Terms::new(
                "at least once",
                "file, synced every second",
                "the reply to each",
            )
            .payload(RAW_PAYLOAD)
            .settings("256 publishers at once"),
            UNREAD,
            |bench| publish::<Redis>(bench, 100),
        )
        .needs(Needs::RedisOnFile)
        .against("redis/add/256-aof")
        .asked(Bar::RatioAtLeast(1.0)),
        case(
            "redis/add/ours-batch",
            "`publish_many` of 256 until stored",
            ADD.settings("one call of 256 after the other"),
            UNREAD,
            publish_many::<Redis>,
        )
        .against("redis/add/pipelines")
        .asked(Bar::RatioAtLeast(0.9)),
        case(
            "redis/consume/ours",
            "what is stored, to handler and ack",
            QOS1.settings("256 places; the node is connected before, and paused"),
            UNREAD,
            consume::<Redis>,
        )
        .against("redis/consume/batch")
        .asked(Bar::RatioAtLeast(0.95)),
        case(
            "redis/end-to-end/ours",
            "publish until stored, to handler and ack, at once",
            QOS1,
            MANY,
            |bench| end_to_end::<StoredFrame, Redis>(bench, handlers![on_stored_frame], 100),
        )
        .with_latency()
        .against("redis/end-to-end")
        .asked(Bar::RatioAtLeast(0.9)),
        case(
            "redis/end-to-end/ours-512",
            "publish until stored, to handler and ack, at once",
            QOS1.payload(LARGE),
            MANY,
            |bench| end_to_end::<StoredFrame, Redis>(bench, handlers![on_stored_frame], 512),
        )
        .against("redis/end-to-end/512")
        .asked(Bar::RatioAtLeast(0.9)),
        case(
            "redis/end-to-end/ours-json",
            "publish until stored, to handler and ack, at once",
            QOS1.payload(ORDER),
            MANY,
            |bench| end_to_end::<StoredOrder, Redis>(bench, handlers![on_stored_order], 0),
        )
        .with_latency()
        .against("redis/end-to-end"),
        case(
            "redis/end-to-end/ours-qos2",
            "publish until stored, to completion, at once",
            QOS2,
            MANY / 5,
            |bench| end_to_end::<OnceFrame, Redis>(bench, handlers![on_once_frame], 100),
        )
        .with_latency()
        .against("redis/end-to-end/ours")
        .asked(Bar::RatioAtLeast(0.3)),
        case(
            "redis/end-to-end/ours-half",
            "publish to handler, at half of what the loop by hand reaches",
            QOS1.settings("half of the rate of `redis/end-to-end`, found out first"),
            MANY / 2,
            |bench| {
                let half = by_hand::rate(&bench) / 2.0;
                paced(bench, half)
            },
        )
        .with_latency()
        .against("redis/end-to-end/half")
        .asked(Bar::MedianRatioAtMost(1.3))
        .asked(Bar::P99BeyondAtMost(1e6)),
        case("redis/request/ours-alone", SEND, ANSWER, 10_000, |bench| {
            send::<Price>(bench, 1, 100)
        })
        .with_latency()
        .against("redis/request/stream-alone")
        .asked(Bar::RatioAtLeast(0.9)),
        case(
            "redis/request/ours-64",
            SEND,
            ANSWER.settings("64 in flight"),
            100_000,
            |bench| send::<Price>(bench, 64, 100),
        )
        .with_latency()
        .against("redis/request/stream")
        .asked(Bar::RatioAtLeast(0.9)),
        case(
            "redis/request/ours-64-once",
            SEND,
            ONCE.settings("64 in flight"),
            20_000,
            |bench| send::<SafePrice>(bench, 64, 100),
        )
        .with_latency()
        .against("redis/request/ours-64"),
    ]
}
