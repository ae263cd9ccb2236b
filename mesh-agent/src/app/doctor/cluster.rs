//! What the cluster's API server says.

use super::{Finding, told};
use crate::app::{AGENT, NAMESPACE};
use crate::config::{API_GROUP, API_VERSION, KINDS};
use crate::kubernetes::doctor::{ADMISSION, ServerView};
use crate::kubernetes::rights::{Part, Rights};
use crate::kubernetes::{Kubernetes, KubernetesError};
use crate::model::mesh::IssuerSource;

/// Tells that this is a pod (kubernetes.io, "Accessing the API from within a Pod").
const IN_POD: &str = "KUBERNETES_SERVICE_HOST";
/// Since then a token names the node of its pod, by which the CA knows an agent.
const OLDEST: (u32, u32) = (1, 32);
/// Certificates are dated back by a minute, unless the Mesh says otherwise: a clock that is further off sees them as not valid yet.
const FAR_OFF_SECONDS: i64 = 60;
/// HTTP tells whole seconds, and the answer takes its time.
const OFF_SECONDS: i64 = 3;
const INSTALL: &str = "kubectl apply -k deploy/overlays/production (or dev)";

pub(super) async fn findings() -> Vec<Finding> {
    let in_pod = std::env::var_os(IN_POD).is_some() && std::env::var_os("KUBECONFIG").is_none();
    let kubernetes = match Kubernetes::connect().await {
        Ok(kubernetes) if in_pod => kubernetes,
        Ok(kubernetes) => kubernetes.in_namespace(NAMESPACE),
        Err(error) => return vec![unreachable(&error)],
    };
    let server = match kubernetes.server().await {
        Ok(server) => server,
        Err(error) => return vec![unreachable(&error)],
    };
    let mut findings = vec![version(&server), clock(server.ahead_seconds)];
    let served = kubernetes.served_kinds().await;
    let is_installed = in_pod || served.as_ref().is_ok_and(|served| !served.is_empty());
    findings.push(match &served {
        Ok(served) => kinds(|plural| served.contains(plural), in_pod),
        Err(error) => Finding::fail("CRDs", told(error), INSTALL),
    });
    // Elsewhere than in an agent's pod somebody else asks, in its name.
    let user = |account: &str| format!("system:serviceaccount:{NAMESPACE}:{account}");
    let ask = "ask as somebody who may create subjectaccessreviews";
    let agent = user(AGENT);
    findings.push(match kubernetes.rights(Part::Agent, (!in_pod).then_some(&*agent)).await {
        Ok(rights) => rbac("RBAC", &rights, in_pod),
        Err(error) => Finding::warn("RBAC", told(&error), ask),
    });
    // An agent may neither ask for others nor look at what limits itself.
    if !in_pod {
        findings.push(match kubernetes.rights(Part::Ca, Some(&user(IssuerSource::SERVICE))).await {
            Ok(rights) => rbac("RBAC of the CA", &rights, is_installed),
            Err(error) => Finding::warn("RBAC of the CA", told(&error), ask),
        });
        findings.push(match kubernetes.missing_admission().await {
            Ok(missing) => admission(&missing, is_installed),
            Err(error) => {
                Finding::warn("admission", told(&error), "ask as somebody who may get validatingadmissionpolicies")
            }
        });
    }
    if is_installed {
        findings.push(match kubernetes.meshes().await {
            Ok(meshes) => mesh(&meshes),
            Err(error) => Finding::fail("Mesh", told(&error), INSTALL),
        });
    }
    findings
}

fn unreachable(error: &KubernetesError) -> Finding {
    let check = "API server";
    match error {
        KubernetesError::Config(_) => {
            Finding::fail(check, "neither a service account nor a kubeconfig", "set KUBECONFIG")
        }
        _ => Finding::fail(check, told(error), "it must be reachable from here: routes, firewalls, its certificate"),
    }
}

fn version(server: &ServerView) -> Finding {
    let mut numbers = server.version.trim_start_matches('v').split('.').map(str::parse);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(major)), Some(Ok(minor))) if (major, minor) < OLDEST => {
            let remedy =
                format!("Kubernetes {}.{} or newer: the CA can't tell an agent's node before", OLDEST.0, OLDEST.1);
            Finding::fail("API server", &server.version, remedy)
        }
        _ => Finding::ok("API server", &server.version),
    }
}

fn clock(ahead_seconds: Option<i64>) -> Finding {
    let remedy = "synchronise the clocks of this machine and of the control plane (NTP)";
    match ahead_seconds {
        None => Finding::warn("clock", "the API server doesn't tell the time", "compare the clocks yourself"),
        Some(ahead) if ahead.abs() >= FAR_OFF_SECONDS => {
            Finding::fail("clock", format!("the API server's is {ahead} s ahead"), remedy)
        }
        Some(ahead) if ahead.abs() >= OFF_SECONDS => {
            Finding::warn("clock", format!("the API server's is {ahead} s ahead"), remedy)
        }
        Some(_) => Finding::ok("clock", format!("less than {OFF_SECONDS} s from the API server's")),
    }
}

fn kinds(is_served: impl Fn(&str) -> bool, installed: bool) -> Finding {
    let missing: Vec<_> = KINDS.iter().map(|(_, plural)| *plural).filter(|plural| !is_served(plural)).collect();
    let what = format!("{API_GROUP}/{API_VERSION}");
    if missing.is_empty() {
        return Finding::ok("CRDs", format!("{} kinds of {what}", KINDS.len()));
    }
    if missing.len() == KINDS.len() && !installed {
        return Finding::warn("CRDs", format!("none of {what}: the mesh isn't installed"), INSTALL);
    }
    Finding::fail("CRDs", format!("{what} has no {}", missing.join(", ")), "kubectl apply -k deploy/crds")
}

fn rbac(check: &'static str, rights: &Rights, installed: bool) -> Finding {
    let Rights { asked, missing } = rights;
    if missing.is_empty() {
        return Finding::ok(check, format!("all {asked} rights that are needed"));
    }
    if missing.len() == *asked && !installed {
        return Finding::warn(check, "no rights: the mesh isn't installed", INSTALL);
    }
    Finding::fail(check, format!("missing: {}", missing.join(", ")), "apply deploy/base again: the files *-rbac.yaml")
}

fn admission(missing: &[&str], installed: bool) -> Finding {
    let check = "admission";
    if missing.is_empty() {
        return Finding::ok(check, format!("{} policies", ADMISSION.len()));
    }
    if missing.len() == ADMISSION.len() && !installed {
        return Finding::warn(check, "no policies: the mesh isn't installed", INSTALL);
    }
    Finding::fail(check, format!("missing: {}", missing.join(", ")), "apply deploy/base/admission.yaml again")
}

fn mesh(meshes: &[(String, Option<String>)]) -> Finding {
    let check = "Mesh";
    match meshes {
        [(name, None)] => Finding::ok(check, name),
        [(name, Some(why))] => {
            let remedy = format!("kubectl edit meshes.mesh.hauberk.dev {name}; the last good one stays in force");
            Finding::fail(check, format!("{name} is not accepted: {why}").replace('\n', "; "), remedy)
        }
        [] => Finding::fail(
            check,
            "there is none",
            "the CA makes one: kubectl --namespace=hauberk-system logs deployment/hauberk-ca",
        ),
        several => {
            let names: Vec<_> = several.iter().map(|(name, _)| name.as_str()).collect();
            Finding::fail(check, format!("more than one: {}", names.join(", ")), "delete all but one")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::State;
    use super::*;

    #[test]
    fn what_is_not_installed_is_a_warning_and_half_of_it_a_failure() {
        assert_eq!(kinds(|_| true, true).state, State::Ok);
        assert_eq!(kinds(|_| false, false).state, State::Warn);
        assert_eq!(kinds(|_| false, true).state, State::Fail);
        let half = kinds(|plural| plural != "meshes", false);
        assert_eq!((half.state, half.found.contains("meshes")), (State::Fail, true), "{half:?}");
        let rights = |missing: &[&str]| Rights { asked: 2, missing: missing.iter().map(|&of| of.to_owned()).collect() };
        let rbac = |missing: &[&str], installed| rbac("RBAC", &rights(missing), installed).state;
        assert_eq!(rbac(&[], true), State::Ok);
        assert_eq!(rbac(&["get pods", "list pods"], false), State::Warn);
        assert_eq!(rbac(&["get pods"], false), State::Fail);
        assert_eq!(rbac(&["get pods", "list pods"], true), State::Fail);
        assert_eq!(admission(&[], false).state, State::Ok);
        assert_eq!(admission(&ADMISSION, false).state, State::Warn);
        assert_eq!(admission(&ADMISSION[1..], false).state, State::Fail);
    }

    #[test]
    fn a_cluster_has_one_mesh_that_is_accepted() {
        let of = |name: &str, why: Option<&str>| (name.to_owned(), why.map(str::to_owned));
        assert_eq!(mesh(&[of("mesh", None)]).state, State::Ok);
        let refused = mesh(&[of("mesh", Some("spec.mtls: no"))]);
        assert!(refused.state == State::Fail && refused.found.contains("spec.mtls: no"), "{refused:?}");
        assert_eq!(mesh(&[]).state, State::Fail);
        assert_eq!(mesh(&[of("a", None), of("b", None)]).state, State::Fail);
    }

    #[test]
    fn a_clock_that_is_off_is_told_by_how_much() {
        assert_eq!(clock(Some(-1)).state, State::Ok);
        assert_eq!(clock(Some(20)).state, State::Warn);
        let far = clock(Some(-300));
        assert_eq!((far.state, far.found.contains("-300 s")), (State::Fail, true));
        assert_eq!(clock(None).state, State::Warn);
    }

    #[test]
    fn an_old_api_server_cannot_tell_an_agents_node() {
        let of = |version: &str| version_state(version);
        assert_eq!(of("v1.31.9"), State::Fail);
        assert_eq!(of("v1.32.0-gke.1"), State::Ok);
        assert_eq!(of("unknown"), State::Ok);
    }

    fn version_state(version: &str) -> State {
        super::version(&ServerView { version: version.to_owned(), ahead_seconds: None }).state
    }
}
