//! The books: what handlers book, and how it is read back.

use std::collections::HashSet;

use catga::memory::Memory;
use catga::prelude::Result;

use crate::desk::Desk;

/// Where payments are booked.
#[derive(Clone, Debug)]
pub(crate) enum Books {
    /// In the backend, together with the claims of `book`.
    Committed(Memory),
    /// Elsewhere, by key, as `book_by_key` does.
    ByKey(Desk),
}

/// Where the sum of all that a customer paid stands. A payment by itself stands under the id of its message.
pub(crate) fn account(customer: &str) -> String {
    format!("account of {customer}")
}

/// The cents that stand under a key, when something does.
pub(crate) async fn cents(books: &Memory, key: &str) -> Result<Option<u64>> {
    let Some(bytes) = books.get(key).await? else {
        return Ok(None);
    };
    Ok(Some(std::str::from_utf8(&bytes)?.parse()?))
}

/// What stands in the books in all.
#[derive(Debug, Default)]
pub(crate) struct Balance {
    /// Customers who paid something.
    pub(crate) accounts: u64,
    /// What they paid, by the sums of their accounts.
    pub(crate) cents: u64,
    /// Payments, by their own entries.
    pub(crate) payments: u64,
}

impl Balance {
    /// Reads the accounts of all customers; what else stands in the books are single payments.
    pub(crate) async fn read(books: &Books, customers: &HashSet<String>) -> Result<Self> {
        match books {
            Books::Committed(books) => Self::add_up(books, customers).await,
            Books::ByKey(desk) => desk.balance().await,
        }
    }

    async fn add_up(books: &Memory, customers: &HashSet<String>) -> Result<Self> {
        let mut balance = Self::default();
        for customer in customers {
            if let Some(cents) = cents(books, &account(customer)).await? {
                balance.accounts += 1;
                balance.cents += cents;
            }
        }
        balance.payments = books.len().await? as u64 - balance.accounts;
        Ok(balance)
    }
}
