//! A user who may do what the backend's documentation lists, and nothing else: row 92.

use std::num::NonZeroU16;
use std::time::Duration;

use catga::prelude::{Result, handlers};
use catga::{
    Bytes, DeadLetterFilter, Envelope, ErrorKind, HandlerError, MessageId, Name, NodeId, QoS,
};
use catga_core::{
    Completion, Consumers, Delivery, InboxKey, Owner, Reason, ReasonKind, Reply, Serve, Settlement,
    Subscribe, Subscription, Target,
};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use crate::harness::{Bus, scenarios};
use crate::site::{OwnServer, SiteOptions};

scenarios! { Backend "server_permissions":
    Real the_list_is_enough [92],
    Real each_entry_is_needed [92],
}

const NAME: Name = Name::from_static("orders.created");
const PAID: Name = Name::from_static("orders.paid");
const MOVED: Name = Name::from_static("orders.moved");
const GROUP: Name = Name::from_static("readers");
/// The longest for what is allowed.
const LIMIT: Duration = Duration::from_secs(5);

/// Row 92: everything works for a user who has the permissions that are listed.
async fn the_list_is_enough(bus: Bus) -> Result<()> {
    let listed = bus.own_server()?.site().permissions();
    everything(&restricted(&bus, listed)?).await
}

/// Row 92: without any one of them something does not.
async fn each_entry_is_needed(bus: Bus) -> Result<()> {
    let listed = bus.own_server()?.site().permissions();
    assert!(!listed.is_empty(), "nothing is listed");
    let mut tries = JoinSet::new();
    for without in 0..listed.len() {
        let mut entries = listed.clone();
        let entry = entries.remove(without);
        let bus = bus.clone();
        tries.spawn(async move {
            let server = restricted(&bus, entries)?;
            Result::<_>::Ok((entry, everything(&server).await))
        });
    }
    while let Some(tried) = tries.join_next().await {
        let (entry, done) = tried??;
        assert!(done.is_err(), "`{entry}` is not needed");
    }
    Ok(())
}

fn restricted(bus: &Bus, entries: Vec<String>) -> Result<OwnServer> {
    bus.own_server_with(&SiteOptions {
        permissions: Some(entries),
        ..SiteOptions::default()
    })
}

fn message(qos: QoS) -> Envelope {
    Envelope::received(NAME, qos, Bytes::from("text")).with_id(MessageId::new())
}

fn in_group(qos: QoS) -> Subscribe {
    Subscribe::new(NAME, qos, Consumers::Group(GROUP))
}

fn on_node(node: &'static str) -> Subscribe {
    let (group, node) = (GROUP, NodeId::from_static(node));
    Subscribe::new(NAME, QoS::AtLeastOnce, Consumers::EachNode { group, node })
}

async fn next(from: &mut dyn Subscription) -> Result<Delivery> {
    let mut received = Vec::new();
    while received.is_empty() {
        timeout(LIMIT, from.recv(1, &mut received)).await??;
    }
    Ok(received.remove(0))
}

async fn bury(delivery: Delivery) -> Result<()> {
    let reason = Reason::new(ReasonKind::Terminal, "no");
    let dead = Settlement::DeadLetter {
        reason,
        claim: None,
    };
    Ok(delivery.settle(dead).await?)
}

/// All that a backend does, once.
async fn everything(server: &OwnServer) -> Result<()> {
    let node = server.bus().observer().await?;
    let backend = node.backend().clone();
    if backend.registry.is_some() {
        // Another of its name finds it.
        let double = server.bus().node("observer").handlers(handlers![]);
        match double.start().await {
            Err(error) if error.kind() == ErrorKind::DuplicateNode => {}
            Err(error) => return Err(error.into()),
            Ok(_) => return Err(HandlerError::terminal("two nodes have one id")),
        }
    }
    let bus = backend.transport;

    let mut events = bus.subscribe(&in_group(QoS::AtMostOnce)).await?;
    bus.publish(&mut message(QoS::AtMostOnce), LIMIT).await?;
    drop(next(&mut *events).await?);

    let mut group = bus.subscribe(&in_group(QoS::AtLeastOnce)).await?;
    bus.publish(&mut message(QoS::AtLeastOnce), LIMIT).await?;
    let after = Duration::from_millis(50);
    let first = next(&mut *group).await?;
    first.settle(Settlement::Nak { after }).await?;
    let mut again = next(&mut *group).await?;
    again.extend().await?;
    bury(again).await?;
    let letters = backend.dead_letters.expect("it keeps dead letters");
    let all = DeadLetterFilter::all();
    let page = letters.list(&all, None, 10).await?;
    let [letter] = page.letters.as_slice() else {
        return Err(HandlerError::terminal("there is no dead letter"));
    };
    letters.redrive(&letter.id).await?;
    bury(next(&mut *group).await?).await?;
    if letters.purge(&all).await? != 1 {
        return Err(HandlerError::terminal("nothing was purged"));
    }

    let once = Subscribe::new(PAID, QoS::ExactlyOnce, Consumers::Group(GROUP));
    let mut paid = bus.subscribe(&once).await?;
    let mut payment = Envelope::received(PAID, QoS::ExactlyOnce, Bytes::from("text"));
    bus.publish(&mut payment, LIMIT).await?;
    bury(next(&mut *paid).await?).await?;
    let mut payment = Envelope::received(PAID, QoS::ExactlyOnce, Bytes::from("text"));
    bus.publish(&mut payment, LIMIT).await?;
    let completed = Settlement::Complete(Completion::new());
    next(&mut *paid).await?.settle(completed).await?;

    let ordered = Subscribe::new(MOVED, QoS::AtLeastOnce, Consumers::Group(GROUP));
    let mut moved = bus
        .subscribe(&ordered.with_ordered(NonZeroU16::new(2)))
        .await?;
    for partition in 0..2 {
        let moving = Envelope::received(MOVED, QoS::AtLeastOnce, Bytes::from("text"));
        bus.publish(&mut moving.with_partition(Some(partition)), LIMIT)
            .await?;
        next(&mut *moved).await?.settle(Settlement::Ack).await?;
    }

    let inbox = backend.inbox.expect("it has an inbox");
    let key = InboxKey::new(NAME, NAME, MessageId::new());
    for _ in 0..2 {
        inbox.claim(&key, Owner::new(), LIMIT, 0).await?;
    }

    let serve = Serve::new(NAME, NAME, NodeId::from_static("n"));
    let mut requests = bus.serve(&serve).await?;
    for to in [
        Target::Service(NAME),
        Target::Node(NodeId::from_static("n")),
    ] {
        let asked = message(QoS::AtLeastOnce);
        let answer = async {
            let response = Completion::new().with_response(Reply::ok("re".into()));
            let delivery = next(&mut *requests).await?;
            delivery.settle(Settlement::Complete(response)).await?;
            Result::<()>::Ok(())
        };
        let (asked, answered) = tokio::join!(bus.request(&to, &asked, 1, Some(LIMIT)), answer);
        asked?;
        answered?;
    }
    requests.close().await?;
    let asked = message(QoS::AtLeastOnce);
    let service = Target::Service(NAME);
    match bus.request(&service, &asked, 1, Some(LIMIT)).await {
        Err(error) if error.kind() == ErrorKind::NoResponders => {}
        other => {
            let text = format!("nobody is there to answer, and it came to {other:?}");
            return Err(HandlerError::terminal(text));
        }
    }

    drop(bus.subscribe(&on_node("gone")).await?);
    let stays = on_node("stays").with_absence(Duration::from_millis(400));
    let _stays = bus.subscribe(&stays).await?;
    let (gone, by) = (NodeId::from_static("gone"), Instant::now() + LIMIT);
    while server.site().has_member(&NAME, &GROUP, &gone).await? {
        if Instant::now() > by {
            return Err(HandlerError::terminal("who stays away is not forgotten"));
        }
        sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}
