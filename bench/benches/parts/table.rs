//! Flow table and timer wheel.

use std::cell::RefCell;
use std::hint::black_box;
use std::net::IpAddr;

use divan::Bencher;
use divan::counter::ItemsCount;
use gyre::dataplane::parts::NewFlow;
use gyre::dataplane::timer::Wheel;
use gyre::dataplane::{FlowId, FlowKey, FlowTable};
use gyre::model::{ForwardMode, NextHopId, Protocol, ServerId, ServiceId, Tunnel};
use gyre::time::Nanos;

use crate::{BURST, Order};

const SIZES: [usize; 2] = [1 << 10, 1 << 20];
const START: Nanos = Nanos::from_secs(1_000);

/// A FULLNAT flow: filed under two tuples.
fn flow(at: usize) -> NewFlow {
    let [_, b, c, d] = (at as u32).to_be_bytes();
    NewFlow {
        key: FlowKey {
            protocol: Protocol::Tcp,
            src: IpAddr::from([10, b, c, d]),
            dst: IpAddr::from([198, 19, 0, 1]),
            src_port: 1024,
            dst_port: 80,
        },
        service: ServiceId(0),
        server: ServerId(0),
        server_address: (IpAddr::from([198, 19, 1, 1]), 80),
        local: Some((IpAddr::from([198, 19, 2 + b, c]), 1024 + u16::from(d))),
        mode: ForwardMode::FullNat,
        tunnel: Tunnel::Ipip,
        decrements_ttl: true,
        hop: NextHopId(0),
        shares_ports: false,
        flags: 0,
        one_packet: false,
    }
}

/// A table of `count` flows with room for one in eight more.
fn filled(count: usize) -> (FlowTable, Vec<FlowId>) {
    let mut table = FlowTable::new(count + count / 8, 1, 42, START).expect("memory for flows");
    let ids = (0..count).map(|at| table.insert(&flow(at)).expect("room")).collect();
    (table, ids)
}

#[divan::bench(args = SIZES)]
fn find(bencher: Bencher, count: usize) {
    let (table, _) = filled(count);
    let mut order = Order::new(count);
    bencher.counter(ItemsCount::new(BURST)).bench_local(|| {
        for _ in 0..BURST {
            black_box(table.find(&flow(order.next()).key).expect("it is there"));
        }
    });
}

#[divan::bench(args = SIZES)]
fn miss(bencher: Bencher, count: usize) {
    let (table, _) = filled(count);
    let mut order = Order::new(count);
    bencher.counter(ItemsCount::new(BURST)).bench_local(|| {
        for _ in 0..BURST {
            let key = FlowKey { src_port: 1, ..flow(order.next()).key };
            assert!(table.find(&key).is_none());
        }
    });
}

/// Inserts what was taken out just before, off the clock.
#[divan::bench(args = SIZES, sample_size = 8)]
fn insert(bencher: Bencher, count: usize) {
    let parts = RefCell::new((filled(count), Order::new(count)));
    let take = || {
        let ((table, ids), order) = &mut *parts.borrow_mut();
        let places = [(); BURST].map(|()| order.next());
        places.iter().for_each(|place| table.remove(ids[*place]));
        places
    };
    bencher.counter(ItemsCount::new(BURST)).with_inputs(take).bench_local_values(|places| {
        let ((table, ids), _) = &mut *parts.borrow_mut();
        for place in places {
            ids[place] = table.insert(&flow(place)).expect("room");
        }
    });
}

/// Takes out what was put in just before, off the clock.
#[divan::bench(args = SIZES, sample_size = 2)]
fn remove(bencher: Bencher, count: usize) {
    let parts = RefCell::new((filled(count).0, count));
    let put = || {
        let (table, next) = &mut *parts.borrow_mut();
        [(); BURST].map(|()| {
            *next += 1;
            table.insert(&flow(*next)).expect("room")
        })
    };
    bencher.counter(ItemsCount::new(BURST)).with_inputs(put).bench_local_values(|ids| {
        let (table, _) = &mut *parts.borrow_mut();
        ids.into_iter().for_each(|id| table.remove(id));
    });
}

/// Arms anew, as a flow whose state changed.
#[divan::bench(args = SIZES)]
fn timer_arm(bencher: Bencher, count: usize) {
    let mut wheel = Wheel::new(count as u32, START).expect("memory for timers");
    let mut order = Order::new(count);
    for at in 0..count {
        wheel.arm(at as u32, START + 900_000_000_000);
    }
    bencher.counter(ItemsCount::new(BURST)).bench_local(|| {
        for _ in 0..BURST {
            let at = order.next();
            wheel.arm(at as u32, START + 1_000_000_000 * (1 + at as u64 % 900));
        }
    });
}

/// Arms, lets the time pass, takes what is due.
#[divan::bench(args = SIZES)]
fn timer_fire(bencher: Bencher, count: usize) {
    let mut wheel = Wheel::new(count as u32, START).expect("memory for timers");
    let (mut order, mut now) = (Order::new(count), START);
    bencher.counter(ItemsCount::new(BURST)).bench_local(|| {
        for _ in 0..BURST {
            wheel.arm(order.next() as u32, now + 200_000_000);
        }
        now = now + 500_000_000;
        let fired = std::iter::from_fn(|| wheel.pop_due(now)).count();
        assert_eq!(fired, BURST);
    });
}
