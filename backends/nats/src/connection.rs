//! One connection to NATS, and calls on it that end in time.

use std::fmt;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_nats::jetstream::{self, response::Response};
use async_nats::{Client, HeaderMap, Message, PublishError, StatusCode, Subject, Subscriber};
use catga_core::{Bytes, ConnectionState, Error, Name};
use futures_util::{FutureExt, StreamExt};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::select;
use tokio::sync::Notify;
use tokio::task::{AbortHandle, unconstrained};
use tokio::time::{Instant, sleep_until, timeout_at};

use crate::acks::Acks;
use crate::closed::Closed;
use crate::dead_letter::DeadStream;
use crate::link::Link;
use crate::names::Names;
use crate::options::Settings;
use crate::replies::{Expected, Replies};
use crate::streams::Routes;
use crate::subjects::Subjects;
use crate::time::from_now;
use crate::{dial, error};

/// What a message may be smaller than the server's limit, so that a copy of it in the dead letters fits too.
const RESERVE: usize = 2048;

/// Almost all answers come before this; then it is worth asking why one does not.
const PROMPT: Duration = Duration::from_millis(100);

/// How long the server's word on a refused subscription may take from the client's reader to us.
const WORD: Duration = Duration::from_millis(50);

/// A connection, shared by all that came from it.
pub(crate) struct Connection {
    pub(crate) client: Client,
    pub(crate) names: Names,
    pub(crate) settings: Settings,
    pub(crate) link: Arc<Link>,
    pub(crate) closed: Closed,
    draining: AtomicBool,
    /// The streams of messages that were found.
    pub(crate) routes: Routes,
    pub(crate) subjects: Subjects,
    /// The stream of dead letters, when it was found.
    pub(crate) dead: DeadStream,
    pub(crate) acks: Acks,
    /// Told when a publish met a full stream.
    pub(crate) full: Arc<Notify>,
    jetstream: jetstream::Context,
    /// What subjects of JetStream's API begin with.
    api: String,
    replies: Arc<Replies>,
    /// Ends with the connection.
    dispatcher: AbortHandle,
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection")
            .field("settings", &self.settings)
            .field("link", &self.link)
            .finish_non_exhaustive()
    }
}

/// Something that was sent and is to be answered.
#[derive(Debug)]
pub(crate) struct Sent {
    operation: &'static str,
    subject: Subject,
    expected: Expected,
    /// The refusals before it.
    refused: u64,
    /// The connections that were lost before it; none where an answer may come by another.
    lost: Option<u64>,
    at: Instant,
}

impl Sent {
    /// Where it went.
    pub(crate) fn subject(&self) -> &Subject {
        &self.subject
    }

    /// When it went.
    pub(crate) fn at(&self) -> Instant {
        self.at
    }

    /// Says that it is asked once, so that it is worth waiting for an answer by the next connection.
    pub(crate) fn only_once(mut self) -> Self {
        self.lost = None;
        self
    }
}

impl Connection {
    /// Connects, or says why not.
    pub(crate) async fn open(settings: Settings, namespace: &Name) -> Result<Self, Error> {
        let names = Names::new(namespace, &settings.inbox_prefix)?;
        let link = Arc::new(Link::default());
        let client = dial::client(&settings, &link).await?;
        let version = client.server_info().version;
        if !client.is_server_compatible(2, 9, 0) {
            return Err(error::too_old(&version));
        }
        tracing::info!(version, "nats-server");
        // The event comes by a task of its own.
        link.hear(&async_nats::Event::Connected);
        let replies = Arc::new(Replies::new(&client.new_inbox()));
        let subscribed = client.subscribe(replies.wildcard()).await;
        let inbox = subscribed.map_err(|error| error::not_subscribed("connect", error))?;
        let dispatcher = tokio::spawn(dispatch(inbox, Arc::clone(&replies))).abort_handle();
        let (jetstream, api) = jetstream_of(&client, &settings);
        let acks = Acks::of(client.clone());
        let this = Self {
            client,
            names,
            settings,
            link,
            closed: Closed::default(),
            draining: AtomicBool::new(false),
            routes: Routes::default(),
            subjects: Subjects::default(),
            dead: DeadStream::default(),
            acks,
            full: Arc::default(),
            jetstream,
            api,
            replies,
            dispatcher,
        };
        // Without answers everything later would only run out of time.
        this.round_trip("connect").await?;
        Ok(this)
    }

    pub(crate) fn check_open(&self, operation: &'static str) -> Result<(), Error> {
        if self.closed.is_raised() {
            Err(error::closed(operation))
        } else {
            Ok(())
        }
    }

    pub(crate) fn state(&self) -> ConnectionState {
        if self.closed.is_raised() {
            ConnectionState::Closed
        } else if self.draining.load(Ordering::SeqCst) {
            ConnectionState::Draining
        } else if self.is_connected() {
            ConnectionState::Connected
        } else {
            ConnectionState::Reconnecting
        }
    }

    fn is_connected(&self) -> bool {
        // Where an event was lost the client itself knows.
        self.link.is_connected()
            || self.client.connection_state() == async_nats::connection::State::Connected
    }

    /// The most bytes of a message with its headers.
    pub(crate) fn max_payload(&self) -> usize {
        self.client.max_payload().saturating_sub(RESERVE)
    }

    /// When a call that begins now is to end.
    pub(crate) fn call_deadline(&self) -> Instant {
        from_now(self.settings.call_timeout)
    }

    /// A subject of JetStream's API.
    pub(crate) fn api_subject(&self, call: &str) -> Subject {
        format!("{}.{call}", self.api).into()
    }

    /// Calls JetStream's API.
    pub(crate) async fn api<T: DeserializeOwned>(
        &self,
        operation: &'static str,
        call: &str,
        payload: &impl Serialize,
    ) -> Result<Result<T, jetstream::Error>, Error> {
        self.check_open(operation)?;
        self.connected(operation, self.call_deadline()).await?;
        let refused = self.link.refused();
        let subject = self.api_subject(call);
        let by = self.call_deadline() + PROMPT;
        let asked = self.jetstream.request(call.to_owned(), payload);
        let asked = timeout_at(by, asked);
        let denied = self.link.until(|link| link.has_refused(&subject, refused));
        let answer = select! {
            biased;
            answer = asked => answer,
            () = denied => return Err(error::denied(operation, &subject)),
        };
        match answer {
            Ok(Ok(Response::Ok(answer))) => Ok(Ok(answer)),
            Ok(Ok(Response::Err { error })) => Ok(Err(error)),
            Ok(Err(error)) => Err(error::api(operation, &subject, error)),
            Err(_) => Err(error::unanswered(operation, &subject)),
        }
    }

    /// Waits until there is a connection.
    pub(crate) async fn connected(
        &self,
        operation: &'static str,
        by: Instant,
    ) -> Result<(), Error> {
        if self.is_connected() {
            return Ok(());
        }
        let connected = self.link.until(|_| self.is_connected());
        select! {
            biased;
            () = connected => Ok(()),
            () = self.closed.raised() => Err(error::closed(operation)),
            () = sleep_until(by) => {
                let problem = self.link.problem();
                Err(error::not_connected(operation, problem.as_ref().map(|text| text.as_str())))
            }
        }
    }

    /// Publishes, and waits for nothing but room in the client's queue.
    pub(crate) async fn publish(
        &self,
        operation: &'static str,
        subject: Subject,
        headers: Option<HeaderMap>,
        payload: Bytes,
        by: Instant,
    ) -> Result<(), Error> {
        let sent = timeout_at(by, async {
            match headers {
                None => self.client.publish(subject, payload).await,
                Some(headers) => {
                    self.client
                        .publish_with_headers(subject, headers, payload)
                        .await
                }
            }
        });
        match sent.await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(error::not_sent(operation, error)),
            Err(_) => Err(error::queue_full(operation)),
        }
    }

    /// As [`publish`](Self::publish), when the client has room at once.
    pub(crate) fn try_publish(
        &self,
        operation: &'static str,
        subject: Subject,
        headers: Option<HeaderMap>,
        payload: Bytes,
    ) -> Option<Result<(), Error>> {
        // Else a task that has done much in its turn would find no room where there is some.
        // Pinned where they are made: to move them would cost a tenth of the call.
        let queued = match headers {
            None => unconstrained(pin!(self.client.publish(subject, payload))).now_or_never(),
            Some(headers) => {
                let queued = pin!(self.client.publish_with_headers(subject, headers, payload));
                unconstrained(queued).now_or_never()
            }
        };
        queued.map(|queued| queued.map_err(|error| error::not_sent(operation, error)))
    }

    /// As [`try_publish`](Self::try_publish), to be answered to a subject of ours.
    pub(crate) fn try_ask(
        &self,
        operation: &'static str,
        subject: Subject,
        reply: Subject,
        payload: Bytes,
    ) -> Option<Result<(), Error>> {
        let queued = pin!(self.client.publish_with_reply(subject, reply, payload));
        let queued = unconstrained(queued).now_or_never();
        queued.map(|queued| queued.map_err(|error| error::not_sent(operation, error)))
    }

    /// Sends what is to be answered. Whatever fails here was not handed over.
    pub(crate) async fn send(
        &self,
        operation: &'static str,
        subject: Subject,
        tail: &(impl fmt::Display + Sync),
        headers: impl Fn() -> Option<HeaderMap> + Send + Sync,
        payload: Bytes,
        by: Instant,
    ) -> Result<Sent, Error> {
        self.check_open(operation)?;
        if !self.link.is_connected() {
            // A box, as for all that is seldom waited for: the futures of the others stay small.
            Box::pin(self.connected(operation, by)).await?;
        }
        let expected = self.replies.expect();
        let expected = expected.ok_or_else(|| error::too_many_waiting(operation))?;
        let sent = Sent {
            operation,
            subject,
            expected,
            refused: self.link.refused(),
            lost: Some(self.link.lost()),
            at: Instant::now(),
        };
        let reply = Subject::from(sent.expected.subject_with(tail));
        let asking = |headers| self.ask_client(&sent.subject, &reply, headers, &payload);
        // As in `try_publish`: the client's queue is seldom full.
        let handed = {
            let asked = pin!(asking(headers()));
            unconstrained(asked).now_or_never()
        };
        let handed = match handed {
            Some(handed) => Ok(handed),
            None => Box::pin(timeout_at(by, asking(headers()))).await,
        };
        match handed {
            Ok(Ok(())) => Ok(sent),
            Ok(Err(error)) => Err(error::not_sent(operation, error)),
            Err(_) => Err(error::queue_full(operation)),
        }
    }

    /// Hands a question to the client.
    async fn ask_client(
        &self,
        subject: &Subject,
        reply: &Subject,
        headers: Option<HeaderMap>,
        payload: &Bytes,
    ) -> Result<(), PublishError> {
        let (client, subject, reply) = (&self.client, subject.clone(), reply.clone());
        let payload = payload.clone();
        match headers {
            None => client.publish_with_reply(subject, reply, payload).await,
            Some(headers) => {
                client
                    .publish_with_reply_and_headers(subject, reply, headers, payload)
                    .await
            }
        }
    }

    /// Waits for the answer. It does not come by another connection than the question went by: when that is lost
    /// the caller asks again, with the same id.
    pub(crate) async fn answer(&self, sent: &mut Sent, by: Instant) -> Result<Message, Error> {
        let operation = sent.operation;
        let prompt = by.min(sent.at + PROMPT);
        match timeout_at(prompt, &mut sent.expected.answer).await {
            Ok(answer) => answer.map_err(|_| error::closed_meanwhile(operation)),
            Err(_) => Box::pin(self.late_answer(sent, by)).await,
        }
    }

    async fn late_answer(&self, sent: &mut Sent, by: Instant) -> Result<Message, Error> {
        let operation = sent.operation;
        let answer = &mut sent.expected.answer;
        let (subject, since, before) = (&sent.subject, sent.refused, sent.lost);
        let denied = self.link.until(|link| link.has_refused(subject, since));
        let lost = self
            .link
            .until(|link| before.is_some_and(|before| link.lost() != before));
        select! {
            biased;
            answer = answer => answer.map_err(|_| error::closed_meanwhile(operation)),
            () = denied => Err(error::denied(operation, subject)),
            () = self.closed.raised() => Err(error::closed_meanwhile(operation)),
            () = lost => Err(error::lost(operation, subject)),
            () = sleep_until(by) => Err(error::unanswered(operation, subject)),
        }
    }

    /// Sends and waits for the answer.
    pub(crate) async fn ask(
        &self,
        operation: &'static str,
        subject: Subject,
        headers: impl Fn() -> Option<HeaderMap> + Send + Sync,
        payload: Bytes,
        by: Instant,
    ) -> Result<Message, Error> {
        let mut sent = self
            .send(operation, subject, &"", headers, payload, by)
            .await?;
        self.answer(&mut sent, by).await
    }

    /// Makes sure that the server has seen what was sent before.
    pub(crate) async fn round_trip(&self, operation: &'static str) -> Result<(), Error> {
        let by = self.call_deadline();
        let expected = self.replies.expect();
        let mut expected = expected.ok_or_else(|| error::too_many_waiting(operation))?;
        let to_us = Subject::from(expected.subject());
        let refused = self.link.refused();
        self.publish(operation, to_us.clone(), None, Bytes::new(), by)
            .await?;
        let inbox = self.replies.wildcard();
        let denied = self
            .link
            .until(|link| link.has_refused(&to_us, refused) || link.has_refused(&inbox, 0));
        select! {
            biased;
            () = denied => Err(error::denied(operation, &inbox)),
            back = timeout_at(by, &mut expected.answer) => match back {
                Ok(Ok(_)) => Ok(()),
                _ => Err(error::unanswered(operation, &to_us)),
            },
            () = self.closed.raised() => Err(error::closed(operation)),
        }
    }

    /// Subscribes: when this returns, the server knows.
    pub(crate) async fn subscribe(
        &self,
        operation: &'static str,
        subject: Subject,
        queue: Option<String>,
    ) -> Result<Subscriber, Error> {
        self.check_open(operation)?;
        self.connected(operation, self.call_deadline()).await?;
        let refused = self.link.refused();
        let made = match queue {
            None => self.client.subscribe(subject.clone()).await,
            Some(queue) => self.client.queue_subscribe(subject.clone(), queue).await,
        };
        let subscriber = made.map_err(|error| error::not_subscribed(operation, error))?;
        self.round_trip(operation).await?;
        let denied = self.link.until(|link| link.has_refused(&subject, refused));
        match timeout_at(Instant::now() + WORD, denied).await {
            Ok(()) => Err(error::denied(operation, &subject)),
            Err(_) => Ok(subscriber),
        }
    }

    /// Waits until what was handed to the client has left this process.
    pub(crate) async fn flush(&self, operation: &'static str) -> Result<(), Error> {
        self.check_open(operation)?;
        let flushed = async {
            self.acks.flushed().await;
            self.client.flush().await
        };
        match timeout_at(self.call_deadline(), flushed).await {
            Ok(Ok(())) if self.is_connected() => Ok(()),
            Ok(Ok(())) => Err(error::not_connected(operation, None)),
            Ok(Err(_)) => Err(error::closed(operation)),
            Err(_) => Err(error::queue_full(operation)),
        }
    }

    /// Flushes and closes. Who closes twice hears nothing of it.
    pub(crate) async fn close(&self) -> Result<(), Error> {
        if self.closed.is_raised() || self.draining.swap(true, Ordering::SeqCst) {
            return Ok(());
        }
        // Whoever does not wait for the flush closes it all the same.
        let closing = Closing(&self.closed);
        let flushed = if self.is_connected() {
            self.flush("close").await
        } else {
            Err(error::not_connected("close", None))
        };
        drop(closing);
        // Takes the connection down; when the client is stuck, dropping it does.
        let _ = timeout_at(self.call_deadline(), self.client.drain()).await;
        self.dispatcher.abort();
        let late = self.replies.late();
        if late > 0 {
            tracing::info!(late, "answers came late or twice and were dropped");
        }
        flushed
    }
}

/// Raises the end of a connection, however its closing ends.
struct Closing<'a>(&'a Closed);

impl Drop for Closing<'_> {
    fn drop(&mut self) {
        self.0.raise();
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.closed.raise();
        self.dispatcher.abort();
    }
}

async fn dispatch(mut inbox: Subscriber, replies: Arc<Replies>) {
    while let Some(message) = inbox.next().await {
        replies.deliver(message);
    }
}

fn jetstream_of(client: &Client, settings: &Settings) -> (jetstream::Context, String) {
    let mut context = match &settings.domain {
        Some(domain) => jetstream::with_domain(client.clone(), domain),
        None => jetstream::new(client.clone()),
    };
    context.set_timeout(settings.call_timeout);
    let api = match &settings.domain {
        Some(domain) => format!("$JS.{domain}.API"),
        None => "$JS.API".to_owned(),
    };
    (context, api)
}

/// Whether nobody was there to answer.
pub(crate) fn is_no_responders(message: &Message) -> bool {
    message.status == Some(StatusCode::NO_RESPONDERS)
}
