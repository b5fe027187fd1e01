#!/usr/bin/env python3
"""Judges what scripts/soak left in a directory: wrk's reports, nginx's logs, counts.

    soak-tools.py churn|ports DIR      the verdict
    soak-tools.py idle FILE            exit 1 while a `stats` shows flows or buffers in use
"""

import importlib.util
import json
import pathlib
import sys

# A connection opened just before the drain is logged when nginx has come round to its first
# request: on a busy machine that takes some tenths of a second. SYNs are counted beside it.
SETTLED_S = 1.0


def demo_tools():
    path = pathlib.Path(__file__).with_name("demo-tools.py")
    spec = importlib.util.spec_from_file_location("demo_tools", path)
    module = importlib.util.module_from_spec(spec)
    sys.dont_write_bytecode = True
    spec.loader.exec_module(module)
    return module


def first_requests(log):
    """Times of requests that were the first of their connection."""
    rows = (line.split() for line in log.read_text().splitlines())
    return [float(row[0]) for row in rows if row[3] == "1"]


def new_connections_while_drained(place):
    firsts = {n: first_requests(place / f"server{n}" / "access.log") for n in "123"}
    opened = logged = 0
    for line in (place / "drained").read_text().splitlines():
        server, start, end, syns = line.split()
        start, end = float(start) + SETTLED_S, float(end)
        opened += int(syns)
        logged += sum(start < at < end for at in firsts[server])
    return opened, logged


def holdings(stats):
    """Buffers, flows and source ports in use."""
    pools = [pool for port in stats["ports"] for pool in port["mempools"]]
    unique = {pool["name"]: pool["in_use"] for pool in pools}
    return {
        "buffers": sum(unique.values()),
        "flows": sum(worker["flows"] for worker in stats["workers"]),
        "source ports": sum(row["used"] for row in stats["local_addresses"]),
    }


def churn(directory):
    place = pathlib.Path(directory)
    counts = [demo_tools().wrk_counts((place / f"wrk{n}").read_text()) for n in (1, 2)]
    requests, failures = (sum(column) for column in zip(*counts))
    opened, logged = new_connections_while_drained(place)
    cycles = len((place / "drained").read_text().splitlines())
    before, after = (json.loads((place / f"{at}.json").read_text()) for at in ("before", "after"))
    print(f"{requests} requests, {failures} failed")
    syns = [int(count) for count in (place / "syns").read_text().split()]
    print(f"{sum(syns)} connections opened at {len(syns)} servers")
    print(f"{cycles} drains; at drained servers {opened} SYNs, {logged} first requests")
    leaks = 0
    for what, count in holdings(before).items():
        later = holdings(after)[what]
        print(f"{what} in use: {count} before, {later} after")
        leaks += later != count
    drops = {row["name"]: row["count"] for row in after["drops"] if row["count"]}
    print(f"drops: {drops or 'none'}")
    return not (failures or opened or logged or leaks or not requests or not cycles or not all(syns))


def ports(directory):
    place = pathlib.Path(directory)
    requests, failures = demo_tools().wrk_counts((place / "wrk1").read_text())
    stats = json.loads((place / "after.json").read_text())
    lip = stats["local_addresses"][0]
    sent = sum(row["count"] for row in stats["drops"] if row["name"] == "no_source_port")
    print(f"{requests} connections, {failures} failed, {sent} reset for want of a port")
    print(f"{lip['reused']} times a port was taken over from TIME_WAIT")
    return requests > 1000 and not failures and not sent and lip["reused"] > 0


def idle(file):
    return not any(holdings(json.loads(pathlib.Path(file).read_text())).values())


if __name__ == "__main__":
    if sys.argv[1] == "idle":
        sys.exit(0 if idle(sys.argv[2]) else 1)
    passed = {"churn": churn, "ports": ports}[sys.argv[1]](sys.argv[2])
    print("soak: passed" if passed else "soak: FAILED")
    sys.exit(0 if passed else 1)
