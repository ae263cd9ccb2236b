//! The manifests against a real API server: they are accepted, they give exactly the rights that are used, and they keep others out.

use std::io::Write as _;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use mesh_tests::cluster::{Cluster, Kubectl, Meshed, Plan, image_from_environment, logs, manifests};
use mesh_tests::wait::wait_until;
use serde_json::Value;

#[path = "manifests/admission.rs"]
mod admission;
#[path = "manifests/privilege.rs"]
mod privilege;
#[path = "manifests/rights.rs"]
mod rights;

use admission::{
    an_author_leaves_the_mesh_only_where_the_namespaces_owner_allows_it,
    an_editor_writes_policies_of_its_namespace_alone, only_an_agent_writes_its_conditions,
};
use privilege::the_parts_run_with_least_privilege;
use rights::every_right_is_used_and_none_is_missing;

const PATIENCE: Duration = Duration::from_secs(120);
const DOCUMENTS: &str = include_str!("manifests/documents.yaml");
/// Its service account's identity is revoked.
const REVOKED: &str = "\
apiVersion: v1
kind: ServiceAccount
metadata: {name: nobody, namespace: shop}
---
apiVersion: v1
kind: Pod
metadata: {name: revoked, namespace: shop}
spec:
  serviceAccountName: nobody
  terminationGracePeriodSeconds: 0
  containers: [{name: idle, image: 'localhost/box:1', imagePullPolicy: Never, command: [sleep, '1000000']}]
";
const SERVED: &str = "mesh.hauberk.dev/Served";

#[test]
#[cfg_attr(not(feature = "kubernetes"), ignore = "brings up a cluster: cargo xtask test kubernetes")]
fn the_manifests_on_a_cluster() -> Result<()> {
    let (cluster, cleanup) = Cluster::temporary(&Plan::from_environment(1)?)?;
    cluster.load(&[image_from_environment()?])?;
    let meshed = Meshed::without_mesh(cluster);
    a_cluster_without_the_mesh_is_fit_for_it(&meshed)?;
    meshed.apply_mesh()?;
    the_overlays_are_accepted(&meshed.kubectl)?;
    meshed.kubectl.apply(DOCUMENTS)?;
    for (namespace, pod) in [("shop", "web"), ("elsewhere", "stranger")] {
        let pod = format!("pod/{pod}");
        let namespace = format!("--namespace={namespace}");
        let ready = ["wait", &namespace, &pod, "--for=condition=Ready", "--timeout=120s"];
        meshed.kubectl.run(&ready).with_context(|| logs(&meshed.kubectl))?;
    }
    wait_served(&meshed.kubectl, "web", "True")?;
    an_agents_own_pod_is_fit(&meshed)?;
    every_right_is_used_and_none_is_missing(&meshed)?;
    an_apply_that_makes_something_needs_create(&meshed.kubectl)?;
    only_an_agent_writes_its_conditions(&meshed.kubectl)?;
    the_parts_run_with_least_privilege(&meshed)?;
    an_editor_writes_policies_of_its_namespace_alone(&meshed.kubectl)?;
    an_author_leaves_the_mesh_only_where_the_namespaces_owner_allows_it(&meshed)?;
    a_right_that_is_missing_is_told(&meshed)?;
    a_pod_without_an_svid_does_not_hold_up_its_agent(&meshed)?;
    a_removal_names_the_nodes_that_are_left(&meshed)?;
    an_agent_says_that_the_mesh_shall_leave(&meshed)?;
    cleanup.finish()
}

/// What `mesh-agent check` found, as the operator asks: whether all is well, and the state of each check.
fn operators_check(meshed: &Meshed) -> Result<(bool, Value)> {
    let arguments = ["check", "--kubernetes", "--no-node", "--output=json"];
    let output = meshed.operator(&meshed.program()?, &arguments).output().context("start mesh-agent check")?;
    let found = serde_json::from_slice(&output.stdout).with_context(|| format!("{output:?}"))?;
    Ok((output.status.success(), found))
}

fn state<'a>(found: &'a Value, check: &str) -> &'a str {
    let all = found.as_array().into_iter().flatten();
    all.filter(|one| one["check"] == check).find_map(|one| one["state"].as_str()).unwrap_or("nothing")
}

fn a_cluster_without_the_mesh_is_fit_for_it(meshed: &Meshed) -> Result<()> {
    let (fit, found) = operators_check(meshed)?;
    for (check, expected) in [
        ("API server", "ok"),
        ("clock", "ok"),
        ("CRDs", "warn"),
        ("RBAC", "warn"),
        ("RBAC of the CA", "warn"),
        ("admission", "warn"),
    ] {
        assert_eq!(state(&found, check), expected, "{check}: {found:#}");
    }
    assert!(fit, "{found:#}");
    Ok(())
}

fn the_overlays_are_accepted(kubectl: &Kubectl) -> Result<()> {
    let overlays = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/overlays").canonicalize()?;
    for overlay in ["dev", "production"] {
        let path = overlays.join(overlay).display().to_string();
        kubectl.run(&["apply", "--dry-run=server", "--kustomize", &path]).context(overlay)?;
    }
    // What Prometheus' operator knows only kustomize can look at: as somebody's own overlay would have it.
    let own = tempfile::tempdir()?;
    let up = "../".repeat(own.path().canonicalize()?.components().count() - 1);
    let (overlays, up) = (overlays.display().to_string(), up.trim_end_matches('/'));
    let text = format!(
        "apiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\nresources: ['{up}{overlays}/production']\n\
         components: ['{up}{overlays}/../components/monitoring']\n"
    );
    std::fs::File::create(own.path().join("kustomization.yaml"))?.write_all(text.as_bytes())?;
    let built = kubectl.run(&["kustomize", &own.path().display().to_string()])?;
    for part in ["kind: PodMonitor", "kind: PrometheusRule", "kind: PodDisruptionBudget", "containerPort: 15090"] {
        assert!(built.contains(part), "no {part}");
    }
    Ok(())
}

fn an_agents_own_pod_is_fit(meshed: &Meshed) -> Result<()> {
    let agent = meshed.agent_on("node-1")?;
    let exec = ["--namespace=hauberk-system", "exec", &agent, "--", "/bin/mesh-agent", "check", "--output=json"];
    // At once: an agent is not ready before its plugin is in the chain.
    let output = meshed.kubectl.output(&exec, "")?;
    let found: Value = serde_json::from_slice(&output.stdout).with_context(|| format!("{output:?}"))?;
    ensure!(output.status.success(), "{found:#}");
    for check in [
        "kernel",
        "capabilities",
        "eBPF",
        "cgroup v2",
        "bpffs",
        "kubelet",
        "TLS records",
        "CNI plugin",
        "agent",
        "configuration",
        "issuer",
        "certificates",
        "API server",
        "clock",
        "CRDs",
        "RBAC",
        "Mesh",
    ] {
        assert_eq!(state(&found, check), "ok", "{check}: {found:#}");
    }
    Ok(())
}

fn an_apply_that_makes_something_needs_create(kubectl: &Kubectl) -> Result<()> {
    let apply = |user: &str| {
        let roots = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: roots, namespace: shop}\n";
        kubectl.output(&["apply", "--server-side", "--filename=-", user], roots)
    };
    let refused = apply("--as=applier")?;
    let told = String::from_utf8_lossy(&refused.stderr);
    assert!(!refused.status.success() && told.contains("create"), "{told}");
    assert!(apply("--as=editor")?.status.success());
    assert!(apply("--as=applier")?.status.success(), "once it is there, `patch` suffices");
    Ok(())
}

/// Waits until the agent says so of a pod of the namespace `shop`.
fn wait_served(kubectl: &Kubectl, pod: &str, expected: &str) -> Result<()> {
    let condition = format!("--for=condition={SERVED}={expected}");
    let wait = ["--namespace=shop", "wait", "pod", pod, &condition, "--timeout=60s"];
    kubectl.run(&wait).map(drop).with_context(|| logs(kubectl))
}

fn a_right_that_is_missing_is_told(meshed: &Meshed) -> Result<()> {
    let (fit, found) = operators_check(meshed)?;
    for check in ["RBAC", "CRDs", "RBAC of the CA", "admission", "Mesh"] {
        assert!(fit && state(&found, check) == "ok", "{check}: {found:#}");
    }
    meshed.kubectl.run(&["delete", "validatingadmissionpolicybinding", "hauberk-opt-out"])?;
    meshed.kubectl.run(&["--namespace=hauberk-system", "delete", "role", "hauberk-ca"])?;
    let (fit, found) = operators_check(meshed)?;
    assert!(!fit && state(&found, "admission") == "fail" && state(&found, "RBAC of the CA") == "fail", "{found:#}");
    assert!(found.to_string().contains("get secrets/hauberk-ca"), "{found:#}");
    let namespace = "--namespace=hauberk-system";
    meshed.kubectl.run(&[namespace, "delete", "rolebinding", "hauberk-agent"])?;
    let (fit, found) = operators_check(meshed)?;
    assert!(!fit && state(&found, "RBAC") == "fail", "{found:#}");
    assert!(found.to_string().contains("get configmaps/hauberk-trust-bundle"), "{found:#}");
    let agent = meshed.agent_on("node-1")?;
    let asked = meshed.kubectl.output(&[namespace, "exec", &agent, "--", "/bin/mesh-agent", "check"], "")?;
    let told = String::from_utf8_lossy(&asked.stdout);
    assert!(
        asked.status.code() == Some(1) && told.contains("apply deploy/base again: the files *-rbac.yaml"),
        "{asked:?}"
    );
    meshed.kubectl.run(&["apply", "--kustomize", &manifests()])?;
    let (fit, found) = operators_check(meshed)?;
    assert!(fit, "{found:#}");
    Ok(())
}

/// One agent after the other is replaced: one that is never ready would stop that, so a single pod must not keep it from being ready.
fn a_pod_without_an_svid_does_not_hold_up_its_agent(meshed: &Meshed) -> Result<()> {
    let kubectl = &meshed.kubectl;
    kubectl.apply(REVOKED)?;
    wait_served(kubectl, "revoked", "False")?;
    let old = meshed.agent_on("node-1")?;
    let namespace = "--namespace=hauberk-system";
    kubectl.run(&[namespace, "delete", "pod", &old, "--timeout=60s"])?;
    let new =
        wait_until(PATIENCE, "another agent", || Ok(Some(meshed.agent_on("node-1")?).filter(|new| !new.is_empty())))?;
    let ready = [namespace, "wait", "pod", &new, "--for=condition=Ready", "--timeout=120s"];
    kubectl.run(&ready).with_context(|| logs(kubectl))?;
    let told = meshed.agent(&new, &["workloads"])?;
    assert!(told.contains("the issuer refuses"), "{told}");
    the_node_keeps_its_agents_audit_log(meshed, &new)?;
    wait_served(kubectl, "web", "True")?;
    kubectl.run(&["--namespace=shop", "delete", "pod", "revoked"]).map(drop)
}

/// Over its agents: the one before has signed what it wrote when it ended.
fn the_node_keeps_its_agents_audit_log(meshed: &Meshed, agent: &str) -> Result<()> {
    let [key, log] = ["/var/log/hauberk/audit.pub", "/var/log/hauberk/audit.jsonl"];
    let exec = ["--namespace=hauberk-system", "exec", agent, "--", "/bin/mesh-agent"];
    let verified = meshed.kubectl.output(&[&exec[..], &["audit", "verify", "--key", key, log]].concat(), "")?;
    ensure!(verified.status.success(), "{}", String::from_utf8_lossy(&verified.stdout));
    Ok(())
}

/// The node `another` has a pod for an agent, and no kubelet that starts it.
fn a_removal_names_the_nodes_that_are_left(meshed: &Meshed) -> Result<()> {
    let uninstall = |seconds: &str| {
        let arguments = ["uninstall", "--kubernetes", "--timeout", seconds];
        meshed.operator(&meshed.program()?, &arguments).output().context("start mesh-agent uninstall")
    };
    let ended = uninstall("20")?;
    let told = String::from_utf8_lossy(&ended.stderr);
    let last = told.lines().last().unwrap_or_default();
    assert!(ended.status.code() == Some(1) && last.contains("these nodes: another."), "{told}");
    meshed.kubectl.run(&["delete", "node", "another"])?;
    let ended = uninstall("60")?;
    ensure!(ended.status.success(), "{ended:?}\n{}", logs(&meshed.kubectl));
    Ok(())
}

/// Somebody installs it again into the namespace whose label has stayed.
fn an_agent_says_that_the_mesh_shall_leave(meshed: &Meshed) -> Result<()> {
    let (kubectl, namespace) = (&meshed.kubectl, "--namespace=hauberk-system");
    let old = meshed.agent_on("node-1")?;
    kubectl.run(&[namespace, "delete", "pod", &old, "--timeout=60s"])?;
    wait_until(PATIENCE, "the next agent says why it is not ready", || {
        let Ok(new) = meshed.agent_on("node-1") else { return Ok(None) };
        // Until it runs, there is nobody to ask.
        let told = meshed.agent(&new, &["status"]).unwrap_or_default();
        Ok(told.contains("the mesh shall leave the cluster").then_some(()))
    })?;
    kubectl.run(&["label", "namespace", "hauberk-system", "mesh.hauberk.dev/uninstall-"])?;
    let rollout = [namespace, "rollout", "status", "daemonset/hauberk-agent", "--timeout=120s"];
    kubectl.run(&rollout).with_context(|| logs(kubectl))?;
    wait_served(kubectl, "web", "True")
}
