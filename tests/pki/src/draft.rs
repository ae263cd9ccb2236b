//! A certificate before it is signed: every part can be bent (RFC 5280 §4.1).

use std::net::IpAddr;
use std::time::{Duration, SystemTime};

use crate::der::{bits, name, oid, sequence, tlv, utc_time};
use crate::key::Key;

pub(crate) const KEY_USAGE: &[u32] = &[2, 5, 29, 15];
pub(crate) const SUBJECT_ALT_NAME: &[u32] = &[2, 5, 29, 17];
pub(crate) const BASIC_CONSTRAINTS: &[u32] = &[2, 5, 29, 19];
pub(crate) const NAME_CONSTRAINTS: &[u32] = &[2, 5, 29, 30];
pub(crate) const EXTENDED_KEY_USAGE: &[u32] = &[2, 5, 29, 37];
pub(crate) const ECDSA_SHA256: &[u32] = &[1, 2, 840, 10045, 4, 3, 2];
pub(crate) const ECDSA_SHA1: &[u32] = &[1, 2, 840, 10045, 4, 1];
pub(crate) const SERVER_AUTH: &[u32] = &[1, 3, 6, 1, 5, 5, 7, 3, 1];
pub(crate) const CLIENT_AUTH: &[u32] = &[1, 3, 6, 1, 5, 5, 7, 3, 2];

/// Bits of keyUsage, in its first byte.
pub(crate) const DIGITAL_SIGNATURE: u8 = 0x80;
pub(crate) const KEY_ENCIPHERMENT: u8 = 0x20;
pub(crate) const KEY_CERT_SIGN: u8 = 0x04;
pub(crate) const CRL_SIGN: u8 = 0x02;

/// A name of subjectAltName.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Name<'a> {
    Dns(&'a str),
    Uri(&'a [u8]),
    Address(IpAddr),
}

#[derive(Clone, Debug)]
pub(crate) struct Extension {
    pub(crate) id: &'static [u32],
    pub(crate) critical: bool,
    pub(crate) value: Vec<u8>,
}

/// What will be signed.
#[derive(Clone, Debug)]
pub struct Draft {
    /// 2 is version 3; `None` leaves it out, which is version 1.
    pub(crate) version: Option<u8>,
    /// The signature algorithm inside what is signed, and beside it.
    pub(crate) algorithms: [&'static [u32]; 2],
    pub(crate) subject: Vec<u8>,
    pub(crate) not_before: Vec<u8>,
    pub(crate) not_after: Vec<u8>,
    pub(crate) extensions: Vec<Extension>,
    /// Flips a bit of the signature.
    pub(crate) forged: bool,
    /// Comes after the certificate.
    pub(crate) trailing: Vec<u8>,
}

impl Draft {
    /// A good SVID, valid for an hour.
    pub fn leaf(id: &str) -> Self {
        let mut draft = Self::empty("");
        draft.basic_constraints(false, None);
        draft.key_usage(DIGITAL_SIGNATURE);
        draft.extended_key_usage(&[SERVER_AUTH, CLIENT_AUTH]);
        draft.names(&[Name::Uri(id.as_bytes())]);
        draft
    }

    /// A good CA.
    pub fn ca(common_name: &str) -> Self {
        let mut draft = Self::empty(common_name);
        draft.basic_constraints(true, None);
        draft.key_usage(KEY_CERT_SIGN);
        draft
    }

    pub(crate) fn empty(common_name: &str) -> Self {
        let mut draft = Self {
            version: Some(2),
            algorithms: [ECDSA_SHA256; 2],
            subject: name(common_name),
            not_before: Vec::new(),
            not_after: Vec::new(),
            extensions: Vec::new(),
            forged: false,
            trailing: Vec::new(),
        };
        draft.valid(-60, 3600);
        draft
    }

    /// Sets the dates, in seconds from now.
    pub fn valid(&mut self, from: i64, until: i64) {
        let moment = |seconds: i64| {
            let (now, offset) = (SystemTime::now(), Duration::from_secs(seconds.unsigned_abs()));
            utc_time(if seconds < 0 { now - offset } else { now + offset }.into())
        };
        (self.not_before, self.not_after) = (moment(from), moment(until));
    }

    pub(crate) fn set(&mut self, id: &'static [u32], critical: bool, value: Vec<u8>) {
        self.remove(id);
        self.extensions.push(Extension { id, critical, value });
    }

    pub(crate) fn remove(&mut self, id: &'static [u32]) {
        self.extensions.retain(|extension| extension.id != id);
    }

    pub(crate) fn basic_constraints(&mut self, ca: bool, path_length: Option<u8>) {
        let flag: &[u8] = if ca { &[0x01, 0x01, 0xff] } else { &[] };
        let length = path_length.map(|length| tlv(0x02, &[&[length]])).unwrap_or_default();
        self.set(BASIC_CONSTRAINTS, true, sequence(&[flag, &length]));
    }

    pub(crate) fn key_usage(&mut self, usages: u8) {
        let unused = u8::try_from(usages.trailing_zeros()).expect("a byte has eight bits");
        self.set(KEY_USAGE, true, tlv(0x03, &[&[unused, usages]]));
    }

    pub(crate) fn extended_key_usage(&mut self, purposes: &[&[u32]]) {
        let purposes: Vec<_> = purposes.iter().map(|purpose| oid(purpose)).collect();
        self.set(EXTENDED_KEY_USAGE, false, sequence(&[&purposes.concat()]));
    }

    pub(crate) fn names(&mut self, names: &[Name<'_>]) {
        let names: Vec<_> = names
            .iter()
            .map(|name| match name {
                Name::Dns(text) => tlv(0x82, &[text.as_bytes()]),
                Name::Uri(bytes) => tlv(0x86, &[bytes]),
                Name::Address(IpAddr::V4(address)) => tlv(0x87, &[&address.octets()]),
                Name::Address(IpAddr::V6(address)) => tlv(0x87, &[&address.octets()]),
            })
            .collect();
        self.set(SUBJECT_ALT_NAME, true, sequence(&[&names.concat()]));
    }

    /// The certificate of `subject_key`, signed with `issuer_key`, which is P-256.
    pub(crate) fn sign(&self, subject_key: &Key, issuer: &[u8], issuer_key: &Key) -> Vec<u8> {
        let [inner, outer] = self.algorithms.map(|algorithm| sequence(&[&oid(algorithm)]));
        let version = self.version.map(|version| tlv(0xa0, &[&tlv(0x02, &[&[version]])])).unwrap_or_default();
        let serial = tlv(0x02, &[&[0x4d], &issuer_key.point()[1..8], &subject_key.point()[1..8]]);
        let validity = sequence(&[&self.not_before, &self.not_after]);
        let extensions: Vec<_> = self.extensions.iter().map(Extension::der).collect();
        let extensions = match &extensions[..] {
            [] => Vec::new(),
            extensions => tlv(0xa3, &[&sequence(&[&extensions.concat()])]),
        };
        let key = subject_key.public();
        let signed = sequence(&[&version, &serial, &inner, issuer, &validity, &self.subject, &key, &extensions]);
        let mut signature = issuer_key.sign(&signed);
        if self.forged {
            // The last byte of `s`: still an ECDSA signature, but another one.
            *signature.last_mut().expect("a signature has bytes") ^= 1;
        }
        let mut certificate = sequence(&[&signed, &outer, &bits(&signature)]);
        certificate.extend(&self.trailing);
        certificate
    }
}

impl Extension {
    fn der(&self) -> Vec<u8> {
        let critical: &[u8] = if self.critical { &[0x01, 0x01, 0xff] } else { &[] };
        sequence(&[&oid(self.id), critical, &tlv(0x04, &[&self.value])])
    }
}
