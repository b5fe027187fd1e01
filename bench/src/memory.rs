//! What /proc says of memory.

use std::fs;

/// A field of a /proc file that counts KiB, in bytes; 0 where there is none.
pub fn kib_field(path: &str, name: &str) -> u64 {
    let text = fs::read_to_string(path).unwrap_or_default();
    let rest = text.lines().find_map(|line| line.strip_prefix(name));
    rest.and_then(|rest| rest.split_whitespace().next()?.parse().ok()).unwrap_or(0) * 1024
}

/// Bytes of tables that found no hugepage: such figures are not what the machine can do.
pub fn small_pages() -> u64 {
    // Small tables are on ordinary pages anyway.
    let shared = kib_field("/proc/self/status", "RssShmem:");
    if shared > 64 << 20 { shared } else { 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_takes_memory() {
        assert!(kib_field("/proc/self/status", "VmRSS:") > 1 << 20);
        assert_eq!(kib_field("/proc/self/status", "NoSuchField:"), 0);
    }
}
