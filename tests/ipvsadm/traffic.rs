//! The traffic of recordings, which is told in words, over the product's packet path.

use std::net::{IpAddr, SocketAddr};

use gyre::wire::build::IpBuilder;
use gyre::wire::tcp::TcpFlags;

use crate::director::Director;
use crate::support::{CLIENT, SERVER, from_client, from_server};

/// The services that the mixed traffic goes to.
const SERVICES: &str = "\
-A -t 10.1.0.1:80 -s wrr -p 300
-a -t 10.1.0.1:80 -r 10.2.0.11:8080 -m -w 3
-a -t 10.1.0.1:80 -r 10.2.0.12:8080 -m -w 2 -x 2000 -y 10
-A -u 10.1.0.1:53 -s rr
-a -u 10.1.0.1:53 -r 10.2.0.13:53 -g -w 1
-A -t [fd00:1::1]:443 -s wlc
-a -t [fd00:1::1]:443 -r [fd00:2::e]:443 -i -w 1
";

/// The time that then passes, in seconds.
const PAUSE_S: f64 = 4.3;
/// IPv4 and UDP headers.
const UDP_HEADERS: usize = 28;

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// The number behind `start`.
fn number_after(text: &str, start: &str) -> Option<usize> {
    let rest = &text[text.find(start)? + start.len()..];
    let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
    rest[..end].parse().ok()
}

/// Carries out what `text` says.
pub fn run(director: &Director, text: &str) {
    if let Some(command) = text.strip_prefix("then ipvsadm ") {
        let args: Vec<&str> = command.split(' ').collect();
        assert_eq!(director.run(&args).exit, 0, "{text}");
    } else if let Some(count) = number_after(text, "For i in 0..") {
        director.reset(SERVICES);
        mixed(director, count);
        director.advance(PAUSE_S);
    } else if text.contains("UDP packets of IP length") {
        let count = number_after(text, "").unwrap();
        let length = number_after(text, "of IP length ").unwrap();
        director.reset("-A -u 10.1.0.1:53 -s rr\n-a -u 10.1.0.1:53 -r 10.2.0.13:53 -g\n");
        let frame = udp("10.0.0.7:5000".parse().unwrap(), length);
        assert_eq!(director.receive(CLIENT, vec![frame; count]).len(), count, "{text}");
        director.advance(PAUSE_S);
    } else {
        panic!("no such traffic: {text}");
    }
}

fn udp(client: SocketAddr, length: usize) -> Vec<u8> {
    let packet: IpBuilder = from_client(client.ip(), ip("10.1.0.1"));
    packet.udp(client.port(), 53).payload(&vec![7; length - UDP_HEADERS]).build().to_vec()
}

/// Where a frame over IPv4 goes.
fn destination(frame: &[u8]) -> SocketAddr {
    let address: [u8; 4] = frame[30..34].try_into().unwrap();
    (address, u16::from_be_bytes([frame[36], frame[37]])).into()
}

/// Handshakes, some of which end, some of whose clients ask by UDP, and SYNs over IPv6.
fn mixed(director: &Director, count: usize) {
    let vip = ip("10.1.0.1");
    for i in 0..count {
        let client: IpAddr = [10, 0, 0, 1 + (i % 200) as u8].into();
        let port = 1000 + i as u16;
        let tcp =
            |flags: TcpFlags| from_client(client, vip).tcp(port, 80).flags(flags).build().to_vec();
        let sent = director.receive(CLIENT, vec![tcp(TcpFlags::SYN)]);
        let server = destination(sent.first().unwrap_or_else(|| panic!("SYN {i} went nowhere")));
        let answer = from_server(server.ip(), client).tcp(server.port(), port);
        let answer = answer.flags(TcpFlags::SYN | TcpFlags::ACK).build().to_vec();
        assert_eq!(director.receive(SERVER, vec![answer]).len(), 1, "SYN-ACK {i}");
        let mut frames = vec![tcp(TcpFlags::ACK)];
        if i % 3 == 0 {
            frames.push(tcp(TcpFlags::FIN | TcpFlags::ACK));
        }
        if i % 5 == 0 {
            frames.push(udp((client, port).into(), 128));
        }
        if i % 7 == 0 {
            let syn = from_client(ip("fd00:c::7"), ip("fd00:1::1")).tcp(port, 443);
            frames.push(syn.flags(TcpFlags::SYN).build().to_vec());
        }
        let sent = frames.len();
        assert_eq!(director.receive(CLIENT, frames).len(), sent, "the rest of {i}");
    }
}
