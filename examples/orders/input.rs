//! Orders from JSON lines, one at a time: a file may be larger than memory.
//!
//! A line is an order, blank, or malformed, whatever bytes it has. `\r\n` and a byte order mark at the
//! beginning are tolerated, and so are fields that an order does not have.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;

use crate::messages::CreateOrder;

/// A longer line is no order, and is not held in memory to find out.
const MAX_LINE_BYTES: u64 = 64 * 1024;
const MAX_ID_BYTES: usize = 128;
const MAX_QUANTITY: u32 = 100_000;
const BYTE_ORDER_MARK: &[u8] = b"\xEF\xBB\xBF";

/// What one line is.
#[derive(Debug)]
pub(crate) enum Line {
    Order(CreateOrder),
    Blank,
    /// And why.
    Malformed(String),
}

/// Lines, as they are read.
#[derive(Debug)]
pub(crate) struct Lines<R> {
    reader: R,
    buffer: Vec<u8>,
    /// The number of the last line, from 1.
    pub(crate) number: u64,
    /// The bytes of all lines so far.
    pub(crate) bytes: u64,
}

/// Opens a file that has something in it; the error is for people.
pub(crate) fn open(path: &Path) -> Result<(Lines<BufReader<File>>, u64), String> {
    let problem = |what: &dyn std::fmt::Display| format!("cannot read {}: {what}", path.display());
    let file = File::open(path).map_err(|error| problem(&error))?;
    let metadata = file.metadata().map_err(|error| problem(&error))?;
    if metadata.is_dir() {
        return Err(problem(&"it is a directory"));
    }
    let mut lines = Lines::new(BufReader::with_capacity(256 * 1024, file));
    // Not by its length, which a pipe does not have.
    if lines
        .reader
        .fill_buf()
        .map_err(|error| problem(&error))?
        .is_empty()
    {
        return Err(problem(&"it is empty"));
    }
    Ok((lines, metadata.len()))
}

impl<R: BufRead> Lines<R> {
    pub(crate) fn new(reader: R) -> Self {
        Self {
            reader,
            buffer: Vec::new(),
            number: 0,
            bytes: 0,
        }
    }

    /// The next line; `None` at the end.
    pub(crate) fn next(&mut self) -> io::Result<Option<Line>> {
        self.buffer.clear();
        let mut limited = (&mut self.reader).take(MAX_LINE_BYTES + 1);
        let read = limited.read_until(b'\n', &mut self.buffer)? as u64;
        if read == 0 {
            return Ok(None);
        }
        self.number += 1;
        self.bytes += read;
        if read > MAX_LINE_BYTES && self.buffer.last() != Some(&b'\n') {
            self.bytes += self.reader.skip_until(b'\n')? as u64;
            let why = format!("longer than {MAX_LINE_BYTES} bytes");
            return Ok(Some(Line::Malformed(why)));
        }
        let line = match self.buffer.strip_prefix(BYTE_ORDER_MARK) {
            Some(rest) if self.number == 1 => rest,
            _ => &self.buffer,
        };
        Ok(Some(parse(line)))
    }
}

fn parse(line: &[u8]) -> Line {
    let line = line.trim_ascii();
    if line.is_empty() {
        return Line::Blank;
    }
    match order(line) {
        Ok(order) => Line::Order(order),
        Err(why) => Line::Malformed(why),
    }
}

fn order(line: &[u8]) -> Result<CreateOrder, String> {
    let text = std::str::from_utf8(line)
        .map_err(|error| format!("not UTF-8 from byte {}", error.valid_up_to() + 1))?;
    // Serde would also read the fields from an array.
    if !text.starts_with('{') {
        return Err("not a JSON object".to_owned());
    }
    let order: CreateOrder = serde_json::from_str(text).map_err(|error| in_words(&error))?;
    check(&order)?;
    Ok(order)
}

/// What is wrong, short and on one line: the message may quote the input, whatever that is.
fn in_words(error: &serde_json::Error) -> String {
    let message = error.to_string();
    // The line is always the first to serde.
    let what = message.split(" at line ").next().unwrap_or(&message);
    let what: String = what.chars().filter(|c| !c.is_control()).take(120).collect();
    format!("{what} (column {})", error.column())
}

fn check(order: &CreateOrder) -> Result<(), String> {
    for (field, id) in [
        ("order_id", &order.order_id),
        ("customer", &order.customer),
        ("product_id", &order.product_id),
    ] {
        if id.trim().is_empty() {
            return Err(format!("`{field}` is empty"));
        }
        if id.len() > MAX_ID_BYTES || id.chars().any(char::is_control) {
            return Err(format!(
                "`{field}` has control characters or more than {MAX_ID_BYTES} bytes"
            ));
        }
    }
    if !(1..=MAX_QUANTITY).contains(&order.quantity) {
        return Err(format!(
            "`quantity` is {}: allowed are 1 to {MAX_QUANTITY}",
            order.quantity
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = r#"{"order_id":"A-1","customer":"Ōno","product_id":"P","quantity":2,"unit_price_cents":150,"note":"ありがとう","extra":[1]}"#;

    fn all(input: impl AsRef<[u8]>) -> Vec<Line> {
        let mut lines = Lines::new(input.as_ref());
        let all: Vec<_> = std::iter::from_fn(|| lines.next().unwrap()).collect();
        assert_eq!(lines.number, all.len() as u64);
        assert_eq!(lines.bytes, input.as_ref().len() as u64);
        all
    }

    fn why(line: impl AsRef<[u8]>) -> String {
        match all(line).as_slice() {
            [Line::Malformed(why)] => why.clone(),
            other => panic!("not one malformed line: {other:?}"),
        }
    }

    #[test]
    fn lines_end_as_they_like() {
        let input = format!("\u{FEFF}{GOOD}\r\n\r\n \t\n{GOOD}\n{GOOD}");
        let lines = all(&input);
        let [
            Line::Order(first),
            Line::Blank,
            Line::Blank,
            Line::Order(_),
            Line::Order(last),
        ] = &lines[..]
        else {
            panic!("{lines:?}");
        };
        assert_eq!((first.quantity, &*last.note), (2, "ありがとう"));
        assert!(all("").is_empty());
        // A note may be missing.
        let without = GOOD.replace(r#""note":"ありがとう","#, "");
        assert!(matches!(&all(&without)[..], [Line::Order(order)] if order.note.is_empty()));
    }

    #[test]
    fn each_mistake_has_its_reason() {
        let with = |from: &str, to: &str| GOOD.replace(from, to);
        for (line, part) in [
            (GOOD[..40].to_owned(), "EOF"),
            (
                with("\"quantity\":2", "\"quantity\":\"two\""),
                "invalid type: string \"two\"",
            ),
            (with("\"quantity\":2,", ""), "missing field `quantity`"),
            (with(":2", ":-2"), "-2"),
            (with(":2", ":0"), "`quantity` is 0"),
            (with(":2", ":100001"), "allowed are 1 to 100000"),
            (with(":2", ":2.5"), "floating point"),
            (with(":2", ":99999999999999999999999"), "expected u32"),
            (with(":2", ":1e999"), "number out of range"),
            (with("A-1", " "), "`order_id` is empty"),
            (with("A-1", &"x".repeat(200)), "more than 128 bytes"),
            (with("A-1", "\\u001b[2J"), "control characters"),
            (with("}", "} }"), "trailing characters"),
            (
                r#"["A-1","Ono","P",2,150,""]"#.to_owned(),
                "not a JSON object",
            ),
        ] {
            let why = why(&line);
            assert!(why.contains(part), "{line}: {why}");
            assert!(!why.contains("line 1"), "{why}");
        }
        assert_eq!(
            why(b"{\"order_id\":\"\xFF\xFE\"}"),
            "not UTF-8 from byte 14"
        );
    }

    #[test]
    fn a_reason_is_short_and_printable() {
        let long = GOOD.replace(":2", &format!(":\"{}\"", "\\u001b".repeat(5000)));
        let why = why(long);
        assert!(
            why.len() < 1000 && !why.chars().any(char::is_control),
            "{why}"
        );
    }

    #[test]
    fn an_endless_line_is_skipped_and_the_next_one_read() {
        let long = "x".repeat(200_000);
        let lines = all(format!("{long}\n{GOOD}\n{long}"));
        assert!(
            matches!(&lines[..], [Line::Malformed(_), Line::Order(_), Line::Malformed(why)] if why.contains("longer"))
        );
        // The longest that is allowed, with its end.
        let spaces = " ".repeat(65_536);
        assert!(matches!(
            &all(format!("{spaces}\n{GOOD}"))[..],
            [Line::Blank, Line::Order(_)]
        ));
    }

    #[test]
    fn what_cannot_be_read_is_said_at_once() {
        let folder = open(Path::new(env!("CARGO_MANIFEST_DIR"))).unwrap_err();
        assert!(folder.ends_with("it is a directory"), "{folder}");
        let missing = open(Path::new("no/such/file")).unwrap_err();
        assert!(
            missing.starts_with("cannot read no/such/file: "),
            "{missing}"
        );
    }

    #[test]
    fn the_sample_is_as_it_is_described() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("orders/orders.jsonl");
        let (mut lines, _) = open(&path).unwrap();
        let mut counts = [0; 3];
        while let Some(line) = lines.next().unwrap() {
            counts[match line {
                Line::Order(_) => 0,
                Line::Malformed(_) => 1,
                Line::Blank => 2,
            }] += 1;
        }
        assert_eq!(counts, [1000, 7, 2]);
    }
}
