//! A message as a file: a line of JSON, then the payload as it is.

use std::fs;
use std::io;
use std::path::Path;

use catga_core::{Bytes, Envelope, Error, Headers, MessageId, Name, QoS};
use serde::{Deserialize, Serialize};

/// What travels beside the payload, each only where it differs from the default.
#[derive(Debug, Serialize, Deserialize)]
struct Head {
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<MessageId>,
    version: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    partition: Option<u16>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    headers: Vec<(String, String)>,
}

/// The first line of a message's file.
pub(crate) fn head(envelope: &Envelope) -> io::Result<Vec<u8>> {
    let owned = |(name, value): (&str, &str)| (name.to_owned(), value.to_owned());
    let head = Head {
        id: envelope.id(),
        version: envelope.version(),
        partition: envelope.partition(),
        headers: envelope.headers().iter().map(owned).collect(),
    };
    // JSON escapes line breaks: the first one ends the line.
    let mut line = serde_json::to_vec(&head)?;
    line.push(b'\n');
    Ok(line)
}

/// The message in a file. An error says in which.
pub(crate) fn read(name: &Name, file: &Path) -> io::Result<Envelope> {
    let envelope = fs::read(file).and_then(|content| parse(name, content));
    envelope.map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", file.display())))
}

fn parse(name: &Name, content: Vec<u8>) -> io::Result<Envelope> {
    let content = Bytes::from(content);
    let broken = || io::Error::new(io::ErrorKind::InvalidData, "it has no line of its own");
    let end = content.iter().position(|byte| *byte == b'\n');
    let end = end.ok_or_else(broken)?;
    let head: Head = serde_json::from_slice(&content[..end])?;
    let mut headers = Headers::new();
    for (name, value) in head.headers {
        let invalid = |error: Error| io::Error::new(io::ErrorKind::InvalidData, error);
        headers.insert(name, value).map_err(invalid)?;
    }
    let payload = content.slice(end + 1..);
    let envelope = Envelope::received(name.clone(), QoS::AtLeastOnce, payload)
        .with_version(head.version)
        .with_partition(head.partition)
        .with_headers(headers);
    Ok(match head.id {
        Some(id) => envelope.with_id(id),
        None => envelope,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_read_as_it_was_written() {
        let name = Name::from_static("orders.shipped");
        let mut headers = Headers::new();
        headers.insert("tenant", "Ä \"quoted\" \\n").unwrap();
        for payload in [&b""[..], b"\n\n{", &[0, 255, 10, 13]] {
            let bytes = Bytes::from(payload);
            let envelope = Envelope::received(name.clone(), QoS::AtLeastOnce, bytes)
                .with_id(MessageId::from_key("7"))
                .with_version(3)
                .with_partition(Some(5))
                .with_headers(headers.clone());
            let content = [&head(&envelope).unwrap(), payload].concat();
            let back = parse(&name, content).unwrap();
            assert_eq!(back.payload().as_bytes().unwrap(), payload);
            assert_eq!(
                (back.id(), back.version(), back.partition(), back.headers()),
                (envelope.id(), 3, Some(5), &headers)
            );
        }
    }

    #[test]
    fn what_is_no_message_is_an_error() {
        for content in ["", "{}", "{}\n", "{\"version\":1}", "\n"] {
            let parsed = parse(&Name::from_static("x"), content.into());
            let error = parsed.unwrap_err();
            let kinds = [io::ErrorKind::InvalidData, io::ErrorKind::UnexpectedEof];
            assert!(kinds.contains(&error.kind()), "{content:?}: {error:?}");
        }
    }
}
