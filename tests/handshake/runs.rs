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
    let loss_per_mille = [0, 10, 50, 150][random.below(4) as usize];
    // A server is given up after five SYNs, so losses must not pass for silence.
    let loss_per_mille = if synproxy { loss_per_mille / 3 } else { loss_per_mille };
    // A cookie's SYN-ACK is not repeated: a client that waits for its server after its ACK was
    // lost waits for ever, as with Linux's cookies.
    let may_wait = !synproxy || loss_per_mille == 0;
    Plan {
        family,
        server_family: family,
        address,
        synproxy,
        client: stack(&mut random, family),
        server: stack(&mut random, family),
        server_speaks_first: random.below(3) == 0 && may_wait,
        closes_at_once: random.below(3) == 0,
        request_bytes: [1, 300, 1448, 1460, 20_000][random.below(5) as usize],
        response_bytes: [1, 5_000, 60_000][random.below(3) as usize],
        loss_per_mille,
        jitter_us: [1, 3_000, 30_000][random.below(3) as usize],
        seed,
    }
}

/// Runs for each kind; `GYRE_HANDSHAKE_RUNS` asks for more.
fn runs() -> u64 {
    std::env::var("GYRE_HANDSHAKE_RUNS").ok().and_then(|runs| runs.parse().ok()).unwrap_or(30)
}

fn run_many(address: ClientAddress, synproxy: bool, first_seed: u64) {
    for seed in first_seed..first_seed + runs() {
        run(plan(address, synproxy, seed));
    }
}

fn run(plan: Plan) {
    // Shown when the run fails.
    println!("{plan:?}");
    let mut network = Network::new(plan, (1024, 65535));
    // A server that lacks what its service's clients are promised costs the first of them.
    let lacks_scale = plan.client.scale.is_some() && plan.server.scale.is_none();
    let lacks_stamps = plan.client.timestamps && !plan.server.timestamps;
    if plan.synproxy && (lacks_scale || lacks_stamps) {
        assert!(!network.try_connection(39_999), "{plan:?}");
    }
    network.run_connection(40_000);
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

#[test]
fn every_byte_arrives_behind_a_cookie() {
    run_many(ADDRESSES[0], true, 4 << 20);
}

#[test]
fn every_byte_arrives_behind_a_cookie_with_toa() {
    run_many(ADDRESSES[1], true, 5 << 20);
}

#[test]
fn every_byte_arrives_behind_a_cookie_and_a_text_header() {
    run_many(ADDRESSES[2], true, 6 << 20);
}

#[test]
fn every_byte_arrives_behind_a_cookie_and_a_binary_header() {
    run_many(ADDRESSES[3], true, 7 << 20);
}

/// Every way to tell the client's address, with and without a cookie, from either family to the
/// other.
#[test]
fn every_byte_arrives_between_families() {
    let kinds = ADDRESSES.into_iter().flat_map(|address| [(address, false), (address, true)]);
    for (at, (address, synproxy)) in kinds.enumerate() {
        for seed in 0..runs() / 2 {
            let plan = plan(address, synproxy, (8 << 20) + 1000 * at as u64 + seed);
            let server_family = 1 - plan.family;
            let server = stack(&mut Random(seed ^ 0xfa417), server_family);
            run(Plan { server_family, server, ..plan });
        }
    }
}

/// One source port for all: each connection takes over the one before, from TIME_WAIT.
#[test]
fn a_port_taken_over_keeps_its_header_and_its_shift() {
    let kinds = ADDRESSES.into_iter().flat_map(|address| [(address, false), (address, true)]);
    for (at, (address, synproxy)) in kinds.enumerate() {
        for seed in 0..5 {
            let plan = Plan {
                client: LINUX,
                server: LINUX,
                loss_per_mille: 0,
                jitter_us: 1,
                ..plan(address, synproxy, seed + 100 * at as u64)
            };
            let mut network = Network::new(plan, (1024, 1024));
            for connection in 0..20 {
                network.run_connection(40_000 + connection);
            }
        }
    }
}
