//! UDP, DNS and ICMP.

use std::net::IpAddr;
use std::str::FromStr;

use hickory_proto::op::{Message, MessageType, ResponseCode};
use hickory_proto::rr::rdata::{A, CNAME};
use hickory_proto::rr::{Name, RData, Record};
use proptest::prelude::*;
use tokio::net::UdpSocket;

use super::*;
use crate::control::health::probe::dns::Question;
use crate::model::check::Reply;

/// A server that answers each datagram with what `answer` makes of it, if anything.
async fn udp_server(
    at: &str,
    answer: impl Fn(&[u8]) -> Option<Vec<u8>> + Send + 'static,
) -> SocketAddr {
    let socket = UdpSocket::bind(at).await.unwrap();
    let address = socket.local_addr().unwrap();
    tokio::spawn(async move {
        let mut buffer = [0; 2000];
        loop {
            let Ok((bytes, from)) = socket.recv_from(&mut buffer).await else { continue };
            if let Some(reply) = answer(&buffer[..bytes]) {
                socket.send_to(&reply, from).await.unwrap();
            }
        }
    });
    address
}

async fn closed_udp() -> SocketAddr {
    UdpSocket::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap()
}

fn udp(payload: &str, reply: Option<Reply>) -> CheckKind {
    CheckKind::Udp { payload: payload.into(), reply }
}

#[tokio::test]
async fn udp_is_good_while_nobody_says_that_nobody_is_there() {
    let silent = udp_server("127.0.0.1:0", |_| None).await;
    assert_eq!(attempt(udp("x", None), silent).await, Ok(()));
    let six = udp_server("[::1]:0", |_| None).await;
    assert_eq!(attempt(udp("", None), six).await, Ok(()));
    let reason = "nobody listens (ICMP port unreachable)";
    assert_eq!(attempt(udp("x", None), closed_udp().await).await, Err(reason.to_owned()));
}

#[tokio::test]
async fn udp_judges_the_first_answer() {
    let echo = udp_server("127.0.0.1:0", |bytes| Some([b"re: ", bytes].concat())).await;
    let begun = tokio::time::Instant::now();
    assert_eq!(attempt(udp("ping", None), echo).await, Ok(()));
    assert!(begun.elapsed().as_millis() < u128::from(TIMEOUT_MS), "an answer ends the waiting");
    assert_eq!(attempt(udp("ping", Some(Reply::Any)), echo).await, Ok(()));
    assert_eq!(attempt(udp("ping", Some(Reply::Text("re: p".into()))), echo).await, Ok(()));
    let wrong = attempt(udp("ping", Some(Reply::Text("pong".into()))), echo).await;
    assert_eq!(wrong, Err("answer \"re: ping\" without the text \"pong\"".to_owned()));
    let silent = udp_server("127.0.0.1:0", |_| None).await;
    let reason = format!("no answer within {TIMEOUT_MS} ms");
    assert_eq!(attempt(udp("ping", Some(Reply::Any)), silent).await, Err(reason));
}

fn dns(record: u16, address: Option<&str>) -> CheckKind {
    let address = address.map(|text| text.parse().unwrap());
    CheckKind::Dns { name: "www.example.org".into(), record, address }
}

/// A DNS server that gives `change` of a right answer.
async fn dns_server(change: fn(&mut Message)) -> SocketAddr {
    udp_server("127.0.0.1:0", move |bytes| {
        let mut message = Message::from_vec(bytes).unwrap();
        assert!(message.metadata.recursion_desired);
        message.metadata.message_type = MessageType::Response;
        let name = message.queries[0].name().clone();
        let alias = Name::from_str("real.example.org.").unwrap();
        message.add_answer(Record::from_rdata(name, 60, RData::CNAME(CNAME(alias.clone()))));
        let address = A::new(192, 0, 2, 7);
        message.add_answer(Record::from_rdata(alias, 60, RData::A(address)));
        change(&mut message);
        Some(message.to_vec().unwrap())
    })
    .await
}

#[tokio::test]
async fn dns_wants_the_record_and_the_address() {
    let right = dns_server(|_| ()).await;
    assert_eq!(attempt(dns(1, None), right).await, Ok(()));
    assert_eq!(attempt(dns(1, Some("192.0.2.7")), right).await, Ok(()));
    let wrong = attempt(dns(1, Some("192.0.2.8")), right).await;
    let reason = "192.0.2.8 is not among the A records of www.example.org";
    assert_eq!(wrong, Err(reason.to_owned()));
    let reason = "no AAAA record for www.example.org";
    assert_eq!(attempt(dns(28, None), right).await, Err(reason.to_owned()), "NODATA");
}

#[tokio::test]
async fn dns_takes_no_answer_but_that_to_its_question() {
    let reason = |server| async move { attempt(dns(1, None), server).await.unwrap_err() };
    let other_id = dns_server(|message| message.metadata.id ^= 1).await;
    assert!(reason(other_id).await.contains("question's id"));
    let query = dns_server(|message| message.metadata.message_type = MessageType::Query).await;
    assert!(reason(query).await.contains("question's id"));
    let other_name = dns_server(|message| {
        message.queries[0].set_name(Name::from_str("ftp.example.org.").unwrap());
    });
    assert!(reason(other_name.await).await.contains("another DNS question"));
    let none = dns_server(|message| message.queries.clear()).await;
    assert!(reason(none).await.contains("another DNS question"));
    let failed = dns_server(|message| message.metadata.response_code = ResponseCode::ServFail);
    assert_eq!(reason(failed.await).await, "DNS error: Server Failure");
    let missing = dns_server(|message| message.metadata.response_code = ResponseCode::NXDomain);
    assert!(reason(missing.await).await.starts_with("DNS error: "));
    let cut = dns_server(|message| {
        message.answers.clear();
        message.metadata.truncation = true;
    });
    assert!(reason(cut.await).await.ends_with("(the answer is truncated)"));
    let garbage = udp_server("127.0.0.1:0", |_| Some(b"what".to_vec())).await;
    assert_eq!(reason(garbage).await, "4 bytes that are not a DNS message");
    let silent = udp_server("127.0.0.1:0", |_| None).await;
    assert_eq!(reason(silent).await, format!("no DNS answer within {TIMEOUT_MS} ms"));
    assert!(reason(closed_udp().await).await.contains("nobody listens"));
}

proptest! {
    #[test]
    fn any_bytes_for_a_dns_answer_do_no_harm(
        mut bytes in proptest::collection::vec(any::<u8>(), 0..120),
    ) {
        let question = Question::new("www.example.org", 1, None);
        prop_assert!(question.judge(&bytes).is_err());
        // Behind a head that fits.
        let right = question.encode().unwrap();
        bytes.splice(0..0, right);
        bytes[2] |= 0x80;
        let _ = question.judge(&bytes);
    }
}

/// Raw sockets need a privilege that whoever runs tests may lack: then the check must say so.
fn may_be_raw(outcome: Result<(), Failure>) -> Option<Result<(), String>> {
    match &outcome {
        Err(failure @ Failure::Director(_)) => {
            assert!(failure.to_string().contains("CAP_NET_RAW"), "{failure}");
            None
        }
        _ => Some(outcome.map_err(|failure| failure.to_string())),
    }
}

#[tokio::test]
async fn icmp_echo_is_answered_in_both_families_and_many_at_once() {
    let probes = Arc::new(Probes::new());
    let ask = |address: &str, payload_bytes: u16| {
        let address: IpAddr = address.parse().unwrap();
        let check = check(CheckKind::Icmp { payload_bytes }, SocketAddr::new(address, 0));
        let probes = probes.clone();
        async move { may_be_raw(probes.attempt(Arc::new(check)).await) }
    };
    for (address, payload) in [("127.0.0.1", 56), ("::1", 56), ("127.0.0.1", 0), ("::1", 1400)] {
        let Some(outcome) = ask(address, payload).await else { return };
        assert_eq!(outcome, Ok(()), "{address} {payload}");
    }
    let all = (0..200).map(|n| ask(&format!("127.0.1.{n}"), 8));
    for outcome in futures::future::join_all(all).await {
        assert_eq!(outcome, Some(Ok(())));
    }
}

#[tokio::test]
async fn icmp_without_answer_is_said_so() {
    // TEST-NET-2: routed away or nowhere.
    let outcome = attempt_with(
        Probes::new(),
        CheckKind::Icmp { payload_bytes: 8 },
        "198.51.100.254:0".parse().unwrap(),
    );
    if let Some(outcome) = may_be_raw(outcome.await) {
        let text = outcome.unwrap_err();
        let silent = format!("no answer to an echo request within {TIMEOUT_MS} ms");
        assert!(text == silent || text.starts_with("unreachable: "), "{text}");
    }
}
