//! The table at the end, and the sums that have to add up.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use catga::HandlerStats;

use crate::books::Balance;
use crate::intake::Intake;
use crate::ledger::Tally;
use crate::shop::Shop;

/// How long nothing may move before the run is given up.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Two numbers that have to be equal, once everything is done.
#[derive(Debug)]
pub(crate) struct Check {
    pub(crate) what: String,
    pub(crate) have: u64,
    pub(crate) want: u64,
    /// Nothing that is still on its way can mend it.
    hopeless: bool,
}

/// A handler's line of the table.
#[derive(Debug)]
pub(crate) struct Row {
    pub(crate) message: &'static str,
    pub(crate) handler: String,
    pub(crate) published: u64,
    pub(crate) stats: HandlerStats,
}

/// What was counted at one moment.
#[derive(Debug)]
pub(crate) struct Report {
    pub(crate) rows: Vec<Row>,
    pub(crate) checks: Vec<Check>,
    /// Since the first order was placed.
    pub(crate) took: Duration,
    pub(crate) orders: u64,
    /// What was read in the books, once all else added up.
    pub(crate) balance: Balance,
    /// Something was still missing when nothing had moved for [`PATIENCE`].
    pub(crate) stuck: bool,
}

impl Report {
    /// Waits until everything adds up; gives up when nothing moves any more.
    pub(crate) async fn when_done(shop: &Shop, intake: &Intake, began: Instant) -> Self {
        let (mut moved, mut at) = (Instant::now(), 0);
        loop {
            let mut report = Self::now(shop, intake.orders, began).await;
            if report.wrong().next().is_none() {
                report.books(shop, intake).await;
            }
            if report.wrong().all(|check| check.hopeless) {
                return report;
            }
            let progress = report
                .checks
                .iter()
                .map(|check| u128::from(check.have))
                .sum();
            if at != progress {
                (moved, at) = (Instant::now(), progress);
            } else if moved.elapsed() > PATIENCE {
                report.stuck = true;
                return report;
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    /// What does not add up.
    pub(crate) fn wrong(&self) -> impl Iterator<Item = &Check> {
        self.checks.iter().filter(|check| check.have != check.want)
    }

    /// Placing is over, so that nothing but handled, retried and dead-lettered still grows.
    async fn now(shop: &Shop, orders: u64, began: Instant) -> Self {
        let mut report = Self {
            rows: Vec::new(),
            checks: Vec::new(),
            took: began.elapsed(),
            orders,
            balance: Balance::default(),
            stuck: false,
        };
        report.requests(shop);
        report.created(shop);
        report.shipped(shop);
        report.payments(shop);
        let dead = shop.stats("bill").dead_lettered + shop.stats(shop.bookkeeper).dead_lettered;
        match shop.dead_letters().await {
            Ok(kept) => report.equal(
                "dead letters that the backend keeps, of those counted",
                kept,
                dead,
            ),
            Err(error) => report.equal(
                format!("dead letters, which cannot be listed ({error})"),
                0,
                dead.max(1),
            ),
        }
        report
    }

    fn requests(&mut self, shop: &Shop) {
        let (ledger, stats) = (&shop.ledger, shop.stats("create_order"));
        let accepted = ledger.accepted.count();
        let sent = self.orders + ledger.resent.count();
        self.row("CreateOrder", "one of the nodes", sent, stats);
        self.equal("CreateOrder accepted, of those sent", accepted, self.orders);
        self.equal(
            "CreateOrder handled, of those accepted",
            stats.handled,
            accepted,
        );
        self.equal(
            "CreateOrder answered and not handled again, of those sent again",
            stats.duplicates,
            ledger.resent.count(),
        );
        self.same_orders(
            "OrderCreated published, of orders accepted",
            &ledger.created,
            &ledger.accepted,
        );
        self.same_orders(
            "OrderShipped published, of orders accepted",
            &ledger.shipped,
            &ledger.accepted,
        );
        // Every answer is there, so that these do not change any more.
        for check in &mut self.checks {
            check.hopeless = true;
        }
    }

    fn created(&mut self, shop: &Shop) {
        let published = &shop.ledger.created;
        for node in &shop.nodes {
            let (name, stats) = (node.name, node.stats("log_created"));
            self.row(
                "OrderCreated",
                format!("{name}, log"),
                published.count(),
                stats,
            );
            let seen = stats.handled + stats.dropped;
            self.equal(
                format!("OrderCreated logged or dropped by {name}, of those published"),
                seen,
                published.count(),
            );
            self.equal(
                format!("OrderCreated seen by {name}'s log, of those handled"),
                node.log.created.count(),
                stats.handled,
            );
        }
    }

    fn shipped(&mut self, shop: &Shop) {
        let (ledger, stats) = (&shop.ledger, shop.stats("bill"));
        let published = &ledger.shipped;
        self.row("OrderShipped", "group billing", published.count(), stats);
        let settled = stats.handled + stats.dead_lettered;
        self.equal(
            "OrderShipped billed or dead-lettered, of those published",
            settled,
            published.count(),
        );
        self.equal(
            "bills written, of those handled",
            ledger.billed.count(),
            stats.handled,
        );
        self.equal(
            "dead-lettered, of cards declined",
            stats.dead_lettered,
            ledger.declined.count(),
        );
        self.equal(
            "retried, of failures injected",
            stats.retried,
            ledger.hiccups.count(),
        );
        let outcomes = stats.retried + stats.dead_lettered;
        self.equal(
            "bills retried or dead-lettered, of those that failed",
            outcomes,
            stats.failed,
        );
        if ledger.done() == published.count() {
            let ids = ledger.billed.ids().wrapping_add(ledger.declined.ids());
            self.ids(
                "billed or declined are other orders than those shipped",
                ids,
                published.ids(),
            );
        }
        for node in &shop.nodes {
            let (name, stats) = (node.name, node.stats("log_shipped"));
            self.row(
                "OrderShipped",
                format!("{name}, log"),
                published.count(),
                stats,
            );
            self.equal(
                format!("OrderShipped handled by {name}'s log, of those published"),
                stats.handled,
                published.count(),
            );
            self.same_orders(
                &format!("OrderShipped seen by {name}'s log, of those published"),
                &node.log.shipped,
                published,
            );
        }
    }

    fn payments(&mut self, shop: &Shop) {
        let (ledger, stats) = (&shop.ledger, shop.stats(shop.bookkeeper));
        self.same_orders(
            "PaymentTaken published, of orders billed",
            &ledger.paid,
            &ledger.billed,
        );
        self.same_orders(
            "PaymentTaken that the broker had already, of those published again",
            &ledger.suppressed,
            &ledger.repeated,
        );
        self.equal(
            "PaymentTaken handled, of those published",
            stats.handled,
            ledger.paid.count(),
        );
        self.same_orders(
            "payments booked, of those published",
            &ledger.booked,
            &ledger.paid,
        );
        self.equal(
            "bookings retried, of pages spilled",
            stats.retried,
            ledger.spilled.count(),
        );
        self.equal(
            "bookings failed, of pages spilled",
            stats.failed,
            ledger.spilled.count(),
        );
        self.equal(
            "bookings dead-lettered or lost to another node",
            stats.dead_lettered + stats.lost,
            0,
        );
    }

    /// Counts what the inbox suppressed, which no handler sees: a subscription tells it for sure when it has ended.
    pub(crate) fn closed(&mut self, shop: &Shop) {
        let (ledger, mut stats) = (&shop.ledger, shop.stats(shop.bookkeeper));
        let (suppressed, copied) = (ledger.suppressed.count(), ledger.copied.count());
        self.equal(
            "PaymentTaken that the inbox suppressed, of copies stored",
            stats.duplicates,
            copied,
        );
        let published = ledger.paid.count() + suppressed + copied;
        stats.duplicates += suppressed;
        self.row("PaymentTaken", "group books", published, stats);
    }

    /// Reads the books. That they follow the counts by a moment is why they are waited for as well.
    async fn books(&mut self, shop: &Shop, intake: &Intake) {
        let ledger = &shop.ledger;
        match Balance::read(shop.books(), &intake.customers).await {
            Ok(balance) => self.balance = balance,
            Err(error) => self.equal(format!("the books cannot be read ({error})"), 0, 1),
        }
        let (payments, cents) = (self.balance.payments, self.balance.cents);
        let billed = ledger.billed_cents.load(Ordering::Relaxed);
        self.equal(
            "payments in the books, of orders billed",
            payments,
            ledger.billed.count(),
        );
        self.equal("cents in the books, of those billed", cents, billed);
    }

    fn row(
        &mut self,
        message: &'static str,
        handler: impl Into<String>,
        published: u64,
        stats: HandlerStats,
    ) {
        let handler = handler.into();
        self.rows.push(Row {
            message,
            handler,
            published,
            stats,
        });
    }

    fn equal(&mut self, what: impl Into<String>, have: u64, want: u64) {
        let what = what.into();
        self.checks.push(Check {
            what,
            have,
            want,
            hopeless: false,
        });
    }

    /// As many, and none of them twice in place of another.
    fn same_orders(&mut self, what: &str, have: &Tally, want: &Tally) {
        self.equal(what, have.count(), want.count());
        if have.count() == want.count() {
            self.ids(
                &format!("{what}: not the same orders"),
                have.ids(),
                want.ids(),
            );
        }
    }

    fn ids(&mut self, what: &str, have: u64, want: u64) {
        let what = format!("{what}, by the sum of their hashed ids");
        self.checks.push(Check {
            what,
            have,
            want,
            hopeless: true,
        });
    }
}
