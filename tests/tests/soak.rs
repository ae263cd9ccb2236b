//! The soak: for half an hour all kinds of connections at once, agents that die and stop, a configuration that changes.
//!
//! Two acts. In the first one agent after the other is killed or stopped, and comes back with a workload more or less;
//! what doesn't pass through it must not notice. In the second nothing happens to them for most of the time: a leak of
//! a process shows only in one that lives. After each, all that the mesh holds is as it was before the first connection.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use mesh_tests::app::Outcome;
use mesh_tests::capture::{Capture, Trace};
use mesh_tests::census::Census;
use mesh_tests::mesh::{Mesh, Mode, agent_bin};
use mesh_tests::process::Process;
use mesh_tests::stage::{MARKER, PORT};
use mesh_tests::traffic::{Jobs, Totals, Traffic};
use mesh_tests::wait::wait_until;
use mesh_tests::world::{Exclusions, Family, PodSpec, World};

/// How long the soak lasts, in minutes.
const LENGTH_ENV: &str = "MESH_SOAK_MINUTES";
const DEFAULT_MINUTES: u64 = 30;

/// The first act's part of the time, in percent; and the second's until its memory counts as warm.
const FIRST_ACT: u32 = 40;
const WARM_UP: u32 = 50;

/// What an agent may be larger at the end than when it was warm: the allocator's grain, and not one connection's leak
/// a second.
const GROWTH_BYTES: u64 = 4 << 20;

/// The longest that traffic may take to do its part, or to be gone.
const PATIENCE: Duration = Duration::from_secs(120);

/// So long nothing may change before it counts as the beginning: the agent's idle threads end after 10 s.
const STEADY: Duration = Duration::from_secs(12);

/// A port that the mesh leaves alone, and one where nobody listens.
const DIRECT: u16 = 7100;
const NOBODY: u16 = 7999;

const ALL_KINDS: &[&str] = &["exchange", "half-close", "idle", "long", "requests", "reset", "short"];

const JOBS: [Jobs; 8] = [
    Jobs { label: "across", from: "client", to: "server", port: PORT, kinds: ALL_KINDS },
    Jobs { label: "back", from: "neighbour", to: "mirror", port: PORT, kinds: ALL_KINDS },
    Jobs { label: "local", from: "neighbour", to: "server", port: PORT, kinds: &["long", "short"] },
    Jobs { label: "direct", from: "client", to: "server", port: DIRECT, kinds: &["exchange", "long"] },
    Jobs { label: "guest", from: "client", to: "guest", port: PORT, kinds: &["short"] },
    Jobs { label: "nobody", from: "client", to: "server", port: NOBODY, kinds: &["nobody"] },
    Jobs { label: "outsider", from: "outsider", to: "server", port: PORT, kinds: &["cut-tls", "garbage"] },
    Jobs { label: "other", from: "client", to: "mirror", port: PORT, kinds: &["short"] },
];

#[test]
#[cfg_attr(not(feature = "soak"), ignore = "takes half an hour: cargo xtask test soak")]
fn half_an_hour_of_everything_ends_where_it_began() -> Result<()> {
    let length = length()?;
    let world = World::builder()
        .node("a")
        .pod(
            PodSpec::workload("client").excluding(Exclusions { outbound_ports: vec![DIRECT], ..Exclusions::default() }),
        )
        .pod(PodSpec::workload("mirror"))
        .pod(PodSpec::outsider("outsider"))
        .node("b")
        .pod(PodSpec::workload("server").excluding(Exclusions { inbound_ports: vec![DIRECT], ..Exclusions::default() }))
        .pod(PodSpec::workload("neighbour"))
        .pod(PodSpec::workload("guest"))
        .build()?;
    let served = [("server", PORT), ("server", DIRECT), ("mirror", PORT), ("guest", PORT)];
    let servers: Vec<Process> =
        served.iter().map(|(pod, port)| world.pod(pod).serve_mix(*port)).collect::<Result<_>>()?;
    let setup = Mesh::setup(&world, &agent_bin()?, Mode::Strict).drain_seconds(3);
    // A machine that does other things too may stand still for seconds: that must not look like a fault of the mesh.
    let mesh = setup.timeouts("handshake: 10s, connect: 10s, unknownDestination: 200ms").start()?;
    let mut soak =
        Soak { fresh: Census::default(), mesh, world, guest: [true; 2], restarts: 0, windows: 0, acts: Vec::new() };
    soak.fresh = soak.steady()?;

    let began = Instant::now();
    soak.first_act(began + length * FIRST_ACT / 100)?;
    let after_restarts = soak.settle()?;
    soak.second_act(began + length * WARM_UP / 100)?;
    let warm = soak.settle()?;
    soak.second_act(began + length)?;
    let end = soak.settle()?;

    let counts = [("fresh", &soak.fresh), ("after restarts", &after_restarts), ("warm", &warm), ("end", &end)];
    for (name, census) in counts {
        println!("{name}: resident {:?}, evicting {:?}", census.resident, census.evicting);
    }
    println!("restarts, warm-up, rest: {:#?}", soak.acts);
    println!("{} restarts, {} windows of the wire; at the end {:?}", soak.restarts, soak.windows, end.exact);
    for (node, resident) in &end.resident {
        let before = warm.resident.get(node).copied().unwrap_or_default();
        ensure!(*resident <= before + GROWTH_BYTES, "the agent of node {node} grew from {before} to {resident} bytes");
    }
    drop(servers);
    Ok(())
}

fn length() -> Result<Duration> {
    let minutes = match std::env::var(LENGTH_ENV) {
        Ok(text) => text.parse().with_context(|| format!("{LENGTH_ENV}={text} is no number of minutes"))?,
        Err(_unset) => DEFAULT_MINUTES,
    };
    Ok(Duration::from_secs(60 * minutes))
}

struct Soak {
    fresh: Census,
    mesh: Mesh,
    world: World,
    /// Whether the agents of the nodes `a` and `b` know of the pod `guest`.
    guest: [bool; 2],
    restarts: usize,
    windows: usize,
    /// What came of each act's connections.
    acts: Vec<BTreeMap<String, u64>>,
}

impl Soak {
    /// Restarts until `end`, and on until every combination has been and the configuration is what it was.
    fn first_act(&mut self, end: Instant) -> Result<()> {
        let mut traffic = Traffic::start(&self.world, &JOBS)?;
        self.calm(&mut traffic)?;
        while Instant::now() < end || !self.restarts.is_multiple_of(8) {
            self.restart(&mut traffic)?;
            self.calm(&mut traffic)?;
        }
        self.acts.push(traffic.totals()?.summed());
        Ok(())
    }

    fn second_act(&mut self, end: Instant) -> Result<()> {
        let mut traffic = Traffic::start(&self.world, &JOBS)?;
        self.calm(&mut traffic)?;
        while Instant::now() < end {
            self.calm(&mut traffic)?;
        }
        self.acts.push(traffic.totals()?.summed());
        Ok(())
    }

    /// While all agents run, everything succeeds that should, and nothing else does.
    fn calm(&mut self, traffic: &mut Traffic) -> Result<()> {
        // What the last restart has broken is told by its next outcome; a long connection that lives tells of its pieces.
        let ready = traffic.totals()?;
        let before = traffic.wait_outcomes(PATIENCE, &ready, 2, |_| true)?;
        let capture = self.world.capture()?;
        let after = traffic.wait_outcomes(PATIENCE, &before, 200, |label| label.starts_with("across.short"))?;
        let after = traffic.wait_outcomes(PATIENCE, &after, 2, |_| true)?;
        self.check_wire(&capture)?;
        let seen = after.since(&before);
        seen.only(|label| !label.starts_with("guest"), &[Outcome::Ok, Outcome::Piece])?;
        match self.guest {
            [true, true] => seen.only(|label| label.starts_with("guest"), &[Outcome::Ok]),
            [_, _] => seen.only(|label| label.starts_with("guest"), &[Outcome::Refused, Outcome::Reset]),
        }?;
        self.mesh.agents().iter().try_for_each(mesh_tests::agent::Agent::forget_log)
    }

    /// Ends the next agent in one of two ways, and starts it again with `guest` in its configuration or without.
    fn restart(&mut self, traffic: &mut Traffic) -> Result<()> {
        let index = self.restarts % 2;
        let (node, pair) = (["a", "b"][index], self.restarts / 2 % 4);
        let before = traffic.totals()?;
        let capture = self.world.capture()?;
        self.guest[index] = pair % 2 == 1;
        self.mesh.set_configured(node, "guest", self.guest[index])?;
        let agent = self.mesh.agent_mut(node);
        // Killed and configured must not always go together.
        if pair == 0 || pair == 3 {
            agent.kill9()?;
        } else {
            ensure!(agent.terminate()?.success(), "SIGTERM is an orderly end");
        }
        // Something has met the closed node before it opens again.
        let failed = |totals: &Totals| {
            let outcomes = [Outcome::Refused, Outcome::Reset];
            outcomes.map(|outcome| totals.of("across.short", outcome)).iter().sum::<u64>()
        };
        wait_until(PATIENCE, "connections fail while the agent is dead", || {
            Ok((failed(&traffic.totals()?) > failed(&before)).then_some(()))
        })?;
        agent.restart()?;
        let ready = traffic.totals()?;
        let after = traffic.wait_outcomes(PATIENCE, &ready, 2, |_| true)?;
        self.restarts += 1;
        self.check_wire(&capture)?;
        Self::check_restart(&after.since(&before), node)
    }

    /// Who passes through the agent is reset or refused, never cut, changed or left hanging; who doesn't, notices nothing.
    fn check_restart(seen: &Totals, node: &str) -> Result<()> {
        let expected = [Outcome::Ok, Outcome::Piece, Outcome::Broken, Outcome::Refused, Outcome::Reset];
        seen.only(|_| true, &expected)?;
        seen.only(|label| label.starts_with("direct"), &[Outcome::Ok, Outcome::Piece])?;
        if node == "a" {
            seen.only(|label| label.starts_with("local"), &[Outcome::Ok, Outcome::Piece])?;
        }
        let broken: BTreeMap<_, _> =
            ["across", "back", "local"].map(|label| (label, seen.of(&format!("{label}.long"), Outcome::Broken))).into();
        // Each had one connection an IP version.
        let wanted = BTreeMap::from([("across", 2), ("back", 2), ("local", if node == "a" { 0 } else { 2 })]);
        ensure!(broken == wanted, "node {node}: long connections that broke: {broken:?}");
        Ok(())
    }

    /// Nothing that a pod of the mesh said is readable on the wire.
    fn check_wire(&mut self, capture: &Capture) -> Result<()> {
        let trace = capture.trace()?;
        ensure!(!trace.contains(MARKER), "the marker is on the wire");
        for (pod, from) in [("server", "client"), ("mirror", "neighbour"), ("guest", "client")] {
            for family in Family::BOTH {
                self.check_flows(&trace, pod, from, family)?;
            }
        }
        self.windows += 1;
        Ok(())
    }

    fn check_flows(&self, trace: &Trace, pod: &str, from: &str, family: Family) -> Result<()> {
        let client = self.world.pod(from).address(family);
        let flows = trace.flows_to(self.world.address(pod, family, PORT));
        let mut whole = 0;
        for flow in flows.iter().filter(|flow| flow.client.ip() == client) {
            // What a restart cut off may have no records; what is there must be TLS.
            let (sent, received) = (flow.sent.bytes(), flow.received.bytes());
            ensure!(sent.is_empty() || sent.starts_with(&[22, 3]), "a direct connection: {sent:02x?}");
            let tls = received.is_empty() || received.starts_with(&[22, 3]) || received.starts_with(&[21, 3]);
            ensure!(tls, "plaintext came back: {received:02x?}");
            whole += usize::from(flow.tls13().is_ok());
        }
        ensure!(whole > 0 || pod == "guest", "the capture saw no whole connection to {pod} among {}", flows.len());
        Ok(())
    }

    fn census(&self) -> Result<Census> {
        Census::take(&self.world, &self.mesh)
    }

    /// Before the first connection: waits until what the start needed for a while is gone.
    fn steady(&self) -> Result<Census> {
        let (mut last, mut since) = (self.census()?, Instant::now());
        wait_until(PATIENCE, "nothing changes any more", || {
            let census = self.census()?;
            if !census.changes(&last).is_empty() {
                (last, since) = (census, Instant::now());
            }
            Ok((since.elapsed() > STEADY).then(|| last.clone()))
        })
    }

    /// Without traffic: waits until all that is counted is what it was before the first connection.
    fn settle(&self) -> Result<Census> {
        let mut changes = Vec::new();
        let settled = wait_until(PATIENCE, "everything is where it began", || {
            let census = self.census()?;
            changes = census.changes(&self.fresh);
            Ok(changes.is_empty().then_some(census))
        });
        settled.with_context(|| format!("{changes:#?}"))
    }
}
