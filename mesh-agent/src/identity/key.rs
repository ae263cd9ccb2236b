//! Private keys and random numbers of the identity module.
//!
//! A key has no `Debug`, is wiped when dropped, and leaves this module only as the PKCS #8 text that an SVID or
//! `ca init` needs.

use std::hash::{BuildHasher, RandomState};

use rcgen::{CertificateParams, DistinguishedName, KeyPair, PublicKeyData, SignatureAlgorithm, SigningKey};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateSigningRequestDer, PrivateKeyDer, SubjectPublicKeyInfoDer};
use zeroize::{Zeroize, Zeroizing};

/// A private key. ECDSA P-256 if made here.
pub struct SecretKey(KeyPair);

impl SecretKey {
    /// Makes a new P-256 key.
    pub fn generate() -> Result<Self, rcgen::Error> {
        KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).map(Self)
    }

    /// Reads a key from PEM.
    pub(super) fn from_pem(pem: &str) -> Result<Self, rcgen::Error> {
        let mut der =
            PrivateKeyDer::from_pem_slice(pem.as_bytes()).map_err(|error| rcgen::Error::PemError(error.to_string()))?;
        let key = KeyPair::try_from(&der).map(Self);
        der.zeroize();
        key
    }

    /// A request for a certificate (PKCS #10) that asks for no name: its signature proves that the key is held.
    pub fn to_request(&self) -> Result<CertificateSigningRequestDer<'static>, rcgen::Error> {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.serialize_request(self).map(|request| request.der().clone())
    }

    /// PKCS #8 DER, as an SVID holds it.
    pub fn to_pkcs8(&self) -> Zeroizing<Vec<u8>> {
        Zeroizing::new(self.0.serialize_der())
    }

    /// PKCS #8 PEM.
    pub(super) fn to_pem(&self) -> Zeroizing<String> {
        Zeroizing::new(self.0.serialize_pem())
    }

    /// The public key (RFC 5280 §4.1).
    pub fn public_key(&self) -> SubjectPublicKeyInfoDer<'static> {
        SubjectPublicKeyInfoDer::from(self.0.subject_public_key_info())
    }
}

impl PublicKeyData for SecretKey {
    fn der_bytes(&self) -> &[u8] {
        self.0.der_bytes()
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        self.0.algorithm()
    }
}

impl SigningKey for SecretKey {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        self.0.sign(message)
    }
}

impl Drop for SecretKey {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

/// Random bytes that nobody can guess.
pub(super) fn random<const N: usize>() -> Result<[u8; N], rcgen::Error> {
    let mut bytes = [0; N];
    let random = rustls::crypto::aws_lc_rs::default_provider().secure_random;
    random.fill(&mut bytes).map_err(|_unexplained| rcgen::Error::RingUnspecified)?;
    Ok(bytes)
}

/// An unpredictable certificate serial number: 126 random bits, positive and always 16 bytes long (RFC 5280 §4.1.2.2).
pub(super) fn random_serial() -> Result<[u8; 16], rcgen::Error> {
    let mut serial: [u8; 16] = random()?;
    serial[0] = serial[0] & 0x7f | 0x40;
    Ok(serial)
}

/// Spreads load; not a secret.
pub(super) fn jitter() -> u16 {
    let [low, high, ..] = RandomState::new().hash_one(()).to_le_bytes();
    u16::from_le_bytes([low, high])
}
