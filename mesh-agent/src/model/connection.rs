//! What is known of a connection once its handshake is over.
//!
//! Plain values, so that the access line and (later) policy need not know the TLS library.

use std::time::Duration;

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
    /// Where records are protected.
    pub data_path: DataPath,
    /// A ticket of an earlier session stood for the peer's proof.
    pub resumed: bool,
}

/// How the path of a connection did.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct PathQuality {
    /// The smoothed round-trip time.
    pub rtt: Duration,
    /// Segments that were sent again, over the whole connection.
    pub retransmits: u32,
}

/// Where the records of a session are protected.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum DataPath {
    /// In the kernel (kTLS): the keys are there alone.
    Kernel,
    /// In the agent.
    Userspace,
}

impl DataPath {
    /// What logs and metrics show.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Kernel => "kernel",
            Self::Userspace => "userspace",
        }
    }
}
