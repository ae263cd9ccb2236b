//! Reads a configuration from the YAML files of one directory, and the revocation lists
//! (`*.crl`) and Rego (`*.rego`) beside them.
//!
//! Files are taken in the order of their names, subdirectories are not entered. What the files mean is `config`'s
//! business; only that relative paths in them count from the directory is known here. [`super::watch`] looks for changes.

use std::io;
use std::path::{Path, PathBuf};

use crate::config::{self, ConfigErrors, MeshConfig, SourceFile};
use crate::model::mesh::{CaFiles, IssuerSource};

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

/// Reads and parses all `*.yaml`, `*.yml`, `*.crl` and `*.rego` files of `directory`. Relative paths in them count from there.
pub fn load(directory: &Path) -> Result<MeshConfig, LoadError> {
    let mut config = config::parse(&read_all(directory)?)?;
    let paths: Vec<&mut PathBuf> = match &mut config.mesh.issuer.source {
        IssuerSource::Embedded(CaFiles { certificate, key, bundle }) => {
            [certificate, key].into_iter().chain(bundle).collect()
        }
        IssuerSource::Own(directory) => vec![directory],
        IssuerSource::Remote { token_file, .. } | IssuerSource::Kubernetes { token_file, .. } => vec![token_file],
    };
    for path in paths {
        *path = directory.join(&*path);
    }
    Ok(config)
}

fn read_all(directory: &Path) -> Result<Vec<SourceFile>, LoadError> {
    let paths = files(directory).map_err(|source| LoadError::List { path: directory.to_owned(), source })?;
    let read = |name: PathBuf| match std::fs::read_to_string(&name) {
        Ok(text) => Ok(SourceFile { name, text }),
        Err(source) => Err(LoadError::Read { path: name, source }),
    };
    paths.into_iter().map(read).collect()
}

/// A hidden file is an editor's or the kubelet's, not a document.
pub(super) fn files(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let mut paths = Vec::new();
    for entry in std::fs::read_dir(directory)? {
        let path = entry?.path();
        let is_ours = path
            .extension()
            .is_some_and(|extension| ["yaml", "yml", "crl", "rego"].iter().any(|ours| extension == *ours));
        let is_hidden = path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
        if is_ours && !is_hidden && path.is_file() {
            paths.push(path);
        }
    }
    paths.sort();
    Ok(paths)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MESH: &str = "
apiVersion: mesh.hauberk.dev/v1alpha1
kind: Mesh
metadata: {name: mesh}
spec:
  trustDomain: cluster.local
  issuer: {embedded: {certificate: ca.crt, key: /elsewhere/ca.key}}
";

    #[test]
    fn yaml_files_are_read_in_order_and_paths_count_from_the_directory() {
        let directory = tempfile::tempdir().unwrap();
        let at = directory.path();
        std::fs::write(at.join("b.yml"), MESH).unwrap();
        std::fs::write(at.join("a.yaml"), "").unwrap();
        std::fs::write(at.join(".swap.yaml"), "not: [yaml").unwrap();
        std::fs::write(at.join("README.md"), "not: [yaml").unwrap();
        std::fs::create_dir(at.join("more.yaml")).unwrap();
        let config = load(at).unwrap();
        let ca = CaFiles { certificate: at.join("ca.crt"), key: PathBuf::from("/elsewhere/ca.key"), bundle: None };
        assert_eq!(config.mesh.issuer.source, IssuerSource::Embedded(ca));
        assert_eq!(files(at).unwrap(), [at.join("a.yaml"), at.join("b.yml")]);
    }

    #[test]
    fn errors_name_the_file() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("mesh.yaml");
        std::fs::write(&path, b"\xff").unwrap();
        assert_eq!(load(directory.path()).unwrap_err().to_string(), format!("read {}", path.display()));
        let missing = directory.path().join("missing");
        assert_eq!(load(&missing).unwrap_err().to_string(), format!("list {}", missing.display()));
    }
}
