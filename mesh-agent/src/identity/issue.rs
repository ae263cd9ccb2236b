//! Decides what goes into a certificate. Pure: the key, the time and the serial number are arguments.
//!
//! A certificate is built here from nothing but a public key and an identity. Whatever else a request might ask for has
//! no way in (SPIFFE X509-SVID §2 to §4).

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rcgen::string::Ia5String;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, KeyUsagePurpose,
    SanType, SerialNumber,
};
use time::OffsetDateTime;

use crate::model::spiffe::{SpiffeId, TrustDomain};

/// How far CA certificates begin in the past, for peers whose clock is behind.
pub(super) const BACK_DATED: Duration = Duration::from_mins(1);
/// Lifetime of a CA certificate made here: ten years.
const CA_LIFETIME: Duration = Duration::from_hours(10 * 365 * 24);
/// Lifetime of an intermediate CA made here: a year.
pub(super) const INTERMEDIATE_LIFETIME: Duration = Duration::from_hours(365 * 24);
/// A root has intermediates below it at most, and these only leaves.
pub(super) const ROOT_PATH_LENGTH: u8 = 1;

/// When a certificate is valid: whole seconds, as X.509 counts.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Validity {
    pub(super) not_before: SystemTime,
    pub(super) not_after: SystemTime,
}

impl Validity {
    /// Of an SVID: never beyond its CA, whose own dates nobody checks in a handshake. `None` if the CA isn't valid now.
    pub(super) fn of_svid(now: SystemTime, lifetime: Duration, clock_skew: Duration, ca: Validity) -> Option<Self> {
        let ca_is_valid = ca.not_before <= now && now < ca.not_after;
        let not_after = whole_seconds(now + lifetime).min(ca.not_after);
        ca_is_valid.then(|| Self { not_before: whole_seconds(now - clock_skew), not_after })
    }

    /// When both are valid.
    pub(super) fn intersection(self, other: Self) -> Self {
        Self { not_before: self.not_before.max(other.not_before), not_after: self.not_after.min(other.not_after) }
    }

    /// Of a CA.
    pub(super) fn of_ca(now: SystemTime) -> Self {
        Self { not_before: whole_seconds(now - BACK_DATED), not_after: whole_seconds(now + CA_LIFETIME) }
    }
}

/// An SVID's leaf. Its subject is empty: the identity is the URI SAN, which is critical then (RFC 5280 §4.1.2.6).
pub(super) fn svid(id: &SpiffeId, validity: Validity, serial: [u8; 16]) -> Result<CertificateParams, rcgen::Error> {
    let mut params = base(id, validity, serial)?;
    params.distinguished_name = DistinguishedName::new();
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params.use_authority_key_identifier_extension = true;
    Ok(params)
}

/// A CA with at most `path_length` CAs below it.
pub(super) fn ca(
    trust_domain: &TrustDomain,
    validity: Validity,
    serial: [u8; 16],
    path_length: u8,
) -> Result<CertificateParams, rcgen::Error> {
    let mut params = base(&trust_domain.id(), validity, serial)?;
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, "Hauberk");
    // Names differ from root to root, so that a chain shows which one it belongs to.
    params.distinguished_name.push(DnType::CommonName, format!("mesh CA {}", &hexadecimal(serial)[..8]));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(path_length));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    Ok(params)
}

/// Lower-case hexadecimal.
fn hexadecimal(serial: [u8; 16]) -> String {
    format!("{:032x}", u128::from_be_bytes(serial))
}

fn base(id: &SpiffeId, validity: Validity, serial: [u8; 16]) -> Result<CertificateParams, rcgen::Error> {
    let mut params = CertificateParams::default();
    params.not_before = OffsetDateTime::from(validity.not_before);
    params.not_after = OffsetDateTime::from(validity.not_after);
    params.serial_number = Some(SerialNumber::from_slice(&serial));
    params.subject_alt_names = vec![SanType::URI(Ia5String::try_from(id.to_string())?)];
    Ok(params)
}

fn whole_seconds(time: SystemTime) -> SystemTime {
    let since_epoch = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    UNIX_EPOCH + Duration::from_secs(since_epoch.as_secs())
}
