//! Runs one handshake within a time limit and says who the peer is, or why there is none.
//!
//! rustls does the handshake, record by record; then its keys go to the record layer. A client's handshake ends before the
//! server has judged the client's certificate (RFC 8446 §4.4): a refusal by the server arrives as an error of the first
//! read.

mod drive;
mod error;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use rustls::client::UnbufferedClientConnection;
use rustls::server::UnbufferedServerConnection;
use rustls::{ClientConfig, CommonState, HandshakeKind, NamedGroup, ProtocolVersion, ServerConfig};
use rustls_pki_types::{ServerName, UnixTime};
use tokio::time::timeout;

use super::ALPN;
use super::datapath::DataPaths;
use super::layer::Transport;
use super::session::TlsStream;
use super::verify::{chain_identity, check_dates};
use crate::model::connection::TlsInfo;
use crate::model::mesh::{CipherSuite, KeyExchange};
use crate::model::revocation::CertificateId;
use crate::model::spiffe::SpiffeId;
use drive::{Endpoint, drive};
pub use error::HandshakeError;

/// A session whose peer is authenticated.
#[derive(Debug)]
pub struct TlsSession<S> {
    /// Plaintext in, plaintext out.
    pub stream: TlsStream<S>,
    /// Who the peer is.
    pub peer: SpiffeId,
    /// The certificates that it showed, leaf first. Never empty.
    pub chain: Arc<[CertificateId]>,
    /// What was negotiated.
    pub info: TlsInfo,
}

/// Handshakes as a client with the server at `address`. The peer is the identity that `config` was made for.
pub async fn connect<S: Transport>(
    stream: S,
    address: IpAddr,
    config: Arc<ClientConfig>,
    paths: &DataPaths,
    time_limit: Duration,
) -> Result<TlsSession<S>, HandshakeError> {
    // The address is no name to check (own verifier) or to send (no SNI): it is where a session may be resumed.
    let connection = UnbufferedClientConnection::new(Arc::clone(&config), ServerName::from(address));
    let now = || config.time_provider.current_time();
    run(stream, connection.map_err(HandshakeError::Tls)?, now, paths, time_limit).await
}

/// Handshakes as a server. The peer is any identity of the trust domain; what it may do is the caller's to decide.
pub async fn accept<S: Transport>(
    stream: S,
    config: Arc<ServerConfig>,
    paths: &DataPaths,
    time_limit: Duration,
) -> Result<TlsSession<S>, HandshakeError> {
    let connection = UnbufferedServerConnection::new(Arc::clone(&config)).map_err(HandshakeError::Tls)?;
    run(stream, connection, || config.time_provider.current_time(), paths, time_limit).await
}

async fn run<S: Transport, E: Endpoint>(
    mut stream: S,
    mut connection: E,
    now: impl FnOnce() -> Option<UnixTime>,
    paths: &DataPaths,
    time_limit: Duration,
) -> Result<TlsSession<S>, HandshakeError> {
    let attached = paths.attach(&stream).map_err(HandshakeError::Session)?;
    timeout(time_limit, drive(&mut stream, &mut connection)).await.map_err(|_elapsed| HandshakeError::Timeout)??;
    // rustls refuses a wrong protocol but accepts a peer that offers or chooses none.
    if connection.common().alpn_protocol() != Some(ALPN) {
        return Err(HandshakeError::NoAlpn);
    }
    let chain = connection.common().peer_certificates().unwrap_or_default();
    if chain.is_empty() {
        return Err(no_certificate());
    }
    let (peer, names) = chain_identity(chain).map_err(HandshakeError::Peer)?;
    let resumed = connection.common().handshake_kind() == Some(HandshakeKind::Resumed);
    if resumed {
        // No verifier has run. The roots are those of then, or this configuration would be another; the time is not.
        check_dates(chain, now().ok_or_else(no_clock)?).map_err(HandshakeError::Tls)?;
    }
    let (cipher, key_exchange) = negotiated(connection.common()).ok_or_else(unknown_parameters)?;
    let suite = connection.common().negotiated_cipher_suite().ok_or_else(unknown_parameters)?;
    let keys = connection.into_keys().map_err(HandshakeError::Tls)?;
    let stream = paths.begin(stream, attached, cipher, suite, keys).map_err(HandshakeError::Session)?;
    let info = TlsInfo { version: "TLSv1.3", cipher, key_exchange, data_path: stream.data_path(), resumed };
    Ok(TlsSession { stream, peer, chain: names.into(), info })
}

fn no_clock() -> HandshakeError {
    HandshakeError::Tls(rustls::Error::FailedToGetCurrentTime)
}

fn no_certificate() -> HandshakeError {
    HandshakeError::Tls(rustls::Error::NoCertificatesPresented)
}

fn unknown_parameters() -> HandshakeError {
    HandshakeError::Tls(rustls::Error::General("negotiated what was not offered".to_owned()))
}

/// `None` if something was negotiated that no configuration of ours offers.
fn negotiated(connection: &CommonState) -> Option<(CipherSuite, KeyExchange)> {
    if connection.protocol_version()? != ProtocolVersion::TLSv1_3 {
        return None;
    }
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
    Some((cipher, key_exchange))
}
