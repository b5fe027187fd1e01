//! HTTP.

use std::sync::Mutex;

use super::*;
use crate::model::check::{HttpCheck, HttpMethod, Reply};

pub(super) fn http() -> HttpCheck {
    HttpCheck {
        tls: None,
        method: HttpMethod::Get,
        request: "/health?full".into(),
        host: None,
        statuses: vec![(200, 200)],
        body: None,
    }
}

const GOOD: &str = "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc";

async fn got(check: HttpCheck, address: SocketAddr) -> Result<(), String> {
    attempt(CheckKind::Http(check), address).await
}

async fn reason(answer: &str) -> String {
    got(http(), answering(answer).await).await.expect_err(&answer[..answer.len().min(80)])
}

#[tokio::test]
async fn http_asks_as_configured() {
    let heads = Arc::new(Mutex::new(Vec::new()));
    let seen = heads.clone();
    let address = server(move |mut stream| {
        let seen = seen.clone();
        async move {
            let head = read_head(&mut stream).await;
            seen.lock().unwrap().push(head);
            stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await.unwrap();
        }
    })
    .await;
    let statuses = vec![(200, 299)];
    let mut check = HttpCheck { statuses, ..http() };
    assert_eq!(got(check.clone(), address).await, Ok(()));
    check.host = Some("www.example.org".into());
    check.method = HttpMethod::Head;
    assert_eq!(got(check, address).await, Ok(()));
    let heads = heads.lock().unwrap();
    assert!(heads[0].starts_with("GET /health?full HTTP/1.1\r\n"), "{}", heads[0]);
    assert!(heads[0].contains(&format!("host: {address}\r\n")), "{}", heads[0]);
    assert!(heads[0].contains("connection: close\r\n"), "{}", heads[0]);
    assert!(heads[0].contains("user-agent: gyre/"), "{}", heads[0]);
    assert!(heads[1].starts_with("HEAD /health?full"), "{}", heads[1]);
    assert!(heads[1].contains("host: www.example.org\r\n"), "{}", heads[1]);
}

#[tokio::test]
async fn http_takes_only_the_statuses_wanted() {
    let unavailable = answering("HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n").await;
    assert_eq!(got(http(), unavailable).await, Err("status 503, wanted 200".to_owned()));
    let check = HttpCheck { statuses: vec![(200, 200), (300, 399)], ..http() };
    let reason = "status 503, wanted 200 or 300-399";
    assert_eq!(got(check.clone(), unavailable).await, Err(reason.to_owned()));
    let moved = answering("HTTP/1.1 302 Found\r\nContent-Length: 0\r\n\r\n").await;
    assert_eq!(got(check, moved).await, Ok(()));
}

#[tokio::test]
async fn http_judges_the_body_however_it_is_framed() {
    let framed = [
        GOOD,
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n1\r\nc\r\n0\r\n\r\n",
        "HTTP/1.0 200 OK\r\n\r\nabc",
    ];
    // MD5 of "abc": RFC 1321, A.5.
    let md5 = *b"\x90\x01\x50\x98\x3c\xd2\x4f\xb0\xd6\x96\x3f\x7d\x28\xe1\x7f\x72";
    for answer in framed {
        let address = answering(answer).await;
        for wanted in [Reply::Any, Reply::Text("bc".into()), Reply::Md5(md5)] {
            let check = HttpCheck { body: Some(wanted), ..http() };
            assert_eq!(got(check, address).await, Ok(()), "{answer:?}");
        }
        let check = HttpCheck { body: Some(Reply::Regex("^b".into())), ..http() };
        let reason = "answer \"abc\" without a match of \"^b\"";
        assert_eq!(got(check, address).await, Err(reason.to_owned()));
    }
}

#[tokio::test]
async fn http_notices_half_answers() {
    let early = "connection closed instead of HTTP answer";
    assert_eq!(reason("").await, early);
    assert_eq!(reason("HTTP/1.1 200 O").await, early);
    let body = "connection closed instead of end of the HTTP body";
    assert_eq!(reason("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc").await, body);
    let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab";
    assert_eq!(reason(chunked).await, body);
}

#[tokio::test]
async fn http_notices_garbage() {
    let odd = ["SSH-2.0-OpenSSH_9.2\r\n\r\n", "HTTP/1.1 two OK\r\n\r\n", "\0\0\0\0\r\n\r\n"];
    for answer in odd {
        let reason = reason(answer).await;
        assert!(reason.starts_with("something else than HTTP/1.1"), "{reason}");
    }
    let long = format!("HTTP/1.1 200 OK\r\nX: {}\r\n\r\n", "y".repeat(1_000_000));
    let reason = reason(&long).await;
    assert!(reason.contains("something else than HTTP/1.1"), "{reason}");
}

#[tokio::test]
async fn http_says_what_did_not_come_in_time() {
    let silent = server(|stream| async move {
        hang().await;
        drop(stream);
    })
    .await;
    let reason = format!("no HTTP answer within {TIMEOUT_MS} ms");
    assert_eq!(got(http(), silent).await, Err(reason));
    let slow = server(|mut stream| async move {
        read_head(&mut stream).await;
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc").await.unwrap();
        hang().await;
    })
    .await;
    let reason = format!("no end of the HTTP body within {TIMEOUT_MS} ms");
    assert_eq!(got(http(), slow).await, Err(reason));
}

#[tokio::test]
async fn http_reads_a_bounded_part_of_a_huge_body() {
    let endless = server(|mut stream| async move {
        read_head(&mut stream).await;
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n\r\nbegin").await;
        while stream.write_all(&[b'.'; 10_000]).await.is_ok() {}
    })
    .await;
    assert_eq!(got(http(), endless).await, Ok(()));
    let check = HttpCheck { body: Some(Reply::Text("begin".into())), ..http() };
    assert_eq!(got(check, endless).await, Ok(()));
    let check = HttpCheck { body: Some(Reply::Text("end".into())), ..http() };
    let reason = "the answer's first 1048576 bytes are without the text \"end\"";
    assert_eq!(got(check, endless).await, Err(reason.to_owned()));
    let check = HttpCheck { body: Some(Reply::Sha256([0; 32])), ..http() };
    let reason = "the answer is longer than the 1048576 bytes that are read for a digest";
    assert_eq!(got(check, endless).await, Err(reason.to_owned()));
}
