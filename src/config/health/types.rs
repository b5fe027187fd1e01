//! Serde types of checks. A check is one flat table; which fields go with which kind is
//! `meaning`'s to say.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::values::{Digest, HexBytes, StatusRange};
use crate::config::types::{Forwarding, Tunnel, TunnelChecksum, words};
use crate::config::values::Endpoint;

words! {
    /// What a check tries.
    CheckKind {
        /// A connection.
        #[default]
        Tcp = "tcp",
        /// A request.
        Http = "http",
        /// A request over TLS.
        Https = "https",
        /// A datagram.
        Udp = "udp",
        /// A query.
        Dns = "dns",
        /// An echo request.
        Icmp = "icmp",
        /// A mail server's greeting.
        Smtp = "smtp",
        /// A program of the operator's.
        Program = "program",
    }
}
words! {
    /// Which way a check's packets take.
    CheckWay {
        /// To the server's address.
        #[default]
        Server = "server",
        /// As clients' packets.
        Service = "service",
    }
}
words! {
    /// HTTP request method.
    CheckMethod {
        /// With a body.
        #[default]
        Get = "GET",
        /// Without one.
        Head = "HEAD",
    }
}
words! {
    /// Type of a DNS record.
    #[allow(missing_docs, reason = "the names are DNS's")]
    DnsRecord {
        #[default]
        A = "A",
        Aaaa = "AAAA",
        Ns = "NS",
        Cname = "CNAME",
        Soa = "SOA",
        Ptr = "PTR",
        Mx = "MX",
        Txt = "TXT",
        Srv = "SRV",
        Rrsig = "RRSIG",
        Dnskey = "DNSKEY",
        Any = "ANY",
    }
}
words! {
    /// What becomes of a failed server.
    OnFailure {
        /// Weight 0.
        #[default]
        Quiesce = "quiesce",
        /// Taken out.
        Remove = "remove",
    }
}

/// Who answers while the quorum is lost.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SorryServer {
    /// RIP, with the port unless that is the service's.
    pub address: Endpoint,
    /// Forwarding, when not the service's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub forwarding: Option<Forwarding>,
    /// What wraps packets, by TUN.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tunnel: Option<Tunnel>,
    /// GUE's port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tunnel_port: Option<u16>,
    /// Checksum of GRE and GUE.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tunnel_checksum: Option<TunnelChecksum>,
}

/// A check. `None` is the default of its kind.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Check {
    /// What is tried.
    pub kind: CheckKind,
    /// Port on the server.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// Which way packets take.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub way: Option<CheckWay>,
    /// From round to round.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub interval_ms: Option<u32>,
    /// For one attempt.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout_ms: Option<u32>,
    /// Further attempts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retries: Option<u32>,
    /// Pause before each.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry_delay_ms: Option<u32>,
    /// How much an interval may vary.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub jitter_percent: Option<u8>,
    /// Good rounds that bring a server back.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rise: Option<u32>,
    /// Bad rounds that fail it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fall: Option<u32>,
    /// HTTP method.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub method: Option<CheckMethod>,
    /// Path and query.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request: Option<String>,
    /// Host header.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// Good statuses.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<Vec<StatusRange>>,
    /// Whether the certificate counts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls_verify: Option<bool>,
    /// Server name indication.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sni: Option<String>,
    /// Text in the answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expect_text: Option<String>,
    /// Pattern in the answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expect_regex: Option<String>,
    /// Digest of the answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expect_md5: Option<Digest<16>>,
    /// Digest of the answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expect_sha256: Option<Digest<32>>,
    /// Whether there must be an answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expect_reply: Option<bool>,
    /// A datagram's payload.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub payload: Option<String>,
    /// The same in bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub payload_hex: Option<HexBytes>,
    /// Name asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Record asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub record: Option<DnsRecord>,
    /// Address in the answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub record_address: Option<IpAddr>,
    /// Size of an echo request.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub payload_bytes: Option<u16>,
    /// Name said in HELO.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub helo: Option<String>,
    /// Path and arguments.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub command: Option<Vec<String>>,
}
