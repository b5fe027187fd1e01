//! Setting up kernel interfaces: up, MAC, MTU, addresses. Used for a port's TAP; nothing here
//! watches what becomes of them.

use std::io;
use std::net::IpAddr;

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_REPLACE, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::address::{
    AddressAttribute, AddressHeaderFlags, AddressMessage, AddressScope, CacheInfo,
};
use netlink_packet_route::link::{LinkAttribute, LinkFlags, LinkMessage};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use rtnetlink::{Handle, new_connection};

use futures::StreamExt;

use crate::model::next_hops::{KernelEvent, Link};

use super::NetlinkError;
use super::requests::{self, acknowledged};
use super::translate::{Placing, Translator, own_address};

/// A socket for requests about interfaces. Acts in the network namespace of the thread that opened
/// it.
#[derive(Debug)]
pub struct Interfaces {
    asks: Handle,
}

impl Interfaces {
    /// Opens the socket; must be called inside a tokio runtime. Elsewhere: `BlockingInterfaces`.
    pub fn open() -> Result<Self, NetlinkError> {
        let (connection, asks, _) = new_connection().map_err(NetlinkError::Open)?;
        tokio::spawn(connection);
        Ok(Interfaces { asks })
    }

    /// The interface of this name.
    pub async fn find(&self, name: &str) -> Result<Link, NetlinkError> {
        let mut message = LinkMessage::default();
        message.attributes.push(LinkAttribute::IfName(name.to_owned()));
        let mut request = NetlinkMessage::from(RouteNetlinkMessage::GetLink(message));
        request.header.flags = NLM_F_REQUEST;
        let failed = |source| request_error(format!("find interface {name}"), source);
        let closed = |_| failed(io::ErrorKind::BrokenPipe.into());
        let mut answers = self.asks.clone().request(request).map_err(closed)?;
        let mut translator = Translator::new(&[name.to_owned()]);
        while let Some(answer) = answers.next().await {
            match answer.payload {
                NetlinkPayload::InnerMessage(inner) => {
                    let event = translator.translate(&inner, Placing::Beside);
                    if let Some(KernelEvent::LinkChanged(link)) = event {
                        return Ok(link);
                    }
                }
                NetlinkPayload::Error(error) => return Err(failed(error.to_io())),
                _ => {}
            }
        }
        Err(failed(io::Error::from_raw_os_error(libc::ENODEV)))
    }

    /// Sets it up.
    pub async fn set_up(&self, ifindex: u32) -> Result<(), NetlinkError> {
        let mut message = LinkMessage::default();
        message.header.flags = LinkFlags::Up;
        message.header.change_mask = LinkFlags::Up;
        self.set_link(ifindex, message, "set up").await
    }

    /// Sets it down.
    pub async fn set_down(&self, ifindex: u32) -> Result<(), NetlinkError> {
        let mut message = LinkMessage::default();
        message.header.change_mask = LinkFlags::Up;
        self.set_link(ifindex, message, "set down").await
    }

    /// Gives it a MAC address.
    pub async fn set_mac(&self, ifindex: u32, mac: [u8; 6]) -> Result<(), NetlinkError> {
        let mut message = LinkMessage::default();
        message.attributes.push(LinkAttribute::Address(mac.to_vec()));
        self.set_link(ifindex, message, "set the MAC address of").await
    }

    /// Sets its MTU, bytes.
    pub async fn set_mtu(&self, ifindex: u32, mtu: u32) -> Result<(), NetlinkError> {
        let mut message = LinkMessage::default();
        message.attributes.push(LinkAttribute::Mtu(mtu));
        self.set_link(ifindex, message, "set the MTU of").await
    }

    /// Puts an address with its prefix length on it, with the connected route; nothing happens if
    /// it is there. An IPv6 address is usable at once: duplicate detection is left out, as a VIP
    /// or a DIP must answer from the first packet on. One without a network (128 bits: a VIP, a
    /// LIP) is there to be reached; the kernel must not take it for connections of its own, whose
    /// answers would look like a service's.
    pub async fn add_address(
        &self,
        ifindex: u32,
        address: IpAddr,
        bits: u8,
    ) -> Result<(), NetlinkError> {
        let mut message = address_message(ifindex, address, bits);
        if address.is_ipv6() {
            message.header.flags = AddressHeaderFlags::Nodad;
        }
        if address.is_ipv6() && bits == 128 {
            let mut lifetimes = CacheInfo::default();
            (lifetimes.ifa_preferred, lifetimes.ifa_valid) = (0, u32::MAX);
            message.attributes.push(AddressAttribute::CacheInfo(lifetimes));
        }
        let mut request = NetlinkMessage::from(RouteNetlinkMessage::NewAddress(message));
        request.header.flags = NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE | NLM_F_REPLACE;
        let what = || format!("add address {address}/{bits} to interface {ifindex}");
        acknowledged(&self.asks, request).await.map_err(|source| request_error(what(), source))
    }

    /// The addresses on it, with the lengths of their networks in bits.
    pub async fn addresses(&self, ifindex: u32) -> Result<Vec<(IpAddr, u8)>, NetlinkError> {
        let rows = requests::addresses(&self.asks).await?;
        Ok(rows.iter().filter_map(|row| address_on(row, ifindex)).collect())
    }

    /// Takes an address off it; nothing happens if it is not there.
    pub async fn delete_address(
        &self,
        ifindex: u32,
        address: IpAddr,
        bits: u8,
    ) -> Result<(), NetlinkError> {
        let message = address_message(ifindex, address, bits);
        let mut request = NetlinkMessage::from(RouteNetlinkMessage::DelAddress(message));
        request.header.flags = NLM_F_REQUEST | NLM_F_ACK;
        match acknowledged(&self.asks, request).await {
            Err(error) if error.raw_os_error() != Some(libc::EADDRNOTAVAIL) => {
                let what = format!("delete address {address}/{bits} of interface {ifindex}");
                Err(request_error(what, error))
            }
            _ => Ok(()),
        }
    }

    async fn set_link(
        &self,
        ifindex: u32,
        mut message: LinkMessage,
        what: &str,
    ) -> Result<(), NetlinkError> {
        message.header.index = ifindex;
        let mut request = NetlinkMessage::from(RouteNetlinkMessage::SetLink(message));
        request.header.flags = NLM_F_REQUEST | NLM_F_ACK;
        let what = || format!("{what} interface {ifindex}");
        acknowledged(&self.asks, request).await.map_err(|source| request_error(what(), source))
    }
}

/// `Interfaces` for a thread without a runtime. Must not be used inside one.
#[derive(Debug)]
pub struct BlockingInterfaces {
    interfaces: Interfaces,
    runtime: tokio::runtime::Runtime,
}

impl BlockingInterfaces {
    /// Opens the socket in the thread's network namespace.
    pub fn open() -> Result<Self, NetlinkError> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(NetlinkError::Open)?;
        let interfaces = runtime.block_on(async { Interfaces::open() })?;
        Ok(BlockingInterfaces { interfaces, runtime })
    }

    /// See `Interfaces::find`.
    pub fn find(&self, name: &str) -> Result<Link, NetlinkError> {
        self.runtime.block_on(self.interfaces.find(name))
    }

    /// See `Interfaces::set_up`.
    pub fn set_up(&self, ifindex: u32) -> Result<(), NetlinkError> {
        self.runtime.block_on(self.interfaces.set_up(ifindex))
    }

    /// See `Interfaces::set_down`.
    pub fn set_down(&self, ifindex: u32) -> Result<(), NetlinkError> {
        self.runtime.block_on(self.interfaces.set_down(ifindex))
    }

    /// See `Interfaces::set_mac`.
    pub fn set_mac(&self, ifindex: u32, mac: [u8; 6]) -> Result<(), NetlinkError> {
        self.runtime.block_on(self.interfaces.set_mac(ifindex, mac))
    }

    /// See `Interfaces::set_mtu`.
    pub fn set_mtu(&self, ifindex: u32, mtu: u32) -> Result<(), NetlinkError> {
        self.runtime.block_on(self.interfaces.set_mtu(ifindex, mtu))
    }

    /// See `Interfaces::add_address`.
    pub fn add_address(&self, ifindex: u32, address: IpAddr, bits: u8) -> Result<(), NetlinkError> {
        self.runtime.block_on(self.interfaces.add_address(ifindex, address, bits))
    }

    /// See `Interfaces::addresses`.
    pub fn addresses(&self, ifindex: u32) -> Result<Vec<(IpAddr, u8)>, NetlinkError> {
        self.runtime.block_on(self.interfaces.addresses(ifindex))
    }

    /// See `Interfaces::delete_address`.
    pub fn delete_address(
        &self,
        ifindex: u32,
        address: IpAddr,
        bits: u8,
    ) -> Result<(), NetlinkError> {
        self.runtime.block_on(self.interfaces.delete_address(ifindex, address, bits))
    }
}

/// Switches duplicate address detection off for an interface, link-local addresses included, which
/// the kernel adds by itself: to be called before it is set up. Fine if there is no IPv6.
pub fn disable_duplicate_detection(name: &str) -> Result<(), NetlinkError> {
    let path = format!("/proc/sys/net/ipv6/conf/{name}/accept_dad");
    match std::fs::write(&path, "0") {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(request_error(format!("write {path}"), error))
        }
        _ => Ok(()),
    }
}

fn request_error(what: String, source: io::Error) -> NetlinkError {
    NetlinkError::Request { what, source }
}

/// The address of a dump's row, if it is on that interface.
fn address_on(row: &RouteNetlinkMessage, wanted: u32) -> Option<(IpAddr, u8)> {
    let RouteNetlinkMessage::NewAddress(message) = row else { return None };
    let fits = message.header.index == wanted;
    fits.then_some((own_address(message)?, message.header.prefix_len))
}

fn address_message(ifindex: u32, address: IpAddr, bits: u8) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.index = ifindex;
    message.header.prefix_len = bits;
    message.header.scope = AddressScope::Universe;
    message.header.family = match address {
        IpAddr::V4(_) => AddressFamily::Inet,
        IpAddr::V6(_) => AddressFamily::Inet6,
    };
    message.attributes = vec![AddressAttribute::Local(address), AddressAttribute::Address(address)];
    message
}
