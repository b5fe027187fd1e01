//! Requests to the kernel: dumps, and what keeps neighbours fresh.

use std::io;
use std::net::IpAddr;

use futures::StreamExt;
use netlink_packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NetlinkMessage,
    NetlinkPayload,
};
use netlink_packet_route::address::AddressMessage;
use netlink_packet_route::link::{LinkAttribute, LinkExtentMask, LinkMessage};
use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourExtFlags, NeighbourFlags, NeighbourMessage,
};
use netlink_packet_route::route::RouteMessage;
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use rtnetlink::Handle;

use super::NetlinkError;
use super::keeper::{Key, Request};
use super::translate::OUR_PROTOCOL;
use crate::limits::NETLINK_DUMP_TRIES_MAX;

/// All links.
pub(super) async fn links(asks: &Handle) -> Result<Vec<RouteNetlinkMessage>, NetlinkError> {
    let mut message = LinkMessage::default();
    message.attributes.push(LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]));
    dump(asks, "read links", RouteNetlinkMessage::GetLink(message)).await
}

/// All addresses, both families.
pub(super) async fn addresses(asks: &Handle) -> Result<Vec<RouteNetlinkMessage>, NetlinkError> {
    let message = AddressMessage::default();
    dump(asks, "read addresses", RouteNetlinkMessage::GetAddress(message)).await
}

/// All routes of all tables, both families.
pub(super) async fn routes(asks: &Handle) -> Result<Vec<RouteNetlinkMessage>, NetlinkError> {
    let mut all = Vec::new();
    for family in [AddressFamily::Inet, AddressFamily::Inet6] {
        let mut message = RouteMessage::default();
        message.header.address_family = family;
        all.extend(dump(asks, "read routes", RouteNetlinkMessage::GetRoute(message)).await?);
    }
    Ok(all)
}

/// All neighbour entries.
pub(super) async fn neighbours(asks: &Handle) -> Result<Vec<RouteNetlinkMessage>, NetlinkError> {
    let message = NeighbourMessage::default();
    dump(asks, "read neighbours", RouteNetlinkMessage::GetNeighbour(message)).await
}

async fn dump(
    asks: &Handle,
    what: &str,
    request: RouteNetlinkMessage,
) -> Result<Vec<RouteNetlinkMessage>, NetlinkError> {
    let failed = |source| NetlinkError::Request { what: what.to_owned(), source };
    let mut request = NetlinkMessage::from(request);
    request.header.flags = NLM_F_REQUEST | NLM_F_DUMP;
    for _ in 0..NETLINK_DUMP_TRIES_MAX {
        let (rows, torn) = dump_once(asks, request.clone()).await.map_err(failed)?;
        if !torn {
            return Ok(rows);
        }
    }
    Err(failed(io::Error::other("the kernel's table changed during every try")))
}

/// One pass over a table, and whether the kernel says that it changed meanwhile: a walk by position
/// may then have skipped an entry that was there all the time.
async fn dump_once(
    asks: &Handle,
    request: NetlinkMessage<RouteNetlinkMessage>,
) -> Result<(Vec<RouteNetlinkMessage>, bool), io::Error> {
    let mut answers = asks.clone().request(request).map_err(|_| closed())?;
    let (mut rows, mut torn) = (Vec::new(), false);
    while let Some(answer) = answers.next().await {
        torn |= answer.header.flags & NLM_F_DUMP_INTR != 0;
        match answer.payload {
            NetlinkPayload::InnerMessage(row) => rows.push(row),
            NetlinkPayload::Error(error) if error.code.is_some() => return Err(error.to_io()),
            NetlinkPayload::Overrun(_) => return Err(io::Error::from_raw_os_error(libc::ENOBUFS)),
            _ => {}
        }
    }
    Ok((rows, torn))
}

/// Sends one of the keeper's requests and waits for its acknowledgement.
pub(super) async fn send(asks: &Handle, request: Request) -> Result<(), io::Error> {
    let (key, ext_flags, create) = match request {
        Request::Keep(key) => (key, NeighbourExtFlags::Managed, NLM_F_CREATE),
        Request::Release(key) => (key, NeighbourExtFlags::empty(), 0),
    };
    let message = RouteNetlinkMessage::NewNeighbour(neighbour(key, ext_flags));
    let mut request = NetlinkMessage::from(message);
    request.header.flags = NLM_F_REQUEST | NLM_F_ACK | create;
    acknowledged(asks, request).await
}

/// Sends a request and waits for its acknowledgement.
pub(super) async fn acknowledged(
    asks: &Handle,
    request: NetlinkMessage<RouteNetlinkMessage>,
) -> Result<(), io::Error> {
    let mut answers = asks.clone().request(request).map_err(|_| closed())?;
    while let Some(answer) = answers.next().await {
        if let NetlinkPayload::Error(error) = answer.payload
            && error.code.is_some()
        {
            return Err(error.to_io());
        }
    }
    Ok(())
}

/// NTF_USE makes any kernel look for the neighbour if it is not known for sure.
fn neighbour((ifindex, address): Key, ext_flags: NeighbourExtFlags) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.ifindex = ifindex;
    message.header.flags = NeighbourFlags::Use;
    let (family, destination) = match address {
        IpAddr::V4(v4) => (AddressFamily::Inet, NeighbourAddress::Inet(v4)),
        IpAddr::V6(v6) => (AddressFamily::Inet6, NeighbourAddress::Inet6(v6)),
    };
    message.header.family = family;
    message.attributes = vec![
        NeighbourAttribute::Destination(destination),
        NeighbourAttribute::Protocol(OUR_PROTOCOL),
        NeighbourAttribute::ExtFlags(ext_flags),
    ];
    message
}

fn closed() -> io::Error {
    io::Error::other("the netlink socket is closed")
}
