//! sh: the client's address picks one of 256 buckets, with the kernel's hash, so that a kernel
//! director beside this one picks the same server.

use std::net::IpAddr;

use super::is_usable;
use crate::dataplane::flow::FlowKey;
use crate::model::{SourceHash, VirtualService};

/// Buckets of the kernel's table.
const BUCKETS: u32 = 256;

/// The kernel's `hash_32` down to 8 bits (golden ratio), over the address in host order with its
/// 32-bit words xor-ed, plus the client's port with `sh-port`.
fn bucket(address: IpAddr, client_port: u16) -> u32 {
    let folded = match address {
        IpAddr::V4(v4) => u32::from(v4),
        IpAddr::V6(v6) => {
            let bits = u128::from(v6);
            (bits >> 96) as u32 ^ (bits >> 64) as u32 ^ (bits >> 32) as u32 ^ bits as u32
        }
    };
    folded.wrapping_add(u32::from(client_port)).wrapping_mul(0x61c8_8647) >> 24
}

pub(super) fn pick(
    service: &VirtualService,
    flags: SourceHash,
    table: &[u32],
    key: &FlowKey,
) -> Option<usize> {
    let first = bucket(key.src, if flags.port { key.src_port } else { 0 });
    let server_in = |bucket: u32| {
        let at = *table.get((bucket % BUCKETS) as usize)? as usize;
        service.servers.get(at).is_some_and(is_usable).then_some(at)
    };
    match server_in(first) {
        None if flags.fallback => (0..BUCKETS).find_map(|offset| server_in(2 * first + offset)),
        picked => picked,
    }
}
