//! Ordering keys that mean something to a broker: row 90.

use std::collections::BTreeMap;

use catga::prelude::{Context, Event, Result, State, handler, handlers};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};

use crate::harness::{Bus, SOON, scenarios, wait_until};

scenarios! { Backend "hostile_keys":
    Real keys_are_only_keys [90],
}

/// A step of what has a key.
#[derive(Event, Clone, Debug, Serialize, Deserialize)]
#[qos(at_least_once)]
#[route_by(key, partitions = 16)]
struct Keyed {
    key: String,
    step: u32,
}

#[handler(group = "keyed", ordered)]
async fn on_keyed(
    keyed: Keyed,
    _context: Context,
    State(tell): State<UnboundedSender<(String, u32)>>,
) -> Result<()> {
    Ok(tell.send((keyed.key, keyed.step))?)
}

fn hostile() -> Vec<String> {
    let mut keys: Vec<_> = [
        "",
        " ",
        ".",
        "..",
        "*",
        ">",
        "a.*",
        "a.>",
        "a b",
        "a\tb",
        "a\r\nPUB catga.s.0.Keyed 0\r\n",
        "a\0b",
        "a:b",
        "{a}",
        "{a",
        "[a]",
        "a/b",
        "a~b",
        "a=b",
        "$JS.API.>",
        "_INBOX.>",
        "__keyspace@0__:*",
        "\u{e4}",
        "a\u{308}",
        "\u{202e}a",
        "0",
        "00",
        "-1",
    ]
    .map(str::to_owned)
    .into();
    keys.push("k".repeat(300));
    keys
}

/// Row 90: whatever an ordering key is, its messages arrive as they were, each once and in their order, and so do those of all
/// others.
async fn keys_are_only_keys(bus: Bus) -> Result<()> {
    const STEPS: u32 = 5;
    let (tell, mut told) = unbounded_channel();
    let node = bus.node("a").state(tell).handlers(handlers![on_keyed]);
    let node = node.start().await?;
    let keys = hostile();
    for step in 0..STEPS {
        for key in &keys {
            let key = key.clone();
            node.publish(Keyed { key, step }).await?;
        }
    }
    let mut came: BTreeMap<String, Vec<u32>> = BTreeMap::new();
    let mut count = 0;
    wait_until("all have come", SOON, || {
        while let Ok((key, step)) = told.try_recv() {
            came.entry(key).or_default().push(step);
            count += 1;
        }
        count >= keys.len() * STEPS as usize
    })
    .await;
    let steps: Vec<_> = (0..STEPS).collect();
    for key in &keys {
        assert_eq!(came.get(key), Some(&steps), "key {key:?}");
    }
    assert_eq!(came.len(), keys.len(), "keys that nobody used");
    node.shutdown().await?;
    Ok(())
}
