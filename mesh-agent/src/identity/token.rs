//! Join tokens: what lets the agent of one node get that node's identity, once.
//!
//! A token names the node, ends soon, carries the hash of the CA's public key, by which the agent knows the issuer before
//! it has a root, and is signed by the CA. That it is used once is the issuer's to remember (`signing::journal`).

use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rustls_pki_types::CertificateDer;
use webpki::EndEntityCert;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::LocalCa;
use super::key::random;
use crate::model::bundle::BundleError;
use crate::model::spiffe::{SpiffeId, SpiffeIdError};
use crate::model::svid::fingerprint;

/// Begins the text and what is signed: a certificate begins with another byte.
const PREFIX: &str = "hauberk-join-1";

/// Why a token isn't accepted, or isn't made.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// The CA's own certificate can't be read.
    #[error(transparent)]
    Bundle(#[from] BundleError),
    /// It is no token.
    #[error("this is not a join token")]
    Encoding,
    /// Its time has passed.
    #[error("the join token has expired")]
    Expired,
    /// The CA hasn't signed it.
    #[error("the join token is not this CA's")]
    Forged,
    /// The node has an impossible name.
    #[error("the node's name can't be part of an identity")]
    Node(#[source] SpiffeIdError),
    /// Signing failed.
    #[error("sign a join token")]
    Sign(#[source] rcgen::Error),
}

/// What a token says.
#[derive(Clone, Eq, PartialEq)]
pub struct JoinToken {
    /// Names the token.
    pub serial: String,
    /// The node that may join.
    pub node: String,
    /// SHA-256 of the public key of the root that the issuer's certificate leads to, in hexadecimal.
    pub pin: String,
    /// Seconds since 1970 at which it ends.
    expires: u64,
    signature: Vec<u8>,
}

impl JoinToken {
    /// A new token by `ca` for `node`.
    pub fn issue(ca: &LocalCa, node: &str, lifetime: Duration, now: SystemTime) -> Result<Self, TokenError> {
        SpiffeId::of_node(&ca.anchors().bundle.trust_domain, node).map_err(TokenError::Node)?;
        let serial = u128::from_be_bytes(random().map_err(TokenError::Sign)?);
        let mut token = Self {
            serial: format!("{serial:032x}"),
            node: node.to_owned(),
            pin: pin(ca.root()).ok_or(TokenError::Encoding)?,
            expires: seconds(now + lifetime),
            signature: Vec::new(),
        };
        token.signature = ca.sign_message(token.claims().as_bytes()).map_err(TokenError::Sign)?;
        Ok(token)
    }

    /// Reads a token; who made it isn't known yet.
    pub fn parse(text: &str) -> Result<Self, TokenError> {
        let (claims, signature) = text.trim().rsplit_once(':').ok_or(TokenError::Encoding)?;
        let [PREFIX, serial, node, pin, expires] = claims.split(':').collect::<Vec<_>>()[..] else {
            return Err(TokenError::Encoding);
        };
        let signature = URL_SAFE_NO_PAD.decode(signature).map_err(|_unexplained| TokenError::Encoding)?;
        let expires = expires.parse().map_err(|_unexplained| TokenError::Encoding)?;
        Ok(Self { serial: serial.to_owned(), node: node.to_owned(), pin: pin.to_owned(), expires, signature })
    }

    /// Whether `ca` made it, and it hasn't ended.
    pub fn verify(&self, ca: &LocalCa, now: SystemTime) -> Result<(), TokenError> {
        let certificate = ca.signing_certificate()?;
        let signer = EndEntityCert::try_from(&certificate).map_err(|_unexplained| TokenError::Forged)?;
        let claims = self.claims();
        let signed = |algorithm| signer.verify_signature(algorithm, claims.as_bytes(), &self.signature).is_ok();
        if !webpki::ALL_VERIFICATION_ALGS.iter().any(|algorithm| signed(*algorithm)) {
            return Err(TokenError::Forged);
        }
        if seconds(now) < self.expires { Ok(()) } else { Err(TokenError::Expired) }
    }

    fn claims(&self) -> String {
        [PREFIX, &self.serial, &self.node, &self.pin, &self.expires.to_string()].join(":")
    }
}

/// The text: for the operator's eyes and the agent's file only. Whoever has it first is the node.
impl fmt::Display for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.claims(), URL_SAFE_NO_PAD.encode(&self.signature))
    }
}

/// SHA-256 of a certificate's public key in lower-case hexadecimal.
pub fn pin(certificate: &CertificateDer<'_>) -> Option<String> {
    let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
    Some(fingerprint(parsed.public_key().raw))
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::mesh::SvidSettings;
    use crate::model::spiffe::TrustDomain;

    const TEN_MINUTES: Duration = Duration::from_mins(10);

    fn now() -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(1_800_000_000)
    }

    fn ca() -> LocalCa {
        LocalCa::create(TrustDomain::parse("cluster.local").unwrap(), SvidSettings::default(), now()).unwrap()
    }

    #[test]
    fn a_token_survives_its_text_and_ends() {
        let ca = ca();
        let token = JoinToken::issue(&ca, "rack-1.a", TEN_MINUTES, now()).unwrap();
        let read = JoinToken::parse(&format!("{token}\n")).unwrap();
        assert!(read == token && read.node == "rack-1.a" && Some(&read.pin) == pin(ca.root()).as_ref());
        read.verify(&ca, now() + TEN_MINUTES - Duration::from_secs(1)).unwrap();
        assert!(matches!(read.verify(&ca, now() + TEN_MINUTES), Err(TokenError::Expired)));
    }

    #[test]
    fn nobody_else_makes_tokens_and_no_claim_can_be_changed() {
        let (ca, other) = (ca(), ca());
        let token = JoinToken::issue(&other, "a", TEN_MINUTES, now()).unwrap();
        assert!(matches!(token.verify(&ca, now()), Err(TokenError::Forged)));
        let good = JoinToken::issue(&ca, "a", TEN_MINUTES, now()).unwrap();
        let changes: [&dyn Fn(&mut JoinToken); 4] = [
            &|token| token.node = "b".to_owned(),
            &|token| token.expires += 1,
            &|token| token.serial = "00".to_owned(),
            &|token| token.pin = "00".to_owned(),
        ];
        for change in changes {
            let mut token = good.clone();
            change(&mut token);
            assert!(matches!(token.verify(&ca, now()), Err(TokenError::Forged)));
        }
        for text in ["", "x", "hauberk-join-1:a:b:c:d:e", "hauberk-join-2:a:b:c:1:AAAA", "hauberk-join-1:a:b:1:AAAA"] {
            assert!(matches!(JoinToken::parse(text), Err(TokenError::Encoding)), "{text}");
        }
        assert!(matches!(JoinToken::issue(&ca, "a/b", TEN_MINUTES, now()), Err(TokenError::Node(_))));
    }
}
