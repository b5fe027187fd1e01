//! Who talks to whom: addresses, the frames of both sides, and what the registry is asked for.

use std::net::IpAddr;

use gyre::message::FlowRow;
use gyre::model::{
    Desired, ForwardMode, PoolSpec, Protocol, Removal, SchedulerSpec, Semantics, ServerSpec,
    ServiceKey, ServiceSpec,
};
use gyre::wire::build::{IpBuilder, PacketBuilder};
use gyre::wire::ethernet::MacAddr;
use gyre::wire::tcp::TcpFlags;

use crate::source::Schedule;

/// Servers behind the service.
pub const SERVERS: u8 = 32;
/// FULLNAT local addresses: enough ports for every flow.
const LOCALS: u8 = 8;
/// The smallest Ethernet frame, without FCS.
pub const FRAME_BYTES: usize = 60;
/// FCS, which frame sizes by RFC 2544 count and mbufs do not hold.
const FCS_BYTES: usize = 4;
/// The simple IMIX, of twelve frames: 64, 594 and 1518 bytes in 7:4:1.
const IMIX: [usize; 12] = [64, 594, 64, 594, 64, 64, 1518, 64, 594, 64, 594, 64];

/// Of clients, and of whoever else sends to the director.
pub const CLIENT_MAC: MacAddr = MacAddr([2, 0, 0, 0, 1, 0xfe]);
/// The director's.
pub const DIRECTOR_MAC: MacAddr = MacAddr([2, 0, 0, 0, 1, 1]);

/// Sizes of the frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sizes {
    /// All of one, with FCS.
    Fixed(usize),
    /// The simple IMIX.
    Imix,
}

impl Sizes {
    /// The distinct sizes, without FCS.
    fn forms(self) -> Vec<usize> {
        match self {
            Sizes::Fixed(bytes) => vec![bytes - FCS_BYTES],
            Sizes::Imix => [64, 594, 1518].map(|bytes| bytes - FCS_BYTES).to_vec(),
        }
    }

    /// The size of a flow's frames, without FCS.
    fn of(self, flow: usize) -> usize {
        match self {
            Sizes::Fixed(bytes) => bytes - FCS_BYTES,
            Sizes::Imix => IMIX[flow % IMIX.len()] - FCS_BYTES,
        }
    }
}

/// What a case forwards.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Traffic {
    /// Forwarding mode.
    pub mode: ForwardMode,
    /// Whether the servers' packets are measured and not the clients'.
    pub replies: bool,
    /// Address family.
    pub is_ipv4: bool,
    /// Transport protocol.
    pub protocol: Protocol,
    /// Live flows.
    pub flows: usize,
    /// Frames a burst.
    pub burst: usize,
    /// Sizes of the measured frames.
    pub sizes: Sizes,
    /// Services, over which the flows are spread; of more than one each has ten servers.
    pub services: usize,
}

impl Traffic {
    /// What is measured unless a case says otherwise: UDP over IPv4, clients' packets of 64 bytes.
    pub fn new(mode: ForwardMode, flows: usize) -> Self {
        Traffic {
            mode,
            replies: false,
            is_ipv4: true,
            protocol: Protocol::Udp,
            flows,
            burst: 32,
            sizes: Sizes::Fixed(64),
            services: 1,
        }
    }

    fn address(&self, v4: [u8; 4], v6_low: u32) -> IpAddr {
        if self.is_ipv4 {
            v4.into()
        } else {
            let [a, b, c, d] = v6_low.to_be_bytes().map(u16::from);
            IpAddr::from([0x2001, 2, 0, 0, 0, u16::from(v4[2]), a << 8 | b, c << 8 | d])
        }
    }

    /// Whether that is one of the servers.
    pub fn is_server(&self, address: IpAddr) -> bool {
        (0..SERVERS).any(|at| self.server(at) == address)
    }

    /// Whether that is one of the director's FULLNAT addresses.
    pub fn is_local(&self, address: IpAddr) -> bool {
        (0..LOCALS).any(|at| self.local(at) == address)
    }

    /// Whether that is one of the clients.
    pub fn is_client(&self, address: IpAddr) -> bool {
        (0..self.flows.min(1 << 16)).any(|flow| self.client(flow).0 == address)
    }

    /// The first service's address.
    pub fn vip(&self) -> IpAddr {
        self.address([198, 19, 0, 1], 1)
    }

    /// The address of the service that a flow is to.
    fn vip_of(&self, flow: usize) -> IpAddr {
        let service = (flow % self.services) as u32;
        if service == 0 {
            return self.vip();
        }
        let [_, _, high, low] = service.to_be_bytes();
        self.address([198, 19, 64 + high, low], service)
    }

    /// A server of the first service.
    pub fn server(&self, at: u8) -> IpAddr {
        self.address([198, 19, 1, at], at.into())
    }

    /// A FULLNAT source address.
    pub fn local(&self, at: u8) -> IpAddr {
        self.address([198, 19, 2, at], at.into())
    }

    /// The director's own address.
    pub fn own(&self) -> IpAddr {
        self.address([198, 19, 3, 1], 1)
    }

    /// Clients differ in address; beyond a /16's worth in port too.
    pub fn client(&self, flow: usize) -> (IpAddr, u16) {
        let (low, high) = (flow as u32 & 0xffff, flow as u32 >> 16);
        let [_, _, c, d] = low.to_be_bytes();
        let address = if self.is_ipv4 {
            IpAddr::from([198, 18, c, d])
        } else {
            IpAddr::from([0x2001, 2, 1, 0, 0, 0, 0, low as u16])
        };
        (address, 1024 + high as u16)
    }

    /// A frame of so many bytes without FCS, or as many as its headers have.
    pub fn frame(
        &self,
        (src, src_port): (IpAddr, u16),
        (dst, dst_port): (IpAddr, u16),
        flags: TcpFlags,
        bytes: usize,
    ) -> Vec<u8> {
        let ip: IpBuilder = PacketBuilder::new()
            .ethernet(CLIENT_MAC, DIRECTOR_MAC)
            .ip(src, dst)
            .expect("one family");
        let headers = if self.is_ipv4 { 34 } else { 54 };
        let built = match self.protocol {
            Protocol::Udp => {
                let payload = vec![0; bytes.saturating_sub(headers + 8)];
                ip.udp(src_port, dst_port).payload(&payload).build()
            }
            Protocol::Tcp => {
                let payload = vec![0; bytes.saturating_sub(headers + 20)];
                ip.tcp(src_port, dst_port).flags(flags).payload(&payload).build()
            }
        };
        built.to_vec()
    }

    /// A client's packet.
    pub fn client_frame(&self, flow: usize, flags: TcpFlags, bytes: usize) -> Vec<u8> {
        self.frame(self.client(flow), (self.vip_of(flow), 80), flags, bytes)
    }

    /// The packets with these flags of some clients, in order.
    pub fn clients_frames(
        &self,
        flows: impl ExactSizeIterator<Item = usize>,
        flags: TcpFlags,
        sizes: Sizes,
    ) -> Schedule {
        let forms = sizes.forms();
        let form = |bytes: &usize| self.client_frame(0, flags, *bytes);
        let mut schedule = match forms.len() {
            1 => Schedule::new(&form(&forms[0])),
            _ => Schedule::wide(&forms.iter().map(form).collect::<Vec<_>>()),
        };
        for flow in flows {
            let bytes = sizes.of(flow);
            let at = forms.iter().position(|form| *form == bytes).unwrap_or(0);
            schedule.push(at, &self.client_frame(flow, flags, bytes));
        }
        schedule
    }

    /// Every server's answer, in order of the flows' rows.
    pub fn servers_frames(&self, rows: impl Iterator<Item = FlowRow>, flags: TcpFlags) -> Schedule {
        let own = (self.own(), 80);
        let mut schedule = Schedule::new(&self.frame(own, own, flags, FRAME_BYTES));
        for row in rows {
            let to = row.local.unwrap_or(row.client);
            schedule.push(0, &self.frame(row.server, to, flags, FRAME_BYTES));
        }
        schedule
    }
}

/// What the registry is asked for beside what the traffic needs.
#[derive(Clone, Copy, Debug)]
pub struct Wishes {
    /// Switches and timeouts.
    pub semantics: Semantics,
    /// Whether SYNs are answered with cookies.
    pub synproxy: bool,
    /// FULLNAT source addresses and their ports.
    pub locals: u8,
    /// Lowest and highest source port.
    pub ports: (u16, u16),
    /// Scheduler of all services.
    pub scheduler: SchedulerSpec,
}

impl Default for Wishes {
    fn default() -> Self {
        Wishes {
            semantics: Semantics::default(),
            synproxy: false,
            locals: LOCALS,
            ports: (1024, 65_535),
            scheduler: SchedulerSpec::RoundRobin,
        }
    }
}

/// The configuration of a case.
pub fn desired(traffic: &Traffic, wishes: &Wishes) -> Desired {
    let service = |at: usize| {
        let key = ServiceKey::new(traffic.protocol, traffic.vip_of(at), 80);
        let mut service = ServiceSpec::new(key, wishes.scheduler);
        service.pool = (traffic.mode == ForwardMode::FullNat).then(|| "pool".into());
        service.synproxy = wishes.synproxy;
        service.forwarding = traffic.mode;
        let servers = if traffic.services == 1 { SERVERS } else { 10 };
        // The servers of many services are the same machines.
        let server = |n: u8| {
            let address = traffic.server(((at + usize::from(n)) % usize::from(SERVERS)) as u8);
            ServerSpec::new((address, 80).into(), 1, traffic.mode)
        };
        service.servers = (0..servers).map(server).collect();
        service
    };
    let pool = PoolSpec {
        name: "pool".into(),
        addresses: (0..wishes.locals).map(|at| traffic.local(at)).collect(),
        ports: wishes.ports,
    };
    Desired {
        pools: if traffic.mode == ForwardMode::FullNat { vec![pool] } else { Vec::new() },
        services: (0..traffic.services).map(service).collect(),
        semantics: wishes.semantics,
        removal: Removal::Now,
    }
}
