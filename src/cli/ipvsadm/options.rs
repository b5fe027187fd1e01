//! The commands and options of ipvsadm 1.31, gyre's own among them, and which go together.

use super::fail::Fail;

/// What an option is followed by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Argument {
    /// Nothing.
    None,
    /// A value.
    Required,
    /// A value, unless another option follows.
    Optional,
}

/// One row of the table.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    /// Behind `--`.
    pub long: &'static str,
    /// Behind `-`.
    pub short: Option<char>,
    /// What follows.
    pub argument: Argument,
    /// What it is.
    pub opt: Opt,
}

macro_rules! options {
    ($($opt:ident $long:literal $short:expr, $argument:ident;)*) => {
        /// An option or a command.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[allow(missing_docs, reason = "named as on the command line")]
        pub enum Opt { $($opt),* }

        /// Every option and command.
        pub const OPTIONS: &[Row] = &[$(
            Row { long: $long, short: $short, argument: Argument::$argument, opt: Opt::$opt }
        ),*];
    };
}

options! {
    AddService "add-service" Some('A'), None;
    EditService "edit-service" Some('E'), None;
    DeleteService "delete-service" Some('D'), None;
    Clear "clear" Some('C'), None;
    List "list" Some('L'), None;
    // The same by another letter.
    ListToo "list" Some('l'), None;
    Zero "zero" Some('Z'), None;
    AddServer "add-server" Some('a'), None;
    EditServer "edit-server" Some('e'), None;
    DeleteServer "delete-server" Some('d'), None;
    Set "set" None, None;
    Restore "restore" Some('R'), None;
    Save "save" Some('S'), None;
    StartDaemon "start-daemon" None, Required;
    StopDaemon "stop-daemon" None, Required;
    Help "help" Some('h'), None;
    Version "version" Some('v'), None;
    TcpService "tcp-service" Some('t'), Required;
    UdpService "udp-service" Some('u'), Required;
    SctpService "sctp-service" None, Required;
    MarkService "fwmark-service" Some('f'), Required;
    Scheduler "scheduler" Some('s'), Required;
    Persistent "persistent" Some('p'), Optional;
    Netmask "netmask" Some('M'), Required;
    RealServer "real-server" Some('r'), Required;
    Masquerading "masquerading" Some('m'), None;
    Ipip "ipip" Some('i'), None;
    Gatewaying "gatewaying" Some('g'), None;
    FullNat "fullnat" None, None;
    Weight "weight" Some('w'), Required;
    UpperThreshold "u-threshold" Some('x'), Required;
    LowerThreshold "l-threshold" Some('y'), Required;
    Numeric "numeric" Some('n'), None;
    Connection "connection" Some('c'), None;
    McastInterface "mcast-interface" None, Required;
    Timeout "timeout" None, None;
    Daemon "daemon" None, None;
    Stats "stats" None, None;
    Rate "rate" None, None;
    Thresholds "thresholds" None, None;
    PersistentConn "persistent-conn" None, None;
    NoSort "nosort" None, None;
    Sort "sort" None, None;
    SyncId "syncid" None, Required;
    Exact "exact" None, None;
    Ipv6 "ipv6" Some('6'), None;
    OnePacket "ops" Some('o'), None;
    Engine "pe" None, Required;
    SchedulerFlags "sched-flags" Some('b'), Required;
    McastGroup "mcast-group" None, Required;
    McastPort "mcast-port" None, Required;
    McastTtl "mcast-ttl" None, Required;
    SyncMaxlen "sync-maxlen" None, Required;
    TunInfo "tun-info" None, None;
    TunType "tun-type" None, Required;
    TunPort "tun-port" None, Required;
    TunNocsum "tun-nocsum" None, None;
    TunCsum "tun-csum" None, None;
    TunRemcsum "tun-remcsum" None, None;
    SynProxy "synproxy" None, Optional;
    LocalAddress "local-address" None, Required;
}

macro_rules! kinds {
    ($($kind:ident = $name:literal;)*) => {
        /// What ipvsadm counts as one option: two ways to name the service are one.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[allow(missing_docs, reason = "named as in messages")]
        pub enum Kind { $($kind),* }

        impl Kind {
            /// Every kind, in the order in which they are looked at.
            pub const ALL: &'static [Kind] = &[$(Kind::$kind),*];

            /// The name in messages.
            pub const fn name(self) -> &'static str {
                match self { $(Kind::$kind => $name),* }
            }
        }
    };
}

kinds! {
    Numeric = "numeric";
    Connection = "connection";
    Service = "service-address";
    Scheduler = "scheduler";
    Persistent = "persistent";
    Netmask = "netmask";
    Server = "real-server";
    Forward = "forwarding-method";
    Weight = "weight";
    UpperThreshold = "u-threshold";
    LowerThreshold = "l-threshold";
    McastInterface = "mcast-interface";
    Timeout = "timeout";
    Daemon = "daemon";
    Stats = "stats";
    Rate = "rate";
    Thresholds = "thresholds";
    PersistentConn = "persistent-conn";
    NoSort = "nosort";
    SyncId = "syncid";
    Exact = "exact";
    OnePacket = "ops";
    Engine = "pe";
    SchedulerFlags = "sched-flags";
    McastGroup = "mcast-group";
    McastPort = "mcast-port";
    McastTtl = "mcast-ttl";
    SyncMaxlen = "sync-maxlen";
    TunInfo = "tun-info";
    TunType = "tun-type";
    TunPort = "tun-port";
    TunNocsum = "tun-nocsum";
    TunCsum = "tun-csum";
    TunRemcsum = "tun-remcsum";
    SynProxy = "synproxy";
    LocalAddress = "local-address";
}

/// The kinds that were given.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Given(u64);

impl Given {
    /// Adds one; twice is an error.
    pub fn add(&mut self, kind: Kind) -> Result<(), Fail> {
        if self.has(kind) {
            return Err(Fail::usage(format!("multiple '{}' options specified", kind.name())));
        }
        self.0 |= 1 << kind as u32;
        Ok(())
    }

    /// Whether it was given.
    pub fn has(self, kind: Kind) -> bool {
        self.0 & (1 << kind as u32) != 0
    }
}

/// What ipvsadm is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "named as on the command line")]
pub enum Command {
    AddService,
    EditService,
    DeleteService,
    Clear,
    List,
    Zero,
    AddServer,
    EditServer,
    DeleteServer,
    Set,
    Restore,
    Save,
    StartDaemon,
    StopDaemon,
    Help,
    Version,
}

impl Opt {
    /// The command that it is.
    pub fn command(self) -> Option<Command> {
        Some(match self {
            Opt::AddService => Command::AddService,
            Opt::EditService => Command::EditService,
            Opt::DeleteService => Command::DeleteService,
            Opt::Clear => Command::Clear,
            Opt::List | Opt::ListToo => Command::List,
            Opt::Zero => Command::Zero,
            Opt::AddServer => Command::AddServer,
            Opt::EditServer => Command::EditServer,
            Opt::DeleteServer => Command::DeleteServer,
            Opt::Set => Command::Set,
            Opt::Restore => Command::Restore,
            Opt::Save => Command::Save,
            Opt::StartDaemon => Command::StartDaemon,
            Opt::StopDaemon => Command::StopDaemon,
            Opt::Help => Command::Help,
            Opt::Version => Command::Version,
            _ => return None,
        })
    }
}

/// What an option is to a command.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Use {
    Needed,
    Allowed,
    /// One of these at most.
    Alone,
    Illegal,
}

impl Command {
    /// The name in messages.
    fn name(self) -> &'static str {
        match self {
            Command::AddService => "add-service",
            Command::EditService => "edit-service",
            Command::DeleteService => "delete-service",
            Command::Clear => "flush",
            Command::List => "list",
            Command::Zero => "zero",
            Command::AddServer => "add-server",
            Command::EditServer => "edit-server",
            Command::DeleteServer => "delete-server",
            Command::Set => "set",
            Command::Restore => "restore",
            Command::Save => "save",
            Command::StartDaemon => "start-daemon",
            Command::StopDaemon => "stop-daemon",
            Command::Help => "help",
            Command::Version => "version",
        }
    }

    fn usage_of(self, kind: Kind) -> Use {
        use Kind::*;
        match (self, kind) {
            (Command::AddService | Command::EditService, Service) => Use::Needed,
            (
                Command::AddService | Command::EditService,
                Scheduler | Persistent | Netmask | OnePacket | Engine | SchedulerFlags | SynProxy
                | LocalAddress,
            ) => Use::Allowed,
            (Command::DeleteService, Service) => Use::Needed,
            (
                Command::AddServer | Command::EditServer | Command::DeleteServer,
                Service | Server,
            ) => Use::Needed,
            (
                Command::AddServer | Command::EditServer,
                Forward | Weight | UpperThreshold | LowerThreshold | TunType | TunPort | TunNocsum
                | TunCsum | TunRemcsum,
            ) => Use::Allowed,
            (Command::List, Connection | Service | Timeout | Daemon) => Use::Alone,
            (
                Command::List,
                Numeric | Stats | Rate | Thresholds | PersistentConn | NoSort | SyncId | Exact
                | TunInfo,
            ) => Use::Allowed,
            (Command::Zero, Service) | (Command::Save, Numeric) => Use::Allowed,
            (
                Command::StartDaemon,
                McastInterface | SyncId | McastGroup | McastPort | McastTtl | SyncMaxlen,
            ) => Use::Allowed,
            (Command::StopDaemon, SyncId) => Use::Allowed,
            _ => Use::Illegal,
        }
    }

    /// Whether the options that were given suit the command.
    pub fn check(self, given: Given) -> Result<(), Fail> {
        let mut alone: Option<Kind> = None;
        for kind in Kind::ALL.iter().copied() {
            let (name, command) = (kind.name(), self.name());
            match (self.usage_of(kind), given.has(kind)) {
                (Use::Needed, false) => {
                    return Err(Fail::usage(format!(
                        "You need to supply the '{name}' option for the '{command}' command"
                    )));
                }
                (Use::Illegal, true) => {
                    return Err(Fail::usage(format!(
                        "Illegal '{name}' option with the '{command}' command"
                    )));
                }
                (Use::Alone, true) => {
                    if let Some(other) = alone.replace(kind) {
                        let other = other.name();
                        return Err(Fail::usage(format!(
                            "The option '{name}' conflicts with the '{other}' option in the \
                             '{command}' command"
                        )));
                    }
                }
                _ => {}
            }
        }
        Ok(())
    }
}

/// Whether tunnel options suit the tunnel's type.
pub fn check_tunnel(kind: &str, given: Given) -> Result<(), Fail> {
    let sums = [Kind::TunNocsum, Kind::TunCsum, Kind::TunRemcsum];
    let illegal = |option: Kind| match kind {
        "gue" => false,
        "gre" => matches!(option, Kind::TunPort | Kind::TunRemcsum),
        _ => true,
    };
    if kind == "gue" && !given.has(Kind::TunPort) {
        let message = "You need to supply the 'tun-port' option for the 'gue' tunnel type";
        return Err(Fail::usage(message));
    }
    let mut alone: Option<Kind> = None;
    for option in [Kind::TunPort].into_iter().chain(sums).filter(|option| given.has(*option)) {
        let name = option.name();
        if illegal(option) {
            let message = format!("Illegal '{name}' option with the '{kind}' tunnel type");
            return Err(Fail::usage(message));
        }
        if sums.contains(&option)
            && let Some(other) = alone.replace(option)
        {
            let other = other.name();
            return Err(Fail::usage(format!(
                "The option '{name}' conflicts with the '{other}' option in the '{kind}' tunnel \
                 type"
            )));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// popt takes whole names only, so a new option is mistaken for an old one only if it is one.
    #[test]
    fn every_name_stands_for_one_option() {
        let mut longs: Vec<&str> = OPTIONS.iter().map(|row| row.long).collect();
        longs.sort_unstable();
        let doubled: Vec<&str> =
            longs.windows(2).filter(|two| two[0] == two[1]).map(|two| two[0]).collect();
        assert_eq!(doubled, ["list"]);
        let mut shorts: Vec<char> = OPTIONS.iter().filter_map(|row| row.short).collect();
        let count = shorts.len();
        shorts.sort_unstable();
        shorts.dedup();
        assert_eq!(shorts.len(), count);
        let ours = [Opt::FullNat, Opt::SynProxy, Opt::LocalAddress];
        assert!(OPTIONS.iter().all(|row| !ours.contains(&row.opt) || row.short.is_none()));
    }
}
