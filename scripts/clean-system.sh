# A clean Debian in a directory of its own: made by debootstrap once, unpacked from a tarball in
# target/ afterwards; entered by chroot, or booted with its own systemd as PID 1 in namespaces.
# Sourced behind lib.sh, not run. What is checked in it is for others to say.
# shellcheck shell=bash

SUITE=bookworm
MIRROR=${DEBIAN_MIRROR:-http://deb.debian.org/debian}
STEP_SECONDS_MAX=600
# What a server has and a minimal system lacks.
BASE_PACKAGES=(systemd systemd-sysv dbus iproute2)
# Young enough that most packages in it are the mirror's still.
BASE_DAYS_MAX=14
BASE=$ROOT/target/clean-system/$SUITE.tar.gz
BOOT_SECONDS_MAX=60

PLACE='' ROOTFS='' UNSHARE='' INIT='' CGROUP=''

make_place() {
    PLACE=$(mktemp -d) ROOTFS=$PLACE/root
    mkdir "$ROOTFS"
    trap clean_up EXIT
    trap 'exit 130' INT TERM
}

clean_up() {
    [ -n "$PLACE" ] || return 0
    power_off
    leave_root
    # Never through a mount that stayed.
    if grep -q " $PLACE/" /proc/self/mounts; then
        warn "$PLACE is still in use and stays"
    else
        rm -rf --one-file-system "$PLACE"
    fi
}

# ---- the files -----------------------------------------------------------------------------

# From the tarball where there is a fresh one; else from the mirror, and a tarball for next time,
# with what the package $1 depends on beside. Fails, with the reason as the last line, where neither
# can be had.
unpack_base() {
    if [ -n "$(find "$BASE" -mtime "-$BASE_DAYS_MAX" 2>/dev/null)" ]; then
        say "A clean $SUITE from ${BASE#"$ROOT/"}"
        tar -xzf "$BASE" -C "$ROOTFS" && return
        warn "$BASE cannot be unpacked; making another"
        rm -rf --one-file-system "$BASE" "${ROOTFS:?}"/*
    fi
    say "A clean $SUITE from $MIRROR"
    timeout "$STEP_SECONDS_MAX" debootstrap --variant=minbase "$SUITE" "$ROOTFS" "$MIRROR" \
        >"$PLACE/debootstrap.log" 2>&1 || {
        tail -n 20 "$PLACE/debootstrap.log" >&2
        say "debootstrap from $MIRROR failed: $(tail -n 1 "$PLACE/debootstrap.log")"
        return 1
    }
    cp "$1" "$ROOTFS/tmp/wanted.deb"
    # What the package depends on is kept as packages, not installed: installing it is the test.
    enter_root && apt update &&
        apt install -y --no-install-recommends "${BASE_PACKAGES[@]}" &&
        apt install -y --no-install-recommends --download-only /tmp/wanted.deb || {
        say "the mirror does not give what is wanted: $(tail -n 1 "$PLACE/apt.log")"
        return 1
    }
    rm "$ROOTFS/tmp/wanted.deb"
    mkdir -p "$(dirname "$BASE")"
    tar -cz --one-file-system --exclude='./proc/*' --exclude='./sys/*' --exclude='./dev/*' \
        -C "$ROOTFS" -f "$BASE.new" . && mv "$BASE.new" "$BASE"
}

enter_root() {
    grep -q " $ROOTFS " /proc/self/mounts && return
    # A mount of its own, so that what is mounted in there goes no further.
    mount --bind "$ROOTFS" "$ROOTFS" && mount --make-private "$ROOTFS" &&
        mount -t proc proc "$ROOTFS/proc" &&
        mount --bind /dev "$ROOTFS/dev" &&
        # DPDK reads of cores and nodes there.
        mount -t sysfs -o ro sysfs "$ROOTFS/sys" || return 1
    printf '#!/bin/sh\nexit 101\n' >"$ROOTFS/usr/sbin/policy-rc.d"
    chmod 755 "$ROOTFS/usr/sbin/policy-rc.d"
}

leave_root() {
    umount "$ROOTFS/proc" "$ROOTFS/dev" "$ROOTFS/sys" "$ROOTFS" 2>/dev/null || true
}

# ---- inside --------------------------------------------------------------------------------

# In the booted system where it is booted, else by chroot.
inside() {
    local enter=(chroot "$ROOTFS")
    [ -z "$INIT" ] || enter=(nsenter --target "$INIT" --mount --uts --ipc --net --pid --cgroup
        --root --wd)
    timeout "$STEP_SECONDS_MAX" "${enter[@]}" env -i LC_ALL=C.UTF-8 TERM=dumb \
        PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin "$@"
}

apt() {
    inside env DEBIAN_FRONTEND=noninteractive apt-get -qq "$@" </dev/null >"$PLACE/apt.log" 2>&1 ||
        { tail -n 30 "$PLACE/apt.log" >&2 && return 1; }
}

# ---- booted --------------------------------------------------------------------------------
# Not by systemd-nspawn: that is a package more, and wants a mount for its root where we may be in a
# chroot ourselves.

# Runs as the namespaces' first process and becomes systemd. Devices are those that every container
# has, and TUN; /sys belongs to the network namespace; cgroups are those below our own.
# shellcheck disable=SC2016  # for the shell that it is given to
BECOME_INIT='
    set -e
    cd "$1"
    mount -t proc proc proc
    mount -t sysfs sysfs sys
    mount -t cgroup2 cgroup2 sys/fs/cgroup
    mount -t tmpfs -o mode=755 tmpfs run
    mount -t tmpfs -o mode=755 tmpfs dev
    mkdir dev/pts dev/shm dev/net
    while read -r name major minor mode; do
        mknod -m "$mode" "dev/$name" c "$major" "$minor"
    done <<END
null 1 3 666
zero 1 5 666
full 1 7 666
random 1 8 666
urandom 1 9 666
tty 5 0 666
net/tun 10 200 600
END
    mount -t devpts -o newinstance,ptmxmode=666,mode=620 devpts dev/pts
    ln -s pts/ptmx dev/ptmx
    ln -s /proc/self/fd dev/fd
    hostname clean-system
    exec env -i container=clean-system PATH=/usr/sbin:/usr/bin:/sbin:/bin \
        chroot . /lib/systemd/systemd'

# Boots it, with a network of its own and nothing in it. Fails, with the reason as the last line,
# where this machine cannot.
boot() {
    local log=$PLACE/boot.log ended state='' propagation=private
    ended=$((SECONDS + BOOT_SECONDS_MAX))
    mkdir -p "$PLACE/cgroup"
    mount -t cgroup2 cgroup2 "$PLACE/cgroup" 2>"$log" && CGROUP=$PLACE/cgroup/gyre-clean-$$ &&
        mkdir "$CGROUP" 2>>"$log" || {
        say "cgroups of version 2 cannot be had here: $(tail -n 1 "$log")"
        return 1
    }
    umount "$ROOTFS/proc" "$ROOTFS/dev" "$ROOTFS/sys"
    # A chroot's root may be no mount, whose propagation could be changed.
    unshare --mount true 2>/dev/null || propagation=unchanged
    # A session of its own: no signal of the terminal's reaches it.
    # shellcheck disable=SC2016  # for that shell
    setsid sh -c 'echo $$ >"$1/cgroup.procs" && exec unshare --mount --propagation "$4" --pid \
        --uts --ipc --net --cgroup --fork --kill-child=KILL sh -c "$2" sh "$3"' sh "$CGROUP" \
        "$BECOME_INIT" "$ROOTFS" "$propagation" </dev/null >"$log" 2>&1 &
    UNSHARE=$!
    until case $state in running | degraded) true ;; *) false ;; esac; do
        if ! kill -0 "$UNSHARE" 2>/dev/null || [ $SECONDS -ge $ended ]; then
            tail -n 20 "$log" >&2
            power_off
            leave_root
            enter_root
            say "systemd does not boot in namespaces here: $(tail -n 1 "$log")"
            return 1
        fi
        sleep 0.2
        INIT=$(pgrep -P "$UNSHARE" || true)
        [ -z "$INIT" ] || state=$(inside systemctl is-system-running 2>/dev/null || true)
    done
}

# Ends it, by itself or by force, and what belongs to it.
power_off() {
    local try
    if [ -n "$UNSHARE" ]; then
        [ -z "$INIT" ] || inside systemctl poweroff >/dev/null 2>&1 || true
        for try in $(seq 100); do
            kill -0 "$UNSHARE" 2>/dev/null || break
            [ "$try" != 99 ] || kill -KILL "$UNSHARE" 2>/dev/null
            sleep 0.1
        done
        wait "$UNSHARE" 2>/dev/null || true
        UNSHARE='' INIT=''
    fi
    [ -z "$CGROUP" ] || find "$CGROUP" -depth -type d -exec rmdir {} + 2>/dev/null || true
    CGROUP=''
    ! grep -q " $PLACE/cgroup " /proc/self/mounts || umount "$PLACE/cgroup" || true
}
