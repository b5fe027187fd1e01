#!/usr/bin/env python3
"""What scripts/compare needs beside a shell: load with the time it takes, and the table.
Standard library only.

    compare-tools.py load LAB DIR ROUND CASE PROFILE ADDRESS SECONDS CONNECTIONS [PID...]
                                        runs wrk once; DIR/last.json has what it took
    compare-tools.py judge DIR PEER     exit 1 unless every request was answered and seen by the
                                        servers as coming from PEER; keeps it in DIR/rounds.json
    compare-tools.py quiet DIR          notes how busy the machine is before anything is asked
    compare-tools.py report DIR [--json FILE] [--markdown FILE]
"""

import json
import os
import pathlib
import platform
import re
import resource
import statistics
import subprocess
import sys
import time

PERCENTILES = (50, 90, 99, 99.9)
SERVERS = (1, 2, 3)
# What wrk knows, as one line; times in microseconds.
WRK_SCRIPT = """
done = function(summary, latency, requests)
    local e = summary.errors
    local line = string.format('{"requests": %d, "seconds": %f, "errors": {"connect": %d, ' ..
        '"read": %d, "write": %d, "status": %d, "timeout": %d}, "latency_us": {',
        summary.requests, summary.duration / 1e6, e.connect, e.read, e.write, e.status, e.timeout)
    for _, p in ipairs({50, 90, 99, 99.9}) do
        line = line .. string.format('"p%s": %f, ', p, latency:percentile(p))
    end
    io.write('WRK ' .. line .. string.format('"max": %f}}\\n', latency.max))
end
"""
METHOD = (
    "`machine` is the time that all cores were not idle (/proc/stat), whoever used them, over the "
    "requests: client, servers, director and kernel. `beyond direct` is that less what requests "
    "straight to one of the servers take in the same round: the director's whole cost, the kernel's work for "
    "it included, and for gyre its polling. `own` is the director's processes alone, by the "
    "scheduler's clock, interrupts that came meanwhile included; what the kernel does for them "
    "elsewhere is not in it, and nftables has no process. The client's latency is as wrk sees it: "
    "in a closed loop, so that a slower director is also asked less often."
)


def cores_busy_s():
    """Seconds that cores were not idle, and those that the hypervisor took."""
    fields = [int(word) for word in pathlib.Path("/proc/stat").read_text().split("\n")[0].split()[1:]]
    user, nice, system, _idle, _iowait, irq, softirq, steal = fields[:8]
    hertz = os.sysconf("SC_CLK_TCK")
    return (user + nice + system + irq + softirq) / hertz, steal / hertz


def with_children(pids):
    """These processes and all that descend from them."""
    parents = {}
    for stat in pathlib.Path("/proc").glob("[0-9]*/stat"):
        try:
            parents[int(stat.parent.name)] = int(stat.read_text().rsplit(")", 1)[1].split()[1])
        except (OSError, IndexError):
            continue
    family = set(pids)
    while True:
        more = {pid for pid, parent in parents.items() if parent in family} - family
        if not more:
            return family
        family |= more


def on_cores_s(pids):
    """Seconds that these processes' threads were on a core (schedstat counts nanoseconds)."""
    total = 0
    for pid in with_children(pids):
        for file in pathlib.Path(f"/proc/{pid}/task").glob("*/schedstat"):
            try:
                total += int(file.read_text().split()[0])
            except (OSError, IndexError):
                continue
    return total / 1e9


def load(lab, directory, number, case, profile, address, seconds, connections, *pids):
    place, pids = pathlib.Path(directory), [int(pid) for pid in pids]
    script = place / "wrk.lua"
    script.write_text(WRK_SCRIPT)
    command = ["ip", "netns", "exec", f"{lab}-client", "wrk", "-t1", f"-c{connections}"]
    command += [f"-d{seconds}s", "--timeout", "8s", "-s", str(script)]
    command += ["-H", "Connection: close"] if profile == "new" else []
    before = cores_busy_s(), on_cores_s(pids), time.monotonic()
    run = subprocess.run(command + [f"http://{address}/"], capture_output=True, text=True)
    after = cores_busy_s(), on_cores_s(pids), time.monotonic()
    found = re.search(r"^WRK (.*)$", run.stdout, re.MULTILINE)
    if run.returncode or not found:
        sys.exit(f"wrk failed: {run.stdout}{run.stderr}")
    client = resource.getrusage(resource.RUSAGE_CHILDREN)
    last = json.loads(found.group(1))
    last |= {
        "round": int(number),
        "case": case,
        "profile": profile,
        "connections": int(connections),
        "machine_s": after[0][0] - before[0][0],
        "stolen_s": after[0][1] - before[0][1],
        "own_s": after[1] - before[1] if pids else None,
        "client_s": client.ru_utime + client.ru_stime,
        "elapsed_s": after[2] - before[2],
    }
    (place / "last.json").write_text(json.dumps(last))


def quiet(directory):
    before = cores_busy_s()[0]
    time.sleep(1)
    (pathlib.Path(directory) / "quiet.json").write_text(json.dumps(cores_busy_s()[0] - before))


def peers(place):
    """How often each server's log names which peer."""
    counts = {}
    for server in SERVERS:
        for line in (place / f"server{server}" / "access.log").read_text().splitlines():
            peer, status = line.split()[1], line.split()[-1]
            counts[peer, status] = counts.get((peer, status), 0) + 1
    return counts


def growth(place, what):
    """By how much gyre's workers' count grew during the load."""
    before, after = (
        sum(row[what] for row in json.loads((place / f"{when}.json").read_text())["workers"])
        for when in ("before", "after")
    )
    return after - before


def faults(place, last, peer):
    """What speaks against counting this round."""
    errors = {name: count for name, count in last["errors"].items() if count}
    if errors:
        yield f"requests failed: {errors}"
    if last["requests"] == 0:
        yield "no request was answered"
    served = peers(place)
    strangers = {who: count for who, count in served.items() if who != (peer, "200")}
    if strangers:
        yield f"servers saw others than {peer} with 200: {strangers}"
    logged, asked = served.get((peer, "200"), 0), last["requests"]
    # When the time is up, each connection may have a request under way.
    if not asked <= logged <= asked + last["connections"] + 1:
        yield f"{asked} requests answered, {logged} in the servers' logs"
    if last["case"].startswith("gyre-"):
        # A request is a frame at least, and each of wrk's connections a flow.
        for what, wanted in (("tx_frames", asked), ("flows_created", last["connections"])):
            grown = growth(place, what)
            if grown < wanted:
                yield f"gyre's {what} grew by {grown}, not {wanted}: who forwarded?"


def judge(directory, peer):
    place = pathlib.Path(directory)
    last = json.loads((place / "last.json").read_text())
    # nginx writes its log after the answer.
    time.sleep(0.3)
    found = list(faults(place, last, peer))
    rate, p99 = last["requests"] / last["seconds"], last["latency_us"]["p99"]
    name = f"{last['case']}, {last['profile']}"
    print(f"round {last['round'] + 1}  {name:<24} {rate:>8.0f}/s  p99 {p99 / 1e3:.2f} ms", flush=True)
    if found:
        sys.exit("\n".join(found))
    file = place / "rounds.json"
    rounds = json.loads(file.read_text()) if file.exists() else []
    file.write_text(json.dumps(rounds + [last]))


def machine():
    """The machine, and the versions of what was compared."""

    def first_line(*command):
        try:
            run = subprocess.run(command, capture_output=True, text=True)
        except OSError:
            return ""
        return (run.stdout + run.stderr).strip().split("\n")[0]

    cpu = re.search(r"^model name\s*: (.*)$", pathlib.Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return {
        "cpu": cpu.group(1) if cpu else "",
        "cores": len(os.sched_getaffinity(0)),
        "kernel": platform.release(),
        "haproxy": first_line("haproxy", "-v"),
        "nginx": first_line("nginx", "-v"),
        "nftables": first_line("nft", "-v"),
        "wrk": first_line("wrk", "-v"),
    }


def median_row(rows, floor):
    """One line of the table: medians over rounds; `floor` has direct's machine time by round."""
    per = lambda value, row: value / row["requests"] * 1e6
    rates = [row["requests"] / row["seconds"] for row in rows]
    median = statistics.median
    line = {
        "case": rows[0]["case"],
        "profile": rows[0]["profile"],
        "rounds": len(rows),
        "requests": sum(row["requests"] for row in rows),
        "requests_per_s": median(rates),
        "spread": (max(rates) - min(rates)) / median(rates),
        "machine_us": median(per(row["machine_s"], row) for row in rows),
        "beyond_direct_us": median(per(row["machine_s"], row) - floor[row["round"]] for row in rows),
        "own_us": None,
        "stolen": sum(row["stolen_s"] for row in rows) / sum(row["elapsed_s"] for row in rows),
        "latency_us": {
            name: median(row["latency_us"][name] for row in rows) for name in rows[0]["latency_us"]
        },
    }
    if rows[0]["own_s"] is not None:
        line["own_us"] = median(per(row["own_s"], row) for row in rows)
    return line


def lines(rounds):
    direct = [row for row in rounds if row["case"] == "direct"]
    floors = {
        profile: {
            row["round"]: row["machine_s"] / row["requests"] * 1e6
            for row in direct
            if row["profile"] == profile
        }
        for profile in {row["profile"] for row in rounds}
    }
    groups = {}
    for row in rounds:
        groups.setdefault((row["profile"], row["case"]), []).append(row)
    ranked = sorted(groups.items(), key=lambda item: item[0][0])
    return [median_row(rows, floors[profile]) for (profile, _), rows in ranked]


def table(rows):
    names = [f"p{p}" for p in PERCENTILES] + ["max"]
    head = ["through", "connections", "requests/s", "spread", "machine µs", "beyond direct µs"]
    yield head + ["own µs"] + [f"{name} ms" for name in names]
    for row in rows:
        own = "" if row["own_us"] is None else f"{row['own_us']:.1f}"
        yield [
            row["case"],
            "kept" if row["profile"] == "kept" else "one a request",
            f"{row['requests_per_s']:.0f}",
            f"{row['spread'] * 100:.0f} %",
            f"{row['machine_us']:.1f}",
            f"{row['beyond_direct_us']:.1f}",
            own,
        ] + [f"{row['latency_us'][name] / 1e3:.2f}" for name in names]


def markdown(rows):
    head, *body = table(rows)
    align = ["---", "---"] + ["---:"] * (len(head) - 2)
    return "\n".join("| " + " | ".join(cells) + " |" for cells in [head, align, *body])


def report(directory, *flags):
    rounds = json.loads((pathlib.Path(directory) / "rounds.json").read_text())
    rows = lines(rounds)
    remarks = [METHOD]
    stolen = max(row["stolen"] for row in rows)
    if stolen > 0.02:
        remarks.append(f"The hypervisor took up to {stolen:.0%} of a core: do not compare.")
    file = pathlib.Path(directory) / "quiet.json"
    others = json.loads(file.read_text()) if file.exists() else 0
    if others > 0.1:
        remarks.append(f"Others kept {others:.1f} cores busy beforehand: do not compare.")
    text = markdown(rows) + "\n\n" + "\n\n".join(remarks) + "\n"
    requests = sum(row["requests"] for row in rows)
    print(f"\n{text}\n{requests} requests in {len(rounds)} runs, none failed.")
    whole = {"machine": machine(), "cases": rows, "rounds": rounds, "remarks": remarks}
    for flag, path in zip(flags[::2], flags[1::2]):
        content = text if flag == "--markdown" else json.dumps(whole, indent=2) + "\n"
        pathlib.Path(path).write_text(content)


if __name__ == "__main__":
    commands = {"quiet": quiet, "load": load, "judge": judge, "report": report}
    commands[sys.argv[1]](*sys.argv[2:])
