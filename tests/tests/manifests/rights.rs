//! The roles give exactly what is used: the API server's own audit log says what that is.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::process::Stdio;

use anyhow::{Context as _, Result, ensure};
use mesh_tests::cluster::Meshed;
use mesh_tests::wait::wait_until;
use serde_json::{Value, json};

use crate::PATIENCE;

/// Of every kind: its plural, and where its document is.
const KINDS: [(&str, &str); 6] = [
    ("authorizationpolicies", "--namespace=shop"),
    ("federatedtrustdomains", "--all-namespaces"),
    ("meshes", "--all-namespaces"),
    ("peerauthentications", "--namespace=shop"),
    ("revocations", "--all-namespaces"),
    ("workloads", "--namespace=shop"),
];

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

pub(crate) fn every_right_is_used_and_none_is_missing(meshed: &Meshed) -> Result<()> {
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
