//! Runs one handshake within a time limit and says who the peer is, or why there is none.
//!
//! A client's handshake ends before the server has judged the client's certificate (RFC 8446 §4.4): a refusal by the
//! server arrives as an error of the first read.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use rustls::{ClientConfig, ServerConfig};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsStream;

use crate::model::connection::TlsInfo;
use crate::model::spiffe::SpiffeId;

/// A session whose peer is authenticated.
#[derive(Debug)]
pub struct TlsSession<S> {
    /// Plaintext in, plaintext out.
    pub stream: TlsStream<S>,
    /// Who the peer is.
    pub peer: SpiffeId,
    /// What was negotiated.
    pub info: TlsInfo,
}

/// Why there is no session.
#[derive(Debug, thiserror::Error)]
pub enum HandshakeError {
    /// The time limit passed.
    #[error("the handshake timed out")]
    Timeout,
    /// The connection failed or closed in the middle.
    #[error("the connection failed during the handshake")]
    Io(#[source] io::Error),
}

impl HandshakeError {
    /// A stable label for logs and metrics.
    pub fn reason(&self) -> &'static str {
        unimplemented!()
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
    let _ = (stream, config, time_limit);
    unimplemented!()
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
    let _ = (stream, config, time_limit);
    unimplemented!()
}
