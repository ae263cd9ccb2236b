//! `mesh-agent policy check`: reads a directory as `run` would, without an agent.

use std::fmt::Write as _;
use std::path::Path;

use crate::config::MeshConfig;
use crate::sources::file::{self, LoadError};

/// What came out of a check.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Checked {
    /// For people: a line for each mistake, or what the documents hold.
    pub text: String,
    /// The exit code: 0 all is well, 2 an agent would not take it.
    pub code: u8,
}

/// Checks the documents of a directory. Nothing that they name is opened.
pub fn check_documents(directory: &Path) -> Result<Checked, LoadError> {
    match file::load(directory) {
        Ok(config) => Ok(Checked { text: describe(&config), code: 0 }),
        Err(LoadError::Invalid(mistakes)) => Ok(Checked { text: format!("{mistakes}\n"), code: 2 }),
        Err(unreadable) => Err(unreadable),
    }
}

fn describe(config: &MeshConfig) -> String {
    let MeshConfig { mesh, workloads, revocations } = config;
    let mut text = format!("ok: mesh {}", mesh.trust_domain);
    for (count, what) in [(workloads.len(), "workload"), (revocations.len(), "revocation")] {
        let plural = if count == 1 { "" } else { "s" };
        // Writing to a String can't fail.
        write!(text, ", {count} {what}{plural}").unwrap_or_default();
    }
    text + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    const MESH: &str = "
apiVersion: mesh.hauberk.dev/v1alpha1
kind: Mesh
metadata: {name: mesh}
spec:
  trustDomain: test
  issuer: {embedded: {certificate: ca.crt, key: ca.key}}
---
apiVersion: mesh.hauberk.dev/v1alpha1
kind: Workload
metadata: {name: web, namespace: shop}
spec: {node: a, addresses: [10.0.0.1]}
";

    fn check(text: &str) -> Checked {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("mesh.yaml"), text).unwrap();
        let mut checked = check_documents(directory.path()).unwrap();
        checked.text = checked.text.replace(&format!("{}/", directory.path().display()), "");
        checked
    }

    #[test]
    fn a_good_directory_is_told_by_what_it_holds() {
        let text = "ok: mesh test, 1 workload, 0 revocations\n".to_owned();
        assert_eq!(check(MESH), Checked { text, code: 0 });
    }

    #[test]
    fn every_mistake_has_its_line() {
        let Checked { text, code } =
            check(&MESH.replace("node: a", "nod: a").replace("trustDomain: test", "trustDomain: T"));
        assert_eq!((text.lines().count(), code), (3, 2), "{text}");
        assert!(text.contains("mesh.yaml: document 2 (Workload shop/web): spec.nod: unknown field"), "{text}");
    }
}
