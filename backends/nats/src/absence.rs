//! Members of an `each_node` group that stay away for too long are forgotten, and leave a dead letter that says so.
//!
//! Not by the server's own threshold of inactivity, which leaves no trace.

use std::sync::Weak;
use std::time::{Duration, SystemTime};

use async_nats::jetstream::consumer::Info;
use catga_core::{Bytes, Envelope, Error, Name, QoS, Reason, ReasonKind};
use serde_json::json;

use crate::connection::Connection;
use crate::consumers;
use crate::dead_letter::{self, GivenUp};
use crate::names::Member;

/// How often members look.
const SWEEP: Duration = Duration::from_secs(60 * 60);

/// Looks from time to time, as long as there is the connection.
pub(crate) async fn keep_sweeping(
    connection: Weak<Connection>,
    message: Name,
    group: Name,
    absence: Duration,
) {
    let every = (absence / 4).clamp(Duration::from_millis(100), SWEEP);
    loop {
        tokio::time::sleep(every).await;
        let Some(connection) = connection.upgrade() else {
            return;
        };
        if let Err(error) = sweep(&connection, &message, &group, absence).await {
            tracing::debug!(%message, %group, %error, "members that stay away could not be looked for");
        }
    }
}

/// Forgets the members that nobody has been for so long.
async fn sweep(
    connection: &Connection,
    message: &Name,
    group: &Name,
    absence: Duration,
) -> Result<(), Error> {
    let stream = connection.names.stream(message);
    for info in consumers::list(connection, "sweep", &stream).await? {
        let Some(node) = Member::node_of_durable(group, &info.name) else {
            continue;
        };
        let member = Member {
            group: group.clone(),
            node: Some(node),
        };
        if info.num_waiting > 0 || silent(&info) < absence {
            continue;
        }
        // Stored before it is forgotten: nothing is lost without a word.
        let left = info.num_pending + info.num_ack_pending as u64;
        let redrives = info.name == member.redrive_durable();
        if left > 0 || !redrives {
            give_up(connection, message, &member, &info, left).await?;
        }
        let call = format!("CONSUMER.DELETE.{stream}.{}", info.name);
        let gone = connection
            .api::<serde_json::Value>("sweep", &call, &json!({}))
            .await?;
        match gone {
            Ok(_) => {
                tracing::warn!(%message, %member, left, "a member stayed away for too long and is forgotten");
            }
            Err(problem) => {
                tracing::debug!(%message, %member, %problem, "somebody else was faster");
            }
        }
    }
    Ok(())
}

/// For how long nobody has been this consumer.
fn silent(info: &Info) -> Duration {
    let last = [info.delivered.last_active, info.ack_floor.last_active];
    let last = last.into_iter().flatten().map(SystemTime::from).max();
    let last = last.unwrap_or_else(|| info.created.into());
    SystemTime::now().duration_since(last).unwrap_or_default()
}

async fn give_up(
    connection: &Connection,
    message: &Name,
    member: &Member,
    info: &Info,
    left: u64,
) -> Result<(), Error> {
    let position = info.ack_floor.stream_sequence;
    let detail = format!(
        "`{member}` stayed away; it stood at {position} of the stream, and {left} messages behind that are lost for it"
    );
    let reason = Reason::new(ReasonKind::Absent, detail);
    let envelope = Envelope::received(message.clone(), QoS::AtLeastOnce, Bytes::new());
    let given_up = GivenUp {
        member,
        reason: &reason,
        deliveries: 0,
        published: SystemTime::now(),
        generation: 0,
        sequence: position,
    };
    dead_letter::bury(connection, &envelope, &given_up).await
}
