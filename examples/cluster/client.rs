//! As much of an HTTP client as the load needs: a connection for each request.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::api::IDEMPOTENCY_KEY;

/// Longer than a node may take to answer.
const PATIENCE: Duration = Duration::from_secs(25);
const MAX_ANSWER_BYTES: u64 = 1024 * 1024;

/// What is asked of a node.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Ask<'a> {
    Get(&'a str),
    Post {
        path: &'a str,
        key: Option<&'a str>,
        body: &'a str,
    },
}

/// What it answered.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    #[cfg_attr(not(test), expect(dead_code, reason = "tests look at them"))]
    pub(crate) head: String,
    pub(crate) body: String,
}

/// Asks the node at `host:port`. An error says why there is no answer, or no whole one; what was asked may have been done.
pub(crate) async fn ask(address: &str, ask: Ask<'_>) -> Result<Answer, String> {
    let asked = timeout(PATIENCE, exchange(address, ask)).await;
    asked.unwrap_or_else(|_| Err(format!("no answer within {PATIENCE:?}")))
}

async fn exchange(address: &str, ask: Ask<'_>) -> Result<Answer, String> {
    let connection = TcpStream::connect(address).await;
    let mut connection = connection.map_err(|error| format!("cannot connect: {error}"))?;
    let broken = |error| format!("the connection broke: {error}");
    let request = written(address, ask);
    connection
        .write_all(request.as_bytes())
        .await
        .map_err(broken)?;
    let mut answer = Vec::new();
    let mut limited = connection.take(MAX_ANSWER_BYTES);
    limited.read_to_end(&mut answer).await.map_err(broken)?;
    read(&answer).ok_or_else(|| "the connection ended before the answer did".to_owned())
}

fn written(address: &str, ask: Ask<'_>) -> String {
    let (method, path) = match ask {
        Ask::Get(path) => ("GET", path),
        Ask::Post { path, .. } => ("POST", path),
    };
    let mut request =
        format!("{method} {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n");
    let Ask::Post { key, body, .. } = ask else {
        return request + "\r\n";
    };
    if let Some(key) = key {
        request = format!("{request}{IDEMPOTENCY_KEY}: {key}\r\n");
    }
    let length = body.len();
    request + &format!("content-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}")
}

/// An answer with a length, all of it.
fn read(answer: &[u8]) -> Option<Answer> {
    let text = str::from_utf8(answer).ok()?;
    let (head, body) = text.split_once("\r\n\r\n")?;
    let status = head.split(' ').nth(1)?.parse().ok()?;
    let head = head.to_ascii_lowercase();
    let length = head
        .lines()
        .find_map(|l| l.strip_prefix("content-length: "));
    if length?.parse() != Ok(body.len()) {
        return None;
    }
    let body = body.to_owned();
    Some(Answer { status, head, body })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_an_answer_is_none() {
        let whole = "HTTP/1.1 201 Created\r\nContent-Length: 4\r\n\r\nabcd";
        let answer = read(whole.as_bytes()).unwrap();
        assert_eq!((answer.status, answer.body.as_str()), (201, "abcd"));
        for end in 0..whole.len() {
            assert!(read(&whole.as_bytes()[..end]).is_none(), "{end}");
        }
    }
}
