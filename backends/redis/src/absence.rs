//! Members of an `each_node` group that stay away for too long are forgotten, and leave a dead letter that says so.

use std::sync::Weak;
use std::time::Duration;

use catga_core::{Bytes, Envelope, Error, NodeId, QoS, Reason, ReasonKind};

use crate::dead_letter::{self, GivenUp};
use crate::group::Group;
use crate::names::Member;
use crate::script;
use crate::server::Server;
use crate::time::millis;
use crate::value;
use crate::wire::EntryId;

/// How often members say that they are there, and look who is not: a part of the absence, within bounds.
const SWEEP: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(60));

/// Whether this node was given up while it was away; then it begins with what is new.
pub(crate) async fn was_given_up(
    server: &Server,
    message: &catga_core::Name,
    member: &Member,
) -> Result<bool, Error> {
    let Some(node) = &member.node else {
        return Ok(false);
    };
    let key = server.names.gone(message, &member.group);
    let mut back = redis::cmd("SREM");
    back.arg(&key).arg(node.as_str());
    let was = server
        .call("subscribe", &key, &back, server.call_deadline())
        .await?;
    let was = value::int(&was) == Some(1);
    if was {
        tracing::warn!(%message, %member, "this node stayed away for too long and was forgotten: it begins with what is new");
    }
    Ok(was)
}

/// Says that this node is there.
pub(crate) async fn note(group: &Group) -> Result<(), Error> {
    let Some(node) = &group.who.member.node else {
        return Ok(());
    };
    let server = &group.connection.server;
    let key = server.names.seen(&group.message, &group.who.member.group);
    let mut call = script::SEEN.call(1);
    call.arg(&key).arg(node.as_str()).arg(-1);
    server
        .run("subscribe", &key, &script::SEEN, &call)
        .await
        .map(drop)
}

/// Says so from time to time, and looks who is not there, as long as the member is one.
pub(crate) async fn keep_sweeping(group: Weak<Group>, absence: Duration) {
    let every = (absence / 4).clamp(SWEEP.0, SWEEP.1);
    loop {
        tokio::time::sleep(every).await;
        let Some(group) = group.upgrade() else {
            return;
        };
        let swept = async {
            note(&group).await?;
            sweep(&group, absence).await
        };
        if let Err(error) = swept.await {
            tracing::debug!(message = %group.message, %error, "members that stay away could not be looked for");
        }
    }
}

/// Forgets the members that nobody has been for so long.
async fn sweep(group: &Group, absence: Duration) -> Result<(), Error> {
    let server = &group.connection.server;
    let name = &group.who.member.group;
    let seen = server.names.seen(&group.message, name);
    let mut ask = redis::cmd("ZRANGE");
    ask.arg(&seen).arg(0).arg(-1);
    let nodes = server
        .call("sweep", &seen, &ask, server.call_deadline())
        .await?;
    for node in value::list(nodes) {
        let Some(node) = value::text(&node).and_then(|node| NodeId::new(node).ok()) else {
            continue;
        };
        if group.who.member.node.as_ref() == Some(&node) {
            continue;
        }
        let member = Member {
            group: name.clone(),
            node: Some(node),
        };
        give_up(group, &seen, &member, absence).await?;
    }
    Ok(())
}

/// Gives a member up, if it was away for so long by the server's clock.
async fn give_up(
    group: &Group,
    seen: &str,
    member: &Member,
    absence: Duration,
) -> Result<(), Error> {
    let (connection, message) = (&group.connection, &group.message);
    let server = &connection.server;
    dead_letter::announce(connection, message, member).await?;
    let (gone, dead) = (
        server.names.gone(message, &member.group),
        server.names.dead(message, &member.group),
    );
    let sources = group.sources.all();
    let mut call = script::ABSENT.call(3 + sources.len());
    call.arg(seen).arg(gone).arg(dead);
    for source in sources.iter() {
        call.arg(&source.stream);
    }
    let node = member.node.as_ref().map_or("", |node| node.as_str());
    call.arg(node).arg(member.to_string()).arg(millis(absence));
    let detail = format!(
        "`{member}` stayed away; it stood at %at of the stream, and %left messages behind that are lost for it"
    );
    let reason = Reason::new(ReasonKind::Absent, detail);
    let envelope = Envelope::received(message.clone(), QoS::AtLeastOnce, Bytes::new());
    let given_up = GivenUp {
        member,
        reason: &reason,
        deliveries: 0,
        published: EntryId::default(),
        generation: 0,
    };
    dead_letter::add_fields(&mut call, &envelope, &given_up);
    let told = server.run("sweep", seen, &script::ABSENT, &call).await?;
    if value::int(&told) == Some(1) {
        tracing::warn!(%message, %member, "a member stayed away for too long and is forgotten");
    }
    Ok(())
}
