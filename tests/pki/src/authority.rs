//! A CA of the tests, at the top or below another.

use crate::draft::Draft;
use crate::key::Key;
use pem::Pem;

/// A CA with its key.
pub struct Authority {
    key: Key,
    subject: Vec<u8>,
    certificate: Vec<u8>,
    /// What leaves send along: from this CA upwards, without the root.
    above: Vec<Vec<u8>>,
}

impl Authority {
    /// A self-signed root, valid for an hour.
    pub fn root(common_name: &str) -> Self {
        Self::root_with(common_name, |_| ())
    }

    /// A self-signed root, as `edit` makes it.
    pub fn root_with(common_name: &str, edit: impl FnOnce(&mut Draft)) -> Self {
        let (key, mut draft) = (Key::new(), Draft::ca(common_name));
        edit(&mut draft);
        let certificate = draft.sign(&key, &draft.subject, &key);
        Self { key, subject: draft.subject, certificate, above: Vec::new() }
    }

    /// A CA below this one.
    pub fn intermediate(&self, common_name: &str, edit: impl FnOnce(&mut Draft)) -> Self {
        self.intermediate_with(Key::new(), common_name, edit)
    }

    pub(crate) fn intermediate_with(&self, key: Key, common_name: &str, edit: impl FnOnce(&mut Draft)) -> Self {
        let mut draft = Draft::ca(common_name);
        edit(&mut draft);
        let certificate = draft.sign(&key, &self.subject, &self.key);
        let above = [certificate.clone()].into_iter().chain(self.above.iter().cloned()).collect();
        Self { key, subject: draft.subject, certificate, above }
    }

    /// The certificate of `key` by this CA.
    pub(crate) fn sign(&self, draft: &Draft, key: &Key) -> Vec<u8> {
        draft.sign(key, &self.subject, &self.key)
    }

    /// What leaves send along.
    pub(crate) fn above(&self) -> &[Vec<u8>] {
        &self.above
    }

    /// Its certificate in DER.
    pub fn certificate(&self) -> &[u8] {
        &self.certificate
    }

    /// Its certificate in PEM.
    pub fn certificate_pem(&self) -> String {
        pem::encode(&Pem::new("CERTIFICATE", self.certificate.as_slice()))
    }

    /// Its private key in PEM.
    pub fn key_pem(&self) -> String {
        self.key.pem()
    }

    pub(crate) fn key(&self) -> &Key {
        &self.key
    }
}
