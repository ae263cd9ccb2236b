//! The manifests against a real API server: they are accepted, they give exactly the rights that are used, and they keep others out.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use mesh_tests::cluster::{Cluster, Kubectl, Meshed, Plan, image_from_environment, logs, manifests};
use mesh_tests::wait::wait_until;
use serde_json::{Value, json};

const PATIENCE: Duration = Duration::from_secs(120);
const DOCUMENTS: &str = include_str!("manifests/documents.yaml");
/// Of every kind: its plural, and where its document is.
const KINDS: [(&str, &str); 6] = [
    ("authorizationpolicies", "--namespace=shop"),
    ("federatedtrustdomains", "--all-namespaces"),
    ("meshes", "--all-namespaces"),
    ("peerauthentications", "--namespace=shop"),
    ("revocations", "--all-namespaces"),
    ("workloads", "--namespace=shop"),
];
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
    an_author_leaves_the_mesh_only_where_the_namespaces_owner_allows_it(&meshed)?;
    a_right_that_is_missing_is_told(&meshed)?;
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
    for (check, expected) in [("API server", "ok"), ("clock", "ok"), ("CRDs", "warn"), ("RBAC", "warn")] {
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
    ] {
        assert_eq!(state(&found, check), "ok", "{check}: {found:#}");
    }
    Ok(())
}

/// A request: who, verb, group, resource with subresource, name.
type Request = (String, String, String, String, String);

/// What the API server has seen the mesh's parts do, and what it refused.
fn requests(meshed: &Meshed) -> Result<(BTreeSet<Request>, Vec<String>)> {
    let (mut used, mut refused) = (BTreeSet::new(), Vec::new());
    // The last line may be half written.
    for event in meshed.cluster.audit_log()?.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok()) {
        let text = |pointer: &str| event.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned();
        if event["annotations"]["authorization.k8s.io/decision"] == "forbid" || event["responseStatus"]["code"] == 403 {
            refused.push(event.to_string());
        }
        let (resource, part) = (text("/objectRef/resource"), text("/objectRef/subresource"));
        let resource = if part.is_empty() { resource } else { format!("{resource}/{part}") };
        let who = text("/user/username").rsplit(':').next().unwrap_or_default().to_owned();
        used.insert((who, text("/verb"), text("/objectRef/apiGroup"), resource, text("/objectRef/name")));
    }
    Ok((used, refused))
}

fn every_right_is_used_and_none_is_missing(meshed: &Meshed) -> Result<()> {
    plugin_asks_for_a_pod_that_is_not_there(meshed)?;
    for (plural, place) in KINDS {
        let kind = format!("{plural}.mesh.hauberk.dev");
        wait_until(PATIENCE, &format!("the status of {plural}"), || {
            let conditions = ["get", place, &kind, "--output=jsonpath={.items[*].status.conditions[*].type}"];
            Ok(meshed.kubectl.run(&conditions)?.contains("Accepted").then_some(()))
        })?;
    }
    let mut given = Vec::new();
    for who in ["hauberk-agent", "hauberk-ca"] {
        for role in ["clusterrole", "role"] {
            let found = meshed.kubectl.run(&["--namespace=hauberk-system", "get", role, who, "--output=json"])?;
            let found: Value = serde_json::from_str(&found)?;
            given.extend(rights(who, &found["rules"]));
        }
    }
    ensure!(given.len() > 40, "only {given:?}");
    let mut unused = Vec::new();
    let waited = wait_until(PATIENCE, "every right is used", || {
        let (used, refused) = requests(meshed)?;
        ensure!(refused.is_empty(), "refused: {}", refused.join("\n"));
        unused.clear();
        unused.extend(given.iter().filter(|right| !right.is_used(&used)));
        Ok(unused.is_empty().then_some(()))
    });
    waited.with_context(|| format!("never used: {unused:#?}"))
}

/// One verb of one resource that a role gives.
#[derive(Debug)]
struct Right {
    who: &'static str,
    verb: String,
    group: String,
    resource: String,
    /// Of these objects alone; none: of all.
    names: Vec<String>,
}

fn rights(who: &'static str, rules: &Value) -> Vec<Right> {
    let texts = |rule: &Value, field: &str| -> Vec<String> {
        rule[field].as_array().into_iter().flatten().filter_map(|text| text.as_str().map(str::to_owned)).collect()
    };
    let mut all = Vec::new();
    for rule in rules.as_array().into_iter().flatten() {
        let names = texts(rule, "resourceNames");
        for group in texts(rule, "apiGroups") {
            for resource in texts(rule, "resources") {
                for verb in texts(rule, "verbs") {
                    let (group, resource, names) = (group.clone(), resource.clone(), names.clone());
                    all.push(Right { who, verb, group, resource, names });
                }
            }
        }
    }
    all
}

impl Right {
    fn is_used(&self, used: &BTreeSet<Request>) -> bool {
        // An apply that makes the object is one request, of the verb `patch`: `an_apply_that_makes_something_needs_create`.
        let verb = if (&*self.verb, &*self.resource) == ("create", "configmaps") { "patch" } else { &self.verb };
        used.iter().any(|(who, by, group, resource, name)| {
            (&**who, &**by, group, resource) == (self.who, verb, &self.group, &self.resource)
                && (self.names.is_empty() || self.names.contains(name))
        })
    }
}

/// As a runtime calls the plugin for a pod that was deleted meanwhile: only then the agent asks the API server itself.
fn plugin_asks_for_a_pod_that_is_not_there(meshed: &Meshed) -> Result<()> {
    let input = json!({
        "cniVersion": "1.0.0", "name": "pods", "type": "hauberk-cni", "socket": "/run/hauberk/cni.sock",
        "known": "/var/lib/hauberk/namespaces.json",
        "prevResult": {"cniVersion": "1.0.0", "interfaces": [], "ips": [{"address": "192.0.2.7/24"}]},
    });
    let mut plugin = meshed.cluster.nodes()[0].command("/opt/cni/bin/hauberk-cni")?;
    plugin.envs([
        ("CNI_COMMAND", "ADD"),
        ("CNI_CONTAINERID", "gone"),
        ("CNI_NETNS", "/proc/1/ns/net"),
        ("CNI_IFNAME", "eth0"),
        ("CNI_PATH", "/opt/cni/bin"),
        (
            "CNI_ARGS",
            "K8S_POD_NAMESPACE=shop;K8S_POD_NAME=gone;K8S_POD_INFRA_CONTAINER_ID=gone;\
             K8S_POD_UID=00000000-0000-0000-0000-000000000000",
        ),
    ]);
    let mut child = plugin.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().context("start the plugin")?;
    child.stdin.take().context("no pipe")?.write_all(input.to_string().as_bytes())?;
    let output = child.wait_with_output()?;
    let told = String::from_utf8_lossy(&output.stdout);
    ensure!(!output.status.success() && told.contains("the API server has no such pod"), "{output:?}");
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

fn only_an_agent_writes_its_conditions(kubectl: &Kubectl) -> Result<()> {
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

fn wait_served(kubectl: &Kubectl, pod: &str, expected: &str) -> Result<()> {
    let condition = format!("--for=condition={SERVED}={expected}");
    let wait = ["--namespace=shop", "wait", "pod", pod, &condition, "--timeout=60s"];
    kubectl.run(&wait).map(drop).with_context(|| logs(kubectl))
}

fn an_author_leaves_the_mesh_only_where_the_namespaces_owner_allows_it(meshed: &Meshed) -> Result<()> {
    let kubectl = &meshed.kubectl;
    let pod = "apiVersion: v1\nkind: Pod\n\
               metadata: {name: quiet, namespace: shop, labels: {mesh.hauberk.dev/enrolled: 'false'}}\n\
               spec:\n  terminationGracePeriodSeconds: 0\n  containers:\n  - name: web\n    image: localhost/box:1\n    \
               imagePullPolicy: Never\n    command: [sh, -c, 'echo a-page > /tmp/page; exec httpd -f -p 8080 -h /tmp']\n";
    let made = kubectl.output(&["apply", "--as=editor", "--filename=-"], pod)?;
    ensure!(made.status.success(), "{made:?}");
    kubectl.run(&["--namespace=shop", "wait", "pod", "quiet", "--for=condition=Ready", "--timeout=60s"])?;
    wait_served(kubectl, "quiet", "True")?;
    let address = SocketAddr::new(meshed.pod_of("shop", "quiet")?.address, 8080);
    let answered = || Ok::<_, anyhow::Error>(meshed.fetch("elsewhere", "stranger", address)?.status.success());
    assert!(!answered()?, "a pod that took itself out is reached from outside the mesh");

    let allow = ["label", "namespace", "shop", "mesh.hauberk.dev/opt-out=allowed"];
    let Err(refused) = kubectl.run(&[&allow[..], &["--as=editor"]].concat()) else {
        bail!("an editor has allowed it to itself")
    };
    assert!(refused.to_string().contains("forbidden"), "{refused}");
    kubectl.run(&allow)?;
    wait_served(kubectl, "quiet", "False")?;
    wait_until(PATIENCE, "the pod is out of the mesh", || Ok(answered()?.then_some(())))?;
    wait_served(kubectl, "web", "True")
}

fn a_right_that_is_missing_is_told(meshed: &Meshed) -> Result<()> {
    let (fit, found) = operators_check(meshed)?;
    assert!(fit && state(&found, "RBAC") == "ok" && state(&found, "CRDs") == "ok", "{found:#}");
    let namespace = "--namespace=hauberk-system";
    meshed.kubectl.run(&[namespace, "delete", "rolebinding", "hauberk-agent"])?;
    let (fit, found) = operators_check(meshed)?;
    assert!(!fit && state(&found, "RBAC") == "fail", "{found:#}");
    assert!(found.to_string().contains("get configmaps/hauberk-trust-bundle"), "{found:#}");
    let agent = meshed.agent_on("node-1")?;
    let asked = meshed.kubectl.output(&[namespace, "exec", &agent, "--", "/bin/mesh-agent", "check"], "")?;
    let told = String::from_utf8_lossy(&asked.stdout);
    assert!(asked.status.code() == Some(1) && told.contains("apply deploy/base/agent-rbac.yaml again"), "{asked:?}");
    meshed.kubectl.run(&["apply", "--kustomize", &manifests()])?;
    let (fit, found) = operators_check(meshed)?;
    assert!(fit, "{found:#}");
    Ok(())
}
