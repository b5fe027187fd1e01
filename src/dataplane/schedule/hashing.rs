//! dh, sh and mh: an address picks a slot of a table that control built. The kernel's hashes, so
//! that a kernel director beside this one picks the same server.
//!
//! The server of a slot is the only one asked, unless a fallback is configured: when it has
//! weight 0 or is overloaded, the client is refused.

use super::candidates::Candidates;
use crate::dataplane::flow::FlowKey;
use crate::model::{HASH_BUCKETS, HashFlags, KERNEL_MAGLEV_SLOTS, KernelMaglevTable, hash_bucket};

/// The server of a bucket, if it may take a flow.
fn usable_in(servers: &mut Candidates, table: &[u32], bucket: usize) -> Option<usize> {
    let at = *table.get(bucket % HASH_BUCKETS)? as usize;
    servers.is_usable(at).then_some(at)
}

pub(super) fn by_destination(
    servers: &mut Candidates,
    table: &[u32],
    key: &FlowKey,
) -> Option<usize> {
    usable_in(servers, table, hash_bucket(key.dst, 0))
}

fn client_port(flags: HashFlags, key: &FlowKey) -> u16 {
    if flags.port { key.src_port } else { 0 }
}

pub(super) fn by_source(
    servers: &mut Candidates,
    flags: HashFlags,
    table: &[u32],
    key: &FlowKey,
) -> Option<usize> {
    let first = hash_bucket(key.src, client_port(flags, key));
    match usable_in(servers, table, first) {
        None if flags.fallback => {
            (0..HASH_BUCKETS).find_map(|offset| usable_in(servers, table, 2 * first + offset))
        }
        picked => picked,
    }
}

pub(super) fn maglev(
    servers: &mut Candidates,
    flags: HashFlags,
    table: &KernelMaglevTable,
    key: &FlowKey,
) -> Option<usize> {
    let (client, port) = (key.src, client_port(flags, key));
    let first = table.look_up(client, port, 0)?;
    if servers.is_usable(first) {
        return Some(first);
    }
    // Thousands of hashes for nothing, unless somebody is there to be found.
    if !flags.fallback || !servers.order().any(|at| servers.is_usable(at)) {
        return None;
    }
    (0..KERNEL_MAGLEV_SLOTS as u32).find_map(|attempt| {
        let offset = KernelMaglevTable::fallback_offset(client, port, attempt);
        table.look_up(client, port, offset).filter(|at| servers.is_usable(*at))
    })
}
