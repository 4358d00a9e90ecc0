//! Scripts that the server runs as one step.

use std::sync::LazyLock;

use redis::{Cmd, ToRedisArgs};

/// A script, called by its hash.
#[derive(Debug)]
pub(crate) struct Script {
    name: &'static str,
    body: &'static str,
    hash: LazyLock<String>,
}

macro_rules! scripts {
    (after $prelude:tt: $($(#[$doc:meta])* $name:ident = $file:literal;)*) => {$(
        $(#[$doc])*
        pub(crate) static $name: Script = Script {
            name: $file,
            body: scripts!(@body $prelude $file),
            hash: LazyLock::new(|| redis::Script::new($name.body).get_hash().to_owned()),
        };
    )*};
    (@body [] $file:literal) => {
        include_str!(concat!("scripts/", $file, ".lua"))
    };
    (@body [$prelude:literal] $file:literal) => {
        concat!(
            include_str!(concat!("scripts/", $prelude, ".lua")),
            include_str!(concat!("scripts/", $file, ".lua"))
        )
    };
}

scripts! { after []:
    /// Adds a message whose id was not added before.
    ADD_ONCE = "add_once";
}

scripts! { after ["prelude"]:
    /// Parks entries that are to come again later.
    PARK = "park";
    /// Takes what is due.
    DUE = "due";
    /// Takes what others left behind, and forgets members that are gone.
    REAP = "reap";
    /// Takes what was read and did not arrive.
    LEFTOVERS = "leftovers";
    /// What a group read last.
    AT = "at";
    /// Leaves a group.
    LEAVE = "leave";
    /// Restarts a lease.
    EXTEND = "extend";
    /// Acks, if it is still ours.
    TERM = "term";
    /// Into the dead letters, and acks.
    BURY = "bury";
    /// Out of the dead letters, to the group that failed.
    REDRIVE = "redrive";
    /// Deletes what all groups have acked.
    TRIM = "trim";
    /// Claims ids in the inbox.
    CLAIM = "claim";
    /// Renews, completes or gives up a claim.
    RECORD = "record";
    /// Completes a claim with its effects, and acks.
    COMPLETE = "complete";
    /// Completes many claims, and acks.
    COMPLETE_ALL = "complete_all";
    /// Gives a claim up and parks the entry.
    GIVE_UP = "give_up";
    /// The next entry of a partition, in order.
    NEXT_IN_ORDER = "next_in_order";
    /// Gives a partition up.
    DISOWN = "disown";
    /// Gives a member of an `each_node` group up that stayed away.
    ABSENT = "absent";
    /// Notes that somebody is there.
    SEEN = "seen";
    /// Says that somebody reads requests.
    SERVING = "serving";
    /// Leaves a stream of requests.
    RETIRE = "retire";
}

scripts! { after ["nodes"]:
    /// Makes a node known.
    NODE_REGISTER = "node_register";
    /// Says that a node is there.
    NODE_HEARTBEAT = "node_heartbeat";
    /// Takes a node out.
    NODE_UNREGISTER = "node_unregister";
    /// All nodes.
    NODE_LIST = "node_list";
    /// Takes out the nodes that were silent for too long.
    NODE_SWEEP = "node_sweep";
}

impl Script {
    pub(crate) fn name(&self) -> &'static str {
        self.name
    }

    /// The script itself.
    pub(crate) fn body(&self) -> &'static str {
        self.body
    }

    /// Calls it by its hash, with so many keys.
    pub(crate) fn call(&self, keys: usize) -> Cmd {
        let mut cmd = redis::cmd("EVALSHA");
        cmd.arg(self.hash.as_str()).arg(keys);
        cmd
    }

    /// The same call with the script itself, for a server that does not know it yet.
    pub(crate) fn whole(&self, call: &Cmd) -> Cmd {
        let mut cmd = redis::cmd("EVAL");
        cmd.arg(self.body);
        for arg in call.args_iter().skip(2) {
            match arg {
                redis::Arg::Simple(arg) => cmd.arg(arg),
                _ => cmd.arg(""),
            };
        }
        cmd
    }
}

/// Keys and arguments, in the order in which they are given.
pub(crate) fn args<T: ToRedisArgs>(cmd: &mut Cmd, args: impl IntoIterator<Item = T>) {
    for arg in args {
        cmd.arg(arg);
    }
}
