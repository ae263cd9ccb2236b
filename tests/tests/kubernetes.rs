//! The mesh on a real cluster: installed with one command, joined by a label.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::Output;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use mesh_tests::capture::Capture;
use mesh_tests::cluster::{Cluster, Kubectl, Plan};
use mesh_tests::netns::Netns;
use mesh_tests::wait::wait_until;

/// How long pods may take to be there, on a machine that does much else.
const PATIENCE: Duration = Duration::from_secs(120);
const SHOP: &str = include_str!("kubernetes/shop.yaml");
const PORT: u16 = 8080;

/// A cluster with the mesh and the application on it.
struct Meshed {
    cluster: Cluster,
    kubectl: Kubectl,
}

/// A pod of the application.
struct Pod {
    name: String,
    address: IpAddr,
}

impl Meshed {
    fn install(cluster: Cluster) -> Result<Self> {
        let kubectl = cluster.kubectl();
        let image = std::env::var("MESH_IMAGE").context("MESH_IMAGE names the archive of `cargo xtask image`")?;
        cluster.load(&[image.into()])?;
        let manifests = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/overlays/dev");
        kubectl.run(&["apply", "--kustomize", &manifests.to_string_lossy()])?;
        for part in ["deployment/hauberk-ca", "daemonset/hauberk-agent"] {
            let waited = kubectl.run(&["--namespace=hauberk-system", "rollout", "status", part, "--timeout=120s"]);
            waited.with_context(|| logs(&kubectl))?;
        }
        Ok(Self { cluster, kubectl })
    }

    fn deploy(&self) -> Result<()> {
        self.kubectl.apply(SHOP)?;
        for part in ["deployment/web", "deployment/client"] {
            let waited = self.kubectl.run(&["--namespace=shop", "rollout", "status", part, "--timeout=120s"]);
            waited.with_context(|| logs(&self.kubectl))?;
        }
        let served = ["--namespace=shop", "wait", "pods", "--all", "--for=condition=mesh.hauberk.dev/Served"];
        self.kubectl.run(&[&served[..], &["--timeout=60s"]].concat()).with_context(|| logs(&self.kubectl))?;
        let stranger = ["--namespace=elsewhere", "wait", "pod/stranger", "--for=condition=Ready", "--timeout=60s"];
        self.kubectl.run(&stranger).map(drop)
    }

    fn pod_on(&self, app: &str, node: &str) -> Result<Pod> {
        let (label, field) = (format!("--selector=app={app}"), format!("--field-selector=spec.nodeName={node}"));
        let path = "--output=jsonpath={.items[*].metadata.name} {.items[*].status.podIP}";
        let said = self.kubectl.run(&["--namespace=shop", "get", "pods", &label, &field, path])?;
        let [name, address] = said.split_whitespace().collect::<Vec<_>>()[..] else {
            anyhow::bail!("pods of {app} on {node}: `{said}`")
        };
        Ok(Pod { name: name.to_owned(), address: address.parse()? })
    }

    /// What a pod gets from an address.
    fn fetch(&self, namespace: &str, pod: &str, from: SocketAddr) -> Result<Output> {
        let (namespace, url) = (format!("--namespace={namespace}"), format!("http://{from}/page"));
        self.kubectl.output(&[&namespace, "exec", pod, "--", "wget", "-qO-", &url], "")
    }
}

/// What the mesh's own parts said, for a failure.
fn logs(kubectl: &Kubectl) -> String {
    let namespace = "--namespace=hauberk-system";
    let all = [
        vec!["get", "pods", "--all-namespaces", "--output=wide"],
        vec![namespace, "get", "events"],
        vec!["--namespace=shop", "get", "events"],
        vec![namespace, "logs", "--selector=app.kubernetes.io/name=hauberk-ca", "--tail=40"],
        vec![namespace, "logs", "--selector=app.kubernetes.io/name=hauberk-agent", "--tail=60"],
    ];
    let say = |arguments: Vec<&str>| kubectl.run(&arguments).unwrap_or_else(|error| format!("{error:#}"));
    all.into_iter().map(say).collect::<Vec<_>>().join("\n")
}

#[test]
#[cfg_attr(not(feature = "kubernetes"), ignore = "brings up a cluster: cargo xtask test kubernetes")]
fn the_mesh_on_a_cluster() -> Result<()> {
    let (cluster, cleanup) = Cluster::temporary(&Plan::from_environment(2)?)?;
    let meshed = Meshed::install(cluster)?;
    meshed.deploy()?;
    pods_talk_mtls_across_nodes(&meshed)?;
    a_stranger_is_refused(&meshed)?;
    a_policy_applied_with_kubectl_takes_effect(&meshed)?;
    cleanup.finish()
}

fn pods_talk_mtls_across_nodes(meshed: &Meshed) -> Result<()> {
    let (client, server) = (meshed.pod_on("client", "node-1")?, meshed.pod_on("web", "node-2")?);
    let destination = SocketAddr::new(server.address, PORT);
    let [one, other] = [0, 1].map(|index| &meshed.cluster.nodes()[index]);
    let netns = |path: std::path::PathBuf| Netns::existing(&path.file_name().unwrap_or_default().to_string_lossy());
    let (one_netns, other_netns) = (netns(one.netns()), netns(other.netns()));
    let ends = [(&one_netns, Ipv4Addr::into(one.address())), (&other_netns, Ipv4Addr::into(other.address()))];
    let capture = Capture::start(ends, "eth0")?;
    let answer = meshed.fetch("shop", &client.name, destination)?;
    let text = String::from_utf8_lossy(&answer.stdout);
    ensure!(text.contains(&server.name), "{answer:?}\n{}", logs(&meshed.kubectl));
    let trace = capture.trace()?;
    trace.all_tls13(destination)?;
    assert!(!trace.contains("a-secret-page"), "plaintext on the wire");
    // The capture would have seen it: without a mesh, from outside, it does.
    Ok(())
}

fn a_stranger_is_refused(meshed: &Meshed) -> Result<()> {
    let server = meshed.pod_on("web", "node-2")?;
    let answer = meshed.fetch("elsewhere", "stranger", SocketAddr::new(server.address, PORT))?;
    assert!(!answer.status.success() && answer.stdout.is_empty(), "{answer:?}");
    Ok(())
}

fn a_policy_applied_with_kubectl_takes_effect(meshed: &Meshed) -> Result<()> {
    let (client, server) = (meshed.pod_on("client", "node-1")?, meshed.pod_on("web", "node-2")?);
    let destination = SocketAddr::new(server.address, PORT);
    meshed.kubectl.apply(
        "apiVersion: mesh.hauberk.dev/v1alpha1\nkind: AuthorizationPolicy\n\
         metadata: {name: nobody, namespace: shop}\n\
         spec: {action: DENY, rules: [{from: [{source: {principals: [cluster.local/ns/shop/sa/client]}}]}]}\n",
    )?;
    wait_until(PATIENCE, "the policy denies", || {
        Ok((!meshed.fetch("shop", &client.name, destination)?.status.success()).then_some(()))
    })?;
    let accepted = r#"jsonpath={.status.conditions[?(@.type=="Accepted")].status}"#;
    wait_until(PATIENCE, "the policy's status", || {
        let get = ["--namespace=shop", "authorizationpolicies.mesh.hauberk.dev", "nobody", "--output", accepted];
        Ok((meshed.kubectl.try_get(&get)?.as_deref() == Some("True")).then_some(()))
    })?;
    meshed.kubectl.run(&["--namespace=shop", "delete", "authorizationpolicies.mesh.hauberk.dev", "nobody"])?;
    wait_until(PATIENCE, "the client is let in again", || {
        Ok(meshed.fetch("shop", &client.name, destination)?.status.success().then_some(()))
    })
}
