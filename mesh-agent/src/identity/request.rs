//! Reads a request for a certificate (PKCS #10, RFC 2986): the public key, and the proof that its holder asks.
//!
//! Whatever else a request says, names and usages above all, is not looked at.

use rustls_pki_types::SubjectPublicKeyInfoDer;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::oid_registry::{OID_KEY_TYPE_EC_PUBLIC_KEY, OID_SIG_ED25519};
use x509_parser::prelude::FromDer;

/// The largest request that is looked at; one for P-256 has 200 bytes.
const MAX_BYTES: usize = 4096;

/// Why a request is refused.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum RequestError {
    /// It is no request.
    #[error("the certificate request can't be read")]
    Encoding,
    /// Its key is of a kind that no agent makes.
    #[error("the key of the certificate request is not an elliptic one")]
    Key,
    /// Its signature isn't one of its key.
    #[error("the certificate request is not signed with its key")]
    Proof,
}

/// The key of a request whose signature proves that the key is held.
pub fn public_key(der: &[u8]) -> Result<SubjectPublicKeyInfoDer<'static>, RequestError> {
    if der.len() > MAX_BYTES {
        return Err(RequestError::Encoding);
    }
    let Ok(([], request)) = X509CertificationRequest::from_der(der) else { return Err(RequestError::Encoding) };
    let key = &request.certification_request_info.subject_pki;
    if ![OID_KEY_TYPE_EC_PUBLIC_KEY, OID_SIG_ED25519].contains(&key.algorithm.algorithm) {
        return Err(RequestError::Key);
    }
    request.verify_signature().map_err(|_unexplained| RequestError::Proof)?;
    Ok(SubjectPublicKeyInfoDer::from(key.raw.to_vec()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::SecretKey;

    #[test]
    fn a_request_proves_its_key() {
        let key = SecretKey::generate().unwrap();
        let mut request = key.to_request().unwrap().to_vec();
        assert_eq!(public_key(&request).unwrap(), key.public_key());
        *request.last_mut().unwrap() ^= 1;
        assert_eq!(public_key(&request), Err(RequestError::Proof));
        request.push(0);
        assert_eq!(public_key(&request), Err(RequestError::Encoding));
        assert_eq!(public_key(&[0x30; 5000]), Err(RequestError::Encoding));
    }

    #[test]
    fn another_key_put_into_a_request_is_not_proven() {
        let (own, other) = (SecretKey::generate().unwrap(), SecretKey::generate().unwrap());
        let request = own.to_request().unwrap().to_vec();
        let (own, other) = (own.public_key(), other.public_key());
        let at = request.windows(own.len()).position(|window| window == own.as_ref()).unwrap();
        let swapped = [&request[..at], &other, &request[at + own.len()..]].concat();
        assert_eq!(public_key(&swapped), Err(RequestError::Proof));
    }
}
