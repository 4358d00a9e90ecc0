//! Who may connect, by which certificate, and what is told of it: rows 66, 67 and 91.

use std::error::Error as _;
use std::time::Duration;

use catga::prelude::{Catga, Result, handlers};
use catga::{Error, ErrorKind, Retry};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use tokio::time::{Instant, sleep, timeout};
use tracing::Level;

use crate::captured::Captured;
use crate::harness::{Bus, SOON, scenarios, wait_until};
use crate::journal::{Journal, Step};
use crate::messages::{Tick, Work, on_tick, on_work};
use crate::proxy::Proxy;
use crate::site::{Authority, Client, Lack, OwnServer, Secret, SiteOptions};

scenarios! { Backend "server_access":
    Real a_wrong_password [66],
    Paused publishing_is_forbidden [66],
    Real what_is_needed_is_forbidden [66],
    Real encrypted [66],
    Real a_certificate_for_another_host [66],
    Real a_certificate_that_expired [66],
    Real an_authority_that_nobody_knows [66],
    Real a_client_without_a_certificate [66],
    Real a_plain_client [66],
    Real a_plain_server [66],
    Real another_password [67],
    Paused secrets_are_nowhere [91],
}

const SECOND: Duration = Duration::from_secs(1);
const HOST: &str = "127.0.0.1";

fn with_password(password: &str) -> Client {
    Client {
        password: Some(Secret::Given(password.to_owned())),
        ..Client::default()
    }
}

fn protected(password: &str) -> SiteOptions {
    SiteOptions {
        password: Some(password.to_owned()),
        ..SiteOptions::default()
    }
}

async fn start(bus: &Bus) -> std::result::Result<Catga, Error> {
    bus.node("observer").handlers(handlers![]).start().await
}

/// A start that has to be refused: at once, in words, and without trying again and again.
async fn refused(server: &OwnServer, client: &Client) -> Result<Error> {
    let proxy: Proxy = server.proxy().await?;
    let at = proxy.address();
    let bus = server.bus_at(&at.to_string(), client);
    let started = timeout(SOON / 2, start(&bus)).await;
    let error = started.expect("it hangs").expect_err("it may not get in");
    assert_eq!(error.retry(), Retry::Never, "{error:?}");
    sleep(SECOND / 2).await;
    let tries = proxy.connections();
    assert!(tries <= 2, "it tried {tries} times");
    Ok(error)
}

/// Row 66: a wrong password is said to be one.
async fn a_wrong_password(bus: Bus) -> Result<()> {
    let server = bus.own_server_with(&protected("right"))?;
    for client in [with_password("wrong"), Client::default()] {
        let error = refused(&server, &client).await?;
        assert_eq!(error.kind(), ErrorKind::Permission, "{error:?}");
    }
    start(&server.bus_of(&with_password("right")))
        .await?
        .shutdown()
        .await?;
    Ok(())
}

/// A server on which the user may do all that is needed but one thing.
fn without(bus: &Bus, lack: Lack) -> Result<OwnServer> {
    let entries = bus.own_server()?.site().permissions_without(lack);
    bus.own_server_with(&SiteOptions {
        permissions: Some(entries),
        ..SiteOptions::default()
    })
}

/// A permission that is missing is named at the call, and not waited for.
fn assert_forbidden(error: &Error, began: Instant) {
    let (kind, stored) = (error.kind(), error.may_be_stored());
    assert_eq!((kind, stored), (ErrorKind::Permission, false), "{error:?}");
    assert_eq!(error.retry(), Retry::Never, "{error:?}");
    assert!(began.elapsed() < 2 * SECOND, "{:?}", began.elapsed());
}

/// Row 66: who may not publish is told so at the call; at QoS 0, where nobody waits, in the log.
async fn publishing_is_forbidden(bus: Bus) -> Result<()> {
    let captured = Captured::start();
    let server = without(&bus, Lack::Publishing)?;
    let node = start(&server.bus()).await?;
    let began = Instant::now();
    let error = node.publish(Work { id: 0 }).await;
    assert_forbidden(&error.expect_err("it is forbidden"), began);
    let before = captured.lines().len();
    node.publish(Tick { id: 0 }).await?;
    let told = || {
        captured.lines()[before..].iter().any(|(level, text)| {
            *level <= Level::WARN && text.to_ascii_lowercase().contains("permission")
        })
    };
    wait_until("it is told that it was forbidden", SOON, told).await;
    node.shutdown().await?;
    Ok(())
}

/// Row 66: who may not listen, store, or hear answers is told so at the start.
async fn what_is_needed_is_forbidden(bus: Bus) -> Result<()> {
    for (lack, handlers) in [
        (Lack::Listening, handlers![on_tick]),
        (Lack::Storing, handlers![on_work]),
        (Lack::Answers, handlers![on_work]),
    ] {
        let server = without(&bus, lack)?;
        let node = server.bus().node("a").state(Journal::default().plain());
        let began = Instant::now();
        let error = node.handlers(handlers).start().await;
        assert_forbidden(&error.expect_err("it is forbidden"), began);
    }
    Ok(())
}

/// A server that shows a certificate for `host`, and a client that trusts who signed it.
fn secured(bus: &Bus, host: &str, expired: bool) -> Result<(OwnServer, Client, Authority)> {
    let authority = Authority::new()?;
    let certificate = if expired {
        authority.sign_expired(host)?
    } else {
        authority.sign(host)?
    };
    let server = bus.own_server_with(&SiteOptions {
        certificate: Some(certificate),
        ..SiteOptions::default()
    })?;
    let client = Client {
        trusts: Some(authority.certificate()),
        ..Client::default()
    };
    Ok((server, client, authority))
}

/// Row 66: who trusts the authority gets in, and everything works.
async fn encrypted(bus: Bus) -> Result<()> {
    let (server, client, _authority) = secured(&bus, HOST, false)?;
    let journal = Journal::default();
    let node = server.bus_of(&client).node("a").state(journal.plain());
    let node = node.handlers(handlers![on_work, on_tick]).start().await?;
    node.publish(Work { id: 0 }).await?;
    node.publish(Tick { id: 1 }).await?;
    journal.wait(Step::Done, 2, SOON).await;
    node.shutdown().await?;
    Ok(())
}

/// Row 66: a server that is not who it was asked for.
async fn a_certificate_for_another_host(bus: Bus) -> Result<()> {
    let (server, client, _authority) = secured(&bus, "example.org", false)?;
    let error = refused(&server, &client).await?;
    assert_eq!(error.kind(), ErrorKind::Connect, "{error:?}");
    Ok(())
}

/// Row 66: a certificate of which the time is over.
async fn a_certificate_that_expired(bus: Bus) -> Result<()> {
    let (server, client, _authority) = secured(&bus, HOST, true)?;
    let error = refused(&server, &client).await?;
    assert_eq!(error.kind(), ErrorKind::Connect, "{error:?}");
    Ok(())
}

/// Row 66: a certificate that somebody else signed than who is trusted.
async fn an_authority_that_nobody_knows(bus: Bus) -> Result<()> {
    let (server, _, _authority) = secured(&bus, HOST, false)?;
    let other = Authority::new()?;
    let client = Client {
        trusts: Some(other.certificate()),
        ..Client::default()
    };
    let error = refused(&server, &client).await?;
    assert_eq!(error.kind(), ErrorKind::Connect, "{error:?}");
    Ok(())
}

/// Row 66: where the server asks for a certificate, who shows none, or one that somebody else signed, is not let in.
async fn a_client_without_a_certificate(bus: Bus) -> Result<()> {
    let authority = Authority::new()?;
    let server = bus.own_server_with(&SiteOptions {
        certificate: Some(authority.sign(HOST)?),
        clients: Some(authority.certificate()),
        ..SiteOptions::default()
    })?;
    let other = Authority::new()?;
    let showing = |certificate| Client {
        trusts: Some(authority.certificate()),
        shows: certificate,
        ..Client::default()
    };
    for shown in [None, Some(other.sign("client")?)] {
        let error = refused(&server, &showing(shown)).await?;
        assert_eq!(error.kind(), ErrorKind::Connect, "{error:?}");
    }
    let node = start(&server.bus_of(&showing(Some(authority.sign("client")?)))).await?;
    node.publish(Work { id: 0 }).await?;
    node.shutdown().await?;
    Ok(())
}

/// Row 66: a client that was told nothing of TLS does not get in, and says nothing in plain text.
async fn a_plain_client(bus: Bus) -> Result<()> {
    let (server, _, _authority) = secured(&bus, HOST, false)?;
    let error = refused(&server, &Client::default()).await?;
    assert_eq!(error.kind(), ErrorKind::Connect, "{error:?}");
    Ok(())
}

/// Row 66: a client that was told to use TLS does not talk to a server without it.
async fn a_plain_server(bus: Bus) -> Result<()> {
    let server = bus.own_server()?;
    let authority = Authority::new()?;
    let client = Client {
        trusts: Some(authority.certificate()),
        ..Client::default()
    };
    let error = refused(&server, &client).await?;
    assert_eq!(error.kind(), ErrorKind::Connect, "{error:?}");
    Ok(())
}

/// Row 67: the password is changed while somebody is connected: that is said, and the new one is used when it is known.
async fn another_password(bus: Bus) -> Result<()> {
    let mut server = bus.own_server_with(&protected("old"))?;
    let file = tempfile::NamedTempFile::new()?;
    std::fs::write(file.path(), "old\n")?;
    let client = Client {
        password: Some(Secret::File(file.path().to_owned())),
        ..Client::default()
    };
    let journal = Journal::default();
    let node = server.bus_of(&client).node("a").state(journal.plain());
    let node = node.publish_deadline(SECOND / 2);
    let node = node.handlers(handlers![on_work, on_tick]).start().await?;
    node.publish(Work { id: 0 }).await?;
    node.publish(Tick { id: 1 }).await?;
    journal.wait(Step::Done, 2, SOON).await;
    server.change_password("new")?;
    let by = Instant::now() + SOON;
    loop {
        assert!(
            Instant::now() < by,
            "nobody says that the password is wrong"
        );
        let published = node.publish(Work { id: 2 }).await;
        if published.is_err_and(|error| error.kind() == ErrorKind::Permission) {
            break;
        }
        sleep(SECOND / 20).await;
    }
    std::fs::write(file.path(), "new\n")?;
    while node.publish(Work { id: 3 }).await.is_err() {
        assert!(Instant::now() < by, "it does not come back");
        sleep(SECOND / 20).await;
    }
    let mut id = 4;
    while !journal
        .notes()
        .iter()
        .any(|note| note.handler == "on_tick" && note.id >= 4)
    {
        assert!(Instant::now() < by, "it does not listen any more");
        node.publish(Tick { id }).await?;
        id += 1;
        sleep(SECOND / 20).await;
    }
    let handled = || journal.handled_by("on_work").contains(&3);
    wait_until("it handles again", SOON, handled).await;
    node.shutdown().await?;
    Ok(())
}

/// All that an error says, and those that it comes from.
fn all_of(error: &Error) -> String {
    let mut text = format!("{error} {error:?} {error:#?}");
    let mut source = error.source();
    while let Some(cause) = source {
        text.extend([cause.to_string(), format!("{cause:?}")]);
        source = cause.source();
    }
    text
}

/// Row 91: no password is in an error, in what `Debug` shows, or in the log at its most talkative.
async fn secrets_are_nowhere(bus: Bus) -> Result<()> {
    let captured = Captured::start();
    let (right, wrong) = ("S3ntinel-right@:/ %", "S3ntinel-wrong@:/ %");
    let mut server = bus.own_server_with(&protected(right))?;
    let mut shown = Vec::new();
    let refused = start(&server.bus_of(&with_password(wrong))).await;
    let error = refused.expect_err("it may not get in");
    shown.push(all_of(&error));
    let journal = Journal::default();
    let client = with_password(right);
    let node = server.bus_of(&client).node("a").state(journal.plain());
    let node = node.publish_deadline(SECOND / 4);
    shown.push(format!("{node:?}"));
    let node = node.handlers(handlers![on_work]).start().await?;
    shown.push(format!("{node:?} {:?} {:?}", node.backend(), node.health()));
    node.publish(Work { id: 0 }).await?;
    journal.wait(Step::Done, 1, SOON).await;
    server.kill()?;
    let by = Instant::now() + SOON;
    loop {
        assert!(
            Instant::now() < by,
            "the server is gone, and nobody says so"
        );
        if let Err(error) = node.publish(Work { id: 1 }).await {
            shown.push(all_of(&error));
            break;
        }
    }
    let started = start(&server.bus_of(&client)).await;
    shown.push(all_of(&started.expect_err("nobody is there")));
    server.restart()?;
    while node.publish(Work { id: 2 }).await.is_err() {
        assert!(Instant::now() < by, "it does not come back");
    }
    server.change_password("another")?;
    loop {
        assert!(
            Instant::now() < by,
            "nobody says that the password is wrong"
        );
        if let Err(error) = node.publish(Work { id: 3 }).await {
            shown.push(all_of(&error));
            if error.kind() == ErrorKind::Permission {
                break;
            }
        }
    }
    let at = server.address();
    let url = server.bus_of(&client).url().to_owned();
    let (scheme, _) = url.split_once(':').expect("it has a scheme");
    for odd in [
        format!("{scheme}://app:{wrong}@{at}"),
        format!("{}?nonsense=1", server.bus_of(&client).url()),
        format!("{}&nonsense=1", server.bus_of(&client).url()),
    ] {
        let parsed = odd.parse::<catga_core::BackendUrl>();
        shown.push(format!("{parsed:?}"));
        let refused = start(&bus.at(odd)).await.expect_err("it is no such URL");
        shown.push(all_of(&refused));
    }
    node.shutdown().await?;
    let lines = captured.lines();
    let deep = lines.iter().filter(|(level, _)| *level >= Level::DEBUG);
    assert!(
        deep.count() > 0,
        "the log says nothing, and so shows nothing"
    );
    let logged: Vec<_> = lines.into_iter().map(|(_, text)| text).collect();
    let all = [shown, logged].concat().join("\n");
    for secret in [right, wrong] {
        let encoded = utf8_percent_encode(secret, NON_ALPHANUMERIC).to_string();
        for form in [secret, &encoded, "S3ntinel"] {
            if let Some((before, _)) = all.split_once(form) {
                let tail: String = before.chars().rev().take(200).collect();
                let tail: String = tail.chars().rev().collect();
                panic!("the password is shown behind: {tail}");
            }
        }
    }
    Ok(())
}
