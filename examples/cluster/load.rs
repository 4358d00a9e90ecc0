//! `cluster load`: posts orders to the nodes in turn, as a load balancer would, and looks whether one failed or was made twice.

use std::sync::Arc;
use std::time::Duration;

use catga::MessageId;
use serde::Deserialize;
use serde_json::json;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};

use crate::client::{Ask, ask};
use crate::signal;
use crate::verdict::{Answered, Placed, Verdict};

/// How often a request goes round all nodes before its order counts as failed, and the pause between two rounds.
const ROUNDS: usize = 20;
const PAUSE: Duration = Duration::from_millis(250);
/// Of so many orders one is posted again with its key, at another node.
const AGAIN: u64 = 10;

/// What to post.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Load {
    pub(crate) orders: u64,
    pub(crate) per_second: u32,
    pub(crate) at_once: usize,
    /// Write down each answer, for `cluster audit`.
    pub(crate) answers: bool,
    /// `host:port` of each node.
    pub(crate) nodes: Vec<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Accepted {
    order_id: String,
    processed_by: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Shown {
    product_id: String,
    processed_by: String,
}

/// Posts until all orders are made, or the process is asked to end; says whether none failed and none was made twice.
#[tokio::main]
pub(crate) async fn run(load: &Load) -> Result<bool, String> {
    let verdict = post_until(load, signal::asked_to_end()).await?;
    if load.answers {
        for answered in verdict.answers() {
            crate::print(format!("{answered}\n"));
        }
    }
    crate::print(&verdict);
    Ok(verdict.is_good())
}

pub(crate) async fn post_until(
    load: &Load,
    enough: impl Future<Output = Result<(), String>>,
) -> Result<Verdict, String> {
    let began = Instant::now();
    let client = Arc::new(Client {
        run: MessageId::new(),
        nodes: load.nodes.clone(),
    });
    let mut verdict = Verdict::default();
    let mut on_their_way = JoinSet::new();
    let mut clock = interval(Duration::from_secs(1) / load.per_second);
    clock.set_missed_tick_behavior(MissedTickBehavior::Skip);
    tokio::pin!(enough);
    let mut posted = 0;
    while posted < load.orders {
        tokio::select! {
            biased;
            enough = &mut enough => { enough?; break }
            Some(placed) = on_their_way.join_next() => verdict.note(joined(placed)),
            _ = clock.tick(), if on_their_way.len() < load.at_once => {
                let client = Arc::clone(&client);
                on_their_way.spawn(async move { client.place(posted).await });
                posted += 1;
            }
        }
    }
    while let Some(placed) = on_their_way.join_next().await {
        verdict.note(joined(placed));
    }
    verdict.took = began.elapsed();
    for (number, answered) in verdict.orders() {
        verdict.looked_up(client.find(&answered, number).await);
    }
    Ok(verdict)
}

fn joined(
    placed: Result<Result<Placed, String>, tokio::task::JoinError>,
) -> Result<Placed, String> {
    placed.unwrap_or_else(|panic| Err(panic.to_string()))
}

impl From<Accepted> for Answered {
    fn from(accepted: Accepted) -> Self {
        Self {
            id: accepted.order_id,
            by: accepted.processed_by,
        }
    }
}

/// Who posts; each run has products and keys of its own.
struct Client {
    run: MessageId,
    nodes: Vec<String>,
}

impl Client {
    fn product(&self, number: u64) -> String {
        format!("load-{}-{number}", self.run)
    }

    fn node(&self, number: u64, turn: usize) -> &str {
        let nodes = self.nodes.len();
        let first = usize::try_from(number % nodes as u64).expect("there are fewer nodes");
        &self.nodes[(first + turn) % nodes]
    }

    /// Places an order, and some of them once more.
    async fn place(&self, number: u64) -> Result<Placed, String> {
        let began = Instant::now();
        let (accepted, tries) = self.post(number, 0).await?;
        let took = began.elapsed();
        let again = if number.is_multiple_of(AGAIN) {
            Some(self.post(number, 1).await?.0.into())
        } else {
            None
        };
        Ok(Placed {
            number,
            answered: accepted.into(),
            again,
            tries,
            took,
        })
    }

    /// Posts an order to a node, and where that does not answer, with the same key to the next. An answer is final, whatever it says.
    async fn post(&self, number: u64, turn: usize) -> Result<(Accepted, usize), String> {
        let key = self.product(number);
        let body = json!({ "productId": key, "quantity": 1 }).to_string();
        let nodes = self.nodes.len();
        let mut why = String::new();
        for tries in 0..ROUNDS * nodes {
            if tries > 0 && tries % nodes == 0 {
                sleep(PAUSE).await;
            }
            let node = self.node(number, turn + tries);
            let post = Ask::Post {
                path: "/orders",
                key: Some(&key),
                body: &body,
            };
            match ask(node, post).await {
                Ok(answer) if answer.status == 201 => {
                    let accepted = serde_json::from_str(&answer.body);
                    let accepted = accepted.map_err(|error| format!("{node}: {error}"))?;
                    return Ok((accepted, tries + 1));
                }
                Ok(answer) => {
                    let (status, body) = (answer.status, answer.body);
                    return Err(format!("{node} answered {status} to {key}: {body}"));
                }
                Err(error) => why = format!("{node}: {error}"),
            }
        }
        Err(format!("{key} was taken by no node: {why}"))
    }

    /// Looks for an order at another node than the one it was posted to.
    async fn find(&self, order: &Answered, number: u64) -> Result<(), String> {
        let path = format!("/orders/{}", order.id);
        let is_it = |shown: &Shown| {
            shown.product_id == self.product(number) && shown.processed_by == order.by
        };
        let mut why = String::new();
        for turn in 1..=self.nodes.len() {
            let node = self.node(number, turn);
            match ask(node, Ask::Get(&path)).await {
                Ok(answer) if answer.status == 200 => {
                    let shown: Result<Shown, _> = serde_json::from_str(&answer.body);
                    return match shown {
                        Ok(shown) if is_it(&shown) => Ok(()),
                        _ => Err(format!(
                            "{node} has another order at {path} than {} told of: {}",
                            order.by, answer.body
                        )),
                    };
                }
                Ok(answer) => {
                    return Err(format!(
                        "{node} answered {} to {path}: {}",
                        answer.status, answer.body
                    ));
                }
                Err(error) => why = format!("{node}: {error}"),
            }
        }
        Err(format!("{path} was shown by no node: {why}"))
    }
}
