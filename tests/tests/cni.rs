//! The CNI plugin, driven as a container runtime drives it: behind the real `bridge` plugin, with a real agent, real eBPF and
//! a real API server.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use mesh_tests::agent::{Agent, Cluster};
use mesh_tests::apiserver::ApiServer;
use mesh_tests::app::{self, Called};
use mesh_tests::claims;
use mesh_tests::cni::{Runtime, Sandbox};
use mesh_tests::guard::Cleanup;
use mesh_tests::mesh::agent_bin;
use mesh_tests::netns::Netns;
use mesh_tests::process::{Place, Process};
use mesh_tests::scale;
use mesh_tests::stage::MARKER;
use mesh_tests::wait::{LIMIT, wait_until};
use mesh_tests::world::{PodSpec, World};
use serde_json::Value;

#[path = "cni/first.rs"]
mod first;

use first::the_first_connection_of_every_pod_is_diverted;

#[path = "cni/sandboxes.rs"]
mod sandboxes;

use sandboxes::{
    a_pod_that_nobody_knows_fails, a_pod_with_a_namespace_in_it, a_sandbox_that_was_not_handed_over_is_found,
    a_static_pod_is_found_by_what_its_node_calls_it, only_sandboxes_that_are_gone_are_collected,
    who_is_gone_from_the_api_is_closed_while_it_runs, who_loses_its_address_is_closed,
};

/// More than the plugin ever adds to the start of a pod, without what it waits for, on a machine that does much else.
const QUICK: Duration = Duration::from_millis(250);
const PLUGIN: &str = "hauberk-cni";
const PORT: u16 = 7000;
/// What a node's network is before we come; written as people write.
const NETWORK: &str = r#"{
  "cniVersion": "1.0.0", "name": "podnet",
  "plugins": [
    { "type": "bridge", "bridge": "cni0", "isGateway": true, "ipam": { "type": "host-local", "dataDir": "DATA",
        "ranges": [ [ { "subnet": "10.42.1.0/24" } ] ], "routes": [ { "dst": "0.0.0.0/0" } ] } }
  ]
}
"#;
/// Where distributions put the standard plugins.
const STANDARD: [&str; 2] = ["/usr/lib/cni", "/opt/cni/bin"];
/// A node with a runtime, an agent and an API server.
struct Stage {
    agent: Agent,
    api: ApiServer,
    runtime: Runtime,
    conflist: PathBuf,
    before: String,
    bin: PathBuf,
    known: PathBuf,
    cleanup: Cleanup,
    world: World,
}

/// A pod as the kubelet and a runtime see it.
struct Pod {
    sandbox: Sandbox,
    place: Place,
}

impl Stage {
    fn start() -> Result<Self> {
        let world = World::builder()
            .node("a")
            .node("b")
            .pod(PodSpec::outsider("remote"))
            .pod(PodSpec::outsider("open"))
            .build()?;
        let (node, directory) = (world.node("a"), world.directory());
        let [bin, configuration, own] = ["bin", "net.d", "agent"].map(|name| directory.join(name));
        for path in [&bin, &configuration, &own] {
            std::fs::create_dir(path)?;
        }
        let before = NETWORK.replace("DATA", &directory.join("ipam").display().to_string());
        let conflist = configuration.join("10-podnet.conflist");
        std::fs::write(&conflist, &before)?;
        let api = ApiServer::with_mesh(node, directory)?;
        api.apply("apiVersion: v1\nkind: Namespace\nmetadata: {name: plain}\n")?;
        let known = directory.join("known.json");
        let show = |path: &Path| path.display().to_string();
        let socket = own.join("cni.sock");
        let flags = [
            ("--cni-socket", show(&socket)),
            ("--cni-known", show(&known)),
            ("--cni-bin-dir", show(&bin)),
            ("--cni-conf-dir", show(&configuration)),
        ];
        let arguments = flags.into_iter().flat_map(|(flag, value)| [flag.to_owned(), value]).collect();
        let cluster = Cluster { kubeconfig: api.kubeconfig(), arguments };
        let agent = Agent::of_cluster(&agent_bin()?, node, &own, cluster)?;
        let plugins = STANDARD.iter().map(PathBuf::from).chain([bin.clone()]).collect();
        let runtime = Runtime::new(node.place().clone(), conflist.clone(), plugins);
        let cleanup = Cleanup::new()?;
        let mut stage = Self { agent, api, runtime, conflist, before, bin, known, cleanup, world };
        stage.agent.wait_ready()?;
        Ok(stage)
    }

    /// What the kubelet and the runtime do before CNI: the pod's cgroup and an empty namespace.
    fn sandbox(&self, namespace: &str, name: &str, uid: &str) -> Result<Pod> {
        let node = self.world.node("a");
        let netns = Netns::create(&self.cleanup, &format!("{}-{name}", self.world.name()))?;
        netns.ip("link set lo up\n")?;
        let cgroup = node.cgroup_root().join(format!("kubepods/burstable/pod{uid}/container"));
        std::fs::create_dir_all(&cgroup)?;
        let container = format!("c-{}-{name}", self.world.name());
        let sandbox = Sandbox {
            container,
            netns: netns.path().to_owned(),
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            uid: uid.to_owned(),
        };
        Ok(Pod { sandbox, place: Place { netns, cgroup, logs: self.world.directory().to_owned() } })
    }

    /// A pod of this node that the API knows.
    fn pod(&self, namespace: &str, name: &str) -> Result<Pod> {
        self.api.apply(&pod_document(namespace, name))?;
        let uid = self.api.kubectl(&["get", "pod", "-n", namespace, name, "-o", "jsonpath={.metadata.uid}"])?;
        self.sandbox(namespace, name, &uid)
    }

    /// Adds a pod, which must work; returns the result.
    fn add(&self, pod: &Pod) -> Result<String> {
        let (before, last) = self.runtime.add(&pod.sandbox)?;
        ensure!(last.succeeded, "ADD: {}", last.text);
        let read = |text: &str| serde_json::from_str::<Value>(text).with_context(|| format!("read {text}"));
        ensure!(read(&last.text)? == read(&before)?, "{before} became {}", last.text);
        Ok(last.text)
    }

    /// Adds a pod, which must not work.
    fn add_refused(&self, pod: &Pod) -> Result<(u64, String)> {
        self.runtime.add(&pod.sandbox)?.1.error()
    }

    fn workloads(&self) -> Result<String> {
        self.agent.ask(&["workloads", "-o", "json"])
    }

    /// Whether the agent has the workload enrolled.
    fn wait_workload(&self, name: &str, wanted: bool) -> Result<()> {
        wait_until(LIMIT, &format!("workload {name} is there: {wanted}"), || {
            Ok((self.workloads()?.contains(&format!("\"{name}\"")) == wanted).then_some(()))
        })
    }
}

fn pod_document(namespace: &str, name: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: {namespace}}}\n\
         spec: {{nodeName: a, serviceAccountName: {name}, containers: [{{name: c, image: none}}]}}\n"
    )
}

fn serve(place: &Place) -> Result<Process> {
    let mut command = place.command(app::find()?);
    let mut process = place.spawn(command.args(["serve", "--port", &PORT.to_string()]))?;
    process.wait_line("the server listens", |line| line.contains("listening"))?;
    Ok(process)
}

fn call(pod: &Pod, to: &str) -> Result<Called> {
    let mut command = pod.place.command(app::find()?);
    let printed = pod.place.run(command.args(["call", "--say", MARKER, "--to", &format!("{to}:{PORT}")]))?.success()?;
    serde_json::from_str(&printed).with_context(|| format!("read {printed}"))
}

fn address(result: &str) -> Result<String> {
    let result: Value = serde_json::from_str(result)?;
    let address = result["ips"][0]["address"].as_str().context("no address")?;
    Ok(address.split('/').next().unwrap_or_default().to_owned())
}

#[test]
#[cfg_attr(not(feature = "kubernetes"), ignore = "needs Kubernetes' components: cargo xtask test kubernetes")]
fn pods_are_in_the_mesh_before_they_run_and_leave_it_with_their_sandbox() -> Result<()> {
    let mut stage = Stage::start()?;
    the_plugin_is_in_the_chain_and_comes_back(&stage)?;
    garbage_is_answered_by_the_book(&stage)?;

    let outsider = stage.pod("plain", "outsider")?;
    let outsider_result = stage.add(&outsider)?;
    ensure!(!stage.workloads()?.contains("outsider"), "a pod outside the mesh was enrolled");
    stage.runtime.check(&outsider.sandbox, &outsider_result)?;

    let server = stage.pod("shop", "server")?;
    let server_result = stage.add(&server)?;
    let serving = serve(&server.place)?;
    let served = ["wait", "-n", "shop", "pod/server", "--for=condition=mesh.hauberk.dev/Served", "--timeout=30s"];
    stage.api.kubectl(&served)?;

    // The first thing that the pod does is to connect.
    let client = stage.pod("shop", "client")?;
    let client_result = stage.add(&client)?;
    let called = call(&client, &address(&server_result)?)?;
    let _pause = client.place.spawn(client.place.command("sleep").arg("infinity"))?;
    claims::answer_is_right(&called)?;
    let peer = ("peer.id", "spiffe://mesh.test/ns/shop/sa/client");
    stage.agent.wait_access(&[("direction", "inbound"), ("outcome", "ok"), peer])?;
    claims::is_refused(&call(&outsider, &address(&server_result)?)?)?;
    stage.runtime.check(&client.sandbox, &client_result)?;

    the_first_connection_of_every_pod_is_diverted(&stage)?;
    a_pod_that_nobody_knows_fails(&stage)?;
    a_static_pod_is_found_by_what_its_node_calls_it(&stage, &address(&server_result)?)?;
    a_pod_leaves_with_its_sandbox(&stage, &client, &client_result, &server)?;
    only_sandboxes_that_are_gone_are_collected(&stage, &client, &server)?;
    a_sandbox_that_was_not_handed_over_is_found(&stage, &address(&server_result)?)?;
    let nested = a_pod_with_a_namespace_in_it(&stage, &address(&server_result)?)?;
    without_an_agent_only_enrolled_namespaces_wait(&mut stage)?;
    a_pod_stays_in_the_mesh_when_its_agent_comes_back(&stage, &client, &address(&server_result)?)?;
    claims::answer_is_right(&call(&nested.pod, &address(&server_result)?)?)
        .context("in the namespace of its sandbox")?;
    let open = address(&outsider_result)?;
    who_loses_its_address_is_closed(&mut stage, &client, (&outsider, &open), &address(&server_result)?)?;
    who_is_gone_from_the_api_is_closed_while_it_runs(&stage, serving, &outsider, &address(&server_result)?)?;
    nothing_is_left(stage)
}

fn the_plugin_is_in_the_chain_and_comes_back(stage: &Stage) -> Result<()> {
    let installed = || {
        wait_until(LIMIT, "the plugin is in the chain", || {
            let text = std::fs::read_to_string(&stage.conflist)?;
            Ok((text.contains(PLUGIN) && stage.bin.join(PLUGIN).exists()).then_some(text))
        })
    };
    let text = installed()?;
    std::fs::write(&stage.conflist, &stage.before)?;
    ensure!(installed()? == text, "it came back in another form");
    let versions = stage.runtime.exec(PLUGIN, &[("CNI_COMMAND", "VERSION")], b"{\"cniVersion\":\"1.0.0\"}")?;
    ensure!(versions.succeeded && versions.text.contains("1.1.0"), "{versions:?}");
    let mut quickest = Duration::MAX;
    for _ in 0..10 {
        let started = Instant::now();
        let status = stage.runtime.ask(PLUGIN, "STATUS")?;
        quickest = quickest.min(started.elapsed());
        ensure!(status.succeeded && status.text.is_empty(), "{status:?}");
    }
    ensure!(quickest < scale::longer(QUICK), "{quickest:?} for STATUS, a shell and nsenter included");
    Ok(())
}

fn garbage_is_answered_by_the_book(stage: &Stage) -> Result<()> {
    let ours = r#"{"cniVersion":"1.0.0","name":"n","type":"hauberk-cni"}"#;
    let whole = [("CNI_COMMAND", "ADD"), ("CNI_CONTAINERID", "c"), ("CNI_NETNS", "/none"), ("CNI_IFNAME", "eth0")];
    let code = |environment: &[(&str, &str)], input: &[u8]| -> Result<u64> {
        Ok(stage.runtime.exec(PLUGIN, environment, input)?.error()?.0)
    };
    assert_eq!(code(&[], b"{}")?, 4);
    assert_eq!(code(&[("CNI_COMMAND", "DANCE")], b"{}")?, 4);
    assert_eq!(code(&whole, b"")?, 6);
    assert_eq!(code(&whole, b"\xff\xfe{\"cniVersion\":")?, 6);
    assert_eq!(code(&whole, br#"{"cniVersion":"9.9.9"}"#)?, 1);
    assert_eq!(code(&whole[..1], ours.as_bytes())?, 4);
    assert_eq!(code(&whole, ours.as_bytes())?, 7);
    Ok(())
}

fn a_pod_leaves_with_its_sandbox(stage: &Stage, client: &Pod, result: &str, server: &Pod) -> Result<()> {
    // What is left of an earlier sandbox ends nothing.
    let earlier = Sandbox { container: "earlier".to_owned(), ..server.sandbox.clone() };
    let printed = stage.runtime.exec(
        PLUGIN,
        &[
            ("CNI_COMMAND", "DEL"),
            ("CNI_CONTAINERID", &earlier.container),
            ("CNI_IFNAME", "eth0"),
            ("CNI_ARGS", &format!("K8S_POD_NAMESPACE=shop;K8S_POD_NAME=server;K8S_POD_UID={}", earlier.uid)),
        ],
        plugin_config(stage)?.as_bytes(),
    )?;
    ensure!(printed.succeeded, "{printed:?}");
    stage.runtime.del(&client.sandbox, result)?;
    stage.wait_workload("shop/client", false)?;
    stage.wait_workload("shop/server", true)?;
    let shown = stage.api.kubectl(&["get", "pod", "-n", "shop", "client", "-o", "name"])?;
    ensure!(shown.contains("client"), "the API still shows the pod");
    stage.runtime.del(&client.sandbox, result)?;
    // The same pod gets another sandbox.
    stage.add(client)?;
    stage.wait_workload("shop/client", true)
}

fn plugin_config(stage: &Stage) -> Result<String> {
    let list: Value = serde_json::from_str(&std::fs::read_to_string(&stage.conflist)?)?;
    let mut plugin = list["plugins"].as_array().and_then(|all| all.last()).context("no plugins")?.clone();
    plugin["cniVersion"] = list["cniVersion"].clone();
    Ok(plugin.to_string())
}

fn without_an_agent_only_enrolled_namespaces_wait(stage: &mut Stage) -> Result<()> {
    let [enrolled, plain] = ["shop", "plain"].map(|namespace| stage.pod(namespace, &format!("{namespace}-late")));
    let [enrolled, plain] = [enrolled?, plain?];
    let system = stage.sandbox("kube-system", "dns", "00000000-0000-4000-8000-000000000003")?;
    stage.agent.kill9()?;
    let (code, message) = stage.add_refused(&enrolled)?;
    let says =
        message.contains("does not answer") && message.contains("pod shop/shop-late is in an enrolled namespace");
    ensure!(code == 11 && says, "{code} {message}");
    stage.add(&plain)?;
    stage.add(&system)?;
    let status = stage.runtime.ask(PLUGIN, "STATUS")?;
    ensure!(status.succeeded, "other pods can start: {status:?}");
    stage.runtime.del(&enrolled.sandbox, "")?;
    stage.agent.restart()?;
    stage.add(&enrolled)?;
    stage.wait_workload("shop/shop-late", true)
}

/// The API shows no address of it yet: here, where no kubelet is, it never does.
fn a_pod_stays_in_the_mesh_when_its_agent_comes_back(stage: &Stage, client: &Pod, server: &str) -> Result<()> {
    let log = std::fs::read_to_string(stage.agent.log())?;
    ensure!(!log.contains("no longer configured"), "a pod was withdrawn");
    claims::answer_is_right(&call(client, server)?)?;
    let two = [("direction", "inbound"), ("outcome", "ok"), ("peer.id", "spiffe://mesh.test/ns/shop/sa/client")];
    wait_until(LIMIT, "the second access line by mTLS", || {
        let lines = stage.agent.access_lines()?;
        Ok((lines.iter().filter(|line| line.has(&two)).count() == 2).then_some(()))
    })
}

fn nothing_is_left(mut stage: Stage) -> Result<()> {
    the_label_of_removal_takes_the_plugin_off(&mut stage)?;
    stage.agent.terminate()?;
    ensure!(std::fs::read_to_string(&stage.conflist)?.contains(PLUGIN), "a stopped agent leaves the plugin");
    let node = stage.world.node("a");
    let mut uninstall = node.place().command(agent_bin()?);
    uninstall.arg("uninstall").arg("--bpffs").arg(node.bpffs()).arg("--cni-known").arg(&stage.known);
    uninstall.arg("--cni-bin-dir").arg(&stage.bin).arg("--cni-conf-dir");
    uninstall.arg(stage.conflist.parent().context("it has a directory")?);
    node.place().run(&mut uninstall)?.success()?;
    ensure!(is_off(&stage)?, "the plugin has left something");
    ensure!(node.pins()?.is_empty(), "pins are left");
    Ok(())
}

/// As if there had never been a plugin.
fn is_off(stage: &Stage) -> Result<bool> {
    let is_as_before = std::fs::read_to_string(&stage.conflist)? == stage.before;
    Ok(is_as_before && !stage.bin.join(PLUGIN).exists() && !stage.known.exists())
}

fn the_label_of_removal_takes_the_plugin_off(stage: &mut Stage) -> Result<()> {
    let namespace = |label: &str| {
        let document =
            format!("apiVersion: v1\nkind: Namespace\nmetadata: {{name: hauberk-system, labels: {{{label}}}}}\n");
        stage.api.apply(&document)
    };
    namespace("mesh.hauberk.dev/uninstall: 'true'")?;
    wait_until(LIMIT, "the plugin is off the node", || Ok(is_off(stage)?.then_some(())))?;
    stage.wait_workload("shop/client", false)?;
    namespace("")?;
    // What it had pinned is gone: another agent begins anew.
    stage.agent.wait_end()?;
    stage.agent.restart()?;
    wait_until(LIMIT, "the plugin is back", || {
        Ok(std::fs::read_to_string(&stage.conflist)?.contains(PLUGIN).then_some(()))
    })
}
