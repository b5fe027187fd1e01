//! TLS for checks: a client that holds certificates against the system's authorities, and one that
//! takes any.
//!
//! Neither resumes sessions: each handshake is whole, so that a certificate that has expired is
//! noticed, and a server is asked for what a new client would ask it.

use std::io;
use std::net::IpAddr;
use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::OnceCell;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::client::Resumption;
use tokio_rustls::rustls::client::danger::{
    HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier,
};
use tokio_rustls::rustls::crypto::{CryptoProvider, ring};
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use tokio_rustls::rustls::{
    ClientConfig, ConfigBuilder, DigitallySignedStruct, Error, RootCertStore, SignatureScheme,
    WantsVerifier,
};

use super::Failure;
use crate::model::check::TlsCheck;

/// Both clients, made when the first check needs them.
#[derive(Debug, Default)]
pub(super) struct TlsClients {
    verifying: OnceCell<Arc<ClientConfig>>,
    trusting: OnceCell<Arc<ClientConfig>>,
}

impl TlsClients {
    /// What opens connections for such a check.
    pub(super) async fn connector(&self, tls: &TlsCheck) -> Result<Connector, Failure> {
        let config = match tls.verify {
            true => self.verifying.get_or_try_init(verifying).await?,
            false => self.trusting.get_or_try_init(async || trusting()).await?,
        };
        Ok(Connector(config.clone().into()))
    }

    /// A client that trusts these authorities instead of the system's.
    #[cfg(test)]
    pub(super) fn trusting_only(roots: RootCertStore) -> Self {
        let config = finished(builder().unwrap().with_root_certificates(roots));
        TlsClients { verifying: OnceCell::new_with(Some(config)), trusting: OnceCell::new() }
    }
}

/// Makes handshakes.
pub(super) struct Connector(TlsConnector);

impl Connector {
    /// The handshake as a client of `name` (of which a port is ignored) or, without one, of an
    /// address.
    pub(super) async fn handshake<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        stream: S,
        name: Option<&str>,
        address: IpAddr,
    ) -> Result<TlsStream<S>, Failure> {
        let name = server_name(name, address)?;
        self.0.connect(name, stream).await.map_err(|error| failure(&error))
    }
}

fn server_name(name: Option<&str>, address: IpAddr) -> Result<ServerName<'static>, Failure> {
    let Some(name) = name else { return Ok(ServerName::from(address)) };
    // A Host header may have a port, and an IPv6 address in brackets.
    let host = match name.rsplit_once(':') {
        Some((host, port)) if !host.contains(':') || host.ends_with(']') => {
            if port.bytes().all(|byte| byte.is_ascii_digit()) { host } else { name }
        }
        _ => name,
    };
    let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
    ServerName::try_from(host)
        .map_err(|_| Failure::Director(format!("{name:?} is no name for TLS; set `sni`")))
}

fn failure(error: &io::Error) -> Failure {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<Error>());
    match inner {
        Some(error) => Failure::Answer(format!("TLS: {error}")),
        None => Failure::of_socket(error, "the end of the TLS handshake"),
    }
}

/// The system's authorities are read beside the checks, as they are a large file.
async fn verifying() -> Result<Arc<ClientConfig>, Failure> {
    let roots = tokio::task::spawn_blocking(|| {
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        roots
    });
    let roots = roots.await.map_err(|error| Failure::Director(error.to_string()))?;
    if roots.is_empty() {
        return Err(Failure::Director(
            "this system has no certificate authorities to verify TLS by; install \
             ca-certificates, or set tls_verify = false"
                .to_owned(),
        ));
    }
    Ok(finished(builder()?.with_root_certificates(roots)))
}

fn trusting() -> Result<Arc<ClientConfig>, Failure> {
    let provider = Arc::new(ring::default_provider());
    let any = Arc::new(AnyCertificate(provider));
    Ok(finished(builder()?.dangerous().with_custom_certificate_verifier(any)))
}

fn builder() -> Result<ConfigBuilder<ClientConfig, WantsVerifier>, Failure> {
    ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| Failure::Director(format!("TLS: {error}")))
}

fn finished(
    builder: ConfigBuilder<ClientConfig, tokio_rustls::rustls::client::WantsClientCert>,
) -> Arc<ClientConfig> {
    let mut config = builder.with_no_client_auth();
    config.resumption = Resumption::disabled();
    Arc::new(config)
}

/// Takes every certificate: the check is whether the server answers, not who it is.
#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
