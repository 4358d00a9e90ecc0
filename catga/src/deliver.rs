//! The way of a letter: to a node, and on to others when that one fails, with the same id.

use std::future::{Future, poll_fn};
use std::marker::PhantomData;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use catga_core::{Encoded, Envelope, Error, ErrorKind, Kind, NodeId, QoS, Request, Retry, Target};
use tokio::time::{Instant, sleep_until};

use crate::Attempt;
use crate::app::Inner;
use crate::call::Arrival;
use crate::members::Member;
use crate::time::{FAR, after, from_now, time_left};
use crate::view::Question;

/// Of the time that is left, a node that has said nothing has this part before another is asked.
const PATIENCE: u32 = 3;
/// How often it is looked whether a node that is waited for is still there.
const LOOK: Duration = Duration::from_millis(500);

/// Where a letter goes.
#[derive(Clone, Debug)]
pub(crate) struct Hop {
    pub(crate) target: Target,
    /// The node, where the target is one that is known.
    pub(crate) member: Option<Arc<Member>>,
    /// Whether the node had failed, and this is to show if it still does.
    probe: bool,
    /// Whether it is called directly, where it is this node: nobody else has its id.
    direct: bool,
}

impl Hop {
    pub(crate) fn to(member: Arc<Member>, probe: bool) -> Self {
        Self {
            target: Target::Node(member.info.id.clone()),
            member: Some(member),
            probe,
            direct: false,
        }
    }

    pub(crate) fn called_directly(mut self, direct: bool) -> Self {
        self.direct = direct;
        self
    }

    pub(crate) fn blind(target: Target) -> Self {
        Self {
            target,
            member: None,
            probe: false,
            direct: false,
        }
    }
}

/// Whether a letter goes to one node alone, or to whom the strategy picks.
#[derive(Clone, Debug)]
pub(crate) enum Route {
    Fixed,
    /// By this key, where there is one.
    Routed(Option<String>),
}

/// The tries at a request that have not ended.
struct Running<'a, T>(Vec<(Hop, Trying<'a, T>)>);

type Trying<'a, T> = Pin<Box<dyn Future<Output = Result<T, Error>> + Send + 'a>>;

/// What happens to a letter.
enum Event<T> {
    Ended(Hop, Result<T, Error>),
    /// The node that was asked last has said nothing for a while.
    Silent,
    /// It is not there any more.
    Gone,
}

impl<T> Running<'_, T> {
    /// Waits for the next that ends.
    async fn next(&mut self) -> (Hop, Result<T, Error>) {
        poll_fn(|cx| {
            for index in 0..self.0.len() {
                if let Poll::Ready(result) = self.0[index].1.as_mut().poll(cx) {
                    return Poll::Ready((self.0.swap_remove(index).0, result));
                }
            }
            Poll::Pending
        })
        .await
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
        let mut until = from_now(patience);
        let mut heard = last.peer.answers();
        loop {
            let look = until.min(from_now(LOOK));
            tokio::select! {
                biased;
                (hop, result) = self.next() => return Event::Ended(hop, result),
                () = sleep_until(look) => {}
            }
            if last.peer.is_gone() {
                return Event::Gone;
            }
            if Instant::now() >= until {
                let answers = last.peer.answers();
                if answers == heard {
                    return Event::Silent;
                }
                // It answers others: this request takes its time.
                heard = answers;
                until = from_now(patience.max(LOOK));
            }
        }
    }
}

/// Who was asked, and who is next.
struct Way<'a, R> {
    inner: &'a Inner,
    route: &'a Route,
    asked: Vec<NodeId>,
    request: PhantomData<fn() -> R>,
}

impl<R: Request> Way<'_, R> {
    fn note(&mut self, hop: &Hop) {
        if let Target::Node(node) = &hop.target {
            self.asked.push(node.clone());
        }
    }

    /// Somebody who was not asked yet.
    fn fresh(&self) -> Option<Hop> {
        let Route::Routed(key) = self.route else {
            return None;
        };
        let entry = self.inner.table.request::<R>();
        let question = Question {
            request: R::NAME,
            key: key.as_deref(),
            entry: entry.map(|(entry, _)| &**entry),
        };
        let view = self.inner.members.view();
        let member = view.answering(R::NAME)?.another(question, &self.asked)?;
        Some(Hop::to(member, false))
    }

    /// Where a request goes on to that failed, and whether that is somebody who was not asked yet.
    fn next(&mut self, failed: &Hop) -> (Hop, bool) {
        if let Some(fresh) = self.fresh() {
            return (fresh, true);
        }
        if matches!(self.route, Route::Fixed) {
            return (failed.clone(), false);
        }
        // The view may be old: then the broker knows better who is there.
        if let Some(member) = &failed.member
            && self.inner.members.trouble().is_some()
        {
            return (
                Hop::blind(Target::Service(member.info.service.clone())),
                true,
            );
        }
        // All over again, and not where it failed just now if there is another.
        self.asked.clear();
        self.note(failed);
        match self.fresh() {
            Some(other) => (other, false),
            None => (failed.clone(), false),
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
        let again = self.settings.request_retries.saturating_add(1);
        let once = R::QOS == QoS::AtMostOnce;
        let tries = if once { 1 } else { again };
        let mut way = Way::<R> {
            inner: self,
            route,
            asked: Vec::new(),
            request: PhantomData,
        };
        let mut running = Running(Vec::new());
        let (mut hop, mut attempt) = (first, Attempt::new(1, tries));
        let mut may_have_run = false;
        // Whether there is nothing to do but wait.
        let mut waits = false;
        'asking: loop {
            way.note(&hop);
            let sending = self.try_once::<R>(hop.clone(), letter, deadline, attempt);
            running.0.push((hop.clone(), Box::pin(sending)));
            let (failed, error) = loop {
                let event = if waits {
                    let (hop, result) = running.next().await;
                    Event::Ended(hop, result)
                } else {
                    running.wait(self.patience(deadline, once, route)).await
                };
                match event {
                    Event::Ended(_, Ok(response)) => return Ok(response),
                    Event::Ended(failed, Err(error)) => {
                        let error = error.with_context("to", &failed.target);
                        may_have_run |= error.may_be_stored();
                        let final_word =
                            error.retry() == Retry::Never && error.kind() != ErrorKind::Timeout;
                        if running.0.is_empty() || final_word {
                            break (failed, error);
                        }
                        // Another still has it.
                        waits = true;
                    }
                    Event::Gone if once || matches!(route, Route::Fixed) => {
                        return Err(gone(&hop));
                    }
                    Event::Gone | Event::Silent => match way.fresh() {
                        Some(fresh) if !attempt.is_last() => {
                            self.silent(&hop);
                            tracing::debug!(request = R::NAME, silent = %hop.target, next = %fresh.target, "asking another with the same id");
                            may_have_run = true;
                            attempt = Attempt::new(attempt.number() + 1, tries);
                            hop = fresh;
                            continue 'asking;
                        }
                        _ => waits = true,
                    },
                }
            };
            let (follower, is_fresh) = way.next(&failed);
            // Where nobody listens there is nothing to wait for: somebody else at once, or nobody.
            let nobody = error.kind() == ErrorKind::NoResponders;
            // Nor where it was turned away unseen, as long as there is somebody who was not asked yet.
            let refused = error.kind() == ErrorKind::Unavailable && !error.may_be_stored();
            let unseen = (nobody || refused) && is_fresh;
            let wait = match error.retry() {
                _ if nobody || unseen => Duration::ZERO,
                Retry::After(delay) => delay.max(self.settings.backoff.delay(attempt.number())),
                _ => self.settings.backoff.delay(attempt.number()),
            };
            let in_time = deadline.is_none_or(|deadline| after(Instant::now(), wait) < deadline);
            let in_vain = error.retry() == Retry::Never
                || (nobody && follower.target == failed.target)
                // What was never begun is not tried twice when another begins it.
                || (attempt.is_last() && !(once && unseen && !may_have_run));
            if !in_time || in_vain {
                return Err(if may_have_run {
                    error.with_unknown_outcome()
                } else {
                    error
                });
            }
            tracing::debug!(request = R::NAME, failed = %failed.target, next = %follower.target, %error, ?wait, "trying again with the same id");
            tokio::time::sleep(wait).await;
            if follower.target != failed.target {
                self.members.failed_over();
            }
            hop = follower;
            waits = false;
            if !attempt.is_last() {
                attempt = Attempt::new(attempt.number() + 1, tries);
            }
        }
    }

    /// How long a node may say nothing before another is asked, where another may be.
    fn patience(&self, deadline: Option<Instant>, once: bool, route: &Route) -> Option<Duration> {
        if once || matches!(route, Route::Fixed) {
            return None;
        }
        let left = deadline.map(|deadline| time_left(deadline) / PATIENCE);
        Some(left.unwrap_or(self.settings.node_timeout))
    }

    /// A node said nothing for too long.
    fn silent(&self, hop: &Hop) {
        self.members.failed_over();
        if let Some(member) = &hop.member {
            self.members.failed(member, hop.probe);
        }
    }

    async fn try_once<R: Request>(
        self: &Arc<Self>,
        hop: Hop,
        letter: &Envelope,
        deadline: Option<Instant>,
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
        let left = deadline.map(time_left);
        let transport = &self.backend.transport;
        let asked = transport.request(&hop.target, letter, attempt.number(), left);
        match asked.await {
            Ok(reply) => {
                let result = match reply.result {
                    Ok(bytes) => {
                        let response = self.codecs.decode(reply.content_type.as_deref(), &bytes);
                        response.map_err(Error::with_unknown_outcome)
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
