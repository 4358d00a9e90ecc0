//! Reading what the server answers.

use redis::Value;

/// A number, also one that is written as text.
pub(crate) fn int(value: &Value) -> Option<i64> {
    match value {
        Value::Int(number) => Some(*number),
        Value::BulkString(bytes) => std::str::from_utf8(bytes).ok()?.parse().ok(),
        Value::SimpleString(text) => text.parse().ok(),
        _ => None,
    }
}

/// A number that is never negative; what is no number is 0.
pub(crate) fn count(value: &Value) -> u64 {
    int(value).and_then(|n| u64::try_from(n).ok()).unwrap_or(0)
}

/// A text.
pub(crate) fn text(value: &Value) -> Option<&str> {
    match value {
        Value::BulkString(bytes) => std::str::from_utf8(bytes).ok(),
        Value::SimpleString(text) => Some(text),
        _ => None,
    }
}

/// The bytes of a string.
pub(crate) fn bytes(value: Value) -> Option<Vec<u8>> {
    match value {
        Value::BulkString(bytes) => Some(bytes),
        Value::SimpleString(text) => Some(text.into_bytes()),
        _ => None,
    }
}

/// A list; nothing is an empty one.
pub(crate) fn list(value: Value) -> Vec<Value> {
    match value {
        Value::Array(values) | Value::Set(values) => values,
        _ => Vec::new(),
    }
}

/// The value behind a name, in a list of names and values.
pub(crate) fn field<'a>(value: &'a Value, name: &str) -> Option<&'a Value> {
    let Value::Array(values) = value else {
        return None;
    };
    let mut pairs = values.chunks_exact(2);
    pairs.find_map(|pair| (text(&pair[0]) == Some(name)).then_some(&pair[1]))
}
