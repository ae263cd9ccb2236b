//! Mutual TLS 1.3 between workloads: what is offered, who is accepted, and the handshake.
//!
//! Built on rustls. Where SVIDs come from is `identity`'s business, and what an identity may do is policy's.

pub mod config;
pub mod control;
pub mod datapath;
pub mod error;
pub mod handshake;
pub mod issuer;
mod keys;
pub mod layer;
pub mod probe;
pub mod record;
pub mod session;
mod usage;
pub mod verify;

pub use config::{TlsConfigError, client_config, server_config};
pub use error::session_reason;
pub use handshake::{HandshakeError, TlsSession};
pub use layer::Transport;
pub use verify::PeerError;

/// The ALPN protocol of mesh connections (RFC 7301): tells them from an application's own TLS.
pub const ALPN: &[u8] = b"hauberk/1";

#[cfg(test)]
mod tests;
