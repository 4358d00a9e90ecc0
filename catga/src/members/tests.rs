use std::time::Duration;

use catga_core::{Load, Name};

use super::*;
use crate::routing::{LocalFirst, Routes};
use crate::view::{Picked, Question};

const ASK: &str = "Ask";

fn node(id: &str) -> NodeInfo {
    let node = NodeInfo::new(NodeId::token(id).unwrap(), Name::from_static("shop"));
    node.with_requests(vec![Name::from_static(ASK)])
}

fn question() -> Question<'static> {
    Question {
        request: ASK,
        key: None,
        entry: None,
    }
}

/// Members as `a` sees them, which answers too, with some others.
fn members(others: &[&NodeInfo]) -> Members {
    let members = Members::new(&node("a"), Routes::default());
    for other in others {
        members.hear(&Told::There((*other).clone()));
    }
    members
}

fn picks(members: &Members) -> Vec<String> {
    let view = members.view();
    let picks = view.answering(ASK).map(|answering| answering.picks());
    picks
        .unwrap_or_default()
        .into_iter()
        .map(str::to_owned)
        .collect()
}

fn member(members: &Members, id: &str) -> Arc<Member> {
    Arc::clone(members.view().node(id).expect("it is there"))
}

fn pick(members: &Members) -> (String, bool) {
    let view = members.view();
    let answering = view.answering(ASK).expect("somebody answers");
    match answering.pick(question(), members.epoch(), Some(Duration::from_secs(10))) {
        Picked::Here => ("a".to_owned(), false),
        Picked::There(member, probe) => (member.info.id.to_string(), probe),
    }
}

#[tokio::test(start_paused = true)]
async fn who_drains_or_answers_something_else_is_no_candidate() {
    let (b, mut c, mut d) = (node("b"), node("c"), node("d"));
    c.draining = true;
    d.requests = Arc::default();
    let members = members(&[&b, &c, &d]);
    assert_eq!(picks(&members), ["a", "b"]);
    assert_eq!(members.nodes().len(), 4);
    assert!(!members.alone());
}

#[tokio::test(start_paused = true)]
async fn who_names_a_request_twice_is_one_candidate() {
    let b = node("b").with_requests(vec![Name::from_static(ASK); 3]);
    let members = members(&[&b]);
    assert_eq!(picks(&members), ["a", "b"]);
}

#[tokio::test(start_paused = true)]
async fn turns_go_on_over_changes_of_the_view() {
    let (b, c) = (node("b"), node("c"));
    let members = members(&[&b, &c]);
    members
        .view()
        .answering(ASK)
        .unwrap()
        .set_turn(usize::MAX - 5);
    let mut counts = BTreeMap::<_, u32>::new();
    for _ in 0..300 {
        // A heartbeat of somebody makes another view each time.
        members.hear(&Told::There(c.clone()));
        *counts.entry(pick(&members).0).or_default() += 1;
    }
    assert_eq!(counts.into_values().collect::<Vec<_>>(), [100; 3]);
}

#[tokio::test(start_paused = true)]
async fn who_failed_is_skipped_and_tried_again_by_one() {
    let (b, c) = (node("b"), node("c"));
    let members = members(&[&b, &c]);
    let failing = member(&members, "b");
    members.failed(&failing, false);
    assert_eq!(picks(&members), ["a", "c"]);
    assert!((0..30).all(|_| pick(&members).0 != "b"));
    tokio::time::sleep(Duration::from_secs(2)).await;
    let tried: Vec<_> = (0..30)
        .map(|_| pick(&members))
        .filter(|(id, _)| id == "b")
        .collect();
    assert_eq!(tried, [("b".to_owned(), true)]);
    // It fails again: for longer.
    members.failed(&failing, true);
    tokio::time::sleep(Duration::from_millis(900)).await;
    assert!((0..30).all(|_| pick(&members).0 != "b"));
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!((0..30).filter(|_| pick(&members).0 == "b").count(), 1);
    members.answered(&failing);
    assert_eq!(picks(&members), ["a", "b", "c"]);
    let share = (0..30).filter(|_| pick(&members).0 == "b").count();
    assert_eq!(share, 10);
}

#[tokio::test(start_paused = true)]
async fn where_all_failed_all_are_asked() {
    let mut own = node("a");
    own.requests = Arc::default();
    let members = Members::new(&own, Routes::default());
    for other in [node("b"), node("c")] {
        members.hear(&Told::There(other));
    }
    for id in ["b", "c"] {
        members.failed(&member(&members, id), false);
    }
    assert_eq!(picks(&members), ["b", "c"]);
    members.answered(&member(&members, "c"));
    assert_eq!(picks(&members), ["c"]);
}

#[tokio::test(start_paused = true)]
async fn this_node_is_never_skipped_nor_taken_out() {
    let members = members(&[&node("b")]);
    members.failed(&member(&members, "a"), false);
    assert_eq!(picks(&members), ["a", "b"]);
    let own = member(&members, "a").info.clone();
    members.hear(&Told::Left(own));
    members.hear(&Told::All(Vec::new()));
    assert_eq!(picks(&members), ["a"]);
    assert!(members.alone());
}

#[tokio::test(start_paused = true)]
async fn others_are_asked_that_were_not_before() {
    let members = members(&[&node("b"), &node("c"), &node("d")]);
    members.failed(&member(&members, "d"), false);
    let id = |id: &str| NodeId::token(id).unwrap();
    let view = members.view();
    let answering = view.answering(ASK).unwrap();
    let another = |before: &[NodeId]| {
        let other = answering.another(question(), before)?;
        Some(other.info.id.to_string())
    };
    for _ in 0..20 {
        let other = another(&[id("a")]).unwrap();
        assert!(["b", "c"].contains(&other.as_str()), "{other}");
        assert_eq!(another(&[id("a"), id("b")]).as_deref(), Some("c"));
    }
    // One that failed, where there is nobody else.
    assert_eq!(another(&[id("a"), id("b"), id("c")]).as_deref(), Some("d"));
    assert_eq!(another(&["a", "b", "c", "d"].map(id)), None);
}

#[tokio::test(start_paused = true)]
async fn a_node_that_flaps_is_skipped_longer_each_time() {
    let b = node("b");
    let members = members(&[&b]);
    let mut skipped = Vec::new();
    for _ in 0..5 {
        let asked = member(&members, "b");
        members.hear(&Told::Left(b.clone()));
        assert!(asked.peer.is_gone(), "who waits for it has to be told");
        members.hear(&Told::There(b.clone()));
        let back = Instant::now();
        assert_eq!(picks(&members), ["a"]);
        while pick(&members).0 != "b" {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        skipped.push(back.elapsed());
        members.answered(&member(&members, "b"));
    }
    assert!(skipped[0] <= Duration::from_millis(1_050), "{skipped:?}");
    assert!(skipped[4] >= Duration::from_secs(8), "{skipped:?}");
}

#[tokio::test(start_paused = true)]
async fn a_restart_is_no_flapping() {
    let mut b = node("b");
    let members = members(&[&b]);
    for _ in 0..5 {
        b.draining = true;
        members.hear(&Told::There(b.clone()));
        let asked = member(&members, "b");
        members.hear(&Told::Left(b.clone()));
        assert!(!asked.peer.is_gone(), "it answers what it has");
        let departed = members.view().departed("b").cloned().unwrap();
        assert!(!departed.silent);
        b = node("b");
        members.hear(&Told::There(b.clone()));
        assert_eq!(picks(&members), ["a", "b"]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_successor_is_not_taken_out_by_what_is_said_of_its_predecessor() {
    let (old, new) = (node("b"), node("b"));
    let members = members(&[&old]);
    let asked = member(&members, "b");
    members.hear(&Told::There(new.clone()));
    members.hear(&Told::Left(old));
    assert!(asked.peer.is_gone());
    assert_eq!(member(&members, "b").info.incarnation, new.incarnation);
    assert!(!member(&members, "b").peer.is_gone());
}

#[tokio::test(start_paused = true)]
async fn the_departed_are_remembered_for_a_while() {
    let b = node("b");
    let members = members(&[&b]);
    members.hear(&Told::Left(b));
    tokio::time::sleep(Duration::from_secs(500)).await;
    members.hear(&Told::There(node("c")));
    assert!(members.view().departed("b").is_some_and(|gone| gone.silent));
    assert!(members.view().departed("x").is_none());
    tokio::time::sleep(Duration::from_secs(200)).await;
    members.hear(&Told::There(node("d")));
    assert!(members.view().departed("b").is_none());
    for n in 0..1_200 {
        let other = node(&format!("n{n}"));
        members.hear(&Told::There(other.clone()));
        members.hear(&Told::Left(other));
    }
    assert_eq!(members.view().nodes.departed.len(), REMEMBERED_NODES);
}

#[tokio::test(start_paused = true)]
async fn what_a_registry_loses_is_put_back() {
    let (b, c) = (node("b"), node("c"));
    let members = members(&[&b, &c]);
    members.hear(&Told::Left(b));
    tokio::time::sleep(Duration::from_secs(30)).await;
    members.hear(&Told::Left(c));
    members.hear(&Told::Forgotten(Duration::from_secs(10)));
    let ids: Vec<_> = members
        .nodes()
        .into_iter()
        .map(|node| node.id.to_string())
        .collect();
    assert_eq!(ids, ["a", "c"], "b had gone long before");
}

#[tokio::test(start_paused = true)]
async fn watchers_are_told_what_changed() {
    let (b, mut c) = (node("b"), node("c"));
    let members = members(&[&b]);
    let mut watch = members.watch();
    let mut told = || match watch.try_recv() {
        Ok((_, NodeEvent::Joined(node))) => format!("joined {}", node.id),
        Ok((_, NodeEvent::Updated(node))) => format!("updated {}", node.id),
        Ok((_, NodeEvent::Left(node))) => format!("left {}", node.id),
        other => format!("{other:?}"),
    };
    members.hear(&Told::There(c.clone()));
    // Seen again, which is nothing new.
    c.last_seen += Duration::from_secs(10);
    members.hear(&Told::There(c.clone()));
    c.load = Load::percent(50);
    members.hear(&Told::There(c.clone()));
    members.failed(&member(&members, "c"), false);
    members.hear(&Told::There(node("b")));
    members.hear(&Told::All(vec![b]));
    let expected = [
        "joined c",
        "updated c",
        "left b",
        "joined b",
        "left b",
        "left c",
        "joined b",
    ];
    for event in expected {
        assert_eq!(told(), event);
    }
    assert_eq!(told(), "Err(Empty)");
}

#[tokio::test(start_paused = true)]
async fn another_with_this_nodes_id_does_not_take_its_place() {
    let members = members(&[&node("b")]);
    let own = member(&members, "a").info.incarnation;
    let double = node("a");
    members.hear(&Told::There(double.clone()));
    assert_eq!(member(&members, "a").info.incarnation, own);
    members.hear(&Told::All(vec![double.clone(), node("c")]));
    assert_eq!(member(&members, "a").info.incarnation, own);
    members.hear(&Told::Left(double));
    assert_eq!(picks(&members), ["a", "c"]);
}

#[tokio::test(start_paused = true)]
async fn who_failed_is_tried_where_the_strategy_picks_it() {
    let members = Members::new(&node("a"), Routes::all(LocalFirst));
    members.hear(&Told::There(node("b")));
    members.failed(&member(&members, "b"), false);
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert!((0..30).all(|_| pick(&members).0 == "a"));
}

#[tokio::test(start_paused = true)]
async fn who_failed_is_not_tried_by_what_is_tried_once() {
    let members = members(&[&node("b")]);
    members.failed(&member(&members, "b"), false);
    tokio::time::sleep(Duration::from_secs(2)).await;
    let view = members.view();
    let answering = view.answering(ASK).unwrap();
    for _ in 0..30 {
        let picked = answering.pick(question(), members.epoch(), None);
        assert!(matches!(picked, Picked::Here), "{picked:?}");
    }
    assert!((0..30).any(|_| pick(&members) == ("b".to_owned(), true)));
}

/// One of several who failed is due: those who are not do not keep its turn, nor that of those who answer.
#[tokio::test(start_paused = true)]
async fn who_is_due_is_tried_beside_those_who_are_not() {
    let members = members(&[&node("b"), &node("c"), &node("d")]);
    for _ in 0..6 {
        members.failed(&member(&members, "b"), true);
    }
    members.failed(&member(&members, "c"), false);
    tokio::time::sleep(Duration::from_secs(2)).await;
    let picked: Vec<_> = (0..30).map(|_| pick(&members)).collect();
    let probes: Vec<_> = picked.iter().filter(|(_, probe)| *probe).collect();
    assert_eq!(probes, [&("c".to_owned(), true)]);
    assert!(picked.iter().all(|(id, _)| id != "b"));
}
