//! The kernel's switches (`net.ipv4.vs.*`, `ipvsadm --set`) that concern all services.

use super::timeouts::Timeouts;

/// When a defence is up. The kernel looks at free memory, gyre at free flow entries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Defence {
    /// Never: the kernel's 0.
    #[default]
    Off,
    /// While a worker runs short of flow entries: the kernel's 1, which it shows as 2 meanwhile.
    Pressure,
    /// Always: the kernel's 3.
    Always,
}

impl Defence {
    /// Whether it is up, on a worker that runs short or does not.
    #[inline]
    pub fn is_up(self, is_short: bool) -> bool {
        match self {
            Defence::Off => false,
            Defence::Pressure => is_short,
            Defence::Always => true,
        }
    }
}

/// Which ended connections a SYN on the same tuple may follow: `conn_reuse_mode`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ConnReuse {
    /// 0: none; the SYN stays with the old connection's server.
    Never,
    /// 1: those in TIME_WAIT or CLOSE; the SYN is scheduled afresh.
    #[default]
    Ended,
    /// 2: also those in FIN_WAIT of which only the client's direction is seen (DR, TUN).
    EndedOrHalfSeen,
}

/// Switches of all services; the defaults are the kernel's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Semantics {
    /// `conn_reuse_mode`.
    pub conn_reuse: ConnReuse,
    /// `expire_nodest_conn`: a flow whose server is gone ends with its next packet.
    pub expire_nodest_conn: bool,
    /// `expire_quiescent_template`: persistence does not hold to a server of weight 0.
    pub expire_quiescent_template: bool,
    /// `sloppy_tcp`: anything but a reset may open a flow.
    pub sloppy_tcp: bool,
    /// `secure_tcp`: states that trust the server's segments alone.
    pub secure_tcp: Defence,
    /// `drop_entry`: half-open flows are dropped.
    pub drop_entry: Defence,
    /// `drop_packet`: a part of first packets is dropped.
    pub drop_packet: Defence,
    /// `nat_icmp_send`: tell the sender of a server's stray segment that there is no flow.
    pub nat_icmp_send: bool,
    /// `pmtu_disc`: keep to the path's MTU in tunnels, and copy "don't fragment".
    pub pmtu_disc: bool,
    /// Idle timeouts of services that do not say: `ipvsadm --set` and the kernel's table.
    pub timeouts: Timeouts,
}

impl Default for Semantics {
    fn default() -> Self {
        Semantics {
            conn_reuse: ConnReuse::default(),
            expire_nodest_conn: false,
            expire_quiescent_template: false,
            sloppy_tcp: false,
            secure_tcp: Defence::Off,
            drop_entry: Defence::Off,
            drop_packet: Defence::Off,
            nat_icmp_send: false,
            pmtu_disc: true,
            timeouts: Timeouts::default(),
        }
    }
}
