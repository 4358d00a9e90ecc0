//! A backend of [Catga] by somebody else: messages in the files of a folder, on `catga-core` alone.
//!
//! It is here to be read by whoever writes a backend, and to be broken: three planted [bugs](Bug) show that the test
//! kit finds them. It is slow beside a broker, and yet whole: what it declares it keeps, also between processes that
//! share a folder, and also when any of them is killed at any instruction.
//!
//! ```
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), catga_core::Error> {
//! use std::time::Duration;
//!
//! use catga_core::{
//!     Bytes, ConnectOptions, Consumers, Driver, Envelope, Name, QoS, Settlement, Subscribe,
//! };
//! use catga_file::FileDriver;
//!
//! # let folder = tempfile::tempdir().unwrap();
//! # let folder = folder.path().display();
//! let url = format!("file://{folder}?sync=false").parse()?;
//! let options = ConnectOptions::new(Name::new("shop")?);
//! let backend = FileDriver.connect(&url, &options).await?;
//!
//! let (message, group) = (Name::new("OrderShipped")?, Name::new("billing")?);
//! let subscribe = Subscribe::new(message.clone(), QoS::AtLeastOnce, Consumers::Group(group));
//! let mut subscription = backend.transport.subscribe(&subscribe).await?;
//!
//! let mut order = Envelope::received(message, QoS::AtLeastOnce, Bytes::from("{}"));
//! backend.transport.publish(&mut order, Duration::from_secs(5)).await?;
//!
//! let mut deliveries = Vec::new();
//! subscription.recv(10, &mut deliveries).await?;
//! for delivery in deliveries {
//!     delivery.settle(Settlement::Ack).await?;
//! }
//! # Ok(())
//! # }
//! ```
//!
//! # The folder
//!
//! ```text
//! <folder>/<namespace>/
//!     tmp/                            what is being written
//!     topics/<message>/
//!         messages/<number>           what is retained: one file for each message, never changed
//!         groups/<group>/<entry>      the same file once more, for each group that is not done with it
//!         groups/<group>/dead/        .. and for each that gave it up, with the reason beside it
//! ```
//!
//! Three rules carry everything. Each is one system call, which happens as a whole or not at all and which only one
//! process can win, so that there is nothing to be repaired after a kill:
//!
//! 1. **A message is written aside, then linked.** A file that has a name in `messages/` or `groups/` is complete.
//! 2. **A name is a state.** The entry says from when on it may be taken, and how often it was. To take,
//!    give back, put off, bury or redrive a message is to *rename* its file; to ack it is to remove it. A lease is
//!    no more than a time from which on anybody may take it: that of a killed member ends by itself, and a
//!    member whose lease was taken over finds no file of the old name, so that it cannot settle.
//! 3. **Whoever needs a message has a link to it.** The file system counts them. When only the one in `messages/` is
//!    left after a group was done, nobody needs the message any more and it goes.
//!
//! # What it does
//!
//! | ability | how |
//! |---|---|
//! | `at_least_once` | `publish` returns when the message is on the disk and with every group |
//! | `groups` | a folder each, from the first `subscribe` on; members in any process share it |
//! | `delayed_nak` | the entry's time lies in the future, and outlives the member |
//! | `uncounted_release` | the count in the entry goes back by one |
//! | `persistent` | files |
//! | `fused_dead_letter` | one rename takes a message from its group to the dead letters |
//!
//! Everything else is refused with [`Unsupported`](catga_core::ErrorKind::Unsupported): `at_most_once`, `exactly_once`,
//! `each_node`, `ordered`, requests, inbox and nodes.
//!
//! - **Time** is the system's clock, which all processes of a machine share. One that is set back delays what waits.
//! - **Waiting** is polling: a subscription looks into its folder every 5 ms (`poll_ms`), and nobody wakes it earlier.
//! - **Retained** is what a group or a dead letter needs, and what was published before there was a group. Up to
//!   `max_messages` of one name are; then first those go that no group needs, and when there are none,
//!   `publish` is rejected with [`LimitReached`](catga_core::ErrorKind::LimitReached).
//! - **Duplicates** come as QoS 1 allows: after a lease ran out, after a publish of unknown outcome was repeated, and
//!   for a message that is published in the very moment when a group is born.
//! - **Cost**: a publish and a look read the names of all that is retained or waits. Thousands are fine.
//! - **Unix only**, one machine, one file system that has hard links; no NFS.
//!
//! [`FileDriver`] lists the options of the URL. An application gives it to its builder:
//!
//! ```text
//! Catga::builder().driver(FileDriver).connect("file:///var/spool/shop")
//! ```
//!
//! # How to read it, or write your own
//!
//! 1. `driver.rs`: the value that is exported; it connects, and says what its backends can do.
//! 2. `transport.rs`: a message's way out. It refuses what is not declared, then stores; an error says whether the
//!    message may be stored.
//! 3. `topic.rs`: what is retained, and the one race there is: a message is published while a group is born.
//! 4. `subscription.rs`: a message's way in, and what each settlement is here.
//! 5. `entry.rs` and `group.rs`: the states, and the changes between them.
//! 6. `letters.rs`: the dead letters.
//!
//! Then run the test kit on it, and plant a bug for each rule to see that the kit finds it.
//!
//! [Catga]: https://docs.rs/catga

mod disk;
mod driver;
mod entry;
mod error;
mod group;
mod letters;
mod message;
mod options;
mod store;
mod subscription;
mod topic;
mod transport;

pub use driver::FileDriver;
pub use options::Bug;
