//! TCP and SMTP.

use std::sync::Mutex;

use tokio::net::TcpSocket;

use super::*;

#[tokio::test]
async fn tcp_is_good_when_the_connection_opens_in_both_families() {
    let address = server(|_| async {}).await;
    assert_eq!(attempt(CheckKind::Tcp, address).await, Ok(()));
    let six = TcpListener::bind("[::1]:0").await.unwrap();
    assert_eq!(attempt(CheckKind::Tcp, six.local_addr().unwrap()).await, Ok(()));
}

#[tokio::test]
async fn tcp_says_who_refuses_and_who_is_silent() {
    let refused = attempt(CheckKind::Tcp, closed().await).await;
    assert_eq!(refused, Err("connection refused".to_owned()));
    // A listener whose queue is full drops SYNs.
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let listener = socket.listen(1).unwrap();
    let address = listener.local_addr().unwrap();
    let mut held = Vec::new();
    for _ in 0..3 {
        let connect = TcpStream::connect(address);
        held.push(tokio::time::timeout(Duration::from_millis(50), connect).await);
    }
    let silent = attempt(CheckKind::Tcp, address).await;
    let reason = format!("no answer to the connection attempt within {TIMEOUT_MS} ms");
    assert_eq!(silent, Err(reason));
}

#[tokio::test]
async fn tcp_server_sees_a_connection_that_ends_in_order() {
    let (tell, told) = tokio::sync::oneshot::channel();
    let tell = Mutex::new(Some(tell));
    let address = server(move |mut stream| {
        let tell = tell.lock().unwrap().take();
        async move {
            let end = stream.read(&mut [0; 10]).await;
            tell.unwrap().send(end.map_err(|error| error.kind())).unwrap();
        }
    })
    .await;
    assert_eq!(attempt(CheckKind::Tcp, address).await, Ok(()));
    assert_eq!(told.await.unwrap(), Ok(0), "end of file, not a reset");
}

fn smtp() -> CheckKind {
    CheckKind::Smtp { helo: "director.example.org".into() }
}

/// A mail server that greets, then answers each line it reads with the next of these.
async fn mail_server(greeting: &'static str, answers: &'static [&'static str]) -> SocketAddr {
    server(move |mut stream| async move {
        stream.write_all(greeting.as_bytes()).await.unwrap();
        for answer in answers {
            let mut line = Vec::new();
            while !line.ends_with(b"\r\n") {
                let Ok(byte) = stream.read_u8().await else { return };
                line.push(byte);
            }
            assert!(line == b"HELO director.example.org\r\n" || line == b"QUIT\r\n");
            let _ = stream.write_all(answer.as_bytes()).await;
        }
    })
    .await
}

#[tokio::test]
async fn smtp_takes_replies_of_one_line_and_of_many() {
    let plain = mail_server("220 mx ESMTP\r\n", &["250 mx\r\n", "221 bye\r\n"]).await;
    assert_eq!(attempt(smtp(), plain).await, Ok(()));
    let long = "220-mx\r\n220-no unsolicited mail\r\n220 ready\r\n";
    let many = mail_server(long, &["250-mx\r\n250 hello\r\n", "221 bye\r\n"]).await;
    assert_eq!(attempt(smtp(), many).await, Ok(()));
}

#[tokio::test]
async fn smtp_does_not_mind_how_the_server_takes_leave() {
    let gone = mail_server("220 mx\r\n", &["250 mx\r\n"]).await;
    assert_eq!(attempt(smtp(), gone).await, Ok(()));
}

#[tokio::test]
async fn smtp_says_what_came_instead() {
    let busy = mail_server("421 too busy\r\n", &[]).await;
    let reason = "\"421 too busy\" instead of an SMTP greeting (220)";
    assert_eq!(attempt(smtp(), busy).await, Err(reason.to_owned()));
    let picky = mail_server("220 mx\r\n", &["550 who are you\r\n"]).await;
    let reason = "\"550 who are you\" instead of an answer to HELO (250)";
    assert_eq!(attempt(smtp(), picky).await, Err(reason.to_owned()));
    let mixed = mail_server("220-mx\r\n250 what\r\n", &[]).await;
    assert!(attempt(smtp(), mixed).await.unwrap_err().contains("250 what"));
    let gone = mail_server("", &[]).await;
    let reason = "connection closed instead of an SMTP greeting";
    assert_eq!(attempt(smtp(), gone).await, Err(reason.to_owned()));
}

#[tokio::test]
async fn smtp_bounds_what_it_reads_and_how_long() {
    let endless = server(|mut stream| async move {
        while stream.write_all(b"220-and then\r\n").await.is_ok() {}
    })
    .await;
    assert!(attempt(smtp(), endless).await.unwrap_err().contains("more than 64 lines"));
    let line =
        server(|mut stream| async move { while stream.write_all(&[b'2'; 1000]).await.is_ok() {} })
            .await;
    assert!(attempt(smtp(), line).await.unwrap_err().contains("instead of an SMTP greeting"));
    let silent = server(|stream| async move {
        hang().await;
        drop(stream);
    })
    .await;
    let reason = format!("no SMTP greeting within {TIMEOUT_MS} ms");
    assert_eq!(attempt(smtp(), silent).await, Err(reason));
}
