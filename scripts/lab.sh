# The laboratory of scripts/demo, scripts/soak and scripts/compare: a client, a director and three
# servers in network namespaces of their own, nginx on the servers, gyre on the director. Sourced,
# not run. Which traffic runs and what it proves is the caller's business.
# shellcheck shell=bash
#
#     client eth0 --+-- wan0 [ gyre: wan | lan ] lan0 --+-- eth0 server1..3
#        10.1.0.2   |       10.1.0.1  10.2.0.1          |       10.2.0.11..13
#                   +---- eth1 of the servers (10.1.0.11..13): the way back of DR

LAB=gyre-$(basename "$0")-$$
LAB_DIR=
LAB_PIDS=()
SERVERS=(1 2 3)
CLIENT_IP=10.1.0.2
LIP=10.2.0.8
# First and last FULLNAT source port.
SRC_PORTS="1024, 65535"

inside() {
    local role=$1
    shift
    ip netns exec "$LAB-$role" "$@"
}

# Starts a program in a namespace, its output in a log of that name, and remembers its pid.
start_inside() {
    local role=$1 log=$2
    shift 2
    ip netns exec "$LAB-$role" "$@" >"$LAB_DIR/$log.log" 2>&1 </dev/null &
    LAB_PIDS+=($!)
}

# Waits for a background process of ours to end by itself; its exit status.
wait_and_forget() {
    local pid=$1 status=0 kept=() other
    wait "$pid" || status=$?
    # Its number may soon be another process's, which must not be killed at the end.
    for other in "${LAB_PIDS[@]}"; do [ "$other" = "$pid" ] || kept+=("$other"); done
    LAB_PIDS=("${kept[@]}")
    return "$status"
}

# ---- links ---------------------------------------------------------------------------------

make_namespace() {
    local space=$LAB-$1
    ip netns add "$space"
    ip -n "$space" link set dev lo up
    inside "$1" sysctl -qw net.ipv4.conf.all.rp_filter=0 net.ipv4.conf.default.rp_filter=0 \
        net.ipv6.conf.all.disable_ipv6=1 net.ipv6.conf.default.disable_ipv6=1
}

# A cable from an interface of a namespace to one of the two bridges.
plug() {
    local role=$1 interface=$2 bridge=$3 port=$1-$2
    ip -n "$LAB-$role" link add "$interface" type veth peer name "$port" netns "$LAB-switch"
    # Packet sockets see checksums that a veth leaves unfilled unless told not to.
    inside "$role" ethtool -K "$interface" tx off >/dev/null
    ip -n "$LAB-switch" link set dev "$port" master "$bridge" up
    ip -n "$LAB-$role" link set dev "$interface" up
}

make_links() {
    local role n bridge
    for role in switch client director server{1,2,3}; do make_namespace "$role"; done
    for bridge in wan lan; do
        ip -n "$LAB-switch" link add "$bridge" type bridge forward_delay 0 mcast_snooping 0
        ip -n "$LAB-switch" link set dev "$bridge" up
    done
    plug client eth0 wan
    plug director wan0 wan
    plug director lan0 lan
    ip -n "$LAB-client" addr add $CLIENT_IP/24 dev eth0
    for n in "${SERVERS[@]}"; do
        plug "server$n" eth0 lan
        plug "server$n" eth1 wan
        # Servers hold the DR service's address and tell nobody: the director answers ARP for it.
        inside "server$n" sysctl -qw net.ipv4.conf.all.arp_ignore=1 net.ipv4.conf.all.arp_announce=2
        ip -n "$LAB-server$n" addr add "10.2.0.1$n/24" dev eth0
        ip -n "$LAB-server$n" addr add "10.1.0.1$n/24" dev eth1
        ip -n "$LAB-server$n" addr add 10.1.0.80/32 dev lo
    done
}

# ---- nginx ---------------------------------------------------------------------------------

nginx_config() {
    local n=$1 dir=$2
    cat <<END
daemon off; user root; worker_processes 1; pid $dir/pid; error_log $dir/error.log warn;
events { worker_connections 4096; }
http {
    client_body_temp_path $dir/t; proxy_temp_path $dir/t; fastcgi_temp_path $dir/t;
    uwsgi_temp_path $dir/t; scgi_temp_path $dir/t;
    # Time, peer, client as the PROXY header tells, position in the connection, status.
    log_format short '\$msec \$remote_addr \$proxy_protocol_addr \$connection_requests \$status';
    access_log $dir/access.log short;
    keepalive_requests 10000000;
    default_type text/plain;
    server { listen 80 backlog=4096;
             location / { return 200 "server$n\n"; } }
    server { listen 8080 proxy_protocol backlog=4096;
             location / { return 200 "server$n saw \$proxy_protocol_addr\n"; } }
}
END
}

start_servers() {
    local n dir
    for n in "${SERVERS[@]}"; do
        dir=$LAB_DIR/server$n
        mkdir -p "$dir"
        nginx_config "$n" "$dir" >"$dir/nginx.conf"
        : >"$dir/access.log"
        start_inside "server$n" "nginx$n" nginx -p "$dir" -e stderr -c "$dir/nginx.conf"
    done
    for n in "${SERVERS[@]}"; do
        wait_until 10 "nginx on server$n" inside "server$n" curl -s -o "$LAB_DIR/probe" \
            "http://10.2.0.1$n/"
        : >"$LAB_DIR/server$n/access.log"
    done
}

# wait_until SECONDS WHAT COMMAND...
wait_until() {
    local end=$((SECONDS + $1)) what=$2
    shift 2
    until "$@" >/dev/null 2>&1; do
        [ $SECONDS -lt $end ] || die "waited in vain for $what; logs are in $LAB_DIR"
        sleep 0.1
    done
}

# ---- gyre ----------------------------------------------------------------------------------

# Writes [runtime], ports and pool; the services come from standard input.
write_config() {
    runtime_config >"$LAB_DIR/gyre.toml"
    cat >>"$LAB_DIR/gyre.toml"
}

runtime_config() {
    cat <<END
[runtime]
workers = ${GYRE_WORKERS:-2}
idle = "adaptive"
control_socket = "$LAB_DIR/gyre.sock"
connections = 200_000

[[port]]
name = "wan"
device = "net_af_packet0,iface=wan0"
addresses = ["10.1.0.1/24"]

[[port]]
name = "lan"
device = "net_af_packet1,iface=lan0"
addresses = ["10.2.0.1/24"]

[local_addresses]
pool = { port = "lan", addresses = ["$LIP"], ports = [$SRC_PORTS] }

END
}

GYRE=$ROOT/target/release/gyre

gyre() { "$GYRE" "$@" --socket "$LAB_DIR/gyre.sock"; }

start_gyre() {
    start_inside director gyre "$GYRE" run -c "$LAB_DIR/gyre.toml"
    GYRE_PID=$!
    local end=$((SECONDS + 20))
    until gyre status >/dev/null 2>&1; do
        kill -0 "$GYRE_PID" 2>/dev/null || {
            cat "$LAB_DIR/gyre.log" >&2
            die "gyre ended instead of starting; see above"
        }
        [ $SECONDS -lt $end ] || die "gyre is not ready after 20 s; see $LAB_DIR/gyre.log"
        sleep 0.1
    done
}

stop_gyre() {
    kill -TERM "$GYRE_PID" 2>/dev/null || return 0
    wait "$GYRE_PID"
}

# ---- beginning and end ---------------------------------------------------------------------

need_lab() {
    local why
    [ "$(id -u)" = 0 ] || die "needs root for network namespaces: sudo $0"
    why=$(namespaces_unusable)
    # The first reason is enough.
    [ -z "$why" ] || die "cannot run here: ${why%%$'\n'*}"
}

# Processes, namespaces and directories of runs that were killed. A laboratory that was kept on
# purpose has a file "kept" in its directory.
sweep_dead_labs() {
    local lab
    for lab in $(all_labs); do
        [ -e "/proc/${lab##*-}" ] || [ -e "${TMPDIR:-/tmp}/$lab/kept" ] || remove_spaces "$lab"
    done
}

# gyre-demo-PID and the like, of which there is a namespace or a directory.
all_labs() {
    {
        ip netns list | awk '{print $1}'
        ls "${TMPDIR:-/tmp}"
    } | sed -nE 's/^(gyre-(demo|soak|compare)-[0-9]+)(-.*)?$/\1/p' | sort -u
}

# remove_spaces LAB: ends what runs in its namespaces (only ours can), and takes all of it away.
remove_spaces() {
    local lab=$1 space pid
    for space in $(ip netns list | awk -v lab="$lab-" 'index($1, lab) == 1 {print $1}'); do
        for pid in $(ip netns pids "$space"); do kill -KILL "$pid" 2>/dev/null || true; done
        ip netns del "$space" || true
    done
    rm -rf "${TMPDIR:-/tmp}/$lab"
}

make_lab() {
    sweep_dead_labs
    LAB_DIR=${TMPDIR:-/tmp}/$LAB
    mkdir -p "$LAB_DIR"
    make_links
    start_servers
}

# Ends every process we started, by its pid, and takes the namespaces away.
remove_lab() {
    [ -n "$LAB_DIR" ] || return 0
    local pid end=$((SECONDS + 5))
    for pid in "${LAB_PIDS[@]}"; do kill -TERM "$pid" 2>/dev/null || true; done
    for pid in "${LAB_PIDS[@]}"; do
        while kill -0 "$pid" 2>/dev/null && [ $SECONDS -lt $end ]; do sleep 0.05; done
        kill -KILL "$pid" 2>/dev/null || true
        wait "$pid" 2>/dev/null || true
    done
    # What an interrupted scene had running there goes with the namespaces.
    remove_spaces "$LAB"
    LAB_DIR=
}
