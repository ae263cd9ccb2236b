//! What vouches for a trust domain: what a CA's certificate must be, and trust bundles as texts: PEM, and the SPIFFE bundle (SPIFFE Trust Domain and Bundle §4, a JWK Set of RFC 7517).

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::{self, PemObject};
use serde_json::{Value, json};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};
use x509_parser::public_key::PublicKey;

use super::spiffe::TrustDomain;

/// Keys of other uses, such as JWT-SVIDs, are in the same set.
const X509_USE: &str = "x509-svid";

/// Why a text is no bundle.
#[derive(Debug, thiserror::Error)]
pub enum BundleError {
    /// It has no certificate.
    #[error("the bundle has no certificate")]
    Empty,
    /// It is no JSON.
    #[error("the bundle is not JSON")]
    Json(#[source] serde_json::Error),
    /// A key can't be shown as a JWK, or read.
    #[error("key {0} of the bundle is not understood")]
    Key(usize),
    /// It is no PEM.
    #[error("the bundle is not PEM")]
    Pem(#[source] pem::Error),
}

/// Why a certificate is none of a CA of a trust domain.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum UnfitCa {
    /// It is no X.509, or nothing that a handshake could lead to.
    #[error("is not a certificate")]
    Encoding,
    /// basicConstraints or keyUsage don't let it sign certificates (SPIFFE X509-SVID §4).
    #[error("is not one of a CA that may sign certificates")]
    NotACa,
    /// It limits names in a way that no verifier here can check.
    #[error("has name constraints, which are not supported")]
    Constrained,
    /// It is another trust domain's.
    #[error("belongs to `{0}`")]
    TrustDomain(String),
}

/// Refuses what no chain of `trust_domain` can go through.
pub fn check_ca(certificate: &CertificateDer<'_>, trust_domain: &TrustDomain) -> Result<(), UnfitCa> {
    let Ok(([], ca)) = X509Certificate::from_der(certificate) else { return Err(UnfitCa::Encoding) };
    let key_usage = ca.key_usage().map_err(|_unexplained| UnfitCa::Encoding)?;
    if !ca.is_ca() || key_usage.is_some_and(|usage| !usage.value.key_cert_sign()) {
        return Err(UnfitCa::NotACa);
    }
    if ca.name_constraints().map_err(|_unexplained| UnfitCa::Encoding)?.is_some() {
        return Err(UnfitCa::Constrained);
    }
    let names = ca.subject_alternative_name().map_err(|_unexplained| UnfitCa::Encoding)?;
    let uris = names.iter().flat_map(|names| &names.value.general_names).filter_map(|name| match name {
        GeneralName::URI(uri) => Some(*uri),
        _ => None,
    });
    let own = trust_domain.id().to_string();
    if let Some(foreign) = uris.into_iter().find(|uri| *uri != own) {
        return Err(UnfitCa::TrustDomain(foreign.to_owned()));
    }
    // Handshakes read roots with webpki, which is stricter: what it refuses must not be found out there.
    webpki::anchor_from_trusted_cert(certificate).map(drop).map_err(|_unexplained| UnfitCa::Encoding)
}

/// Reads either form.
pub fn parse(text: &str) -> Result<Vec<CertificateDer<'static>>, BundleError> {
    let roots = if text.trim_start().starts_with('{') {
        from_spiffe(&serde_json::from_str(text).map_err(BundleError::Json)?)?
    } else {
        from_pem(text)?
    };
    if roots.is_empty() { Err(BundleError::Empty) } else { Ok(roots) }
}

/// The certificates of a PEM text, in their order.
pub fn from_pem(text: &str) -> Result<Vec<CertificateDer<'static>>, BundleError> {
    CertificateDer::pem_slice_iter(text.as_bytes()).collect::<Result<_, _>>().map_err(BundleError::Pem)
}

/// As PEM.
pub fn to_pem(certificates: &[CertificateDer<'_>]) -> String {
    let blocks = certificates.iter().map(|der| ::pem::Pem::new("CERTIFICATE", der.as_ref()));
    ::pem::encode_many(&blocks.collect::<Vec<_>>())
}

/// The roots of a SPIFFE bundle.
pub fn from_spiffe(bundle: &Value) -> Result<Vec<CertificateDer<'static>>, BundleError> {
    let keys = bundle["keys"].as_array().ok_or(BundleError::Empty)?;
    let ours = keys.iter().enumerate().filter(|(_, key)| key["use"] == X509_USE);
    ours.map(|(index, key)| certificate_of(key).ok_or(BundleError::Key(index))).collect()
}

/// As a SPIFFE bundle.
pub fn to_spiffe(roots: &[CertificateDer<'_>]) -> Result<Value, BundleError> {
    let keys = roots.iter().enumerate().map(|(index, root)| key_of(root).ok_or(BundleError::Key(index)));
    Ok(json!({ "keys": keys.collect::<Result<Vec<_>, _>>()? }))
}

/// SPIFFE X509-SVID §6.2: exactly one certificate in `x5c`.
fn certificate_of(key: &Value) -> Option<CertificateDer<'static>> {
    let [certificate] = &key["x5c"].as_array()?[..] else { return None };
    STANDARD.decode(certificate.as_str()?).ok().map(CertificateDer::from)
}

/// RFC 7518 §6.2 and §6.3.
fn key_of(root: &CertificateDer<'_>) -> Option<Value> {
    let (_, parsed) = X509Certificate::from_der(root).ok()?;
    let mut key = match parsed.public_key().parsed().ok()? {
        PublicKey::EC(point) => {
            let (curve, bytes) = match point.data() {
                [4, bytes @ ..] if bytes.len() == 64 => ("P-256", bytes),
                [4, bytes @ ..] if bytes.len() == 96 => ("P-384", bytes),
                _ => return None,
            };
            let (x, y) = bytes.split_at(bytes.len() / 2);
            json!({ "kty": "EC", "crv": curve, "x": URL_SAFE_NO_PAD.encode(x), "y": URL_SAFE_NO_PAD.encode(y) })
        }
        PublicKey::RSA(key) => {
            let unsigned = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes.strip_prefix(&[0]).unwrap_or(bytes));
            json!({ "kty": "RSA", "n": unsigned(key.modulus), "e": unsigned(key.exponent) })
        }
        _ => return None,
    };
    key["use"] = json!(X509_USE);
    key["x5c"] = json!([STANDARD.encode(root)]);
    Some(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_keep_the_roots_in_their_order() {
        let roots =
            ["one", "other"].map(|name| CertificateDer::from(mesh_pki::Authority::root(name).certificate().to_vec()));
        assert_eq!(parse(&to_pem(&roots)).unwrap(), roots);
        let bundle = to_spiffe(&roots).unwrap();
        assert_eq!(parse(&bundle.to_string()).unwrap(), roots);
        let key = &bundle["keys"][1];
        assert_eq!(
            (key["kty"].as_str(), key["crv"].as_str(), key["use"].as_str()),
            (Some("EC"), Some("P-256"), Some("x509-svid"))
        );
        assert_eq!(key["x"].as_str().map(str::len), Some(43));
    }

    #[test]
    fn keys_of_other_uses_are_left_out_and_odd_ones_refused() {
        let root = CertificateDer::from(mesh_pki::Authority::root("root").certificate().to_vec());
        let mut bundle = to_spiffe(std::slice::from_ref(&root)).unwrap();
        bundle["keys"].as_array_mut().unwrap().insert(0, json!({ "use": "jwt-svid", "kty": "EC" }));
        assert_eq!(parse(&bundle.to_string()).unwrap(), [root]);
        bundle["keys"][1]["x5c"].as_array_mut().unwrap().push(json!("AAAA"));
        assert_eq!(parse(&bundle.to_string()).unwrap_err().to_string(), "key 1 of the bundle is not understood");
        for (text, error) in [
            ("", "the bundle has no certificate"),
            ("{}", "the bundle has no certificate"),
            ("{", "the bundle is not JSON"),
        ] {
            assert_eq!(parse(text).unwrap_err().to_string(), error);
        }
    }
}
