//! A burst: what one rx poll brought, with a verdict for each frame at the end.

use std::net::IpAddr;

use arrayvec::ArrayVec;

use super::classify::Packet;
use super::flow_table::Probe;
use crate::counters::{DropReason, HandOffCause};
use crate::frame::Frame;
use crate::limits::BURST_FRAMES_MAX;
use crate::model::{NextHopId, NicId, ServerId, WorkerId};
use crate::wire::plain::Facts;

/// What a frame between two workers is carried for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Errand {
    /// Nothing: its flow is the receiver's.
    #[default]
    None,
    /// A persistent flow's first packet: this worker asks which server it gets.
    Ask(WorkerId),
    /// The answer; none when no server is usable.
    Answer(Option<ServerId>),
}

/// What the port said about a frame.
#[derive(Clone, Copy, Debug, Default)]
pub struct RxMeta {
    /// Where it came in.
    pub nic: NicId,
    /// 802.1Q tag control word that the port stripped.
    pub vlan: Option<u16>,
    /// Workers that had it before this one.
    pub hops: u8,
    /// What another worker sent it for; set anew when it is handed on.
    pub errand: Errand,
    /// A fragment that the packet path itself kept for a while (`resume_fragments`).
    pub resumed: bool,
}

impl RxMeta {
    /// Another worker received it and found that this one owns its flow: it goes no further, but
    /// for a fragment's one step from its datagram's owner to its flow's.
    pub fn was_handed_off(&self) -> bool {
        self.hops > 0
    }
}

/// What happens to a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Send it from this port as it now is.
    Transmit(NicId),
    /// Give it, untagged, to the kernel interface of this port.
    ToKernel(NicId),
    /// Give it, as it came, to this worker.
    HandOff(WorkerId, HandOffCause),
    /// Complete but for its MAC addresses: park it until this slot resolves, then call
    /// `finish_next_hop`.
    AwaitNeighbour(NextHopId),
    /// As `AwaitNeighbour`, for an address on this port's link that has no slot yet: park it until
    /// a resolved slot names this neighbour.
    AwaitAddress(NicId, IpAddr),
    /// Free it: the packet path has a copy of this fragment, which comes again from
    /// `WorkerState::resume_fragments`, or leaves with all of its datagram.
    Parked,
    /// Free it. Already counted.
    Drop(DropReason),
}

/// A frame of a burst.
#[derive(Debug)]
pub struct Arrival<'f> {
    /// The bytes.
    pub frame: Frame<'f>,
    /// What the port said.
    pub rx: RxMeta,
    /// Set once decided.
    pub verdict: Option<Verdict>,
}

/// A frame on its way through the stages of the general path.
#[derive(Debug)]
pub(super) struct Slot<'f> {
    /// The bytes.
    pub frame: Frame<'f>,
    /// What the port said.
    pub rx: RxMeta,
    /// What classification found.
    pub packet: Packet,
    /// What the look-up's first pass found.
    pub probe: Probe,
    /// Set while the frame is plain, and as it came.
    pub plain: Option<Facts>,
}

/// Frames of one rx poll, in order.
#[derive(Debug, Default)]
pub struct Burst<'f> {
    /// The frames.
    pub slots: ArrayVec<Arrival<'f>, BURST_FRAMES_MAX>,
}

impl<'f> Slot<'f> {
    /// A frame of which nothing is known yet.
    pub fn new(frame: Frame<'f>, rx: RxMeta) -> Self {
        Slot { frame, rx, packet: Packet::UNSET, probe: Probe::default(), plain: None }
    }
}

impl<'f> Burst<'f> {
    /// An empty burst.
    pub fn new() -> Self {
        Burst::default()
    }

    /// Adds a frame; the burst is full after `BURST_FRAMES_MAX`, and then gives it back.
    #[inline(always)]
    pub fn push(&mut self, frame: Frame<'f>, rx: RxMeta) -> Result<(), Frame<'f>> {
        if self.slots.is_full() {
            return Err(frame);
        }
        self.slots.push(Arrival { frame, rx, verdict: None });
        Ok(())
    }

    /// The port that all frames leave by; none where they part.
    #[inline(always)]
    pub fn leave_together(&self) -> Option<NicId> {
        let Some(Verdict::Transmit(nic)) = self.slots.first()?.verdict else { return None };
        let leaves =
            |slot: &Arrival| matches!(slot.verdict, Some(Verdict::Transmit(other)) if other == nic);
        self.slots.iter().all(leaves).then_some(nic)
    }

    /// The verdict of each frame, and what it is handed on for.
    pub fn outcomes(&self) -> impl Iterator<Item = (Verdict, Errand)> + '_ {
        self.verdicts().zip(self.slots.iter().map(|slot| slot.rx.errand))
    }

    /// The verdict of each frame. After `process_burst` none is missing.
    pub fn verdicts(&self) -> impl Iterator<Item = Verdict> + '_ {
        self.slots.iter().map(|slot| slot.verdict.unwrap_or(Verdict::Drop(DropReason::Internal)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leaves(verdicts: &[Verdict]) -> Option<NicId> {
        let mut burst = Burst::new();
        for verdict in verdicts {
            burst.push(Frame::default(), RxMeta::default()).unwrap();
            burst.slots.last_mut().unwrap().verdict = Some(*verdict);
        }
        burst.leave_together()
    }

    #[test]
    fn frames_leave_together_only_by_one_port() {
        let (here, there) = (Verdict::Transmit(NicId(1)), Verdict::Transmit(NicId(2)));
        assert_eq!(leaves(&[here, here]), Some(NicId(1)));
        assert_eq!(leaves(&[here, there]), None);
        assert_eq!(leaves(&[here, Verdict::ToKernel(NicId(1))]), None);
        assert_eq!(leaves(&[Verdict::Drop(DropReason::Internal), here]), None);
        assert_eq!(leaves(&[]), None);
    }
}
