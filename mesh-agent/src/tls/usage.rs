//! Counts how much a key has encrypted, against the bound of its cipher.
//!
//! RFC 8446 §5.5: AES-GCM keys are good for 2^24.5 full records, which are 2^34.5 blocks. rustls counts records instead,
//! so that small ones use a key up in minutes. ChaCha20-Poly1305 has no bound that a connection could reach.

use super::record::MAX_PLAINTEXT;
use crate::model::mesh::CipherSuite;

/// Bytes in a block of AES.
const BLOCK: u64 = 16;

/// 2^34.5, rounded down.
const AES_GCM_BLOCKS: u64 = 24_296_004_000;

/// What one key has encrypted.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) struct Usage {
    blocks: u64,
}

impl Usage {
    /// `count` bytes were written at once, in as few records as they need.
    pub(super) fn add(&mut self, count: usize) {
        let (full, rest) = (count / MAX_PLAINTEXT, count % MAX_PLAINTEXT);
        let records = blocks(MAX_PLAINTEXT) * full as u64 + if rest > 0 { blocks(rest) } else { 0 };
        self.blocks = self.blocks.saturating_add(records);
    }

    /// The key must not be used again.
    pub(super) const fn is_spent(self, limit: KeyLimit) -> bool {
        self.blocks >= limit.0
    }
}

/// The blocks of a record: its content, its inner type, and the one that masks the tag.
const fn blocks(content: usize) -> u64 {
    (content as u64 + 1).div_ceil(BLOCK) + 1
}

/// How many blocks a key may encrypt.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct KeyLimit(u64);

impl KeyLimit {
    /// The cipher's own bound, or an earlier one of `bytes`.
    pub(super) fn new(cipher: CipherSuite, bytes: Option<u64>) -> Self {
        let bound = match cipher {
            CipherSuite::Aes128Gcm | CipherSuite::Aes256Gcm => AES_GCM_BLOCKS,
            CipherSuite::Chacha20Poly1305 => return Self(u64::MAX),
        };
        Self(bytes.map_or(bound, |bytes| bound.min(bytes / BLOCK)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_counted_and_not_records() {
        let mut usage = Usage::default();
        usage.add(MAX_PLAINTEXT);
        assert_eq!(usage.blocks, 1024 + 1 + 1);
        usage.add(1);
        assert_eq!(usage.blocks, 1026 + 2);
        let mut large = Usage::default();
        large.add(3 * MAX_PLAINTEXT + 16);
        assert_eq!(large.blocks, 3 * 1026 + 3);
    }

    #[test]
    fn a_key_lasts_as_long_as_the_rfc_allows() {
        let limit = KeyLimit::new(CipherSuite::Aes256Gcm, None);
        // 2^24.5 full records are 23,726,566 of them; a block a record goes to the type, another to the tag.
        let mut usage = Usage { blocks: 23_680_000 * 1026 };
        assert!(!usage.is_spent(limit));
        usage.add(60_000 * MAX_PLAINTEXT);
        assert!(usage.is_spent(limit));
        // 10,000 records a second of a byte each: 14 days, not 28 minutes.
        assert!(!Usage { blocks: 2 * 10_000 * 86_400 * 14 }.is_spent(limit));
        assert!(!Usage { blocks: u64::MAX - 1 }.is_spent(KeyLimit::new(CipherSuite::Chacha20Poly1305, Some(1))));
        assert!(Usage { blocks: 64 }.is_spent(KeyLimit::new(CipherSuite::Aes128Gcm, Some(1024))));
        assert!(!Usage { blocks: AES_GCM_BLOCKS - 1 }.is_spent(KeyLimit::new(CipherSuite::Aes128Gcm, Some(u64::MAX))));
    }
}
