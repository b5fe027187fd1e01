//! Families of workers: turns, flows, bursts, rings, drops, hand-offs.

use std::fmt;

use super::Facts;
use super::sheet::{Buckets, Labels, Sheet};
use crate::counters::{BURST_BUCKETS, DropReason, HandOffCause, RingKind, WorkerCounters};

/// A worker with its number as a label.
struct Numbered<'f> {
    number: String,
    counters: &'f WorkerCounters,
    stalled: bool,
    rx_frames: u64,
    tx_frames: u64,
}

pub fn write(facts: &Facts, sheet: &mut Sheet<'_>) -> fmt::Result {
    let rows = facts.stats.workers.iter().zip(facts.workers.iter());
    let workers: Vec<Numbered<'_>> = rows
        .map(|(detail, counters)| Numbered {
            number: detail.worker.id.to_string(),
            counters,
            stalled: detail.worker.stalled,
            rx_frames: detail.worker.rx_frames,
            tx_frames: detail.worker.tx_frames,
        })
        .collect();
    turns(&workers, sheet)?;
    flows(facts, &workers, sheet)?;
    frames(&workers, sheet)?;
    rings(&workers, sheet)
}

fn labels<'l>(worker: &'l Numbered<'_>) -> Labels<'l> {
    vec![("worker", &*worker.number)]
}

type Read = fn(&Numbered<'_>) -> u64;

fn counters(
    workers: &[Numbered<'_>],
    families: &[(&str, &str, Read)],
    sheet: &mut Sheet<'_>,
) -> fmt::Result {
    for (name, about, read) in families {
        sheet.counters((name, about), workers.iter().map(|w| (labels(w), read(w))))?;
    }
    Ok(())
}

fn gauges(
    workers: &[Numbered<'_>],
    families: &[(&str, &str, Read)],
    sheet: &mut Sheet<'_>,
) -> fmt::Result {
    for (name, about, read) in families {
        sheet.gauges((name, about), workers.iter().map(|w| (labels(w), read(w))))?;
    }
    Ok(())
}

fn turns(workers: &[Numbered<'_>], sheet: &mut Sheet<'_>) -> fmt::Result {
    let families: [(&str, &str, Read); 2] = [
        ("gyre_worker_turns", "Turns of a worker's loop", |w| w.counters.turns.get()),
        ("gyre_worker_idle_turns", "Turns without a frame or other work", |w| {
            w.counters.idle_turns.get()
        }),
    ];
    counters(workers, &families, sheet)?;
    let busy = workers.iter().map(|w| (labels(w), w.counters.busy_ns.get() as f64 / 1e9));
    sheet.amounts(("gyre_worker_busy_seconds", "Time in turns that had work"), busy)?;
    // In the units of the processor's clock: with frames, cycles a packet.
    let cycles = workers.iter().map(|worker| (labels(worker), worker.counters.busy_cycles()));
    sheet.counters(("gyre_worker_busy_cycles", "The same in cycles of the TSC"), cycles)?;
    let families: [(&str, &str, Read); 2] = [
        ("gyre_worker_stalled", "Whether it completed no turn for a second", |w| w.stalled.into()),
        ("gyre_worker_config_revision", "Revision of the snapshot it works with", |w| {
            w.counters.revision.get()
        }),
    ];
    gauges(workers, &families, sheet)
}

fn flows(facts: &Facts, workers: &[Numbered<'_>], sheet: &mut Sheet<'_>) -> fmt::Result {
    let families: [(&str, &str, Read); 2] = [
        ("gyre_worker_flows", "Live flows", |w| w.counters.flows.get()),
        ("gyre_worker_pending_frames", "Frames that wait for a neighbour", |w| {
            w.counters.pending.get()
        }),
    ];
    gauges(workers, &families, sheet)?;
    let [v4, v6] = facts.flow_entries;
    let entries = workers.iter().flat_map(|worker| {
        [("ipv4", v4), ("ipv6", v6)].into_iter().map(move |(family, entries)| {
            (vec![("worker", &*worker.number), ("family", family)], entries)
        })
    });
    sheet.gauges(("gyre_worker_flow_entries", "Flows that it has room for"), entries)?;
    let families: [(&str, &str, Read); 5] = [
        ("gyre_worker_flows_created", "Flows created", |w| w.counters.flows_created.get()),
        ("gyre_worker_flows_expired", "Flows ended by their timer", |w| {
            w.counters.flows_expired.get()
        }),
        ("gyre_worker_flows_shed", "Half-open flows dropped for others", |w| {
            w.counters.flows_shed.get()
        }),
        ("gyre_worker_notes_lost", "Notes about persistence without room", |w| {
            w.counters.notes_lost.get()
        }),
        ("gyre_worker_locality_full", "Destinations not remembered for want of room", |w| {
            w.counters.locality_full.get()
        }),
    ];
    counters(workers, &families, sheet)
}

fn frames(workers: &[Numbered<'_>], sheet: &mut Sheet<'_>) -> fmt::Result {
    let families: [(&str, &str, Read); 3] = [
        ("gyre_worker_receive_frames", "Frames received on its queues", |w| w.rx_frames),
        ("gyre_worker_transmit_frames", "Frames sent on its queues", |w| w.tx_frames),
        ("gyre_worker_fast_frames", "Frames forwarded on the fast path", |w| {
            w.counters.fast_frames.get()
        }),
    ];
    counters(workers, &families, sheet)?;
    let bursts = workers.iter().map(|worker| {
        let counts = worker.counters.bursts.iter().map(|count| count.get());
        let ends = BURST_BUCKETS.iter().map(|end| *end as f64);
        let buckets: Vec<(f64, u64)> = ends.zip(counts).collect();
        let count = buckets.iter().map(|(_, count)| count).sum();
        (labels(worker), Buckets { sum: worker.rx_frames as f64, count, buckets })
    });
    let about = "Frames that one poll of a queue brought, polls without any left out";
    sheet.histograms(("gyre_worker_burst_frames", about), bursts)?;
    let dropped = workers.iter().flat_map(|worker| {
        DropReason::ALL.iter().zip(&worker.counters.drops).map(move |(reason, count)| {
            (vec![("worker", &*worker.number), ("reason", reason.name())], count.get())
        })
    });
    sheet.counters(("gyre_dropped_frames", "Frames dropped, by reason"), dropped)?;
    let handed = workers.iter().flat_map(|worker| {
        HandOffCause::ALL.iter().zip(&worker.counters.hand_offs).map(move |(cause, count)| {
            (vec![("worker", &*worker.number), ("cause", cause.name())], count.get())
        })
    });
    sheet.counters(("gyre_hand_offs", "Frames handed to other workers, by cause"), handed)
}

fn rings(workers: &[Numbered<'_>], sheet: &mut Sheet<'_>) -> fmt::Result {
    let depths = workers.iter().flat_map(|worker| {
        RingKind::ALL.iter().zip(&worker.counters.ring_depths).map(move |(ring, depth)| {
            (vec![("worker", &*worker.number), ("ring", ring.name())], depth.get())
        })
    });
    let about = "Items that waited in a worker's rings when it last looked";
    sheet.gauges(("gyre_worker_ring_depth", about), depths)
}
