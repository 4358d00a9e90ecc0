//! What a node says of itself and of the others.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn health_has_these_keys_and_no_others() {
    let mut rig = Rig::start(&NODES).await;
    let answer = rig.get("node2", "/health").await;
    assert_eq!(answer.status, 200);
    let whole = ["currentNode", "nodes", "onlineNodes", "totalNodes"];
    assert_eq!(keys(&answer.body, ""), whole);
    let node = ["endpoint", "isOnline", "lastSeen", "load", "nodeId"];
    assert_eq!(keys(&answer.body, "/currentNode"), node);
    for i in 0..3 {
        assert_eq!(keys(&answer.body, &format!("/nodes/{i}")), node);
    }
    let health = json(&answer);
    let current = &health["currentNode"];
    assert_eq!(current["nodeId"], "node2");
    assert_eq!(
        current["endpoint"],
        format!("http://{}", rig.address("node2"))
    );
    assert_eq!(current["isOnline"], true);
    assert!(current["load"].as_u64().unwrap() <= 100);
    let seen = humantime::parse_rfc3339(current["lastSeen"].as_str().unwrap()).unwrap();
    assert!(seen.elapsed().unwrap_or_default() < Duration::from_secs(10));
    assert_eq!(
        (&health["totalNodes"], &health["onlineNodes"]),
        (&3.into(), &3.into())
    );

    // Who is killed is shown as offline, and is back when it is started again.
    rig.house.kill("node3").await.unwrap();
    rig.sees("node2", 2).await;
    let began = Instant::now();
    loop {
        let health = json(&rig.get("node2", "/health").await);
        let node3 = &health["nodes"][2];
        if health["totalNodes"] == 3 && node3["nodeId"] == "node3" && node3["isOnline"] == false {
            break;
        }
        assert!(began.elapsed() < LONG, "{health}");
        sleep(Duration::from_millis(20)).await;
    }
    rig.house.restart("node3").await.unwrap();
    rig.sees("node2", 3).await;
    let health = json(&rig.get("node2", "/health").await);
    assert_eq!(
        (&health["totalNodes"], &health["nodes"][2]["isOnline"]),
        (&3.into(), &true.into())
    );
    rig.house.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_have_the_counters() {
    let rig = Rig::start(&["node1", "node2"]).await;
    let id = rig.order("node1", Some("key"), "lamp").await;
    assert_eq!(rig.order("node2", Some("key"), "lamp").await, id);
    let handled = |text: &str, handler: &str| {
        let lines = text.lines().filter(|line| {
            line.starts_with("messaging_client_consumed_messages")
                && line.contains(&format!("catga_handler=\"{handler}\""))
        });
        lines
            .filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok())
            .sum::<u64>()
    };
    let began = Instant::now();
    // They are told once a second.
    loop {
        let answer = rig.get("node1", "/metrics").await;
        assert_eq!(answer.status, 200);
        assert!(
            answer.head.contains("content-type: text/plain"),
            "{answer:?}"
        );
        let text = &answer.body;
        let names = [
            "messaging_client_sent_messages",
            "messaging_client_operation_duration_bucket",
            "messaging_process_duration_bucket",
            "catga_retries",
            "catga_dead_letters",
            "catga_duplicates",
            "catga_losses",
            "catga_in_flight",
        ];
        let missing: Vec<_> = names.iter().filter(|name| !text.contains(*name)).collect();
        let runs = ["create_order", "on_created", "on_shipped"].map(|name| handled(text, name));
        if missing.is_empty() && runs.iter().all(|runs| *runs > 0) {
            break;
        }
        assert!(
            began.elapsed() < LONG,
            "without {missing:?}, {runs:?}: {text}"
        );
        sleep(Duration::from_millis(50)).await;
    }
    rig.house.close().await.unwrap();
}
