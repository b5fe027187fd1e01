//! 20 MB both ways at 20 ms round trip and 0.1 % loss, every byte right, with and without
//! SYNPROXY, the loss falling on the same frames.
//!
//! GYRE_BULK_PAIRS=9, which scripts/soak bulk sets, alternates nine pairs and prints the median
//! ratio of their speeds.

use std::io::Read;
use std::net::TcpStream;
use std::time::{Duration, Instant};

use nix::sys::socket::{setsockopt, sockopt};

use crate::Case;
use crate::relay::Line;
use crate::servers::{at, exchange, pattern, start_tcp};
use crate::site::{Layout, Plan, Site, VIP4, service};

pub const CASES: &[Case] = &[("bulk_survives_delay_and_loss", bulk_survives_delay_and_loss)];

const BYTES: usize = 20_000_000;
const PLAIN: u16 = 7000;
const GUARDED: u16 = 7001;

fn bulk_survives_delay_and_loss() {
    let layout = Layout::TwoSegments;
    let plain = service(layout, "tcp", VIP4, (PLAIN, 7000), "");
    let guarded = service(layout, "tcp", VIP4, (GUARDED, 7000), "synproxy = true\n");
    let line = Line { delay: Duration::from_millis(10), loss_one_in: 1000, seed: 1 };
    let plan = Plan { line: Some(line), ..Plan::new(layout, plain + &guarded) };
    let site = Site::build(&plan);
    let (up, down) = (pattern(11, BYTES), pattern(22, BYTES));
    let _servers: Vec<_> = site
        .servers
        .iter()
        .map(|server| {
            let (down, up) = (down.clone(), up.clone());
            start_tcp(&server.space, at(&server.rip4, 7000), move |stream| {
                choose_cubic(&stream);
                let _ = exchange(&stream, &down, &up);
            })
        })
        .collect();
    // SYNPROXY learns from the servers' answers what it may promise clients; each worker by itself.
    for vport in [PLAIN, GUARDED].repeat(10) {
        let mut stream = site.client.enter(|| TcpStream::connect(at(VIP4, vport)).unwrap());
        stream.read_exact(&mut [0; 1]).unwrap();
    }
    let pairs: u64 = std::env::var("GYRE_BULK_PAIRS").map_or(1, |text| text.parse().unwrap());
    let mut ratios = Vec::new();
    for pair in 0..pairs {
        let mut order = [PLAIN, GUARDED];
        if pair % 2 == 1 {
            order.reverse();
        }
        let mut seconds = [0.0; 2];
        for vport in order {
            site.relay.as_ref().unwrap().reseed(0); // another seed in between restarts the count
            site.relay.as_ref().unwrap().reseed(100 + pair);
            seconds[usize::from(vport - PLAIN)] = transfer(&site, vport, (&up, &down));
        }
        println!("bulk: fullnat {:.2} s, with synproxy {:.2} s", seconds[0], seconds[1]);
        ratios.push(seconds[0] / seconds[1]);
    }
    assert!(site.relay.as_ref().unwrap().lost() > 10, "the line lost next to nothing");
    ratios.sort_by(f64::total_cmp);
    println!(
        "bulk: synproxy at {:.2} of fullnat's speed, median of {pairs}",
        ratios[ratios.len() / 2]
    );
}

/// Linux's usual congestion control, whatever this machine's is. BBR takes the director's quick
/// answer to the server's SYN-ACK for the path's round trip, and needs ten seconds to forget it.
fn choose_cubic(stream: &TcpStream) {
    setsockopt(stream, sockopt::TcpCongestion, &"cubic".into()).unwrap();
}

/// Seconds for both directions; panics on a wrong byte.
fn transfer(site: &Site, vport: u16, (up, down): (&[u8], &[u8])) -> f64 {
    let stream = site.client.enter(|| TcpStream::connect(at(VIP4, vport)).unwrap());
    choose_cubic(&stream);
    stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    stream.set_write_timeout(Some(Duration::from_secs(30))).unwrap();
    let started = Instant::now();
    let outcome = exchange(&stream, up, down);
    if let Err(error) = outcome {
        panic!("port {vport}: {error}; drops {:?}", site.director.drops());
    }
    started.elapsed().as_secs_f64()
}
