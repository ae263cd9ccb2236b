//! P-256 keys of the tests.

use p256::ecdsa::signature::Signer as _;
use p256::ecdsa::{DerSignature, SigningKey};
use p256::elliptic_curve::rand_core::OsRng;
use p256::pkcs8::EncodePrivateKey as _;

use crate::der::{bits, oid, sequence};

/// A key pair.
#[derive(Clone)]
pub(crate) struct Key(SigningKey);

impl Key {
    pub(crate) fn new() -> Self {
        Self(SigningKey::random(&mut OsRng))
    }

    /// The point, as X9.62 writes it uncompressed.
    pub(crate) fn point(&self) -> Vec<u8> {
        self.0.verifying_key().to_encoded_point(false).as_bytes().to_vec()
    }

    /// SubjectPublicKeyInfo (RFC 5480 §2).
    pub(crate) fn public(&self) -> Vec<u8> {
        let algorithm = sequence(&[&oid(&[1, 2, 840, 10045, 2, 1]), &oid(&[1, 2, 840, 10045, 3, 1, 7])]);
        sequence(&[&algorithm, &bits(&self.point())])
    }

    /// An ECDSA signature with SHA-256, in DER.
    pub(crate) fn sign(&self, message: &[u8]) -> Vec<u8> {
        let signature: DerSignature = self.0.sign(message);
        signature.as_bytes().to_vec()
    }

    /// PKCS #8 in PEM.
    pub(crate) fn pem(&self) -> String {
        pem::encode(&pem::Pem::new("PRIVATE KEY", self.private()))
    }

    /// PKCS #8 DER.
    pub(crate) fn private(&self) -> Vec<u8> {
        self.0.to_pkcs8_der().expect("write a P-256 key").as_bytes().to_vec()
    }
}
