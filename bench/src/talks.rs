//! Connections from their first packet to their last, both sides played here: what came out of the
//! director is read, checked, and answered in the next wave.
//!
//! A wave has one packet of every connection under way: first packets of one cohort, second ones
//! of the cohort before, and so on, mixed. Nothing of this runs while the worker is timed.

use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr};

use anyhow::{Context, bail, ensure};

use crate::segment::{ACK, Bytes, End, FIN, SYN, Segment, Words};
use crate::source::Record;
use crate::traffic::Traffic;
use gyre::model::{ForwardMode, Protocol};

/// Connections of a cohort: the identification of IP packets tells them apart, 16 cohorts too.
const COHORT_MAX: usize = 1 << 12;
/// Cohorts under way at one time; number 0 is of nobody here.
const COHORTS: u16 = 16;

/// What is sent next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// The client's SYN.
    Syn,
    /// The server's answer.
    SynAck,
    /// The client's ACK.
    Ack,
    /// The client closes.
    Fin,
    /// The server closes too.
    ServerFin,
    /// The client's last ACK.
    LastAck,
    /// A client's datagram, which opens a flow.
    Datagram,
}

/// What a director's mode sees of a connection.
const HALF_SEEN: &[Step] = &[Step::Syn, Step::Ack, Step::Fin, Step::LastAck];
const SEEN: &[Step] =
    &[Step::Syn, Step::SynAck, Step::Ack, Step::Fin, Step::ServerFin, Step::LastAck];
/// The server is asked once the client has proven itself.
const PROXIED: &[Step] =
    &[Step::Syn, Step::Ack, Step::SynAck, Step::Fin, Step::ServerFin, Step::LastAck];
const DATAGRAM: &[Step] = &[Step::Datagram];

/// How connections are played.
#[derive(Clone, Copy, Debug)]
pub struct Play {
    /// Service and mode.
    pub traffic: Traffic,
    /// Whether the director answers SYNs itself.
    pub synproxy: bool,
    /// The first client's number; those below are others'.
    pub first: usize,
    /// Clients, whose tuples come again after as many connections.
    pub rotation: usize,
    /// Connections of a cohort.
    pub cohort: usize,
    /// Cohorts that a wave opens.
    pub cohorts: usize,
    /// Whether they are closed in the end, or stay.
    pub closes: bool,
}

impl Play {
    /// The packets of a connection that come to the director.
    pub fn steps(&self) -> &'static [Step] {
        let all = self.all_steps();
        let fin = all.iter().position(|step| *step == Step::Fin).filter(|_| !self.closes);
        &all[..fin.unwrap_or(all.len())]
    }

    fn all_steps(&self) -> &'static [Step] {
        match self.traffic.mode {
            _ if self.traffic.protocol == Protocol::Udp => DATAGRAM,
            ForwardMode::Nat | ForwardMode::FullNat if self.synproxy => PROXIED,
            ForwardMode::Nat | ForwardMode::FullNat => SEEN,
            _ => HALF_SEEN,
        }
    }
}

/// One connection.
#[derive(Clone, Copy, Debug)]
struct Talk {
    client: End,
    /// The client's first number, as it knows it and as the server does.
    client_seq: [u32; 2],
    /// The server's, as the client knows it and as it does.
    server_seq: [u32; 2],
    /// The server and whom it talks to, once known.
    server: End,
    peer: End,
    /// Packets that have come out for the last one sent.
    heard: u8,
}

/// Connections opened together.
struct Cohort {
    id: u16,
    /// Of the first one, within the rotation.
    number: usize,
    step: usize,
    talks: Vec<Talk>,
}

/// All connections under way.
pub struct Talks {
    play: Play,
    vip: End,
    next_number: usize,
    next_id: u16,
    /// How far clients' numbers have come since their first connections.
    ahead: u32,
    cohorts: VecDeque<Cohort>,
    /// Connections opened.
    pub opened: u64,
    /// Connections that came to their end.
    pub done: u64,
}

fn v4(address: IpAddr) -> Ipv4Addr {
    match address {
        IpAddr::V4(address) => address,
        IpAddr::V6(_) => Ipv4Addr::UNSPECIFIED,
    }
}

impl Talks {
    /// Nobody yet.
    pub fn new(play: Play) -> Self {
        let under_way = play.cohorts * play.steps().len();
        assert!(play.cohort <= COHORT_MAX && under_way < usize::from(COHORTS));
        let vip = (v4(play.traffic.vip()), 80);
        let (next_number, next_id) = (0, 1);
        let cohorts = VecDeque::new();
        Talks { play, vip, next_number, next_id, ahead: 0, cohorts, opened: 0, done: 0 }
    }

    fn client(&self, number: usize) -> End {
        let (address, port) = self.play.traffic.client(self.play.first + number);
        (v4(address), port)
    }

    /// Opens cohorts, and gives the next packet of every connection under way.
    pub fn wave(&mut self) -> Vec<Bytes> {
        (0..self.play.cohorts).for_each(|_| self.open());
        self.frames()
    }

    fn open(&mut self) {
        let (number, count) = (self.next_number, self.play.cohort);
        let talk = |at: usize| {
            let client = self.client(number + at);
            // A client's numbers go on where its last connection's ended, and further.
            let seq = ((number + at) as u32).wrapping_mul(0x9e37_79b1).wrapping_add(self.ahead);
            let unknown = (Ipv4Addr::UNSPECIFIED, 0);
            let (client_seq, server_seq) = ([seq; 2], [!seq; 2]);
            Talk { client, client_seq, server_seq, server: unknown, peer: unknown, heard: 0 }
        };
        let talks = (0..count).map(talk).collect();
        self.cohorts.push_back(Cohort { id: self.next_id, number, step: 0, talks });
        self.next_id = self.next_id % (COHORTS - 1) + 1;
        self.next_number += count;
        if self.next_number + count > self.play.rotation {
            self.next_number = 0;
            self.ahead = self.ahead.wrapping_add(1 << 20);
        }
        self.opened += count as u64;
    }

    /// The next packet of every connection under way, kinds mixed.
    pub fn frames(&self) -> Vec<Bytes> {
        let steps = self.play.steps();
        let mut frames = Vec::with_capacity(self.cohorts.len() * self.play.cohort);
        for at in 0..self.play.cohort {
            for cohort in &self.cohorts {
                let id = cohort.id << 12 | at as u16;
                frames.push(self.frame(&cohort.talks[at], steps[cohort.step], id));
            }
        }
        frames
    }

    fn frame(&self, talk: &Talk, step: Step, id: u16) -> Bytes {
        let [client_seq, server_sees] = talk.client_seq;
        let [client_sees, server_seq] = talk.server_seq;
        let say = |seq: u32, ack: u32, flags| Some(Words { seq, ack, flags });
        let next = |number: u32| number.wrapping_add(1);
        let tcp = match step {
            Step::Datagram => None,
            Step::Syn => say(client_seq, 0, SYN),
            Step::SynAck => say(server_seq, next(server_sees), SYN | ACK),
            Step::Ack => say(next(client_seq), next(client_sees), ACK),
            Step::Fin => say(next(client_seq), next(client_sees), FIN | ACK),
            Step::ServerFin => say(next(server_seq), server_sees.wrapping_add(2), FIN | ACK),
            Step::LastAck => say(client_seq.wrapping_add(2), client_sees.wrapping_add(2), ACK),
        };
        let (src, dst) = match step {
            Step::SynAck | Step::ServerFin => (talk.server, talk.peer),
            _ => (talk.client, self.vip),
        };
        let options: &[u8] = if step == Step::Syn { &[2, 4, 5, 180] } else { &[] };
        Segment { src, dst, id, ttl: 64, tcp }.frame(options)
    }

    /// Reads what came out for the last wave, other connections' packets among it: every packet
    /// has to be there, and right. Connections that have come to their end are forgotten.
    pub fn heard(&mut self, records: &[Record]) -> anyhow::Result<()> {
        for record in records.iter().filter(|record| record[6] & 0x3f == 0 && record[7] == 0) {
            if record[9] != 1 {
                let segment = Segment::read(record).context("a packet that came out")?;
                self.hear(&segment).with_context(|| format!("{segment:?}"))?;
            }
        }
        let steps = self.play.steps();
        for cohort in &mut self.cohorts {
            let step = steps[cohort.step];
            let wanted = if self.play.synproxy && step == Step::SynAck { 2 } else { 1 };
            let fewer = cohort.talks.iter().filter(|talk| talk.heard != wanted).count();
            ensure!(fewer == 0, "{fewer} of {} packets {step:?} not answered", cohort.talks.len());
            cohort.talks.iter_mut().for_each(|talk| talk.heard = 0);
            cohort.step += 1;
        }
        while self.cohorts.front().is_some_and(|oldest| oldest.step == steps.len()) {
            self.done += self.cohorts.pop_front().map_or(0, |cohort| cohort.talks.len() as u64);
        }
        Ok(())
    }

    /// The connection of a packet that came out, its cohort's step; none where it is others'.
    fn place(&self, segment: &Segment, to_server: bool) -> Option<(usize, usize)> {
        if to_server && self.play.traffic.mode == ForwardMode::FullNat {
            let id = segment.id >> 12;
            let cohort = self.cohorts.iter().position(|cohort| cohort.id == id)?;
            return Some((cohort, usize::from(segment.id) % COHORT_MAX));
        }
        let (address, port) = if to_server { segment.src } else { segment.dst };
        let [_, _, c, d] = address.octets();
        let high = usize::from(port.checked_sub(1024)?);
        let number =
            (high << 16 | usize::from(c) << 8 | usize::from(d)).checked_sub(self.play.first)?;
        self.cohorts.iter().enumerate().find_map(|(at, cohort)| {
            let place = number.checked_sub(cohort.number)?;
            (place < cohort.talks.len()).then_some((at, place))
        })
    }

    fn hear(&mut self, segment: &Segment) -> anyhow::Result<()> {
        let traffic = self.play.traffic;
        // Direct routing and tunnels leave the VIP in the packet.
        let is_whole = matches!(traffic.mode, ForwardMode::Nat | ForwardMode::FullNat);
        let to_server = if is_whole { segment.src != self.vip } else { segment.dst == self.vip };
        let Some((cohort, place)) = self.place(segment, to_server) else { return Ok(()) };
        let (synproxy, vip) = (self.play.synproxy, self.vip);
        let step = self.play.steps()[self.cohorts[cohort].step];
        let talk = &mut self.cohorts[cohort].talks[place];
        talk.heard += 1;
        if !to_server {
            ensure!(segment.dst == talk.client, "not to {:?}", talk.client);
        } else if is_whole {
            ensure!(traffic.is_server(segment.dst.0.into()) && segment.dst.1 == 80, "to whom?");
            let local = traffic.is_local(segment.src.0.into());
            let is_full = traffic.mode == ForwardMode::FullNat;
            ensure!(if is_full { local } else { segment.src == talk.client }, "from whom?");
        } else {
            ensure!((segment.src, segment.dst) == (talk.client, vip), "another tuple");
        }
        let Some(words) = segment.tcp else {
            ensure!(step == Step::Datagram, "a datagram");
            return Ok(());
        };
        talk.listen(segment, words, (step, to_server), synproxy)
    }
}

impl Talk {
    /// Takes note of what a side is told; it has to be what the other said.
    fn listen(
        &mut self,
        segment: &Segment,
        Words { seq, ack, flags }: Words,
        (step, to_server): (Step, bool),
        synproxy: bool,
    ) -> anyhow::Result<()> {
        let next = |number: u32| number.wrapping_add(1);
        let opens_server = if synproxy { Step::Ack } else { Step::Syn };
        match (step, to_server, flags) {
            (step, true, SYN) if step == opens_server => {
                (self.server, self.peer, self.client_seq[1]) = (segment.dst, segment.src, seq);
                self.server_seq[1] = seq.rotate_left(7);
                if !synproxy {
                    // Where the director does not see the answer, it changes nothing.
                    self.server_seq[0] = self.server_seq[1];
                }
            }
            (Step::Syn, false, flags) if synproxy && flags == SYN | ACK => {
                ensure!(ack == next(self.client_seq[0]), "acknowledges {ack}");
                self.server_seq[0] = seq;
            }
            (Step::SynAck, false, flags) if !synproxy && flags == SYN | ACK => {
                ensure!(ack == next(self.client_seq[0]), "acknowledges {ack}");
                self.server_seq[0] = seq;
            }
            // The window that SYNPROXY opens, and the ACK that the server waits for.
            (Step::SynAck, false, ACK) if synproxy => {
                let said = (next(self.server_seq[0]), next(self.client_seq[0]));
                ensure!((seq, ack) == said, "{said:?} was said");
            }
            (Step::SynAck | Step::Ack, true, ACK) => {
                let said = (next(self.client_seq[1]), next(self.server_seq[1]));
                ensure!((seq, ack) == said, "{said:?} was said");
            }
            (Step::Fin, true, flags) if flags == FIN | ACK => {
                ensure!(seq == next(self.client_seq[1]), "a FIN elsewhere");
            }
            (Step::ServerFin, false, flags) if flags == FIN | ACK => {
                let said = (next(self.server_seq[0]), self.client_seq[0].wrapping_add(2));
                ensure!((seq, ack) == said, "{said:?} was said");
            }
            (Step::LastAck, true, ACK) => {
                ensure!(seq == self.client_seq[1].wrapping_add(2), "a last ACK elsewhere");
            }
            _ => bail!("not what {step:?} should lead to"),
        }
        Ok(())
    }
}
