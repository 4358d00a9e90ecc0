//! Which protocol a server speaks that does not answer in ours, so that it can be said what to change.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// The begin of a handshake, and no more: whoever speaks TLS answers with an alert. To others it is a line without an end.
const HANDSHAKE: [u8; 9] = [22, 3, 1, 0, 4, 1, 0, 0, 0];
/// What an alert begins with.
const ALERT: u8 = 21;
/// The longest to wait for it.
const WAIT: Duration = Duration::from_secs(1);

/// Whether the server at `host` answers as one that speaks TLS does.
pub(crate) async fn speaks_tls(host: &str, port: u16) -> bool {
    answer(host, port, &HANDSHAKE).await == Some(ALERT)
}

/// Whether the server at `host` answers in plain text. Nothing is told to it that anybody else might not know.
pub(crate) async fn speaks_plain(host: &str, port: u16) -> bool {
    matches!(answer(host, port, b"PING\r\n").await, Some(b'+' | b'-'))
}

/// The first byte of an answer.
async fn answer(host: &str, port: u16, question: &[u8]) -> Option<u8> {
    let ask = async {
        let mut stream = TcpStream::connect((host, port)).await?;
        stream.write_all(question).await?;
        stream.read_u8().await
    };
    timeout(WAIT, ask).await.ok()?.ok()
}
