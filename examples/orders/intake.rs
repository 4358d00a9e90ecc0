//! Brings the orders in, on a thread of its own: reading a file blocks.

use std::collections::HashSet;
use std::fs::File;
use std::io::BufReader;

use tokio::sync::mpsc::{Receiver, Sender, channel};
use tokio::task::JoinHandle;

use crate::args::Orders;
use crate::input::{self, Line, Lines};
use crate::messages::CreateOrder;
use crate::progress::Progress;

/// So many orders wait for a sender; then the reader waits.
const AHEAD: usize = 256;

/// Where orders come from, opened.
#[derive(Debug)]
pub(crate) enum Source {
    MadeUp(u64),
    File {
        name: String,
        lines: Lines<BufReader<File>>,
        bytes: u64,
    },
}

/// What came in.
#[derive(Debug, Default)]
pub(crate) struct Intake {
    pub(crate) orders: u64,
    /// Who ordered something.
    pub(crate) customers: HashSet<String>,
    /// Of a file.
    pub(crate) lines: u64,
    pub(crate) blank: u64,
    pub(crate) malformed: u64,
    /// Why reading ended too early.
    pub(crate) problem: Option<String>,
}

impl Source {
    pub(crate) fn open(orders: Orders) -> Result<Self, String> {
        match orders {
            Orders::MadeUp(count) => Ok(Self::MadeUp(count)),
            Orders::File(path) => {
                let (lines, bytes) = input::open(&path)?;
                let name = path.display().to_string();
                Ok(Self::File { name, lines, bytes })
            }
        }
    }

    /// Begins to read; the orders come out of the channel.
    pub(crate) fn read(self, progress: Progress) -> (Receiver<CreateOrder>, JoinHandle<Intake>) {
        let (sender, orders) = channel(AHEAD);
        let reader = tokio::task::spawn_blocking(move || match self {
            Self::MadeUp(count) => make_up(count, &sender),
            Self::File { name, lines, .. } => read_all(&name, lines, &sender, &progress),
        });
        (orders, reader)
    }
}

impl Intake {
    /// Hands an order to who takes it; `false` when nobody does.
    fn hand_on(&mut self, order: CreateOrder, to: &Sender<CreateOrder>) -> bool {
        if !self.customers.contains(&order.customer) {
            self.customers.insert(order.customer.clone());
        }
        if to.blocking_send(order).is_err() {
            self.problem = Some("nobody takes orders any more".to_owned());
            return false;
        }
        self.orders += 1;
        true
    }
}

fn make_up(count: u64, to: &Sender<CreateOrder>) -> Intake {
    let mut intake = Intake::default();
    for number in 1..=count {
        let small = u32::try_from(number % 9_973).expect("it is below 9,973");
        let order = CreateOrder {
            order_id: format!("order-{number:06}"),
            customer: format!("customer-{}", small % 977),
            product_id: format!("SKU-{:04}", small % 251),
            quantity: 1 + small % 5,
            unit_price_cents: 99 + small * 10,
            note: String::new(),
        };
        if !intake.hand_on(order, to) {
            break;
        }
    }
    intake
}

fn read_all(
    name: &str,
    mut lines: Lines<BufReader<File>>,
    to: &Sender<CreateOrder>,
    progress: &Progress,
) -> Intake {
    let mut intake = Intake::default();
    loop {
        match lines.next() {
            Ok(None) => break,
            Ok(Some(Line::Blank)) => intake.blank += 1,
            Ok(Some(Line::Malformed(why))) => {
                intake.malformed += 1;
                progress.say(&format!("{name}:{}: skipped: {why}", lines.number));
            }
            Ok(Some(Line::Order(order))) => {
                if !intake.hand_on(order, to) {
                    break;
                }
            }
            Err(error) => {
                intake.problem = Some(format!(
                    "cannot read {name} after line {}: {error}",
                    lines.number
                ));
                break;
            }
        }
        progress.read(lines.bytes);
    }
    if intake.orders == 0 && intake.problem.is_none() {
        intake.problem = Some(format!("no line of {name} is an order"));
    }
    intake.lines = lines.number;
    intake
}
