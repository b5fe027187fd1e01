//! One flow, one worker, always: a director of one to eight workers under random traffic and
//! random changes, by a seed.
//!
//! Every frame arrives on a random queue, as over a port without RSS; workers hand frames to each
//! other through memory and run on different snapshots for a while. Both ends of each connection
//! are strict TCP endpoints. `checks` has what must hold at any moment, `team` what must hold of
//! each frame, `world` what must hold of each conversation.
//!
//! A run that fails names its seed; `GYRE_SIMULATION_SEED=SEED cargo test --no-default-features
//! --test simulation` runs it alone, and tells what happens.

mod changes;
mod checks;
mod decisions;
#[path = "../handshake/endpoint.rs"]
mod endpoint;
mod ends;
mod link;
mod local;
mod plan;
#[path = "../handshake/segment.rs"]
mod segment;
#[path = "../support/mod.rs"]
mod support;
mod talk;
mod team;
mod world;

use plan::{Mix, Plan};
use world::{Outcome, World};

/// Runs of each test, two thousand together; `GYRE_SIMULATION_RUNS` asks for another number.
const fn runs(mix: Mix) -> usize {
    match mix {
        Mix::Calm | Mix::Changes | Mix::BadLinks => 600,
        // Three times as long as the others.
        Mix::FewPorts => 200,
    }
}

fn run(plan: Plan) -> Outcome {
    let seed = plan.seed;
    std::panic::catch_unwind(|| World::new(plan).run()).unwrap_or_else(|_| {
        panic!("seed {seed} failed; run it alone with GYRE_SIMULATION_SEED={seed}")
    })
}

fn run_many(mix: Mix, first_seed: u64) {
    let alone = std::env::var("GYRE_SIMULATION_SEED").ok().and_then(|seed| seed.parse().ok());
    let count = std::env::var("GYRE_SIMULATION_RUNS").ok().and_then(|runs| runs.parse().ok());
    let all = first_seed..first_seed + (1 << 32);
    let seeds: Vec<u64> = match alone {
        Some(seed) if all.contains(&seed) => vec![seed],
        Some(_) => return,
        None => all.take(count.unwrap_or(runs(mix))).collect(),
    };
    let mut total = Outcome::default();
    for seed in &seeds {
        total.add(&run(Plan::new(mix, *seed)));
    }
    println!("{mix:?}: {} runs, {total:?}", seeds.len());
    if alone.is_none() {
        // What is refused or cut off for a reason must be the exception.
        assert!(total.done > (total.cut + total.refused) * 2, "{total:?}");
        assert!(total.hand_offs > 0 && total.done > seeds.len() as u64);
        assert!(total.networks > 0 && total.hops_freed > 0, "{total:?}");
        assert!(total.local > 0 || mix == Mix::FewPorts, "{total:?}");
    }
}

#[test]
fn flows_keep_their_worker_and_server() {
    run_many(Mix::Calm, 0);
}

#[test]
fn flows_keep_their_worker_and_server_while_the_configuration_changes() {
    run_many(Mix::Changes, 1 << 32);
}

#[test]
fn flows_keep_their_worker_and_server_over_bad_links() {
    run_many(Mix::BadLinks, 2 << 32);
}

#[test]
fn ports_are_never_shared_when_they_are_few() {
    run_many(Mix::FewPorts, 3 << 32);
}
