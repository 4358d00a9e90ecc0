//! `GET /nodes/watch`.

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

use super::*;

/// A client of server-sent events.
struct Watcher(BufReader<TcpStream>);

impl Watcher {
    async fn of(address: &str) -> Self {
        let mut connection = TcpStream::connect(address).await.unwrap();
        let request = format!("GET /nodes/watch HTTP/1.1\r\nhost: {address}\r\n\r\n");
        connection.write_all(request.as_bytes()).await.unwrap();
        let mut this = Self(BufReader::new(connection));
        let mut head = String::new();
        loop {
            let line = this.line().await.expect("a head has an end");
            if line.is_empty() {
                break;
            }
            head += &line.to_ascii_lowercase();
            head.push('\n');
        }
        assert!(head.starts_with("http/1.1 200"), "{head}");
        assert!(head.contains("content-type: text/event-stream"), "{head}");
        this
    }

    async fn line(&mut self) -> Option<String> {
        let mut line = String::new();
        let read = timeout(LONG, self.0.read_line(&mut line)).await;
        let read = read.expect("no line came").unwrap();
        (read > 0).then(|| line.trim_end().to_owned())
    }

    /// The next event that is none of a load: its name and its node; `None` at the end.
    async fn event(&mut self) -> Option<(String, Value)> {
        let mut name = String::new();
        loop {
            // Between them are the lengths of chunks, and what keeps the connection alive.
            let line = self.line().await?;
            if let Some(event) = line.strip_prefix("event: ") {
                event.clone_into(&mut name);
            } else if let Some(data) = line.strip_prefix("data: ")
                && name != "updated"
            {
                return Some((name, serde_json::from_str(data).unwrap()));
            }
        }
    }

    async fn hears(&mut self, name: &str, node: &str) {
        let (event, data) = self.event().await.expect("there is more");
        assert_eq!(
            (event.as_str(), &data["nodeId"]),
            (name, &node.into()),
            "{data}"
        );
        assert_eq!(data["isOnline"], name != "left");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_begins_with_everybody_and_tells_who_comes_and_goes() {
    let mut rig = Rig::start(&["node1", "node2"]).await;
    let mut watcher = Watcher::of(&rig.address("node1")).await;
    watcher.hears("joined", "node1").await;
    watcher.hears("joined", "node2").await;
    rig.house.start("node3", 0).await.unwrap();
    watcher.hears("joined", "node3").await;
    rig.house.stop("node2").await.unwrap();
    watcher.hears("left", "node2").await;
    rig.house.kill("node3").await.unwrap();
    watcher.hears("left", "node3").await;

    // A node that stops does not wait for its watchers.
    let began = Instant::now();
    rig.house.stop("node1").await.unwrap();
    assert!(began.elapsed() < Duration::from_secs(10));
    assert_eq!(watcher.event().await, None);
}
