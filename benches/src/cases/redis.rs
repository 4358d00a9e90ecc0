//! Redis: what the raw client reaches.

use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Client, Value};

use crate::case::Case;

pub(super) use requests::by_stream_to_one_of;

mod ours;
mod pubsub;
mod requests;
mod stream;

pub fn cases() -> Vec<Case> {
    [
        pubsub::cases(),
        stream::cases(),
        requests::cases(),
        ours::cases(),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// Without the client's limit of 500 ms, which a blocking read outlasts.
async fn connect(url: &str) -> MultiplexedConnection {
    connect_with(url, AsyncConnectionConfig::new()).await
}

async fn connect_with(url: &str, config: AsyncConnectionConfig) -> MultiplexedConnection {
    let client = Client::open(url).expect("a URL of ours");
    let config = config.set_response_timeout(None);
    let connection = client.get_multiplexed_async_connection_with_config(&config);
    connection.await.expect("the server runs")
}

/// An entry of a stream: its id, and the value of its one field.
struct Entry {
    id: Vec<u8>,
    payload: Vec<u8>,
}

/// What `XREADGROUP` says of one stream, without the maps and strings of the client's own type for it.
fn entries(reply: Value) -> Vec<Entry> {
    let Value::Array(streams) = reply else {
        return Vec::new();
    };
    let Some(Value::Array(stream)) = streams.into_iter().next() else {
        return Vec::new();
    };
    let Some(Value::Array(entries)) = stream.into_iter().nth(1) else {
        return Vec::new();
    };
    entries.into_iter().filter_map(entry).collect()
}

fn entry(value: Value) -> Option<Entry> {
    let Value::Array(parts) = value else {
        return None;
    };
    let [Value::BulkString(id), Value::Array(fields)] = <[Value; 2]>::try_from(parts).ok()? else {
        return None;
    };
    let [_, Value::BulkString(payload)] = <[Value; 2]>::try_from(fields).ok()? else {
        return None;
    };
    Some(Entry { id, payload })
}
