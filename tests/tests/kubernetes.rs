//! The mesh on a real cluster: installed with one command, joined by a label.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use mesh_tests::capture::Capture;
use mesh_tests::cluster::{Cluster, Meshed, Plan, logs};
use mesh_tests::wait::wait_until;

#[path = "kubernetes/callers.rs"]
mod callers;
#[path = "kubernetes/first.rs"]
mod first;
#[path = "kubernetes/identity.rs"]
mod identity;
#[path = "kubernetes/leftovers.rs"]
mod leftovers;
#[path = "kubernetes/outages.rs"]
mod outages;
#[path = "kubernetes/outsiders.rs"]
mod outsiders;
#[path = "kubernetes/probes.rs"]
mod probes;
#[path = "kubernetes/signing.rs"]
mod signing;

use callers::Held;
use first::the_first_connection_of_every_pod_is_diverted;
use identity::{a_deleted_pods_identity_ends, a_pod_that_is_being_deleted_keeps_its_identity};
use leftovers::{nodes, uninstalling_leaves_the_nodes_as_they_were};
use outages::{
    a_killed_agent_leaves_its_pods_closed_and_comes_back, a_rolling_update_is_short,
    nothing_changes_without_an_api_server,
};
use outsiders::who_is_not_in_the_mesh_is_refused;
use probes::{
    a_tcp_probe_of_a_dead_application_fails, probes_come_through_after_a_restart_of_the_kubelet,
    probes_see_the_application,
};
use signing::{
    an_agent_gets_certificates_for_its_own_node_alone, no_other_token_makes_an_agent,
    one_signing_service_takes_over_from_another,
};

/// How long pods may take to be there, on a machine that does much else.
const PATIENCE: Duration = Duration::from_secs(120);
/// What every page of the application has.
const SECRET: &str = "a-secret-page";
const POLICIES: &str = "authorizationpolicies.mesh.hauberk.dev";
const PORT: u16 = 8080;
const SYSTEM: &str = "--namespace=hauberk-system";
const PODS: &str = include_str!("kubernetes/pods.yaml");
const DENY_CLIENT: &str = "apiVersion: mesh.hauberk.dev/v1alpha1
kind: AuthorizationPolicy
metadata: {name: nobody, namespace: shop}
spec: {action: DENY, rules: [{from: [{source: {principals: [cluster.local/ns/shop/sa/client]}}]}]}
";

type Step = fn(&Meshed) -> Result<()>;

/// What a step needs to see.
#[derive(Clone, Copy, Eq, PartialEq)]
enum Needs {
    /// What `kubectl` shows.
    Cluster,
    /// The nodes themselves: their processes, their wire, their control plane.
    Nodes,
}

macro_rules! steps {
    ($($step:ident: $needs:ident),* $(,)?) => { &[$((stringify!($step), $step as Step, Needs::$needs)),*] };
}

/// The story, in order.
const STORY: &[(&str, Step, Needs)] = steps![
    pods_talk_mtls_across_nodes: Cluster,
    a_service_leads_to_both_servers: Cluster,
    who_is_not_in_the_mesh_is_refused: Cluster,
    probes_see_the_application: Cluster,
    a_tcp_probe_of_a_dead_application_fails: Cluster,
    probes_come_through_after_a_restart_of_the_kubelet: Nodes,
    a_policy_applied_with_kubectl_takes_effect: Cluster,
    the_api_server_refuses_what_is_wrong: Cluster,
    an_agent_answers_through_kubectl_exec: Cluster,
    an_agent_gets_certificates_for_its_own_node_alone: Nodes,
    no_other_token_makes_an_agent: Nodes,
    a_pod_that_is_being_deleted_keeps_its_identity: Cluster,
    a_deleted_pods_identity_ends: Cluster,
    one_signing_service_takes_over_from_another: Cluster,
    the_first_connection_of_every_pod_is_diverted: Nodes,
    a_rolling_update_is_short: Cluster,
    nothing_changes_without_an_api_server: Nodes,
    a_killed_agent_leaves_its_pods_closed_and_comes_back: Nodes,
];

/// With `MESH_CLUSTER=kubeconfig` on the cluster of `KUBECONFIG`, which needs two nodes that have the images `localhost/mesh-agent` and
/// `localhost/box:1` (`ctr --namespace=k8s.io images import`); else on one of our own.
#[test]
#[cfg_attr(not(feature = "kubernetes"), ignore = "brings up a cluster: cargo xtask test kubernetes")]
fn the_mesh_on_a_cluster() -> Result<()> {
    if std::env::var_os("MESH_CLUSTER").is_some_and(|which| which == "kubeconfig") {
        return tell_elsewhere(Cluster::of_kubeconfig()?);
    }
    let (cluster, cleanup) = Cluster::temporary(&Plan::from_environment(2)?)?;
    tell(cluster)?;
    cleanup.finish()
}

/// Leaves as it found it a cluster that has no mesh; a story that fails stays, for its owner to look at.
fn tell_elsewhere(cluster: Cluster) -> Result<()> {
    let kubectl = cluster.kubectl();
    for namespace in ["hauberk-system", "shop", "elsewhere"] {
        let found = kubectl.run(&["get", "namespace", namespace, "--ignore-not-found", "--output=name"])?;
        ensure!(found.is_empty(), "the cluster of KUBECONFIG has a namespace `{namespace}`: it would be replaced");
    }
    tell(cluster)?;
    kubectl.run(&["delete", "namespace", "shop", "elsewhere", "--timeout=120s"]).map(drop)
}

#[expect(clippy::print_stdout, reason = "what takes its time, and what isn't looked at, is worth knowing")]
fn tell(cluster: Cluster) -> Result<()> {
    let pristine = nodes(&cluster)?;
    let meshed = Meshed::install(cluster)?;
    meshed.deploy()?;
    meshed.apply(PODS)?;
    let others = ["--namespace=elsewhere", "wait", "pods", "--all", "--for=condition=Ready", "--timeout=60s"];
    meshed.kubectl.run(&others)?;
    meshed.wait_served()?;
    for (name, step, needs) in STORY {
        if *needs == Needs::Nodes && meshed.cluster.is_elsewhere() {
            println!("skipped, since it needs the nodes themselves: {name}");
            continue;
        }
        let started = Instant::now();
        step(&meshed).with_context(|| (*name).to_owned())?;
        println!("{name}: {:.1} s", started.elapsed().as_secs_f64());
    }
    uninstalling_leaves_the_nodes_as_they_were(&meshed, &pristine)
}

/// The wire between nodes of our own.
fn wire(meshed: &Meshed) -> Result<Option<Capture>> {
    if meshed.cluster.is_elsewhere() { Ok(None) } else { meshed.capture().map(Some) }
}

fn pods_talk_mtls_across_nodes(meshed: &Meshed) -> Result<()> {
    let (client, server) = (meshed.pod_on("client", "node-1")?, meshed.pod_on("web", "node-2")?);
    let destination = SocketAddr::new(server.address, PORT);
    let capture = wire(meshed)?;
    let answer = meshed.fetch("shop", &client.name, destination)?;
    let text = String::from_utf8_lossy(&answer.stdout);
    ensure!(text.contains(&server.name), "{answer:?}\n{}", logs(&meshed.kubectl));
    if let Some(capture) = &capture {
        let trace = capture.trace()?;
        trace.all_tls13(destination)?;
        assert!(!trace.contains(SECRET), "plaintext on the wire");
    }
    // The capture would have seen it: between two that are not in the mesh it does.
    let open = meshed.pod_of("elsewhere", "open")?;
    let answer = meshed.fetch("elsewhere", "stranger", SocketAddr::new(open.address, PORT))?;
    assert!(String::from_utf8_lossy(&answer.stdout).contains(SECRET), "{answer:?}");
    if let Some(capture) = &capture {
        assert!(capture.trace()?.contains(SECRET), "the capture is blind");
    }
    Ok(())
}

/// The Service of the servers.
fn service(meshed: &Meshed) -> Result<SocketAddr> {
    let address = ["--namespace=shop", "get", "service", "web", "--output=jsonpath={.spec.clusterIP}"];
    Ok(SocketAddr::new(meshed.kubectl.run(&address)?.parse()?, 80))
}

fn a_service_leads_to_both_servers(meshed: &Meshed) -> Result<()> {
    let client = meshed.pod_on("client", "node-1")?;
    let (destination, capture) = (service(meshed)?, wire(meshed)?);
    let mut servers = BTreeSet::new();
    wait_until(PATIENCE, "both servers answer", || {
        let answer = meshed.fetch("shop", &client.name, destination)?;
        ensure!(answer.status.success(), "{answer:?}\n{}", logs(&meshed.kubectl));
        servers.insert(String::from_utf8_lossy(&answer.stdout).into_owned());
        Ok((servers.len() == 2).then_some(()))
    })?;
    // The agent has chosen, so the wire has the endpoint's address and never the Service's.
    if let Some(capture) = capture {
        let trace = capture.trace()?;
        trace.all_tls13(SocketAddr::new(meshed.pod_on("web", "node-2")?.address, PORT))?;
        assert!(trace.syns_to(destination).is_empty() && !trace.contains(SECRET), "plaintext on the wire");
    }
    // A Service that nobody of the mesh stands for is carried as before.
    let ask = [
        "--namespace=shop",
        "exec",
        &client.name,
        "--",
        "sh",
        "-c",
        "nc -w 5 $KUBERNETES_SERVICE_HOST $KUBERNETES_SERVICE_PORT < /dev/null",
    ];
    meshed.kubectl.run(&ask)?;
    // And who is in the mesh reaches who is not.
    let open = meshed.pod_of("elsewhere", "open")?;
    let answer = meshed.fetch("shop", &client.name, SocketAddr::new(open.address, PORT))?;
    assert!(answer.status.success(), "{answer:?}");
    Ok(())
}

fn a_policy_applied_with_kubectl_takes_effect(meshed: &Meshed) -> Result<()> {
    let (client, server) = (meshed.pod_on("client", "node-1")?, meshed.pod_on("web", "node-2")?);
    let destination = SocketAddr::new(server.address, PORT);
    let held = Held::start(meshed, &client, &server, 1)?;
    let peers = |node: &str| {
        let told = meshed.agent(&meshed.agent_on(node)?, &["connections", "--output=json"])?;
        let told: Vec<serde_json::Value> = serde_json::from_str(&told)?;
        Ok::<_, anyhow::Error>(
            told.iter().map(|one| format!("{} {}", one["direction"], one["peer"])).collect::<Vec<_>>(),
        )
    };
    for (node, expected) in [
        ("node-1", r#""outbound" "spiffe://cluster.local/ns/shop/sa/web""#),
        ("node-2", r#""inbound" "spiffe://cluster.local/ns/shop/sa/client""#),
    ] {
        wait_until(PATIENCE, "both agents tell who is at the other end", || {
            Ok((peers(node)? == [expected]).then_some(()))
        })?;
    }
    meshed.kubectl.apply(DENY_CLIENT)?;
    wait_until(PATIENCE, "the policy denies", || {
        Ok((!meshed.fetch("shop", &client.name, destination)?.status.success()).then_some(()))
    })?;
    wait_until(PATIENCE, "the live connection is reset", || {
        Ok((held.lost()? == (1, 1) && peers("node-1")?.is_empty() && peers("node-2")?.is_empty()).then_some(()))
    })?;
    held.end()?;
    let accepted = r#"jsonpath={.status.conditions[?(@.type=="Accepted")].status}"#;
    wait_until(PATIENCE, "the policy's status", || {
        let get = ["--namespace=shop", POLICIES, "nobody", "--output", accepted];
        Ok((meshed.kubectl.try_get(&get)?.as_deref() == Some("True")).then_some(()))
    })?;
    meshed.kubectl.run(&["--namespace=shop", "delete", POLICIES, "nobody"])?;
    wait_until(PATIENCE, "the client is let in again", || {
        Ok(meshed.fetch("shop", &client.name, destination)?.status.success().then_some(()))
    })
}

fn the_api_server_refuses_what_is_wrong(meshed: &Meshed) -> Result<()> {
    let policy = |spec: &str| {
        format!(
            "apiVersion: mesh.hauberk.dev/v1alpha1\nkind: AuthorizationPolicy\nmetadata: {{name: wrong, namespace: shop}}\nspec: {spec}\n"
        )
    };
    for (spec, message) in [
        ("{action: DNY, rules: [{}]}", "Unsupported value: \"DNY\""),
        ("{action: DENY}", "has no rules, so it never matches"),
        ("{rules: [{to: [{operation: {methods: [GET]}}]}]}", "needs the content of requests"),
        ("{rules: [{from: [{source: {ipBlocks: [10.0.0.0/40]}}]}]}", "10.0.0.0/40"),
    ] {
        let refused = meshed.kubectl.apply(&policy(spec)).expect_err(spec).to_string();
        assert!(refused.contains(message), "{spec}: {refused}");
    }
    // What only all documents together show, the status tells.
    meshed.kubectl.apply(
        "apiVersion: mesh.hauberk.dev/v1alpha1\nkind: Revocation\nmetadata: {name: foreign}\n\
         spec: {spiffeIds: ['spiffe://elsewhere.example/ns/a/sa/b']}\n",
    )?;
    let message = r#"jsonpath={.status.conditions[?(@.type=="Accepted")].message}"#;
    wait_until(PATIENCE, "the revocation is refused in its status", || {
        let told = meshed.kubectl.try_get(&["revocations.mesh.hauberk.dev", "foreign", "--output", message])?;
        Ok(told.filter(|told| told.contains("is of no trust domain that this mesh knows")).map(drop))
    })?;
    meshed.kubectl.run(&["delete", "revocations.mesh.hauberk.dev", "foreign"]).map(drop)
}

fn an_agent_answers_through_kubectl_exec(meshed: &Meshed) -> Result<()> {
    let agent = meshed.agent_on("node-1")?;
    let status = meshed.agent(&agent, &["status"])?;
    assert!(status.contains("ready          yes") && status.contains("cluster.local, STRICT"), "{status}");
    let workloads = meshed.agent(&agent, &["workloads"])?;
    assert!(workloads.contains("spiffe://cluster.local/ns/shop/sa/client"), "{workloads}");
    Ok(())
}
