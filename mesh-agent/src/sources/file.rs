//! Reads a configuration from the YAML files of one directory.
//!
//! Files are taken in the order of their names, subdirectories are not entered, and nothing is watched yet.

use std::io;
use std::path::{Path, PathBuf};

use crate::config::{ConfigErrors, MeshConfig};

/// Why a directory gave no configuration.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The directory can't be listed.
    #[error("list {}", path.display())]
    List {
        /// The directory.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// A file can't be read, or is no UTF-8.
    #[error("read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// The files hold mistakes. The message is theirs: one line each.
    #[error(transparent)]
    Invalid(#[from] ConfigErrors),
}

/// Reads and parses all `*.yaml` and `*.yml` files of `directory`. Relative paths in them count from there.
pub fn load(directory: &Path) -> Result<MeshConfig, LoadError> {
    let _ = directory;
    unimplemented!()
}
