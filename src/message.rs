//! Every message between control and workers, so that neither side imports the other.
//!
//! Snapshots have a ring of their own (`ring`), since they must come back to be freed.

use std::net::IpAddr;

use crate::model::{
    ForwardMode, NextHop, NextHopId, NicId, Protocol, ServerId, ServiceId, WorkerId,
};

/// Control to worker.
#[derive(Clone, Copy, Debug)]
pub enum ToWorker {
    /// Writes one slot of the next-hop array and releases frames that wait for its neighbour.
    SetNextHop(NextHopId, NextHop),
    /// Walks the flow table, a bounded part a turn.
    Sweep(Sweep),
    /// Finish the turn, drain the queues and end.
    Shutdown,
}

/// A walk over the flow table.
#[derive(Clone, Copy, Debug)]
pub struct Sweep {
    /// Given back with every row, so that answers find their question.
    pub job: u64,
    /// What to do with matching flows.
    pub action: SweepAction,
    /// Which flows match.
    pub filter: FlowFilter,
    /// Stop after so many matches.
    pub matches_max: u32,
    /// Place in the worker's table to begin at: 0, or the one behind a row's.
    pub start: u32,
}

/// What a sweep does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SweepAction {
    /// Report each flow.
    List,
    /// End each flow without a word to either side, as its timer would.
    Delete,
    /// Forget the next hop towards the client, after routes changed.
    ForgetRoutes,
}

/// Which flows; every field that is set must match.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FlowFilter {
    /// Client address.
    pub client: Option<IpAddr>,
    /// Virtual address.
    pub vip: Option<IpAddr>,
    /// Virtual port.
    pub vport: Option<u16>,
    /// Server address.
    pub server: Option<IpAddr>,
    /// Slot of the service.
    pub service_id: Option<ServiceId>,
    /// Slot of the server.
    pub server_id: Option<ServerId>,
    /// TCP state by the kernel's name, as `FlowRow::state`.
    pub state: Option<FlowState>,
}

/// Connection state by the kernel's names (`ip_vs_tcp` and UDP).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum FlowState {
    /// No packet decided yet.
    #[default]
    None = 0,
    /// TCP ESTABLISHED.
    Established = 1,
    /// TCP SYN_SENT.
    SynSent = 2,
    /// TCP SYN_RECV.
    SynRecv = 3,
    /// TCP FIN_WAIT.
    FinWait = 4,
    /// TCP TIME_WAIT.
    TimeWait = 5,
    /// TCP CLOSE.
    Close = 6,
    /// TCP CLOSE_WAIT.
    CloseWait = 7,
    /// TCP LAST_ACK.
    LastAck = 8,
    /// TCP LISTEN.
    Listen = 9,
    /// TCP SYNACK.
    SynAck = 10,
    /// UDP.
    Udp = 11,
    /// A persistence template of which a flow was established.
    Assured = 12,
}

impl FlowState {
    /// Every state, by discriminant.
    pub const ALL: [FlowState; 13] = [
        FlowState::None,
        FlowState::Established,
        FlowState::SynSent,
        FlowState::SynRecv,
        FlowState::FinWait,
        FlowState::TimeWait,
        FlowState::Close,
        FlowState::CloseWait,
        FlowState::LastAck,
        FlowState::Listen,
        FlowState::SynAck,
        FlowState::Udp,
        FlowState::Assured,
    ];

    /// The kernel's name in `ipvsadm -Lc`.
    pub const fn name(self) -> &'static str {
        match self {
            FlowState::None => "NONE",
            FlowState::Established => "ESTABLISHED",
            FlowState::SynSent => "SYN_SENT",
            FlowState::SynRecv => "SYN_RECV",
            FlowState::FinWait => "FIN_WAIT",
            FlowState::TimeWait => "TIME_WAIT",
            FlowState::Close => "CLOSE",
            FlowState::CloseWait => "CLOSE_WAIT",
            FlowState::LastAck => "LAST_ACK",
            FlowState::Listen => "LISTEN",
            FlowState::SynAck => "SYNACK",
            FlowState::Udp => "UDP",
            FlowState::Assured => "ASSURED",
        }
    }
}

/// What a row of the connection table is about.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RowKind {
    /// A flow.
    #[default]
    Flow,
    /// A persistence template of an address.
    Template,
    /// A persistence template of a group: its virtual address is the group's mark, and it is for
    /// all protocols.
    GroupTemplate,
}

/// One flow as reported to people.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlowRow {
    /// What it is about.
    pub kind: RowKind,
    /// Transport protocol.
    pub protocol: Protocol,
    /// CIP and port.
    pub client: (IpAddr, u16),
    /// VIP and port.
    pub virtual_address: (IpAddr, u16),
    /// LIP and port, FULLNAT only.
    pub local: Option<(IpAddr, u16)>,
    /// RIP and port.
    pub server: (IpAddr, u16),
    /// Slot of the service.
    pub service_id: ServiceId,
    /// Slot of the server.
    pub server_id: ServerId,
    /// Forwarding mode.
    pub mode: ForwardMode,
    /// State.
    pub state: FlowState,
    /// Milliseconds until the flow ends if no packet comes.
    pub expires_ms: u32,
    /// Packets seen, both directions; wraps.
    pub packets: u32,
}

/// Worker to control.
#[derive(Clone, Copy, Debug)]
pub enum FromWorker {
    /// A matching flow of sweep `job`, and the place behind it.
    Row(u64, u32, FlowRow),
    /// Sweep `job` is over; so many flows matched.
    SweepDone(u64, u32),
    /// A client on this port's link needs a neighbour entry.
    Resolve(NicId, IpAddr),
    /// A destination has no route.
    NoRoute(IpAddr),
    /// The worker ended its loop.
    Ended(WorkerId),
}
