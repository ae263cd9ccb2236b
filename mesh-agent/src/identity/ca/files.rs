//! Where a CA's files are written (`mesh-agent ca init`, `ca intermediate`, `ca rotate`) and read.
//!
//! The only place of the agent that writes a CA's private key.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use zeroize::Zeroizing;

use super::{CaError, CaTexts, LocalCa};
use crate::model::bundle;
use crate::model::mesh::{CaFiles, SvidSettings};
use crate::model::spiffe::TrustDomain;

const CERTIFICATE_FILE: &str = "ca.crt";
const KEY_FILE: &str = "ca.key";
const BUNDLE_FILE: &str = "bundle.pem";

impl CaFiles {
    /// The files of a directory that `ca init` or `ca intermediate` made.
    pub fn of_directory(directory: &Path) -> Self {
        let bundle = directory.join(BUNDLE_FILE);
        Self {
            certificate: directory.join(CERTIFICATE_FILE),
            key: directory.join(KEY_FILE),
            bundle: bundle.exists().then_some(bundle),
        }
    }
}

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
    let ca = LocalCa::create(trust_domain, SvidSettings::default(), now).map_err(unfit(directory))?;
    write_ca(directory, &ca)
}

/// Makes a CA in `directory` unless one is there, or part of one: that is somebody's mistake and not ours to mend. Says
/// whether it made one.
pub fn ensure_dir(directory: &Path, trust_domain: &TrustDomain, now: SystemTime) -> Result<bool, CaFileError> {
    let files = CaFiles::of_directory(directory);
    if files.certificate.exists() || files.key.exists() {
        return Ok(false);
    }
    init_dir(directory, trust_domain.clone(), now).map(|()| true)
}

/// Makes a CA below that of `root` and writes `ca.crt`, `ca.key` (mode 0600) and `bundle.pem`, the roots, into
/// `directory`. The root's key can then go offline.
pub fn intermediate_dir(
    root: &Path,
    directory: &Path,
    trust_domain: &TrustDomain,
    now: SystemTime,
) -> Result<(), CaFileError> {
    let (root_ca, _) = load_files(trust_domain, &CaFiles::of_directory(root), SvidSettings::default())?;
    let ca = root_ca.create_intermediate(now).map_err(unfit(root))?;
    write_ca(directory, &ca)?;
    let path = directory.join(BUNDLE_FILE);
    let roots = bundle::to_pem(&ca.anchors().bundle.roots);
    write_new(&path, 0o644, roots.as_bytes()).map_err(|source| CaFileError::Create { path, source })
}

/// Loads the CA of these files, and names what was read.
pub(in crate::identity) fn load_files(
    trust_domain: &TrustDomain,
    files: &CaFiles,
    settings: SvidSettings,
) -> Result<(LocalCa, String), CaFileError> {
    let (certificates, key) = (read_secret(&files.certificate)?, read_secret(&files.key)?);
    let bundle = files.bundle.as_deref().map(read_secret).transpose()?;
    let bundle = bundle.as_ref().map(|text| text.as_str());
    let texts = CaTexts { certificates: &certificates, key: &key, bundle };
    LocalCa::load_named(trust_domain, &texts, settings).map_err(unfit(&files.certificate))
}

/// Reads a file whose text is wiped after use.
pub(in crate::identity) fn read_secret(path: &Path) -> Result<Zeroizing<String>, CaFileError> {
    let text = std::fs::read_to_string(path).map(Zeroizing::new);
    text.map_err(|source| CaFileError::Read { path: path.to_owned(), source })
}

/// Writes a file that must not exist.
pub(in crate::identity) fn write_new(path: &Path, mode: u32, text: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path)?;
    let written = file.write_all(text).and_then(|()| file.sync_all());
    if written.is_err() {
        std::fs::remove_file(path)?;
    }
    written
}

fn write_ca(directory: &Path, ca: &LocalCa) -> Result<(), CaFileError> {
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

fn unfit(path: &Path) -> impl FnOnce(CaError) -> CaFileError {
    move |source| CaFileError::Ca { path: path.to_owned(), source }
}
