//! `gyre replay`, as a user calls it: recorded traffic of the kernel's lab through the binary.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use gyre::wire::build::PacketBuilder;
use gyre::wire::ethernet::MacAddr;
use gyre::wire::ipv4::Ipv4;
use gyre::wire::tcp::{Tcp, TcpFlags, TcpOption};
use pcap_file::DataLink;
use pcap_file::pcap::{PcapPacket, PcapReader, PcapWriter};
use pcap_file::pcapng::PcapNgWriter;
use pcap_file::pcapng::blocks::enhanced_packet::EnhancedPacketBlock;
use pcap_file::pcapng::blocks::interface_description::InterfaceDescriptionBlock;
use std::time::Duration;

const CONFIG: &str = r#"
[[port]]
name = "client"
device = "net_null0"
kernel = "none"
mac = "02:00:00:00:01:01"
addresses = ["192.168.100.1/24"]

[[port]]
name = "server"
device = "net_null1"
kernel = "none"
mac = "02:00:00:00:02:01"
addresses = ["10.2.0.1/24"]

[[neighbour]]
address = "10.2.0.11"
mac = "02:00:00:00:02:0b"
port = "server"

[[neighbour]]
address = "10.2.0.12"
mac = "02:00:00:00:02:0c"
port = "server"

[[service]]
address = "10.1.0.1:80"
protocol = "tcp"
scheduler = "rr"
forwarding = "dr"
ttl = "decrement"
  [[service.server]]
  address = "10.2.0.11"
  [[service.server]]
  address = "10.2.0.12"
"#;

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

fn replay(directory: &Path, input: &Path, config: &str) -> Output {
    let config_path = directory.join("gyre.toml");
    std::fs::write(&config_path, config).unwrap();
    let port_file = |port: &str, path: &Path| format!("{port}={}", path.display());
    Command::new(env!("CARGO_BIN_EXE_gyre"))
        .arg("replay")
        .arg("-c")
        .arg(&config_path)
        .args(["--in", &port_file("client", input)])
        .args(["--out", &port_file("server", &directory.join("server.pcap"))])
        .args(["--out", &port_file("client", &directory.join("client.pcap"))])
        .args(["--report", &directory.join("report.json").display().to_string()])
        .output()
        .unwrap()
}

fn frames(path: &Path) -> Vec<Vec<u8>> {
    let mut reader = PcapReader::new(std::fs::File::open(path).unwrap()).unwrap();
    std::iter::from_fn(|| reader.next_packet().map(|packet| packet.unwrap().data.into_owned()))
        .collect()
}

/// Frames of a recorded link that did not come from the director itself.
fn towards_director(path: &Path, director: [u8; 6]) -> Vec<Vec<u8>> {
    frames(path).into_iter().filter(|frame| frame[6..12] != director).collect()
}

/// What the kernel did with the same frames is what comes out, byte for byte: same server, same
/// TTL, same checksums.
#[test]
fn recorded_frames_come_out_as_the_kernels() {
    let directory = tempfile::tempdir().unwrap();
    let director = [2, 0, 0, 0, 1, 1];
    let input = directory.path().join("in.pcap");
    let mut writer = PcapWriter::new(std::fs::File::create(&input).unwrap()).unwrap();
    for (at, frame) in
        towards_director(&fixture("dr4-tcp.client.pcap"), director).iter().enumerate()
    {
        let when = Duration::from_millis(at as u64);
        writer.write_packet(&PcapPacket::new(when, frame.len() as u32, frame)).unwrap();
    }
    drop(writer);
    let output = replay(directory.path(), &input, CONFIG);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let ours = frames(&directory.path().join("server.pcap"));
    let kernels = frames(&fixture("dr4-tcp.server.pcap"));
    assert_eq!(ours, kernels);
    let report = std::fs::read_to_string(directory.path().join("report.json")).unwrap();
    let report: serde_json::Value = serde_json::from_str(&report).unwrap();
    assert_eq!(report["verdicts"]["transmit"], kernels.len() as u64);
    assert_eq!(report["ports"]["server"]["sent"], kernels.len() as u64);
    assert!(report["flows"].as_array().unwrap().iter().any(|flow| flow["state"] == "FIN_WAIT"));
}

/// FULLNAT with a PROXY header, through the one source port 5000.
const PROXY: &str = r#"
local_addresses = { pool = { port = "server", addresses = ["10.2.0.8"], ports = [5000, 5000] } }

[[port]]
name = "client"
device = "net_null0"
kernel = "none"
mac = "02:00:00:00:01:01"

[[port]]
name = "server"
device = "net_null1"
kernel = "none"
mac = "02:00:00:00:02:01"
addresses = ["10.2.0.1/24"]

[[neighbour]]
address = "10.2.0.11"
mac = "02:00:00:00:02:0b"
port = "server"

[[neighbour]]
address = "10.0.0.7"
mac = "02:00:00:00:01:fe"
port = "client"

[[route]]
prefix = "10.0.0.0/24"
port = "client"

[[service]]
address = "10.1.0.1:80"
protocol = "tcp"
forwarding = "fullnat"
local_addresses = "pool"
client_address = "proxy-v2"
  [[service.server]]
  address = "10.2.0.11:80"
"#;

/// The client's first segment is full, so the header goes in a segment of its own before it: a
/// worker sends what it makes itself first, and so does a replay.
#[test]
fn a_proxy_header_comes_out_before_the_segment_it_announces() {
    let link = |host: [u8; 2], director: u8| {
        let (host, director) = ([2, 0, 0, 0, host[0], host[1]], [2, 0, 0, 0, director, 1]);
        PacketBuilder::new().ethernet(MacAddr(host), MacAddr(director))
    };
    let client = || {
        let ip = link([1, 0xfe], 1).ipv4([10, 0, 0, 7].into(), [10, 1, 0, 1].into());
        ip.tcp(40_000, 80).option(TcpOption::Mss(1460))
    };
    // Version 2 for IPv4: 28 bytes, by which the client's numbers are shifted for the server.
    let server = link([2, 0x0b], 2).ipv4([10, 2, 0, 11].into(), [10, 2, 0, 8].into());
    let server = server.tcp(80, 5000).seq(7000).ack(1001 - 28).flags(TcpFlags::SYN | TcpFlags::ACK);
    let bare = |seq: u32| {
        let ip = link([1, 0xfe], 1).ipv4([10, 0, 0, 7].into(), [10, 1, 0, 1].into());
        ip.tcp(40_000, 80).seq(seq).ack(7001).flags(TcpFlags::ACK)
    };
    let directory = tempfile::tempdir().unwrap();
    let write = |name: &str, frames: &[(u64, &[u8])]| {
        let path = directory.path().join(name);
        let mut writer = PcapWriter::new(std::fs::File::create(&path).unwrap()).unwrap();
        for (at_ms, frame) in frames {
            let at = Duration::from_millis(*at_ms);
            writer.write_packet(&PcapPacket::new(at, frame.len() as u32, frame)).unwrap();
        }
        path
    };
    let syn = client().seq(1000).flags(TcpFlags::SYN).build();
    let answer = server.option(TcpOption::Mss(1460)).build();
    let full = bare(1001).payload(&[b'x'; 1460]).build();
    let from_client = write("in.pcap", &[(0, &syn), (20, &full)]);
    let from_server = write("answer.pcap", &[(10, &answer)]);
    let config = directory.path().join("gyre.toml");
    std::fs::write(&config, PROXY).unwrap();
    let out = directory.path().join("server.pcap");
    let output = Command::new(env!("CARGO_BIN_EXE_gyre"))
        .arg("replay")
        .arg("-c")
        .arg(&config)
        .args(["--in", &format!("client={}", from_client.display())])
        .args(["--in", &format!("server={}", from_server.display())])
        .args(["--out", &format!("server={}", out.display())])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let payloads: Vec<Vec<u8>> = frames(&out)
        .iter()
        .map(|frame| {
            let (_, l4) = Ipv4::parse(&frame[14..]).unwrap();
            Tcp::parse(l4).unwrap().1.to_vec()
        })
        .collect();
    assert_eq!(payloads.iter().map(Vec::len).collect::<Vec<_>>(), [0, 28, 1460]);
    assert!(payloads[1].starts_with(b"\r\n\r\n\0\r\nQUIT\n"));
}

/// An hour passes between two frames: the capture's clock ends the flow, not ours.
#[test]
fn pcapng_timestamps_drive_the_timers() {
    let directory = tempfile::tempdir().unwrap();
    let input = directory.path().join("in.pcapng");
    let mut writer = PcapNgWriter::new(std::fs::File::create(&input).unwrap()).unwrap();
    let interface = InterfaceDescriptionBlock::new(DataLink::ETHERNET, 0xffff);
    writer.write_pcapng_block(interface).unwrap();
    let director = [2, 0, 0, 0, 1, 1];
    let frame = &towards_director(&fixture("dr4-tcp.client.pcap"), director)[0];
    // The default unit is the microsecond; the writer writes the count it is given.
    for microseconds in [1_000_000u64, 3_601_000_000] {
        let packet = EnhancedPacketBlock {
            interface_id: 0,
            timestamp: Duration::from_nanos(microseconds),
            original_len: frame.len() as u32,
            data: frame.as_slice().into(),
            options: Vec::new(),
        };
        writer.write_pcapng_block(packet).unwrap();
    }
    drop(writer);
    let output = replay(directory.path(), &input, CONFIG);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("2 frames over 3600.000 s"), "{text}");
    assert!(text.contains("2 created, 1 expired, 1 live"), "{text}");
}

#[test]
fn bad_input_is_told_in_one_line_and_exits_2() {
    let directory = tempfile::tempdir().unwrap();
    let noise = directory.path().join("noise");
    std::fs::write(&noise, b"this is no capture at all").unwrap();
    let capture = fixture("dr4-tcp.client.pcap");
    let no_mac = CONFIG.replace("mac = \"02:00:00:00:01:01\"\n", "");
    let cases = [
        (&noise, CONFIG, "neither pcap nor pcapng"),
        (&directory.path().join("absent.pcap"), CONFIG, "absent.pcap: No such file"),
        (&capture, no_mac.as_str(), "port `client` has no `mac`"),
    ];
    for (input, config, expected) in cases {
        let output = replay(directory.path(), input, config);
        let text = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{text}");
        assert!(text.contains(expected), "{text}");
        assert_eq!(text.trim_end().lines().count(), 1, "{text}");
    }
}
