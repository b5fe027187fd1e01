//! HTTPS: certificates that are valid, expired, for another name, of an unknown authority.

use rcgen::{CertificateParams, DnType, KeyPair, date_time_ymd};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::{RootCertStore, ServerConfig};

use super::http::http;
use super::*;
use crate::control::health::probe::tls::TlsClients;
use crate::model::check::{HttpCheck, Reply, TlsCheck};

/// A server with a certificate of its own for these names; it answers with the name it was asked
/// for. Also the certificate, as its authority.
async fn secure_server(names: &[&str], last_year: i32) -> (SocketAddr, CertificateDer<'static>) {
    let names: Vec<String> = names.iter().map(ToString::to_string).collect();
    let mut params = CertificateParams::new(names).unwrap();
    params.not_after = date_time_ymd(last_year, 1, 1);
    // Authorities of one name would be taken for each other.
    params.distinguished_name.push(DnType::CommonName, format!("until {last_year}"));
    let key = KeyPair::generate().unwrap();
    let certificate = params.self_signed(&key).unwrap().der().clone();
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(
            vec![certificate.clone()],
            PrivateKeyDer::try_from(key.serialize_der()).unwrap(),
        )
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let address = server(move |stream| {
        let acceptor = acceptor.clone();
        async move {
            let Ok(mut stream) = acceptor.accept(stream).await else { return };
            let name = stream.get_ref().1.server_name().unwrap_or("none").to_owned();
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(stream.read_u8().await.unwrap());
            }
            let body = format!("sni {name}.");
            let length = body.len();
            let text = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{body}");
            stream.write_all(text.as_bytes()).await.unwrap();
            let _ = stream.shutdown().await;
        }
    })
    .await;
    (address, certificate)
}

fn https(verify: bool, sni: Option<&str>, body: &str) -> CheckKind {
    let tls = Some(TlsCheck { verify, sni: sni.map(str::to_owned) });
    CheckKind::Http(HttpCheck { tls, body: Some(Reply::Text(body.into())), ..http() })
}

fn trusting(root: &CertificateDer<'static>) -> Probes {
    let mut roots = RootCertStore::empty();
    roots.add(root.clone()).unwrap();
    Probes { tls: TlsClients::trusting_only(roots), ..Probes::new() }
}

#[tokio::test]
async fn https_sends_the_name_and_takes_any_certificate_unless_asked_to_verify() {
    let (address, _) = secure_server(&["www.example.org"], 2001).await;
    let named = https(false, Some("other.example.org"), "sni other.example.org.");
    assert_eq!(attempt(named, address).await, Ok(()));
    assert_eq!(attempt(https(false, None, "sni none."), address).await, Ok(()));
    let CheckKind::Http(check) = https(false, None, "sni www.example.org.") else { panic!() };
    let host = Some("www.example.org:8443".to_owned());
    assert_eq!(attempt(CheckKind::Http(HttpCheck { host, ..check }), address).await, Ok(()));
}

#[tokio::test]
async fn https_verifies_name_date_and_authority() {
    let verify = |name| https(true, Some(name), "sni");
    let (address, root) = secure_server(&["www.example.org"], 2090).await;
    let good = attempt_with(trusting(&root), verify("www.example.org"), address).await;
    assert_eq!(good, Ok(()));
    let other = attempt_with(trusting(&root), verify("ftp.example.org"), address).await;
    let text = other.unwrap_err().to_string();
    assert!(text.starts_with("TLS: ") && text.contains("not valid for name"), "{text}");
    let (expired, old_root) = secure_server(&["www.example.org"], 2001).await;
    let old = attempt_with(trusting(&old_root), verify("www.example.org"), expired).await;
    let text = old.unwrap_err().to_string();
    assert!(text.contains("expired"), "{text}");
    let stranger = attempt_with(trusting(&old_root), verify("www.example.org"), address).await;
    let text = stranger.unwrap_err().to_string();
    assert!(text.contains("UnknownIssuer"), "{text}");
}

#[tokio::test]
async fn https_verifies_by_the_systems_authorities() {
    let (address, _) = secure_server(&["www.example.org"], 2090).await;
    let failure = attempt_with(Probes::new(), https(true, Some("www.example.org"), "sni"), address);
    let failure = failure.await.unwrap_err();
    // A system without any says so, and does not blame the server.
    match failure.is_servers() {
        true => assert!(failure.to_string().contains("UnknownIssuer"), "{failure}"),
        false => assert!(failure.to_string().contains("ca-certificates"), "{failure}"),
    }
}

#[tokio::test]
async fn https_says_that_the_server_speaks_no_tls() {
    let plain = server(|mut stream| async move {
        let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
        let _ = stream.read(&mut [0; 1000]).await;
    })
    .await;
    let text = attempt(https(false, None, "sni"), plain).await.unwrap_err();
    assert!(text.starts_with("TLS: "), "{text}");
    let silent = server(|stream| async move {
        hang().await;
        drop(stream);
    })
    .await;
    let reason = format!("no end of the TLS handshake within {TIMEOUT_MS} ms");
    assert_eq!(attempt(https(false, None, "sni"), silent).await, Err(reason));
}
