//! `mesh-agent policy check` and `explain`: read a directory as `run` would, without an agent.

use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use crate::config::MeshConfig;
use crate::model::workload::{Workload, WorkloadUid};
use crate::sources::file::{self, LoadError};
use crate::state::{MeshState, explain, policy_findings};

/// What came out of a check.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Checked {
    /// For people: a line for each mistake, or what the documents hold.
    pub text: String,
    /// The exit code: 0 all is well, 1 an agent would take it but somebody may have meant something else (or: the
    /// connection is denied), 2 an agent would not take it.
    pub code: u8,
}

/// Checks the documents of a directory. Nothing that they name is opened.
pub fn check_documents(directory: &Path) -> Result<Checked, LoadError> {
    match file::load(directory) {
        Ok(config) => {
            let findings = policy_findings(&config);
            let warnings: String = findings.iter().map(|finding| format!("warning: {finding}\n")).collect();
            Ok(Checked { text: warnings + &describe(&config), code: u8::from(!findings.is_empty()) })
        }
        Err(LoadError::Invalid(mistakes)) => Ok(Checked { text: format!("{mistakes}\n"), code: 2 }),
        Err(unreadable) => Err(unreadable),
    }
}

/// Why a connection can't be explained.
#[derive(Debug, thiserror::Error)]
pub enum ExplainError {
    /// The documents can't be used.
    #[error(transparent)]
    Documents(#[from] LoadError),
    /// Nobody has this name or address.
    #[error("there is no workload `{0}`: a name is like `namespace/name`, and an address must be one of a workload")]
    Nobody(String),
    /// It isn't somebody and a port.
    #[error("`{0}` is no destination like `10.1.2.3:80`, `[fd00::1]:80` or `namespace/name:80`")]
    Destination(String),
    /// The two have no address of one family.
    #[error("`{source_name}` has no address of the family of {destination}")]
    Family {
        /// Who connects.
        source_name: String,
        /// To where.
        destination: SocketAddr,
    },
}

/// Says what would become of a connection by the documents of a directory. Exit code 1: denied.
pub fn explain_documents(directory: &Path, from: &str, to: &str, now: SystemTime) -> Result<Checked, ExplainError> {
    let state = MeshState::new(file::load(directory)?);
    let source = find(&state, from)?;
    let destination = destination(&state, to, &source)?;
    let explained = explain(&state, &source, destination, now);
    let explained = explained.ok_or_else(|| ExplainError::Family { source_name: from.to_owned(), destination })?;
    let asks = state.rego().filter(|_| explained.is_allowed() && explained.arrival.is_some());
    let then = asks.map(|rego| format!("  then    asks {} in Rego\n", rego.rule)).unwrap_or_default();
    Ok(Checked { text: explained.to_string() + &then, code: u8::from(!explained.is_allowed()) })
}

fn find(state: &MeshState, who: &str) -> Result<Arc<Workload>, ExplainError> {
    let by_address = who.parse().ok().and_then(|address: IpAddr| state.at(address));
    let by_name = || state.workload(&WorkloadUid::new(who.split_once('/')?.0, who.split_once('/')?.1));
    by_address.or_else(by_name).cloned().ok_or_else(|| ExplainError::Nobody(who.to_owned()))
}

/// A named workload is reached by its first address that the source has the family of.
fn destination(state: &MeshState, to: &str, source: &Workload) -> Result<SocketAddr, ExplainError> {
    if let Ok(address) = to.parse() {
        return Ok(address);
    }
    let malformed = || ExplainError::Destination(to.to_owned());
    let (name, port) = to.rsplit_once(':').ok_or_else(malformed)?;
    let port = port.parse().map_err(|_not_a_port| malformed())?;
    let workload = find(state, name)?;
    let reachable = |address: &&IpAddr| source.addresses.iter().any(|own| own.is_ipv6() == address.is_ipv6());
    let address = workload.addresses.iter().find(reachable).or(workload.addresses.first());
    Ok(SocketAddr::new(*address.ok_or_else(malformed)?, port))
}

fn describe(config: &MeshConfig) -> String {
    let MeshConfig { mesh, workloads, outside: _, authorization, peer_authentication, federated, rego, revocations } =
        config;
    let mut text = format!("ok: mesh {}", mesh.trust_domain);
    let policies = authorization.len() + peer_authentication.len();
    for (count, one, more) in [
        (workloads.len(), "workload", "workloads"),
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
        let mut checked = check_documents(directory.path()).unwrap();
        checked.text = checked.text.replace(&format!("{}/", directory.path().display()), "");
        checked
    }

    #[test]
    fn a_good_directory_is_told_by_what_it_holds() {
        let text = "ok: mesh test, 1 workload, 0 policies, 0 federated trust domains, 0 revocations, 0 Rego policies\n";
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
    fn a_connection_is_explained_by_name_or_address() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("mesh.yaml"), format!("{MESH}{POLICIES}")).unwrap();
        let explained = |from: &str, to: &str| {
            explain_documents(directory.path(), from, to, SystemTime::UNIX_EPOCH).map_err(|error| error.to_string())
        };
        let denied = explained("shop/web", "shop/db:80").unwrap();
        assert_eq!(denied.code, 1, "{}", denied.text);
        assert!(denied.text.starts_with("shop/web (10.0.0.1) to 10.0.0.2:80: denied\n"), "{}", denied.text);
        assert!(denied.text.contains("no rule of shop/nobody"), "{}", denied.text);
        assert_eq!(explained("10.0.0.1", "10.0.0.2:80"), Ok(denied));
        assert_eq!(explained("shop/db", "shop/web:80").unwrap().code, 0);
        for (from, to, error) in [
            ("web", "shop/db:80", "there is no workload `web`"),
            ("shop/web", "shop/cart:80", "there is no workload `shop/cart`"),
            ("shop/web", "shop/db", "`shop/db` is no destination"),
            ("shop/web", "[fd00::1]:80", "`shop/web` has no address of the family of [fd00::1]:80"),
        ] {
            assert!(explained(from, to).unwrap_err().starts_with(error), "{error}");
        }
    }

    #[test]
    fn every_mistake_has_its_line() {
        let Checked { text, code } =
            check(&MESH.replace("node: a", "nod: a").replace("trustDomain: test", "trustDomain: T"));
        assert_eq!((text.lines().count(), code), (3, 2), "{text}");
        assert!(text.contains("mesh.yaml: document 2 (Workload shop/web): spec.nod: unknown field"), "{text}");
    }
}
