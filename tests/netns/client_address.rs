//! Clients' addresses on the wire, as tshark reads them from what servers receive.

use std::collections::BTreeSet;
use std::fs::File;
use std::net::IpAddr;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use pcap_file::pcap::{PcapPacket, PcapWriter};

use crate::Case;
use crate::lab::try_run;
use crate::link::Capture;
use crate::servers::{HTTP, at, start_udp_echo};
use crate::site::{CLIENT4, CLIENT6, Layout, Plan, Site, VIP4, VIP6, service, url};

pub const CASES: &[Case] = &[
    ("uoa_is_read_by_tshark_and_skipped_by_linux", uoa_is_read_by_tshark_and_skipped_by_linux),
    ("toa_is_read_by_tshark", toa_is_read_by_tshark),
];

const TWO: Layout = Layout::TwoSegments;

/// The fields of each captured frame that `filter` takes, a row each.
fn tshark(frames: &[Vec<u8>], file: &Path, filter: &str, fields: &[&str]) -> Vec<Vec<String>> {
    let mut writer = PcapWriter::new(File::create(file).unwrap()).unwrap();
    for frame in frames {
        let packet = PcapPacket::new(Duration::ZERO, frame.len() as u32, frame);
        writer.write_packet(&packet).unwrap();
    }
    drop(writer);
    let mut command = Command::new("tshark");
    command.args(["-o", "ip.check_checksum:TRUE", "-o", "tcp.check_checksum:TRUE"]);
    command.args(["-T", "fields", "-Y", filter, "-r"]).arg(file);
    for field in fields {
        command.args(["-e", field]);
    }
    let text = try_run(&mut command).unwrap();
    text.lines().map(|line| line.split('\t').map(str::to_string).collect()).collect()
}

/// What all servers got.
fn received(captures: &[Capture]) -> Vec<Vec<u8>> {
    captures.iter().flat_map(Capture::frames).collect()
}

fn uoa_is_read_by_tshark_and_skipped_by_linux() {
    let extra = "client_address = \"uoa\"\n";
    let services = [VIP4, VIP6].map(|vip| service(TWO, "udp", vip, (5353, 5353), extra));
    let site = Site::build(&Plan::new(TWO, services.concat()));
    let captures: Vec<_> =
        site.servers.iter().map(|server| Capture::start(&server.space, "eth0")).collect();
    let echoes: Vec<_> = site
        .servers
        .iter()
        .map(|server| start_udp_echo(&server.space, &server.name, at(&server.rip4, 5353)))
        .collect();
    let (answered, ports) = site.client.enter(|| {
        let ask = |local: &str, vip: &str| {
            let socket = std::net::UdpSocket::bind(at(local, 0)).unwrap();
            socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
            socket.send_to(b"question", at(vip, 5353)).unwrap();
            socket
        };
        let mut answer = [0; 64];
        let four = ask("0.0.0.0", VIP4);
        let answered = four.recv(&mut answer).map(|bytes| answer[..bytes].to_vec());
        let six = ask("::", VIP6);
        std::thread::sleep(Duration::from_secs(1));
        (answered, [four, six].map(|socket| socket.local_addr().unwrap().port()))
    });
    assert!(answered.is_ok(), "Linux takes a datagram with an option it does not know");
    drop(echoes);
    let frames = received(&captures);
    let file = site.lab.dir("uoa").join("server.pcap");
    let fields = ["ip.hdr_len", "ip.checksum.status", "udp.length"];
    let rows = tshark(&frames, &file, "udp.dstport == 5353 && ip.version == 4", &fields);
    assert_eq!(rows, [["28", "1", "16"].map(String::from).to_vec()]);
    // An option that it does not know has no field of its own.
    let text = try_run(Command::new("tshark").args(["-V", "-Y", "udp", "-r"]).arg(&file)).unwrap();
    assert!(text.contains("Unknown (0x1f) (8 bytes)"), "{text}");
    let option = [&[31, 8][..], &ports[0].to_be_bytes(), &[10, 1, 0, 2]].concat();
    assert!(frames.iter().any(|frame| frame.get(34..42) == Some(&option)), "{option:?}");
    let rows = tshark(&frames, &file, "ipv6.nxt == 248 && !icmpv6", &["ipv6.plen", "data.data"]);
    let port = format!("{:04x}", ports[1]);
    assert_eq!(rows.len(), 1, "{rows:?}");
    assert_eq!(rows[0][0], "40");
    let address = "fd000001000000000000000000000002";
    assert!(rows[0][1].starts_with(&format!("201100181f14{port}{address}")), "{rows:?}");
    // Linux without the module knows no such header, and says so: parameter problem.
    let refused = tshark(&frames, &file, "icmpv6.type == 4 && ipv6.nxt == 248", &["icmpv6.code"]);
    assert_eq!(refused, [["1".to_string()]]);
}

/// The value of the first TCP option of a kind in what tshark gives as raw options.
fn option_of(options: &str, kind: u8) -> Option<Vec<u8>> {
    let byte = |at: usize| u8::from_str_radix(options.get(2 * at..2 * at + 2)?, 16).ok();
    let mut at = 0;
    loop {
        match byte(at)? {
            0 => return None,
            1 => at += 1,
            found => {
                let size = usize::from(byte(at + 1)?);
                assert!(size >= 2, "{options}");
                if found == kind {
                    return (at + 2..at + size).map(byte).collect();
                }
                at += size;
            }
        }
    }
}

/// Each kind over both families: what servers get carries port and address of the client, and a
/// TCP checksum that tshark calls good.
fn toa_is_read_by_tshark() {
    let kinds: [u8; 3] = [254, 200, 252];
    let ends = [VIP4, VIP6].map(|vip| kinds.map(|kind| (vip, kind, 8000 + u16::from(kind))));
    let services: String = ends
        .iter()
        .flatten()
        .map(|(vip, kind, vport)| {
            let extra = format!("client_address = \"toa\"\ntoa_kind = {kind}\n");
            service(TWO, "tcp", vip, (*vport, HTTP), &extra)
        })
        .collect();
    let site = Site::build(&Plan::new(TWO, services));
    for (vip, kind, vport) in ends.into_iter().flatten() {
        let captures: Vec<_> =
            site.servers.iter().map(|server| Capture::start(&server.space, "eth0")).collect();
        let write_out = ["-gsS", "-o", "/dev/null", "-w", "%{http_code} %{local_port}"];
        let url = url(vip, vport);
        let said = site.client.run("curl", &[&write_out[..], &[&*url]].concat());
        let (status, src_port) = said.split_once(' ').unwrap();
        assert_eq!(status, "200");
        let src_port: u16 = src_port.parse().unwrap();
        let client = if vip == VIP4 { CLIENT4 } else { CLIENT6 };
        let address = match client.parse().unwrap() {
            IpAddr::V4(v4) => v4.octets().to_vec(),
            IpAddr::V6(v6) => v6.octets().to_vec(),
        };
        let expected = [&src_port.to_be_bytes()[..], &address].concat();
        let file = site.lab.dir(&format!("toa-{kind}-{}", address.len())).join("server.pcap");
        let fields = ["tcp.checksum.status", "tcp.options"];
        let rows = tshark(&received(&captures), &file, "tcp.dstport == 80", &fields);
        assert!(rows.iter().all(|row| row[0] == "1"), "{rows:?}");
        let told = rows.iter().filter_map(|row| option_of(&row[1], kind));
        let told: BTreeSet<Vec<u8>> = told.collect();
        assert_eq!(told, BTreeSet::from([expected]), "{vip} {kind}: {rows:?}");
    }
}
