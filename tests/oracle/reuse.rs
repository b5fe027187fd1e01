//! `states/reuse-*.json`: a SYN on the tuple of an old connection.

use std::net::SocketAddr;

use gyre::dataplane::Verdict;
use gyre::model::NicId;
use serde_json::Value;

use crate::ipvsadm::{self, Needs};
use crate::lab::{Lab, Received};
use crate::packets::{EXPIRY_SLACK_S, counters, row};
use crate::support::{CLIENT, SERVER};
use crate::{Aspect, Difference, Tally, texts};

const VIP: &str = "10.1.0.1:80";
const CLIENT_ADDRESS: &str = "10.0.0.7:5555";
/// The server that the connection is on: the one added last.
const SERVER_ADDRESS: &str = "10.2.0.12:80";

pub fn run(recording: &Value, tally: &mut Tally) {
    let name = recording["name"].as_str().unwrap();
    for case in recording["cases"].as_array().unwrap() {
        tally.begin(name);
        let text = |field: &str| case[field].as_str().unwrap().to_string();
        let place = format!(
            "{}, server {}, expire_nodest_conn {}",
            text("prepared"),
            text("server"),
            case["expire_nodest_conn"]
        );
        match play(recording, case) {
            Ok(differences) => tally.step(&place, differences),
            Err(needs) => tally.cannot(needs, 1),
        }
    }
}

fn play(recording: &Value, case: &Value) -> Result<Vec<Difference>, Needs> {
    let mut lab = Lab::new([1500, 1500]);
    ipvsadm::switch(&mut lab, "conn_reuse_mode", recording["conn_reuse_mode"].as_i64().unwrap())?;
    let expire = case["expire_nodest_conn"].as_i64().unwrap();
    ipvsadm::switch(&mut lab, "expire_nodest_conn", expire)?;
    let persistent = recording["persistent"].as_str().unwrap_or_default();
    let method = recording["forward"].as_str().unwrap();
    ipvsadm::run(&mut lab, &format!("-A -t {VIP} -s rr {persistent}"))?;
    for server in ["10.2.0.11:80", SERVER_ADDRESS] {
        ipvsadm::run(&mut lab, &format!("-a -t {VIP} -r {server} -{method}"))?;
    }
    for packet in case["packets"].as_str().unwrap().split(' ') {
        let (side, letters) = packet.split_once(':').unwrap();
        send(&mut lab, if side == "c" { CLIENT } else { SERVER }, letters);
    }
    let mut differences = Vec::new();
    compare_table(&lab, &case["before"], "before", &mut differences);
    match case["server"].as_str().unwrap() {
        "up" => {}
        "weight0" => {
            let args = format!("-e -t {VIP} -r {SERVER_ADDRESS} -{method} -w 0");
            ipvsadm::run(&mut lab, &args)?;
        }
        _ => ipvsadm::run(&mut lab, &format!("-d -t {VIP} -r {SERVER_ADDRESS}"))?,
    }
    for (out, after) in [("out", "after"), ("out_2nd_syn", "after_2nd_syn")] {
        let received = send(&mut lab, CLIENT, "S");
        compare_out(&received, &case[out], out, &mut differences);
        compare_table(&lab, &case[after], after, &mut differences);
    }
    compare_counters(&lab, case, &mut differences);
    Ok(differences)
}

fn send(lab: &mut Lab, nic: NicId, letters: &str) -> Received {
    let client: SocketAddr = CLIENT_ADDRESS.parse().unwrap();
    let frame = if nic == CLIENT {
        texts::segment(CLIENT, client, VIP.parse().unwrap(), letters)
    } else {
        texts::segment(SERVER, SERVER_ADDRESS.parse().unwrap(), client, letters)
    };
    lab.receive(nic, &frame)
}

/// Frames sent, in words and with the MAC address they go to.
fn compare_out(
    received: &Received,
    recorded: &Value,
    what: &str,
    differences: &mut Vec<Difference>,
) {
    let tell = |sent: &crate::lab::Sent| {
        let side = if sent.nic == CLIENT { "client" } else { "server" };
        let mac: Vec<String> = sent.bytes[..6].iter().map(|byte| format!("{byte:02x}")).collect();
        format!("{side}: {} mac {}", texts::tell(&sent.bytes), mac.join(":"))
    };
    let ours: Vec<String> = received.sent.iter().map(tell).collect();
    let recorded: Vec<&str> =
        recorded.as_array().unwrap().iter().map(|text| text.as_str().unwrap()).collect();
    // The host's own stack resets a SYN that nobody takes.
    let by_host = matches!(received.verdict, Verdict::ToKernel(_))
        && recorded.len() == 1
        && recorded[0].starts_with("client: ")
        && recorded[0].contains("[RA]");
    if !by_host && ours != recorded {
        let text = format!("{what}: recorded {recorded:?}, gyre {ours:?}");
        differences.push(Difference::new(Aspect::Frames, text));
    }
}

/// The table but for entries that were told to expire: they may be gone at once.
fn compare_table(lab: &Lab, recorded: &Value, what: &str, differences: &mut Vec<Difference>) {
    let listed = |row: &Value| {
        let cell = |at: usize| row[at].as_str().unwrap().to_string();
        ([cell(0), cell(1), cell(2), cell(3), cell(4)], row[5].as_i64().unwrap())
    };
    let mut recorded: Vec<_> = recorded.as_array().unwrap().iter().map(listed).collect();
    let mut ours: Vec<_> = lab.rows().iter().map(row).collect();
    for rows in [&mut recorded, &mut ours] {
        rows.retain(|(_, expires)| *expires > 0);
        rows.sort();
    }
    let same = ours.len() == recorded.len()
        && ours.iter().zip(&recorded).all(|((row, left), (known, timer))| {
            row == known && (left - timer).abs() <= EXPIRY_SLACK_S
        });
    if !same {
        let text = format!("{what}: recorded {recorded:?}, gyre {ours:?}");
        differences.push(Difference::new(Aspect::Table, text));
    }
}

/// Counters but for what entries count that were told to expire.
fn compare_counters(lab: &Lab, case: &Value, differences: &mut Vec<Difference>) {
    let mut recorded = case["counters"].clone();
    for dying in case["after_2nd_syn"].as_array().unwrap().iter().filter(|row| row[5] == 0) {
        let active = ["SYN_RECV", "SYN_SENT", "SYNACK", "ESTABLISHED"];
        let column = if active.contains(&dying[4].as_str().unwrap()) { 3 } else { 4 };
        for row in recorded.as_array_mut().unwrap().iter_mut().filter(|row| row[0] == dying[3]) {
            row[column] = (row[column].as_i64().unwrap() - 1).into();
        }
    }
    let recorded: Vec<String> = recorded.as_array().unwrap().iter().map(Value::to_string).collect();
    let ours = counters(lab);
    if ours != recorded {
        let text = format!("recorded {recorded:?}, gyre {ours:?}");
        differences.push(Difference::new(Aspect::Counters, text));
    }
}
