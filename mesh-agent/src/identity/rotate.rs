//! Replaces the root of a CA's directory in three steps, so that at each moment everybody trusts what anybody presents.
//!
//! `prepare`: the new root is trusted, the old one signs. `activate`: the new one signs, both are trusted. `retire`: the
//! old one is trusted no more. Between the steps everybody must learn: agents and `ca serve` watch these files.

use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rustls_pki_types::CertificateDer;

use super::LocalCa;
use super::ca::{CaFileError, load_files, read_secret, write_new};
use crate::model::bundle::{self, BundleError};
use crate::model::mesh::{CaFiles, SvidSettings};
use crate::model::spiffe::TrustDomain;
use crate::sys::file;

/// The root that will sign next, between `prepare` and `activate`.
const NEXT_CERTIFICATE: &str = "next.crt";
const NEXT_KEY: &str = "next.key";

/// Why a step isn't taken.
#[derive(Debug, thiserror::Error)]
pub enum RotateError {
    /// The texts can't be read.
    #[error(transparent)]
    Bundle(#[from] BundleError),
    /// The CA can't be used.
    #[error(transparent)]
    Ca(#[from] CaFileError),
    /// SVIDs of the old root may still be in use.
    #[error("the new root has signed for {} s only: wait until it has for {} s", age.as_secs(), needed.as_secs())]
    Early {
        /// Since `activate`.
        age: Duration,
        /// What was asked for.
        needed: Duration,
    },
    /// The signing CA is below a root whose key is elsewhere.
    #[error("this CA is an intermediate: its root is replaced where the root's key is")]
    Intermediate,
    /// The steps are in the wrong order.
    #[error("{0}")]
    Order(&'static str),
    /// A file can't be written or looked at.
    #[error("write {}", path.display())]
    Write {
        /// Which.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
}

/// A CA's directory.
#[derive(Debug)]
pub struct CaDirectory<'a> {
    /// Its path.
    pub path: &'a Path,
    /// Whose CA it is.
    pub trust_domain: &'a TrustDomain,
}

impl CaDirectory<'_> {
    /// Makes the next root and adds it to the bundle.
    pub fn prepare(&self, now: SystemTime) -> Result<(), RotateError> {
        let current = self.root_ca()?;
        let [certificate, key] = self.next();
        if certificate.exists() {
            return Err(RotateError::Order("the next root is already prepared"));
        }
        let next = LocalCa::create(self.trust_domain.clone(), SvidSettings::default(), now)
            .map_err(|source| CaFileError::Ca { path: self.path.to_owned(), source })?;
        wrote(&key, write_new(&key, 0o600, next.key_pem().as_bytes()))?;
        wrote(&certificate, write_new(&certificate, 0o644, next.certificate_pem().as_bytes()))?;
        let mut roots = current.anchors().bundle.roots.clone();
        roots.push(next.root().clone());
        self.write_roots(current.root(), &roots)
    }

    /// Lets the next root sign.
    pub fn activate(&self) -> Result<(), RotateError> {
        let current = self.root_ca()?;
        let [certificate, key] = self.next();
        if !certificate.exists() {
            return Err(RotateError::Order("no next root is prepared"));
        }
        let next = bundle::from_pem(&read_secret(&certificate)?)?.into_iter().next().ok_or(BundleError::Empty)?;
        if !current.anchors().bundle.roots.contains(&next) {
            return Err(RotateError::Order("the next root is not in the bundle"));
        }
        let files = self.files();
        // Who reads between these two finds a key that doesn't fit, and keeps what it has.
        wrote(&files.key, file::replace(&files.key, 0o600, read_secret(&key)?.as_bytes()))?;
        let signing = std::slice::from_ref(&next);
        match files.bundle {
            Some(_) => {
                wrote(&files.certificate, file::replace(&files.certificate, 0o644, bundle::to_pem(signing).as_bytes()))?
            }
            None => self.write_roots(&next, &current.anchors().bundle.roots)?,
        }
        wrote(&certificate, std::fs::remove_file(&certificate))?;
        wrote(&key, std::fs::remove_file(&key))
    }

    /// Leaves only the root that signs in the bundle, if it has signed for `min_age`.
    pub fn retire(&self, min_age: Duration, now: SystemTime) -> Result<(), RotateError> {
        let current = self.root_ca()?;
        if self.next()[0].exists() {
            return Err(RotateError::Order("a next root is prepared and not active"));
        }
        if current.anchors().bundle.roots.len() == 1 {
            return Err(RotateError::Order("there is no root to retire"));
        }
        let key = self.files().key;
        let since = wrote(&key, std::fs::metadata(&key).and_then(|file| file.modified()))?;
        let age = now.duration_since(since).unwrap_or_default();
        if age < min_age {
            return Err(RotateError::Early { age, needed: min_age });
        }
        self.write_roots(current.root(), std::slice::from_ref(current.root()))
    }

    fn root_ca(&self) -> Result<LocalCa, RotateError> {
        let (ca, _) = load_files(self.trust_domain, &self.files(), SvidSettings::default())?;
        if ca.signing_certificate()? == *ca.root() { Ok(ca) } else { Err(RotateError::Intermediate) }
    }

    /// Without a bundle the roots are in the certificate's file, the one that signs first.
    fn write_roots(&self, first: &CertificateDer<'_>, roots: &[CertificateDer<'_>]) -> Result<(), RotateError> {
        let files = self.files();
        let path = files.bundle.unwrap_or(files.certificate);
        let (mut ordered, others): (Vec<_>, Vec<_>) = roots.iter().cloned().partition(|root| root == first);
        ordered.extend(others);
        wrote(&path, file::replace(&path, 0o644, bundle::to_pem(&ordered).as_bytes()))
    }

    fn files(&self) -> CaFiles {
        CaFiles::of_directory(self.path)
    }

    fn next(&self) -> [PathBuf; 2] {
        [self.path.join(NEXT_CERTIFICATE), self.path.join(NEXT_KEY)]
    }
}

fn wrote<T>(path: &Path, result: io::Result<T>) -> Result<T, RotateError> {
    result.map_err(|source| RotateError::Write { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests;
