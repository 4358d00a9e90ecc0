//! What is no order, or no question, is refused with a reason.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_order_is_refused_with_a_reason() {
    let rig = Rig::start(&["node1"]).await;
    let long = "x".repeat(129);
    let huge = "x".repeat(20_000);
    let deep = "[".repeat(10_000);
    for (body, status, reason) in [
        ("", 400, "not JSON"),
        ("{", 400, "not JSON"),
        (r#"{"productId":"lamp","quantity":2"#, 400, "not JSON"),
        ("quantity=2", 400, "not JSON"),
        (deep.as_str(), 400, "not JSON"),
        (r#"["lamp",2]"#, 422, "not a JSON object"),
        ("null", 422, "not a JSON object"),
        ("{}", 422, "`productId` is missing"),
        (r#"{"productId":"lamp"}"#, 422, "`quantity` is missing"),
        (r#"{"quantity":2}"#, 422, "`productId` is missing"),
        (
            r#"{"productId":7,"quantity":2}"#,
            422,
            "`productId` is not a string",
        ),
        (
            r#"{"productId":" ","quantity":2}"#,
            422,
            "`productId` is empty",
        ),
        (
            r#"{"productId":"a\nb","quantity":2}"#,
            422,
            "control characters",
        ),
        (
            &format!(r#"{{"productId":"{long}","quantity":2}}"#),
            422,
            "128 bytes",
        ),
        (
            r#"{"productId":"lamp","quantity":0}"#,
            422,
            "`quantity` is 0",
        ),
        (
            r#"{"productId":"lamp","quantity":100001}"#,
            422,
            "1 to 100000",
        ),
        (
            r#"{"productId":"lamp","quantity":99999999999999999999}"#,
            422,
            "1 to 100000",
        ),
        (r#"{"productId":"lamp","quantity":-1}"#, 422, "1 to 100000"),
        (r#"{"productId":"lamp","quantity":1.5}"#, 422, "1 to 100000"),
        (r#"{"productId":"lamp","quantity":"2"}"#, 422, "1 to 100000"),
        (
            &format!(r#"{{"productId":"{huge}","quantity":2}}"#),
            413,
            "limit",
        ),
    ] {
        let answer = rig.post("node1", None, body).await;
        let shown: String = body.chars().take(60).collect();
        assert_eq!(answer.status, status, "{shown}: {answer:?}");
        let error = text(&json(&answer)["error"]);
        assert!(error.contains(reason), "{shown}: {error}");
    }
    let long = "k".repeat(256);
    for key in ["", &long, "schlüssel"] {
        let body = r#"{"productId":"lamp","quantity":2}"#;
        let answer = rig.post("node1", Some(key), body).await;
        assert_eq!(answer.status, 400, "{answer:?}");
        assert!(text(&json(&answer)["error"]).contains("Idempotency-Key"));
    }
    let handlers = rig.house.node("node1").catga.handlers();
    let made = handlers.iter().find(|info| info.name == "create_order");
    assert_eq!(made.unwrap().stats.handled + made.unwrap().stats.failed, 0);
    rig.house.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_there_is_not_found() {
    let rig = Rig::start(&["node1", "node2"]).await;
    for path in [
        "/orders/7",
        "/orders/..%2f..%2fetc",
        "/orders/%ff",
        "/orders/0c0ffee0-0000-4000-8000-000000000000",
        "/orders/",
        "/nowhere",
        "/",
    ] {
        let answer = rig.get("node1", path).await;
        assert_eq!(answer.status, 404, "{path}: {answer:?}");
        assert!(json(&answer)["error"].is_string(), "{path}: {answer:?}");
    }
    let answer = rig.get("node1", "/orders").await;
    assert_eq!(answer.status, 405, "{answer:?}");
    assert!(text(&json(&answer)["error"]).contains("does not take GET"));
    rig.house.close().await.unwrap();
}
