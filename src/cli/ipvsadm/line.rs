//! One command line of ipvsadm, read and judged as ipvsadm does before it asks the kernel.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use super::endpoint::{self, integer};
use super::fail::Fail;
use super::options::{Command, Given, Kind, Opt, check_tunnel};
use super::words::{Next, Words};

/// Longest timeout that ipvsadm takes, in seconds.
const TIMEOUT_S_MAX: i64 = 31 * 86_400;
/// Persistence without a value, in seconds.
const PERSISTENCE_S_DEFAULT: u32 = 360;

/// Transport protocol of a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP, which gyre does not balance.
    Sctp,
}

impl Protocol {
    /// The name in gyre's configuration and in /etc/services.
    pub fn word(self) -> &'static str {
        match self {
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
            Protocol::Sctp => "sctp",
        }
    }
}

/// Which service is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServiceName {
    /// `-t`, `-u`, `--sctp-service`.
    Address(Protocol, SocketAddr),
    /// `-f`, and with `-6` for IPv6.
    Mark {
        /// The mark.
        number: u32,
        /// Whether it is the IPv6 one.
        is_ipv6: bool,
    },
}

impl ServiceName {
    /// Whether its addresses are IPv4.
    pub fn is_ipv4(self) -> bool {
        match self {
            ServiceName::Address(_, place) => place.is_ipv4(),
            ServiceName::Mark { is_ipv6, .. } => !is_ipv6,
        }
    }

    /// The port that DR and TUN servers have too; 0 for a mark's.
    pub fn port(self) -> u16 {
        match self {
            ServiceName::Address(_, place) => place.port(),
            ServiceName::Mark { .. } => 0,
        }
    }
}

/// How a server is reached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Method {
    /// `-g`.
    #[default]
    Route,
    /// `-i`.
    Tunnel,
    /// `-m`.
    Masquerade,
    /// `--fullnat`.
    FullNat,
}

/// What goes over the network of a tunnel.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tunnel {
    /// `ipip`, `gre` or `gue`.
    pub kind: Option<String>,
    /// GUE's port.
    pub port: Option<u16>,
    /// `csum` or `remcsum`.
    pub checksum: Option<&'static str>,
}

/// What a synchronisation daemon is to be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Daemon {
    /// `master` or `backup`.
    pub state: String,
    /// The interface; empty where none was given.
    pub interface: String,
}

/// A command line. What was not given has ipvsadm's default.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// What to do.
    pub command: Command,
    /// What was given.
    pub given: Given,
    /// The service.
    pub service: Option<ServiceName>,
    /// Scheduler; empty where none was given.
    pub scheduler: String,
    /// Bits of `-b`: flag-1 is 1, flag-2 is 2, flag-3 is 4.
    pub scheduler_flags: u8,
    /// Seconds of `-p`.
    pub persistence_s: Option<u32>,
    /// Leading bits of `-M`; none where its ones are not all in front.
    pub netmask_bits: Option<u8>,
    /// `-o`.
    pub one_packet: bool,
    /// `--pe`.
    pub engine: Option<String>,
    /// `--synproxy`: on or off.
    pub synproxy: Option<bool>,
    /// `--local-address`.
    pub pool: Option<String>,
    /// The server.
    pub server: Option<SocketAddr>,
    /// How it is reached.
    pub method: Method,
    /// `-w`.
    pub weight: u32,
    /// `-x`.
    pub upper_threshold: u32,
    /// `-y`.
    pub lower_threshold: u32,
    /// `--tun-type` and the like.
    pub tunnel: Tunnel,
    /// `--start-daemon`, `--stop-daemon`.
    pub daemon: Daemon,
    /// `--set`, seconds; 0 leaves a timeout as it is.
    pub timeouts_s: [u32; 3],
}

/// A netmask's length, if all its ones are in front.
fn bits_of(mask: Ipv4Addr) -> Option<u8> {
    let mask = u32::from(mask);
    (mask.leading_ones() + mask.trailing_zeros() >= 32).then_some(mask.leading_ones() as u8)
}

/// `number` within bounds, or the message.
fn bounded(text: &str, (least, most): (i64, i64), illegal: &str) -> Result<u32, Fail> {
    integer(text, least, most)
        .and_then(|number| u32::try_from(number).ok())
        .ok_or_else(|| Fail::usage(format!("illegal {illegal} specified")))
}

fn timeout(text: &str, least: i64) -> Result<u32, Fail> {
    integer(text, least, TIMEOUT_S_MAX)
        .and_then(|seconds| u32::try_from(seconds).ok())
        .ok_or_else(|| Fail::usage(format!("invalid timeout value `{text}' specified")))
}

/// The bits of a list of flags, which mean something to the scheduler named before.
fn scheduler_flags(scheduler: &str, text: &str) -> Result<u8, Fail> {
    let mut bits = 0;
    for flag in text.split(',').filter(|flag| !flag.is_empty()) {
        let (needs, bit) = match flag {
            "flag-1" => ("", 1),
            "flag-2" => ("", 2),
            "flag-3" => ("", 4),
            "sh-fallback" => ("sh", 1),
            "sh-port" => ("sh", 2),
            "mh-fallback" => ("mh", 1),
            "mh-port" => ("mh", 2),
            _ => return Err(Fail::usage(format!("invalid scheduler flag `{flag}'"))),
        };
        if !needs.is_empty() && needs != scheduler {
            return Err(Fail::usage(format!("incompatible scheduler flag `{flag}'")));
        }
        bits |= bit;
    }
    Ok(bits)
}

impl Line {
    fn new(command: Command) -> Self {
        Line {
            command,
            given: Given::default(),
            service: None,
            scheduler: String::new(),
            scheduler_flags: 0,
            persistence_s: None,
            netmask_bits: None,
            one_packet: false,
            engine: None,
            synproxy: None,
            pool: None,
            server: None,
            method: Method::default(),
            weight: 1,
            upper_threshold: 0,
            lower_threshold: 0,
            tunnel: Tunnel::default(),
            daemon: Daemon::default(),
            timeouts_s: [0; 3],
        }
    }

    /// Reads a command line without the program's name. No words at all are a listing.
    pub fn parse(args: &[String]) -> Result<Line, Fail> {
        if args.is_empty() {
            return Ok(Line::new(Command::List));
        }
        let mut words = Words::new(args);
        let Next::Option(first, value) = words.next() else { return Err(Fail::try_help()) };
        let mut line = Line::new(first.command().ok_or_else(Fail::try_help)?);
        match line.command {
            Command::Help | Command::Version => return Ok(line),
            Command::StartDaemon => line.daemon_state(value, "illegal start-daemon parameter")?,
            Command::StopDaemon => line.daemon_state(value, "illegal start_daemon")?,
            _ => {}
        }
        loop {
            match words.next() {
                Next::Option(opt, value) => {
                    let value = value.unwrap_or_default();
                    if !line.read(opt, &value)? {
                        return Err(Fail::usage(format!("invalid option `{}'", words.last())));
                    }
                }
                Next::Refused(word, why) => return Err(Fail::option(&word, why)),
                Next::End => break,
            }
        }
        let mut rest = words.rest();
        if line.command == Command::Set {
            rest = line.read_timeouts(rest)?;
        }
        if let Some(word) = rest.first() {
            return Err(Fail::usage(format!("unexpected argument {word}")));
        }
        line.command.check(line.given)?;
        line.judge()?;
        Ok(line)
    }

    fn daemon_state(&mut self, value: Option<String>, illegal: &str) -> Result<(), Fail> {
        self.daemon.state = value.unwrap_or_default();
        if !["master", "backup"].contains(&self.daemon.state.as_str()) {
            return Err(Fail::usage(format!("{illegal} specified")));
        }
        Ok(())
    }

    fn read_timeouts<'a>(&mut self, rest: &'a [&'a str]) -> Result<&'a [&'a str], Fail> {
        let Some((values, rest)) = rest.split_first_chunk::<3>() else {
            return Err(Fail::usage("--set option requires 3 timeout values"));
        };
        for (own, text) in self.timeouts_s.iter_mut().zip(values) {
            *own = timeout(text, 0)?;
        }
        Ok(rest)
    }

    /// Takes one option; `false` where it is a second command.
    fn read(&mut self, opt: Opt, value: &str) -> Result<bool, Fail> {
        match opt {
            Opt::TcpService | Opt::UdpService | Opt::SctpService | Opt::MarkService | Opt::Ipv6 => {
                self.read_service(opt, value)?;
            }
            Opt::Scheduler
            | Opt::Persistent
            | Opt::Netmask
            | Opt::OnePacket
            | Opt::Engine
            | Opt::SchedulerFlags
            | Opt::SynProxy
            | Opt::LocalAddress => self.read_service_option(opt, value)?,
            Opt::RealServer
            | Opt::Masquerading
            | Opt::Ipip
            | Opt::Gatewaying
            | Opt::FullNat
            | Opt::Weight
            | Opt::UpperThreshold
            | Opt::LowerThreshold => self.read_server(opt, value)?,
            Opt::TunType | Opt::TunPort | Opt::TunNocsum | Opt::TunCsum | Opt::TunRemcsum => {
                self.read_tunnel(opt, value)?;
            }
            Opt::McastInterface
            | Opt::SyncId
            | Opt::SyncMaxlen
            | Opt::McastGroup
            | Opt::McastPort
            | Opt::McastTtl => self.read_daemon(opt, value)?,
            Opt::Numeric => self.given.add(Kind::Numeric)?,
            Opt::Connection => self.given.add(Kind::Connection)?,
            Opt::Timeout => self.given.add(Kind::Timeout)?,
            Opt::Daemon => self.given.add(Kind::Daemon)?,
            Opt::Stats => self.given.add(Kind::Stats)?,
            Opt::Rate => self.given.add(Kind::Rate)?,
            Opt::Thresholds => self.given.add(Kind::Thresholds)?,
            Opt::PersistentConn => self.given.add(Kind::PersistentConn)?,
            Opt::NoSort => self.given.add(Kind::NoSort)?,
            Opt::Exact => self.given.add(Kind::Exact)?,
            Opt::TunInfo => self.given.add(Kind::TunInfo)?,
            Opt::Sort => {}
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn read_service(&mut self, opt: Opt, value: &str) -> Result<(), Fail> {
        let protocol = match opt {
            Opt::TcpService => Protocol::Tcp,
            Opt::UdpService => Protocol::Udp,
            Opt::SctpService => Protocol::Sctp,
            Opt::Ipv6 => {
                let Some(ServiceName::Mark { is_ipv6, .. }) = &mut self.service else {
                    return Err(Fail::usage("-6 used before -f\n"));
                };
                *is_ipv6 = true;
                return Ok(());
            }
            _ => {
                self.given.add(Kind::Service)?;
                let number = integer(value, 1, i64::from(u32::MAX)).map(|number| number as u32);
                let number = number.ok_or_else(|| {
                    Fail::usage(format!("invalid fwmark value `{value}' specified"))
                })?;
                self.service = Some(ServiceName::Mark { number, is_ipv6: false });
                return Ok(());
            }
        };
        self.given.add(Kind::Service)?;
        let Some(place) = endpoint::parse(value, protocol.word()) else {
            return Err(Fail::usage("illegal virtual server address[:port] specified"));
        };
        let place = SocketAddr::new(place.address, place.port.unwrap_or(0));
        self.service = Some(ServiceName::Address(protocol, place));
        Ok(())
    }

    fn is_ipv4(&self) -> bool {
        self.service.is_none_or(ServiceName::is_ipv4)
    }

    fn read_service_option(&mut self, opt: Opt, value: &str) -> Result<(), Fail> {
        match opt {
            Opt::Scheduler => {
                self.given.add(Kind::Scheduler)?;
                self.scheduler = value.into();
            }
            Opt::Persistent => {
                self.given.add(Kind::Persistent)?;
                let seconds =
                    if value.is_empty() { PERSISTENCE_S_DEFAULT } else { timeout(value, 1)? };
                self.persistence_s = Some(seconds);
            }
            Opt::Netmask => {
                self.given.add(Kind::Netmask)?;
                self.netmask_bits = if self.is_ipv4() {
                    let illegal = "illegal virtual server persistent mask specified";
                    bits_of(endpoint::ipv4(value).ok_or_else(|| Fail::usage(illegal))?)
                } else {
                    Some(bounded(value, (1, 128), "ipv6 netmask")? as u8)
                };
            }
            Opt::OnePacket => {
                self.given.add(Kind::OnePacket)?;
                self.one_packet = true;
            }
            Opt::Engine => {
                self.given.add(Kind::Engine)?;
                self.engine = Some(value.into());
            }
            Opt::SynProxy => {
                self.given.add(Kind::SynProxy)?;
                self.synproxy = Some(match value {
                    "" | "on" | "enable" => true,
                    "off" | "disable" => false,
                    _ => return Err(Fail::usage("illegal synproxy specified")),
                });
            }
            Opt::LocalAddress => {
                self.given.add(Kind::LocalAddress)?;
                self.pool = Some(value.into());
            }
            _ => {
                self.given.add(Kind::SchedulerFlags)?;
                self.scheduler_flags = scheduler_flags(&self.scheduler, value)?;
            }
        }
        Ok(())
    }

    fn read_server(&mut self, opt: Opt, value: &str) -> Result<(), Fail> {
        const NUMBER: (i64, i64) = (0, i32::MAX as i64);
        let method = match opt {
            Opt::RealServer => {
                self.given.add(Kind::Server)?;
                let protocol = match self.service {
                    Some(ServiceName::Address(protocol, _)) => protocol,
                    _ => Protocol::Tcp,
                };
                let Some(place) = endpoint::parse(value, protocol.word()) else {
                    return Err(Fail::usage("illegal real server address[:port] specified"));
                };
                let port = place.port.or_else(|| self.service.map(ServiceName::port));
                self.server = Some(SocketAddr::new(place.address, port.unwrap_or(0)));
                return Ok(());
            }
            Opt::Weight => {
                self.given.add(Kind::Weight)?;
                self.weight = bounded(value, NUMBER, "weight")?;
                return Ok(());
            }
            Opt::UpperThreshold => {
                self.given.add(Kind::UpperThreshold)?;
                self.upper_threshold = bounded(value, NUMBER, "u_threshold")?;
                return Ok(());
            }
            Opt::LowerThreshold => {
                self.given.add(Kind::LowerThreshold)?;
                self.lower_threshold = bounded(value, NUMBER, "l_threshold")?;
                return Ok(());
            }
            Opt::Masquerading => Method::Masquerade,
            Opt::Ipip => Method::Tunnel,
            Opt::FullNat => Method::FullNat,
            _ => Method::Route,
        };
        self.given.add(Kind::Forward)?;
        self.method = method;
        Ok(())
    }

    fn read_tunnel(&mut self, opt: Opt, value: &str) -> Result<(), Fail> {
        match opt {
            Opt::TunType => {
                self.given.add(Kind::TunType)?;
                if !["ipip", "gre", "gue"].contains(&value) {
                    return Err(Fail::usage("illegal tunnel type specified"));
                }
                self.tunnel.kind = Some(value.into());
            }
            Opt::TunPort => {
                self.given.add(Kind::TunPort)?;
                self.tunnel.port = Some(bounded(value, (1, 65_535), "tunnel port")? as u16);
            }
            Opt::TunCsum => {
                self.given.add(Kind::TunCsum)?;
                self.tunnel.checksum = Some("csum");
            }
            Opt::TunRemcsum => {
                self.given.add(Kind::TunRemcsum)?;
                self.tunnel.checksum = Some("remcsum");
            }
            _ => self.given.add(Kind::TunNocsum)?,
        }
        Ok(())
    }

    /// Values are judged, but for the interface not kept: there is no daemon to get them.
    fn read_daemon(&mut self, opt: Opt, value: &str) -> Result<(), Fail> {
        match opt {
            Opt::McastInterface => {
                self.given.add(Kind::McastInterface)?;
                self.daemon.interface = value.into();
            }
            Opt::SyncId => {
                self.given.add(Kind::SyncId)?;
                bounded(value, (0, 255), "syncid")?;
            }
            Opt::SyncMaxlen => {
                self.given.add(Kind::SyncMaxlen)?;
                bounded(value, (1, 65_535 - 20 - 8), "sync-maxlen")?;
            }
            Opt::McastGroup => {
                self.given.add(Kind::McastGroup)?;
                let v6 = value.contains(':');
                if !value.parse::<IpAddr>().is_ok_and(|group| group.is_multicast()) {
                    let family = if v6 { "IPv6" } else { "IPv4" };
                    return Err(Fail::usage(format!("invalid {family} mcast-group `{value}'")));
                }
            }
            Opt::McastPort => {
                self.given.add(Kind::McastPort)?;
                bounded(value, (1, 65_535), "mcast-port")?;
            }
            _ => {
                self.given.add(Kind::McastTtl)?;
                bounded(value, (1, 255), "mcast-ttl")?;
            }
        }
        Ok(())
    }

    /// What options mean together.
    fn judge(&mut self) -> Result<(), Fail> {
        match self.command {
            Command::AddService | Command::EditService => self.judge_service(),
            Command::AddServer | Command::EditServer => self.judge_server(),
            Command::List => self.judge_list(),
            _ => Ok(()),
        }
    }

    fn judge_service(&mut self) -> Result<(), Fail> {
        if let Some(ServiceName::Address(protocol, place)) = self.service {
            if place.port() == 0 && self.persistence_s.is_none() {
                return Err(Fail::usage("Zero port specified for non-persistent service"));
            }
            if self.one_packet && protocol != Protocol::Udp {
                let message = "One-Packet Scheduling is only for UDP virtual services";
                return Err(Fail::usage(message));
            }
        }
        if self.scheduler.is_empty() {
            self.scheduler = "wlc".into();
        }
        Ok(())
    }

    fn judge_server(&mut self) -> Result<(), Fail> {
        let (Some(service), Some(server)) = (self.service, &mut self.server) else {
            return Ok(());
        };
        let keeps_port = matches!(self.method, Method::Route | Method::Tunnel);
        if keeps_port && let ServiceName::Address(_, place) = service {
            server.set_port(place.port());
        }
        let crosses = matches!(self.method, Method::Tunnel | Method::FullNat);
        if server.is_ipv4() != service.is_ipv4() && !crosses {
            let message = "Different address family is allowed only for tunneling servers";
            return Err(Fail::usage(message));
        }
        let options =
            [Kind::TunType, Kind::TunPort, Kind::TunNocsum, Kind::TunCsum, Kind::TunRemcsum];
        if self.method == Method::Tunnel {
            return check_tunnel(self.tunnel.kind.as_deref().unwrap_or("ipip"), self.given);
        }
        if options.iter().any(|kind| self.given.has(*kind)) {
            return Err(Fail::usage("Tunnel options conflict with forward method"));
        }
        Ok(())
    }

    fn judge_list(&self) -> Result<(), Fail> {
        let any = |kinds: &[Kind]| kinds.iter().any(|kind| self.given.has(*kind));
        let others = [Kind::Connection, Kind::Timeout, Kind::Daemon];
        let columns = [Kind::Stats, Kind::Rate, Kind::Thresholds];
        if any(&others) && any(&columns)
            || any(&others[1..]) && self.given.has(Kind::PersistentConn)
        {
            return Err(Fail::usage("options conflicts in the list command"));
        }
        Ok(())
    }
}
