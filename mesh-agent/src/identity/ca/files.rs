//! Where the embedded CA's files are written (`mesh-agent ca init`) and read.
//!
//! The only place of the agent that writes a private key.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use zeroize::Zeroizing;

use super::{CaError, LocalCa};
use crate::model::mesh::IssuerSettings;
use crate::model::spiffe::TrustDomain;

const CERTIFICATE_FILE: &str = "ca.crt";
const KEY_FILE: &str = "ca.key";

/// Why a CA can't be written or read.
#[derive(Debug, thiserror::Error)]
pub enum CaFileError {
    /// The directory or a file can't be made. Files that exist are never overwritten.
    #[error("create {}", path.display())]
    Create {
        /// The directory or file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// A file can't be read.
    #[error("read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// The CA itself is unfit.
    #[error("use the CA of {}", path.display())]
    Ca {
        /// The directory or the certificate's file.
        path: PathBuf,
        /// The cause.
        source: CaError,
    },
}

/// Makes a CA and writes `ca.crt` and `ca.key` (mode 0600) into `directory`, which it creates; never overwrites a file.
pub fn init_dir(directory: &Path, trust_domain: TrustDomain, now: SystemTime) -> Result<(), CaFileError> {
    let ca = LocalCa::create(trust_domain, IssuerSettings::SVID_LIFETIME, now)
        .map_err(|source| CaFileError::Ca { path: directory.to_owned(), source })?;
    let created = |path: &Path, result: io::Result<()>| {
        result.map_err(|source| CaFileError::Create { path: path.to_owned(), source })
    };
    created(directory, std::fs::create_dir_all(directory))?;
    let (certificate, key) = (directory.join(CERTIFICATE_FILE), directory.join(KEY_FILE));
    created(&certificate, write_new(&certificate, 0o644, ca.certificate_pem().as_bytes()))?;
    let written = created(&key, write_new(&key, 0o600, ca.key_pem().as_bytes()));
    if written.is_err() {
        // A certificate without its key would only be in the way of the next attempt; it is ours to remove.
        created(&certificate, std::fs::remove_file(&certificate))?;
    }
    written
}

impl LocalCa {
    /// Reads both PEM files and loads them: see [`LocalCa::load`].
    pub fn load_files(
        trust_domain: TrustDomain,
        certificates: &Path,
        key: &Path,
        svid_lifetime: Duration,
    ) -> Result<Self, CaFileError> {
        let read = |path: &Path| {
            let text = std::fs::read_to_string(path).map(Zeroizing::new);
            text.map_err(|source| CaFileError::Read { path: path.to_owned(), source })
        };
        Self::load(trust_domain, &read(certificates)?, &read(key)?, svid_lifetime)
            .map_err(|source| CaFileError::Ca { path: certificates.to_owned(), source })
    }
}

fn write_new(path: &Path, mode: u32, text: &[u8]) -> io::Result<()> {
    let mut file: File = OpenOptions::new().write(true).create_new(true).mode(mode).open(path)?;
    let written = file.write_all(text).and_then(|()| file.sync_all());
    if written.is_err() {
        std::fs::remove_file(path)?;
    }
    written
}
