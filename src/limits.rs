//! Every bound in one place: tables, rings, bursts and loops. Memory is taken at start-up; a full
//! table is a counted drop, never a growth.

/// Frames one rx poll may return, and so the size of every per-burst array.
pub const BURST_FRAMES_MAX: usize = 64;
/// Frames one rx poll asks for unless configured.
pub const BURST_FRAMES_DEFAULT: usize = 32;
/// Workers in one process.
pub const WORKERS_MAX: usize = 64;
/// Ports (NICs) in one process.
pub const NICS_MAX: usize = 16;
/// Virtual services, and so the range of `ServiceId`.
pub const SERVICES_MAX: usize = 1 << 16;
/// Real servers over all services, and so the range of `ServerId`.
pub const SERVERS_MAX: usize = 1 << 17;
/// Next hops (one per distinct next-hop target), and so the range of `NextHopId`.
pub const NEXT_HOPS_MAX: usize = 1 << 15;
/// Next hops that on-link clients may take, so that servers and routers always find one.
pub const CLIENT_HOPS_MAX: usize = NEXT_HOPS_MAX / 2;
/// Routes with a next hop of their own; further ones share their router's.
pub const ROUTE_HOPS_MAX: usize = NEXT_HOPS_MAX / 8;
/// On-link clients whose MAC address may be asked for at one time. The kernel keeps 1024 entries
/// in all by default (`gc_thresh3`), and a flood from made-up neighbours must not fill them.
pub const CLIENT_ASKS_OPEN_MAX: usize = 256;
/// FULLNAT local addresses over all pools, and so the range of `LipId`.
pub const LIPS_MAX: usize = 1 << 10;
/// Flows one worker may hold, per family; the size in force comes from the configuration.
pub const FLOWS_PER_WORKER_MAX: usize = 1 << 28;
/// Frames that may wait for their next hop's neighbour, per worker.
pub const PENDING_FRAMES_MAX: usize = 1024;
/// How long a frame waits for its next hop's neighbour, in milliseconds.
pub const PENDING_MILLIS_MAX: u64 = 3_000;
/// Extra frames one burst may produce besides the ones that came in.
pub const OUTBOX_FRAMES_MAX: usize = 256;
/// Largest extra frame, in bytes.
pub const OUTBOX_FRAME_BYTES: usize = 1600;
/// Room in front of a frame that the packet path may use (options, tunnel headers, tags).
pub const HEADROOM_BYTES: usize = 128;
/// Datagrams whose fragments one worker follows at one time.
pub const FRAGMENT_DATAGRAMS_MAX: usize = 1024;
/// Pieces that the store of waiting fragments is made of, per worker: 4 MiB in all, as the
/// kernel's `ipfrag_high_thresh`.
pub const FRAGMENT_CHUNKS: usize = 2048;
/// Size of one of them.
pub const FRAGMENT_CHUNK_BYTES: usize = 2048;
/// Fragments of one datagram that may wait. The largest one has 119 on a path with the least MTU
/// that hosts must take (576).
pub const FRAGMENT_FRAMES_MAX: u16 = 128;
/// How long a datagram is followed: the kernel's `ipfrag_time`.
pub const FRAGMENT_TIMEOUT_MS: u64 = 30_000;
/// Largest frame: the largest MTU that a port can have, link header and tag.
pub const FRAME_BYTES_MAX: usize = 9702 + 14 + 4;
/// IPv6 extension headers walked over in one packet; more is a counted drop.
pub const IPV6_EXTENSIONS_MAX: usize = 8;
/// Slots of a Maglev look-up table unless configured; a prime (Maglev paper, section 3.4).
pub const MAGLEV_SLOTS_DEFAULT: usize = 65_537;
/// Largest Maglev look-up table that may be configured.
pub const MAGLEV_SLOTS_MAX: usize = 1 << 22;
/// Destinations that one worker's `lblc` and `lblcr` remember, all services together: as many as
/// the kernel keeps a service before it collects in haste.
pub const LOCALITY_ENTRIES_MAX: usize = 1 << 14;
/// Servers of all those destinations together.
pub const LOCALITY_MEMBERS_MAX: usize = 1 << 16;
/// Largest weight of a server; the kernel's.
pub const WEIGHT_MAX: u32 = 65_535;
/// Longest idle timeout in milliseconds: flow entries keep 32-bit milliseconds and compare by
/// difference.
pub const TIMEOUT_MILLIS_MAX: u32 = 2_000_000_000;
/// Pairs of FULLNAT local address and server that one worker can hold ports for unless
/// configured; 8 KiB each.
pub const SOURCE_PORT_SPACES_DEFAULT: usize = 1 << 12;
/// The most pairs that may be configured.
pub const SOURCE_PORT_SPACES_MAX: usize = 1 << 18;
/// Ports and groups that a search may look at for a port whose reply comes back to the same
/// queue; after these any free one will do.
pub const SOURCE_PORT_TRIES_MAX: usize = 2048;
/// How long a path MTU that an ICMP error told of is kept, in milliseconds: the kernel's.
pub const LEARNED_MTU_MILLIS: u32 = 600_000;
/// Closed flows that are looked at for one whose source port a new flow may take over.
pub const CLOSED_FLOWS_LOOKS_MAX: usize = 16;
/// How long a closed FULLNAT flow holds its source port at least: Linux's TIME_WAIT, in ms.
pub const SOURCE_PORT_HOLD_MS: u32 = 60_000;
/// How long a PROXY header stays unacknowledged before it is sent again without its client, in
/// milliseconds; each further time after twice as long.
pub const PROXY_RESEND_MS: u32 = 300;
/// How often it is sent again without its client.
pub const PROXY_RESENDS_MAX: u8 = 5;
/// How long a SYN that SYNPROXY sends to a server waits for its answer, in milliseconds; each
/// further one twice as long.
pub const SYNPROXY_RETRY_MS: u32 = 1000;
/// SYNs that a server gets for one client before the client is reset: 31 s in all.
pub const SYNPROXY_SYNS_MAX: u8 = 5;
/// ACKs without a right cookie that one worker answers, or leaves to the kernel, in a second.
pub const SYNPROXY_STRAYS_PER_SECOND: u32 = 1000;
/// Segments of one client that are kept until its server has answered.
pub const EARLY_DATA_SEGMENTS_MAX: usize = 2;
/// Segments that one worker keeps for all clients.
pub const EARLY_DATA_SLOTS: usize = 1000;
/// FTP control connections that one worker's helper follows; further ones pass unread.
pub const FTP_CONTROLS_MAX: usize = 4096;
/// FTP data connections, expected or live, that one worker's helper knows.
pub const FTP_DATA_MAX: usize = 8192;
/// Ports of a VIP tried for one passive data connection.
pub const FTP_PORT_TRIES_MAX: u16 = 16;
/// Persistence templates that one worker has room for at least; more with more flows.
pub const TEMPLATES_MIN: usize = 1024;
/// Notes about templates that one burst or turn may have for other workers.
pub const NOTES_MAX: usize = 256;
/// Datagrams of a UDP client that carry its address while the server has not answered.
pub const UOA_DATAGRAMS_MAX: u32 = 3;
/// Worker-to-control events that wait for room in the ring.
pub const EVENTS_MAX: usize = 256;
/// Timers of fragments, and of templates, that one worker turn may handle.
pub const TIMERS_PER_TURN_MAX: usize = 64;
/// Flow timers one worker turn may handle, besides two for each flow it has made: so that turns
/// stay short where thousands come due at once, and flows still end faster than they are made.
pub const FLOW_TIMERS_PER_TURN: usize = 16;
/// Flow timers whose lines are fetched together.
pub const FLOW_TIMERS_TOGETHER: usize = 8;
/// Flow entries one worker turn may look at on behalf of control (list, delete, re-route).
pub const SWEEP_PER_TURN_MAX: usize = 256;
/// Snapshots on their way to one worker; more wait at control, which then skips to the newest.
pub const WORKER_SNAPSHOTS_MAX: usize = 4;
/// Commands on their way to one worker.
pub const WORKER_COMMANDS_MAX: usize = 4096;
/// Events on their way from one worker to control.
pub const WORKER_EVENTS_MAX: usize = 4096;
/// Changes asked for over the socket that may wait for the one being built.
pub const CHANGES_WAITING_MAX: usize = 1024;
/// Revisions kept that replaced the whole configuration.
pub const REVISIONS_WHOLE_MAX: usize = 32;
/// Revisions kept that changed one thing.
pub const REVISIONS_SINGLE_MAX: usize = 64;
/// Lines of changes kept of each revision.
pub const REVISION_CHANGES_MAX: usize = 50;
/// The longest that a configuration may wait to be confirmed, in seconds.
pub const CONFIRM_SECONDS_MAX: u64 = 86_400;
/// Lines of changes or problems in one reply.
pub const CHANGES_SHOWN_MAX: usize = 1000;
/// Listings and deletions of flows that may wait for the one under way.
pub const SWEEPS_WAITING_MAX: usize = 64;
/// Flows in one reply.
pub const CONNECTIONS_SHOWN_MAX: u32 = 100_000;
/// Flows in one reply unless asked for otherwise.
pub const CONNECTIONS_SHOWN_DEFAULT: u32 = 1000;
/// Bytes of one JSON-RPC request, newline included.
pub const REQUEST_BYTES_MAX: usize = 64 << 20;
/// Calls in one JSON-RPC batch.
pub const BATCH_CALLS_MAX: usize = 128;
/// Clients of the control socket at one time.
pub const CONTROL_CLIENTS_MAX: usize = 1024;
/// Frames that may be on their way to one worker from all others. At 10 Gb/s of small frames this
/// is a third of a millisecond of hand-offs.
pub const PEER_FRAMES_MAX: usize = 4096;
/// The least that a ring between two workers holds: some bursts.
pub const PEER_RING_FRAMES_MIN: usize = 256;
/// Frames that may be on their way between one worker and the kernel interface. ARP, BGP and SSH
/// need few; the bound keeps a flood to the director's own address from taking the pool.
pub const KERNEL_RING_FRAMES_MAX: usize = 1024;
/// Frames that may wait for one next hop.
pub const PENDING_PER_HOP_MAX: u16 = 64;
/// Frames that may wait for addresses without a slot, all together.
pub const PENDING_ADDRESSES_MAX: usize = PENDING_FRAMES_MAX / 2;
/// How often a full queue is tried again before frames are dropped. A queue is full when the
/// link is slower than the workers; waiting longer would only move the drops to the rx queue.
pub const TX_TRIES_MAX: u32 = 4;
/// Tries to tell control that the worker ended; its events ring may be full.
pub const LAST_WORD_TRIES_MAX: u32 = 1000;
/// Events taken from one worker before the next has its turn.
pub const CONTROL_EVENTS_PER_TURN_MAX: usize = 8192;
/// Clients of the HTTP listener at one time; further ones wait to be accepted.
pub const HTTP_CLIENTS_MAX: usize = 256;
/// The shortest token that the HTTP listener takes, in bytes.
pub const TOKEN_BYTES_MIN: usize = 16;
/// The longest file that it is read from, in bytes.
pub const TOKEN_BYTES_MAX: u64 = 4096;
/// Events that may wait for a client which asked for them; what is beyond it hears the number of.
pub const EVENTS_UNSENT_MAX: usize = 1024;
/// Lines of changes in one event.
pub const EVENT_CHANGES_MAX: usize = 20;
/// Requests that may wait for the core.
pub const JOBS_WAITING_MAX: usize = 64;
/// Commands kept for a worker that takes none: what is beyond is made good by a repetition of all
/// next hops.
pub const COMMANDS_WAITING_MAX: usize = 2 * NEXT_HOPS_MAX;
/// Snapshots kept for it; the newest of them is replaced by the next.
pub const SNAPSHOTS_OUT_MAX: usize = 4;
/// Batches that wait for `NextHops`' owner; beyond them events gather in the next one.
pub const NETLINK_BATCHES_MAX: usize = 16;
/// Messages taken into one batch.
pub const NETLINK_MESSAGES_PER_BATCH_MAX: usize = 4096;
/// Events that may wait for a receiver that does not come; beyond, a dump replaces them.
pub const NETLINK_EVENTS_WAITING_MAX: usize = 1 << 16;
/// Requests in one go.
pub const NETLINK_REQUESTS_PER_TURN_MAX: usize = 256;
/// Times a dump is begun again because tables changed while the kernel walked them.
pub const NETLINK_DUMP_TRIES_MAX: u32 = 8;
/// Bytes of a request that is too long which are read and thrown away, so that its client gets
/// the answer.
pub const DISCARD_BYTES_MAX: usize = 64 << 20;
/// From here on a line is read beside the control thread.
pub const LONG_LINE_BYTES: usize = 256 << 10;
/// Attempts of health checks that go on at one time, each with a socket or two; fewer where the
/// limit of open files says so.
pub const CHECK_SOCKETS_MAX: usize = 16_384;
/// Programs of health checks that run at one time.
pub const CHECK_PROGRAMS_MAX: usize = 64;
/// Bytes of an HTTP body that a health check reads and judges.
pub const CHECK_BODY_BYTES_MAX: usize = 1 << 20;
/// Bytes that the head of an HTTP answer may have.
pub const CHECK_HEAD_BYTES_MAX: usize = 64 << 10;
/// Largest datagram that a health check receives.
pub const CHECK_DATAGRAM_BYTES_MAX: usize = 65_535;
/// Compiled regular expressions that health checks keep.
pub const CHECK_REGEXES_MAX: usize = 4096;
/// Reports of health checks that may wait for control; beyond, checks wait.
pub const CHECK_REPORTS_MAX: usize = 16_384;
/// A round of a health check that begins so much later than planned counts as late, milliseconds.
pub const CHECKS_LATE_MILLIS: u64 = 100;
/// Least time between rounds of a health check that are asked for out of turn, milliseconds.
pub const CHECK_NOW_GAP_MILLIS: u64 = 200;
/// Health checks of all servers together.
pub const CHECKS_MAX: usize = 1 << 17;
/// Health checks of one server.
pub const CHECKS_PER_SERVER_MAX: usize = 16;
/// The shortest and the longest time between rounds of a check, in milliseconds.
pub const CHECK_INTERVAL_MS: [u32; 2] = [100, 86_400_000];
/// The shortest and the longest time that one attempt may take, in milliseconds.
pub const CHECK_TIMEOUT_MS: [u32; 2] = [10, 600_000];
/// Further attempts of a round.
pub const CHECK_RETRIES_MAX: u32 = 100;
/// The longest pause before one, in milliseconds.
pub const CHECK_RETRY_DELAY_MS_MAX: u32 = 600_000;
/// Rounds in a row that may be asked for before a server changes its state.
pub const CHECK_ROUNDS_MAX: u32 = 1000;
/// What a check may send in one datagram, in bytes: it fits into any link's MTU.
pub const CHECK_PAYLOAD_BYTES_MAX: usize = 1232;
/// Bytes of a text of a check: a request, a name, a pattern.
pub const CHECK_TEXT_BYTES_MAX: usize = 4096;
/// A command and its arguments.
pub const COMMAND_PARTS_MAX: usize = 64;
/// Programs that are told of quorums at one time; further ones wait.
pub const HOOKS_MAX: usize = 16;
/// What one of them may take, in milliseconds.
pub const HOOK_MILLIS_MAX: u64 = 30_000;
/// What of its standard error comes into the log where it fails, from the beginning.
pub const HOOK_STDERR_BYTES_MAX: usize = 512;
/// The longest slow start, in milliseconds.
pub const SLOW_START_MS_MAX: u32 = 3_600_000;

const _: () = assert!(FLOWS_PER_WORKER_MAX.is_power_of_two(), "flow index is a mask");
const _: () = assert!(BURST_FRAMES_DEFAULT <= BURST_FRAMES_MAX);
