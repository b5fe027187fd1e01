# What the scripts share: words, packages, hugepages, namespaces of their own. Sourced, not run.
# Nothing in here runs traffic or decides what passes.
# shellcheck shell=bash

export LC_ALL=C.UTF-8
ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

# What a build needs beside git and a Rust toolchain.
BUILD_PACKAGES=(ca-certificates gcc libc6-dev pkg-config libdpdk-dev clang libclang-dev)
# What the demo and the soak run. netbase: wrk looks up "http" in /etc/services.
DEMO_PACKAGES=(iproute2 procps ethtool netbase nftables nginx curl wrk python3)
# What black-box tests run besides.
TEST_PACKAGES=(haproxy bird2 iputils-ping vsftpd tshark dpdk-dev iperf3 dnsmasq-base
    bind9-dnsutils ldirectord keepalived netbase prometheus jq netcat-openbsd fonts-dejavu-core
    systemd keepalived)
# What counts instructions.
COUNT_PACKAGES=(valgrind)
# What a package is made by, and what makes a clean system to install it in.
PACKAGE_PACKAGES=(dpkg-dev gzip debootstrap procps)
# What gyre is compared with.
COMPARE_PACKAGES=(haproxy libnginx-mod-stream)
SWITCH_PACKAGES=(openvswitch-switch-dpdk dpdk dpdk-dev)
# What the benchmark runs beside itself (dpdk-testpmd), and a font to draw with.
BENCH_PACKAGES=(dpdk-dev fonts-dejavu-core)

# What is built and tested: all but gyre-core, which is gyre's own files over again. Always all,
# since for one crate alone cargo chooses other features of libraries, and builds those once more.
# shellcheck disable=SC2034  # for those who source this
CRATES=(--workspace --exclude gyre-core)

if [ -t 1 ]; then
    BOLD=$'\e[1m' DIM=$'\e[2m' RED=$'\e[31m' GREEN=$'\e[32m' PLAIN=$'\e[0m'
else
    BOLD='' DIM='' RED='' GREEN='' PLAIN=''
fi

say() { printf '%s\n' "$*"; }
note() { printf '%s%s%s\n' "$DIM" "$*" "$PLAIN"; }
warn() { printf '%s: %s\n' "$(basename "$0")" "$*" >&2; }
die() {
    warn "$*"
    exit 1
}

# ---- packages ------------------------------------------------------------------------------

missing_packages() {
    command -v dpkg-query >/dev/null || return 0
    local package status
    for package in "$@"; do
        status=$(dpkg-query -W -f='${db:Status-Status}' "$package" 2>/dev/null) || true
        [ "$status" = installed ] || printf '%s ' "$package"
    done
}

# Runs a command as root, by sudo where we are not.
as_root() {
    if [ "$(id -u)" = 0 ]; then "$@"; else sudo -n "$@"; fi
}

can_be_root() { [ "$(id -u)" = 0 ] || sudo -n true 2>/dev/null; }

# Installs exactly those of the named packages that are missing.
install_packages() {
    local missing
    command -v dpkg-query >/dev/null || {
        note "no dpkg here: taking it that these are installed: $*"
        return
    }
    missing=$(missing_packages "$@")
    [ -n "$missing" ] || return 0
    command -v apt-get >/dev/null || die "missing packages and no apt-get here: $missing"
    can_be_root || die "missing packages; as root: apt-get install $missing"
    say "Installing $missing"
    apt_quietly update || die "apt-get update failed: is the network up?"
    # shellcheck disable=SC2086  # a list of names
    without_services apt_quietly install -y --no-install-recommends $missing ||
        die "apt-get install $missing failed; see above"
    # shellcheck disable=SC2086
    keep_services_off $missing
}

# apt-get without questions; its chatter is shown only when it fails.
apt_quietly() {
    local log
    log=$(mktemp)
    if ! as_root env DEBIAN_FRONTEND=noninteractive apt-get -qq "$@" </dev/null >"$log" 2>&1; then
        cat "$log" >&2
        rm -f "$log"
        return 1
    fi
    rm -f "$log"
}

POLICY=/usr/sbin/policy-rc.d
# How we know it for ours when a run was killed before it could take it away.
POLICY_MARK='# by gyre/scripts: packages do not start services'

# nginx, haproxy and BIRD start themselves when installed. We want the programs, not the services.
# In a shell of its own, so that an interruption at any time takes the policy away too.
without_services() (
    if [ -e "$POLICY" ] && ! grep -qxF "$POLICY_MARK" "$POLICY"; then
        "$@"
        exit
    fi
    trap 'as_root rm -f "$POLICY"' EXIT
    trap 'exit 130' INT
    trap 'exit 143' TERM
    printf '#!/bin/sh\n%s\nexit 101\n' "$POLICY_MARK" | as_root tee "$POLICY" >/dev/null
    as_root chmod 755 "$POLICY"
    # In the foreground: the policy stays as long as apt-get does, which a signal does not shorten.
    "$@"
)

keep_services_off() {
    [ -d /run/systemd/system ] || return 0
    local package
    for package in "$@"; do
        case $package in
        nginx | haproxy) as_root systemctl disable --quiet "$package" 2>/dev/null || true ;;
        bird2) as_root systemctl disable --quiet bird 2>/dev/null || true ;;
        esac
    done
}

# rustup puts cargo where sudo does not look, even with -E: Debian's secure_path. So it is also
# looked for at home, at that of whoever called sudo included.
need_rust() {
    local home
    command -v cargo >/dev/null && return
    for home in "$HOME" "$(getent passwd "${SUDO_USER:-root}" | cut -d: -f6)"; do
        [ -x "$home/.cargo/bin/cargo" ] || continue
        # rustup's cargo finds its toolchains by RUSTUP_HOME, not by where it is.
        export PATH=$home/.cargo/bin:$PATH RUSTUP_HOME=${RUSTUP_HOME:-$home/.rustup}
        return
    done
    die "no cargo: install Rust by https://rustup.rs (1.89 or newer), then open a new shell"
}

# The release build, by whoever called sudo: it is their clone, and root's files in it would be in
# their way.
build_release() {
    local command=(cargo build --release --quiet)
    if [ "$(id -u)" = 0 ] && [ -n "${SUDO_USER-}" ] &&
        [ -z "$(find "$ROOT" "$ROOT/target" -maxdepth 0 ! -user "$SUDO_USER" 2>/dev/null)" ]; then
        command=(sudo -u "$SUDO_USER" -H env "PATH=$PATH" "${command[@]}")
    fi
    (cd "$ROOT" && "${command[@]}")
}

# ---- hugepages -----------------------------------------------------------------------------

HUGEPAGES_FILE=/proc/sys/vm/nr_hugepages
HUGEPAGES_BEFORE=

# Reserves 2 MiB pages, up to the wanted number, as far as memory and rights allow.
reserve_hugepages() {
    local wanted=$1 have
    have=$(cat "$HUGEPAGES_FILE" 2>/dev/null || echo 0)
    [ "$have" -lt "$wanted" ] || return 0
    [ -w "$HUGEPAGES_FILE" ] || {
        note "hugepages: not ours to reserve; going on without (slower)"
        return
    }
    HUGEPAGES_BEFORE=$have
    echo "$wanted" >"$HUGEPAGES_FILE" 2>/dev/null || true
    have=$(cat "$HUGEPAGES_FILE")
    if [ "$have" -lt "$wanted" ]; then
        note "hugepages: $have of $wanted to be had; going on with what there is"
    fi
}

HUGETLBFS=/dev/hugepages
HUGETLBFS_MOUNTED=

# Mounts hugetlbfs where nobody has; DPDK processes that share memory find it by that.
mount_hugetlbfs() {
    ! grep -q ' hugetlbfs ' /proc/self/mounts || return 0
    mkdir -p "$HUGETLBFS" 2>/dev/null && mount -t hugetlbfs hugetlbfs "$HUGETLBFS" 2>/dev/null ||
        {
            note "hugetlbfs: not ours to mount; tests that need it will say so"
            return 0
        }
    HUGETLBFS_MOUNTED=1
}

unmount_hugetlbfs() {
    [ -z "$HUGETLBFS_MOUNTED" ] || umount "$HUGETLBFS" 2>/dev/null || true
    HUGETLBFS_MOUNTED=
}

# Gives back what reserve_hugepages took.
restore_hugepages() {
    [ -n "$HUGEPAGES_BEFORE" ] || return 0
    echo "$HUGEPAGES_BEFORE" >"$HUGEPAGES_FILE" 2>/dev/null || true
    HUGEPAGES_BEFORE=
}

# ---- namespaces ----------------------------------------------------------------------------

# Why namespaces with af_packet ports cannot be used here; nothing when they can.
namespaces_unusable() {
    [ "$(id -u)" = 0 ] || { say "needs root (network namespaces, packet sockets)"; return; }
    local probe=gyre-probe-$$
    ip netns add "$probe" 2>/dev/null || { say "ip netns add is refused here"; return; }
    ip -n "$probe" link add v0 type veth peer name v1 2>/dev/null || say "this kernel has no veth"
    ip -n "$probe" link add b0 type bridge 2>/dev/null || say "this kernel has no bridge"
    ip netns exec "$probe" nft add table netdev gyre 2>/dev/null || say "nftables is refused here"
    [ -e /dev/net/tun ] || say "/dev/net/tun is missing"
    ip netns del "$probe"
}
