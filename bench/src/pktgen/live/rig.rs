//! Ports and cores made ready: EAL, mbufs, links up, the next hop's MAC address known.

use std::net::IpAddr;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context;
use gyre::dpdk::devargs::Device;
use gyre::dpdk::{
    Eal, EalConfig, Hugepages, Mbuf, MbufPool, MbufVec, Nic, NicConfig, QueuePair, RxQueue,
    TscClock, TxQueue,
};
use gyre::wire::ethernet::MacAddr;

use crate::args::{Idle, PortArgs};
use crate::frame::FCS_BYTES;
use crate::neighbour::{self, Station};
use crate::plan::Usage;
use crate::report::PortSetup;
use crate::stop::Stop;

/// mbufs that a core may hold in its cache.
const CACHE_FRAMES: u32 = 256;
/// What EAL and drivers take beside the mbufs, in MiB.
const MEMORY_BESIDE_MIB: u32 = 64;
const MTU_DEFAULT: u16 = 1500;
const ASK_EVERY: Duration = Duration::from_millis(500);

/// Ports on cores.
pub struct Rig {
    /// DPDK.
    pub eal: Eal,
    /// Where mbufs come from.
    pub pool: MbufPool,
    /// The clock of stamps.
    pub clock: TscClock,
    /// The core that sends, and the one that receives.
    pub cores: (usize, usize),
    /// What idle cores do.
    pub idle: Idle,
    /// The port that sends.
    pub tx_nic: Nic,
    /// The one that receives, where it is another.
    pub rx_nic: Option<Nic>,
    line_mbps: Option<f64>,
    ends: Option<Ends>,
}

/// Queues in use by a trial.
pub struct Ends {
    /// Sends.
    pub tx: TxQueue,
    /// Receives.
    pub rx: RxQueues,
    /// Sends answers to questions on the port that receives, where that is another.
    pub answers: Option<TxQueue>,
}

/// All queues of the port that receives.
pub struct RxQueues {
    queues: Vec<RxQueue>,
    /// The one to ask first.
    next: usize,
}

impl RxQueues {
    /// Takes what the next queue that has anything has; they get their turns.
    #[inline]
    pub fn rx_burst(&mut self, frames: &mut MbufVec) -> usize {
        let count = self.queues.len();
        for at in (self.next..count).chain(0..self.next) {
            let got = self.queues[at].rx_burst(frames);
            if got > 0 {
                self.next = (at + 1) % count;
                return got;
            }
        }
        0
    }
}

/// How a port is made ready.
pub struct PortWish<'a> {
    /// PCI address or devargs.
    pub device: &'a str,
    /// In bytes.
    pub mtu: Option<u16>,
    /// Ordinary pages even if there are others.
    pub no_huge: bool,
    /// mbufs to reserve.
    pub mbufs: u32,
}

/// Cores this process may use, in order.
pub fn allowed_cores() -> Vec<usize> {
    core_affinity::get_core_ids().unwrap_or_default().into_iter().map(|core| core.id).collect()
}

/// The core asked for if it may be used, else `default`.
pub fn choose_core(asked: Option<usize>, default: usize, option: &str) -> Result<usize, Usage> {
    let allowed = allowed_cores();
    match asked {
        Some(core) if !allowed.contains(&core) => {
            Err(Usage(format!("{option} {core} is not among this process's cores {allowed:?}")))
        }
        asked => Ok(asked.unwrap_or(default)),
    }
}

/// EAL and a pool for ports on `devices`.
pub fn start_dpdk(wish: &PortWish<'_>, devices: &[&str]) -> anyhow::Result<(Eal, MbufPool)> {
    let mut room = 0;
    let mut pci_allowed = Vec::new();
    for device in devices {
        let mtu = wish.mtu.unwrap_or(MTU_DEFAULT);
        room = room.max(MbufPool::data_room_for_device(device, mtu).map_err(Usage::of)?);
        if let Device::Pci(address) = Device::parse(device).map_err(Usage::of)? {
            pci_allowed.push(address.to_string());
        }
    }
    let config = EalConfig {
        hugepages: if wish.no_huge { Hugepages::Never } else { Hugepages::Auto },
        memory_mib: MbufPool::memory_mib(wish.mbufs, room) + MEMORY_BESIDE_MIB,
        pci_allowed,
        file_prefix: format!("gyre-pktgen-{}", std::process::id()),
        ..EalConfig::default()
    };
    let eal = Eal::start(&config)?;
    let pool = MbufPool::create(&eal, "frames", wish.mbufs, CACHE_FRAMES, room)?;
    Ok((eal, pool))
}

/// Opens one port with one queue pair.
pub fn open_port(
    device: &str,
    mtu: Option<u16>,
    pool: &MbufPool,
) -> anyhow::Result<(Nic, QueuePair)> {
    let (nic, mut pairs) = open_queues(&NicConfig { mtu, ..NicConfig::new(device) }, pool)?;
    let pair = pairs.pop().with_context(|| format!("{device} has no queue"))?;
    Ok((nic, pair))
}

// Traffic comes back to the clients' many addresses, yet to one MAC: no need to listen to others'.
// Fast free is for one pool, which is what there is.
fn open_queues(config: &NicConfig, pool: &MbufPool) -> anyhow::Result<(Nic, Vec<QueuePair>)> {
    let (nic, pairs) = Nic::open(config, pool)?;
    let (device, wanted, offered) = (&config.device, config.queue_pairs, pairs.len());
    if offered != usize::from(wanted) {
        return Err(Usage(format!("{device} has {offered} queues, not {wanted}")).into());
    }
    Ok((nic, pairs))
}

/// Opens the port that receives; one queue sends what it has to answer.
fn open_receiver(config: &NicConfig, pool: &MbufPool) -> anyhow::Result<(Nic, RxQueues, TxQueue)> {
    let (nic, pairs) = open_queues(config, pool)?;
    let (mut queues, mut senders) = (Vec::new(), Vec::new());
    for pair in pairs {
        queues.push(pair.rx);
        senders.push(pair.tx);
    }
    let tx = senders.into_iter().next();
    let tx = tx.with_context(|| format!("{} has no queue", config.device))?;
    Ok((nic, RxQueues { queues, next: 0 }, tx))
}

/// Waits until a port has its link, as a memif has once its other end is there.
pub fn wait_for_link(nic: &Nic, wait: Duration, stop: &Stop) -> anyhow::Result<()> {
    let end = Instant::now() + wait;
    while !nic.link().is_up {
        anyhow::ensure!(!stop.is_set(), "stopped while waiting for the link of {}", nic.name());
        anyhow::ensure!(
            Instant::now() < end,
            "{} has had no link for {:.1} s; check the cable or start the other end, or raise \
             --wait",
            nic.name(),
            wait.as_secs_f64()
        );
        thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}

impl Rig {
    /// Makes everything ready that `args` ask for; frames will be `largest_bytes` at most.
    pub fn open(args: &PortArgs, largest_bytes: u16, stop: &Stop) -> anyhow::Result<Self> {
        let last = allowed_cores().last().copied().unwrap_or(0);
        let tx_core = choose_core(args.core, last, "--core")?;
        let rx_core = choose_core(args.rx_core, tx_core, "--rx-core")?;
        let (device, mtu) = (args.port.as_str(), args.mtu);
        let devices: Vec<&str> = [device].into_iter().chain(args.rx_port.as_deref()).collect();
        let wish = PortWish { device, mtu, no_huge: args.no_huge, mbufs: args.mbufs };
        let (eal, pool) = start_dpdk(&wish, &devices)?;
        let receiver =
            |device: &str| NicConfig { mtu, queue_pairs: args.rx_queues, ..NicConfig::new(device) };
        let (tx_nic, rx_nic, ends) = match &args.rx_port {
            None => {
                let (nic, rx, tx) = open_receiver(&receiver(device), &pool)?;
                (nic, None, Ends { tx, rx, answers: None })
            }
            Some(other) => {
                let (tx_nic, pair) = open_port(device, mtu, &pool)?;
                let (rx_nic, rx, answers) = open_receiver(&receiver(other), &pool)?;
                (tx_nic, Some(rx_nic), Ends { tx: pair.tx, rx, answers: Some(answers) })
            }
        };
        let fits = tx_nic.frame_bytes_max() + usize::from(FCS_BYTES);
        if usize::from(largest_bytes) > fits {
            return Err(Usage(format!(
                "frames of {largest_bytes} bytes do not fit {device}, whose MTU of {} carries \
                 {fits}; raise --mtu or lower --size",
                tx_nic.mtu()
            ))
            .into());
        }
        wait_for_link(&tx_nic, args.wait, stop)?;
        if let Some(nic) = &rx_nic {
            wait_for_link(nic, args.wait, stop)?;
        }
        let told = tx_nic.link().speed_mbps.map(f64::from);
        let line_mbps = args.line_rate.or(told);
        let (clock, cores) = (TscClock::new(&eal), (tx_core, rx_core));
        let idle = args.idle;
        let ends = Some(ends);
        Ok(Rig { eal, pool, clock, cores, idle, tx_nic, rx_nic, line_mbps, ends })
    }

    /// Speed of the sending port's line in Mbit/s, told by the user or the device.
    pub fn line_mbps(&self) -> Option<f64> {
        self.line_mbps
    }

    /// The sending port's MAC address.
    pub fn mac(&self) -> MacAddr {
        MacAddr(self.tx_nic.mac())
    }

    /// The MAC address of the port that receives.
    pub fn rx_mac(&self) -> MacAddr {
        self.rx_nic.as_ref().map_or(self.mac(), |nic| MacAddr(nic.mac()))
    }

    /// Takes the queues for a trial.
    pub fn take_ends(&mut self) -> anyhow::Result<Ends> {
        self.ends.take().context("the ports' queues are in use: an earlier trial did not end")
    }

    /// Gives them back.
    pub fn put_ends(&mut self, ends: Ends) {
        self.ends = Some(ends);
    }

    /// Frames that the receiving port dropped so far.
    pub fn receiver_drops(&self) -> u64 {
        let nic = self.rx_nic.as_ref().unwrap_or(&self.tx_nic);
        nic.stats().map_or(0, |stats| stats.rx_missed + stats.rx_no_mbuf)
    }

    /// Asks who has `target` until somebody says so.
    pub fn learn_mac(
        &mut self,
        own: IpAddr,
        target: IpAddr,
        wait: Duration,
        stop: &Stop,
    ) -> anyhow::Result<MacAddr> {
        let own = Station { mac: self.mac(), ip: own };
        let asked = neighbour::question(own, target)
            .ok_or_else(|| Usage(format!("{} cannot ask for {target}: two families", own.ip)))?;
        let mut ends = self.take_ends()?;
        let found = self.ask(&mut ends, (&asked, target), Instant::now() + wait, stop);
        self.put_ends(ends);
        found.with_context(|| {
            format!(
                "nobody answered for {target} on {} within {:.1} s; check that it is on this link \
                 and knows a way to {}, or give --dst-mac or --gateway",
                self.tx_nic.name(),
                wait.as_secs_f64(),
                own.ip
            )
        })
    }

    fn ask(
        &self,
        ends: &mut Ends,
        (asked, target): (&[u8], IpAddr),
        end: Instant,
        stop: &Stop,
    ) -> Option<MacAddr> {
        let mut frames = MbufVec::new();
        let mut ask_at = Instant::now();
        while Instant::now() < end && !stop.is_set() {
            if Instant::now() >= ask_at {
                send_bytes(&mut ends.tx, &self.pool, asked);
                ask_at += ASK_EVERY;
            }
            ends.rx.rx_burst(&mut frames);
            let found = frames.iter().find_map(|mbuf| neighbour::learnt(mbuf.bytes(), target));
            if found.is_some() {
                return found;
            }
            frames.clear();
            thread::sleep(Duration::from_millis(1));
        }
        None
    }

    /// The ports for a report.
    pub fn port_setups(&self) -> Vec<PortSetup> {
        let (tx_core, rx_core) = self.cores;
        let setup = |nic: &Nic, role, core| PortSetup {
            role,
            device: nic.device(),
            driver: nic.driver().to_owned(),
            mac: MacAddr(nic.mac()).to_string(),
            mtu: nic.mtu(),
            line_mbps: nic.link().speed_mbps.map(f64::from).or(self.line_mbps),
            core,
        };
        match &self.rx_nic {
            Some(rx) => vec![setup(&self.tx_nic, "sends", tx_core), setup(rx, "receives", rx_core)],
            None => vec![setup(&self.tx_nic, "sends and receives", tx_core)],
        }
    }
}

/// Sends one frame of these bytes if there is room; whether there was.
pub fn send_bytes(tx: &mut TxQueue, pool: &MbufPool, bytes: &[u8]) -> bool {
    let Ok(mbuf) = Mbuf::alloc_from(pool, bytes) else { return false };
    let mut frames = MbufVec::new();
    frames.push(mbuf);
    tx.tx_burst(&mut frames) == 1
}
