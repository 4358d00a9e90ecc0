//! What an inbox keeps of one id, and what it says to a claim: no server, no clock.

use std::time::Duration;

use catga_core::{Bytes, ClaimEnd, Owner, RemoteError, Reply};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// One id, as one group handles it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Record {
    pub(crate) state: State,
    /// Who wrote it.
    pub(crate) owner: Uuid,
    #[serde(default)]
    pub(crate) generation: u32,
    /// The grants of this generation that count.
    pub(crate) attempts: u32,
    /// Whether a run that ended may have had effects.
    #[serde(default)]
    pub(crate) ran: bool,
    /// How long who runs it has said to be heard again.
    #[serde(default)]
    lease_ms: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) response: Option<Response>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum State {
    Running,
    /// Given up, to be claimed.
    Free,
    Completed,
    Dead,
}

/// What is left of the response to a request.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Response {
    /// It was larger than what is kept.
    Dropped,
    Ok {
        /// Absent where it is the response's default.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        content_type: Option<String>,
        /// Behind the record, as it is.
        #[serde(skip)]
        payload: Bytes,
    },
    Error(RemoteError),
}

/// What is said to a claim.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Answer {
    /// Write this, and it is granted.
    Take(Record),
    /// The owner has it already, as it stands.
    Held,
    /// Somebody else has it.
    Running,
    Completed(Option<Response>),
    Dead,
}

impl Record {
    /// Nobody has claimed it yet.
    fn blank() -> Self {
        Self {
            state: State::Free,
            owner: Uuid::nil(),
            generation: 0,
            attempts: 0,
            ran: false,
            lease_ms: 0,
            response: None,
        }
    }

    /// Running, as a claim that is held says.
    pub(crate) fn running(
        owner: Owner,
        generation: u32,
        attempts: u32,
        ran: bool,
        lease: Duration,
    ) -> Self {
        Self {
            state: State::Running,
            owner: *owner.as_uuid(),
            generation,
            attempts,
            ran,
            lease_ms: millis(lease),
            response: None,
        }
    }

    /// A line of JSON, and behind it the payload of the response.
    pub(crate) fn encode(&self) -> Bytes {
        let mut bytes = serde_json::to_vec(self).expect("plain data");
        if let Some(Response::Ok { payload, .. }) = &self.response {
            bytes.push(b'\n');
            bytes.extend_from_slice(payload);
        }
        bytes.into()
    }

    pub(crate) fn decode(bytes: &Bytes) -> serde_json::Result<Self> {
        let line = bytes.iter().position(|byte| *byte == b'\n');
        let mut record: Self = serde_json::from_slice(&bytes[..line.unwrap_or(bytes.len())])?;
        if let (Some(Response::Ok { payload, .. }), Some(line)) = (&mut record.response, line) {
            *payload = bytes.slice(line + 1..);
        }
        Ok(record)
    }

    pub(crate) fn lease(&self) -> Duration {
        Duration::from_millis(self.lease_ms)
    }

    /// What the next record is when a claim is renewed.
    pub(crate) fn renewed(mut self, lease: Duration) -> Self {
        self.lease_ms = millis(lease);
        self
    }

    /// What the next record is when a claim ends that is not completed.
    pub(crate) fn ended(mut self, end: ClaimEnd) -> Self {
        if matches!(end, ClaimEnd::NotBegun | ClaimEnd::Stopped) {
            self.attempts = self.attempts.saturating_sub(1);
        }
        self.ran |= end != ClaimEnd::NotBegun;
        self.state = match end {
            ClaimEnd::Dead => State::Dead,
            _ => State::Free,
        };
        self
    }

    /// What the next record is when a claim is completed.
    pub(crate) fn completed(mut self, response: Option<Response>) -> Self {
        self.state = State::Completed;
        self.response = response;
        self
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// What is said to `owner` who claims; `expired` when the lease of who runs it is over.
pub(crate) fn answer(
    present: Option<&Record>,
    owner: Owner,
    lease: Duration,
    generation: u32,
    expired: bool,
) -> Answer {
    let blank = Record::blank();
    let record = present.unwrap_or(&blank);
    match record.state {
        State::Completed => return Answer::Completed(record.response.clone()),
        // Its dead letter was stored, and taken out for the redrive that is being handled.
        State::Running | State::Free if generation < record.generation => {
            return Answer::Completed(None);
        }
        State::Dead if generation <= record.generation => return Answer::Dead,
        State::Running if record.owner == *owner.as_uuid() => return Answer::Held,
        State::Running if !expired => return Answer::Running,
        _ => {}
    }
    let attempts = if generation > record.generation {
        0
    } else {
        record.attempts
    };
    let ran = record.ran || record.state == State::Running;
    Answer::Take(Record::running(owner, generation, attempts + 1, ran, lease))
}

impl Response {
    /// What is kept of a reply.
    pub(crate) fn of(reply: &Reply, limit: usize) -> Self {
        let size = match &reply.result {
            Ok(payload) => payload.len(),
            Err(error) => error.message.len(),
        };
        if size > limit {
            return Self::Dropped;
        }
        match &reply.result {
            Ok(payload) => Self::Ok {
                content_type: reply.content_type.as_deref().map(str::to_owned),
                payload: payload.clone(),
            },
            Err(error) => Self::Error(error.clone()),
        }
    }

    /// The reply, when it was kept.
    pub(crate) fn into_reply(self) -> Option<Reply> {
        match self {
            Self::Dropped => None,
            Self::Ok {
                content_type,
                payload,
            } => {
                let mut reply = Reply::ok(payload);
                reply.content_type = content_type.map(Into::into);
                Some(reply)
            }
            Self::Error(error) => Some(Reply::err(error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEASE: Duration = Duration::from_secs(1);

    fn claim(present: Option<&Record>, owner: Owner, generation: u32, expired: bool) -> Answer {
        answer(present, owner, LEASE, generation, expired)
    }

    #[track_caller]
    fn taken(answer: Answer) -> Record {
        match answer {
            Answer::Take(record) => record,
            other => panic!("not granted: {other:?}"),
        }
    }

    #[test]
    fn one_owner_has_it_until_its_lease_is_over() {
        let (one, two) = (Owner::new(), Owner::new());
        let first = taken(claim(None, one, 0, false));
        assert_eq!(
            (first.attempts, first.ran, first.lease()),
            (1, false, LEASE)
        );
        assert_eq!(claim(Some(&first), two, 0, false), Answer::Running);
        assert_eq!(claim(Some(&first), one, 0, false), Answer::Held);
        let second = taken(claim(Some(&first), two, 0, true));
        assert_eq!((second.attempts, second.ran), (2, true));
    }

    #[test]
    fn the_end_of_a_claim_decides_what_counts() {
        let owner = Owner::new();
        for (end, attempts, ran) in [
            (ClaimEnd::NotBegun, 1, false),
            (ClaimEnd::Stopped, 1, true),
            (ClaimEnd::Failed, 2, true),
        ] {
            let ended = taken(claim(None, owner, 0, false)).ended(end);
            let again = taken(claim(Some(&ended), Owner::new(), 0, false));
            assert_eq!((again.attempts, again.ran), (attempts, ran), "{end:?}");
        }
    }

    #[test]
    fn completed_is_final_in_every_generation() {
        let reply = Reply::ok("yes".into());
        let kept = Response::of(&reply, 3);
        let done = taken(claim(None, Owner::new(), 0, false)).completed(Some(kept.clone()));
        for generation in [0, 1] {
            let answer = claim(Some(&done), Owner::new(), generation, true);
            assert_eq!(answer, Answer::Completed(Some(kept.clone())));
        }
        assert_eq!(kept.into_reply(), Some(reply.clone()));
        assert_eq!(Response::of(&reply, 2).into_reply(), None);
    }

    #[test]
    fn what_is_dead_only_the_next_generation_claims() {
        let dead = taken(claim(None, Owner::new(), 0, false)).ended(ClaimEnd::Dead);
        assert_eq!(claim(Some(&dead), Owner::new(), 0, true), Answer::Dead);
        let redriven = taken(claim(Some(&dead), Owner::new(), 1, false));
        assert_eq!(
            (redriven.generation, redriven.attempts, redriven.ran),
            (1, 1, true)
        );
        // A copy of the generation before has nothing to do any more.
        assert_eq!(
            claim(Some(&redriven), Owner::new(), 0, true),
            Answer::Completed(None)
        );
        let free = redriven.ended(ClaimEnd::Failed);
        assert_eq!(
            claim(Some(&free), Owner::new(), 0, false),
            Answer::Completed(None)
        );
        assert_eq!(
            taken(claim(Some(&free), Owner::new(), 1, false)).attempts,
            2
        );
    }

    #[test]
    fn a_record_survives_the_wire() {
        let mut record = taken(claim(None, Owner::new(), 3, false));
        for response in [
            None,
            Some(Response::Dropped),
            Some(Response::of(&Reply::ok(Bytes::new()), 9)),
            Some(Response::of(&Reply::ok(vec![0, b'\n', 255].into()), 9)),
        ] {
            record.response = response;
            assert_eq!(Record::decode(&record.encode()).unwrap(), record);
        }
    }
}
