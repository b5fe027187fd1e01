//! What workers count. One block a worker, one writer; control only reads.
//!
//! A `Counter` is an atomic without read-modify-write: the single writer loads, adds and stores,
//! which on x86 is a plain add; readers see a value that is at most one store old.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crossbeam::utils::CachePadded;

use crate::limits::{LIPS_MAX, NICS_MAX, SERVERS_MAX, SERVICES_MAX};

/// A count with exactly one writing thread.
#[derive(Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds `n`. Only the owning worker may call this.
    #[inline]
    pub fn add(&self, n: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_add(n), Relaxed);
    }

    /// Takes `n` away: for gauges such as live flows. Only the owning worker may call this.
    #[inline]
    pub fn sub(&self, n: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_sub(n), Relaxed);
    }

    /// Replaces the value: for gauges. Only the owning worker may call this.
    #[inline]
    pub fn set(&self, n: u64) {
        self.0.store(n, Relaxed);
    }

    /// The value as last stored.
    #[inline]
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

impl fmt::Debug for Counter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.get().fmt(f)
    }
}

/// Declares a `Copy` enum whose variants index a counter array and carry a stable name and a
/// line of meaning for people.
macro_rules! counted {
    ($(#[$doc:meta])* $name:ident {
        $($(#[$vdoc:meta])* $variant:ident = $text:literal, $meaning:literal;)*
    }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum $name { $(#[doc = $meaning] $variant),* }

        impl $name {
            /// Every value, in counter order.
            pub const ALL: &'static [$name] = &[$($name::$variant),*];

            /// The stable name in JSON, tables and metrics.
            pub const fn name(self) -> &'static str {
                match self { $($name::$variant => $text),* }
            }

            /// One line for people: what happened to the frame.
            pub const fn meaning(self) -> &'static str {
                match self { $($name::$variant => $meaning),* }
            }
        }
    };
}

counted! {
    /// Why a frame ended here. Also the index of its counter.
    DropReason {
        Truncated = "truncated", "the frame is shorter than its headers say";
        BadIpVersion = "bad_ip_version", "EtherType and IP version disagree";
        BadIpHeader = "bad_ip_header", "an IP header length or total length is impossible";
        BadIpChecksum = "bad_ip_checksum", "the IPv4 header checksum is wrong (RFC 791)";
        BadTransportHeader = "bad_transport_header", "a TCP or UDP header contradicts itself";
        MartianSource = "martian_source", "the source address cannot be a sender (RFC 1812 5.3.7)";
        OwnFrame = "own_frame", "a frame that this director sent itself came back from the port";
        NotForUs = "not_for_us", "unicast to another station's MAC address";
        WrongVlan = "wrong_vlan", "the 802.1Q tag is not the port's";
        TtlExpired = "ttl_expired",
            "TTL or hop limit used up; time exceeded was answered if allowed";
        ForwardingLoop = "forwarding_loop",
            "a forwarded frame came back: two directors point at each other";
        FragmentMalformed = "fragment_malformed",
            "a fragment that no datagram can have: empty, of odd size or past 64 KiB";
        FragmentTiny = "fragment_tiny",
            "a first fragment without all of the transport header (RFC 1858, RFC 8200 4.5)";
        FragmentOverlap = "fragment_overlap",
            "fragments of one datagram contradict each other: all are dropped (RFC 5722)";
        FragmentDuplicate = "fragment_duplicate", "a fragment that had come before";
        FragmentTimeout = "fragment_timeout",
            "the fragment waited 30 s, and its datagram's first one did not come";
        FragmentEvicted = "fragment_evicted",
            "the fragment waited for its datagram's first one and made way for younger ones";
        FragmentStoreFull = "fragment_store_full",
            "no room for a fragment whose datagram's first one has not come";
        FragmentRefused = "fragment_refused",
            "its datagram's first fragment was dropped, or answered by the director";
        FragmentNoFlow = "fragment_no_flow", "its datagram's flow has ended";
        FragmentInHandshake = "fragment_in_handshake",
            "a fragmented segment while SYNPROXY or the client's address need it whole";
        FragmentNoChecksum = "fragment_no_checksum",
            "a fragmented datagram without a UDP checksum, which IPv6 demands (RFC 7915 4.5)";
        BadIcmpChecksum = "bad_icmp_checksum",
            "an ICMP error about a flow whose own checksum is wrong";
        IcmpConsumed = "icmp_consumed",
            "an ICMP error about a tunnel's packet of which its client need not hear";
        OtherFamily = "other_family",
            "of a flow between IPv4 and IPv6, what the other family cannot say (RFC 7915)";
        Denied = "denied", "the service's allow or deny list refuses this client";
        NoServer = "no_server", "the service has no usable server; port unreachable was answered";
        ServerRemoved = "server_removed", "the flow's server was removed at once";
        ServiceConnectionsMax = "service_connections_max",
            "the service's connections_max is reached";
        DropPacket = "drop_packet",
            "a first packet that drop_packet dropped while the worker runs short of flows";
        TemplatesFull = "templates_full", "the worker's table of persistence templates is full";
        TableFull = "table_full", "the worker's flow table is full";
        NoSourcePort = "no_source_port",
            "every source port of the local addresses is in use; reset answered";
        NoAddressPair = "no_address_pair",
            "more pairs of local address and server than runtime.address_pairs; reset answered";
        NoLocalAddress = "no_local_address",
            "no address of the server's family: in the service's pool, or on the port by TUN";
        NextHopPending = "next_hop_pending", "the next hop's neighbour did not resolve in time";
        NoRoute = "no_route", "the kernel has no route to the destination";
        TooBig = "too_big", "larger than the outgoing port's MTU; the sender was told";
        NoHeadroom = "no_headroom", "no room in the buffer for what had to be added";
        SynproxyBadCookie = "synproxy_bad_cookie", "an ACK whose SYN cookie is wrong or too old";
        SynproxyEarlyData = "synproxy_early_data",
            "data before the server answered, beyond the bound; the client resends";
        SynproxyServerRefused = "synproxy_server_refused",
            "the server refused or stayed silent; the client was reset";
        SynproxyConsumed = "synproxy_consumed",
            "a handshake segment that ends at the director by design";
        StrayReply = "stray_reply", "a segment to a local address's port with no flow";
        Unclassified = "unclassified",
            "to a service's address and port, but opens nothing; reset on a shared port";
        OutOfWindow = "out_of_window", "a segment that can belong to no byte the peer may send";
        OutboxFull = "outbox_full", "too many extra frames in one burst";
        HandOffFull = "hand_off_full", "the ring to the owning worker was full";
        KernelRingFull = "kernel_ring_full", "the ring to the kernel interface was full";
        KernelCopy = "kernel_copy",
            "the kernel's: it has a copy (kernel = \"shared\"), or there is none beside the port";
        TxFull = "tx_full", "the port's transmit queue did not take the frame";
        Chained = "chained", "the frame arrived in several buffers, larger than the port allows";
        Internal = "internal", "an impossible state: please report it";
    }
}

counted! {
    /// Why a frame went to another worker.
    HandOffCause {
        Flow = "flow", "a client's frame arrived on a queue that is not its owner's";
        Reply = "reply", "a server's frame arrived on a queue that is not its owner's";
        Template = "template",
            "a persistent flow's first packet, to the owner of its template or back from it";
        Fragment = "fragment", "a fragment: to its datagram's owner, or on to its flow's";
        IcmpError = "icmp_error", "an ICMP error about a flow of another worker";
        Transmit = "transmit",
            "a finished frame for a port on which its worker has no queue (fewer than workers)";
    }
}

counted! {
    /// Frames the director itself answered with.
    ReplyKind {
        TcpReset = "tcp_reset", "RST to a client or server";
        PortUnreachable = "port_unreachable",
            "ICMP port unreachable: no server, or no flow (nat_icmp_send)";
        HostUnreachable = "host_unreachable", "ICMP host unreachable: no route to the server";
        TimeExceeded = "time_exceeded", "ICMP time exceeded";
        TooBig = "too_big", "ICMP fragmentation needed or packet too big";
        TunnelError = "tunnel_error", "what an ICMP error says of a tunnel's packet, to its client";
        SynCookie = "syn_cookie", "SYN-ACK with a cookie";
        ServerSyn = "server_syn", "SYN to the server for a proven client";
        ProxyHeader = "proxy_header", "a PROXY header in a segment of its own";
    }
}

counted! {
    /// What helpers did and could not do.
    HelperEvent {
        Announced = "announced", "FTP data connections that were announced and are expected";
        Unreadable = "unreadable",
            "FTP announcements without an address and port, or cut in two; passed as they were";
        Refused = "refused",
            "FTP announcements of a third host, or of a port in use; passed as they were";
        Full = "full", "FTP connections beyond the bound, or without room in a table";
    }
}

counted! {
    /// Which of its rings a worker looks at.
    RingKind {
        Peers = "peers", "frames from other workers";
        FromKernel = "from_kernel", "frames from the kernel interface";
        Commands = "commands", "commands of control";
    }
}

/// Upper ends of the buckets of a burst's size.
pub const BURST_BUCKETS: [usize; 7] = [1, 2, 4, 8, 16, 32, 64];

/// Counts per port and worker.
#[derive(Debug, Default)]
pub struct NicCounters {
    /// Frames received.
    pub rx_frames: Counter,
    /// Bytes received, without FCS.
    pub rx_bytes: Counter,
    /// Frames sent.
    pub tx_frames: Counter,
    /// Bytes sent, without FCS.
    pub tx_bytes: Counter,
    /// Frames that the transmit queue did not take.
    pub tx_full: Counter,
    /// Frames given to the kernel interface.
    pub to_kernel: Counter,
    /// Frames taken from the kernel interface.
    pub from_kernel: Counter,
}

/// Counts per real server and worker. Keyed by `ServerId`, so they outlive snapshots.
#[derive(Debug, Default)]
#[repr(align(64))]
pub struct ServerCounters {
    /// Gauge: flow entries that hold this server's id. The id is reused only at 0.
    pub flows: Counter,
    /// Gauge: flows that count as active, as IPVS counts (SYN_RECV, ESTABLISHED ...).
    pub active: Counter,
    /// Flows ever scheduled here.
    pub connections: Counter,
    /// Packets from clients.
    pub in_packets: Counter,
    /// Bytes from clients (IP length).
    pub in_bytes: Counter,
    /// Packets from the server, for modes that see them.
    pub out_packets: Counter,
    /// Bytes from the server (IP length).
    pub out_bytes: Counter,
    /// Handshakes that the server reset, or left unanswered: at the third SYN of the client or, at
    /// the latest, at the end of its time.
    pub refused: Counter,
}

/// Counts per virtual service and worker. Keyed by `ServiceId`.
#[derive(Debug, Default)]
pub struct ServiceCounters {
    /// Gauge: flow entries that hold this service's id.
    pub flows: Counter,
    /// Flows ever admitted.
    pub connections: Counter,
    /// First packets refused: no server, limit, deny list, table or ports exhausted.
    pub refused: Counter,
    /// SYN cookies sent.
    pub cookies_sent: Counter,
    /// Clients that proved a cookie.
    pub cookies_proven: Counter,
}

/// Counts per FULLNAT local address and worker. Keyed by `LipId`.
#[derive(Debug, Default)]
pub struct LipCounters {
    /// Gauge: (port, server) pairs in use.
    pub used: Counter,
    /// Ports taken over from a closed connection, ahead of the server's TIME_WAIT.
    pub reused: Counter,
    /// Flows refused because every port towards their server was in use.
    pub exhausted: Counter,
}

/// What the workers besides one hold of a server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OtherFlows {
    /// Flows that count as active.
    pub active: u32,
    /// All flows.
    pub flows: u32,
}

/// What the other workers hold of each server, for schedulers and thresholds: the one part of a
/// worker's block that control writes, a few times a second, and the worker reads. So a worker
/// still reads nobody's memory but its own. All zero with one worker.
#[derive(Debug)]
pub struct OtherWorkers(Box<[Counter]>);

impl OtherWorkers {
    /// Tells what the others hold of a server. Only control may call this.
    pub fn tell(&self, server: usize, others: OtherFlows) {
        if let Some(cell) = self.0.get(server) {
            // One store, so that the two numbers belong together.
            cell.set(u64::from(others.active) << 32 | u64::from(others.flows));
        }
    }

    /// What was last told of a server.
    #[inline]
    pub fn of(&self, server: usize) -> OtherFlows {
        let told = self.0.get(server).map_or(0, Counter::get);
        OtherFlows { active: (told >> 32) as u32, flows: told as u32 }
    }
}

/// Adds up what the workers hold of a server, and tells each what the others do. Only control may
/// call this.
pub fn tell_others(workers: &[Arc<WorkerCounters>], server: usize) {
    let read = |worker: &Arc<WorkerCounters>| {
        worker.servers.get(server).map_or((0, 0), |own| (own.active.get(), own.flows.get()))
    };
    // Gauges may be read in the middle of a change: a sum below a part of it is 0.
    let rest = |all: u64, own: u64| {
        let others = all.wrapping_sub(own);
        if others > u64::MAX / 2 { 0 } else { u32::try_from(others).unwrap_or(u32::MAX) }
    };
    let sums = workers
        .iter()
        .map(read)
        .fold((0u64, 0u64), |sum, own| (sum.0.wrapping_add(own.0), sum.1.wrapping_add(own.1)));
    for worker in workers {
        let own = read(worker);
        let others = OtherFlows { active: rest(sums.0, own.0), flows: rest(sums.1, own.1) };
        if worker.others.of(server) != others {
            worker.others.tell(server, others);
        }
    }
}

/// Everything one worker counts.
#[derive(Debug)]
pub struct WorkerCounters {
    /// Loop turns completed: a stalled worker is one whose turns stand still.
    pub turns: CachePadded<Counter>,
    /// Turns that had no frame and no other work.
    pub idle_turns: Counter,
    /// Frames that took the fast path: of established flows, with nothing to do but rewrite, and
    /// of floods, with nothing to do but answer or drop.
    pub fast_frames: Counter,
    /// Time in turns that had work, ns.
    pub busy_ns: Counter,
    /// The rate of the clock that this was measured by, ticks a second.
    pub tsc_hz: Counter,
    /// Polls that brought frames, by how many: see `BURST_BUCKETS`.
    pub bursts: [Counter; BURST_BUCKETS.len()],
    /// Gauges: items that wait in its rings, looked at now and then.
    pub ring_depths: [Counter; RingKind::ALL.len()],
    /// Gauge: live flows, IPv4 and IPv6.
    pub flows: Counter,
    /// Flows created.
    pub flows_created: Counter,
    /// Flows ended by their timer.
    pub flows_expired: Counter,
    /// Notes about persistence templates that found no room.
    pub notes_lost: Counter,
    /// Persistence templates by `ServerId` and by `ServiceId`, shadows of other workers' included:
    /// gauges that hold ids as flows do.
    pub templates: [Box<[Counter]>; 2],
    /// Gauge: persistence templates by `ServerId` of which this worker is the owner.
    pub own_templates: Box<[Counter]>,
    /// Half-open flows dropped by `drop_entry`.
    pub flows_shed: Counter,
    /// Snapshot revision in force.
    pub revision: Counter,
    /// Frames waiting for a neighbour right now (gauge).
    pub pending: Counter,
    /// Dropped frames by reason.
    pub drops: [Counter; DropReason::ALL.len()],
    /// Frames handed to other workers by cause.
    pub hand_offs: [Counter; HandOffCause::ALL.len()],
    /// Frames the director answered with, by kind.
    pub replies: [Counter; ReplyKind::ALL.len()],
    /// What helpers did.
    pub helpers: [Counter; HelperEvent::ALL.len()],
    /// Per port.
    pub nics: [NicCounters; NICS_MAX],
    /// Destinations that `lblc` or `lblcr` had no room to remember.
    pub locality_full: Counter,
    /// Per `ServerId`: what other workers hold, told by control.
    pub others: OtherWorkers,
    /// Per `ServerId`.
    pub servers: Box<[ServerCounters]>,
    /// Per `ServiceId`.
    pub services: Box<[ServiceCounters]>,
    /// Per `LipId`.
    pub lips: Box<[LipCounters]>,
}

impl WorkerCounters {
    /// Time in turns that had work, in cycles of the processor's clock.
    pub fn busy_cycles(&self) -> u64 {
        (u128::from(self.busy_ns.get()) * u128::from(self.tsc_hz.get()) / 1_000_000_000) as u64
    }

    /// A block of zeros for the largest identities `limits` allows. Pages are touched on use.
    pub fn new() -> Self {
        WorkerCounters::with_bounds(SERVERS_MAX, SERVICES_MAX, LIPS_MAX)
    }

    /// A smaller block, for tests and `replay`.
    pub fn with_bounds(servers: usize, services: usize, lips: usize) -> Self {
        WorkerCounters {
            turns: CachePadded::default(),
            idle_turns: Counter::default(),
            fast_frames: Counter::default(),
            busy_ns: Counter::default(),
            tsc_hz: Counter::default(),
            bursts: std::array::from_fn(|_| Counter::default()),
            ring_depths: std::array::from_fn(|_| Counter::default()),
            flows: Counter::default(),
            flows_created: Counter::default(),
            flows_expired: Counter::default(),
            notes_lost: Counter::default(),
            templates: [servers, services].map(|n| (0..n).map(|_| Counter::default()).collect()),
            own_templates: (0..servers).map(|_| Counter::default()).collect(),
            flows_shed: Counter::default(),
            revision: Counter::default(),
            pending: Counter::default(),
            drops: std::array::from_fn(|_| Counter::default()),
            hand_offs: std::array::from_fn(|_| Counter::default()),
            replies: std::array::from_fn(|_| Counter::default()),
            helpers: std::array::from_fn(|_| Counter::default()),
            nics: std::array::from_fn(|_| NicCounters::default()),
            locality_full: Counter::default(),
            others: OtherWorkers((0..servers).map(|_| Counter::default()).collect()),
            servers: (0..servers).map(|_| ServerCounters::default()).collect(),
            services: (0..services).map(|_| ServiceCounters::default()).collect(),
            lips: (0..lips).map(|_| LipCounters::default()).collect(),
        }
    }

    /// Counts a persistence template, or a shadow of one, of a service and a server.
    pub fn count_template(&self, service: usize, server: usize, count: impl Fn(&Counter)) {
        let [by_server, by_service] = &self.templates;
        by_server.get(server).into_iter().for_each(&count);
        by_service.get(service).into_iter().for_each(&count);
    }

    /// Counts a poll that brought so many frames.
    #[inline]
    pub fn burst(&self, frames: usize) {
        // 1, 2, 3-4, 5-8 ...: the power of two at or above.
        let bucket = frames.max(1).next_power_of_two().trailing_zeros() as usize;
        self.bursts[bucket.min(BURST_BUCKETS.len() - 1)].add(1);
    }

    /// Counts one dropped frame.
    #[inline]
    pub fn dropped(&self, reason: DropReason) {
        self.drops[reason as usize].add(1);
    }

    /// Counts what a helper did.
    #[inline]
    pub fn helped(&self, event: HelperEvent) {
        self.helpers[event as usize].add(1);
    }

    /// Counts one frame the director answered with.
    #[inline]
    pub fn replied(&self, kind: ReplyKind) {
        self.replies[kind as usize].add(1);
    }
}

impl Default for WorkerCounters {
    fn default() -> Self {
        WorkerCounters::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_have_distinct_names() {
        let mut names: Vec<_> = DropReason::ALL.iter().map(|r| r.name()).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), DropReason::ALL.len());
    }

    #[test]
    fn each_worker_is_told_what_the_others_hold() {
        let workers: Vec<_> =
            (0..3).map(|_| Arc::new(WorkerCounters::with_bounds(2, 0, 0))).collect();
        for (worker, flows) in workers.iter().zip([5, 7, 9]) {
            worker.servers[1].flows.set(flows);
            worker.servers[1].active.set(flows - 4);
        }
        tell_others(&workers, 1);
        let told = |worker: usize| workers[worker].others.of(1);
        assert_eq!(told(0), OtherFlows { active: 8, flows: 16 });
        assert_eq!(told(2), OtherFlows { active: 4, flows: 12 });
        assert_eq!(workers[0].others.of(0), OtherFlows::default());
        // Out of range: nothing to say, nothing to break.
        tell_others(&workers, 2);
    }

    #[test]
    fn each_size_of_a_burst_falls_into_the_bucket_that_ends_at_or_above_it() {
        for frames in 1..=64 {
            let worker = WorkerCounters::with_bounds(0, 0, 0);
            worker.burst(frames);
            let at = worker.bursts.iter().position(|bucket| bucket.get() == 1).unwrap();
            assert!(frames <= BURST_BUCKETS[at], "{frames}");
            assert!(at == 0 || frames > BURST_BUCKETS[at - 1], "{frames}");
        }
    }

    #[test]
    fn a_server_block_is_one_cache_line() {
        assert_eq!(size_of::<ServerCounters>(), 64);
    }
}
