//! RSS of a port: which queue the device will put a flow in, as read back from the device.
//!
//! Only sets and reads key and redirection table. The hash itself is the packet path's, since it
//! must be computed for ports without RSS too.

use dpdk_sys as sys;

use super::nic_error::NicError;

/// Bytes of key that a hash over an IPv6 five-tuple needs: 36 bytes of input and 32 bits more.
const KEY_BYTES_MIN: usize = 40;

/// What the device hashes by. A port has one only if it told both key and table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rss {
    /// Toeplitz key as the device holds it; its first 40 bytes decide for TCP and UDP.
    pub key: Vec<u8>,
    /// Queue by the hash's low bits; a power of two long on every device known.
    pub reta: Vec<u16>,
    /// Whether IPv4 TCP and UDP are hashed with their ports.
    pub ipv4_ports: bool,
    /// Whether IPv6 TCP and UDP are hashed with their ports.
    pub ipv6_ports: bool,
}

/// Hash types gyre asks for, of those `info` offers; 0 when it offers none with ports.
pub(super) fn hash_types(info: &sys::rte_eth_dev_info) -> u64 {
    let with_ports = sys::GYRE_RSS_IPV4_TCP
        | sys::GYRE_RSS_IPV4_UDP
        | sys::GYRE_RSS_IPV6_TCP
        | sys::GYRE_RSS_IPV6_UDP;
    let offered = info.flow_type_rss_offloads;
    if offered & with_ports == 0 || info.reta_size == 0 {
        return 0;
    }
    // The address-only types spread what has no ports: fragments and ICMP.
    offered & (with_ports | sys::GYRE_RSS_IPV4 | sys::GYRE_RSS_IPV6)
}

/// The key as long as the device wants it, from one that may be shorter.
pub(super) fn fit_key(
    device: &str,
    key: &[u8],
    info: &sys::rte_eth_dev_info,
) -> Result<Vec<u8>, NicError> {
    let wanted = key_bytes(info);
    if key.len() < KEY_BYTES_MIN || key.len() > wanted {
        return Err(NicError::RssKey { device: device.to_owned(), found: key.len(), wanted });
    }
    // Bytes past the 40th never meet input, so any will do.
    Ok(key.iter().copied().cycle().take(wanted).collect())
}

/// Spreads the table over `queues` and reads back what the device made of it and of the key;
/// `None` when it does not tell. `wanted_key` was given at configuration already (empty: none).
pub(super) fn program(
    port: u16,
    info: &sys::rte_eth_dev_info,
    queues: u16,
    wanted_key: &mut [u8],
) -> Option<Rss> {
    let reta = program_table(port, info, queues)?;
    let (mut key, mut types) = read_key(port, info)?;
    if !wanted_key.is_empty() && key != wanted_key {
        // net_null for one takes a key by this call only.
        let mut conf = rss_conf(wanted_key, wanted_key.len());
        conf.rss_hf = hash_types(info);
        // SAFETY: the port is configured; the key outlives the call, which copies. If the device
        // refuses, what it then tells is what counts.
        let _ = unsafe { sys::rte_eth_dev_rss_hash_update(port, &mut conf) };
        (key, types) = read_key(port, info)?;
    }
    let has = |wanted: u64| types & wanted == wanted;
    Some(Rss {
        key,
        reta,
        ipv4_ports: has(sys::GYRE_RSS_IPV4_TCP | sys::GYRE_RSS_IPV4_UDP),
        ipv6_ports: has(sys::GYRE_RSS_IPV6_TCP | sys::GYRE_RSS_IPV6_UDP),
    })
}

fn program_table(port: u16, info: &sys::rte_eth_dev_info, queues: u16) -> Option<Vec<u16>> {
    let size = usize::from(info.reta_size);
    let group = sys::RTE_ETH_RETA_GROUP_SIZE as usize;
    let mut groups = vec![sys::rte_eth_rss_reta_entry64::default(); size.div_ceil(group)];
    for index in 0..size {
        groups[index / group].mask |= 1 << (index % group);
        groups[index / group].reta[index % group] = (index % usize::from(queues)) as u16;
    }
    // SAFETY: the port is configured; the groups cover `reta_size` entries. A device that cannot
    // change its table may still tell it, so the answer does not matter.
    let _ = unsafe { sys::rte_eth_dev_rss_reta_update(port, groups.as_mut_ptr(), size as u16) };
    for entry in &mut groups {
        entry.reta = [u16::MAX; 64];
    }
    // SAFETY: as above; the query fills the same groups.
    if unsafe { sys::rte_eth_dev_rss_reta_query(port, groups.as_mut_ptr(), size as u16) } != 0 {
        return None;
    }
    let reta: Vec<u16> = (0..size).map(|i| groups[i / group].reta[i % group]).collect();
    reta.iter().all(|&queue| queue < queues).then_some(reta)
}

fn read_key(port: u16, info: &sys::rte_eth_dev_info) -> Option<(Vec<u8>, u64)> {
    let len = key_bytes(info);
    let mut key = vec![0; usize::from(u8::MAX)];
    let mut conf = rss_conf(&mut key, len);
    // SAFETY: the port is configured; no key is longer than the room, since its length is a byte.
    if unsafe { sys::rte_eth_dev_rss_hash_conf_get(port, &mut conf) } != 0 {
        return None;
    }
    key.truncate(len);
    Some((key, conf.rss_hf))
}

/// Later releases add fields, so this is not a struct literal; today the clippy lint sees all of
/// them set.
#[allow(clippy::field_reassign_with_default)]
fn rss_conf(key: &mut [u8], len: usize) -> sys::rte_eth_rss_conf {
    let mut conf = sys::rte_eth_rss_conf::default();
    conf.rss_key = key.as_mut_ptr();
    conf.rss_key_len = len as u8;
    conf
}

fn key_bytes(info: &sys::rte_eth_dev_info) -> usize {
    match usize::from(info.hash_key_size) {
        // Some drivers (net_null) do not say; 40 is then the key they have.
        0 => KEY_BYTES_MIN,
        bytes => bytes,
    }
}
