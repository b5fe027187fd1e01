//! Path MTUs learned from ICMP errors about tunnel packets: by the next hop towards the server,
//! for ten minutes each, as the kernel keeps them (`net.ipv4.route.mtu_expires`).
//!
//! Other modes need none: there the error goes to the packet's own sender, which lowers its size.

use crate::limits::{LEARNED_MTU_MILLIS, NEXT_HOPS_MAX};
use crate::model::NextHopId;
use crate::time::{NANOS_PER_MILLI, Nanos};

/// The least MTU that is believed of IPv4 (the kernel's `min_pmtu`) and of IPv6 (RFC 8200).
const MTU_MIN: [u16; 2] = [552, 1280];

#[derive(Clone, Copy, Debug)]
struct Learned {
    mtu: u16,
    until: Nanos,
}

/// What one worker has learned: a place for each next hop.
#[derive(Debug)]
pub(super) struct LearnedMtus {
    places: Vec<Learned>,
    /// When the last of them is forgotten: until something is learned nobody has to look.
    until: Nanos,
}

impl LearnedMtus {
    pub fn new() -> Self {
        let none = Learned { mtu: u16::MAX, until: Nanos(0) };
        LearnedMtus { places: vec![none; NEXT_HOPS_MAX], until: Nanos(0) }
    }

    /// Takes note that packets beyond `mtu` bytes do not get through behind a next hop.
    pub fn learn(&mut self, hop: NextHopId, is_ipv4: bool, mtu: u16, now: Nanos) {
        let until = now + u64::from(LEARNED_MTU_MILLIS) * NANOS_PER_MILLI;
        if let Some(place) = self.places.get_mut(hop.index()) {
            *place = Learned { mtu: mtu.max(MTU_MIN[usize::from(!is_ipv4)]), until };
            self.until = until;
        }
    }

    /// Forgets a next hop: its slot leads elsewhere.
    pub fn forget(&mut self, hop: NextHopId) {
        if let Some(place) = self.places.get_mut(hop.index()) {
            place.until = Nanos(0);
        }
    }

    /// What is known of the path behind a next hop.
    #[inline]
    pub fn get(&self, hop: NextHopId, now: Nanos) -> Option<u16> {
        if now >= self.until {
            return None;
        }
        self.places.get(hop.index()).filter(|place| now < place.until).map(|place| place.mtu)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_learned_is_bounded_below_and_forgotten() {
        let (mut learned, hop, now) = (LearnedMtus::new(), NextHopId(7), Nanos::from_secs(5));
        assert_eq!(learned.get(hop, now), None);
        learned.learn(hop, true, 1300, now);
        assert_eq!(learned.get(hop, now), Some(1300));
        assert_eq!(learned.get(NextHopId(8), now), None);
        learned.learn(hop, true, 68, now);
        assert_eq!(learned.get(hop, now), Some(552));
        learned.learn(hop, false, 68, now);
        assert_eq!(learned.get(hop, now), Some(1280));
        assert_eq!(learned.get(hop, Nanos::from_secs(5 + 600)), None);
        learned.learn(hop, true, 1300, now);
        learned.forget(hop);
        assert_eq!(learned.get(hop, now), None);
    }
}
