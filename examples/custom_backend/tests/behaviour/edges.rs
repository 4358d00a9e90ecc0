//! What can be seen in its folder, and at its edges.

use std::num::NonZeroU16;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use catga_core::{
    Bytes, Claim, Completion, ConnectionState, Consumers, DeadLetterFilter, DeadLetterId, Envelope,
    ErrorKind, Headers, InboxKey, MessageId, Name, Owner, QoS, Reason, ReasonKind, Serve,
    Settlement, Start, Subscribe, Target,
};

use tokio::time::{sleep, timeout};

use crate::common::*;

#[tokio::test]
async fn a_message_comes_as_it_was_published() {
    let folder = folder();
    let (here, there) = (
        connect(folder.path(), QUICK).await,
        connect(folder.path(), "sync=true").await,
    );
    let mut subscription = subscribe(&here, &to_group("g")).await;
    let mut headers = Headers::new();
    headers.insert("tenant", "acme").unwrap();
    let id = MessageId::from_key("1");
    let mut sent = message("one")
        .with_id(id)
        .with_version(4)
        .with_headers(headers);
    there.transport.publish(&mut sent, SOON).await.unwrap();

    let got = next(&mut *subscription).await;
    let envelope = got.envelope();
    assert_eq!((text(&got), envelope.id()), ("one", Some(id)));
    assert_eq!((envelope.version(), envelope.qos()), (4, QoS::AtLeastOnce));
    assert_eq!(envelope.headers(), sent.headers());
    assert_eq!(
        (got.count(), got.generation(), got.may_have_run()),
        (1, 0, false)
    );
}

#[tokio::test]
async fn each_group_gets_each_message_once_from_where_it_begins() {
    let folder = folder();
    let backend = connect(folder.path(), QUICK).await;
    publish(&backend, "before").await.unwrap();
    let mut oldest = subscribe(&backend, &to_group("oldest")).await;
    let mut new = subscribe(&backend, &to_group("new").with_start(Start::New)).await;
    // Who joins later begins where the group is.
    let mut late = subscribe(&backend, &to_group("new")).await;
    publish(&backend, "after").await.unwrap();

    assert_eq!(drain(&mut *oldest).await, ["before", "after"]);
    assert_eq!(drain(&mut *new).await, ["after"]);
    assert_eq!(drain(&mut *late).await, [""; 0]);
    assert_eq!(oldest.stats().waiting, Some(0));
}

#[tokio::test]
async fn members_in_two_processes_share_in_order() {
    let folder = folder();
    let (here, there) = (
        connect(folder.path(), QUICK).await,
        connect(folder.path(), QUICK).await,
    );
    let group = to_group("g").with_max_in_flight(10);
    let mut a = subscribe(&here, &group).await;
    let mut b = subscribe(&there, &group).await;
    for number in 0..30 {
        publish(&here, &format!("{number:02}")).await.unwrap();
    }
    let first = batch(&mut *a).await;
    assert_eq!(first.len(), 10, "no more than are allowed in flight");
    let mut got = drain(&mut *b).await;
    got.extend(first.iter().map(|delivery| text(delivery).to_owned()));
    let in_order: Vec<_> = (0..30).map(|number| format!("{number:02}")).collect();
    assert_eq!(got[..20], in_order[10..]);
    assert_eq!(got[20..], in_order[..10]);
}

#[tokio::test]
async fn a_lease_that_ran_out_is_another_members() {
    let folder = folder();
    let (here, there) = (
        connect(folder.path(), QUICK).await,
        connect(folder.path(), QUICK).await,
    );
    let brief = to_group("g").with_ack_wait(Duration::from_millis(50));
    let mut a = subscribe(&here, &brief).await;
    let mut b = subscribe(&there, &to_group("g")).await;
    for text in ["acked", "naked", "buried", "extended"] {
        publish(&here, text).await.unwrap();
        let mut lost = next(&mut *a).await;
        let again = next(&mut *b).await;
        assert_eq!((again.count(), again.may_have_run()), (2, true));
        assert_eq!(
            lost.extend().await.unwrap_err().kind(),
            ErrorKind::LostOwnership
        );
        let settlement = match text {
            "acked" => Settlement::Ack,
            "naked" => Settlement::Nak {
                after: Duration::ZERO,
            },
            _ => Settlement::DeadLetter {
                reason: Reason::new(ReasonKind::Terminal, "late"),
                claim: None,
            },
        };
        let error = lost.settle(settlement).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::LostOwnership, "{text}");
        again.settle(Settlement::Ack).await.unwrap();
    }
    assert_eq!(
        files(folder.path(), "topics/orders.shipped/messages").len(),
        0
    );
    let letters = here.dead_letters.unwrap();
    let page = letters
        .list(&DeadLetterFilter::all(), None, 10)
        .await
        .unwrap();
    assert!(page.letters.is_empty());
}

#[tokio::test]
async fn a_lease_that_is_over_counts_as_lost_before_anybody_takes_it() {
    let folder = folder();
    let backend = connect(folder.path(), QUICK).await;
    let brief = to_group("g").with_ack_wait(Duration::from_millis(20));
    let mut subscription = subscribe(&backend, &brief).await;
    publish(&backend, "one").await.unwrap();
    let late = next(&mut *subscription).await;
    sleep(Duration::from_millis(30)).await;
    let error = late
        .settle(Settlement::Release { began: false })
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::LostOwnership);
    let late = next(&mut *subscription).await;
    assert_eq!(late.count(), 2);
    sleep(Duration::from_millis(30)).await;
    late.settle(Settlement::Ack)
        .await
        .expect("it was handled, and nobody else has it");
    assert_eq!(
        files(folder.path(), "topics/orders.shipped/messages").len(),
        0
    );
}

#[tokio::test]
async fn a_lease_that_is_extended_is_kept() {
    let folder = folder();
    let backend = connect(folder.path(), QUICK).await;
    let lease = Duration::from_secs(1);
    let mut a = subscribe(&backend, &to_group("g").with_ack_wait(lease)).await;
    let mut b = subscribe(&backend, &to_group("g")).await;
    publish(&backend, "one").await.unwrap();
    let mut long = next(&mut *a).await;
    let began = Instant::now();
    while began.elapsed() < lease * 2 {
        let mut none = Vec::new();
        assert!(timeout(lease / 10, b.recv(1, &mut none)).await.is_err());
        long.extend().await.unwrap();
    }
    long.settle(Settlement::Ack).await.unwrap();
    assert_eq!(drain(&mut *b).await, [""; 0]);
}

#[tokio::test]
async fn a_nak_waits_for_its_delay_also_without_its_member() {
    let folder = folder();
    let there = connect(folder.path(), QUICK).await;
    let mut b = subscribe(&there, &to_group("g")).await;
    let delay = Duration::from_millis(300);
    let began = {
        let here = connect(folder.path(), QUICK).await;
        publish(&here, "one").await.unwrap();
        let mut a = subscribe(&here, &to_group("g")).await;
        let began = Instant::now();
        next(&mut *a)
            .await
            .settle(Settlement::Nak { after: delay })
            .await
            .unwrap();
        here.transport.close().await.unwrap();
        began
    };
    let again = next(&mut *b).await;
    assert!(began.elapsed() >= delay);
    assert_eq!(again.count(), 2);
}

#[tokio::test]
async fn what_is_released_or_deferred_does_not_count() {
    let folder = folder();
    let backend = connect(folder.path(), QUICK).await;
    let mut subscription = subscribe(&backend, &to_group("g")).await;
    publish(&backend, "old").await.unwrap();
    let old = next(&mut *subscription).await;
    publish(&backend, "new").await.unwrap();
    old.settle(Settlement::Release { began: true })
        .await
        .unwrap();
    let [old, new] = <[_; 2]>::try_from(batch(&mut *subscription).await).unwrap();
    assert_eq!(
        (text(&old), old.count(), old.may_have_run()),
        ("old", 1, true)
    );
    assert_eq!(
        (text(&new), new.count(), new.may_have_run()),
        ("new", 1, false)
    );
    let delay = Duration::from_millis(50);
    let began = Instant::now();
    new.settle(Settlement::Defer { after: delay })
        .await
        .unwrap();
    let new = next(&mut *subscription).await;
    assert!(began.elapsed() >= delay);
    assert_eq!((new.count(), new.may_have_run()), (1, false));
}

#[tokio::test]
async fn a_dead_letter_is_kept_redriven_and_purged() {
    let folder = folder();
    let backend = connect(folder.path(), QUICK).await;
    let store = backend.dead_letters.clone().unwrap();
    let mut subscription = subscribe(&backend, &to_group("g")).await;
    for text in ["one", "two", "three"] {
        publish(&backend, text).await.unwrap();
        let dead = next(&mut *subscription).await;
        let reason = Reason::new(ReasonKind::Terminal, format!("no {text}"));
        let claim = None;
        dead.settle(Settlement::DeadLetter { reason, claim })
            .await
            .unwrap();
    }
    let all = DeadLetterFilter::all();
    let first = store.list(&all, None, 2).await.unwrap();
    let rest = store.list(&all, first.next.as_ref(), 2).await.unwrap();
    let letters: Vec<_> = first.letters.iter().chain(&rest.letters).collect();
    let details: Vec<_> = letters
        .iter()
        .map(|letter| &*letter.reason.detail)
        .collect();
    assert_eq!(
        (details, rest.next),
        (vec!["no one", "no two", "no three"], None)
    );
    let letter = store.inspect(&letters[0].id).await.unwrap().unwrap();
    assert_eq!((letter.deliveries, letter.generation), (1, 0));
    assert_eq!(
        (letter.group.as_str(), letter.envelope.name()),
        ("g", &MESSAGE)
    );
    assert!(letter.published_at <= letter.dead_at);

    store.redrive(&letter.id).await.unwrap();
    let again = next(&mut *subscription).await;
    assert_eq!(
        (text(&again), again.count(), again.generation()),
        ("one", 1, 1)
    );
    assert!(again.may_have_run());
    again.settle(Settlement::Ack).await.unwrap();
    for id in [
        letter.id,
        DeadLetterId::new("../../../etc"),
        DeadLetterId::new(""),
    ] {
        let error = store.redrive(&id).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound);
        assert!(store.inspect(&id).await.unwrap().is_none());
    }
    let other = all.clone().with_group(Name::from_static("other"));
    assert_eq!(store.purge(&other).await.unwrap(), 0);
    assert_eq!(store.purge(&all).await.unwrap(), 2);
    assert_eq!(
        files(folder.path(), "topics/orders.shipped/messages").len(),
        0
    );
    assert_eq!(
        files(folder.path(), "topics/orders.shipped/groups/g/dead").len(),
        0
    );
}

#[tokio::test]
async fn a_message_goes_when_the_last_group_is_done_with_it() {
    let folder = folder();
    let backend = connect(folder.path(), QUICK).await;
    let mut a = subscribe(&backend, &to_group("a")).await;
    let mut b = subscribe(&backend, &to_group("b")).await;
    publish(&backend, "one").await.unwrap();
    assert_eq!(drain(&mut *a).await, ["one"]);
    assert_eq!(
        files(folder.path(), "topics/orders.shipped/messages").len(),
        1
    );
    let mut c = subscribe(&backend, &to_group("c")).await;
    next(&mut *b).await.settle(Settlement::Term).await.unwrap();
    assert_eq!(
        files(folder.path(), "topics/orders.shipped/messages").len(),
        1
    );
    assert_eq!(drain(&mut *c).await, ["one"]);
    assert_eq!(
        files(folder.path(), "topics/orders.shipped/messages").len(),
        0
    );
}

#[tokio::test]
async fn a_full_topic_rejects_until_there_is_room() {
    let folder = folder();
    let backend = connect(folder.path(), "sync=false&max_messages=2").await;
    for text in ["1", "2"] {
        publish(&backend, text).await.unwrap();
    }
    let error = publish(&backend, "kept for the first group")
        .await
        .unwrap_err();
    assert_eq!(
        (error.kind(), error.may_be_stored()),
        (ErrorKind::LimitReached, false)
    );
    // This group needs none of them.
    let mut subscription = subscribe(&backend, &to_group("g").with_start(Start::New)).await;
    for text in ["3", "4"] {
        publish(&backend, text).await.unwrap();
    }
    let error = publish(&backend, "not handled yet").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::LimitReached);
    assert_eq!(drain(&mut *subscription).await, ["3", "4"]);
    publish(&backend, "5").await.unwrap();
    assert_eq!(drain(&mut *subscription).await, ["5"]);
}

#[tokio::test]
async fn what_is_too_large_is_rejected_and_headers_count() {
    let folder = folder();
    let backend = connect(folder.path(), "sync=false&max_payload=10").await;
    assert_eq!(
        backend.transport.capabilities().max_payload_bytes(),
        Some(10)
    );
    publish(&backend, "0123456789").await.unwrap();
    let mut headers = Headers::new();
    headers.insert("a", "b").unwrap();
    let mut envelope = message("012345678").with_headers(headers);
    let error = backend
        .transport
        .publish(&mut envelope, SOON)
        .await
        .unwrap_err();
    assert_eq!(
        (error.kind(), error.may_be_stored()),
        (ErrorKind::PayloadTooLarge, false)
    );
}

#[tokio::test]
async fn what_is_not_declared_is_refused() {
    let folder = folder();
    let backend = connect(folder.path(), QUICK).await;
    let transport = &backend.transport;
    let group = || Consumers::Group(Name::from_static("g"));
    let mut refused = Vec::new();
    for qos in [QoS::AtMostOnce, QoS::ExactlyOnce] {
        let mut envelope = Envelope::received(MESSAGE, qos, Bytes::new());
        refused.push(transport.publish(&mut envelope, SOON).await.unwrap_err());
        let subscribe = Subscribe::new(MESSAGE, qos, group());
        refused.push(transport.subscribe(&subscribe).await.unwrap_err());
    }
    let ordered = to_group("g").with_ordered(NonZeroU16::new(4));
    refused.push(transport.subscribe(&ordered).await.unwrap_err());
    let mut each_node = to_group("g");
    each_node.consumers = Consumers::EachNode {
        group: Name::from_static("g"),
        node: Name::from_static("n"),
    };
    refused.push(transport.subscribe(&each_node).await.unwrap_err());
    let service = Name::from_static("s");
    let serve = Serve::new(MESSAGE, service.clone(), Name::from_static("n"));
    refused.push(transport.serve(&serve).await.unwrap_err());
    let to = Target::Service(service);
    refused.push(
        transport
            .request(&to, &message(""), 1, None)
            .await
            .unwrap_err(),
    );

    let mut subscription = subscribe(&backend, &to_group("g")).await;
    publish(&backend, "one").await.unwrap();
    let delivery = next(&mut *subscription).await;
    let key = InboxKey::new(Name::from_static("g"), MESSAGE, MessageId::from_key("1"));
    let claim = Claim::new(key, Owner::new(), 0);
    let completion = Completion::new().with_claim(claim);
    refused.push(
        delivery
            .settle(Settlement::Complete(completion))
            .await
            .unwrap_err(),
    );
    for error in refused {
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
        assert!(!error.may_be_stored());
    }
}

#[tokio::test]
async fn nothing_goes_on_after_close() {
    let folder = folder();
    let backend = connect(folder.path(), QUICK).await;
    let mut subscription = subscribe(&backend, &to_group("g")).await;
    let mut left = subscribe(&backend, &to_group("g")).await;
    publish(&backend, "one").await.unwrap();
    let out = next(&mut *subscription).await;
    left.close().await.unwrap();
    let mut none = Vec::new();
    assert_eq!(
        left.recv(1, &mut none).await.unwrap_err().kind(),
        ErrorKind::Closed
    );
    let receive = tokio::spawn(async move {
        let outcome = subscription.recv(1, &mut Vec::new()).await;
        outcome.unwrap_err().kind()
    });
    backend.transport.close().await.unwrap();
    assert_eq!(
        timeout(SOON, receive).await.unwrap().unwrap(),
        ErrorKind::Closed
    );
    assert_eq!(
        publish(&backend, "two").await.unwrap_err().kind(),
        ErrorKind::Closed
    );
    assert_eq!(backend.transport.state(), ConnectionState::Closed);
    out.settle(Settlement::Ack)
        .await
        .expect("what is out can still be settled");
    assert_eq!(
        files(folder.path(), "topics/orders.shipped/messages").len(),
        0
    );
}

#[tokio::test]
async fn a_file_that_is_no_message_is_reported_and_keeps_nobody() {
    let folder = folder();
    let backend = connect(folder.path(), QUICK).await;
    let mut subscription = subscribe(&backend, &to_group("g")).await;
    publish(&backend, "broken").await.unwrap();
    std::fs::write(
        &files(folder.path(), "topics/orders.shipped/messages")[0],
        "rubbish",
    )
    .unwrap();
    let topic = folder.path().join("test/topics/orders.shipped");
    for stray in [
        "groups/g/README",
        "messages/README",
        "groups/.hidden",
        "lock/.x",
    ] {
        let _ = std::fs::write(topic.join(stray), "x");
    }
    publish(&backend, "good").await.unwrap();
    let error = subscription.recv(10, &mut Vec::new()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Decode, "{error}");
    assert_eq!(drain(&mut *subscription).await, ["good"]);
}

#[tokio::test]
async fn a_planted_bug_shows() {
    let at_once = Duration::ZERO;

    let early = folder();
    let backend = connect(early.path(), "sync=false&bug=ack_before_handler").await;
    let mut subscription = subscribe(&backend, &to_group("g")).await;
    publish(&backend, "one").await.unwrap();
    next(&mut *subscription)
        .await
        .settle(Settlement::Nak { after: at_once })
        .await
        .unwrap();
    assert_eq!(
        drain(&mut *subscription).await,
        [""; 0],
        "the message is gone"
    );

    let skips = folder();
    let backend = connect(skips.path(), "sync=false&bug=skip_every_100th").await;
    let mut subscription = subscribe(&backend, &to_group("g").with_max_in_flight(300)).await;
    for number in 0..200 {
        publish(&backend, &number.to_string()).await.unwrap();
    }
    assert_eq!(drain(&mut *subscription).await.len(), 198);

    let forgets = folder();
    let backend = connect(forgets.path(), "sync=false&bug=forget_lease").await;
    let brief = to_group("g").with_ack_wait(Duration::from_millis(20));
    let mut a = subscribe(&backend, &brief).await;
    let mut b = subscribe(&backend, &to_group("g")).await;
    publish(&backend, "one").await.unwrap();
    let lost = next(&mut *a).await;
    let _held = next(&mut *b).await;
    lost.settle(Settlement::Nak { after: at_once })
        .await
        .unwrap();
    assert_eq!(next(&mut *a).await.count(), 3, "taken from the other");
}

#[tokio::test]
async fn a_folder_that_is_wiped_is_an_error_and_not_silence() {
    let folder = folder();
    let backend = connect(folder.path(), QUICK).await;
    let mut subscription = subscribe(&backend, &to_group("g")).await;
    std::fs::remove_dir_all(folder.path().join("test")).unwrap();
    let received = timeout(SOON, subscription.recv(1, &mut Vec::new())).await;
    assert_eq!(
        received.expect("silence").unwrap_err().kind(),
        ErrorKind::Unavailable
    );
    let error = publish(&backend, "one").await.unwrap_err();
    assert_eq!(
        (error.kind(), error.may_be_stored()),
        (ErrorKind::Unavailable, false)
    );
}

/// A message that is published while a group is born is seen by its publisher, by the group, or by both.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_group_that_is_born_amid_publishes_misses_nothing() {
    let folder = folder();
    let backend = connect(folder.path(), QUICK).await;
    let born = Arc::new(AtomicBool::new(false));
    let publishers: Vec<_> = (0..2)
        .map(|_| {
            let (backend, born) = (backend.clone(), Arc::clone(&born));
            tokio::spawn(async move {
                let mut published = 0;
                while published < 300 && !born.load(Ordering::Relaxed) {
                    publish(&backend, "one more").await.unwrap();
                    published += 1;
                }
                published
            })
        })
        .collect();
    let groups: Vec<_> = (0..60).map(|number| format!("group-{number}")).collect();
    for group in &groups {
        let group = Consumers::Group(Name::new(group).unwrap());
        let wanted = Subscribe::new(MESSAGE, QoS::AtLeastOnce, group);
        // Three at once: one of them makes it.
        let join = || subscribe(&backend, &wanted);
        tokio::join!(join(), join(), join());
    }
    born.store(true, Ordering::Relaxed);
    let mut published = 0;
    for publisher in publishers {
        published += publisher.await.unwrap();
    }
    for group in groups {
        let of_group = files(
            folder.path(),
            &format!("topics/orders.shipped/groups/{group}"),
        );
        // One of them is the mark of a complete group.
        assert_eq!(of_group.len() - 1, published, "{group}");
    }
}
