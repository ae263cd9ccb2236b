//! The keys of a session, as the record layers take them, and the schedule that makes the next ones.

use rustls::client::ClientConnectionData;
use rustls::kernel::KernelConnection;
use rustls::server::ServerConnectionData;
use rustls::{ConnectionTrafficSecrets, Error};
use zeroize::Zeroizing;

use crate::model::mesh::CipherSuite;
use crate::sys::ktls::Way;

/// The key of one direction, and the number of the next record. rustls wipes it.
pub(super) struct TrafficKeys {
    pub(super) sequence: u64,
    pub(super) secrets: ConnectionTrafficSecrets,
}

impl From<(u64, ConnectionTrafficSecrets)> for TrafficKeys {
    fn from((sequence, secrets): (u64, ConnectionTrafficSecrets)) -> Self {
        Self { sequence, secrets }
    }
}

impl TrafficKeys {
    /// These keys as the kernel wants them.
    pub(super) fn crypto_info(&self) -> Result<Zeroizing<Vec<u8>>, Error> {
        let (cipher, key, nonce) = match &self.secrets {
            ConnectionTrafficSecrets::Aes128Gcm { key, iv } => (CipherSuite::Aes128Gcm, key, iv),
            ConnectionTrafficSecrets::Aes256Gcm { key, iv } => (CipherSuite::Aes256Gcm, key, iv),
            ConnectionTrafficSecrets::Chacha20Poly1305 { key, iv } => (CipherSuite::Chacha20Poly1305, key, iv),
            _ => return Err(Error::General("the kernel has no such cipher".to_owned())),
        };
        Ok(crypto_info(cipher, key.as_ref(), nonce.as_ref(), self.sequence))
    }
}

/// A `struct tls12_crypto_info_*` (linux/tls.h) for TLS 1.3. The kernel keeps the first bytes of a GCM nonce apart, as
/// salt.
pub(super) fn crypto_info(cipher: CipherSuite, key: &[u8], nonce: &[u8], sequence: u64) -> Zeroizing<Vec<u8>> {
    let (number, salt) = match cipher {
        CipherSuite::Aes128Gcm => (libc::TLS_CIPHER_AES_GCM_128, libc::TLS_CIPHER_AES_GCM_128_SALT_SIZE),
        CipherSuite::Aes256Gcm => (libc::TLS_CIPHER_AES_GCM_256, libc::TLS_CIPHER_AES_GCM_256_SALT_SIZE),
        CipherSuite::Chacha20Poly1305 => (libc::TLS_CIPHER_CHACHA20_POLY1305, 0),
    };
    let (salt, nonce) = nonce.split_at(salt);
    // Large enough from the start: a buffer that grows would leave its secrets behind.
    let mut info = Zeroizing::new(Vec::with_capacity(64));
    info.extend_from_slice(&libc::TLS_1_3_VERSION.to_ne_bytes());
    info.extend_from_slice(&number.to_ne_bytes());
    for part in [nonce, key, salt, &sequence.to_be_bytes()] {
        info.extend_from_slice(part);
    }
    info
}

/// Makes the keys that follow a KeyUpdate (RFC 8446 §7.2), and takes tickets. Shows no secret.
pub(super) enum KeySchedule {
    Client(KernelConnection<ClientConnectionData>),
    Server(KernelConnection<ServerConnectionData>),
}

impl std::fmt::Debug for KeySchedule {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("KeySchedule")
    }
}

impl KeySchedule {
    pub(super) fn next(&mut self, way: Way) -> Result<TrafficKeys, Error> {
        let keys = match (self, way) {
            (Self::Client(connection), Way::Transmit) => connection.update_tx_secret(),
            (Self::Client(connection), Way::Receive) => connection.update_rx_secret(),
            (Self::Server(connection), Way::Transmit) => connection.update_tx_secret(),
            (Self::Server(connection), Way::Receive) => connection.update_rx_secret(),
        };
        keys.map(TrafficKeys::from)
    }

    /// Hands a ticket to the configuration's store, which may drop it. Errors: it is malformed, or a client's.
    pub(super) fn ticket(&mut self, body: &[u8]) -> Result<(), Error> {
        match self {
            Self::Client(connection) => connection.handle_new_session_ticket(body),
            Self::Server(_) => Err(Error::General("a client sends no tickets".to_owned())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn crypto_info_has_the_kernels_layout() {
        let nonce: Vec<u8> = (1..=12).collect();
        let check = |cipher, key_length, expected: usize| {
            let info = crypto_info(cipher, &vec![9; key_length], &nonce, 0x0102);
            assert_eq!(info.len(), expected, "{cipher:?}");
            assert_eq!(info[..2], 0x0304_u16.to_ne_bytes());
            assert_eq!(info[expected - 8..], [0, 0, 0, 0, 0, 0, 1, 2]);
            info
        };
        let gcm = check(CipherSuite::Aes128Gcm, 16, size_of::<libc::tls12_crypto_info_aes_gcm_128>());
        assert_eq!(gcm[4..12], nonce[4..]);
        assert_eq!(gcm[28..32], nonce[..4]);
        check(CipherSuite::Aes256Gcm, 32, size_of::<libc::tls12_crypto_info_aes_gcm_256>());
        let chacha = check(CipherSuite::Chacha20Poly1305, 32, size_of::<libc::tls12_crypto_info_chacha20_poly1305>());
        assert_eq!(chacha[4..16], nonce);
    }
}
