//! Finds libdpdk, compiles the shim for its inline functions and generates the bindings.
//!
//! Whatever is missing ends in one message that names the packages and the way round, because a
//! missing library is the reader's first meeting with this crate.

use std::path::PathBuf;
use std::process::Command;
use std::{env, fs, panic};

/// The first long-term release with the calls used here: Debian 12's.
const VERSION_MIN: &str = "22.11";

const FUNCTIONS: &[&str] = &[
    "gyre_.*",
    "rte_devargs_(parse|reset)",
    "rte_eal_(init|cleanup|get_runtime_dir|remote_launch|wait_lcore)",
    "rte_eth_(allmulticast|promiscuous)_(enable|disable)",
    "rte_eth_dev_(adjust_nb_rx_tx_desc|close|configure|get_mtu|get_port_by_name)",
    "rte_eth_dev_rss_hash_update",
    "rte_eth_dev_(info_get|rss_hash_conf_get|rss_reta_query|rss_reta_update|set_mtu|start|stop)",
    "rte_eth_dev_socket_id",
    "rte_eth_(macaddr_get|stats_get)",
    "rte_eth_(rx|tx)_queue_setup",
    "rte_eth_xstats_(get|get_names)",
    "rte_get_tsc_hz",
    "rte_mempool_(avail_count|in_use_count|free)",
    "rte_pdump_(init|uninit)",
    "rte_pktmbuf_pool_create",
    "rte_strerror",
    "rte_thread_(register|unregister)",
    "rte_vdev_(init|uninit)",
    "rte_version",
];

const TYPES: &[&str] = &[
    "rte_eth_(conf|dev_info|rss_conf|rss_reta_entry64|rxconf|stats|txconf|xstat|xstat_name)",
    "rte_ether_addr",
    "rte_mbuf",
    "rte_mempool",
];

const VARIABLES: &[&str] = &[
    "GYRE_.*",
    "RTE_ETH_RETA_GROUP_SIZE",
    "RTE_MAX_LCORE",
    "RTE_MEMPOOL_CACHE_MAX_SIZE",
    "RTE_PKTMBUF_HEADROOM",
];

fn main() {
    println!("cargo::rerun-if-changed=csrc/shim.c");
    println!("cargo::rerun-if-changed=csrc/shim.h");
    if let Err(problem) = build() {
        // One line, since cargo shows each `cargo::error` line by itself. Without an exit code of
        // our own cargo reports this error alone, with no dump of the script's output.
        println!(
            "cargo::error={} To build with DPDK: apt-get install libdpdk-dev libclang-dev \
             pkg-config (Debian 12 or later). To build without it: add --no-default-features.",
            problem.replace('\n', " ")
        );
    }
}

fn build() -> Result<(), String> {
    probe_library()?;
    println!("cargo::rustc-link-lib=rte_bus_vdev");
    let flags = compiler_flags()?;
    compile_shim(&flags)?;
    generate_bindings(&flags)
}

/// Finds libdpdk and tells cargo to link it dynamically; its drivers load by themselves from
/// the directory that was compiled into EAL. The bus of virtual devices is one of those drivers
/// and so not in the .pc file, but its calls are public; EAL's loading it again is a no-op.
fn probe_library() -> Result<(), String> {
    pkg_config::Config::new().atleast_version(VERSION_MIN).probe("libdpdk").map(drop).map_err(
        |error| match error {
            pkg_config::Error::Command { .. } => "pkg-config is not installed.".to_owned(),
            pkg_config::Error::ProbeFailure { .. } | pkg_config::Error::Failure { .. } => {
                match installed_version() {
                    Some(found) => format!(
                        "libdpdk {found} was found, but gyre needs {VERSION_MIN} or later, with \
                         its development files."
                    ),
                    None => "libdpdk (the DPDK development files) was not found by pkg-config."
                        .to_owned(),
                }
            }
            other => format!("libdpdk cannot be used: {other}."),
        },
    )
}

fn pkg_config(arguments: &[&str]) -> Option<String> {
    let program = env::var_os("PKG_CONFIG").unwrap_or_else(|| "pkg-config".into());
    let output = Command::new(program).args(arguments).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

fn installed_version() -> Option<String> {
    pkg_config(&["--modversion", "libdpdk"])
}

/// All of `--cflags`: besides include paths it holds `-include rte_config.h` and the `-march`
/// that DPDK's inline functions need, which the `pkg-config` crate leaves out.
fn compiler_flags() -> Result<Vec<String>, String> {
    let flags = pkg_config(&["--cflags", "libdpdk"])
        .ok_or_else(|| "pkg-config gives no compiler flags for libdpdk.".to_owned())?;
    Ok(flags.split_whitespace().map(str::to_owned).collect())
}

fn compile_shim(flags: &[String]) -> Result<(), String> {
    let mut build = cc::Build::new();
    build.file("csrc/shim.c").opt_level(3).warnings(false).cargo_warnings(false);
    for flag in flags {
        build.flag(flag);
    }
    build.try_compile("gyre_dpdk_shim").map_err(|error| {
        format!("the C shim over DPDK's inline functions does not compile: {error}.")
    })
}

fn generate_bindings(flags: &[String]) -> Result<(), String> {
    let mut builder = bindgen::Builder::default()
        .header("csrc/shim.h")
        .clang_args(flags)
        .layout_tests(false)
        .generate_comments(false)
        .derive_default(true)
        .prepend_enum_name(false)
        // Packed and aligned at once, which Rust cannot say; gyre parses bytes itself.
        .opaque_type("rte_(arp|ipv4|ipv6|tcp|l2tpv2|gtp|flow).*")
        .parse_callbacks(Box::new(bindgen::CargoCallbacks::new().rerun_on_header_files(false)));
    for name in FUNCTIONS {
        builder = builder.allowlist_function(name);
    }
    for name in TYPES {
        builder = builder.allowlist_type(name);
    }
    for name in VARIABLES {
        builder = builder.allowlist_var(name);
    }
    // bindgen panics when libclang cannot be loaded; its text is not for our reader.
    let hook = panic::take_hook();
    panic::set_hook(Box::new(|_| {}));
    let generated = panic::catch_unwind(panic::AssertUnwindSafe(|| builder.generate()));
    panic::set_hook(hook);
    let bindings = generated
        .map_err(|_| "libclang was not found.".to_owned())?
        .map_err(|error| format!("bindings to libdpdk cannot be generated: {error}."))?;
    let file = PathBuf::from(env::var_os("OUT_DIR").unwrap_or_default()).join("bindings.rs");
    fs::write(&file, bindings.to_string())
        .map_err(|error| format!("cannot write {}: {error}.", file.display()))
}
