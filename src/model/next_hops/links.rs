//! Ports and the kernel interfaces beside them, matched by name. An interface may come later than
//! its port, go, and come again under another number.

use std::net::IpAddr;

use super::super::id::NicId;
use super::event::{Link, NicLink};

/// A port with what is known of its kernel interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NicFacts {
    /// Slot.
    pub nic: NicId,
    /// Number of the kernel interface, while there is one.
    pub ifindex: Option<u32>,
    /// Whether frames may leave: the interface is up, or the port has none.
    pub up: bool,
    /// MAC address.
    pub mac: [u8; 6],
    /// Largest IP packet, bytes.
    pub mtu: u16,
    /// The director's addresses on the interface.
    pub addresses: Vec<IpAddr>,
}

/// A link event's consequence for the ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LinkEffect {
    /// None.
    Nothing,
    /// A port's MAC, MTU or state differ now.
    Changed,
    /// This port's interface is another one or gone: what was learned on it is void.
    Unbound(NicId),
}

#[derive(Debug)]
pub(super) struct Links {
    config: Vec<NicLink>,
    facts: Vec<NicFacts>,
}

impl Links {
    pub(super) fn new(config: Vec<NicLink>) -> Self {
        let facts = config
            .iter()
            .map(|link| NicFacts {
                nic: link.nic,
                ifindex: None,
                up: link.interface.is_none(),
                mac: link.mac,
                mtu: link.mtu,
                addresses: Vec::new(),
            })
            .collect();
        Links { config, facts }
    }

    pub(super) fn all(&self) -> &[NicFacts] {
        &self.facts
    }

    pub(super) fn get(&self, nic: NicId) -> Option<&NicFacts> {
        self.facts.iter().find(|facts| facts.nic == nic)
    }

    pub(super) fn by_ifindex(&self, ifindex: u32) -> Option<&NicFacts> {
        self.facts.iter().find(|facts| facts.ifindex == Some(ifindex))
    }

    pub(super) fn is_own_address(&self, address: IpAddr) -> bool {
        self.facts.iter().any(|facts| facts.addresses.contains(&address))
    }

    pub(super) fn change(&mut self, link: &Link) -> LinkEffect {
        let named = self.config.iter().position(|nic| nic.interface.as_ref() == Some(&link.name));
        let Some(at) = named else {
            // Renamed away from under a port, or never ours.
            return self.remove(link.ifindex);
        };
        let facts = &mut self.facts[at];
        let before = (facts.ifindex, facts.up, facts.mac, facts.mtu);
        let unbound = facts.ifindex.is_some_and(|ifindex| ifindex != link.ifindex);
        facts.ifindex = Some(link.ifindex);
        facts.up = link.up;
        facts.mac = link.mac;
        facts.mtu = u16::try_from(link.mtu).unwrap_or(u16::MAX);
        if unbound {
            facts.addresses.clear();
            return LinkEffect::Unbound(facts.nic);
        }
        if before == (facts.ifindex, facts.up, facts.mac, facts.mtu) {
            return LinkEffect::Nothing;
        }
        LinkEffect::Changed
    }

    pub(super) fn remove(&mut self, ifindex: u32) -> LinkEffect {
        let Some(facts) = self.facts.iter_mut().find(|facts| facts.ifindex == Some(ifindex)) else {
            return LinkEffect::Nothing;
        };
        facts.ifindex = None;
        facts.up = false;
        facts.addresses.clear();
        LinkEffect::Unbound(facts.nic)
    }

    /// Whether that was news.
    pub(super) fn add_address(&mut self, ifindex: u32, address: IpAddr) -> bool {
        let Some(facts) = self.facts.iter_mut().find(|facts| facts.ifindex == Some(ifindex)) else {
            return false;
        };
        let news = !facts.addresses.contains(&address);
        if news {
            facts.addresses.push(address);
        }
        news
    }

    /// Whether that was news.
    pub(super) fn remove_address(&mut self, ifindex: u32, address: IpAddr) -> bool {
        let Some(facts) = self.facts.iter_mut().find(|facts| facts.ifindex == Some(ifindex)) else {
            return false;
        };
        let before = facts.addresses.len();
        facts.addresses.retain(|known| *known != address);
        facts.addresses.len() != before
    }

    pub(super) fn forget_addresses(&mut self) {
        self.facts.iter_mut().for_each(|facts| facts.addresses.clear());
    }

    /// Forgets every interface; the ports stay.
    pub(super) fn forget_interfaces(&mut self) {
        for (facts, config) in self.facts.iter_mut().zip(&self.config) {
            if config.interface.is_some() {
                facts.ifindex = None;
                facts.up = false;
                facts.addresses.clear();
            }
        }
    }
}
