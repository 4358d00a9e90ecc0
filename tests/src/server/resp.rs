//! As much of Redis' protocol as it takes to look after a server: inline commands and their replies
//! ([RESP2](https://redis.io/docs/latest/develop/reference/protocol-spec/)). The scenarios use the real client.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::time::Duration;

use super::ServerError;
use super::wait::loopback;

const LIMIT: Duration = Duration::from_secs(2);

/// Asks a server one thing; the parts of an array stand on lines of their own.
pub(crate) fn ask(port: u16, password: Option<&str>, command: &str) -> Result<String, ServerError> {
    send(port, password, format!("{command}\r\n").as_bytes(), 1)
}

/// Asks a server one thing after the other on one connection; the last reply.
pub(crate) fn ask_in_turn(
    port: u16,
    password: Option<&str>,
    commands: &[&str],
) -> Result<String, ServerError> {
    let lines = format!("{}\r\n", commands.join("\r\n"));
    send(port, password, lines.as_bytes(), commands.len())
}

/// Asks a server one thing whose parts may be any bytes.
pub(crate) fn ask_in_parts(
    port: u16,
    password: Option<&str>,
    parts: &[&[u8]],
) -> Result<String, ServerError> {
    let mut command = format!("*{}\r\n", parts.len()).into_bytes();
    for part in parts {
        command.extend(format!("${}\r\n", part.len()).bytes());
        command.extend(*part);
        command.extend(b"\r\n");
    }
    send(port, password, &command, 1)
}

/// Sends `commands`, and reads so many replies; the last.
fn send(
    port: u16,
    password: Option<&str>,
    commands: &[u8],
    replies: usize,
) -> Result<String, ServerError> {
    let mut stream = TcpStream::connect_timeout(&loopback(port), LIMIT)?;
    stream.set_read_timeout(Some(LIMIT))?;
    if let Some(password) = password {
        write!(stream, "AUTH {password}\r\n")?;
    }
    stream.write_all(commands)?;
    let mut reader = BufReader::new(stream);
    let mut lines = Vec::new();
    if password.is_some() {
        read(&mut reader, &mut lines)?;
    }
    for _ in 0..replies {
        lines.clear();
        read(&mut reader, &mut lines)?;
    }
    Ok(lines.join("\n"))
}

fn read(reader: &mut impl BufRead, lines: &mut Vec<String>) -> Result<(), ServerError> {
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let line = line.trim_end();
    let (kind, rest) = line.split_at_checked(1).unwrap_or_default();
    let length = || {
        rest.parse::<i64>()
            .map_err(|_| ServerError::new(format!("the server says {line:?}")))
    };
    match kind {
        "+" | ":" => lines.push(rest.to_owned()),
        "-" => return Err(ServerError::new(rest)),
        "$" => {
            let Ok(length) = usize::try_from(length()?) else {
                return Ok(());
            };
            let mut bytes = vec![0; length + 2];
            reader.read_exact(&mut bytes)?;
            bytes.truncate(length);
            lines.push(String::from_utf8_lossy(&bytes).into_owned());
        }
        "*" => {
            for _ in 0..length()? {
                read(reader, lines)?;
            }
        }
        _ => return Err(ServerError::new(format!("the server says {line:?}"))),
    }
    Ok(())
}

/// The value of a field in what `INFO` and its like say: `role:master`.
pub(crate) fn field<'a>(info: &'a str, name: &str) -> Option<&'a str> {
    info.lines()
        .find_map(|line| line.trim_end().strip_prefix(name)?.strip_prefix(':'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replies_are_read() {
        let mut lines = Vec::new();
        let reply = b"*4\r\n$6\r\nmaster\r\n:42\r\n*0\r\n$-1\r\n";
        read(&mut &reply[..], &mut lines).unwrap();
        assert_eq!(lines, ["master", "42"]);
        let error = read(&mut &b"-NOAUTH no\r\n"[..], &mut lines).unwrap_err();
        assert_eq!(error.to_string(), "NOAUTH no");
        assert!(read(&mut &b""[..], &mut lines).is_err());
    }

    #[test]
    fn fields_are_found() {
        let info = "# Replication\r\nrole:slave\r\nmaster_link_status:up\r\n";
        assert_eq!(field(info, "role"), Some("slave"));
        assert_eq!(field(info, "master"), None);
    }
}
