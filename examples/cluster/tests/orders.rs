//! An order is made once, by whichever node, and known to all.

use std::collections::BTreeSet;

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn an_order_is_answered_as_documented_and_every_node_hears_of_it() {
    let mut rig = Rig::start(&NODES).await;
    let mut makers = BTreeSet::new();
    for _ in 0..6 {
        let body = r#"{"productId":"lamp","quantity":2,"note":"as a gift"}"#;
        let answer = rig.post("node1", None, body).await;
        assert_eq!(answer.status, 201, "{answer:?}");
        assert_eq!(keys(&answer.body, ""), ["orderId", "processedBy", "status"]);
        let order = json(&answer);
        assert_eq!(order["status"], "Created");
        let (id, maker) = (text(&order["orderId"]), text(&order["processedBy"]));
        let location = format!("location: /orders/{id}");
        assert!(answer.head.contains(&location), "{answer:?}");
        rig.says(&format!("[{maker}] Processing order {id}: 2 x lamp"))
            .await;
        for node in NODES {
            let created = "[QoS 0] order created received (may be lost)";
            rig.says(&format!("[{node}] {created}: {id}")).await;
            let shipped = "[QoS 1] order shipped received (guaranteed)";
            rig.says(&format!("[{node}] {shipped}: {id}, made by {maker}"))
                .await;
            let shown = json(&rig.get(node, &format!("/orders/{id}")).await);
            assert_eq!(shown["processedBy"], maker);
            assert_eq!(
                (&shown["productId"], &shown["quantity"]),
                (&"lamp".into(), &2.into())
            );
        }
        makers.insert(maker);
    }
    assert_eq!(makers.len(), 3, "they take turns: {makers:?}");
    rig.house.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_is_found_at_once_at_every_node() {
    let rig = Rig::start(&NODES).await;
    // Faster than the event that tells of it, now and then.
    for i in 0..60 {
        let id = rig.order(NODES[i % 3], None, "lamp").await;
        let answer = rig.get(NODES[(i + 1) % 3], &format!("/orders/{id}")).await;
        assert_eq!(answer.status, 200, "{answer:?}");
    }
    rig.house.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_has_not_heard_of_an_order_asks_the_others() {
    let rig = Rig::start(&NODES).await;
    let deaf = &rig.house.node("node3").catga;
    deaf.handler("on_shipped").unwrap().pause();
    let mut asked = 0;
    for _ in 0..6 {
        let id = rig.order("node1", None, "lamp").await;
        let answer = rig.get("node3", &format!("/orders/{id}")).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        asked += u32::from(json(&answer)["processedBy"] != "node3");
    }
    assert!(asked > 0, "node3 made all of them");
    deaf.handler("on_shipped").unwrap().resume();
    rig.house.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn one_key_is_one_order() {
    let mut rig = Rig::start(&NODES).await;
    let id = rig.order("node1", Some("key-1"), "lamp").await;
    for node in NODES {
        assert_eq!(rig.order(node, Some("key-1"), "lamp").await, id);
    }
    assert_ne!(rig.order("node1", Some("key-2"), "lamp").await, id);
    assert_ne!(rig.order("node1", None, "lamp").await, id);

    // Another order under the same key is a mistake of the client's.
    let body = r#"{"productId":"lamp","quantity":3}"#;
    let answer = rig.post("node2", Some("key-1"), body).await;
    assert_eq!(answer.status, 422, "{answer:?}");
    assert!(text(&json(&answer)["error"]).contains("another order"));

    // All at once, at all nodes.
    let mut posts = tokio::task::JoinSet::new();
    for i in 0..24 {
        let address = rig.address(NODES[i % 3]);
        posts.spawn(async move {
            let post = Ask::Post {
                path: "/orders",
                key: Some("key-3"),
                body: r#"{"productId":"desk","quantity":1}"#,
            };
            ask(&address, post).await.unwrap()
        });
    }
    let mut ids = BTreeSet::new();
    for answer in posts.join_all().await {
        assert_eq!(answer.status, 201, "{answer:?}");
        ids.insert(text(&json(&answer)["orderId"]));
    }
    assert_eq!(ids.len(), 1, "{ids:?}");
    let id = ids.first().unwrap().clone();
    for node in NODES {
        let shipped = "[QoS 1] order shipped received (guaranteed)";
        rig.says_of(&format!("[{node}] {shipped}: {id}")).await;
    }
    let runs = rig.seen.iter();
    let runs = runs.filter(|line| line.contains(&format!("Processing order {id}")));
    assert_eq!(runs.count(), 1);
    rig.house.close().await.unwrap();
}
