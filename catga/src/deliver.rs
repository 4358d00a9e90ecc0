//! The way of a letter: to a node, and on to others when that one fails, with the same id.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use catga_core::{Encoded, Envelope, Error, ErrorKind, Kind, NodeId, QoS, Request, Retry, Target};
use tokio::time::{Instant, sleep_until};

use crate::Attempt;
use crate::app::Inner;
use crate::call::{Arrival, too_late};
use crate::time::{FAR, after, from_now, time_left};
use crate::way::{Hop, Route, Way};

/// Of the time that is left, a node that has said nothing has this part before another is asked.
const PATIENCE: u32 = 3;
/// How often it is looked whether a node that is waited for is still there.
const LOOK: Duration = Duration::from_millis(500);

/// The tries at a request that have not ended.
struct Running<'a, T>(Vec<(Hop, Trying<'a, T>)>);

type Trying<'a, T> = Pin<Box<dyn Future<Output = Result<T, Error>> + Send + 'a>>;

/// What happens to a letter.
enum Event<T> {
    Ended(Hop, Result<T, Error>),
    /// The node that was asked last has said nothing for a while.
    Silent(Hop),
    /// It is not there any more.
    Gone(Hop),
    /// It is time to ask somebody again who failed.
    Due,
}

/// Who is asked again while others still have the request. In boxes, since few fail: the future of a request stays small.
#[derive(Default)]
struct Again {
    due: Option<Instant>,
    /// Who failed last.
    failed: Option<Box<Hop>>,
    /// Whether anybody failed who may not do so again.
    may_succeed: bool,
    /// Who was asked last, and says nothing.
    silent: Option<Box<Hop>>,
}

impl Again {
    /// Somebody failed, and may be asked again after a pause.
    fn failed(&mut self, hop: &Hop, error: &Error, pause: Duration) {
        if error.retry() != Retry::Never && error.kind() != ErrorKind::NoResponders {
            self.may_succeed = true;
            self.due = Some(from_now(pause));
        }
        self.failed = Some(Box::new(hop.clone()));
    }

    /// Somebody says nothing: there is nothing left to wait for.
    fn silent(&mut self, hop: &Hop) {
        if self.may_succeed && self.due.is_none() {
            self.due = Some(Instant::now());
        }
        self.silent = Some(Box::new(hop.clone()));
    }
}

impl<T> Running<'_, T> {
    /// Where it was sent last.
    fn last(&self) -> Hop {
        let last = self.0.last().expect("it is waited for");
        last.0.clone()
    }

    /// The nodes that have it.
    fn nodes(&self) -> Vec<NodeId> {
        let targets = self.0.iter().map(|(hop, _)| &hop.target);
        let nodes = targets.filter_map(|target| match target {
            Target::Node(node) => Some(node.clone()),
            _ => None,
        });
        nodes.collect()
    }

    /// Whether nobody who is there has the request.
    fn are_gone(&self) -> bool {
        let mut members = self.0.iter().map(|(hop, _)| hop.member.as_ref());
        members.all(|member| member.is_some_and(|member| member.peer.is_gone()))
    }

    /// Waits for the next that ends.
    async fn next(&mut self) -> (Hop, Result<T, Error>) {
        poll_fn(|cx| {
            for index in 0..self.0.len() {
                if let Poll::Ready(result) = self.0[index].1.as_mut().poll(cx) {
                    return Poll::Ready((self.0.remove(index).0, result));
                }
            }
            Poll::Pending
        })
        .await
    }

    /// As [`wait`](Self::wait), and not for longer than until somebody is to be asked again.
    async fn wait_until(&mut self, due: Option<Instant>, patience: Option<Duration>) -> Event<T> {
        let Some(due) = due else {
            return self.wait(patience).await;
        };
        tokio::select! {
            biased;
            event = self.wait(patience) => event,
            () = sleep_until(due) => Event::Due,
        }
    }

    /// Waits for the next that ends, or until the node that was asked last is not there any more, or has said nothing
    /// for so long.
    async fn wait(&mut self, patience: Option<Duration>) -> Event<T> {
        let last = self.0.last().and_then(|(hop, _)| hop.member.clone());
        let Some(last) = last else {
            let (hop, result) = self.next().await;
            return Event::Ended(hop, result);
        };
        let patience = patience.unwrap_or(FAR);
        let mut now = Instant::now();
        let mut until = after(now, patience);
        let mut heard = last.peer.answers();
        loop {
            let look = until.min(now + LOOK);
            tokio::select! {
                biased;
                (hop, result) = self.next() => return Event::Ended(hop, result),
                () = sleep_until(look) => {}
            }
            if last.peer.is_gone() {
                return Event::Gone(self.last());
            }
            now = Instant::now();
            if now >= until {
                let answers = last.peer.answers();
                if answers == heard {
                    return Event::Silent(self.last());
                }
                // It answers others: this request takes its time.
                heard = answers;
                until = after(now, patience.max(LOOK));
            }
        }
    }
}

impl Inner {
    /// Sends a request to its first node, or to those who come next after a failure, with the same id, until it
    /// is answered, refused for good, or too late.
    pub(crate) async fn deliver<R: Request>(
        self: &Arc<Self>,
        letter: &Envelope,
        deadline: Option<Instant>,
        first: Hop,
        route: &Route,
    ) -> Result<R::Response, Error> {
        let once = R::QOS == QoS::AtMostOnce;
        let most = self.settings.request_retries.saturating_add(1);
        let tries = if once { 1 } else { most };
        let mut way = Way::<R>::new(self, route);
        let mut running = Running(Vec::new());
        let (mut hop, mut attempt) = (first, Attempt::new(1, tries));
        let mut may_have_run = false;
        // Whether nobody was there, whoever was asked.
        let mut unheard = true;
        let mut again = Again::default();
        'asking: loop {
            way.note(&hop);
            let left = deadline.map(time_left);
            let mut patience = self.patience(left, once, route);
            let sending = self.try_once::<R>(hop.clone(), letter, deadline, left, attempt);
            running.0.push((hop, Box::pin(sending)));
            again.due = None;
            let (failed, error) = loop {
                // Whom it leaves, and whether that one has not seen it, where it said so.
                let (left, unseen) = match running.wait_until(again.due, patience).await {
                    Event::Ended(_, Ok(response)) => return Ok(response),
                    Event::Ended(failed, Err(error)) => {
                        let error = error.with_context("to", &failed.target);
                        may_have_run |= error.may_be_stored();
                        unheard &= error.kind() == ErrorKind::NoResponders;
                        let final_word =
                            error.retry() == Retry::Never && error.kind() != ErrorKind::Timeout;
                        again.failed(&failed, &error, self.pause(&error, attempt));
                        if running.are_gone() || final_word {
                            break (failed, error);
                        }
                        // Another still has it, and may never answer.
                        (failed, Some(is_unseen(&error) && !way.again))
                    }
                    Event::Gone(hop) if once || matches!(route, Route::Fixed) => {
                        return Err(gone(&hop));
                    }
                    Event::Gone(hop) => {
                        way.forget(&hop);
                        (hop, None)
                    }
                    Event::Silent(hop) => {
                        again.silent(&hop);
                        (hop, None)
                    }
                    Event::Due => {
                        (again.due, patience) = (None, Some(LOOK));
                        let idle = way.idle(running.nodes(), again.failed.as_deref());
                        let Some(idle) = idle.filter(|_| !attempt.is_last()) else {
                            continue;
                        };
                        tracing::debug!(request = R::NAME, next = %idle.target, "asking again with the same id, beside who is silent");
                        may_have_run |= again.silent.is_some();
                        again.silent.take().iter().for_each(|hop| self.silent(hop));
                        attempt = following(attempt, false);
                        hop = idle;
                        continue 'asking;
                    }
                };
                let free = unseen == Some(true);
                match way.fresh() {
                    Some(fresh) if free || !attempt.is_last() => {
                        tracing::debug!(request = R::NAME, left = %left.target, next = %fresh.target, "asking another with the same id");
                        self.members.failed_over();
                        if unseen.is_none() {
                            (may_have_run, unheard) = (true, false);
                            self.silent(&left);
                            again.silent = None;
                        }
                        attempt = following(attempt, free);
                        hop = fresh;
                        continue 'asking;
                    }
                    _ if running.are_gone() && (attempt.is_last() || deadline.is_none()) => {
                        return Err(gone(&left));
                    }
                    // Somebody may join.
                    _ => patience = Some(LOOK),
                }
            };
            let (follower, is_fresh) = way.next(&failed);
            // Where nobody listens there is nothing to wait for: somebody else at once, or nobody.
            let nobody = error.kind() == ErrorKind::NoResponders;
            // Nor where it was turned away unseen, as long as there is somebody who was not asked yet.
            let unseen = is_unseen(&error) && is_fresh;
            let wait = (!nobody && !unseen).then(|| self.pause(&error, attempt));
            let wait = wait.unwrap_or_default();
            let in_time = deadline.is_none_or(|deadline| after(Instant::now(), wait) < deadline);
            let in_vain = error.retry() == Retry::Never
                || (nobody && (follower.target == failed.target || (unheard && !is_fresh)))
                // What one has not seen is not tried twice when another begins it.
                || (attempt.is_last() && !(unseen && !(once && may_have_run)));
            if !in_time || in_vain {
                return Err(told(error, may_have_run));
            }
            tracing::debug!(request = R::NAME, failed = %failed.target, next = %follower.target, %error, ?wait, "trying again with the same id");
            tokio::time::sleep(wait).await;
            if follower.target != failed.target {
                self.members.failed_over();
            }
            hop = follower;
            attempt = following(attempt, unseen);
        }
    }

    /// How long to wait before it is tried again after an error.
    fn pause(&self, error: &Error, attempt: Attempt) -> Duration {
        let delay = self.settings.backoff.delay(attempt.number());
        match error.retry() {
            Retry::After(least) => least.max(delay),
            _ => delay,
        }
    }

    /// How long a node may say nothing before another is asked, where another may be.
    fn patience(&self, left: Option<Duration>, once: bool, route: &Route) -> Option<Duration> {
        if once || matches!(route, Route::Fixed) {
            return None;
        }
        Some(left.map_or(self.settings.node_timeout, |left| left / PATIENCE))
    }

    /// A node said nothing for too long.
    fn silent(&self, hop: &Hop) {
        if let Some(member) = &hop.member {
            self.members.failed(member, hop.probe);
        }
    }

    async fn try_once<R: Request>(
        self: &Arc<Self>,
        hop: Hop,
        letter: &Envelope,
        deadline: Option<Instant>,
        left: Option<Duration>,
        attempt: Attempt,
    ) -> Result<R::Response, Error> {
        if let (Target::Node(node), Some((entry, call))) =
            (&hop.target, self.table.request::<R>())
            && *node == self.node.id
            // What may be tried again, or was, is claimed, also where it comes back to this node.
            && (!is_idempotent::<R>() || hop.direct)
        {
            let request = self.read::<R>(letter)?;
            let arrival = Arrival::of(letter, attempt);
            return self
                .call_here(entry, call, request, arrival, deadline)
                .await;
        }
        let member = hop.member.as_deref();
        let _waiting = member.map(|member| member.peer.wait_for());
        let heard = member.map_or(0, |member| member.peer.answers());
        let transport = &self.backend.transport;
        let asked = transport.request(&hop.target, letter, attempt.number(), left);
        match asked.await {
            Ok(reply) => {
                let result = match reply.result {
                    Ok(bytes) => {
                        let response = self.codecs.decode(reply.content_type.as_deref(), &bytes);
                        response.map_err(Error::with_unknown_outcome)
                    }
                    // It fails when the time is over, of which the two that wait are not told in one moment.
                    Err(remote)
                        if remote.kind == ErrorKind::Handler.as_str() && is_over(deadline) =>
                    {
                        Err(too_late::<R>("its handler failed when it was late", true))
                    }
                    Err(remote) => Err(remote.into_error("send")),
                };
                if let Some(member) = member {
                    match &result {
                        // It shuts down.
                        Err(error) if error.kind() == ErrorKind::Closed => {
                            self.members.failed(member, hop.probe);
                        }
                        _ => self.members.answered(member),
                    }
                }
                result
            }
            Err(error) => {
                if let Some(member) = member {
                    let dead = match error.kind() {
                        ErrorKind::NoResponders => true,
                        ErrorKind::Timeout => member.peer.answers() == heard,
                        _ => false,
                    };
                    if dead {
                        self.members.failed(member, hop.probe);
                    }
                }
                Err(error)
            }
        }
    }

    /// The request in a letter.
    pub(crate) fn read<R: Request>(&self, letter: &Envelope) -> Result<R, Error> {
        let bytes = letter.payload().as_bytes().expect("a letter is encoded");
        let payload = Encoded::new(&self.codecs, letter.content_type(), bytes);
        R::from_version(letter.version(), &payload)
    }
}

/// An error as the caller is told of it.
fn told(error: Error, may_have_run: bool) -> Error {
    if may_have_run {
        error.with_unknown_outcome()
    } else {
        error
    }
}

fn is_over(deadline: Option<Instant>) -> bool {
    deadline.is_some_and(|deadline| deadline <= Instant::now())
}

/// Whether the node that failed has not begun the request: nobody is there, or it turned it away.
fn is_unseen(error: &Error) -> bool {
    match error.kind() {
        ErrorKind::NoResponders => true,
        ErrorKind::Unavailable => !error.may_be_stored(),
        _ => false,
    }
}

/// The attempt after one: what a node has not seen was none.
fn following(attempt: Attempt, unseen: bool) -> Attempt {
    if unseen || attempt.is_last() {
        return attempt;
    }
    Attempt::new(attempt.number() + 1, attempt.limit())
}

/// The one node that a request could go to has gone.
fn gone(hop: &Hop) -> Error {
    let text = format!("{} went while it had the request", hop.target);
    let error = Error::new(ErrorKind::NodeGone, "send", text);
    error.with_unknown_outcome()
}

/// Whether the inbox keeps the response for retries.
pub(crate) const fn is_idempotent<R: Request>() -> bool {
    matches!(R::KIND, Kind::Request { idempotent: true }) && !matches!(R::QOS, QoS::AtMostOnce)
}
