//! What becomes of traffic while parts of the cluster or of the mesh are away.

use std::net::SocketAddr;
use std::time::{Duration, Instant, UNIX_EPOCH};

use anyhow::{Context as _, Result, ensure};
use mesh_tests::cluster::{Meshed, Node, Pod};
use mesh_tests::wait::wait_until;
use rustix::process::Pid;

use crate::callers::{Caller, Held};
use crate::leftovers::the_mesh_asked_for_nothing_that_it_may_not;
use crate::{DENY_CLIENT, PATIENCE, POLICIES, PORT, SECRET, SYSTEM, service};

/// How long the API server is away.
const OUTAGE: Duration = Duration::from_secs(30);
/// The kind of a connection's first TLS record.
const TLS_HANDSHAKE: u8 = 22;
/// Connections that are held through each node's agents.
const HELD: usize = 10;

fn web_of(server: &Pod) -> SocketAddr {
    SocketAddr::new(server.address, PORT)
}

/// What a rolling update of the DaemonSet costs, counted: until agents hand over, connections fail while one is away.
#[expect(clippy::print_stdout, reason = "what it measured is worth reading")]
pub(crate) fn a_rolling_update_is_short(meshed: &Meshed) -> Result<()> {
    let [client, other_client] = [meshed.pod_on("client", "node-1")?, meshed.pod_on("client", "node-2")?];
    let [server, other_server] = [meshed.pod_on("web", "node-2")?, meshed.pod_on("web", "node-1")?];
    let caller = Caller::start(meshed, "update", &client, web_of(&server))?;
    // Each agent carries ends of both kinds.
    let held = [Held::start(meshed, &client, &server, HELD)?, Held::start(meshed, &other_client, &other_server, HELD)?];
    let rollout = |words: &[&str]| meshed.kubectl.run(&[&[SYSTEM, "rollout"], words].concat());
    rollout(&["restart", "daemonset/hauberk-agent"])?;
    rollout(&["status", "daemonset/hauberk-agent", "--timeout=120s"])?;
    let (before, _) = caller.counts()?;
    caller.wait(|answers, _| answers > before + 5)?;
    let (mut live, mut lost) = (0, 0);
    for held in held {
        let (count, ended) = held.lost()?;
        (live, lost) = (live + count, lost + ended);
        held.end()?;
    }
    let (answers, refused) = caller.stop()?;
    println!("rolling update of both agents: {refused} new connections refused beside {answers} answered");
    println!("rolling update of both agents: {lost} of {live} live connections lost");
    meshed.wait_served()
}

pub(crate) fn nothing_changes_without_an_api_server(meshed: &Meshed) -> Result<()> {
    let (client, server) = (meshed.pod_on("client", "node-1")?, meshed.pod_on("web", "node-2")?);
    let callers = [
        Caller::start(meshed, "pod", &client, web_of(&server))?,
        Caller::start(meshed, "service", &client, service(meshed)?)?,
    ];
    let held = Held::start(meshed, &client, &server, HELD)?;
    the_mesh_asked_for_nothing_that_it_may_not(meshed)?;
    meshed.cluster.stop_apiserver()?;
    let outage = Instant::now();
    wait_until(Duration::from_secs(60), "half a minute passes", || Ok((outage.elapsed() >= OUTAGE).then_some(())))?;
    // How old the state is that stands, an agent says.
    let mut scrape = meshed.cluster.nodes()[0].command("busybox")?;
    let scraped = scrape.args(["wget", "-qO-", "http://127.0.0.1:15090/metrics"]).output().context("start wget")?;
    let metrics = String::from_utf8_lossy(&scraped.stdout).into_owned();
    let contact = metrics.lines().find_map(|line| line.strip_prefix("mesh_kubernetes_contact_timestamp_seconds "));
    let contact = UNIX_EPOCH + Duration::from_secs_f64(contact.context("no contact")?.parse()?);
    ensure!(contact.elapsed()? > OUTAGE - Duration::from_secs(11), "the API server answered {contact:?}");
    meshed.cluster.start_apiserver()?;
    meshed.cluster.forget_audit_log()?;
    for caller in callers {
        let (answers, lost) = caller.stop()?;
        assert!(answers > 50 && lost == 0, "{answers} answers, {lost} lost");
    }
    assert_eq!(held.lost()?, (HELD, 0));
    held.end()?;
    everything_catches_up(meshed, &client, &server)
}

/// A policy, a pod that comes, and one that goes.
fn everything_catches_up(meshed: &Meshed, client: &Pod, server: &Pod) -> Result<()> {
    let is_served = || Ok::<_, anyhow::Error>(meshed.fetch("shop", &client.name, web_of(server))?.status.success());
    let names = || {
        let path = "--output=jsonpath={.items[*].metadata.name}";
        let names = meshed.kubectl.run(&["--namespace=shop", "get", "pods", "--selector=app=web", path])?;
        Ok::<_, anyhow::Error>(names.split(' ').map(str::to_owned).collect::<Vec<_>>())
    };
    let scale = |replicas| meshed.kubectl.run(&["--namespace=shop", "scale", "deployment/web", replicas]);
    // Both at once: whoever has lost the API server takes up to half a minute to ask again.
    meshed.kubectl.apply(DENY_CLIENT)?;
    scale("--replicas=3")?;
    wait_until(PATIENCE, "a policy takes effect", || Ok((!is_served()?).then_some(())))?;
    meshed.kubectl.run(&["--namespace=shop", "delete", POLICIES, "nobody"])?;
    wait_until(PATIENCE, "the client is let in again", || Ok(is_served()?.then_some(())))?;
    meshed.kubectl.run(&["--namespace=shop", "rollout", "status", "deployment/web", "--timeout=120s"])?;
    meshed.wait_served()?;
    let all = names()?;
    ensure!(all.len() == 3, "{all:?}");
    scale("--replicas=2")?;
    wait_until(PATIENCE, "no agent has a pod that is gone", || {
        let left = names()?;
        let agents = [meshed.agent_on("node-1")?, meshed.agent_on("node-2")?];
        let told = agents.iter().map(|agent| meshed.agent(agent, &["workloads"])).collect::<Result<String>>()?;
        let mut gone = all.iter().filter(|name| !left.contains(name));
        Ok((left.len() == 2 && gone.all(|name| !told.contains(name.as_str()))).then_some(()))
    })
}

#[expect(clippy::print_stdout, reason = "what it measured is worth reading")]
pub(crate) fn a_killed_agent_leaves_its_pods_closed_and_comes_back(meshed: &Meshed) -> Result<()> {
    let (client, server) = (meshed.pod_on("client", "node-1")?, meshed.pod_on("web", "node-2")?);
    let capture = meshed.capture()?;
    for (whose, node) in [("client", 0), ("server", 1)] {
        let caller = Caller::start(meshed, whose, &client, web_of(&server))?;
        let agent = Pid::from_raw(agent_process(&meshed.cluster.nodes()[node])?.try_into()?).context("no process")?;
        rustix::process::kill_process(agent, rustix::process::Signal::KILL).context("kill the agent")?;
        wait_until(PATIENCE, "calls fail, and the agent comes back", || {
            let (answers, lost) = caller.counts()?;
            // A stranger never gets through, whoever is alive.
            let stranger = meshed.fetch("elsewhere", "stranger", web_of(&server))?;
            assert!(!stranger.status.success(), "{stranger:?}");
            let is_back = meshed.fetch("shop", &client.name, web_of(&server))?.status.success();
            Ok((answers > 0 && lost > 0 && is_back).then_some(()))
        })?;
        let (answers, refused) = caller.stop()?;
        println!("the {whose}'s agent was killed: {refused} calls refused until it was back, {answers} answered");
        meshed.wait_served()?;
    }
    let trace = capture.trace()?;
    assert!(!trace.contains(SECRET), "plaintext on the wire");
    // A handshake may have been cut off, or not begun; the stranger's own connections are plain.
    let flows = trace.flows_to(web_of(&server)).into_iter().filter(|flow| flow.client.ip() == client.address);
    let sent: Vec<_> = flows.map(|flow| flow.sent.bytes()).collect();
    ensure!(
        sent.iter().filter(|bytes| bytes.first() == Some(&TLS_HANDSHAKE)).count() > 10,
        "{} connections",
        sent.len()
    );
    let plain = sent.iter().find(|bytes| bytes.first().is_some_and(|first| *first != TLS_HANDSHAKE));
    ensure!(plain.is_none(), "{}", String::from_utf8_lossy(plain.map_or(&[], Vec::as_slice)));
    Ok(())
}

/// The process of a node's agent. The signing service is the same program by another command.
pub(crate) fn agent_process(node: &Node) -> Result<u32> {
    let is_agent = |pid: &u32| {
        let words = std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let mut words = words.split('\0');
        words.next().is_some_and(|program| program.ends_with("mesh-agent")) && words.next() == Some("run")
    };
    match node.pod_processes()?.into_iter().filter(is_agent).collect::<Vec<_>>()[..] {
        [agent] => Ok(agent),
        ref agents => anyhow::bail!("agents on {}: {agents:?}", node.name()),
    }
}
