#!/usr/bin/env python3
"""What scripts/demo needs beside a shell: arithmetic over counters, a SYN flood, a look at the
wire. Standard library only.

    demo-tools.py scene DIR NAME MODE          counts one scene, appends it to DIR/scenes.json
    demo-tools.py cookies DIR                  exit 1 unless cookies answered the flood
    demo-tools.py report DIR SECONDS [FILE]    the table over all scenes; exit 1 on failures
    demo-tools.py flood INTERFACE MAC VIP SECONDS
    demo-tools.py toa INTERFACE                prints client and port of the first option seen
"""

import json
import pathlib
import re
import socket
import struct
import sys
import time

SERVERS = {f"10.2.0.1{n}": f"server{n}" for n in (1, 2, 3)}


def wrk_counts(text):
    """(requests, failures) of a wrk report: socket errors, time-outs and non-2xx all count."""
    requests = int(re.search(r"(\d+) requests in", text).group(1))
    errors = re.search(r"Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)", text)
    failures = sum(map(int, errors.groups())) if errors else 0
    refused = re.search(r"Non-2xx or 3xx responses: (\d+)", text)
    return requests, failures + (int(refused.group(1)) if refused else 0)


def by_name(stats, member):
    return {row["name"]: row["count"] for row in stats[member]}


def growth(before, after, member):
    """What grew between two `stats`, by name."""
    old = by_name(before, member)
    grown = {name: count - old.get(name, 0) for name, count in by_name(after, member).items()}
    return {name: count for name, count in grown.items() if count > 0}


def scene(directory, name, mode):
    place = pathlib.Path(directory)
    counts = [wrk_counts((place / f"wrk{n}").read_text()) for n in (1, 2)]
    curls = (place / "curl").read_text().split()
    requests = sum(count[0] for count in counts) + len(curls)
    failures = sum(count[1] for count in counts) + sum(code[:1] != "2" for code in curls)
    before, after = (json.loads((place / f"{at}.json").read_text()) for at in ("before", "after"))
    served = {
        address: len((place / server / "access.log").read_text().splitlines())
        for address, server in SERVERS.items()
    }
    row = {
        "name": name,
        "mode": mode,
        "requests": requests,
        "failures": failures,
        "servers": served,
        "handoffs": sum(growth(before, after, "hand_offs").values()),
        "drops": growth(before, after, "drops"),
    }
    file = place / "scenes.json"
    rows = json.loads(file.read_text()) if file.exists() else []
    file.write_text(json.dumps(rows + [row]))
    spread = ", ".join(f"{SERVERS[address]} {count}" for address, count in served.items())
    drops = ", ".join(f"{reason} {count}" for reason, count in row["drops"].items()) or "none"
    print(f"  requests  {requests}, failed {failures}")
    print(f"  spread    {spread}")
    print(f"  workers   {row['handoffs']} frames handed over")
    print(f"  drops     {drops}")


def cookies(directory):
    """Whether nearly every flooded SYN got a cookie, and flows were made for proven clients only."""
    place = pathlib.Path(directory)
    before, after = (json.loads((place / f"{at}.json").read_text()) for at in ("before", "after"))
    flooded = int(re.search(r"(\d+) SYNs", (place / "flood").read_text()).group(1))
    answered = growth(before, after, "replies").get("syn_cookie", 0)
    made = sum(row["flows_created"] for row in after["workers"])
    made -= sum(row["flows_created"] for row in before["workers"])
    real = answered - flooded
    # A frame or two in a thousand may be lost on an overloaded machine.
    sys.exit(0 if answered > 0.9 * flooded and made <= max(real, 0) + 0.1 * flooded else 1)


def report(directory, seconds, path=""):
    rows = json.loads((pathlib.Path(directory) / "scenes.json").read_text())
    whole = {"seconds": int(seconds), "workers": 2, "scenes": rows}
    if path:
        pathlib.Path(path).write_text(json.dumps(whole, indent=2) + "\n")
    failures = sum(row["failures"] for row in rows)
    requests = sum(row["requests"] for row in rows)
    print(f"{requests} requests in {len(rows)} scenes, {failures} failed; {seconds} s in all.")
    idle = [row["name"] for row in rows if sum(row["servers"].values()) == 0]
    if idle:
        print(f"No server was reached in: {', '.join(idle)}")
    sys.exit(1 if failures or idle else 0)


def checksum(data):
    if len(data) % 2:
        data += b"\0"
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def spoofed_syn(number, macs, vip):
    """A SYN from somewhere in 198.18.0.0/15 (RFC 2544: nobody's addresses)."""
    src = socket.inet_aton(f"198.{18 + (number >> 16 & 1)}.{number >> 8 & 255}.{number & 255}")
    pair = src + socket.inet_aton(vip)
    options = b"\x02\x04\x05\xb4\x04\x02\x08\x0a" + struct.pack("!II", number, 0) + b"\x01\x03\x03\x07"
    sequence = number * 2654435761 & 0xFFFFFFFF
    tcp = struct.pack("!HHIIBBHHH", 1024 + number % 50000, 80, sequence, 0, 10 << 4, 2, 64240, 0, 0)
    tcp += options
    pseudo = pair + struct.pack("!BBH", 0, 6, len(tcp))
    tcp = tcp[:16] + struct.pack("!H", checksum(pseudo + tcp)) + tcp[18:]
    ip = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(tcp), 0, 0x4000, 64, 6, 0) + pair
    ip = ip[:10] + struct.pack("!H", checksum(ip)) + ip[12:]
    return macs + b"\x08\x00" + ip + tcp


def flood(interface, director_mac, vip, seconds):
    """About 3,000 SYNs a second, bounded in time and number."""
    raw = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
    raw.bind((interface, 0))
    macs = bytes.fromhex(director_mac.strip().replace(":", "")) + raw.getsockname()[4]
    sent, end = 0, time.monotonic() + float(seconds)
    while time.monotonic() < end and sent < 50_000:
        for _ in range(60):
            raw.send(spoofed_syn(sent, macs, vip))
            sent += 1
        time.sleep(0.02)
    print(f"  flood     {sent} SYNs from spoofed addresses")


def toa_of(frame):
    """Client address and port in TCP option 254 of an IPv4 frame, if it has one."""
    if frame[12:14] != b"\x08\x00" or frame[23] != 6:
        return None
    start = 14 + (frame[14] & 15) * 4
    options = frame[start + 20 : start + (frame[start + 12] >> 4) * 4]
    while options and options[0] != 0:
        if options[0] == 1:
            options = options[1:]
            continue
        if len(options) < 2 or options[1] < 2:
            return None
        if options[0] == 254 and options[1] == 8:
            return socket.inet_ntoa(options[4:8]), struct.unpack("!H", options[2:4])[0]
        options = options[options[1] :]
    return None


def toa(interface):
    raw = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
    raw.bind((interface, 0))
    while True:
        seen = toa_of(raw.recv(65535))
        if seen:
            print(*seen, flush=True)
            return


if __name__ == "__main__":
    commands = {"scene": scene, "cookies": cookies, "report": report, "flood": flood, "toa": toa}
    commands[sys.argv[1]](*sys.argv[2:])
