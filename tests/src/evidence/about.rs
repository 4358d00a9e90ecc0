//! What an event is about.

/// What an event is about: nothing in particular, a message, a group, or a message in a group.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct About {
    /// The group or subscriber.
    pub group: Option<String>,
    /// The message's or request's id.
    pub id: Option<u64>,
}

impl From<()> for About {
    fn from((): ()) -> Self {
        Self::default()
    }
}

impl From<u64> for About {
    fn from(id: u64) -> Self {
        Self {
            group: None,
            id: Some(id),
        }
    }
}

impl From<&str> for About {
    fn from(group: &str) -> Self {
        Self {
            group: Some(group.to_owned()),
            id: None,
        }
    }
}

impl From<(&str, u64)> for About {
    fn from((group, id): (&str, u64)) -> Self {
        Self {
            group: Some(group.to_owned()),
            id: Some(id),
        }
    }
}
