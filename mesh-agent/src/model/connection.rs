//! What is known of a connection once its handshake is over.
//!
//! Plain values, so that the access line and (later) policy need not know the TLS library.

use super::mesh::{CipherSuite, KeyExchange};

/// What a TLS session negotiated.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct TlsInfo {
    /// `TLSv1.3`: there is no other, but the access line says so rather than assume it.
    pub version: &'static str,
    /// The cipher suite.
    pub cipher: CipherSuite,
    /// The key exchange group.
    pub key_exchange: KeyExchange,
}
