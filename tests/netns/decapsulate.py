#!/usr/bin/python3
"""The far end of gyre's tunnels, where the kernel has no IPIP, GRE or GUE: takes what raw sockets
receive (so the kernel has checked and reassembled the outer packet), checks and strips the outer
headers by its own reading of the RFCs, and writes the inner packet to a TUN device.

Usage: decapsulate.py DEVICE GUE_PORT. Prints a line when it listens, one for each kind of tunnel
and VIP seen ("seen gre+csum 4in6 to 10.1.0.80"), one for each packet it refuses. It shares nothing
with gyre.
"""

import fcntl
import os
import select
import socket
import struct
import sys

TUNSETIFF, IFF_TUN, IFF_NO_PI = 0x400454CA, 1, 0x1000
SO_RCVBUFFORCE, UDP_NO_CHECK6_RX = 33, 102
INNER_OF_PROTOCOL = {4: 4, 41: 6}
INNER_OF_ETHERTYPE = {0x0800: 4, 0x86DD: 6}


class Refused(Exception):
    """Not a packet that this end accepts."""


def ones_sum(data):
    """RFC 1071: the folded sum, 0xffff where the data holds its right checksum."""
    if len(data) % 2:
        data += b"\0"
    total = sum(struct.unpack("!%dH" % (len(data) // 2), data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total


def from_gre(data):
    """RFC 2784: what was sent, its IP version, and the kind's name."""
    flags, ethertype = struct.unpack_from("!HH", data)
    if flags & 0x7FFF:
        raise Refused("gre flags %#x" % flags)
    if ethertype not in INNER_OF_ETHERTYPE:
        raise Refused("gre ethertype %#x" % ethertype)
    if not flags:
        return data[4:], INNER_OF_ETHERTYPE[ethertype], "gre"
    if ones_sum(data) != 0xFFFF or data[6:8] != b"\0\0":
        raise Refused("gre checksum")
    return data[8:], INNER_OF_ETHERTYPE[ethertype], "gre+csum"


def from_gue(udp, pseudo):
    """draft-ietf-intarea-gue, version 0, below UDP."""
    _, _, length, checksum = struct.unpack_from("!HHHH", udp)
    if length != len(udp):
        raise Refused("udp length %d of %d" % (length, len(udp)))
    if checksum and ones_sum(pseudo + udp) != 0xFFFF:
        raise Refused("udp checksum")
    kind = "gue+csum" if checksum else "gue"
    first, protocol, flags = struct.unpack_from("!BBH", udp, 8)
    header_end = 12 + 4 * (first & 0x1F)
    if first & 0xE0:
        raise Refused("gue version or control: %#x" % first)
    if protocol not in INNER_OF_PROTOCOL:
        raise Refused("gue protocol %d" % protocol)
    # Neither fields nor private flags: Linux asks for remote checksum offload only where its own
    # stack left a checksum open.
    if flags or header_end != 12:
        raise Refused("gue flags %#x, %d bytes" % (flags, header_end - 8))
    return udp[header_end:], INNER_OF_PROTOCOL[protocol], kind


def unwrap(family, protocol, data, peer, own, gue_port):
    """The inner packet and the name of its way, or None for what is no tunnel's."""
    outer = 6 if family == socket.AF_INET6 else 4
    if outer == 4:
        own = data[16:20]
        peer = data[12:16]
        data = data[4 * (data[0] & 15):]
    if protocol == 47:
        inner, version, kind = from_gre(data)
    elif protocol == 17:
        if struct.unpack_from("!H", data, 2)[0] != gue_port:
            return None
        length = struct.pack("!L", len(data)) if outer == 6 else struct.pack("!H", len(data))
        prefix = b"\0\0\0\x11" if outer == 6 else b"\0\x11"
        pseudo = peer + own + (length + prefix if outer == 6 else prefix + length)
        inner, version, kind = from_gue(data, pseudo)
    else:
        inner, version, kind = data, INNER_OF_PROTOCOL[protocol], "ipip"
    check_inner(inner, version)
    family, at = (socket.AF_INET, slice(16, 20)) if version == 4 else (socket.AF_INET6, slice(24, 40))
    vip = socket.inet_ntop(family, inner[at])
    return inner, "%s %din%d to %s" % (kind, version, outer, vip)


def check_inner(inner, version):
    """The inner packet is what the tunnel said, to its last byte."""
    if not inner or inner[0] >> 4 != version:
        raise Refused("inner version")
    if version == 4:
        if struct.unpack_from("!H", inner, 2)[0] != len(inner):
            raise Refused("inner length")
        if ones_sum(inner[: 4 * (inner[0] & 15)]) != 0xFFFF:
            raise Refused("inner checksum")
    elif 40 + struct.unpack_from("!H", inner, 4)[0] != len(inner):
        raise Refused("inner length")


def open_tun(name):
    fd = os.open("/dev/net/tun", os.O_RDWR)
    fcntl.ioctl(fd, TUNSETIFF, struct.pack("16sH22x", name.encode(), IFF_TUN | IFF_NO_PI))
    return fd


def open_sockets():
    opened = {}
    for family in (socket.AF_INET, socket.AF_INET6):
        for protocol in (4, 41, 47, 17):
            sock = socket.socket(family, socket.SOCK_RAW, protocol)
            sock.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 16 << 20)
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
            opened[sock.fileno()] = (sock, family, protocol)
    return opened


def hold_port(family, gue_port):
    """A socket that nobody reads: without it the kernel would answer "port unreachable"."""
    sock = socket.socket(family, socket.SOCK_DGRAM)
    if family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.setsockopt(socket.IPPROTO_UDP, UDP_NO_CHECK6_RX, 1)
    sock.bind(("", gue_port))
    return sock


def receive(sock, family):
    """A packet with its source and, over IPv6, its destination in bytes."""
    data, extra, _, peer = sock.recvmsg(65536, 256)
    if family == socket.AF_INET:
        return data, b"", b""
    own = next(value[:16] for level, _, value in extra if level == socket.IPPROTO_IPV6)
    return data, socket.inet_pton(family, peer[0].split("%")[0]), own


def main():
    device, gue_port = sys.argv[1], int(sys.argv[2])
    tun = open_tun(device)
    sockets = open_sockets()
    held = [hold_port(family, gue_port) for family in (socket.AF_INET, socket.AF_INET6)]
    poll = select.poll()
    for fd in sockets:
        poll.register(fd, select.POLLIN)
    print("listening", len(held), flush=True)
    seen = set()
    while True:
        for fd, _ in poll.poll():
            sock, family, protocol = sockets[fd]
            data, peer, own = receive(sock, family)
            try:
                found = unwrap(family, protocol, data, peer, own, gue_port)
                if found is None:
                    continue
                inner, name = found
                if name not in seen:
                    seen.add(name)
                    print("seen", name, flush=True)
                os.write(tun, inner)
            except (Refused, struct.error) as error:
                print("refused protocol %d: %s" % (protocol, error), flush=True)
            except OSError as error:
                print("tun: %s" % error, flush=True)


main()
