//! keepalived's keywords by the block they belong in: what is known but not mapped, and where a
//! misplaced one would be right (keepalived.conf(5) of 2.2.7, with the older names).

/// A kind of block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Block {
    File,
    VirtualServer,
    RealServer,
    Check,
    HttpCheck,
    Url,
    Vrrp,
}

const FILE: &[&str] = &[
    "virtual_server",
    "virtual_server_group",
    "SSL",
    "vrrp_instance",
    "vrrp_sync_group",
    "vrrp_script",
    "vrrp_track_process",
    "vrrp_track_file",
    "track_process",
    "track_file",
    "global_defs",
    "global_tracking",
    "interface_up_down_delays",
    "linkbeat_use_polling",
    "linkbeat_interfaces",
    "static_ipaddress",
    "static_routes",
    "static_rules",
    "static_track_group",
    "garp_group",
    "bfd_instance",
    "net_namespace",
    "net_namespace_ipvs",
    "namespace_with_ipsets",
    "nftables",
    "instance",
    "use_pid_dir",
    "include_check",
    "child_wait_time",
    "umask",
    "config_copy_directory",
    "random_seed",
    "process_names",
    "startup_script",
    "startup_script_timeout",
    "shutdown_script",
    "shutdown_script_timeout",
    "notify_fifo",
    "script_user",
    "enable_script_security",
];

const VIRTUAL_SERVER: &[&str] = &[
    "lvs_sched",
    "lb_algo",
    "lvs_method",
    "lb_kind",
    "nat_mask",
    "flag-1",
    "flag-2",
    "flag-3",
    "sh-port",
    "sh-fallback",
    "mh-port",
    "mh-fallback",
    "hashed",
    "ops",
    "persistence_engine",
    "persistence_timeout",
    "persistence_granularity",
    "protocol",
    "ha_suspend",
    "smtp_alert",
    "virtualhost",
    "snmp_name",
    "alpha",
    "omega",
    "quorum",
    "hysteresis",
    "quorum_up",
    "quorum_down",
    "ip_family",
    "sorry_server",
    "sorry_server_inhibit",
    "sorry_server_lvs_method",
    "connect_timeout",
    "retry",
    "delay_before_retry",
    "warmup",
    "delay_loop",
    "inhibit_on_failure",
    "real_server",
];

const REAL_SERVER: &[&str] = &[
    "weight",
    "lvs_method",
    "lb_kind",
    "notify_up",
    "notify_down",
    "uthreshold",
    "lthreshold",
    "smtp_alert",
    "virtualhost",
    "snmp_name",
    "alpha",
    "connect_timeout",
    "retry",
    "delay_before_retry",
    "warmup",
    "delay_loop",
    "inhibit_on_failure",
    "HTTP_GET",
    "SSL_GET",
    "TCP_CHECK",
    "SMTP_CHECK",
    "DNS_CHECK",
    "MISC_CHECK",
    "BFD_CHECK",
    "UDP_CHECK",
    "PING_CHECK",
    "FILE_CHECK",
];

const CHECK: &[&str] = &[
    "connect_ip",
    "connect_port",
    "bindto",
    "bind_if",
    "bind_port",
    "fwmark",
    "alpha",
    "connect_timeout",
    "retry",
    "nb_get_retry",
    "delay_before_retry",
    "warmup",
    "delay_loop",
    "log_all_failures",
    "helo_name",
    "host",
    "type",
    "name",
    "misc_path",
    "misc_timeout",
    "misc_dynamic",
    "user",
    "payload",
    "require_reply",
    "min_reply_length",
    "max_reply_length",
    "track_file",
    "dynamic",
];

const HTTP_CHECK: &[&str] = &["url", "http_protocol", "fast_recovery", "enable_sni", "virtualhost"];

const URL: &[&str] = &[
    "path",
    "digest",
    "status_code",
    "virtualhost",
    "regex",
    "regex_no_match",
    "regex_options",
    "regex_stack",
    "regex_min_offset",
    "regex_max_offset",
];

/// Of a vrrp_instance or vrrp_sync_group: enough to name the right place of a stray one.
const VRRP: &[&str] = &[
    "state",
    "interface",
    "use_vmac",
    "virtual_router_id",
    "priority",
    "advert_int",
    "authentication",
    "auth_type",
    "auth_pass",
    "virtual_ipaddress",
    "virtual_ipaddress_excluded",
    "virtual_routes",
    "virtual_rules",
    "track_interface",
    "track_script",
    "unicast_peer",
    "unicast_src_ip",
    "nopreempt",
    "preempt_delay",
    "lvs_sync_daemon_interface",
    "garp_master_delay",
    "notify_master",
    "notify_backup",
    "notify_fault",
];

/// Blocks with their names and keywords, as a misplaced keyword is looked for.
const BLOCKS: &[(Block, &str, &[&str])] = &[
    (Block::VirtualServer, "virtual_server", VIRTUAL_SERVER),
    (Block::RealServer, "real_server", REAL_SERVER),
    (Block::Url, "url of a HTTP_GET", URL),
    (Block::HttpCheck, "HTTP_GET or SSL_GET", HTTP_CHECK),
    (Block::Check, "a check of a real_server", CHECK),
    (Block::Vrrp, "vrrp_instance", VRRP),
    (Block::File, "no block", FILE),
];

/// Whether keepalived knows the keyword in that block.
pub(super) fn is_known(keyword: &str, block: Block) -> bool {
    let has = |wanted: Block| {
        BLOCKS.iter().any(|(one, _, words)| *one == wanted && words.contains(&keyword))
    };
    has(block) || block == Block::HttpCheck && has(Block::Check)
}

/// What to say of a keyword that the block does not have.
pub(super) fn stray(keyword: &str, block: Block, title: &str) -> String {
    let others = || BLOCKS.iter().filter(|(one, ..)| *one != block);
    if let Some((_, name, _)) = others().find(|(.., words)| words.contains(&keyword)) {
        return format!("`{keyword}` belongs in {name}, not in {title}; left out");
    }
    let own = BLOCKS.iter().filter(|(one, ..)| *one == block).flat_map(|(.., words)| *words);
    let near = own
        .map(|word| (strsim::damerau_levenshtein(word, keyword), word))
        .min()
        .filter(|(distance, _)| *distance <= 2 && keyword.len() < 64);
    match near {
        Some((_, word)) => {
            format!("`{keyword}` is unknown in {title}; `{word}` is near; left out")
        }
        None => format!("`{}` is unknown in {title}; left out", short(keyword)),
    }
}

fn short(keyword: &str) -> String {
    keyword.chars().take(64).collect::<String>().escape_debug().to_string()
}

/// Whether a keyword can only be meant for virtual servers: found elsewhere it is a slip.
pub(super) fn is_of_lvs(keyword: &str) -> bool {
    const SHARED: [&str; 4] = ["protocol", "weight", "alpha", "smtp_alert"];
    let words = VIRTUAL_SERVER.iter().chain(REAL_SERVER);
    !SHARED.contains(&keyword) && words.into_iter().any(|word| *word == keyword)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stray_keyword_is_told_where_it_belongs_or_what_is_near() {
        let stray = |word, block| stray(word, block, "virtual_server 10.0.0.1 80");
        assert_eq!(
            stray("priority", Block::VirtualServer),
            "`priority` belongs in vrrp_instance, not in virtual_server 10.0.0.1 80; left out"
        );
        assert!(stray("delay_lop", Block::VirtualServer).contains("`delay_loop` is near"));
        assert!(stray("xyzzy", Block::VirtualServer).ends_with("80; left out"));
        assert!(is_known("connect_port", Block::HttpCheck) && !is_known("url", Block::Check));
    }

    /// So that none is forgotten: what each comes to is in the fixture's rules and warnings.
    #[test]
    fn every_keyword_is_in_a_fixture() {
        let folder = "tests/fixtures/import/keepalived";
        let text: String = ["schedulers", "checks", "groups", "slips"]
            .iter()
            .map(|name| std::fs::read_to_string(format!("{folder}/{name}.conf")).unwrap())
            .collect();
        let words: std::collections::BTreeSet<&str> = text.split_whitespace().collect();
        for (block, name, keywords) in BLOCKS {
            if !matches!(block, Block::Vrrp | Block::File) {
                let missing: Vec<_> =
                    keywords.iter().filter(|word| !words.contains(**word)).collect();
                assert!(missing.is_empty(), "{name}: {missing:?}");
            }
        }
    }
}
