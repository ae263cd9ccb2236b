//! What takes an identity's standing away before it expires: [`Revocation`], and the [`Serial`] of a certificate.

use std::fmt;

use super::crl::Crl;
use super::spiffe::SpiffeId;
use super::workload::NodeName;

/// The longest serial number in bytes (RFC 5280 §4.1.2.2), with the zero that keeps it positive.
const MAX_BYTES: usize = 21;

/// The serial number of a certificate: lower-case hexadecimal without leading zeros, whoever wrote it.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Serial(Box<str>);

impl Serial {
    /// Reads what people copy out of logs and tools: hexadecimal digits, perhaps with colons between bytes.
    /// `None` if it is something else, or longer than a serial number can be.
    pub fn parse(text: &str) -> Option<Self> {
        let digits: String = text.chars().filter(|character| *character != ':').collect();
        let fits = !digits.is_empty() && digits.len() <= 2 * MAX_BYTES;
        let is_hexadecimal = digits.bytes().all(|byte| byte.is_ascii_hexdigit());
        (fits && is_hexadecimal).then(|| Self::of_digits(&digits))
    }

    /// Takes the content of a DER integer.
    pub fn from_der(content: &[u8]) -> Self {
        let digits: String = content.iter().map(|byte| format!("{byte:02x}")).collect();
        Self::of_digits(&digits)
    }

    fn of_digits(digits: &str) -> Self {
        Self(digits.trim_start_matches('0').to_ascii_lowercase().into())
    }
}

impl fmt::Display for Serial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_empty() { "0" } else { &self.0 })
    }
}

/// The name of a CA: the SHA-256 of its distinguished name in DER, for that is compared byte by byte (RFC 5280 §7.1 would
/// let more be equal; CAs repeat themselves).
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct IssuerName([u8; 32]);

impl IssuerName {
    /// Of the distinguished name `der`.
    pub fn from_der(der: &[u8]) -> Self {
        let mut name = [0; 32];
        name.copy_from_slice(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, der).as_ref());
        Self(name)
    }
}

/// Names one certificate (RFC 5280 §4.1.2.2).
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct CertificateId {
    /// Who signed it.
    pub issuer: IssuerName,
    /// Its number among that CA's.
    pub serial: Serial,
}

/// One `Revocation` document. Mesh-wide; at least one of the lists has an item.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Revocation {
    /// Its name.
    pub name: String,
    /// Identities of the mesh's trust domain, with whatever certificate.
    pub spiffe_ids: Vec<SpiffeId>,
    /// Single certificates.
    pub serials: Vec<Serial>,
    /// Nodes: each stands for its own identity and for that of every workload that is configured there.
    pub nodes: Vec<NodeName>,
    /// Lists of CAs.
    pub crls: Vec<Crl>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_serial_number_is_the_same_however_it_is_written() {
        let expected = Serial::from_der(&[0x00, 0x0a, 0xbc]);
        for text in ["abc", "0ABC", "00:0a:bc", "000000abc"] {
            assert_eq!(Serial::parse(text).as_ref(), Some(&expected), "{text}");
        }
        assert_eq!(expected.to_string(), "abc");
        for text in ["", ":", "0xabc", "xyz", "a b", &"a".repeat(43)] {
            assert_eq!(Serial::parse(text), None, "{text}");
        }
    }
}
