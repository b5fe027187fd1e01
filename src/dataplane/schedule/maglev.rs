//! maglev: the tuple picks a slot of the service's Maglev table; the same on every director.

use std::hash::Hasher;
use std::net::IpAddr;

use siphasher::sip::SipHasher13;

use super::candidates::Candidates;
use crate::dataplane::flow::FlowKey;
use crate::model::MaglevTable;

/// Fixed, so that all directors behind ECMP agree. Flow tables are keyed per process instead.
const KEY: (u64, u64) = (0x6779_7265_2066_6c6f, 0x7720_6861_7368_2031);

fn hash(key: &FlowKey) -> u64 {
    let mut hasher = SipHasher13::new_with_keys(KEY.0, KEY.1);
    for address in [key.src, key.dst] {
        match address {
            IpAddr::V4(v4) => hasher.write(&v4.octets()),
            IpAddr::V6(v6) => hasher.write(&v6.octets()),
        }
    }
    hasher.write(&key.src_port.to_be_bytes());
    hasher.write(&key.dst_port.to_be_bytes());
    hasher.write(&[key.protocol as u8]);
    hasher.finish()
}

pub(super) fn pick(servers: &mut Candidates, table: &MaglevTable, key: &FlowKey) -> Option<usize> {
    table.look_up(hash(key)).filter(|at| servers.is_usable(*at))
}
