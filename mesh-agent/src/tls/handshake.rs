//! Runs one handshake within a time limit and says who the peer is, or why there is none.
//!
//! A client's handshake ends before the server has judged the client's certificate (RFC 8446 §4.4): a refusal by the
//! server arrives as an error of the first read, which [`HandshakeError::from`] explains too.

use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use rustls::{
    AlertDescription, CertificateError, ClientConfig, CommonState, NamedGroup, ProtocolVersion, ServerConfig,
};
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::timeout;
use tokio_rustls::{TlsAcceptor, TlsConnector, TlsStream};

use super::ALPN;
use super::bounded::Bounded;
use super::verify::{PeerError, leaf_identity};
use crate::model::connection::TlsInfo;
use crate::model::mesh::{CipherSuite, KeyExchange};
use crate::model::spiffe::SpiffeId;

/// rustls wants a name; nobody sees or checks it (no SNI, own verifier).
const NO_SERVER_NAME: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);

/// A session whose peer is authenticated.
#[derive(Debug)]
pub struct TlsSession<S> {
    /// Plaintext in, plaintext out.
    pub stream: TlsStream<Bounded<S>>,
    /// Who the peer is.
    pub peer: SpiffeId,
    /// What was negotiated.
    pub info: TlsInfo,
}

/// Why there is no session.
#[derive(Debug, thiserror::Error)]
pub enum HandshakeError {
    /// The connection failed or closed in the middle.
    #[error("the connection failed during the handshake")]
    Io(#[source] io::Error),
    /// The handshake ended without the mesh's protocol: the peer isn't one of the mesh.
    #[error("the peer did not negotiate the mesh's protocol")]
    NoAlpn,
    /// The peer's certificate gives it no identity.
    #[error("the peer has no valid identity")]
    Peer(#[source] PeerError),
    /// The time limit passed.
    #[error("the handshake timed out")]
    Timeout,
    /// TLS failed, also for the peer's certificate.
    #[error("the handshake failed")]
    Tls(#[source] rustls::Error),
}

impl HandshakeError {
    /// A stable label for logs and metrics.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Io(error) => io_reason(error),
            Self::NoAlpn => "no_alpn",
            Self::Peer(error) => error.reason(),
            Self::Timeout => "timeout",
            Self::Tls(error) => tls_reason(error),
        }
    }
}

/// Explains an error of a TLS stream, also one that comes after the handshake.
impl From<io::Error> for HandshakeError {
    fn from(error: io::Error) -> Self {
        match error.downcast::<rustls::Error>() {
            Ok(error) => Self::Tls(error),
            Err(error) => Self::Io(error),
        }
    }
}

/// Handshakes as a client. The peer is the identity that `config` was made for.
pub async fn connect<S>(
    stream: S,
    config: Arc<ClientConfig>,
    time_limit: Duration,
) -> Result<TlsSession<S>, HandshakeError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let handshake = TlsConnector::from(config).connect(ServerName::from(NO_SERVER_NAME), Bounded::new(stream));
    let stream = timeout(time_limit, handshake).await.map_err(|_elapsed| HandshakeError::Timeout)??;
    session(TlsStream::Client(stream))
}

/// Handshakes as a server. The peer is any identity of the trust domain; what it may do is the caller's to decide.
pub async fn accept<S>(
    stream: S,
    config: Arc<ServerConfig>,
    time_limit: Duration,
) -> Result<TlsSession<S>, HandshakeError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let handshake = TlsAcceptor::from(config).accept(Bounded::new(stream));
    let stream = timeout(time_limit, handshake).await.map_err(|_elapsed| HandshakeError::Timeout)??;
    session(TlsStream::Server(stream))
}

/// rustls refuses a wrong protocol but accepts a peer that offers or chooses none.
fn session<S>(mut stream: TlsStream<Bounded<S>>) -> Result<TlsSession<S>, HandshakeError> {
    let (_, connection) = stream.get_ref();
    if connection.alpn_protocol() != Some(ALPN) {
        return Err(HandshakeError::NoAlpn);
    }
    let leaf = connection.peer_certificates().and_then(<[_]>::first).ok_or_else(no_certificate)?;
    let peer = leaf_identity(leaf).map_err(HandshakeError::Peer)?;
    let info = info(connection).ok_or_else(unknown_parameters)?;
    stream.get_mut().0.lift();
    Ok(TlsSession { stream, peer, info })
}

fn no_certificate() -> HandshakeError {
    HandshakeError::Tls(rustls::Error::NoCertificatesPresented)
}

fn unknown_parameters() -> HandshakeError {
    HandshakeError::Tls(rustls::Error::General("negotiated what was not offered".to_owned()))
}

/// `None` if something was negotiated that no configuration of ours offers.
fn info(connection: &CommonState) -> Option<TlsInfo> {
    let version = match connection.protocol_version()? {
        ProtocolVersion::TLSv1_3 => "TLSv1.3",
        _ => return None,
    };
    let cipher = match connection.negotiated_cipher_suite()?.suite() {
        rustls::CipherSuite::TLS13_AES_256_GCM_SHA384 => CipherSuite::Aes256Gcm,
        rustls::CipherSuite::TLS13_AES_128_GCM_SHA256 => CipherSuite::Aes128Gcm,
        rustls::CipherSuite::TLS13_CHACHA20_POLY1305_SHA256 => CipherSuite::Chacha20Poly1305,
        _ => return None,
    };
    let key_exchange = match connection.negotiated_key_exchange_group()?.name() {
        NamedGroup::X25519MLKEM768 => KeyExchange::X25519MlKem768,
        NamedGroup::X25519 => KeyExchange::X25519,
        NamedGroup::secp256r1 => KeyExchange::P256,
        _ => return None,
    };
    Some(TlsInfo { version, cipher, key_exchange })
}

fn io_reason(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset | io::ErrorKind::UnexpectedEof => "closed",
        io::ErrorKind::InvalidData => "too_long",
        _ => "io",
    }
}

fn tls_reason(error: &rustls::Error) -> &'static str {
    match error {
        rustls::Error::AlertReceived(AlertDescription::NoApplicationProtocol)
        | rustls::Error::NoApplicationProtocol => "no_alpn",
        rustls::Error::AlertReceived(_) => "refused_by_peer",
        rustls::Error::InvalidCertificate(error) => certificate_reason(error),
        rustls::Error::NoCertificatesPresented => "no_certificate",
        rustls::Error::PeerIncompatible(_) => "incompatible",
        _ => "protocol",
    }
}

fn certificate_reason(error: &CertificateError) -> &'static str {
    match error {
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => "expired",
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => "not_yet_valid",
        CertificateError::BadEncoding => "invalid_svid",
        CertificateError::Other(error) => error.0.downcast_ref::<PeerError>().map_or("untrusted", PeerError::reason),
        _ => "untrusted",
    }
}
