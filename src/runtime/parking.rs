//! Frames that wait until their next hop's neighbour is known.
//!
//! Bounded twice: in all, and per next hop, so that one dead server cannot take every place.
//! Generic over the frame, which makes the rules testable without DPDK.

use std::collections::VecDeque;
use std::net::IpAddr;

use crate::limits::{
    NEXT_HOPS_MAX, PENDING_ADDRESSES_MAX, PENDING_FRAMES_MAX, PENDING_MILLIS_MAX,
    PENDING_PER_HOP_MAX,
};
use crate::model::{NextHop, NextHopId, NicId};
use crate::time::{NANOS_PER_MILLI, Nanos};

/// What a frame waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Awaited {
    /// This slot to be resolved.
    Slot(NextHopId),
    /// A resolved slot for this neighbour of a port.
    Address(NicId, IpAddr),
}

/// A frame that waits.
struct Parked<F> {
    awaited: Awaited,
    /// Where the frame came in.
    nic: NicId,
    since: Nanos,
    frame: F,
}

/// The waiting room of one worker, in order of arrival.
pub struct Parking<F> {
    frames: VecDeque<Parked<F>>,
    /// Frames by the slot they wait for.
    at_slot: Box<[u16]>,
    /// Frames that wait for an address.
    at_addresses: usize,
}

impl<F> Default for Parking<F> {
    /// An empty room; takes all its memory now.
    fn default() -> Self {
        Parking {
            frames: VecDeque::with_capacity(PENDING_FRAMES_MAX),
            at_slot: vec![0; NEXT_HOPS_MAX].into(),
            at_addresses: 0,
        }
    }
}

impl<F> Parking<F> {
    /// Frames waiting.
    pub fn waiting(&self) -> usize {
        self.frames.len()
    }

    /// Lets a frame that came in on `nic` wait; gives it back when there is no room.
    pub fn park(&mut self, awaited: Awaited, nic: NicId, now: Nanos, frame: F) -> Result<(), F> {
        let has_room = match awaited {
            Awaited::Slot(id) => {
                self.at_slot.get(id.index()).is_some_and(|n| *n < PENDING_PER_HOP_MAX)
            }
            Awaited::Address(..) => self.at_addresses < PENDING_ADDRESSES_MAX,
        };
        if !has_room || self.frames.len() == PENDING_FRAMES_MAX {
            return Err(frame);
        }
        match awaited {
            Awaited::Slot(id) => self.at_slot[id.index()] += 1,
            Awaited::Address(..) => self.at_addresses += 1,
        }
        self.frames.push_back(Parked { awaited, nic, since: now, frame });
        Ok(())
    }

    /// Frames that `hop`, now in slot `id`, may let go.
    pub fn waiting_for(&self, id: NextHopId, hop: &NextHop) -> usize {
        let at_slot = self.at_slot.get(id.index()).copied().unwrap_or(0).into();
        if self.at_addresses == 0 {
            return at_slot;
        }
        let address = Awaited::Address(hop.nic, hop.neighbour);
        at_slot + self.frames.iter().filter(|parked| parked.awaited == address).count()
    }

    /// Takes the oldest frame that `hop`, now in slot `id`, lets go, with the port it came in on.
    pub fn take(&mut self, id: NextHopId, hop: &NextHop) -> Option<(NicId, F)> {
        let (slot, address) = (Awaited::Slot(id), Awaited::Address(hop.nic, hop.neighbour));
        let fits = |parked: &Parked<F>| parked.awaited == slot || parked.awaited == address;
        let parked = self.frames.remove(self.frames.iter().position(fits)?)?;
        self.left(parked.awaited);
        Some((parked.nic, parked.frame))
    }

    /// Takes the oldest frame if it has waited too long.
    pub fn take_overdue(&mut self, now: Nanos) -> Option<F> {
        let oldest = self.frames.front()?;
        if now.since(oldest.since) < PENDING_MILLIS_MAX * NANOS_PER_MILLI {
            return None;
        }
        let parked = self.frames.pop_front()?;
        self.left(parked.awaited);
        Some(parked.frame)
    }

    fn left(&mut self, awaited: Awaited) {
        match awaited {
            Awaited::Slot(id) => self.at_slot[id.index()] -= 1,
            Awaited::Address(..) => self.at_addresses -= 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::pair::MacPair;

    const NIC: NicId = NicId(0);
    const HOP: NextHopId = NextHopId(7);
    const NOBODY: IpAddr = IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED);

    fn slot(id: u16) -> Awaited {
        Awaited::Slot(NextHopId(id))
    }

    fn hop(neighbour: IpAddr) -> NextHop {
        let macs = MacPair::new([2; 6], [4; 6]);
        NextHop { nic: NIC, resolved: true, macs, mtu: 1500, neighbour }
    }

    #[test]
    fn frames_of_a_resolved_hop_leave_in_order_and_others_stay() {
        let mut parking = Parking::default();
        for (id, frame) in [(7, 'a'), (8, 'x'), (7, 'b')] {
            parking.park(slot(id), NIC, Nanos(0), frame).unwrap();
        }
        assert_eq!(parking.waiting_for(HOP, &hop(NOBODY)), 2);
        assert_eq!(parking.take(HOP, &hop(NOBODY)), Some((NIC, 'a')));
        assert_eq!(parking.take(HOP, &hop(NOBODY)), Some((NIC, 'b')));
        assert_eq!(parking.take(HOP, &hop(NOBODY)), None);
        assert_eq!(parking.waiting(), 1);
    }

    #[test]
    fn a_new_slot_lets_go_what_waits_for_its_address() {
        let mut parking = Parking::default();
        let address: IpAddr = "192.0.2.9".parse().unwrap();
        parking.park(Awaited::Address(NIC, address), NicId(1), Nanos(0), 'a').unwrap();
        parking.park(Awaited::Address(NicId(1), address), NicId(1), Nanos(0), 'b').unwrap();
        assert_eq!(parking.waiting_for(HOP, &hop(NOBODY)), 0);
        assert_eq!(parking.waiting_for(HOP, &hop(address)), 1);
        assert_eq!(parking.take(HOP, &hop(address)), Some((NicId(1), 'a')));
        assert_eq!(parking.take(HOP, &hop(address)), None);
    }

    #[test]
    fn one_dead_neighbour_leaves_room_for_others() {
        let mut parking = Parking::default();
        let taken = (0..1000).filter(|n| parking.park(slot(7), NIC, Nanos(0), *n).is_ok()).count();
        assert_eq!(taken, usize::from(PENDING_PER_HOP_MAX));
        let address = |n| Awaited::Address(NIC, std::net::Ipv4Addr::from_bits(n).into());
        let taken = (0..1000).filter(|n| parking.park(address(*n), NIC, Nanos(0), 0).is_ok());
        assert_eq!(taken.count(), PENDING_ADDRESSES_MAX);
        assert_eq!(parking.park(slot(8), NIC, Nanos(0), 1), Ok(()));
    }

    #[test]
    fn a_full_room_gives_frames_back() {
        let mut parking = Parking::default();
        for n in 0..PENDING_FRAMES_MAX {
            parking.park(slot((n % 100) as u16), NIC, Nanos(0), n).unwrap();
        }
        assert_eq!(parking.park(slot(200), NIC, Nanos(0), 5), Err(5));
        assert_eq!(parking.park(Awaited::Slot(NextHopId::NONE), NIC, Nanos(0), 6), Err(6));
    }

    #[test]
    fn a_frame_waits_no_longer_than_the_limit() {
        let mut parking = Parking::default();
        parking.park(slot(7), NIC, Nanos::from_millis(10), 'a').unwrap();
        parking.park(slot(7), NIC, Nanos::from_millis(20), 'b').unwrap();
        assert_eq!(parking.take_overdue(Nanos::from_millis(9 + PENDING_MILLIS_MAX)), None);
        assert_eq!(parking.take_overdue(Nanos::from_millis(10 + PENDING_MILLIS_MAX)), Some('a'));
        assert_eq!(parking.take_overdue(Nanos::from_millis(10 + PENDING_MILLIS_MAX)), None);
        assert_eq!(parking.take(HOP, &hop(NOBODY)), Some((NIC, 'b')));
        assert_eq!(parking.take(HOP, &hop(NOBODY)), None);
    }
}
