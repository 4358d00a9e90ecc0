//! Asking the server one thing.

use std::sync::Arc;

use catga_core::Error;
use redis::aio::ConnectionLike;
use redis::{Cmd, Pipeline, RedisError, ServerErrorKind, Value};
use tokio::select;
use tokio::time::{Instant, sleep_until};

use crate::client::{Conn, Factory};
use crate::closed::Closed;
use crate::error;
use crate::link::Link;
use crate::names::Names;
use crate::options::{ServerKind, Settings};
use crate::pending::Pending;
use crate::script::Script;
use crate::time::from_now;

/// What everything of one connection shares.
#[derive(Debug)]
pub(crate) struct Server {
    pub(crate) settings: Arc<Settings>,
    pub(crate) names: Names,
    pub(crate) factory: Factory,
    pub(crate) link: Arc<Link>,
    pub(crate) closed: Closed,
    pub(crate) pending: Arc<Pending>,
}

/// What the server said, or why it said nothing.
pub(crate) type Answer = Result<Value, RedisError>;

impl Server {
    pub(crate) fn check_open(&self, operation: &'static str) -> Result<(), Error> {
        if self.closed.is_raised() {
            Err(error::closed(operation))
        } else {
            Ok(())
        }
    }

    pub(crate) fn is_cluster(&self) -> bool {
        self.settings.kind == ServerKind::Cluster
    }

    /// The deadline of a call that has none of its own.
    pub(crate) fn call_deadline(&self) -> Instant {
        from_now(self.settings.call_timeout)
    }

    /// Runs `ask` on the shared connection, as soon as there is one.
    async fn with<T>(
        &self,
        operation: &'static str,
        what: &str,
        by: Instant,
        ask: impl AsyncFnOnce(&mut Conn) -> Result<T, RedisError>,
    ) -> Result<Result<T, RedisError>, Error> {
        let live = select! {
            biased;
            () = self.closed.raised() => return Err(error::closed(operation)),
            live = self.link.live(operation, by) => live?,
        };
        let mut conn = live.conn.clone();
        let answered = select! {
            biased;
            answered = ask(&mut conn) => answered,
            () = self.closed.raised() => return Err(error::closed_meanwhile(operation)),
            () = sleep_until(by) => return Err(error::unanswered(operation, what)),
        };
        if let Err(error) = &answered
            && error::is_broken(error)
            && !self.is_cluster()
        {
            self.link.broken(&live);
        }
        Ok(answered)
    }

    /// Asks one thing; what the server refuses is for the caller to judge.
    pub(crate) async fn ask(
        &self,
        operation: &'static str,
        what: &str,
        cmd: &Cmd,
        by: Instant,
    ) -> Result<Answer, Error> {
        let ask = async |conn: &mut Conn| match conn.req_packed_command(cmd).await {
            Ok(Value::ServerError(error)) => Err(error.into()),
            other => other,
        };
        self.with(operation, what, by, ask).await
    }

    /// Asks one thing of the server, or of every primary of a cluster: a map, then.
    pub(crate) async fn ask_each(
        &self,
        operation: &'static str,
        what: &str,
        cmd: &Cmd,
        by: Instant,
    ) -> Result<Answer, Error> {
        let answered = self.with(operation, what, by, async |conn: &mut Conn| {
            conn.ask_each(cmd).await
        });
        Ok(answered.await?.and_then(answer))
    }

    /// Asks one thing.
    pub(crate) async fn call(
        &self,
        operation: &'static str,
        what: &str,
        cmd: &Cmd,
        by: Instant,
    ) -> Result<Value, Error> {
        let answer = self.ask(operation, what, cmd, by).await?;
        answer.map_err(|error| error::of(operation, what, &error))
    }

    /// Asks many things of one slot at once; an answer for each, in order.
    pub(crate) async fn pipeline(
        &self,
        operation: &'static str,
        what: &str,
        pipeline: &Pipeline,
        by: Instant,
    ) -> Result<Vec<Answer>, Error> {
        let count = pipeline.len();
        let ask = async |conn: &mut Conn| conn.req_packed_commands(pipeline, 0, count).await;
        let answers = self.with(operation, what, by, ask).await?;
        let answers = answers.map_err(|error| error::of(operation, what, &error))?;
        Ok(answers.into_iter().map(answer).collect())
    }

    /// Runs a script, called as [`Script::call`] says; what the server refuses is for the caller to judge.
    pub(crate) async fn try_run(
        &self,
        operation: &'static str,
        what: &str,
        script: &Script,
        call: &Cmd,
        by: Instant,
    ) -> Result<Answer, Error> {
        match self.ask(operation, what, call, by).await? {
            Err(error) if error.kind() == redis::ErrorKind::Server(ServerErrorKind::NoScript) => {
                tracing::debug!(
                    script = script.name(),
                    "the server does not know a script yet"
                );
                self.ask(operation, what, &script.whole(call), by).await
            }
            answer => Ok(answer),
        }
    }

    /// Runs a script.
    pub(crate) async fn run(
        &self,
        operation: &'static str,
        what: &str,
        script: &Script,
        call: &Cmd,
    ) -> Result<Value, Error> {
        let by = self.call_deadline();
        let answer = self.try_run(operation, what, script, call, by).await?;
        answer.map_err(|error| error::of(operation, what, &error))
    }
}

/// One of several answers.
pub(crate) fn answer(value: Value) -> Answer {
    match value {
        Value::ServerError(error) => Err(error.into()),
        value => Ok(value),
    }
}
