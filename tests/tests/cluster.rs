//! The cluster itself, without a mesh: what the Kubernetes tests build on must hold before they may claim anything.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use mesh_tests::cluster::{Cluster, Kubectl, Node, Plan, remains};
use mesh_tests::wait::wait_until;

/// How long pods may take to be there, on a machine that does much else.
const PATIENCE: Duration = Duration::from_secs(120);

const PODS: &str = include_str!("cluster/pods.yaml");
const REVIEW: &str = r#"{"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": {"token": "TOKEN", "audiences": ["mesh"]}}"#;

#[test]
#[cfg_attr(not(feature = "kubernetes"), ignore = "brings up a cluster: cargo xtask test kubernetes")]
fn a_cluster_serves_pods_across_its_nodes_and_leaves_nothing() -> Result<()> {
    let before = machine()?;
    let (cluster, cleanup) = Cluster::temporary(&Plan::from_environment(2)?)?;
    let kubectl = cluster.kubectl();
    kubectl.apply(PODS)?;
    for object in ["deployment/web", "deployment/client", "daemonset/node"] {
        kubectl.run(&["rollout", "status", object, "--timeout=120s"])?;
    }

    a_service_reaches_every_pod_from_every_node(&kubectl)?;
    pods_reach_the_api_server(&kubectl)?;
    tokens_have_their_own_audience(&kubectl)?;
    for node in cluster.nodes() {
        a_node_keeps_to_its_own_places(&kubectl, node)?;
        a_daemon_sees_the_nodes_own_directories(&kubectl, node)?;
    }
    pods_go_on_without_an_api_server(&cluster, &kubectl)?;

    cleanup.finish()?;
    assert_eq!(remains()?, Vec::<std::path::PathBuf>::new());
    let left: Vec<_> = machine()?.difference(&before).cloned().collect();
    assert!(left.is_empty(), "left behind: {left:#?}");
    Ok(())
}

/// Everything of the machine that a cluster changes: mounts, namespaces, cgroups, processes.
fn machine() -> Result<BTreeSet<String>> {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").context("read mountinfo")?;
    // What comes before the fifth word is numbers.
    let mut all: BTreeSet<_> = mounts.lines().filter_map(|line| line.split(' ').nth(4).map(str::to_owned)).collect();
    for directory in ["/run/netns", "/opt", "/etc/cni", "/var/lib", "/var/log", "/run", "/sys/fs/bpf"] {
        let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
        all.extend(entries.map(|entry| entry.path().display().to_string()));
    }
    for entry in std::fs::read_dir("/proc").context("list processes")? {
        // One that has ended has no program any more, whether its parent has noticed or not.
        let process = entry?.path();
        let Ok(program) = std::fs::read_link(process.join("exe")) else { continue };
        let cgroup = std::fs::read_to_string(process.join("cgroup")).unwrap_or_default();
        let program = program.display().to_string();
        let ours = [&program, &cgroup].iter().any(|text| text.contains("hauberk-k8s") || text.contains("containerd"));
        all.extend(ours.then(|| format!("{}: {program}: {cgroup}", process.display())));
    }
    let mut directories: Vec<_> = std::fs::read_dir("/sys/fs/cgroup")?.flatten().map(|entry| entry.path()).collect();
    directories.push("/sys/fs/cgroup".into());
    for directory in directories.iter().filter(|path| path.is_dir()) {
        all.extend(std::fs::read_dir(directory)?.flatten().map(|entry| entry.path().display().to_string()));
    }
    // Worlds of other tests that run beside this one.
    all.retain(|name| !name.contains("hbk-"));
    Ok(all)
}

/// The only pod with this label on the node.
fn pod_on(kubectl: &Kubectl, app: &str, node: &str) -> Result<String> {
    let (label, field) = (format!("--selector=app={app}"), format!("--field-selector=spec.nodeName={node}"));
    let names = kubectl.run(&["get", "pods", &label, &field, "--output=jsonpath={.items[*].metadata.name}"])?;
    ensure!(!names.is_empty() && !names.contains(' '), "pods of {app} on {node}: `{names}`");
    Ok(names)
}

fn exec(kubectl: &Kubectl, pod: &str, command: &[&str]) -> Result<String> {
    kubectl.run(&[&["exec", pod, "--"], command].concat())
}

fn a_service_reaches_every_pod_from_every_node(kubectl: &Kubectl) -> Result<()> {
    let service = kubectl.run(&["get", "service", "web", "--output=jsonpath={.spec.clusterIP}"])?;
    let names = kubectl.run(&["get", "pods", "--selector=app=web", "--output=jsonpath={.items[*].metadata.name}"])?;
    let servers: BTreeSet<_> = names.split(' ').map(str::to_owned).collect();
    assert_eq!(servers.len(), 2);
    for node in ["node-1", "node-2"] {
        let client = pod_on(kubectl, "client", node)?;
        let mut seen = BTreeSet::new();
        wait_until(PATIENCE, "both servers answer", || {
            seen.insert(
                exec(kubectl, &client, &["wget", "-qO-", &format!("http://{service}/name")])?.trim().to_owned(),
            );
            Ok((seen == servers).then_some(()))
        })?;
    }
    Ok(())
}

fn pods_reach_the_api_server(kubectl: &Kubectl) -> Result<()> {
    for app in ["client", "node"] {
        let pod = pod_on(kubectl, app, "node-2")?;
        exec(kubectl, &pod, &["nc", "10.96.0.1", "443", "-e", "true"])?;
        let root = exec(kubectl, &pod, &["cat", "/var/run/secrets/kubernetes.io/serviceaccount/ca.crt"])?;
        assert!(root.starts_with("-----BEGIN CERTIFICATE-----"), "{root}");
    }
    Ok(())
}

fn tokens_have_their_own_audience(kubectl: &Kubectl) -> Result<()> {
    for (pod, authenticated) in
        [("node-1", true), ("node-2", true)].map(|(node, yes)| (pod_on(kubectl, "node", node), yes))
    {
        let pod = pod?;
        let token = exec(kubectl, &pod, &["cat", "/var/run/secrets/mesh/token"])?;
        let review = REVIEW.replace("TOKEN", token.trim());
        let output = kubectl.output(&["create", "--filename=-", "--output=json"], &review)?;
        let answer: serde_json::Value = serde_json::from_slice(&output.stdout).context("read a TokenReview")?;
        assert_eq!(answer["status"]["authenticated"], authenticated, "{answer}");
        let extra = &answer["status"]["user"]["extra"];
        assert_eq!(extra["authentication.kubernetes.io/pod-name"][0], pod, "{answer}");
        let other =
            kubectl.output(&["create", "--filename=-", "--output=json"], &review.replace("\"mesh\"", "\"x\""))?;
        let answer: serde_json::Value = serde_json::from_slice(&other.stdout).context("read a TokenReview")?;
        assert_ne!(answer["status"]["authenticated"], true, "{answer}");
    }
    Ok(())
}

#[test]
#[cfg_attr(not(feature = "kubernetes"), ignore = "brings up a cluster: cargo xtask test kubernetes")]
fn the_agents_image_runs() -> Result<()> {
    let (cluster, cleanup) = Cluster::temporary(&Plan::from_environment(1)?)?;
    let image = std::env::var("MESH_IMAGE").context("MESH_IMAGE names the archive of `cargo xtask image`")?;
    cluster.load(&[image.into()])?;
    let pod = ["run", "version", "--image=localhost/mesh-agent:0.1.0", "--image-pull-policy=Never"];
    let said = [&pod[..], &["--restart=Never", "--attach", "--rm", "--quiet", "--", "--version"]].concat();
    // kubectl shows the log as well, if the pod ends while it attaches.
    let said: BTreeSet<_> = cluster.kubectl().run(&said)?.lines().map(str::to_owned).collect();
    assert_eq!(said, BTreeSet::from(["mesh-agent 0.1.0".to_owned()]));
    cleanup.finish()
}

/// All that runs on a node runs below its cgroup; the kubelet in one of its own.
fn a_node_keeps_to_its_own_places(kubectl: &Kubectl, node: &Node) -> Result<()> {
    let namespace = |process: &std::path::Path| std::fs::read_link(process.join("ns/pid")).ok();
    let cgroup = |process: &std::path::Path| {
        let all = std::fs::read_to_string(process.join("cgroup")).unwrap_or_default();
        all.lines().find_map(|line| line.strip_prefix("0::")).unwrap_or_default().to_owned()
    };
    let own = format!("/hauberk-k8s/{}/", node.name());
    let init = format!("/proc/{}", node.init()?);
    let expected = namespace(init.as_ref());
    let (mut here, mut kubelets) = (0, Vec::new());
    for entry in std::fs::read_dir("/proc").context("list processes")?.flatten() {
        let process = entry.path();
        if namespace(&process) != expected {
            continue;
        }
        here += 1;
        let place = cgroup(&process);
        assert!(place.starts_with(&own), "{} in {place}", process.display());
        let words = std::fs::read(process.join("cmdline")).unwrap_or_default();
        kubelets.extend(words.split(|byte| *byte == 0).any(|word| word.ends_with(b"/kubelet")).then_some(place));
    }
    assert!(here >= 4, "{here} processes of {}", node.name());
    assert_eq!(kubelets, [format!("{own}system/kubelet")]);

    let pod = pod_on(kubectl, "web", node.name())?;
    let uid = kubectl.run(&["get", "pod", &pod, "--output=jsonpath={.metadata.uid}"])?;
    let container = exec(kubectl, &pod, &["cat", "/proc/self/cgroup"])?;
    let container = container.lines().find_map(|line| line.strip_prefix("0::")).context("no cgroup2")?;
    assert!(
        container.starts_with(&format!("{own}kubepods/")) && container.contains(&format!("/pod{uid}/")),
        "{container}"
    );
    Ok(())
}

/// As a CNI plugin's installer and an agent need them: writing shows on the node, and nowhere else.
fn a_daemon_sees_the_nodes_own_directories(kubectl: &Kubectl, node: &Node) -> Result<()> {
    let pod = pod_on(kubectl, "node", node.name())?;
    for directory in ["/etc/cni/net.d", "/opt/cni/bin", "/var/lib/cni"] {
        let file = format!("{directory}/hauberk-probe");
        exec(kubectl, &pod, &["touch", &format!("/host{file}")])?;
        let seen = node.command("ls")?.arg(&file).output().context("look into the node")?;
        assert!(seen.status.success(), "{file} on {}", node.name());
        assert!(!std::path::Path::new(&file).exists(), "{file} on the machine");
        exec(kubectl, &pod, &["rm", &format!("/host{file}")])?;
    }
    let mounts = exec(kubectl, &pod, &["cat", "/proc/mounts"])?;
    assert!(mounts.lines().any(|line| line.contains(" /sys/fs/bpf bpf ")), "{mounts}");
    let own = kubectl.run(&["exec", &pod, "--", "ls", &format!("/host{}", node.cgroup().display())])?;
    for expected in ["system", "kubepods"] {
        assert!(own.lines().any(|line| line == expected), "{own}");
    }
    // hostPID: the node's first process is its own, and the kubelet is in sight.
    let processes = exec(kubectl, &pod, &["ps"])?;
    assert!(processes.contains("kubelet"), "{processes}");
    Ok(())
}

fn pods_go_on_without_an_api_server(cluster: &Cluster, kubectl: &Kubectl) -> Result<()> {
    let service = kubectl.run(&["get", "service", "web", "--output=jsonpath={.spec.clusterIP}"])?;
    cluster.stop_apiserver()?;
    assert!(!kubectl.is_ready()?);
    let url = format!("http://{service}/name");
    for node in cluster.nodes() {
        // From the node itself: to get into a pod takes the API server.
        let answer = node.command("busybox")?.args(["wget", "-qO-", &url]).output().context("start wget")?;
        assert!(answer.status.success(), "{}", String::from_utf8_lossy(&answer.stderr));
    }
    cluster.start_apiserver()?;
    kubectl.run(&["scale", "deployment/web", "--replicas=3"])?;
    kubectl.run(&["rollout", "status", "deployment/web", "--timeout=120s"]).map(drop)
}
