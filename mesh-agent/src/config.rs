//! Turns configuration documents into the model: pure, total, and with every mistake reported at once.
//!
//! Reading files is `sources::file`'s business, so that the Kubernetes API can feed the same rules.

use std::path::PathBuf;

use crate::model::mesh::Mesh;
use crate::model::workload::Workload;

mod error;

pub use error::{ConfigError, ConfigErrors};

/// One file of YAML documents.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct SourceFile {
    /// Its name, as errors show it.
    pub name: PathBuf,
    /// Its text.
    pub text: String,
}

/// A whole configuration, valid.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct MeshConfig {
    /// The mesh-wide settings.
    pub mesh: Mesh,
    /// All workloads, ordered by name.
    pub workloads: Vec<Workload>,
}

/// Parses documents that make up one configuration together.
pub fn parse(documents: &[SourceFile]) -> Result<MeshConfig, ConfigErrors> {
    let _ = documents;
    unimplemented!()
}
