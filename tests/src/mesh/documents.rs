//! Changes what an agent believes while it runs: the files of its configuration directory.

use anyhow::{Context as _, Result};

use super::Mesh;
use crate::world::WORKLOAD_NAMESPACE;

impl Mesh {
    /// Takes `pod` out of the configuration of `node`, or puts it back.
    pub fn set_configured(&self, node: &str, pod: &str, configured: bool) -> Result<()> {
        let [document, aside] = ["yaml", "aside"].map(|end| self.config(node).join(format!("{pod}.{end}")));
        let (from, to) = if configured { (&aside, &document) } else { (&document, &aside) };
        if from.exists() {
            std::fs::rename(from, to).with_context(|| format!("rename {}", from.display()))?;
        }
        Ok(())
    }

    /// Writes a document of this kind and name into the configuration of `node`, whether or not it is right. Policies and
    /// services get the workloads' namespace.
    pub fn write_document(&self, node: &str, kind: &str, name: &str, spec: &str) -> Result<()> {
        let has_namespace = ["AuthorizationPolicy", "PeerAuthentication", "Service"].contains(&kind);
        let namespace = if has_namespace { format!(", namespace: {WORKLOAD_NAMESPACE}") } else { String::new() };
        let head =
            format!("apiVersion: mesh.hauberk.dev/v1alpha1\nkind: {kind}\nmetadata: {{name: {name}{namespace}}}\n");
        self.write_file(node, &format!("{name}.yaml"), format!("{head}spec: {spec}\n").as_bytes())
    }

    /// Reads a file of the configuration of `node`.
    pub fn document(&self, node: &str, name: &str) -> Result<String> {
        let path = self.config(node).join(name);
        std::fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))
    }

    /// Writes a file into the configuration of `node`.
    pub fn write_file(&self, node: &str, name: &str, content: &[u8]) -> Result<()> {
        let path = self.config(node).join(name);
        std::fs::write(&path, content).with_context(|| format!("write {}", path.display()))
    }

    /// Adds a line to the Mesh's `spec` in the configuration of `node`.
    pub fn edit_mesh(&self, node: &str, line: &str) -> Result<()> {
        let path = self.config(node).join("mesh.yaml");
        let text = std::fs::read_to_string(&path)?;
        Ok(std::fs::write(path, text.replacen("spec:\n", &format!("spec:\n  {line}\n"), 1))?)
    }

    /// Removes a file that was written into the configuration of `node`.
    pub fn remove_file(&self, node: &str, name: &str) -> Result<()> {
        Ok(std::fs::remove_file(self.config(node).join(name))?)
    }
}
