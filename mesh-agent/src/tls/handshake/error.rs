//! Why a handshake came to nothing, with a stable name for each cause.

use std::io;

use rustls::{AlertDescription, CertificateError};

use crate::tls::error::SessionError;
use crate::tls::verify::PeerError;

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
    /// The record layer could not be set up.
    #[error("the session could not begin")]
    Session(#[source] SessionError),
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
            Self::Session(error) => error.reason().unwrap_or("io"),
            Self::Timeout => "timeout",
            Self::Tls(error) => tls_reason(error),
        }
    }
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
