//! Nodes over NATS: requests by core, claimed in a key-value bucket; what may be lost by core, what may not by JetStream.

use async_nats::jetstream::consumer::{AckPolicy, PullConsumer, pull};
use async_nats::jetstream::{self, kv, stream};
use async_nats::{Client, HeaderMap, Message};
use futures_util::StreamExt;
use uuid::Uuid;

use crate::Place;
use crate::shop::{Broker, Created, Order, Request, Shop};

#[derive(Clone)]
pub struct Nats {
    client: Client,
    context: jetstream::Context,
    claims: kv::Store,
    place: Place,
}

impl Nats {
    pub async fn connect(url: &str, place: Place) -> Self {
        let client = async_nats::connect(url).await.expect("the server runs");
        let context = jetstream::new(client.clone());
        let shipped = stream::Config {
            name: "shipped".to_owned(),
            subjects: vec!["bare.shipped".to_owned()],
            ..Default::default()
        };
        let made = context.get_or_create_stream(shipped).await;
        made.expect("the stream is there");
        // By hand: `create_key_value` does not understand the answer of a 2.9 server.
        let claims = stream::Config {
            name: "KV_claims".to_owned(),
            subjects: vec!["$KV.claims.>".to_owned()],
            max_messages_per_subject: 1,
            allow_rollup: true,
            allow_direct: true,
            deny_delete: true,
            discard: stream::DiscardPolicy::New,
            ..Default::default()
        };
        let made = context.get_or_create_stream(claims).await;
        made.expect("the bucket is there");
        let claims = context.get_key_value("claims").await;
        Self {
            claims: claims.expect("the bucket is there"),
            client,
            context,
            place,
        }
    }

    /// Answers requests, and hears events.
    pub async fn serve(&self, shop: &Shop<Self>) {
        let node = self.place.node;
        let requests = self.client.subscribe(format!("bare.orders.{node}")).await;
        let mut requests = requests.expect("subscribed");
        let maker = shop.clone();
        tokio::spawn(async move {
            while let Some(request) = requests.next().await {
                tokio::spawn(answer(maker.clone(), request));
            }
        });
        let created = self.client.subscribe("bare.created").await;
        let mut created = created.expect("subscribed");
        tokio::spawn(async move {
            while let Some(event) = created.next().await {
                let _: Created = read(&event.payload);
            }
        });
        let name = format!("node{node}");
        let shipped = self.context.get_stream("shipped").await;
        let shipped = shipped.expect("it is there");
        let durable = pull::Config {
            durable_name: Some(name.clone()),
            ack_policy: AckPolicy::Explicit,
            ..Default::default()
        };
        let consumer = shipped.get_or_create_consumer(&name, durable).await;
        let consumer: PullConsumer = consumer.expect("a consumer");
        let messages = consumer.messages().await;
        let mut messages = messages.expect("a consumer");
        let book = shop.book.clone();
        tokio::spawn(async move {
            while let Some(message) = messages.next().await {
                let message = message.expect("connected");
                book.enter(read(&message.payload)).await;
                message.ack().await.expect("connected");
            }
        });
        self.client.flush().await.expect("connected");
    }
}

/// Makes an order that another node asks for, once.
async fn answer(shop: Shop<Nats>, message: Message) {
    let request: Request = read(&message.payload);
    let broker = shop.broker.clone();
    let reply = message.reply.expect("a request names its inbox");
    let made = if shop.one_request {
        write(&shop.make(request).await)
    } else {
        let key = request.id.to_string();
        let claim = broker.claims.create(&key, "claimed".into()).await;
        let claim = claim.expect("nobody else has it");
        let made = write(&shop.make(request).await);
        let kept = broker.claims.update(&key, made.clone(), claim).await;
        kept.expect("it is still ours");
        made
    };
    let sent = broker.client.publish(reply, made).await;
    sent.expect("connected");
}

impl Broker for Nats {
    async fn ask(&self, node: usize, request: Request) -> Order {
        let subject = format!("bare.orders.{node}");
        let answer = self.client.request(subject, write(&request)).await;
        read(&answer.expect("an answer").payload)
    }

    async fn created(&self, order_id: Uuid) {
        let event = write(&Created { order_id });
        let sent = self.client.publish("bare.created", event).await;
        sent.expect("connected");
    }

    async fn shipped(&self, order: &Order) {
        let mut headers = HeaderMap::new();
        headers.insert("Nats-Msg-Id", order.id.to_string());
        let sent = self
            .context
            .publish_with_headers("bare.shipped", headers, write(order));
        let stored = sent.await.expect("connected");
        stored.await.expect("stored");
    }
}

fn read<T: serde::de::DeserializeOwned>(payload: &[u8]) -> T {
    serde_json::from_slice(payload).expect("ours")
}

fn write<T: serde::Serialize>(value: &T) -> bytes::Bytes {
    serde_json::to_vec(value).expect("it can be written").into()
}
