//! The state of a message in a group, which is the name of its file.

use std::fmt;

/// One message as one group has it.
///
/// Entries sort by the time from which on they may be taken: new messages by when they were published, others by when
/// their lease or their delay ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Entry {
    /// When it may be taken, in nanoseconds since 1970. While a member has it, this is the end of its lease.
    pub(crate) due: u64,
    /// The message: when it was published, in nanoseconds since 1970, and unlike any other.
    pub(crate) number: u64,
    /// How often its name has changed. So no name occurs twice, and one that a member remembers cannot come to mean
    /// what another has.
    pub(crate) change: u32,
    /// How often it was delivered.
    pub(crate) count: u32,
    /// How often it was redriven.
    pub(crate) generation: u32,
    /// Whether a handler may have run that `count` does not tell of.
    pub(crate) ran: bool,
}

impl Entry {
    /// A message that this group was not given yet.
    pub(crate) fn new(number: u64) -> Self {
        Self {
            due: number,
            number,
            change: 0,
            count: 0,
            generation: 0,
            ran: false,
        }
    }

    /// Its next state: to be taken at another time, and under a name that was never there.
    pub(crate) fn due_at(self, due: u64) -> Self {
        let change = self.change.wrapping_add(1);
        Self {
            due,
            change,
            ..self
        }
    }

    /// As if this delivery had not been.
    pub(crate) fn uncounted(self) -> Self {
        let count = self.count.saturating_sub(1);
        Self { count, ..self }
    }

    /// The entry that a file's name tells; none for other files.
    pub(crate) fn parse(name: &str) -> Option<Self> {
        let mut parts = name.split('-');
        let mut time = || u64::from_str_radix(parts.next()?, 16).ok();
        let (due, number) = (time()?, time()?);
        let mut small = || parts.next()?.parse().ok();
        let entry = Self {
            due,
            number,
            change: small()?,
            count: small()?,
            generation: small()?,
            ran: small()? == 1,
        };
        parts.next().is_none().then_some(entry)
    }
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            due,
            number,
            change,
            count,
            generation,
            ran,
        } = *self;
        let ran = u8::from(ran);
        write!(
            f,
            "{due:016x}-{number:016x}-{change}-{count}-{generation}-{ran}"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_read_as_it_was_written() {
        let entry = Entry {
            due: u64::MAX,
            number: 7,
            change: 3,
            count: 2,
            generation: 1,
            ran: true,
        };
        for entry in [entry, Entry::new(0), entry.uncounted().due_at(9)] {
            assert_eq!(Entry::parse(&entry.to_string()), Some(entry));
        }
    }

    #[test]
    fn other_names_are_none() {
        let good = Entry::new(7).to_string();
        let (more, less) = (format!("{good}-1"), &good[..good.len() - 2]);
        for name in ["", "dead", "complete", "a-b-c-d-e-f", &more, less] {
            assert_eq!(Entry::parse(name), None, "{name:?}");
        }
    }

    #[test]
    fn names_sort_by_the_time_to_take_them() {
        let (old, new) = (Entry::new(1 << 40), Entry::new(1 << 50));
        let retried = old.due_at(1 << 60);
        assert!(old < new && new < retried);
        assert!(old.to_string() < new.to_string() && new.to_string() < retried.to_string());
    }
}
