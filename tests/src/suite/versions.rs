//! Nodes of different versions talk to each other: row 38; and row 39 for what nests too deeply.

use catga::prelude::{Catga, Event, Headers, Request, Result, State, handler, handlers};
use catga::{
    Bytes, Cbor, Codec, DeadLetter, Envelope, ErrorKind, Handlers, Json, MessageId, MessagePack,
    Name, QoS, ReasonKind,
};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use crate::harness::{Bus, SOON, dead_letters, scenarios, wait_for_dead_letters, wait_for_nodes};

scenarios! { Backend "versions":
    Paused older_versions_are_read_as_what_they_were [38],
    Paused older_versions_at_most_once [38],
    Paused newer_versions_are_given_up [38],
    Paused newer_versions_at_most_once [38],
    Paused requests_of_older_versions [38],
    Paused requests_of_newer_versions [38],
    Paused fields_that_come_and_go [38],
    Paused a_new_variant [38],
    Paused deep_nesting [39],
}

/// What a handler saw, in words.
type Seen = UnboundedSender<String>;

macro_rules! versions {
    ($module:ident: $name:literal, $qos:ident) => {
        mod $module {
            use super::{Deserialize, Event, Result, Seen, Serialize, State, handler};

            #[derive(Event, Serialize, Deserialize)]
            #[message(name = $name)]
            #[qos($qos)]
            pub(super) struct One {
                pub(super) kilograms: u32,
            }

            #[derive(Event, Serialize, Deserialize)]
            #[message(name = $name, version = 2, upcast_from = One)]
            #[qos($qos)]
            pub(super) struct Two {
                pub(super) grams: u32,
            }

            #[derive(Event, Serialize, Deserialize)]
            #[message(name = $name, version = 3, upcast_from = Two)]
            #[qos($qos)]
            pub(super) struct Three {
                pub(super) grams: u64,
                pub(super) by: Option<String>,
            }

            impl From<One> for Two {
                fn from(old: One) -> Self {
                    Self {
                        grams: old.kilograms * 1000,
                    }
                }
            }

            impl From<Two> for Three {
                fn from(old: Two) -> Self {
                    let (grams, by) = (old.grams.into(), None);
                    Self { grams, by }
                }
            }

            #[handler(group = "scales")]
            pub(super) async fn on_one(event: One, State(seen): State<Seen>) -> Result<()> {
                Ok(seen.send(format!("{} kg", event.kilograms))?)
            }

            #[handler(group = "scales")]
            pub(super) async fn on_two(event: &Two, State(seen): State<Seen>) -> Result<()> {
                Ok(seen.send(format!("{} g", event.grams))?)
            }

            #[handler(group = "scales")]
            pub(super) async fn on_three(event: &Three, State(seen): State<Seen>) -> Result<()> {
                Ok(seen.send(format!("{} g by {:?}", event.grams, event.by))?)
            }
        }
    };
}

versions!(stored: "Weighed", at_least_once);
versions!(once: "WeighedOnce", exactly_once);
versions!(fleeting: "WeighedFleetingly", at_most_once);

/// A node with one handler, and what that shown.
async fn seeing(bus: &Bus, handlers: Handlers) -> Result<(Catga, UnboundedReceiver<String>)> {
    let (seen, shown) = unbounded_channel::<String>();
    let node = bus.node("a").state(seen).handlers(handlers);
    Ok((node.start().await?, shown))
}

async fn next(shown: &mut UnboundedReceiver<String>) -> Result<String> {
    let next = tokio::time::timeout(SOON, shown.recv()).await?;
    Ok(next.expect("the node keeps its end"))
}

/// Publishes what no handler here can read, and waits for what becomes of it.
async fn given_up<E: Event>(node: &Catga, event: E) -> Result<DeadLetter> {
    let before = dead_letters(node.backend()).await?.len();
    node.publish(event).await?;
    let mut letters = wait_for_dead_letters(node.backend(), before + 1).await?;
    // Dead at once: nothing changes by waiting.
    letters.retain(|letter| letter.envelope.name().as_str() == E::NAME);
    let letter = letters.pop().expect("it is of this name");
    assert_eq!(letter.envelope.version(), E::VERSION);
    Ok(letter)
}

/// Row 38: a handler of version 3 reads versions 1, 2 and 3, each as what it was.
async fn older_versions_are_read_as_what_they_were(bus: Bus) -> Result<()> {
    let handlers = handlers![stored::on_two, once::on_one];
    let (node, mut shown) = seeing(&bus, handlers).await?;
    node.publish(stored::One { kilograms: 1 }).await?;
    assert_eq!(next(&mut shown).await?, "1000 g");
    node.publish(once::One { kilograms: 1 }).await?;
    assert_eq!(next(&mut shown).await?, "1 kg");
    node.shutdown().await?;
    let handlers = handlers![stored::on_three, once::on_three];
    let (node, mut shown) = seeing(&bus, handlers).await?;
    let by = Some("me".to_owned());
    node.publish(stored::One { kilograms: 2 }).await?;
    assert_eq!(next(&mut shown).await?, "2000 g by None");
    node.publish(stored::Two { grams: 7 }).await?;
    assert_eq!(next(&mut shown).await?, "7 g by None");
    node.publish(stored::Three {
        grams: 8,
        by: by.clone(),
    })
    .await?;
    assert_eq!(next(&mut shown).await?, "8 g by Some(\"me\")");
    node.publish(once::One { kilograms: 3 }).await?;
    assert_eq!(next(&mut shown).await?, "3000 g by None");
    node.publish(once::Two { grams: 9 }).await?;
    assert_eq!(next(&mut shown).await?, "9 g by None");
    node.publish(once::Three { grams: 10, by }).await?;
    assert_eq!(next(&mut shown).await?, "10 g by Some(\"me\")");
    assert!(dead_letters(node.backend()).await?.is_empty());
    Ok(())
}

/// Row 38: the same at QoS 0.
async fn older_versions_at_most_once(bus: Bus) -> Result<()> {
    let (node, mut shown) = seeing(&bus, handlers![fleeting::on_two]).await?;
    node.publish(fleeting::One { kilograms: 1 }).await?;
    assert_eq!(next(&mut shown).await?, "1000 g");
    node.shutdown().await?;
    let (node, mut shown) = seeing(&bus, handlers![fleeting::on_three]).await?;
    node.publish(fleeting::One { kilograms: 2 }).await?;
    assert_eq!(next(&mut shown).await?, "2000 g by None");
    node.publish(fleeting::Two { grams: 7 }).await?;
    assert_eq!(next(&mut shown).await?, "7 g by None");
    let by = Some("me".to_owned());
    node.publish(fleeting::Three { grams: 8, by }).await?;
    assert_eq!(next(&mut shown).await?, "8 g by Some(\"me\")");
    Ok(())
}

/// Row 38: what is newer than its handler is dead-lettered at once, with both versions in the reason.
async fn newer_versions_are_given_up(bus: Bus) -> Result<()> {
    let handlers = handlers![stored::on_one, once::on_two];
    let (node, mut shown) = seeing(&bus, handlers).await?;
    let by = None;
    let letters = [
        (
            given_up(&node, stored::Two { grams: 7 }).await?,
            "version 2",
            "up to 1",
        ),
        (
            given_up(&node, stored::Three { grams: 8, by }).await?,
            "version 3",
            "up to 1",
        ),
        (
            given_up(&node, once::Three { grams: 9, by: None }).await?,
            "version 3",
            "up to 2",
        ),
    ];
    for (letter, is, knows) in letters {
        assert_eq!(letter.reason.kind, ReasonKind::Version);
        let text = &letter.reason.detail;
        assert!(text.contains(is) && text.contains(knows), "{text}");
        assert_eq!(letter.deliveries, 1, "it was tried again");
    }
    // Its own still come.
    node.publish(stored::One { kilograms: 2 }).await?;
    assert_eq!(next(&mut shown).await?, "2 kg");
    node.publish(once::One { kilograms: 2 }).await?;
    assert_eq!(next(&mut shown).await?, "2000 g");
    Ok(())
}

/// Row 38: at QoS 0 it is counted as failed, and dropped.
async fn newer_versions_at_most_once(bus: Bus) -> Result<()> {
    let (node, mut shown) = seeing(&bus, handlers![fleeting::on_one]).await?;
    node.publish(fleeting::Two { grams: 7 }).await?;
    let by = None;
    node.publish(fleeting::Three { grams: 7, by }).await?;
    node.publish(fleeting::One { kilograms: 2 }).await?;
    assert_eq!(next(&mut shown).await?, "2 kg");
    let stats = node.handlers()[0].stats;
    assert_eq!((stats.handled, stats.failed), (1, 2));
    Ok(())
}

#[derive(Request, Serialize, Deserialize)]
#[message(name = "StockOf")]
#[response(u32)]
struct StockOfOne(u32);

#[derive(Request, Serialize, Deserialize)]
#[message(name = "StockOf", version = 2, upcast_from = StockOfOne)]
#[response(u32)]
struct StockOfTwo {
    product: String,
}

impl From<StockOfOne> for StockOfTwo {
    fn from(old: StockOfOne) -> Self {
        let product = old.0.to_string();
        Self { product }
    }
}

#[handler]
async fn stock_one(request: StockOfOne) -> Result<u32> {
    Ok(request.0)
}

#[handler]
async fn stock_two(request: StockOfTwo) -> Result<u32> {
    Ok(u32::try_from(request.product.len())?)
}

async fn asking(bus: &Bus) -> Result<Catga> {
    let caller = bus.observer().await?;
    wait_for_nodes(&caller, 2).await;
    Ok(caller)
}

/// Row 38: a request of an older version is answered.
async fn requests_of_older_versions(bus: Bus) -> Result<()> {
    let _node = bus.node("a").handlers(handlers![stock_two]).start().await?;
    let caller = asking(&bus).await?;
    assert_eq!(caller.send(StockOfOne(12_345)).await?, 5);
    let product = "shoe".to_owned();
    assert_eq!(caller.send(StockOfTwo { product }).await?, 4);
    Ok(())
}

/// Row 38: the caller of a request that is too new is told so, at once, and that nothing ran.
async fn requests_of_newer_versions(bus: Bus) -> Result<()> {
    let node = bus.node("a").handlers(handlers![stock_one]).start().await?;
    let caller = asking(&bus).await?;
    let product = "shoe".to_owned();
    let error = caller.send(StockOfTwo { product }).await;
    let error = error.expect_err("it is newer than the handler");
    assert_eq!(
        (error.kind(), error.retry()),
        (ErrorKind::Version, catga::Retry::Never)
    );
    assert!(!error.may_be_stored(), "{error:?}");
    let text = error.message();
    assert!(
        text.contains("version 2") && text.contains("up to 1"),
        "{text}"
    );
    assert_eq!(node.handlers()[0].stats.failed, 1, "it was tried again");
    assert_eq!(caller.send(StockOfOne(7)).await?, 7);
    Ok(())
}

/// The same name and version, as three teams wrote it down.
mod fields {
    use super::{Deserialize, Event, Result, Seen, Serialize, State, handler};

    #[derive(Event, Serialize, Deserialize)]
    #[message(name = "Shipped")]
    #[qos(at_least_once)]
    pub(super) struct Bare {
        pub(super) id: u32,
    }

    #[derive(Event, Serialize, Deserialize)]
    #[message(name = "Shipped")]
    #[qos(at_least_once)]
    pub(super) struct Noted {
        pub(super) id: u32,
        #[serde(default)]
        pub(super) note: Option<String>,
    }

    #[derive(Event, Serialize, Deserialize)]
    #[message(name = "Shipped")]
    #[qos(at_least_once)]
    pub(super) struct Addressed {
        pub(super) id: u32,
        pub(super) address: String,
    }

    #[handler(group = "stock")]
    pub(super) async fn on_bare(event: &Bare, State(seen): State<Seen>) -> Result<()> {
        Ok(seen.send(format!("{}", event.id))?)
    }

    #[handler(group = "stock")]
    pub(super) async fn on_noted(event: Noted, State(seen): State<Seen>) -> Result<()> {
        Ok(seen.send(format!("{} {:?}", event.id, event.note))?)
    }

    #[handler(group = "stock")]
    pub(super) async fn on_addressed(event: Addressed, State(seen): State<Seen>) -> Result<()> {
        Ok(seen.send(format!("{} {}", event.id, event.address))?)
    }
}

/// Row 38: an unknown field is skipped, an optional one may be missing, a missing one that is needed is named.
async fn fields_that_come_and_go(bus: Bus) -> Result<()> {
    let (remark, address) = (Some("now".to_owned()), "here".to_owned());
    let (node, mut shown) = seeing(&bus, handlers![fields::on_bare]).await?;
    node.publish(fields::Noted {
        id: 1,
        note: remark.clone(),
    })
    .await?;
    assert_eq!(next(&mut shown).await?, "1");
    node.publish(fields::Addressed {
        id: 2,
        address: address.clone(),
    })
    .await?;
    assert_eq!(next(&mut shown).await?, "2");
    node.shutdown().await?;
    let (node, mut shown) = seeing(&bus, handlers![fields::on_noted]).await?;
    node.publish(fields::Bare { id: 3 }).await?;
    assert_eq!(next(&mut shown).await?, "3 None");
    node.shutdown().await?;
    let (node, mut shown) = seeing(&bus, handlers![fields::on_addressed]).await?;
    let letter = given_up(
        &node,
        fields::Noted {
            id: 4,
            note: remark,
        },
    )
    .await?;
    assert_eq!(letter.reason.kind, ReasonKind::Decode);
    assert!(
        letter.reason.detail.contains("`address`"),
        "{:?}",
        letter.reason
    );
    assert_eq!(letter.deliveries, 1, "it was tried again");
    node.publish(fields::Addressed { id: 5, address }).await?;
    assert_eq!(next(&mut shown).await?, "5 here");
    Ok(())
}

/// The same name and version, before and after there was a `Lost`.
mod variants {
    use super::{Deserialize, Event, Result, Seen, Serialize, State, handler};

    #[derive(Event, Serialize, Deserialize)]
    #[message(name = "ParcelMoved")]
    #[qos(at_least_once)]
    pub(super) enum Old {
        Sent,
        Arrived(u32),
    }

    #[derive(Event, Serialize, Deserialize)]
    #[message(name = "ParcelMoved")]
    #[qos(at_least_once)]
    pub(super) enum New {
        Sent,
        Arrived(u32),
        Lost { by: String },
    }

    #[handler(group = "stock")]
    pub(super) async fn on_old(event: &Old, State(seen): State<Seen>) -> Result<()> {
        Ok(seen.send(match event {
            Old::Sent => "sent".to_owned(),
            Old::Arrived(at) => format!("arrived at {at}"),
        })?)
    }
}

/// Row 38: a variant that the handler does not know is dead-lettered, with its name; the others are read.
async fn a_new_variant(bus: Bus) -> Result<()> {
    let (node, mut shown) = seeing(&bus, handlers![variants::on_old]).await?;
    let by = "us".to_owned();
    let letter = given_up(&node, variants::New::Lost { by }).await?;
    assert_eq!(letter.reason.kind, ReasonKind::Decode);
    assert!(
        letter.reason.detail.contains("`Lost`"),
        "{:?}",
        letter.reason
    );
    node.publish(variants::New::Arrived(7)).await?;
    assert_eq!(next(&mut shown).await?, "arrived at 7");
    node.publish(variants::New::Sent).await?;
    node.publish(variants::Old::Sent).await?;
    assert_eq!(
        (next(&mut shown).await?, next(&mut shown).await?),
        ("sent".to_owned(), "sent".to_owned())
    );
    Ok(())
}

/// As deep as one likes.
#[derive(Event, Serialize, Deserialize)]
#[message(name = "Nested")]
#[qos(at_least_once)]
struct Nested(Vec<Self>);

#[handler(group = "stock")]
async fn on_nested(event: &Nested, State(seen): State<Seen>) -> Result<()> {
    Ok(seen.send(format!("{} within", event.0.len()))?)
}

/// Row 39: 100,000 arrays one in the other, and an array that claims 4 billion entries, are refused before they
/// cost stack or memory, in every format; the node lives.
async fn deep_nesting(bus: Bus) -> Result<()> {
    const DEPTH: usize = 100_000;
    let (node, mut shown) = seeing(&bus, handlers![on_nested]).await?;
    let json = [vec![b'['; DEPTH], vec![b']'; DEPTH]].concat();
    let bombs = [
        (Json::CONTENT_TYPE, json),
        (Json::CONTENT_TYPE, vec![b'['; DEPTH]),
        // An array of one entry, which is an array of one entry ..
        (MessagePack.content_type(), vec![0x91; DEPTH]),
        (Cbor.content_type(), vec![0x81; DEPTH]),
        (
            MessagePack.content_type(),
            vec![0xdd, 0xff, 0xff, 0xff, 0xff],
        ),
        (Cbor.content_type(), vec![0x9a, 0xff, 0xff, 0xff, 0xff]),
    ];
    let count = bombs.len();
    for (content_type, bomb) in bombs {
        let name = Name::from_static("Nested");
        let bomb = Envelope::received(name, QoS::AtLeastOnce, Bytes::from(bomb));
        let mut bomb = bomb.with_id(MessageId::new());
        bomb.headers_mut()
            .insert(Headers::CONTENT_TYPE, content_type)?;
        node.backend().transport.publish(&mut bomb, SOON).await?;
    }
    let letters = wait_for_dead_letters(node.backend(), count).await?;
    for letter in letters {
        assert_eq!(letter.reason.kind, ReasonKind::Decode, "{}", letter.reason);
        assert_eq!(letter.deliveries, 1);
    }
    node.publish(Nested(vec![Nested(vec![])])).await?;
    assert_eq!(next(&mut shown).await?, "1 within");
    Ok(())
}
