//! What admission and Kubernetes' roles for people let through, and what they don't.

use std::net::SocketAddr;

use anyhow::{Result, ensure};
use mesh_tests::cluster::{Kubectl, Meshed};
use mesh_tests::wait::wait_until;
use serde_json::{Value, json};

use crate::{PATIENCE, SERVED, wait_served};

/// Writes a condition of a pod, by one request of the verb `patch`: kubectl's own `patch` reads the pod first, which an agent may not do.
fn write(kubectl: &Kubectl, pod: &str, condition: &str, user: &[&str]) -> Result<(), String> {
    let status = json!({"conditions": [{"type": condition, "status": "False", "reason": "Test"}]});
    // An apply takes away what the same manager has applied before.
    write_status(kubectl, pod, &status, &condition.replace('/', "-"), user)
}

fn write_status(kubectl: &Kubectl, pod: &str, status: &Value, manager: &str, user: &[&str]) -> Result<(), String> {
    let (namespace, name) = pod.split_once('/').unwrap_or(("shop", pod));
    let metadata = json!({"name": name, "namespace": namespace});
    let status = json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "status": status});
    let manager = format!("--field-manager={manager}");
    let apply = ["apply", "--server-side", "--force-conflicts", "--subresource=status", "--filename=-", &manager];
    let output =
        kubectl.output(&[&apply[..], user].concat(), &status.to_string()).map_err(|error| error.to_string())?;
    if output.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&output.stderr).into_owned()) }
}

pub(crate) fn only_an_agent_writes_its_conditions(kubectl: &Kubectl) -> Result<()> {
    let editor = ["--as=editor"];
    let refused = write(kubectl, "web", SERVED, &editor).expect_err("an editor wrote it");
    assert!(refused.contains("only the mesh's agents write conditions of mesh.hauberk.dev"), "{refused}");
    let refused = write(kubectl, "web", "mesh.hauberk.dev/Anything", &editor).expect_err("an editor wrote it");
    assert!(refused.contains("only the mesh's agents"), "{refused}");
    write(kubectl, "web", "example.org/Own", &editor).map_err(anyhow::Error::msg)?;

    let agent = |node: &str| {
        let user = ["--as=system:serviceaccount:hauberk-system:hauberk-agent", "--as-group=system:authenticated"];
        let groups = ["--as-group=system:serviceaccounts", "--as-group=system:serviceaccounts:hauberk-system"];
        let node = format!("--as-user-extra=authentication.kubernetes.io/node-name={node}");
        [&user[..], &groups, &[&node]].concat().into_iter().map(str::to_owned).collect::<Vec<_>>()
    };
    let write_as = |node: &str, pod: &str, condition: &str| {
        let user = agent(node);
        write(kubectl, pod, condition, &user.iter().map(String::as_str).collect::<Vec<_>>())
    };
    write_as("node-1", "web", "mesh.hauberk.dev/Test").map_err(anyhow::Error::msg)?;
    for (node, pod) in [("node-1", "elsewhere/far"), ("another", "web"), ("", "web")] {
        let refused = write_as(node, pod, "mesh.hauberk.dev/Test").expect_err("it is another node's pod");
        assert!(refused.contains("an agent writes the status of pods of its own node only"), "{refused}");
    }
    for status in [json!({"podIP": "10.9.9.9", "podIPs": [{"ip": "10.9.9.9"}]}), json!({"phase": "Failed"})] {
        let user = agent("node-1");
        let user: Vec<_> = user.iter().map(String::as_str).collect();
        let refused = write_status(kubectl, "web", &status, "addresses", &user).expect_err("it is the kubelet's");
        assert!(refused.contains("an agent does not write a pod's phase and addresses"), "{refused}");
    }
    let refused = write_as("node-1", "web", "Ready").expect_err("it is the kubelet's condition");
    assert!(refused.contains("an agent writes conditions of mesh.hauberk.dev only"), "{refused}");
    Ok(())
}

/// A server in the namespace `shop` whose author doesn't want it in the mesh.
const QUIET: &str = "\
apiVersion: v1
kind: Pod
metadata: {name: quiet, namespace: shop, labels: {mesh.hauberk.dev/enrolled: 'false'}}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - name: web
    image: localhost/box:1
    imagePullPolicy: Never
    command: [sh, -c, 'echo a-page > /tmp/page; exec httpd -f -p 8080 -h /tmp']
";

pub(crate) fn an_author_leaves_the_mesh_only_where_the_namespaces_owner_allows_it(meshed: &Meshed) -> Result<()> {
    let kubectl = &meshed.kubectl;
    let editor = |arguments: &[&str], input: &str| {
        let output = kubectl.output(&[arguments, &["--as=editor"]].concat(), input)?;
        Ok::<_, anyhow::Error>((output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned()))
    };
    let make = || editor(&["apply", "--filename=-"], QUIET);
    let leave = ["--namespace=shop", "label", "pod", "web", "mesh.hauberk.dev/enrolled=false"];
    for (done, told) in [make()?, editor(&leave, "")?] {
        assert!(!done && told.contains("mesh.hauberk.dev/opt-out: allowed on its namespace"), "{told}");
    }
    let allow = ["label", "namespace", "shop", "mesh.hauberk.dev/opt-out=allowed"];
    let (done, told) = editor(&allow, "")?;
    assert!(!done && told.contains("forbidden"), "an editor has allowed it to itself: {told}");

    kubectl.run(&allow)?;
    let (done, told) = make()?;
    ensure!(done, "{told}");
    kubectl.run(&["--namespace=shop", "wait", "pod", "quiet", "--for=condition=Ready", "--timeout=60s"])?;
    let address = SocketAddr::new(meshed.pod_of("shop", "quiet")?.address, 8080);
    let answered = || Ok::<_, anyhow::Error>(meshed.fetch("elsewhere", "stranger", address)?.status.success());
    wait_until(PATIENCE, "the pod is out of the mesh", || Ok(answered()?.then_some(())))?;

    // The agents go by the namespace too: a label from before holds nothing open.
    kubectl.run(&["label", "namespace", "shop", "mesh.hauberk.dev/opt-out-"])?;
    wait_served(kubectl, "quiet", "True")?;
    assert!(!answered()?, "a pod that took itself out is reached from outside the mesh");
    let (done, told) = editor(&["--namespace=shop", "annotate", "pod", "quiet", "example.org/note=x"], "")?;
    assert!(done, "what has the label can't be changed any more: {told}");
    kubectl.run(&[&allow[..], &["--overwrite"]].concat())?;
    wait_served(kubectl, "quiet", "False")?;
    wait_until(PATIENCE, "the pod is out of the mesh again", || Ok(answered()?.then_some(())))?;
    wait_served(kubectl, "web", "True")
}

/// Kubernetes' own roles cover the policies, each namespace's by itself.
pub(crate) fn an_editor_writes_policies_of_its_namespace_alone(kubectl: &Kubectl) -> Result<()> {
    let apply = |kind: &str, namespace: &str, spec: &str| {
        let document = format!(
            "apiVersion: mesh.hauberk.dev/v1alpha1\nkind: {kind}\nmetadata: {{name: own, namespace: {namespace}}}\nspec: {spec}\n"
        );
        let output = kubectl.output(&["apply", "--as=editor", "--filename=-"], &document)?;
        Ok::<_, anyhow::Error>((output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned()))
    };
    let policy = "{rules: [{from: [{source: {namespaces: [shop]}}]}]}";
    for (kind, spec) in [("AuthorizationPolicy", policy), ("PeerAuthentication", "{mtls: {mode: STRICT}}")] {
        let (done, told) = apply(kind, "shop", spec)?;
        assert!(done, "{kind}: {told}");
        let (done, told) = apply(kind, "elsewhere", spec)?;
        assert!(!done && told.contains("forbidden"), "{kind} elsewhere: {told}");
        let plural = if kind == "AuthorizationPolicy" { "authorizationpolicies" } else { "peerauthentications" };
        let kind = format!("{plural}.mesh.hauberk.dev");
        kubectl.run(&["--namespace=shop", "delete", &kind, "own", "--as=editor"])?;
    }
    let (done, told) = apply("Workload", "shop", "{node: machine, addresses: [192.0.2.2]}")?;
    assert!(!done && told.contains("forbidden"), "a machine with an identity: {told}");
    kubectl.run(&["--namespace=shop", "get", "workloads.mesh.hauberk.dev", "--as=editor"]).map(drop)
}
