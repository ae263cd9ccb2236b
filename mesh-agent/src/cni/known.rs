//! What the node's last agent knew of namespaces, on disk: with it the plugin decides while nobody answers.
//!
//! It must outlive a reboot: pods may start again before the agent does.

use std::collections::BTreeSet;
use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::model::cluster::SYSTEM_NAMESPACE;
use crate::sys::file;

/// The namespace of the mesh's own parts, as the manifests have it.
const USUAL_OWN: &str = "hauberk-system";

/// Namespaces, as the agent saw them last.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct Known {
    /// Those whose pods are in the mesh.
    pub enrolled: BTreeSet<String>,
    /// That of the mesh's own parts.
    pub own: String,
    /// Whether there is a file that can't be read: then any namespace may be enrolled.
    #[serde(skip)]
    pub is_lost: bool,
}

impl Known {
    /// What is known if there is a file, and it can't be read.
    pub fn lost() -> Self {
        Self { enrolled: BTreeSet::new(), own: USUAL_OWN.to_owned(), is_lost: true }
    }

    /// Reads it; nothing known where there is no file.
    pub fn read(path: &Path) -> io::Result<Self> {
        match std::fs::read(path) {
            Ok(bytes) => Ok(serde_json::from_slice(&bytes)?),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Self::default()),
            Err(error) => Err(error),
        }
    }

    /// Writes it, as a whole or not at all, to last.
    pub fn write(&self, path: &Path) -> io::Result<()> {
        if let Some(directory) = path.parent() {
            std::fs::create_dir_all(directory)?;
        }
        file::replace(path, 0o644, &serde_json::to_vec(self)?)
    }

    /// Whether a namespace belongs to what the mesh itself needs.
    pub fn is_system(&self, namespace: &str) -> bool {
        namespace == SYSTEM_NAMESPACE || (!self.own.is_empty() && namespace == self.own)
    }

    /// Whether a pod of a namespace must not start without an agent.
    pub fn holds_up(&self, namespace: &str) -> bool {
        (self.is_lost || self.enrolled.contains(namespace)) && !self.is_system(namespace)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_known_to_be_enrolled_is_held_up() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("new/known.json");
        assert_eq!(Known::read(&path).unwrap(), Known::default());
        let enrolled = ["shop", SYSTEM_NAMESPACE, "hauberk-system"].map(str::to_owned).into();
        let known = Known { enrolled, own: "hauberk-system".to_owned(), is_lost: false };
        known.write(&path).unwrap();
        let read = Known::read(&path).unwrap();
        assert_eq!(read, known);
        let held = ["shop", "plain", SYSTEM_NAMESPACE, "hauberk-system"].map(|namespace| read.holds_up(namespace));
        assert_eq!(held, [true, false, false, false]);
        std::fs::write(&path, "{").unwrap();
        assert!(Known::read(&path).is_err());
        let held = ["shop", "plain", SYSTEM_NAMESPACE, "hauberk-system"].map(|name| Known::lost().holds_up(name));
        assert_eq!(held, [true, true, false, false], "any may be enrolled");
    }
}
