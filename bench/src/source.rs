//! A cheap source of frames inside the worker's loop: a fixed window of mbufs, each restored from
//! a template and stamped with the next tuple of a schedule drawn beforehand. What the worker sends
//! goes back into the window.

use std::cell::RefCell;
use std::ops::Range;
use std::rc::Rc;

use gyre::dpdk::{Emit, Mbuf, MbufPool, MbufVec, Receive, ticks};

/// Mbufs in the window, as many as a port's ring has: they stay in the second-level cache.
pub const WINDOW: usize = 512;
/// Where a frame starts in its mbuf.
const HEADROOM: usize = 128;
/// Bytes of a frame that goes out which are written down, while somebody wants that.
pub const RECORD_BYTES: usize = 40;
/// IP header and the start of what it carries.
pub type Record = [u8; RECORD_BYTES];

/// In what the frames of a schedule differ from their forms.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// IPv4, one form: header checksum, addresses, ports, and the transport's checksum.
    V4,
    /// IPv6, one form: addresses, ports, and the transport's checksum.
    V6,
    /// IPv4, several forms: from the total length to a TCP segment's checksum.
    Wide,
}

impl Layout {
    fn range(self) -> Range<usize> {
        match self {
            Layout::V4 => 24..38,
            Layout::V6 => 22..58,
            Layout::Wide => 16..52,
        }
    }

    /// Bytes of a stamp: the range, then two bytes of checksum or the form's number, and filling.
    const fn stride(self) -> usize {
        match self {
            Layout::V4 => 16,
            Layout::V6 => 38,
            Layout::Wide => 40,
        }
    }
}

/// A frame to copy.
struct Form {
    bytes: Vec<u8>,
    /// What a worker may have changed, or another form may have: the rest is zero in every mbuf.
    restored: usize,
}

impl Form {
    /// A form; its bytes behind the 80th that are not zero end no later than `restored`.
    fn new(bytes: &[u8]) -> Self {
        let used = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
        Form { bytes: bytes.to_vec(), restored: used.max(60).min(bytes.len()) }
    }
}

/// Every frame of a case: its form, and what differs from frame to frame.
pub struct Schedule {
    forms: Vec<Form>,
    layout: Layout,
    /// Where the transport's checksum lies (`V4` and `V6`).
    checksum_at: usize,
    stamps: Vec<u8>,
}

impl Schedule {
    /// A schedule without frames that follow `form`, which says family and protocol.
    pub fn new(form: &[u8]) -> Self {
        let is_ipv4 = form[12..14] == [0x08, 0x00];
        let (l4, protocol) = if is_ipv4 { (34, form[23]) } else { (54, form[20]) };
        let checksum_at = l4 + if protocol == 17 { 6 } else { 16 };
        let layout = if is_ipv4 { Layout::V4 } else { Layout::V6 };
        Schedule { forms: vec![Form::new(form)], layout, checksum_at, stamps: Vec::new() }
    }

    /// One whose IPv4 frames follow one of several forms.
    pub fn wide(forms: &[Vec<u8>]) -> Self {
        let forms = forms.iter().map(|form| Form::new(form)).collect();
        Schedule { forms, layout: Layout::Wide, checksum_at: 0, stamps: Vec::new() }
    }

    /// Appends a frame, which differs from its form in what the layout says alone.
    pub fn push(&mut self, form: usize, frame: &[u8]) {
        self.stamps.extend_from_slice(&frame[self.layout.range()]);
        if self.layout == Layout::Wide {
            self.stamps.extend_from_slice(&(form as u16).to_ne_bytes());
            self.stamps.extend_from_slice(&[0; 2]);
        } else {
            self.stamps.extend_from_slice(&frame[self.checksum_at..self.checksum_at + 2]);
        }
    }

    /// Frames in it.
    pub fn len(&self) -> usize {
        self.stamps.len() / self.layout.stride()
    }

    /// The same frames in the order of `picks`.
    pub fn arranged(&self, picks: impl Iterator<Item = u32>) -> Schedule {
        let stride = self.layout.stride();
        let mut stamps = Vec::with_capacity(self.stamps.len());
        for pick in picks {
            let at = pick as usize * stride;
            stamps.extend_from_slice(&self.stamps[at..at + stride]);
        }
        let forms = self.forms.iter().map(|form| Form::new(&form.bytes)).collect();
        Schedule { forms, layout: self.layout, checksum_at: self.checksum_at, stamps }
    }

    /// One frame whole.
    pub fn frame(&self, at: usize) -> Vec<u8> {
        let stamp = &self.stamps[at * self.layout.stride()..];
        let mut frame = self.forms[self.form_of(stamp)].bytes.clone();
        self.stamp(&mut frame, stamp);
        frame
    }

    /// Bytes of all frames together.
    pub fn bytes(&self) -> u64 {
        let stamps = self.stamps.chunks(self.layout.stride());
        stamps.map(|stamp| self.forms[self.form_of(stamp)].bytes.len() as u64).sum()
    }

    /// The longest frame.
    fn bytes_max(&self) -> usize {
        self.forms.iter().map(|form| form.bytes.len()).max().unwrap_or(0)
    }

    #[inline(always)]
    fn form_of(&self, stamp: &[u8]) -> usize {
        match self.layout {
            Layout::Wide => usize::from(u16::from_ne_bytes([stamp[36], stamp[37]])),
            _ => 0,
        }
    }

    #[inline(always)]
    fn stamp(&self, frame: &mut [u8], stamp: &[u8]) {
        match self.layout {
            Layout::V4 => {
                let stamp: &[u8; 16] = stamp.first_chunk().expect("whole stamps");
                frame[24..38].copy_from_slice(&stamp[..14]);
                frame[self.checksum_at..self.checksum_at + 2].copy_from_slice(&stamp[14..]);
            }
            Layout::V6 => {
                let stamp: &[u8; 38] = stamp.first_chunk().expect("whole stamps");
                frame[22..58].copy_from_slice(&stamp[..36]);
                frame[self.checksum_at..self.checksum_at + 2].copy_from_slice(&stamp[36..]);
            }
            Layout::Wide => {
                let stamp: &[u8; 36] = stamp.first_chunk().expect("whole stamps");
                frame[16..52].copy_from_slice(stamp);
            }
        }
    }
}

/// Ticks that the two ends took, while somebody wants to know.
#[derive(Clone, Copy, Debug, Default)]
pub struct EndTicks {
    /// Giving frames.
    pub receive: u64,
    /// Taking them.
    pub transmit: u64,
}

/// What source and sink share.
pub struct Window {
    pool: MbufPool,
    /// A ring: mbufs are used in turn, as a port uses its own.
    idle: Vec<Option<Mbuf>>,
    head: usize,
    tail: usize,
    schedule: Rc<Schedule>,
    /// Byte offset of the next stamp.
    next: usize,
    burst: usize,
    /// Frames still to be given.
    pub remaining: usize,
    /// Frames that came back.
    pub forwarded: u64,
    /// What came back, while somebody looks.
    pub kept: Option<Vec<Vec<u8>>>,
    /// From what byte on, and what of each frame that came back.
    pub records: Option<(usize, Vec<Record>)>,
    /// Set while the ends are timed.
    pub ticks: Option<EndTicks>,
}

impl Window {
    /// A full window that gives nothing yet.
    pub fn new(pool: &MbufPool, burst: usize, schedule: Rc<Schedule>) -> anyhow::Result<Self> {
        let idle: Vec<_> = (0..WINDOW).map(|_| Mbuf::alloc(pool)).collect();
        anyhow::ensure!(idle.iter().all(Option::is_some), "the mbuf pool is too small");
        let mut window = Window {
            pool: pool.clone(),
            idle,
            head: 0,
            tail: 0,
            schedule: Rc::clone(&schedule),
            next: 0,
            burst,
            remaining: 0,
            forwarded: 0,
            kept: None,
            records: None,
            ticks: None,
        };
        window.follow(&schedule);
        Ok(window)
    }

    /// Goes over to another schedule, from its start.
    pub fn follow(&mut self, schedule: &Rc<Schedule>) {
        (self.schedule, self.next) = (Rc::clone(schedule), 0);
        if schedule.forms.iter().any(|form| form.bytes.len() > form.restored) {
            let longest = schedule.bytes_max();
            for mbuf in self.idle.iter_mut().flatten() {
                mbuf.set_extent(HEADROOM, HEADROOM + longest);
                mbuf.frame().bytes_mut().fill(0);
            }
        }
    }

    #[inline(always)]
    fn give(&mut self, frames: &mut MbufVec) -> usize {
        let count = self.burst.min(self.remaining);
        self.remaining -= count;
        let schedule = &*self.schedule;
        let stride = schedule.layout.stride();
        for _ in 0..count {
            let place = &mut self.idle[self.head % WINDOW];
            self.head += 1;
            // What the worker dropped is free again in the pool.
            let Some(mut mbuf) = place.take().or_else(|| Mbuf::alloc(&self.pool)) else { break };
            let stamp = &schedule.stamps[self.next..self.next + stride];
            let form = &schedule.forms[schedule.form_of(stamp)];
            mbuf.set_extent(HEADROOM, HEADROOM + form.bytes.len());
            let mut frame = mbuf.frame();
            let bytes = frame.bytes_mut();
            bytes[..form.restored].copy_from_slice(&form.bytes[..form.restored]);
            schedule.stamp(bytes, stamp);
            self.next += stride;
            if self.next == schedule.stamps.len() {
                self.next = 0;
            }
            frames.push(mbuf);
        }
        frames.len()
    }

    #[inline(always)]
    fn take(&mut self, frames: &mut MbufVec) -> usize {
        let count = frames.len();
        if let Some(kept) = &mut self.kept {
            kept.extend(frames.iter().map(|mbuf| mbuf.bytes().to_vec()));
        }
        if let Some((from, records)) = &mut self.records {
            for mbuf in frames.iter() {
                let record: Option<&Record> =
                    mbuf.bytes().get(*from..).and_then(<[u8]>::first_chunk);
                records.push(record.copied().unwrap_or([0; RECORD_BYTES]));
            }
        }
        self.forwarded += count as u64;
        for mbuf in frames.drain(..) {
            self.idle[self.tail % WINDOW] = Some(mbuf);
            self.tail += 1;
        }
        count
    }
}

/// A window that the benchmark, the source and the sink hold, all on one thread.
pub type Shared = Rc<RefCell<Window>>;

/// The source as a worker sees it.
pub struct Source(pub Shared);

/// Where the worker's frames go.
pub struct Sink(pub Shared);

impl Receive for Source {
    #[inline]
    fn rx_burst(&mut self, frames: &mut MbufVec) -> usize {
        let mut window = self.0.borrow_mut();
        let start = window.ticks.map(|_| ticks());
        let count = window.give(frames);
        if let (Some(start), Some(spent)) = (start, &mut window.ticks) {
            spent.receive += ticks() - start;
        }
        count
    }
}

impl Emit for Sink {
    #[inline]
    fn tx_burst(&mut self, frames: &mut MbufVec) -> usize {
        let mut window = self.0.borrow_mut();
        let start = window.ticks.map(|_| ticks());
        let count = window.take(frames);
        if let (Some(start), Some(spent)) = (start, &mut window.ticks) {
            spent.transmit += ticks() - start;
        }
        count
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_come_out_of_a_schedule_as_they_went_in() {
        let mut narrow: Vec<u8> = (0..60).collect();
        narrow[12..14].copy_from_slice(&[0x08, 0x00]);
        narrow[23] = 17;
        let mut schedule = Schedule::new(&narrow);
        let mut other = narrow.clone();
        other[30..38].fill(0xee);
        other[40..42].fill(0xdd);
        schedule.push(0, &other);
        assert_eq!(schedule.frame(0), other);
        let long = [narrow.clone(), vec![0; 1000]].concat();
        let mut wide = Schedule::wide(&[narrow.clone(), long.clone()]);
        wide.push(1, &long);
        wide.push(0, &other);
        assert_eq!((wide.frame(0), wide.frame(1), wide.bytes()), (long, other, 1060 + 60));
        assert_eq!(wide.arranged([1, 1].into_iter()).frame(1), wide.frame(1));
    }
}
