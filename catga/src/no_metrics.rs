//! In the place of `metrics.rs` where the feature is off: nothing is told, and nothing is left of it in the program.

use std::time::Duration;

use catga_core::{Error, Name, Request};

use crate::guard::Failure;
use crate::members::Members;
use crate::table::Table;

pub(crate) const EVERY: Duration = Duration::MAX;

#[derive(Debug)]
pub(crate) struct Metrics(());

#[derive(Debug, Default)]
pub(crate) struct HandlerMetrics(());

#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Clock(());

#[allow(
    clippy::unused_self,
    reason = "what is told where the feature is on has the same form"
)]
impl Metrics {
    pub(crate) fn new(_: &'static str, _: &Table) -> Self {
        Self(())
    }

    pub(crate) fn is_on(&self) -> bool {
        false
    }

    #[inline]
    pub(crate) fn published<T>(&self, _: &Name, _: &Result<T, Error>) {}

    #[inline]
    pub(crate) fn clock(&self) -> Clock {
        Clock(())
    }

    #[inline]
    pub(crate) fn answered<R: Request>(
        &self,
        _: Clock,
        outcome: Result<R::Response, Error>,
    ) -> Result<R::Response, Error> {
        outcome
    }

    pub(crate) fn tell(&self, _: &Table, _: &Members) {}
}

#[allow(
    clippy::unused_self,
    reason = "what is told where the feature is on has the same form"
)]
impl HandlerMetrics {
    #[inline]
    pub(crate) fn clock(&self) -> Clock {
        Clock(())
    }

    #[inline]
    pub(crate) fn processed<T>(&self, _: Clock, _: &Result<T, Failure>) {}
}
