//! Services of a real API server: which of their addresses are diverted, and who answers. There is no kubelet and no
//! controller: the test writes the pods' status and the slices itself.

use std::net::SocketAddr;

use anyhow::{Context as _, Result, ensure};
use mesh_common::divert::is_divert_port;
use mesh_tests::agent::{Agent, Cluster};
use mesh_tests::apiserver::ApiServer;
use mesh_tests::app::{self, Called};
use mesh_tests::capture::Capture;
use mesh_tests::claims;
use mesh_tests::mesh::agent_bin;
use mesh_tests::process::{Place, Process};
use mesh_tests::stage::{MARKER, PORT};
use mesh_tests::wait::{LIMIT, wait_until};
use mesh_tests::world::{Family, PodSpec, World};
use serde_json::Value;

const ADMIN_PORT: u16 = 7001;
const SERVICE_PORT: u16 = 80;
/// A node with an agent, an API server, and the pods `client`, `one` and `two` in the mesh. Whatever leaves node `a` for an
/// address of a Service as it is meets a server on node `b`, which answers for all: a kube-proxy that knows before we do.
struct Stage {
    agent: Agent,
    api: ApiServer,
    capture: Capture,
    places: Vec<Place>,
    _running: Vec<Process>,
    world: World,
}

impl Stage {
    fn start() -> Result<Self> {
        let world = World::builder()
            .node("a")
            .pod(PodSpec::workload("client"))
            .pod(PodSpec::workload("one"))
            .pod(PodSpec::workload("two"))
            .node("b")
            .build()?;
        let (node, directory) = (world.node("a"), world.directory());
        let own = directory.join("agent");
        std::fs::create_dir(&own)?;
        let far = world.node("b");
        node.place().netns.ip(&format!("route add 10.96.0.0/16 via {}\n", far.address()))?;
        far.place().netns.ip("link set lo up\nroute add local 10.96.0.0/16 dev lo\n")?;
        let api = ApiServer::with_mesh(node, directory)?;
        let mut running = vec![serve(far.place(), SERVICE_PORT)?];
        let mut places = Vec::new();
        for name in ["client", "one", "two"] {
            let place = pod(&world, &api, name)?;
            running.push(place.spawn(place.command("sleep").arg("infinity"))?);
            places.push(place);
        }
        running.push(serve(&places[1], PORT)?);
        running.push(serve(&places[2], PORT)?);
        running.push(serve(&places[2], ADMIN_PORT)?);
        let cluster = Cluster { kubeconfig: api.kubeconfig(), arguments: Vec::new() };
        let mut agent = Agent::of_cluster(&agent_bin()?, node, &own, cluster)?;
        agent.wait_ready()?;
        let served =
            ["wait", "-n", "shop", "pods", "--all", "--for=condition=mesh.hauberk.dev/Served", "--timeout=30s"];
        api.kubectl(&served)?;
        let capture = world.capture()?;
        Ok(Self { agent, api, capture, places, _running: running, world })
    }

    fn address(&self, pod: &str) -> String {
        self.world.pod(pod).address(Family::V4).to_string()
    }

    /// A connection of `client` as the first thing that a process does.
    fn call(&self, to: &str, line: &str) -> Result<Called> {
        let place = &self.places[0];
        let mut command = place.command(app::find()?);
        let printed = place.run(command.args(["call", "--say", line, "--to", to]))?.success()?;
        serde_json::from_str(&printed).with_context(|| format!("read {printed}"))
    }

    /// Who answers `client`: by mutual TLS with this identity.
    fn call_is_answered_by(&self, to: &str, who: &str) -> Result<()> {
        let called = self.call(to, MARKER)?;
        claims::answer_is_right(&called)?;
        let local = called.local.context("no address")?.to_string();
        let line = self.agent.wait_access(&[("direction", "outbound"), ("src.addr", &local)])?;
        let expected = [("peer.id", &*format!("spiffe://mesh.test/ns/shop/sa/{who}")), ("outcome", "ok")];
        ensure!(line.has(&expected), "expected {expected:?} in {line:?}");
        Ok(())
    }

    /// To whom a connection of `client` would go.
    fn chosen(&self, to: &str) -> Result<Vec<String>> {
        let Ok(told) = self.agent.ask(&["explain", "shop/client", to, "-o", "json"]) else { return Ok(Vec::new()) };
        let told: Value = serde_json::from_str(&told)?;
        let connections = told["connections"].as_array().context("no connections")?;
        let mut chosen: Vec<_> =
            connections.iter().filter_map(|one| one["destination"].as_str().map(str::to_owned)).collect();
        chosen.sort();
        Ok(chosen)
    }

    fn wait_chosen(&self, to: &str, pods: &[&str]) -> Result<()> {
        let expected: Vec<_> = pods.iter().map(|pod| format!("{}:{PORT}", self.address(pod))).collect();
        wait_until(LIMIT, &format!("{to} is {pods:?}"), || Ok((self.chosen(to)? == expected).then_some(())))
    }

    fn was_on_the_wire(&self, line: &str) -> Result<bool> {
        Ok(self.capture.trace()?.contains(line))
    }

    /// A Service without a selector, and a slice as a controller would write it.
    fn apply(&self, name: &str, address: &str, more: &str, endpoints: &str) -> Result<()> {
        self.api.apply(&format!("{}---\n{}", service(name, address, more), slice(name, PORT, endpoints)))
    }
}

/// A pod of the world that the API knows and that runs.
fn pod(world: &World, api: &ApiServer, name: &str) -> Result<Place> {
    api.apply(&format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: shop}}\n\
         spec: {{nodeName: a, serviceAccountName: {name}, containers: [{{name: c, image: none}}]}}\n"
    ))?;
    let address = world.pod(name).address(Family::V4);
    let status = format!(r#"{{"status":{{"phase":"Running","podIP":"{address}","podIPs":[{{"ip":"{address}"}}]}}}}"#);
    api.kubectl(&["patch", "-n", "shop", "pod", name, "--subresource=status", "-p", &status])?;
    let uid = api.kubectl(&["get", "pod", "-n", "shop", name, "-o", "jsonpath={.metadata.uid}"])?;
    let cgroup = world.node("a").cgroup_root().join(format!("kubepods/burstable/pod{uid}/container"));
    std::fs::create_dir_all(&cgroup)?;
    let place: &Place = world.pod(name);
    Ok(Place { cgroup, ..place.clone() })
}

fn serve(place: &Place, port: u16) -> Result<Process> {
    let mut command = place.command(app::find()?);
    let mut process = place.spawn(command.args(["serve", "--port", &port.to_string()]))?;
    process.wait_line("the server listens", |line| line.contains("listening"))?;
    Ok(process)
}

fn service(name: &str, address: &str, more: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: shop}}\n\
         spec: {{clusterIP: {address}, ports: [{{name: http, port: {SERVICE_PORT}}}]{more}}}\n"
    )
}

fn slice(name: &str, port: u16, endpoints: &str) -> String {
    format!(
        "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n\
         metadata: {{name: {name}-x, namespace: shop, labels: {{kubernetes.io/service-name: {name}}}}}\n\
         addressType: IPv4\nports: [{{name: http, port: {port}, protocol: TCP}}]\nendpoints: [{endpoints}]\n"
    )
}

fn endpoint(address: &str, more: &str) -> String {
    format!("{{addresses: [{address}]{more}}}")
}

#[test]
#[cfg_attr(not(feature = "kubernetes"), ignore = "needs Kubernetes' components: cargo xtask test kubernetes")]
fn services_lead_into_the_mesh_and_past_it() -> Result<()> {
    let mut stage = Stage::start()?;
    others_services_pass_without_an_agent(&stage)?;
    a_service_that_is_called_at_once_never_gets_plaintext(&stage)?;
    a_call_that_waits_goes_where_the_news_say(&stage)?;
    a_service_becomes_the_meshs(&stage)?;
    each_port_has_endpoints_of_its_own(&stage)?;
    a_headless_service_needs_nothing(&stage)?;
    who_is_not_ready_is_not_chosen(&stage)?;
    local_means_this_node(&stage)?;
    an_address_outside_leads_into_the_mesh(&stage)?;
    without_an_agent_only_others_services_answer(&mut stage)
}

/// Shows too that the capture sees what is not encrypted.
fn others_services_pass_without_an_agent(stage: &Stage) -> Result<()> {
    let far = stage.world.node("b").address().to_string();
    stage.apply("foreign", "10.96.0.51", "", &endpoint(&far, ""))?;
    // Until it is known whose it is, it is refused.
    wait_until(LIMIT, "a Service outside of the mesh answers", || {
        Ok(stage.call("10.96.0.51:80", "all-may-read-this")?.answer)
    })?;
    ensure!(stage.was_on_the_wire("all-may-read-this")?, "the capture sees nothing");
    let called = stage.call("10.96.0.51:80", "all-may-read-this")?;
    ensure!(called.answer.is_some(), "{called:?}");
    let local = called.local.context("no address")?.to_string();
    let seen = stage.agent.access_lines()?.into_iter().find(|line| line.has(&[("src.addr", &local)]));
    ensure!(seen.is_none(), "the agent carried it: {seen:?}");
    Ok(())
}

fn a_service_that_is_called_at_once_never_gets_plaintext(stage: &Stage) -> Result<()> {
    // kube-proxy has it already, and the API hasn't told us.
    let early = stage.call("10.96.0.52:80", MARKER)?;
    claims::is_refused(&early)?;
    stage.agent.wait_access(&[("dst.addr", "10.96.0.52:80"), ("reason", "unknown_destination")])?;
    // Nobody stands for it yet.
    stage.api.apply(&service("new", "10.96.0.52", ""))?;
    claims::is_refused(&stage.call("10.96.0.52:80", MARKER)?)?;
    stage.api.apply(&slice("new", PORT, &endpoint(&stage.address("one"), "")))?;
    let answered = wait_until(LIMIT, "the new Service answers", || {
        let called = stage.call("10.96.0.52:80", MARKER)?;
        Ok(called.answer.is_some().then_some(called))
    })?;
    claims::answer_is_right(&answered)?;
    stage.call_is_answered_by("10.96.0.52:80", "one")?;
    ensure!(!stage.was_on_the_wire(MARKER)?, "the marker is on the wire");
    Ok(())
}

fn a_call_that_waits_goes_where_the_news_say(stage: &Stage) -> Result<()> {
    let patience = |spec: &str| -> Result<()> {
        let accepted = || stage.agent.metric("mesh_config_accepted_total", &[]);
        let before = accepted()?;
        stage.api.kubectl(&["patch", "meshes.mesh.hauberk.dev", "mesh", "--type=merge", "-p", spec])?;
        wait_until(LIMIT, "the Mesh is in force", || Ok((accepted()? > before + 0.5).then_some(())))
    };
    patience(r#"{"spec":{"timeouts":{"unknownDestination":"60s"}}}"#)?;
    let place = &stage.places[0];
    let mut command = place.command(app::find()?);
    let mut call = place.spawn(command.args(["call", "--say", MARKER, "--to", "10.96.0.58:80"]))?;
    wait_until(LIMIT, "the agent has the call", || Ok(is_diverted(place)?.then_some(())))?;
    stage.apply("awaited", "10.96.0.58", "", &endpoint(&stage.address("one"), ""))?;
    call.wait_exit(LIMIT)?;
    claims::answer_is_right(&serde_json::from_str(&call.stdout()?)?)?;
    patience(r#"{"spec":{"timeouts":null}}"#)
}

/// Whether a process of the pod is connected to the agent.
fn is_diverted(place: &Place) -> Result<bool> {
    let sockets = place.run(place.command("cat").arg("/proc/net/tcp"))?.success()?;
    let is_diverted = |line: &str| {
        let [_, _, remote, state, ..] = line.split_whitespace().collect::<Vec<_>>()[..] else { return false };
        let port = remote.split(':').nth(1).and_then(|port| u16::from_str_radix(port, 16).ok());
        state == "01" && port.is_some_and(is_divert_port)
    };
    Ok(sockets.lines().any(is_diverted))
}

fn a_service_becomes_the_meshs(stage: &Stage) -> Result<()> {
    let far = stage.world.node("b").address().to_string();
    stage.apply("later", "10.96.0.53", "", &endpoint(&far, ""))?;
    wait_until(LIMIT, "it answers from outside", || Ok(stage.call("10.96.0.53:80", "still-outside")?.answer))?;
    stage.apply("later", "10.96.0.53", "", &endpoint(&stage.address("one"), ""))?;
    stage.wait_chosen("10.96.0.53:80", &["one"])?;
    // The kernel is told a moment later.
    let local = |called: &Called| called.local.map(|local| local.to_string()).unwrap_or_default();
    wait_until(LIMIT, "calls are diverted", || {
        let local = local(&stage.call("10.96.0.53:80", "perhaps-outside")?);
        let lines = stage.agent.access_lines()?;
        Ok(lines.iter().any(|line| line.has(&[("src.addr", &local), ("outcome", "ok")])).then_some(()))
    })?;
    stage.call_is_answered_by("10.96.0.53:80", "one")?;
    ensure!(!stage.was_on_the_wire(MARKER)?, "the marker is on the wire");
    Ok(())
}

fn each_port_has_endpoints_of_its_own(stage: &Stage) -> Result<()> {
    let ports = format!("{{name: http, port: {SERVICE_PORT}}}, {{name: admin, port: 81, targetPort: {ADMIN_PORT}}}");
    let service = service("ports", "10.96.0.54", "").replace(&format!("{{name: http, port: {SERVICE_PORT}}}"), &ports);
    let admin = slice("ports", ADMIN_PORT, &endpoint(&stage.address("two"), ""))
        .replace("ports-x", "ports-y")
        .replace("name: http", "name: admin");
    let http = slice("ports", PORT, &endpoint(&stage.address("one"), ""));
    stage.api.apply(&format!("{service}---\n{http}---\n{admin}"))?;
    stage.wait_chosen("10.96.0.54:80", &["one"])?;
    stage.call_is_answered_by("10.96.0.54:80", "one")?;
    stage.call_is_answered_by("10.96.0.54:81", "two")?;
    claims::is_refused(&stage.call("10.96.0.54:82", MARKER)?)
}

fn a_headless_service_needs_nothing(stage: &Stage) -> Result<()> {
    stage.apply("headless", "None", "", &endpoint(&stage.address("two"), ""))?;
    // Its name leads to the pod.
    let to = SocketAddr::new(stage.world.pod("two").address(Family::V4), PORT).to_string();
    stage.call_is_answered_by(&to, "two")
}

fn who_is_not_ready_is_not_chosen(stage: &Stage) -> Result<()> {
    let [one, two] = ["one", "two"].map(|pod| stage.address(pod));
    let set = |conditions: &str| {
        let one = endpoint(&one, &format!(", conditions: {{{conditions}}}"));
        stage.apply("ready", "10.96.0.55", "", &format!("{one}, {}", endpoint(&two, "")))
    };
    set("ready: true")?;
    stage.wait_chosen("10.96.0.55:80", &["one", "two"])?;
    set("ready: false")?;
    stage.wait_chosen("10.96.0.55:80", &["two"])?;
    stage.call_is_answered_by("10.96.0.55:80", "two")?;
    set("ready: true")?;
    stage.wait_chosen("10.96.0.55:80", &["one", "two"])
}

fn local_means_this_node(stage: &Stage) -> Result<()> {
    let [one, two] = ["one", "two"].map(|pod| stage.address(pod));
    let far = endpoint(&two, ", nodeName: b");
    let set = |near: &str| {
        let near = endpoint(&one, &format!(", nodeName: a{near}"));
        stage.apply("local", "10.96.0.56", ", internalTrafficPolicy: Local", &format!("{near}, {far}"))
    };
    set("")?;
    stage.wait_chosen("10.96.0.56:80", &["one"])?;
    stage.call_is_answered_by("10.96.0.56:80", "one")?;
    // Its last endpoint here serves until it goes, whoever is ready elsewhere.
    set(", conditions: {ready: false, serving: false, terminating: true}")?;
    wait_until(LIMIT, "nobody is left", || Ok(stage.chosen("10.96.0.56:80")?.is_empty().then_some(())))?;
    claims::is_refused(&stage.call("10.96.0.56:80", MARKER)?)?;
    set(", conditions: {ready: false, serving: true, terminating: true}")?;
    stage.wait_chosen("10.96.0.56:80", &["one"])?;
    stage.call_is_answered_by("10.96.0.56:80", "one")
}

fn an_address_outside_leads_into_the_mesh(stage: &Stage) -> Result<()> {
    let more = ", externalIPs: [192.0.2.50], externalTrafficPolicy: Local, type: NodePort";
    stage.apply("outside", "10.96.0.57", more, &endpoint(&stage.address("one"), ", nodeName: b"))?;
    stage.wait_chosen("192.0.2.50:80", &["one"])?;
    stage.call_is_answered_by("192.0.2.50:80", "one")
}

fn without_an_agent_only_others_services_answer(stage: &mut Stage) -> Result<()> {
    stage.agent.kill9()?;
    let called = stage.call("10.96.0.51:80", "all-may-read-this")?;
    ensure!(called.answer.is_some(), "{called:?}");
    claims::is_refused(&stage.call("10.96.0.52:80", MARKER)?)?;
    claims::is_refused(&stage.call("10.96.0.99:80", MARKER)?)?;
    ensure!(!stage.was_on_the_wire(MARKER)?, "the marker is on the wire");
    Ok(())
}
