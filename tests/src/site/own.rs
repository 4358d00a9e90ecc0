//! The server of one scenario, and the way to it.

use std::net::SocketAddr;

use catga::Name;
use catga::prelude::Result;
use tokio::runtime::{Handle, RuntimeFlavor};
use tokio::task::block_in_place;

use super::{Client, Site};
use crate::bus::Bus;
use crate::proxy::Proxy;
use crate::server::ServerError;

/// A server of a scenario's own. It ends with this value.
#[derive(Debug)]
pub(crate) struct OwnServer {
    site: Box<dyn Site>,
    bus: Bus,
}

impl OwnServer {
    pub(crate) fn new(site: Box<dyn Site>, bus: Bus) -> Self {
        Self { site, bus }
    }

    /// What an administrator does.
    pub(crate) fn site(&self) -> &dyn Site {
        &*self.site
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.site.server().address()
    }

    /// The way to it.
    pub(crate) fn bus(&self) -> Bus {
        self.bus_of(&Client::default())
    }

    /// The way to it through a proxy.
    pub(crate) fn bus_through(&self, proxy: &Proxy) -> Bus {
        self.bus_at(&proxy.address().to_string(), &Client::default())
    }

    /// The way of a client to it.
    pub(crate) fn bus_of(&self, client: &Client) -> Bus {
        self.bus_at(&self.address().to_string(), client)
    }

    /// The way of a client to it, by another address.
    pub(crate) fn bus_at(&self, address: &str, client: &Client) -> Bus {
        self.bus.at(self.site.url(address, client))
    }

    /// A proxy before it.
    pub(crate) async fn proxy(&self) -> Result<Proxy> {
        Ok(Proxy::start(self.address(), self.bus.seed()).await?)
    }

    /// Does something to the server, which takes a moment in which others go on.
    fn change<T>(
        &mut self,
        change: impl FnOnce(&mut dyn Site) -> Result<T, ServerError>,
    ) -> Result<T> {
        let site = &mut *self.site;
        Ok(match Handle::current().runtime_flavor() {
            RuntimeFlavor::CurrentThread => change(site)?,
            _ => block_in_place(|| change(site))?,
        })
    }

    /// Kills it (SIGKILL).
    pub(crate) fn kill(&mut self) -> Result<()> {
        self.change(|site| site.server_mut().kill())
    }

    /// Starts it again with its data, at the same place.
    pub(crate) fn restart(&mut self) -> Result<()> {
        self.change(|site| site.server_mut().restart())
    }

    /// Pauses it (SIGSTOP).
    pub(crate) fn pause(&mut self) -> Result<()> {
        self.change(|site| site.server_mut().pause())
    }

    /// Lets it go on.
    pub(crate) fn resume(&mut self) -> Result<()> {
        self.change(|site| site.server_mut().resume())
    }

    /// Deletes all its data; it has to be killed before.
    pub(crate) fn wipe(&mut self) -> Result<()> {
        self.change(|site| site.server_mut().wipe())
    }

    /// Gives the user another password.
    pub(crate) fn change_password(&mut self, password: &str) -> Result<()> {
        self.change(|site| site.change_password(password))
    }

    /// Puts the server that stands by in the place of the first, which is killed, or asked to step down.
    pub(crate) fn fail_over(&mut self, killed: bool) -> Result<()> {
        self.change(|site| site.fail_over(killed))
    }

    /// Kills the server that has the messages of a name (SIGKILL).
    pub(crate) fn kill_server_of(&mut self, message: &Name) -> Result<()> {
        self.change(|site| site.kill_server_of(message))
    }

    /// Lets the replica of the server that has the messages of a name stand still until it is to take over.
    pub(crate) fn pause_replica_of(&mut self, message: &Name) -> Result<()> {
        self.change(|site| site.pause_replica_of(message))
    }

    /// Waits until another has the place of the one that was killed, and brings that back behind it.
    pub(crate) fn replace_killed(&mut self) -> Result<()> {
        self.change(|site| site.replace_killed())
    }

    /// Lets the server store as much as it likes.
    pub(crate) fn make_room(&mut self) -> Result<()> {
        self.change(|site| site.make_room())
    }
}
