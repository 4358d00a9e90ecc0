//! The inbox: a record for each id, made by a plain command and changed by scripts that look who owns it. Leases go by the
//! server's clock.

use std::any::Any;
use std::slice;
use std::sync::Arc;
use std::time::Duration;

use catga_core::{
    Bytes, Claim, ClaimEnd, ClaimOutcome, Effects, Error, InboxKey, InboxLimits, InboxStore, Owner,
    RemoteError, Reply, async_trait,
};
use redis::{Cmd, Value};

use crate::claim::{self, Ask, Told};
use crate::claims::did;
use crate::connection::Connection;
use crate::store::{self, Redis};
use crate::time::millis;
use crate::{error, script, value};

/// The inbox of a namespace.
#[derive(Debug)]
pub(crate) struct RedisInbox {
    connection: Arc<Connection>,
    limits: InboxLimits,
    redis: Redis,
}

impl RedisInbox {
    pub(crate) fn new(connection: Arc<Connection>) -> Self {
        Self {
            limits: connection.server.settings.inbox.unwrap_or_default(),
            redis: Redis::new(Arc::clone(&connection.server)),
            connection,
        }
    }

    fn call(&self, claim: &Claim, what: &str, keep: Duration) -> (String, Cmd) {
        let key = self.connection.server.names.inbox(&claim.key);
        let mut call = script::RECORD.call(1);
        call.arg(&key).arg(what);
        call.arg(claim.owner.as_uuid().to_string())
            .arg(millis(keep));
        (key, call)
    }

    async fn record(&self, operation: &'static str, key: &str, call: &Cmd) -> Result<(), Error> {
        let server = &self.connection.server;
        server.check_open(operation)?;
        let told = server.run(operation, key, &script::RECORD, call).await?;
        if did(&told) {
            Ok(())
        } else {
            Err(error::lost_claim(operation))
        }
    }
}

#[async_trait]
impl InboxStore for RedisInbox {
    async fn claim(
        &self,
        key: &InboxKey,
        owner: Owner,
        lease: Duration,
        generation: u32,
    ) -> Result<ClaimOutcome, Error> {
        let server = &self.connection.server;
        server.check_open("claim")?;
        let ask = Ask {
            key: server.names.inbox(key),
            owner,
            generation,
        };
        let asks = slice::from_ref(&ask);
        let told = claim::claim(server, asks, lease, self.limits.retention).await?;
        Ok(match told.into_iter().next() {
            Some(Told::Granted {
                generation,
                attempt,
                ran,
            }) => ClaimOutcome::Granted(
                // The owner alone tells claims apart here.
                Claim::new(key.clone(), owner, 1)
                    .with_generation(generation)
                    .with_attempt(attempt, ran),
            ),
            Some(Told::Running { left }) => ClaimOutcome::Running { retry_after: left },
            Some(Told::Completed(answer)) => completed(answer),
            Some(Told::Dead { generation }) => ClaimOutcome::Dead { generation },
            None => return Err(error::unreadable("claim", &ask.key)),
        })
    }

    async fn renew(&self, claim: &mut Claim, lease: Duration) -> Result<(), Error> {
        let (key, mut call) = self.call(claim, "renew", self.limits.retention);
        call.arg(millis(lease));
        self.record("renew", &key, &call).await
    }

    async fn complete(
        &self,
        claim: &Claim,
        response: Option<&Reply>,
        effects: Option<&Effects>,
    ) -> Result<(), Error> {
        store::check("complete", effects)?;
        // With its response a request is forgotten, and a later one under its id is another.
        let keep = match response {
            Some(_) => self.limits.response_retention,
            None => self.limits.retention,
        };
        let (key, mut call) = self.call(claim, "complete", keep);
        add_response(&mut call, response, self.limits.response_limit);
        store::add(&mut call, effects);
        self.record("complete", &key, &call).await
    }

    async fn release(&self, claim: &Claim, end: ClaimEnd) -> Result<(), Error> {
        let how = match end {
            ClaimEnd::NotBegun => "n",
            ClaimEnd::Stopped => "s",
            ClaimEnd::Failed => "f",
            ClaimEnd::Dead => "d",
            _ => return Err(error::unknown_settlement()),
        };
        let (key, mut call) = self.call(claim, "release", self.limits.retention);
        call.arg(how);
        self.record("release", &key, &call).await
    }

    fn commit_store(&self) -> Option<&(dyn Any + Send + Sync)> {
        Some(&self.redis)
    }
}

/// Adds the answer: body, media type, whether it is an error, whether it is too large to be kept.
fn add_response(call: &mut Cmd, response: Option<&Reply>, limit: usize) {
    let Some(response) = response else {
        call.arg("").arg("").arg("").arg("");
        return;
    };
    let (body, failed) = match &response.result {
        Ok(payload) => (payload.clone(), "0"),
        Err(error) => {
            let json = serde_json::to_vec(error).expect("texts and numbers");
            (Bytes::from(json), "1")
        }
    };
    let large = body.len() > limit;
    let body = if large { &[][..] } else { &body[..] };
    call.arg(body)
        .arg(response.content_type.as_deref().unwrap_or_default())
        .arg(failed)
        .arg(u8::from(large));
}

/// What a duplicate of a completed id is told.
fn completed(answer: Vec<Value>) -> ClaimOutcome {
    let mut parts = answer.into_iter();
    let mut part = || parts.next().and_then(value::bytes);
    let (body, content_type, failed, large) = (part(), part(), part(), part());
    let large = large.as_deref() == Some(b"1");
    let response = match (body, content_type) {
        (Some(body), Some(content_type)) if !large => {
            let content_type = String::from_utf8_lossy(&content_type).into_owned();
            let content_type = Some(content_type).filter(|it| !it.is_empty());
            if failed.as_deref() == Some(b"1") {
                serde_json::from_slice::<RemoteError>(&body)
                    .ok()
                    .map(Reply::err)
            } else {
                Some(Reply::ok(body.into()))
            }
            .map(|reply| match content_type {
                Some(content_type) => reply.with_content_type(content_type),
                None => reply,
            })
        }
        _ => None,
    };
    ClaimOutcome::Completed {
        response,
        response_dropped: large,
    }
}
