//! What is counted: each mode in each direction, and how connections begin and end.

use gyre::model::{ForwardMode, Protocol};
use gyre::wire::tcp::TcpFlags;

/// Clients of a case whose flows live on.
const ESTABLISHED: usize = 512;
/// How often each of them sends.
const ROUNDS: usize = 8;
/// Clients of a case in which each connection is new.
const NEWCOMERS: usize = 4096;

/// What a service does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kind {
    /// Forwarding mode.
    pub mode: ForwardMode,
    /// Address family.
    pub is_ipv4: bool,
    /// Transport protocol.
    pub protocol: Protocol,
    /// Whether SYNs are answered by cookies.
    pub synproxy: bool,
}

/// A packet that every connection sees in turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// From the client; in UDP the flags mean nothing.
    Client(TcpFlags),
    /// From its server, where the mode lets the director see it.
    Server(TcpFlags),
    /// The client's ACK of what the director itself answered last.
    CookieAck,
    /// Time passes until every flow has ended.
    Silence,
}

/// What must have become of the packets that are counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Proof {
    /// All were sent on, by the fast path.
    Fast,
    /// All were sent on or answered, by the general path; so many flows are there in the end.
    General(usize),
    /// None was sent on, and no flow was made.
    Refused,
    /// All were sent on, whichever way.
    Sent,
    /// No flow is there any more.
    Ended,
}

/// Packets that are counted, and those before them that are not.
#[derive(Clone, Debug)]
pub struct Case {
    life: &'static str,
    /// What the service does.
    pub kind: Kind,
    /// Clients, a connection each.
    pub clients: usize,
    /// Not counted.
    pub before: Vec<Step>,
    /// Counted.
    pub counted: Vec<Step>,
    /// What must have become of them.
    pub proof: Proof,
}

const SYN: TcpFlags = TcpFlags::SYN;
const ACK: TcpFlags = TcpFlags::ACK;
const SYN_ACK: TcpFlags = TcpFlags(SYN.0 | ACK.0);
const DATA: TcpFlags = TcpFlags(TcpFlags::PSH.0 | ACK.0);
const FIN: TcpFlags = TcpFlags(TcpFlags::FIN.0 | ACK.0);

/// A connection without data, and what follows.
const LIFE: [Step; 7] = [
    Step::Client(SYN),
    Step::Server(SYN_ACK),
    Step::Client(ACK),
    Step::Client(FIN),
    Step::Server(FIN),
    Step::Client(ACK),
    Step::Silence,
];
/// Its parts that are counted one by one, by place; its first packet is a case of its own.
const PARTS: [(&str, usize); 6] =
    [("-syn-ack", 1), ("-ack", 2), ("-fin", 3), ("-server-fin", 4), ("-last-ack", 5), ("-end", 6)];

impl Case {
    /// Its name in the file of figures.
    pub fn name(&self) -> String {
        let Kind { mode, is_ipv4, protocol, synproxy } = self.kind;
        let mode = match mode {
            _ if synproxy => "synproxy",
            ForwardMode::DirectRoute => "dr",
            ForwardMode::FullNat => "fullnat",
            ForwardMode::Nat => "nat",
            ForwardMode::Tunnel => "tun",
            ForwardMode::Local => "local",
        };
        let protocol = if protocol == Protocol::Udp { "udp" } else { "tcp" };
        format!("{mode}{}-{protocol}{}", self.life, if is_ipv4 { 4 } else { 6 })
    }

    /// Data of connections that are there already.
    fn established(kind: Kind, replies: bool) -> Self {
        Case {
            life: if replies { "-out" } else { "" },
            kind,
            clients: ESTABLISHED,
            before: vec![Step::Client(SYN), Step::Server(SYN_ACK), Step::Client(ACK)],
            counted: vec![if replies { Step::Server(ACK) } else { Step::Client(ACK) }; ROUNDS],
            proof: Proof::Fast,
        }
    }

    /// One packet of a short connection, or its end: what came before it is not counted. A life
    /// without a step that the director sees is none.
    fn part(kind: Kind, life: &'static str, at: usize) -> Option<Self> {
        let sees = |step: &Step| kind.mode.sees_replies() || !matches!(step, Step::Server(_));
        let counted = LIFE[at];
        sees(&counted).then(|| Case {
            life,
            before: LIFE[..at].to_vec(),
            counted: vec![counted],
            proof: if counted == Step::Silence { Proof::Ended } else { Proof::Sent },
            ..Case::new(kind)
        })
    }

    /// First packets.
    fn new(kind: Kind) -> Self {
        Case {
            life: "-new",
            kind,
            clients: NEWCOMERS,
            before: Vec::new(),
            counted: vec![Step::Client(SYN)],
            proof: Proof::General(NEWCOMERS),
        }
    }

    /// A short connection, whole: a request and its answer.
    fn cycle(kind: Kind) -> Self {
        use Step::{Client, Server};
        let opening = [Client(SYN), Server(SYN_ACK), Client(ACK), Client(DATA), Server(DATA)];
        let closing = [Client(FIN), Server(FIN), Client(ACK)];
        Case {
            life: "-cycle",
            counted: opening.into_iter().chain(closing).collect(),
            ..Case::new(kind)
        }
    }
}

/// Every case.
pub fn all() -> Vec<Case> {
    const MODES: [ForwardMode; 4] =
        [ForwardMode::DirectRoute, ForwardMode::Tunnel, ForwardMode::Nat, ForwardMode::FullNat];
    let mut cases = Vec::new();
    for is_ipv4 in [true, false] {
        for protocol in [Protocol::Udp, Protocol::Tcp] {
            for mode in MODES {
                let kind = Kind { mode, is_ipv4, protocol, synproxy: false };
                cases.push(Case::established(kind, false));
                if mode.sees_replies() {
                    cases.push(Case::established(kind, true));
                }
                cases.push(Case::new(kind));
                if protocol == Protocol::Tcp && is_ipv4 {
                    cases.push(Case::cycle(kind));
                    let part = |(life, at): &(&'static str, usize)| Case::part(kind, life, *at);
                    cases.extend(PARTS.iter().filter_map(part));
                }
            }
        }
        cases.extend(synproxy(is_ipv4));
    }
    cases
}

/// A flood's SYN, a flood's ACK, and an ACK that proves its client.
fn synproxy(is_ipv4: bool) -> [Case; 3] {
    let kind =
        Kind { mode: ForwardMode::FullNat, is_ipv4, protocol: Protocol::Tcp, synproxy: true };
    let answered = Case { life: "-syn", proof: Proof::General(0), ..Case::new(kind) };
    let flood = Case {
        life: "-false-ack",
        counted: vec![Step::Client(ACK)],
        proof: Proof::Refused,
        ..Case::new(kind)
    };
    let proven = Case {
        life: "-proven",
        before: vec![Step::Client(SYN)],
        counted: vec![Step::CookieAck],
        ..Case::new(kind)
    };
    [answered, flood, proven]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_distinct_and_bare_keys() {
        let mut names: Vec<String> = all().iter().map(Case::name).collect();
        let is_bare = |c: char| c.is_ascii_alphanumeric() || c == '-';
        assert!(names.iter().all(|name| name.chars().all(is_bare)), "{names:?}");
        let count = names.len();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), count);
    }

    /// The workload itself, without callgrind: it proves its own path.
    #[test]
    fn every_case_takes_the_path_it_is_named_for() {
        for mut case in all() {
            if case.clients == NEWCOMERS {
                case.clients = 256;
                if case.proof == Proof::General(NEWCOMERS) {
                    case.proof = Proof::General(256);
                }
            }
            let packets = crate::scene::play(&case).map_err(|error| format!("{error:#}"));
            assert!(packets.is_ok_and(|packets| packets >= 256), "{}", case.name());
        }
    }
}
