//! Books that are kept outside of the backend, as a shop's database is: what is booked under a key counts once.

use std::collections::HashMap;

use catga::prelude::{HandlerError, Result};
use tokio::sync::{mpsc, oneshot};

use crate::books::Balance;

/// So many payments wait for the clerk; then handlers wait.
const WAITING: usize = 64;

/// Where payments are handed in. One task has the books, so that nobody else touches them.
#[derive(Clone, Debug)]
pub(crate) struct Desk(mpsc::Sender<Job>);

#[derive(Debug)]
enum Job {
    Book {
        key: String,
        account: String,
        cents: u64,
        done: oneshot::Sender<()>,
    },
    Balance(oneshot::Sender<Balance>),
}

impl Desk {
    pub(crate) fn open() -> Self {
        let (desk, jobs) = mpsc::channel(WAITING);
        tokio::spawn(clerk(jobs));
        Self(desk)
    }

    /// Books a payment under its key: again under the same key it changes nothing.
    pub(crate) async fn book(&self, key: String, account: String, cents: u64) -> Result<()> {
        let (done, booked) = oneshot::channel();
        let job = Job::Book {
            key,
            account,
            cents,
            done,
        };
        self.0.send(job).await.map_err(|_| closed())?;
        booked.await.map_err(|_| closed())
    }

    pub(crate) async fn balance(&self) -> Result<Balance> {
        let (tell, told) = oneshot::channel();
        let job = Job::Balance(tell);
        self.0.send(job).await.map_err(|_| closed())?;
        told.await.map_err(|_| closed())
    }
}

fn closed() -> HandlerError {
    HandlerError::retry("the desk is closed")
}

async fn clerk(mut jobs: mpsc::Receiver<Job>) {
    let mut payments = HashMap::new();
    // Whoever asked may have given up meanwhile: the books say the same.
    while let Some(job) = jobs.recv().await {
        match job {
            Job::Book {
                key,
                account,
                cents,
                done,
            } => {
                payments.entry(key).or_insert((account, cents));
                let _ = done.send(());
            }
            Job::Balance(tell) => {
                let _ = tell.send(balance(&payments));
            }
        }
    }
}

fn balance(payments: &HashMap<String, (String, u64)>) -> Balance {
    let mut accounts: HashMap<&str, u64> = HashMap::new();
    for (account, cents) in payments.values() {
        *accounts.entry(account).or_default() += cents;
    }
    Balance {
        accounts: accounts.len() as u64,
        cents: accounts.values().sum(),
        payments: payments.len() as u64,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_payment_counts_once() {
        let desk = Desk::open();
        for (key, account, cents) in [("1", "ada", 5), ("2", "ada", 7), ("1", "ada", 5)] {
            let booked = desk.book(key.to_owned(), account.to_owned(), cents).await;
            assert!(booked.is_ok());
        }
        let Ok(balance) = desk.balance().await else {
            panic!("the clerk is there");
        };
        assert_eq!(
            (balance.accounts, balance.cents, balance.payments),
            (1, 12, 2)
        );
    }
}
