//! Health checks as an operator asks for them: what is tried, how often, and what counts as good.
//!
//! Only the wish. Who carries checks out is `control::health`; what follows from their results is
//! decided there too.

use std::net::IpAddr;

/// One check of a server. A server with several is good while all of them are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckSpec {
    /// What is tried.
    pub kind: CheckKind,
    /// Port on the server; by default the server's own.
    pub port: Option<u16>,
    /// Which way the check's packets take.
    pub way: CheckWay,
    /// From the beginning of a round to the beginning of the next, milliseconds.
    pub interval_ms: u32,
    /// What one attempt may take, milliseconds.
    pub timeout_ms: u32,
    /// Further attempts of a round after one that failed.
    pub retries: u32,
    /// Pause before each of them, milliseconds.
    pub retry_delay_ms: u32,
    /// By how much of itself an interval may be longer or shorter, percent, 0 to 50: so that
    /// checks that began together do not stay together.
    pub jitter_percent: u8,
    /// Good rounds in a row that bring a failed server back.
    pub rise: u32,
    /// Bad rounds in a row that fail a server.
    pub fall: u32,
}

impl CheckSpec {
    /// A check with the usual times.
    pub fn new(kind: CheckKind) -> Self {
        CheckSpec {
            kind,
            port: None,
            way: CheckWay::Server,
            interval_ms: 2000,
            timeout_ms: 1000,
            retries: 1,
            retry_delay_ms: 500,
            jitter_percent: 10,
            rise: 1,
            fall: 1,
        }
    }
}

/// Which way a check's packets take to the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum CheckWay {
    /// To its address, from the kernel's own sockets.
    #[default]
    Server,
    /// As a client's packets to the service go: to the virtual address by the server's forwarding
    /// mode, so that a DR or TUN server that lacks the virtual address is found out. TCP
    /// (handshake), UDP and DNS.
    Service,
}

/// What is tried.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CheckKind {
    /// A connection is opened.
    Tcp,
    /// An HTTP/1.1 request is answered.
    Http(HttpCheck),
    /// A datagram is sent; good unless the server says that nobody listens.
    Udp {
        /// What is sent.
        payload: Vec<u8>,
        /// An answer is needed, and this of it.
        reply: Option<Reply>,
    },
    /// A name is asked for, over UDP.
    Dns {
        /// The name.
        name: String,
        /// Type of record (IANA "DNS Parameters"): 1 is A, 28 AAAA.
        record: u16,
        /// One of the answer's addresses; by default any record of the type is good.
        address: Option<IpAddr>,
    },
    /// An echo request is answered.
    Icmp {
        /// Bytes after the ICMP header.
        payload_bytes: u16,
    },
    /// A mail server greets and takes HELO.
    Smtp {
        /// Name said in HELO.
        helo: String,
    },
    /// A program ends with 0. It is given the virtual address and port, and the server's, as
    /// `GYRE_VIP`, `GYRE_VPORT`, `GYRE_RIP` and `GYRE_RPORT`.
    Program {
        /// Absolute path and arguments; no shell reads them.
        command: Vec<String>,
    },
}

/// An HTTP or HTTPS request and its answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpCheck {
    /// Over TLS.
    pub tls: Option<TlsCheck>,
    /// `GET` or `HEAD`.
    pub method: HttpMethod,
    /// Path and query.
    pub request: String,
    /// The Host header; by default the server's address.
    pub host: Option<String>,
    /// Statuses that are good, as inclusive ranges; never empty.
    pub statuses: Vec<(u16, u16)>,
    /// What the body must be.
    pub body: Option<Reply>,
}

/// HTTP request method.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum HttpMethod {
    /// `GET`.
    #[default]
    Get,
    /// `HEAD`.
    Head,
}

/// TLS of a check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsCheck {
    /// The certificate must be valid for the name.
    pub verify: bool,
    /// Server name indication; by default the Host header's name.
    pub sni: Option<String>,
}

/// What an answer must be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// Anything.
    Any,
    /// It contains this text.
    Text(String),
    /// It matches this regular expression.
    Regex(String),
    /// All of it has this MD5 digest (what `genhash` prints for keepalived).
    Md5([u8; 16]),
    /// All of it has this SHA-256 digest.
    Sha256([u8; 32]),
}

/// What a service does with checks' results.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HealthSpec {
    /// What becomes of a failed server.
    pub on_failure: OnFailure,
    /// Servers start as failed until a check was good, instead of as good.
    pub starts_down: bool,
    /// Sum of the weights of good servers at which the service is up.
    pub quorum: u32,
    /// By how much the sum must pass, or fall below, the quorum for a change.
    pub quorum_hysteresis: u32,
    /// Run when the quorum is reached; path and arguments.
    pub quorum_up: Vec<String>,
    /// Run when it is lost.
    pub quorum_down: Vec<String>,
    /// Whether that runs too when gyre stops, unless it was lost already.
    pub down_at_stop: bool,
    /// A server that comes back, or is new, comes to its weight over so long, milliseconds; 0 at
    /// once.
    pub slow_start_ms: u32,
}

impl Default for HealthSpec {
    fn default() -> Self {
        HealthSpec {
            on_failure: OnFailure::default(),
            starts_down: false,
            quorum: 1,
            quorum_hysteresis: 0,
            quorum_up: Vec::new(),
            quorum_down: Vec::new(),
            down_at_stop: false,
            slow_start_ms: 0,
        }
    }
}

/// What becomes of a failed server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum OnFailure {
    /// Weight 0: no new flows, live ones go on (ldirectord's `quiescent=yes`).
    #[default]
    Quiesce,
    /// Taken out as by `ipvsadm -d` (keepalived without `inhibit_on_failure`).
    Remove,
}
