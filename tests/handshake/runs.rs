//! Whole connections over bad links, thousands of them.

use gyre::model::ClientAddress;

use crate::endpoint::Stack;
use crate::network::{Network, Plan, Random, TOA_KIND};

/// As Linux's, with an MSS that suits both families.
const LINUX: Stack =
    Stack { mss: 1440, scale: Some(7), sack: true, timestamps: true, buffer: 60_000 };

const ADDRESSES: [ClientAddress; 4] = [
    ClientAddress::None,
    ClientAddress::Toa { kind: TOA_KIND, on_syn: false },
    ClientAddress::ProxyV1,
    ClientAddress::ProxyV2,
];

fn stack(random: &mut Random, family: usize) -> Stack {
    let mss = [[1460, 1400, 536, 1452], [1440, 1380, 1220, 1432]][family];
    Stack {
        mss: mss[random.below(4) as usize],
        scale: [Some(7), Some(0), Some(9), None][random.below(4) as usize],
        sack: random.below(4) > 0,
        timestamps: random.below(3) > 0,
        buffer: [60_000, 8_000, 200_000][random.below(3) as usize],
    }
}

fn plan(address: ClientAddress, synproxy: bool, seed: u64) -> Plan {
    let mut random = Random(seed ^ 0x5eed);
    let family = random.below(2) as usize;
    Plan {
        family,
        address,
        synproxy,
        client: stack(&mut random, family),
        server: stack(&mut random, family),
        server_speaks_first: random.below(3) == 0,
        closes_at_once: random.below(3) == 0,
        request_bytes: [1, 300, 1448, 1460, 20_000][random.below(5) as usize],
        response_bytes: [1, 5_000, 60_000][random.below(3) as usize],
        loss_per_mille: [0, 10, 50, 150][random.below(4) as usize],
        jitter_us: [1, 3_000, 30_000][random.below(3) as usize],
        seed,
    }
}

/// Runs for each kind; `GYRE_HANDSHAKE_RUNS` asks for more.
fn runs() -> u64 {
    std::env::var("GYRE_HANDSHAKE_RUNS").ok().and_then(|runs| runs.parse().ok()).unwrap_or(120)
}

fn run_many(address: ClientAddress, synproxy: bool, first_seed: u64) {
    for seed in first_seed..first_seed + runs() {
        let mut network = Network::new(plan(address, synproxy, seed), (1024, 65535));
        network.run_connection(40_000);
    }
}

#[test]
fn every_byte_arrives_without_client_address() {
    run_many(ADDRESSES[0], false, 0);
}

#[test]
fn every_byte_arrives_with_toa() {
    run_many(ADDRESSES[1], false, 1 << 20);
}

#[test]
fn every_byte_arrives_behind_one_text_header() {
    run_many(ADDRESSES[2], false, 2 << 20);
}

#[test]
fn every_byte_arrives_behind_one_binary_header() {
    run_many(ADDRESSES[3], false, 3 << 20);
}

/// One source port for all: each connection takes over the one before, from TIME_WAIT.
#[test]
fn a_port_taken_over_keeps_its_header_and_its_shift() {
    for (at, address) in ADDRESSES.into_iter().enumerate() {
        for seed in 0..10 {
            let plan = Plan {
                client: LINUX,
                server: LINUX,
                loss_per_mille: 0,
                jitter_us: 1,
                ..plan(address, false, seed + 100 * at as u64)
            };
            let mut network = Network::new(plan, (1024, 1024));
            for connection in 0..20 {
                network.run_connection(40_000 + connection);
            }
        }
    }
}
