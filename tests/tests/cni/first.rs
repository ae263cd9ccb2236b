//! The very first thing that a pod does is to connect: nothing of it is on the wire in plaintext.

use std::net::{IpAddr, SocketAddr};

use anyhow::{Context as _, Result, ensure};
use mesh_tests::agent::{Agent, Cluster};
use mesh_tests::claims;
use mesh_tests::mesh::agent_bin;
use mesh_tests::process::{Place, Process};
use mesh_tests::scale;
use mesh_tests::stage::MARKER;
use mesh_tests::world::Family;

use super::{PORT, Pod, Stage, call, pod_document, serve};

/// Pods that start one after another.
const PODS: u32 = 200;

/// A server of the mesh on the other node, and that node's agent.
struct Remote {
    _server: Process,
    _agent: Agent,
    address: IpAddr,
}

impl Remote {
    fn start(stage: &Stage) -> Result<Self> {
        let (node, host) = (stage.world.node("b"), stage.world.pod("remote"));
        let address = host.address(Family::V4);
        stage.api.apply(&pod_document("shop", "remote").replace("nodeName: a", "nodeName: b"))?;
        let uid = stage.api.kubectl(&["get", "pod", "-n", "shop", "remote", "-o", "jsonpath={.metadata.uid}"])?;
        let cgroup = node.cgroup_root().join(format!("kubepods/pod{uid}/container"));
        std::fs::create_dir_all(&cgroup)?;
        let server = serve(&Place { cgroup, ..Place::clone(host) })?;
        let directory = stage.world.directory().join("agent-b");
        std::fs::create_dir(&directory)?;
        let cluster = Cluster { kubeconfig: stage.api.kubeconfig(), arguments: Vec::new() };
        let agent = Agent::of_cluster(&agent_bin()?, node, &directory, cluster)?;
        // What the kubelet would say.
        let status = format!(r#"{{"status":{{"podIP":"{address}","podIPs":[{{"ip":"{address}"}}]}}}}"#);
        let patch = ["patch", "pod", "-n", "shop", "remote", "--subresource=status", "--type=merge", "-p", &status];
        stage.api.kubectl(&patch)?;
        let served = ["wait", "-n", "shop", "pod/remote", "--for=condition=mesh.hauberk.dev/Served", "--timeout=30s"];
        stage.api.kubectl(&served)?;
        Ok(Self { _server: server, _agent: agent, address })
    }
}

/// One that isn't would reach the strict server as plaintext, and be denied there. The capture would show it: it shows the same of a pod
/// outside the mesh.
pub(super) fn the_first_connection_of_every_pod_is_diverted(stage: &Stage) -> Result<()> {
    let remote = Remote::start(stage)?;
    let open = stage.world.pod("open");
    let _open = open.serve(PORT)?;
    let capture = stage.world.capture()?;
    let control = stage.pod("plain", "control")?;
    stage.add(&control)?;
    claims::answer_is_right(&call(&control, &open.address(Family::V4).to_string())?)?;
    ensure!(capture.trace()?.contains(MARKER), "the capture is blind");

    let mark = capture.mark()?;
    let (pods, server) = (scale::less(PODS), SocketAddr::new(remote.address, PORT));
    connect_one_after_another(stage, pods, &remote.address.to_string())?;
    let trace = capture.trace()?.since(mark);
    trace.all_tls13(server)?;
    ensure!(!trace.contains(MARKER), "plaintext on the wire");
    let (flows, syns) = (trace.flows_to(server).len(), trace.syns_to(server).len());
    ensure!(flows == usize::try_from(pods)? && syns >= flows, "{flows} connections, {syns} SYNs of {pods} pods");
    stage.api.kubectl(&["delete", "pod", "-n", "shop", "remote", "--force"]).map(drop)
}

fn connect_one_after_another(stage: &Stage, pods: u32, server: &str) -> Result<()> {
    let names: Vec<_> = (0..pods).map(|number| format!("pod-{number}")).collect();
    let documents: Vec<_> = names.iter().map(|name| pod_document("shop", name)).collect();
    stage.api.apply(&documents.join("---\n"))?;
    let path = "jsonpath={range .items[*]}{.metadata.name} {.metadata.uid}{\"\\n\"}{end}";
    let uids = stage.api.kubectl(&["get", "pods", "-n", "shop", "-o", path])?;
    for name in &names {
        let uid = uids.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')).context("no uid")?;
        let pod: Pod = stage.sandbox("shop", name, uid)?;
        let result = stage.add(&pod)?;
        claims::answer_is_right(&call(&pod, server)?).with_context(|| name.clone())?;
        let source = format!("spiffe://mesh.test/ns/shop/sa/{name}");
        stage.agent.wait_access(&[("direction", "outbound"), ("outcome", "ok"), ("src.id", &source)])?;
        stage.runtime.del(&pod.sandbox, &result)?;
    }
    Ok(())
}
