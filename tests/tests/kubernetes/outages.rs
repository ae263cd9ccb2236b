//! What becomes of traffic while parts of the cluster or of the mesh are away.

use std::net::SocketAddr;
use std::time::{Duration, Instant, UNIX_EPOCH};

use anyhow::{Context as _, Result, ensure};
use mesh_tests::cluster::{Meshed, logs};
use mesh_tests::wait::wait_until;
use rustix::process::Pid;

use crate::{PATIENCE, PORT, SECRET};

/// How long the API server is away.
const OUTAGE: Duration = Duration::from_secs(30);

/// Calls the server again and again, by itself: to get into a pod takes the API server.
struct Caller<'m> {
    meshed: &'m Meshed,
    client: String,
}

impl<'m> Caller<'m> {
    fn start(meshed: &'m Meshed, client: &str, server: SocketAddr) -> Result<Self> {
        let ask = format!("wget -qO- http://{server}/page > /dev/null && echo >> /tmp/answers || echo >> /tmp/lost");
        let begin = format!(
            "rm -f /tmp/answers /tmp/lost /tmp/end; (while [ ! -e /tmp/end ]; do {ask}; sleep 0.1; done) > /dev/null 2>&1 &"
        );
        let caller = Self { meshed, client: client.to_owned() };
        caller.sh(&begin)?;
        Ok(caller)
    }

    fn sh(&self, command: &str) -> Result<String> {
        self.meshed.kubectl.run(&["--namespace=shop", "exec", &self.client, "--", "sh", "-c", command])
    }

    /// How many calls were answered, and how many weren't.
    fn counts(&self) -> Result<(usize, usize)> {
        let count =
            |file: &str| Ok::<_, anyhow::Error>(self.sh(&format!("cat {file} 2>/dev/null | wc -l"))?.trim().parse()?);
        Ok((count("/tmp/answers")?, count("/tmp/lost")?))
    }

    fn stop(self) -> Result<(usize, usize)> {
        self.sh("touch /tmp/end")?;
        self.counts()
    }
}

/// Pods that connect as their first act, across the wire. `MESH_FIRST_CONNECTIONS` says how many.
pub(crate) fn the_first_connection_of_every_pod_is_diverted(meshed: &Meshed) -> Result<()> {
    let pods: usize = std::env::var("MESH_FIRST_CONNECTIONS").ok().map_or(Ok(30), |count| count.parse())?;
    let server = meshed.pod_on("web", "node-2")?;
    let destination = SocketAddr::new(server.address, PORT);
    let capture = meshed.capture()?;
    meshed.kubectl.apply(&format!(
        "apiVersion: batch/v1\nkind: Job\nmetadata: {{name: first, namespace: shop}}\nspec:\n  completions: {pods}\n  \
         parallelism: 5\n  backoffLimit: 0\n  template:\n    spec:\n      serviceAccountName: client\n      restartPolicy: Never\n      \
         nodeSelector: {{kubernetes.io/hostname: node-1}}\n      terminationGracePeriodSeconds: 0\n      containers:\n      \
         - {{name: first, image: 'localhost/box:1', imagePullPolicy: Never, command: [wget, -qO-, 'http://{destination}/page']}}\n"
    ))?;
    let limit = format!("--timeout={}s", 60 + 5 * pods);
    let wait = ["--namespace=shop", "wait", "job/first", "--for=condition=Complete", &limit];
    meshed.kubectl.run(&wait).with_context(|| logs(&meshed.kubectl))?;
    let trace = capture.trace()?;
    trace.all_tls13(destination)?;
    assert!(!trace.contains(SECRET), "plaintext on the wire");
    let flows = trace.flows_to(destination).len();
    assert!(flows >= pods, "{flows} connections of {pods} pods");
    meshed.kubectl.run(&["--namespace=shop", "delete", "job", "first"]).map(drop)
}

/// What a rolling update of the DaemonSet costs, counted: until agents hand over, connections fail while one is away.
#[expect(clippy::print_stdout, reason = "what it measured is worth reading")]
pub(crate) fn a_rolling_update_is_short(meshed: &Meshed) -> Result<()> {
    let (client, server) = (meshed.pod_on("client", "node-1")?, meshed.pod_on("web", "node-2")?);
    let caller = Caller::start(meshed, &client.name, SocketAddr::new(server.address, PORT))?;
    let agents = ["--namespace=hauberk-system", "rollout"];
    meshed.kubectl.run(&[&agents[..], &["restart", "daemonset/hauberk-agent"]].concat())?;
    meshed.kubectl.run(&[&agents[..], &["status", "daemonset/hauberk-agent", "--timeout=120s"]].concat())?;
    let (before, _) = caller.counts()?;
    wait_until(PATIENCE, "calls are answered again", || Ok((caller.counts()?.0 > before + 5).then_some(())))?;
    let (answers, lost) = caller.stop()?;
    println!("rolling update of both agents: {answers} calls answered, {lost} refused");
    meshed.wait_served()
}

pub(crate) fn nothing_changes_without_an_api_server(meshed: &Meshed) -> Result<()> {
    let (client, server) = (meshed.pod_on("client", "node-1")?, meshed.pod_on("web", "node-2")?);
    let caller = Caller::start(meshed, &client.name, SocketAddr::new(server.address, PORT))?;
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
    wait_until(PATIENCE, "the API server is back", || Ok(meshed.kubectl.is_ready()?.then_some(())))?;
    let (answers, lost) = caller.stop()?;
    assert!(answers > 50 && lost == 0, "{answers} answers, {lost} lost");
    // Everything catches up: what is new now is served.
    for replicas in ["--replicas=3", "--replicas=2"] {
        meshed.kubectl.run(&["--namespace=shop", "scale", "deployment/web", replicas])?;
        meshed.kubectl.run(&["--namespace=shop", "rollout", "status", "deployment/web", "--timeout=120s"])?;
        meshed.wait_served()?;
    }
    Ok(())
}

#[expect(clippy::print_stdout, reason = "what it measured is worth reading")]
pub(crate) fn a_killed_agent_leaves_its_pods_closed_and_comes_back(meshed: &Meshed) -> Result<()> {
    let (client, server) = (meshed.pod_on("client", "node-1")?, meshed.pod_on("web", "node-2")?);
    let destination = SocketAddr::new(server.address, PORT);
    let agents = meshed.cluster.nodes()[1].pod_processes()?.into_iter().filter(|pid| is_agent(*pid));
    let agents: Vec<_> = agents.filter_map(|pid| Pid::from_raw(pid.try_into().ok()?)).collect();
    ensure!(agents.len() == 1, "agents on the node: {agents:?}");
    rustix::process::kill_process(agents[0], rustix::process::Signal::KILL).context("kill the agent")?;
    let (mut refused, mut answered) = (0, 0);
    wait_until(PATIENCE, "the agent is back", || {
        let answer = meshed.fetch("shop", &client.name, destination)?;
        if answer.status.success() {
            answered += 1
        } else {
            refused += 1
        }
        // A stranger never gets through, whoever is alive.
        let stranger = meshed.fetch("elsewhere", "stranger", destination)?;
        assert!(!stranger.status.success(), "{stranger:?}");
        Ok((answered >= 3).then_some(()))
    })?;
    println!("killed agent: {refused} calls refused until it was back");
    meshed.wait_served()
}

/// The signing service is the same program by another command.
fn is_agent(pid: u32) -> bool {
    let words = std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let mut words = words.split('\0');
    words.next().is_some_and(|program| program.ends_with("mesh-agent")) && words.next() == Some("run")
}
