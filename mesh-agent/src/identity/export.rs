//! Issues an SVID into files, for tools that can't ask an agent. The one place that writes a workload's key.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::{IssueError, Issuer, SecretKey};
use crate::model::bundle;
use crate::model::spiffe::SpiffeId;

/// Why no SVID was written.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// Nothing was issued.
    #[error(transparent)]
    Issue(#[from] IssueError),
    /// A file can't be written.
    #[error("write {}", path.display())]
    Write {
        /// Which.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
}

/// Writes tls.crt, tls.key (mode 0600) and ca.crt for `id` into `directory`, which it makes.
pub async fn export(issuer: &impl Issuer, id: &SpiffeId, directory: &Path) -> Result<(), ExportError> {
    let key = SecretKey::generate().map_err(|source| IssueError::Sign { id: id.clone(), source })?;
    let issued = issuer.issue(id, &key, SystemTime::now()).await?;
    let roots = bundle::to_pem(&issuer.trust().borrow().bundle.roots);
    fs::create_dir_all(directory).map_err(|source| ExportError::Write { path: directory.to_owned(), source })?;
    write(directory, "tls.crt", 0o644, &bundle::to_pem(&issued.certificates))?;
    write(directory, "ca.crt", 0o644, &roots)?;
    write(directory, "tls.key", 0o600, &key.to_pem())
}

fn write(directory: &Path, name: &str, mode: u32, text: &str) -> Result<(), ExportError> {
    let path = directory.join(name);
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(mode);
    let written = options.open(&path).and_then(|mut file| file.write_all(text.as_bytes()));
    written.map_err(|source| ExportError::Write { path, source })
}
