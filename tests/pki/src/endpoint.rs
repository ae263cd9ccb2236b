//! Certificates of ordinary TLS, which know hosts and users instead of workloads: for the servers and clients of others.

use std::net::IpAddr;

use pem::Pem;

use crate::authority::Authority;
use crate::der::subject;
use crate::draft::{CLIENT_AUTH, DIGITAL_SIGNATURE, Draft, KEY_ENCIPHERMENT, Name, SERVER_AUTH};
use crate::key::Key;

/// A certificate and its key, both in PEM.
pub struct Pair {
    /// The certificate alone: its issuer is a root.
    pub certificate: String,
    /// PKCS #8.
    pub key: String,
}

impl Authority {
    /// What a client shows: `organization` and `common_name` are its group and name, as Kubernetes reads them.
    pub fn client(&self, organization: &str, common_name: &str, valid_seconds: i64) -> Pair {
        let mut draft = endpoint(organization, common_name, CLIENT_AUTH);
        draft.valid(-60, valid_seconds);
        self.pair(&draft)
    }

    /// What a server shows, by its names and addresses.
    pub fn server(&self, names: &[&str], addresses: &[IpAddr], valid_seconds: i64) -> Pair {
        let mut draft = endpoint("", names.first().copied().unwrap_or_default(), SERVER_AUTH);
        let names = names.iter().map(|name| Name::Dns(name));
        let names: Vec<_> = names.chain(addresses.iter().map(|address| Name::Address(*address))).collect();
        draft.names(&names);
        draft.valid(-60, valid_seconds);
        self.pair(&draft)
    }

    fn pair(&self, draft: &Draft) -> Pair {
        let key = Key::new();
        let certificate = self.sign(draft, &key);
        Pair { certificate: pem::encode(&Pem::new("CERTIFICATE", certificate)), key: key.pem() }
    }
}

/// A key pair in PEM, private half first, for who signs other things than certificates.
pub fn key_pair() -> [String; 2] {
    let key = Key::new();
    [key.pem(), pem::encode(&Pem::new("PUBLIC KEY", key.public()))]
}

fn endpoint(organization: &str, common_name: &str, purpose: &'static [u32]) -> Draft {
    let mut draft = Draft::empty("");
    draft.subject = subject(organization, common_name);
    draft.basic_constraints(false, None);
    draft.key_usage(DIGITAL_SIGNATURE | KEY_ENCIPHERMENT);
    draft.extended_key_usage(&[purpose]);
    draft
}
