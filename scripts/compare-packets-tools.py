#!/usr/bin/env python3
"""What scripts/compare-packets needs beside a shell. Standard library only.

    compare-packets-tools.py flows                      flows in `stats` on standard input
    compare-packets-tools.py half DIR                   half of the rate in DIR/full.json
    compare-packets-tools.py keep DIR DEVICE FLOWS KNOWN  takes DIR/full.json and half.json over
    compare-packets-tools.py report DIR [--json FILE] [--markdown FILE]
"""

import json
import pathlib
import statistics
import sys

# A device this close to what testpmd carries is as fast as can be seen here.
CLOSE = 0.9
METHOD = (
    "Frames of 64 bytes, UDP, uniform over the flows, by one generator on one core over memif; the "
    "device has the other. The generator sends all that the port takes, and `Mpps` is what came "
    "back, the median of the rounds. `testpmd` only moves frames: generator and port allow no more "
    "than that. A device within a tenth of it may be faster than its figure, which is labelled. "
    "Latency is there and back at half of the rate, with the loss there."
)


def flows():
    stats = json.load(sys.stdin)
    print(sum(worker["flows"] for worker in stats["workers"]))


def figure(place, name):
    return json.loads((place / f"{name}.json").read_text())["figures"][0]


def half(directory):
    print(max(1000, int(figure(pathlib.Path(directory), "full")["received_fps"] / 2)))


def keep(directory, device, count, known):
    place = pathlib.Path(directory)
    full, calm = figure(place, "full"), figure(place, "half")
    name = f"{device}, {count} flows"
    if full["received"] == 0 or calm["received"] == 0:
        sys.exit(f"{name}: nothing came back of {full['sent']} and {calm['sent']} frames")
    if int(known) < int(count):
        sys.exit(f"{name}: the device knows {known} connections: it did not track them")
    row = {
        "device": device,
        "flows": int(count),
        "known": int(known),
        "mpps": full["received_fps"] / 1e6,
        "loss": full["loss_ratio"],
        "half_loss": calm["loss_ratio"],
        "latency_ns": {name: calm["latency_ns"][name] for name in ("p50", "p99", "p99_9")},
        "half_limited_by": calm["limited_by"],
    }
    file = place / "rows.json"
    rows = json.loads(file.read_text()) if file.exists() else []
    file.write_text(json.dumps(rows + [row]))
    print(f"{name}: {row['mpps']:.3f} Mpps, lost {row['loss']:.2%}", flush=True)
    report = json.loads((place / "full.json").read_text())
    setup = {name: report[name] for name in ("machine", "dpdk", "ports")}
    (place / "setup.json").write_text(json.dumps(setup))


def medians(rows):
    """One row for each device and number of flows, in the order they came."""
    groups = {}
    for row in rows:
        groups.setdefault((row["flows"], row["device"]), []).append(row)
    for (flows, device), group in groups.items():
        middle = lambda pick: statistics.median(pick(row) for row in group)
        yield {
            "device": device,
            "flows": flows,
            "rounds": len(group),
            "mpps": middle(lambda row: row["mpps"]),
            "loss": middle(lambda row: row["loss"]),
            "half_loss": middle(lambda row: row["half_loss"]),
            "latency_ns": {
                name: middle(lambda row: row["latency_ns"][name]) for name in ("p50", "p99", "p99_9")
            },
        }


def with_labels(cases):
    """Who kept the figure from being higher, where that was not the device."""
    ceilings = {case["flows"]: case["mpps"] for case in cases if case["device"] == "testpmd"}
    for case in cases:
        ceiling = ceilings.get(case["flows"])
        case["of_testpmd"] = case["mpps"] / ceiling if ceiling else None
        is_ceiling = ceiling and case["mpps"] > CLOSE * ceiling
        case["limited_by"] = "generator and port" if is_ceiling else "device"
    return cases


def markdown(cases):
    yield "| device | flows | Mpps | of testpmd | lost | p50 µs | p99 µs | lost at half | limited by |"
    yield "|---|---:|---:|---:|---:|---:|---:|---:|---|"
    for case in cases:
        share = "" if case["of_testpmd"] is None else f"{case['of_testpmd']:.2f}"
        times = [f"{case['latency_ns'][p] / 1e3:.0f}" for p in ("p50", "p99")]
        cells = [case["device"], f"{case['flows']}", f"{case['mpps']:.2f}", share]
        cells += [f"{case['loss']:.2%}", *times, f"{case['half_loss']:.2%}", case["limited_by"]]
        yield "| " + " | ".join(cells) + " |"


def report(directory, *flags):
    place = pathlib.Path(directory)
    rounds = json.loads((place / "rows.json").read_text())
    cases = with_labels(list(medians(rounds)))
    text = "\n".join(markdown(cases)) + f"\n\n{METHOD}\n"
    print(f"\n{text}")
    setup = json.loads((place / "setup.json").read_text())
    whole = {**setup, "cases": cases, "rounds": rounds, "method": METHOD}
    for flag, path in zip(flags[::2], flags[1::2]):
        content = text if flag == "--markdown" else json.dumps(whole, indent=2) + "\n"
        pathlib.Path(path).write_text(content)


if __name__ == "__main__":
    commands = {"flows": flows, "half": half, "keep": keep, "report": report}
    commands[sys.argv[1]](*sys.argv[2:])
