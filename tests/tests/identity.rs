//! The life of identities while traffic flows: rotation, an outage of the issuer, a new root. No connection notices.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use mesh_tests::app::Attempt;
use mesh_tests::claims;
use mesh_tests::issuer::IssuerKind;
use mesh_tests::mesh::{Mesh, Mode, agent_bin};
use mesh_tests::process::{Process, whole_lines};
use mesh_tests::script::Script;
use mesh_tests::stage::{self, MARKER, PORT};
use mesh_tests::wait::wait_until;
use mesh_tests::world::{Family, Server, World};

/// Half of a lifetime passes between two rotations.
const SHORT: &str = "svidLifetime: 10s, allowShortLifetimes: true, refresh: 300ms";
const MINUTE: &str = "svidLifetime: 60s, refresh: 300ms";
/// Longer than anything here takes on a busy machine.
const LIMIT: Duration = Duration::from_secs(180);
const NODES: [&str; 2] = ["a", "b"];

/// A mesh with short-lived SVIDs, one connection that lives throughout, and new ones all the time.
struct Traffic {
    storm: Process,
    long: Script,
    _server: Server,
    mesh: Mesh,
    world: World,
}

impl Traffic {
    fn start(issuer: IssuerKind, svids: &str) -> Result<Self> {
        let world = stage::world()?;
        let server = world.pod("server").serve(PORT)?;
        let mesh = Mesh::setup(&world, &agent_bin()?, Mode::Strict).issuer(issuer).svids(svids).start()?;
        let to = world.address("server", Family::V4, PORT);
        let client = world.pod("client");
        claims::answer_is_right(&client.call(to, MARKER)?)?;
        // About a second each.
        let long = client.act(to, &["chat:20"; 600])?;
        let mut storm = client.app("storm")?;
        storm.args(["--to", &to.to_string(), "--say", MARKER, "--threads", "2"]);
        let storm = client.spawn(&mut storm)?;
        let traffic = Self { storm, long, _server: server, mesh, world };
        traffic.flows()?;
        Ok(traffic)
    }

    fn attempts(&self) -> Result<Vec<bool>> {
        let text = self.storm.stdout()?;
        whole_lines(&text).map(|line| Ok(serde_json::from_str::<Attempt>(line)?.answered)).collect()
    }

    /// Waits for more of both, and finds that nothing was ever lost.
    fn flows(&self) -> Result<()> {
        let (attempts, chats) = (self.attempts()?.len(), self.long.reports()?.len());
        wait_until(LIMIT, "traffic flows", || {
            let more = self.attempts()?.len() > attempts + 20 && self.long.reports()?.len() > chats + 1;
            Ok(more.then_some(()))
        })?;
        let lost = self.attempts()?.iter().filter(|answered| !**answered).count();
        let logs = NODES.map(|node| std::fs::read_to_string(self.mesh.agent(node).log()).unwrap_or_default());
        let failed: Vec<_> = logs.iter().flat_map(|log| log.lines()).filter(|line| !line.contains("\"ok\"")).collect();
        ensure!(lost == 0, "{lost} of {} were lost\n{}", self.attempts()?.len(), failed.join("\n"));
        let ended: Vec<_> = self.long.reports()?.into_iter().filter(|acted| acted.end.is_some()).collect();
        ensure!(ended.is_empty(), "the long connection ended: {ended:?}");
        Ok(())
    }

    fn metric(&self, node: &str, name: &str) -> Result<f64> {
        self.mesh.agent(node).metric(name, &[])
    }

    fn wait_metric(&self, name: &str, wanted: impl Fn(f64) -> bool) -> Result<()> {
        for node in NODES {
            wait_until(
                LIMIT,
                &format!("{name} of node {node}"),
                || Ok(wanted(self.metric(node, name)?).then_some(())),
            )?;
        }
        Ok(())
    }

    /// Waits until each agent has got `rotations` SVIDs more for each of its workloads.
    fn rotate(&self, rotations: f64) -> Result<()> {
        for (node, workloads) in [("a", 1.0), ("b", 3.0)] {
            let before = self.metric(node, "mesh_svids_issued_total")?;
            let wanted = before + rotations * workloads;
            wait_until(LIMIT, &format!("rotations of node {node}"), || {
                Ok((self.metric(node, "mesh_svids_issued_total")? >= wanted).then_some(()))
            })?;
        }
        self.flows()
    }

    /// Replaces the root, step by step, each when all have taken the one before.
    fn replace_root(&self) -> Result<()> {
        self.mesh.authority().rotate("prepare")?;
        self.wait_metric("mesh_trust_roots", |roots| roots > 1.5)?;
        self.flows()?;
        self.mesh.authority().rotate("activate")?;
        // All SVIDs are of the new root once all were issued anew.
        self.rotate(2.0)?;
        self.mesh.authority().rotate("retire")?;
        self.wait_metric("mesh_trust_roots", |roots| roots < 1.5)?;
        self.rotate(2.0)
    }

    /// Only what has an SVID of the newest root is served.
    fn newest_root_serves(&self) -> Result<()> {
        let to = self.world.address("server", Family::V6, PORT);
        claims::answer_is_right(&self.world.pod("client").call(to, MARKER)?)
    }
}

#[test]
#[cfg_attr(not(feature = "native"), ignore = "needs root: cargo xtask test native")]
fn ten_rotations_lose_no_connection_and_no_request() -> Result<()> {
    Traffic::start(IssuerKind::Embedded, SHORT)?.rotate(10.0)
}

#[test]
#[cfg_attr(not(feature = "soak"), ignore = "takes minutes: cargo xtask test soak")]
fn a_root_is_replaced_under_traffic_with_embedded_issuers() -> Result<()> {
    let traffic = Traffic::start(IssuerKind::Embedded, SHORT)?;
    traffic.replace_root()?;
    traffic.newest_root_serves()
}

#[test]
#[cfg_attr(not(feature = "soak"), ignore = "takes minutes: cargo xtask test soak")]
fn a_root_is_replaced_under_traffic_with_a_signing_service() -> Result<()> {
    let traffic = Traffic::start(IssuerKind::Remote, SHORT)?;
    traffic.replace_root()?;
    traffic.newest_root_serves()
}

#[test]
#[cfg_attr(not(feature = "soak"), ignore = "takes minutes: cargo xtask test soak")]
fn an_outage_of_the_issuer_shows_at_once_and_traffic_does_not_notice() -> Result<()> {
    let mut traffic = Traffic::start(IssuerKind::Remote, MINUTE)?;
    traffic.wait_metric("mesh_issuer_up", |up| up > 0.5)?;
    // A rotation just now leaves the most time: the next is due in 24 s or more, and nothing expires in 54 s.
    traffic.rotate(1.0)?;
    let began = Instant::now();
    traffic.mesh.authority_mut().stop()?;
    traffic.wait_metric("mesh_issuer_up", |up| up < 0.5)?;
    ensure!(began.elapsed() < Duration::from_secs(10), "it took {:?} to show", began.elapsed());
    traffic.wait_metric("mesh_svid_failures_total", |failures| failures > 0.5)?;
    let outage = began.elapsed();
    ensure!((20..50).contains(&outage.as_secs()), "an outage of {outage:?} shows nothing");
    traffic.flows()?;
    traffic.mesh.authority_mut().start()?;
    traffic.wait_metric("mesh_issuer_up", |up| up > 0.5)?;
    traffic.rotate(2.0)
}
