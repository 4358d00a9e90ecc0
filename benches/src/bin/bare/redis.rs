//! Nodes over Redis: requests by a stream for each node and a channel for its answers, claimed by a key; what may be lost by a channel,
//! what may not by a stream with a group for each node.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use futures_util::StreamExt;
use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Client, cmd, pipe};
use tokio::sync::oneshot;
use uuid::Uuid;

use crate::Place;
use crate::shop::{Broker, Created, Order, Request, Shop};

const SHIPPED: &str = "bare:shipped";
const CREATED: &str = "bare:created";
/// How long a claim is held, and an answer kept.
const LEASE_MS: u64 = 30_000;
const KEPT_MS: u64 = 600_000;
const BATCH: usize = 64;

#[derive(Clone)]
pub struct Redis {
    client: Client,
    commands: MultiplexedConnection,
    waiting: Waiting,
    place: Place,
}

/// Who waits for which answer: a lock that is held for a look, as one writes it by hand.
type Waiting = Arc<Mutex<HashMap<Uuid, oneshot::Sender<Order>>>>;

/// An entry of a stream: its id, and its one field.
type Entry = (String, (String, Vec<u8>));

fn requests(node: usize) -> String {
    format!("bare:orders:{node}")
}

fn answers(node: usize) -> String {
    format!("bare:answers:{node}")
}

impl Redis {
    pub async fn connect(url: &str, place: Place) -> Self {
        let client = Client::open(url).expect("a URL of ours");
        Self {
            commands: connect(&client).await,
            client,
            waiting: Arc::default(),
            place,
        }
    }

    async fn group(&self, stream: &str) {
        let mut create = cmd("XGROUP");
        create.arg("CREATE").arg(stream);
        create.arg(format!("node{}", self.place.node));
        create.arg("0").arg("MKSTREAM");
        let mut commands = self.commands.clone();
        let made = create.query_async::<()>(&mut commands).await;
        made.expect("a fresh server");
    }

    /// Answers requests, and hears events and answers.
    pub async fn serve(&self, shop: &Shop<Self>) {
        let node = self.place.node;
        let group = format!("node{node}");
        for stream in [SHIPPED.to_owned(), requests(node)] {
            self.group(&stream).await;
        }
        let (maker, from, name) = (shop.clone(), requests(node), group.clone());
        let mut reader = connect(&self.client).await;
        tokio::spawn(async move {
            loop {
                for (entry, (_, request)) in next(&mut reader, &name, &from).await {
                    tokio::spawn(answer(maker.clone(), from.clone(), entry, request));
                }
            }
        });
        let (book, mut acks) = (shop.book.clone(), self.commands.clone());
        let mut reader = connect(&self.client).await;
        tokio::spawn(async move {
            loop {
                let entries = next(&mut reader, &group, SHIPPED).await;
                let mut ack = cmd("XACK");
                ack.arg(SHIPPED).arg(&group);
                for (entry, (_, order)) in &entries {
                    book.enter(read(order)).await;
                    ack.arg(entry);
                }
                if !entries.is_empty() {
                    let acked = ack.query_async::<usize>(&mut acks).await;
                    assert_eq!(acked.expect("connected"), entries.len(), "acknowledged");
                }
            }
        });
        let mut channels = self.client.get_async_pubsub().await.expect("it runs");
        let (answered, waiting) = (answers(node), Arc::clone(&self.waiting));
        for channel in [CREATED, &answered] {
            channels.subscribe(channel).await.expect("subscribed");
        }
        let mut messages = channels.into_on_message();
        tokio::spawn(async move {
            while let Some(message) = messages.next().await {
                if message.get_channel_name() == CREATED {
                    let _: Created = read(message.get_payload_bytes());
                    continue;
                }
                let order: Order = read(message.get_payload_bytes());
                let waits = waiting
                    .lock()
                    .expect("nobody panics with it")
                    .remove(&order.id);
                // Whoever asked may have gone.
                let _ = waits.map(|waits| waits.send(order));
            }
        });
    }
}

/// Without the client's limit of 500 ms, which a blocking read outlasts.
async fn connect(client: &Client) -> MultiplexedConnection {
    let config = AsyncConnectionConfig::new().set_response_timeout(None);
    let connection = client.get_multiplexed_async_connection_with_config(&config);
    connection.await.expect("the server runs")
}

/// What is new for a group.
async fn next(reader: &mut MultiplexedConnection, group: &str, stream: &str) -> Vec<Entry> {
    let mut read = cmd("XREADGROUP");
    read.arg("GROUP").arg(group).arg("node");
    read.arg("COUNT").arg(BATCH).arg("BLOCK").arg(1000);
    read.arg("STREAMS").arg(stream).arg(">");
    type Streams = Option<Vec<(String, Vec<Entry>)>>;
    let streams: Streams = read.query_async(reader).await.expect("connected");
    let first = streams.unwrap_or_default().into_iter().next();
    first.map_or(Vec::new(), |(_, entries)| entries)
}

/// Makes an order that another node asks for, once.
async fn answer(shop: Shop<Redis>, from: String, entry: String, request: Vec<u8>) {
    let asked: Asked = read(&request);
    let broker = &shop.broker;
    let mut commands = broker.commands.clone();
    let key = format!("bare:claim:{}", asked.request.id);
    if !shop.one_request {
        let mut claim = cmd("SET");
        claim
            .arg(&key)
            .arg("claimed")
            .arg("NX")
            .arg("PX")
            .arg(LEASE_MS);
        let claimed = claim.query_async::<Option<String>>(&mut commands).await;
        assert!(claimed.expect("connected").is_some(), "nobody else has it");
    }
    let made = write(&shop.make(asked.request).await);
    let group = format!("node{}", broker.place.node);
    let mut done = pipe();
    if !shop.one_request {
        done.cmd("SET")
            .arg(&key)
            .arg(&made)
            .arg("PX")
            .arg(KEPT_MS)
            .ignore();
    }
    done.cmd("XACK").arg(&from).arg(&group).arg(&entry).ignore();
    done.cmd("PUBLISH")
        .arg(answers(asked.by))
        .arg(&made)
        .ignore();
    let sent = done.query_async::<()>(&mut commands).await;
    sent.expect("connected");
}

/// A request, and who wants the answer.
#[derive(serde::Serialize, serde::Deserialize)]
struct Asked {
    by: usize,
    request: Request,
}

impl Broker for Redis {
    async fn ask(&self, node: usize, request: Request) -> Order {
        let (answer, answered) = oneshot::channel();
        let waiting = self.waiting.lock();
        waiting
            .expect("nobody panics with it")
            .insert(request.id, answer);
        let asked = Asked {
            by: self.place.node,
            request,
        };
        let mut add = cmd("XADD");
        add.arg(requests(node)).arg("*").arg("d").arg(write(&asked));
        let mut commands = self.commands.clone();
        let added = add.query_async::<String>(&mut commands).await;
        added.expect("stored");
        answered.await.expect("an answer")
    }

    async fn created(&self, order_id: Uuid) {
        let mut publish = cmd("PUBLISH");
        publish.arg(CREATED).arg(write(&Created { order_id }));
        let mut commands = self.commands.clone();
        let sent = publish.query_async::<u64>(&mut commands).await;
        sent.expect("connected");
    }

    async fn shipped(&self, order: &Order) {
        let mut add = cmd("XADD");
        add.arg(SHIPPED).arg("*").arg("d").arg(write(order));
        let mut commands = self.commands.clone();
        let added = add.query_async::<String>(&mut commands).await;
        added.expect("stored");
    }
}

fn read<T: serde::de::DeserializeOwned>(payload: &[u8]) -> T {
    serde_json::from_slice(payload).expect("ours")
}

fn write<T: serde::Serialize>(value: &T) -> Vec<u8> {
    serde_json::to_vec(value).expect("it can be written")
}
