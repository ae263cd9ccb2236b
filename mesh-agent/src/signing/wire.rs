//! The messages of the signing API. DER travels in base64.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustls_pki_types::CertificateDer;
use serde::{Deserialize, Serialize};
use serde_json::Value;

pub(super) const JOIN: &str = "/v1/join";
pub(super) const SVID: &str = "/v1/svid";
pub(super) const TRUST: &str = "/v1/trust";

/// The largest message: a bundle of many roots.
pub(super) const MAX_BYTES: usize = 256 * 1024;

/// POST to [`JOIN`]: a join token for the node's identity.
#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct JoinRequest {
    pub(super) token: String,
    pub(super) request: String,
}

/// POST to [`SVID`]: an identity for the key of a PKCS #10 request.
#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SvidRequest {
    pub(super) id: String,
    pub(super) request: String,
}

/// The answer to both.
#[derive(Debug, Deserialize, Serialize)]
pub(super) struct SvidAnswer {
    pub(super) chain: Vec<String>,
}

/// The answer to GET of [`TRUST`].
#[derive(Debug, Deserialize, Serialize)]
pub(super) struct TrustAnswer {
    /// A SPIFFE bundle.
    pub(super) bundle: Value,
    pub(super) signer: String,
}

/// The answer when there is no other.
#[derive(Debug, Deserialize, Serialize)]
pub(super) struct Refusal {
    pub(super) error: String,
}

pub(super) fn encode(der: &[u8]) -> String {
    STANDARD.encode(der)
}

pub(super) fn decode(text: &str) -> Option<Vec<u8>> {
    STANDARD.decode(text).ok()
}

pub(super) fn decode_chain(chain: &[String]) -> Option<Vec<CertificateDer<'static>>> {
    chain.iter().map(|text| decode(text).map(CertificateDer::from)).collect()
}
