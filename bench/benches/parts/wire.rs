//! Arithmetic over bytes: checksums, the Toeplitz hash, SYN cookies.

use std::hint::black_box;
use std::net::IpAddr;

use divan::Bencher;
use divan::counter::{BytesCount, ItemsCount};
use gyre::dataplane::FlowKey;
use gyre::dataplane::parts::{Agreed, Check, Secrets};
use gyre::model::{Protocol, Steering};
use gyre::time::Nanos;
use gyre::wire::checksum::{ChecksumDelta, Sum};
use gyre::wire::tcp::SeqNum;

use crate::BURST;

const NOW: Nanos = Nanos::from_secs(1_000);

#[divan::bench(args = [20, 64, 576, 1500])]
fn checksum(bencher: Bencher, bytes: usize) {
    let packet = vec![0x5a; bytes];
    bencher
        .counter(BytesCount::new(bytes))
        .bench(|| Sum::new().add_bytes(black_box(&packet)).checksum());
}

/// What FULLNAT changes: both addresses and both ports.
#[divan::bench]
fn checksum_delta(bencher: Bencher) {
    bencher.bench(|| {
        let (old, new) = black_box((0x0a00_0001, 0xc612_0001));
        let delta = ChecksumDelta::new().replace_u32(old, new).replace_u32(old + 1, new + 1);
        delta.replace_u16(1024, 2048).replace_u16(80, 8080).apply(black_box(0x1234))
    });
}

fn tuple(is_ipv4: bool, at: u16) -> (IpAddr, IpAddr) {
    let [c, d] = at.to_be_bytes();
    match is_ipv4 {
        true => ([198, 18, c, d].into(), [198, 19, 0, 1].into()),
        false => {
            let low = |low| IpAddr::from([0x2001, 2, 0, 0, 0, 0, 0, low]);
            (low(at), low(1))
        }
    }
}

fn keys(is_ipv4: bool) -> Vec<FlowKey> {
    let key = |at| {
        let (src, dst) = tuple(is_ipv4, at);
        FlowKey { protocol: Protocol::Tcp, src, dst, src_port: 1024, dst_port: 80 }
    };
    (0..BURST as u16).map(key).collect()
}

#[divan::bench(args = [4, 6])]
fn toeplitz(bencher: Bencher, version: u8) {
    let (steering, keys) = (Steering::for_workers(2), keys(version == 4));
    bencher.counter(ItemsCount::new(BURST)).bench(|| {
        for key in black_box(&keys) {
            black_box(steering.hash(key.src, key.dst, key.src_port, key.dst_port));
        }
    });
}

const AGREED: Agreed = Agreed { mss_index: 3, window_scale: Some(7), sack: true, timestamps: true };

#[divan::bench(args = [4, 6])]
fn cookie_make(bencher: Bencher, version: u8) {
    let (mut secrets, keys) = (Secrets::new(42, NOW), keys(version == 4));
    bencher.counter(ItemsCount::new(BURST)).bench_local(|| {
        for key in black_box(&keys) {
            black_box(secrets.answer(key, NOW).cookie(SeqNum(1), &AGREED));
        }
    });
}

#[divan::bench(args = [4, 6])]
fn cookie_check(bencher: Bencher, version: u8) {
    let (mut secrets, keys) = (Secrets::new(42, NOW), keys(version == 4));
    let cookies: Vec<SeqNum> =
        keys.iter().map(|key| secrets.answer(key, NOW).cookie(SeqNum(1), &AGREED)).collect();
    bencher.counter(ItemsCount::new(BURST)).bench_local(|| {
        for (key, cookie) in keys.iter().zip(&cookies) {
            let check = secrets.check(black_box(key), SeqNum(1), *cookie, NOW);
            assert!(matches!(check, Check::Valid(_)));
        }
    });
}

/// A flood's: wrong under both secrets.
#[divan::bench(args = [4, 6])]
fn cookie_refuse(bencher: Bencher, version: u8) {
    let (mut secrets, keys) = (Secrets::new(42, NOW), keys(version == 4));
    bencher.counter(ItemsCount::new(BURST)).bench_local(|| {
        for (at, key) in keys.iter().enumerate() {
            black_box(secrets.check(black_box(key), SeqNum(1), SeqNum(at as u32 * 7919), NOW));
        }
    });
}
