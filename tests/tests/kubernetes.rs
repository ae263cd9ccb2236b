//! The mesh on a real cluster: installed with one command, joined by a label.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use mesh_tests::cluster::{Cluster, Meshed, Node, Plan, logs, manifests};
use mesh_tests::wait::wait_until;

#[path = "kubernetes/outages.rs"]
mod outages;

use outages::{
    a_killed_agent_leaves_its_pods_closed_and_comes_back, a_rolling_update_is_short,
    nothing_changes_without_an_api_server, the_first_connection_of_every_pod_is_diverted,
};

/// How long pods may take to be there, on a machine that does much else.
const PATIENCE: Duration = Duration::from_secs(120);
/// What every page of the application has.
const SECRET: &str = "a-secret-page";
const POLICIES: &str = "authorizationpolicies.mesh.hauberk.dev";
const PORT: u16 = 8080;

#[test]
#[cfg_attr(not(feature = "kubernetes"), ignore = "brings up a cluster: cargo xtask test kubernetes")]
fn the_mesh_on_a_cluster() -> Result<()> {
    let (cluster, cleanup) = Cluster::temporary(&Plan::from_environment(2)?)?;
    let pristine = nodes(&cluster)?;
    let meshed = Meshed::install(cluster)?;
    meshed.deploy()?;
    pods_talk_mtls_across_nodes(&meshed)?;
    a_service_leads_to_both_servers(&meshed)?;
    who_is_not_in_the_mesh_is_refused(&meshed)?;
    probes_see_the_application(&meshed)?;
    a_policy_applied_with_kubectl_takes_effect(&meshed)?;
    the_api_server_refuses_what_is_wrong(&meshed)?;
    an_agent_answers_through_kubectl_exec(&meshed)?;
    a_deleted_pods_identity_ends(&meshed)?;
    one_signing_service_takes_over_from_another(&meshed)?;
    the_first_connection_of_every_pod_is_diverted(&meshed)?;
    a_rolling_update_is_short(&meshed)?;
    nothing_changes_without_an_api_server(&meshed)?;
    a_killed_agent_leaves_its_pods_closed_and_comes_back(&meshed)?;
    uninstalling_leaves_the_nodes_as_they_were(&meshed, &pristine)?;
    cleanup.finish()
}

fn pods_talk_mtls_across_nodes(meshed: &Meshed) -> Result<()> {
    let (client, server) = (meshed.pod_on("client", "node-1")?, meshed.pod_on("web", "node-2")?);
    let destination = SocketAddr::new(server.address, PORT);
    let capture = meshed.capture()?;
    let answer = meshed.fetch("shop", &client.name, destination)?;
    let text = String::from_utf8_lossy(&answer.stdout);
    ensure!(text.contains(&server.name), "{answer:?}\n{}", logs(&meshed.kubectl));
    let trace = capture.trace()?;
    trace.all_tls13(destination)?;
    assert!(!trace.contains(SECRET), "plaintext on the wire");
    // The capture would have seen it: between two that are not in the mesh it does.
    let open = meshed.pod_of("elsewhere", "open")?;
    let answer = meshed.fetch("elsewhere", "stranger", SocketAddr::new(open.address, PORT))?;
    assert!(String::from_utf8_lossy(&answer.stdout).contains(SECRET), "{answer:?}");
    assert!(capture.trace()?.contains(SECRET), "the capture is blind");
    Ok(())
}

fn a_service_leads_to_both_servers(meshed: &Meshed) -> Result<()> {
    let client = meshed.pod_on("client", "node-1")?;
    let service =
        meshed.kubectl.run(&["--namespace=shop", "get", "service", "web", "--output=jsonpath={.spec.clusterIP}"])?;
    let destination = SocketAddr::new(service.parse()?, 80);
    let mut servers = BTreeSet::new();
    wait_until(PATIENCE, "both servers answer", || {
        let answer = meshed.fetch("shop", &client.name, destination)?;
        ensure!(answer.status.success(), "{answer:?}\n{}", logs(&meshed.kubectl));
        servers.insert(String::from_utf8_lossy(&answer.stdout).into_owned());
        Ok((servers.len() == 2).then_some(()))
    })?;
    // A Service that nobody of the mesh stands for is carried as before.
    let ask = ["--namespace=shop", "exec", &client.name, "--", "sh", "-c", "nc -w 5 10.96.0.1 443 < /dev/null"];
    meshed.kubectl.run(&ask)?;
    // And who is in the mesh reaches who is not.
    let open = meshed.pod_of("elsewhere", "open")?;
    let answer = meshed.fetch("shop", &client.name, SocketAddr::new(open.address, PORT))?;
    assert!(answer.status.success(), "{answer:?}");
    Ok(())
}

/// A pod without the label, a pod on its node's network, and whoever comes by a node's port.
fn who_is_not_in_the_mesh_is_refused(meshed: &Meshed) -> Result<()> {
    let server = meshed.pod_on("web", "node-2")?;
    let destination = SocketAddr::new(server.address, PORT);
    for pod in ["stranger", "host"] {
        let answer = meshed.fetch("elsewhere", pod, destination)?;
        assert!(!answer.status.success() && answer.stdout.is_empty(), "{pod}: {answer:?}");
    }
    let port = ["--namespace=shop", "get", "service", "web", "--output=jsonpath={.spec.ports[0].nodePort}"];
    let port = meshed.kubectl.run(&port)?;
    for node in meshed.cluster.nodes() {
        let url = format!("http://{}:{port}/page", node.address());
        let answer = node.command("busybox")?.args(["wget", "-qO-", &url]).output().context("start wget")?;
        assert!(!answer.status.success() && answer.stdout.is_empty(), "{url}: {answer:?}");
    }
    Ok(())
}

/// Ready needs the kubelet's HTTP probes to come through in strict mode; and a probe of a dead application must fail.
fn probes_see_the_application(meshed: &Meshed) -> Result<()> {
    let server = meshed.pod_on("web", "node-1")?;
    let kill = ["--namespace=shop", "exec", &server.name, "--", "rm", "/srv/page"];
    meshed.kubectl.run(&kill)?;
    let ready = |expected: &str| {
        let path = r#"--output=jsonpath={.status.conditions[?(@.type=="Ready")].status}"#;
        wait_until(PATIENCE, &format!("the server is ready: {expected}"), || {
            let found = meshed.kubectl.run(&["--namespace=shop", "get", "pod", &server.name, path])?;
            Ok((found == expected).then_some(()))
        })
    };
    ready("False")?;
    let mend =
        ["--namespace=shop", "exec", &server.name, "--", "sh", "-c", "echo a-secret-page-of $(hostname) > /srv/page"];
    meshed.kubectl.run(&mend)?;
    ready("True")
}

fn a_policy_applied_with_kubectl_takes_effect(meshed: &Meshed) -> Result<()> {
    let (client, server) = (meshed.pod_on("client", "node-1")?, meshed.pod_on("web", "node-2")?);
    let destination = SocketAddr::new(server.address, PORT);
    // A live connection: the server waits for a request that never ends.
    let hold = format!("(printf 'GET /page HTTP/1.0\\r\\n'; sleep 1000) | nc {} {PORT}", server.address);
    let mut held = meshed.kubectl.command(&["--namespace=shop", "exec", &client.name, "--", "sh", "-c", &hold]);
    let mut held = held.stdout(Stdio::null()).stderr(Stdio::null()).spawn().context("hold a connection")?;
    let agent = meshed.agent_on("node-2")?;
    let live = |count: usize| {
        wait_until(PATIENCE, &format!("the server's agent carries {count} connections"), || {
            let told = meshed.agent(&agent, &["connections", "--output=json"])?;
            let told: serde_json::Value = serde_json::from_str(&told)?;
            Ok((told.as_array().is_some_and(|all| all.len() == count)).then_some(()))
        })
    };
    live(1)?;
    meshed.kubectl.apply(
        "apiVersion: mesh.hauberk.dev/v1alpha1\nkind: AuthorizationPolicy\n\
         metadata: {name: nobody, namespace: shop}\n\
         spec: {action: DENY, rules: [{from: [{source: {principals: [cluster.local/ns/shop/sa/client]}}]}]}\n",
    )?;
    wait_until(PATIENCE, "the policy denies", || {
        Ok((!meshed.fetch("shop", &client.name, destination)?.status.success()).then_some(()))
    })?;
    live(0)?;
    drop(held.kill());
    held.wait()?;
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

/// Whoever gets its address next is not taken for it.
fn a_deleted_pods_identity_ends(meshed: &Meshed) -> Result<()> {
    let (client, server) = (meshed.pod_on("client", "node-2")?, meshed.pod_on("web", "node-1")?);
    meshed.kubectl.run(&["--namespace=shop", "scale", "deployment/client", "--replicas=1"])?;
    meshed.kubectl.run(&["--namespace=shop", "scale", "deployment/client", "--replicas=0"])?;
    for (node, gone) in [("node-2", &client), ("node-1", &client)] {
        let agent = meshed.agent_on(node)?;
        wait_until(PATIENCE, "the deleted pods have left the mesh", || {
            let told = meshed.agent(&agent, &["workloads"])?;
            Ok((!told.contains(&gone.name) && !told.contains("/sa/client")).then_some(()))
        })?;
    }
    meshed.kubectl.run(&["--namespace=shop", "scale", "deployment/client", "--replicas=2"])?;
    meshed.wait_served()?;
    let client = meshed.pod_on("client", "node-2")?;
    let answer = meshed.fetch("shop", &client.name, SocketAddr::new(server.address, PORT))?;
    assert!(answer.status.success(), "{answer:?}\n{}", logs(&meshed.kubectl));
    Ok(())
}

/// Both sign with the key of the Secret; who holds the Lease writes the documents' status.
fn one_signing_service_takes_over_from_another(meshed: &Meshed) -> Result<()> {
    let system = "--namespace=hauberk-system";
    meshed.kubectl.run(&[system, "scale", "deployment/hauberk-ca", "--replicas=2"])?;
    meshed.kubectl.run(&[system, "rollout", "status", "deployment/hauberk-ca", "--timeout=60s"])?;
    let holder =
        || meshed.kubectl.run(&[system, "get", "lease", "hauberk-ca", "--output=jsonpath={.spec.holderIdentity}"]);
    let first = holder()?;
    meshed.kubectl.run(&[system, "delete", "pod", &first, "--wait=false"])?;
    wait_until(PATIENCE, "the other one leads", || Ok((holder()? != first).then_some(())))?;
    meshed.kubectl.run(&[system, "scale", "deployment/hauberk-ca", "--replicas=1"])?;
    meshed.kubectl.run(&[system, "rollout", "status", "deployment/hauberk-ca", "--timeout=60s"]).map(drop)
}

/// What the mesh could leave on a node: programs, pins, links, CNI files, sockets, rules.
fn nodes(cluster: &Cluster) -> Result<Vec<BTreeSet<String>>> {
    let look = |node: &Node| {
        let script = "find /sys/fs/bpf /run/hauberk /etc/cni /opt/cni/bin 2>/dev/null; cat /etc/cni/net.d/*; \
                      iptables-save 2>/dev/null | grep -v '^#'; true";
        let output = node.command("sh")?.args(["-c", script]).output().context("look at a node")?;
        // The directory of a volume stays, empty.
        let lines = String::from_utf8_lossy(&output.stdout).into_owned();
        Ok(lines.lines().filter(|line| *line != "/run/hauberk").map(str::to_owned).collect())
    };
    let mut found = cluster.nodes().iter().map(look).collect::<Result<Vec<BTreeSet<_>>>>()?;
    // Programs are the kernel's, whichever node's they are.
    let programs = aya::programs::loaded_programs().filter_map(|program| Some(program.ok()?.name_as_str()?.to_owned()));
    found.push(programs.filter(|name| name.starts_with("mesh_")).collect());
    Ok(found)
}

fn uninstalling_leaves_the_nodes_as_they_were(meshed: &Meshed, pristine: &[BTreeSet<String>]) -> Result<()> {
    let (client, server) = (meshed.pod_on("client", "node-1")?, meshed.pod_on("web", "node-2")?);
    let destination = SocketAddr::new(server.address, PORT);
    let mut uninstall = std::process::Command::new("nsenter");
    uninstall.arg(format!("--net={}", Cluster::control_netns().path().display())).arg("--").arg(meshed.program()?);
    uninstall.args(["uninstall", "--kubernetes"]).env("KUBECONFIG", Cluster::kubeconfig());
    let uninstalled = uninstall.output().context("start mesh-agent uninstall")?;
    ensure!(uninstalled.status.success(), "{uninstalled:?}\n{}", logs(&meshed.kubectl));
    // Plain again, and nothing was restarted.
    let answer = meshed.fetch("shop", &client.name, destination)?;
    assert!(answer.status.success(), "{answer:?}");
    assert!(meshed.fetch("elsewhere", "stranger", destination)?.status.success());
    meshed.kubectl.run(&["delete", "--kustomize", &manifests(), "--wait=true", "--timeout=60s"])?;
    wait_until(PATIENCE, "the nodes are as they were", || {
        let now = nodes(&meshed.cluster)?;
        let left: Vec<_> =
            now.iter().zip(pristine).map(|(now, before)| now.difference(before).collect::<Vec<_>>()).collect();
        Ok(left.iter().all(Vec::is_empty).then_some(()))
    })
}
