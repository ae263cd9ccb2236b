//! `mesh-agent policy check`: reads a directory as `run` would, without an agent.

use std::fmt::Write as _;
use std::path::Path;

use serde::Serialize;

use super::inspect::{InspectError, in_form};
use crate::args::inspect::Output;
use crate::config::MeshConfig;
use crate::sources::file::{self, LoadError};
use crate::state::policy_findings;

/// What came out of a check.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Checked {
    /// For people a line for each mistake, or what the documents hold.
    pub text: String,
    /// The exit code: 0 all is well, 1 an agent would take it but somebody may have meant something else (or: the
    /// connection is denied), 2 an agent would not take it.
    pub code: u8,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum CheckError {
    /// The documents can't be read.
    #[error(transparent)]
    Documents(#[from] LoadError),
    /// The answer can't be written.
    #[error(transparent)]
    Output(#[from] InspectError),
}

/// What was found, for programs.
#[derive(Debug, Serialize)]
struct Findings {
    /// Whether an agent would take the documents.
    valid: bool,
    /// What keeps it from that.
    mistakes: Vec<String>,
    /// What somebody may have meant otherwise.
    warnings: Vec<String>,
    /// Tells these documents from others.
    digest: Option<String>,
}

/// Checks the documents of a directory. Nothing that they name is opened.
pub fn check_documents(directory: &Path, output: Output) -> Result<Checked, CheckError> {
    let (findings, text) = match file::load(directory) {
        Ok(config) => {
            let warnings: Vec<_> = policy_findings(&config).iter().map(ToString::to_string).collect();
            let text: String = warnings.iter().map(|warning| format!("warning: {warning}\n")).collect();
            let digest = Some(config.digest.to_string());
            (Findings { valid: true, mistakes: Vec::new(), warnings, digest }, text + &describe(&config))
        }
        Err(LoadError::Invalid(mistakes)) => {
            let text = format!("{mistakes}\n");
            let mistakes = mistakes.0.iter().map(ToString::to_string).collect();
            (Findings { valid: false, mistakes, warnings: Vec::new(), digest: None }, text)
        }
        Err(unreadable) => return Err(unreadable.into()),
    };
    let code = if findings.valid { u8::from(!findings.warnings.is_empty()) } else { 2 };
    Ok(Checked { text: in_form(&findings, output, || text)?, code })
}

fn describe(config: &MeshConfig) -> String {
    let MeshConfig {
        mesh,
        workloads,
        outside: _,
        unaddressed: _,
        released: _,
        authorization,
        peer_authentication,
        federated,
        rego,
        services,
        service_space: _,
        revocations,
        digest: _,
    } = config;
    let mut text = format!("ok: mesh {}", mesh.trust_domain);
    let policies = authorization.len() + peer_authentication.len();
    for (count, one, more) in [
        (workloads.len(), "workload", "workloads"),
        (services.len(), "service", "services"),
        (policies, "policy", "policies"),
        (federated.len(), "federated trust domain", "federated trust domains"),
        (revocations.len(), "revocation", "revocations"),
        (usize::from(rego.is_some()), "Rego policy", "Rego policies"),
    ] {
        let what = if count == 1 { one } else { more };
        // Writing to a String can't fail.
        write!(text, ", {count} {what}").unwrap_or_default();
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
        let mut checked = check_documents(directory.path(), Output::Table).unwrap();
        checked.text = checked.text.replace(&format!("{}/", directory.path().display()), "");
        checked
    }

    #[test]
    fn a_good_directory_is_told_by_what_it_holds() {
        let text = "ok: mesh test, 1 workload, 0 services, 0 policies, 0 federated trust domains, 0 revocations, 0 Rego policies\n";
        let text = text.to_owned();
        assert_eq!(check(MESH), Checked { text, code: 0 });
    }

    const POLICIES: &str = "
---
apiVersion: mesh.hauberk.dev/v1alpha1
kind: Workload
metadata: {name: db, namespace: shop, labels: {app: db}}
spec: {node: a, addresses: [10.0.0.2]}
---
apiVersion: mesh.hauberk.dev/v1alpha1
kind: AuthorizationPolicy
metadata: {name: nobody, namespace: shop}
spec: {selector: {matchLabels: {app: db}}}
";

    #[test]
    fn what_a_policy_does_not_do_is_a_warning() {
        assert_eq!(check(&format!("{MESH}{POLICIES}")).code, 0);
        let Checked { text, code } = check(&format!("{MESH}{}", POLICIES.replace("{app: db}}}", "{app: typo}}}")));
        assert_eq!((text.lines().count(), code), (2, 1), "{text}");
        assert!(
            text.starts_with("warning: AuthorizationPolicy shop/nobody: spec.selector: selects no workload"),
            "{text}"
        );
    }

    #[test]
    fn every_mistake_has_its_line() {
        let Checked { text, code } =
            check(&MESH.replace("node: a", "nod: a").replace("trustDomain: test", "trustDomain: T"));
        assert_eq!((text.lines().count(), code), (3, 2), "{text}");
        assert!(text.contains("mesh.yaml: document 2 (Workload shop/web): spec.nod: unknown field"), "{text}");
    }

    #[test]
    fn programs_get_the_same_as_json_and_yaml() {
        let directory = tempfile::tempdir().unwrap();
        let check = |text: &str, output| {
            std::fs::write(directory.path().join("mesh.yaml"), text).unwrap();
            check_documents(directory.path(), output).unwrap()
        };
        let Checked { text, code } =
            check(&format!("{MESH}{}", POLICIES.replace("{app: db}}}", "{app: typo}}}")), Output::Json);
        let found: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!((&found["valid"], code), (&true.into(), 1), "{text}");
        assert!(found["warnings"][0].as_str().unwrap().contains("selects no workload"), "{text}");
        assert_eq!(found["digest"].as_str().map(str::len), Some(16), "{text}");
        let Checked { text, code } = check("kind: Mesh", Output::Yaml);
        assert_eq!((code, text.starts_with("valid: false\nmistakes:\n")), (2, true), "{text}");
    }
}
