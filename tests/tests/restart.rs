//! An agent that dies, stops or leaves: enrolled pods fail closed, a new agent takes over, an uninstall leaves nothing.

use anyhow::{Result, ensure};
use mesh_tests::app::Attempt;
use mesh_tests::claims;
use mesh_tests::mesh::Mode;
use mesh_tests::process::{Process, whole_lines};
use mesh_tests::scale;
use mesh_tests::stage::{MARKER, Stage};
use mesh_tests::wait::{LIMIT, wait_until};
use mesh_tests::world::Family;

const STORM_THREADS: usize = 4;

/// How many more attempts of a kind must be seen before the storm counts as being in that state.
fn seen() -> usize {
    scale::less(100) as usize
}

#[test]
#[cfg_attr(not(feature = "native"), ignore = "needs root: cargo xtask test native")]
fn a_killed_agent_leaks_no_plaintext_over_ipv4() -> Result<()> {
    kill_in_a_storm(Family::V4)
}

#[test]
#[cfg_attr(not(feature = "native"), ignore = "needs root: cargo xtask test native")]
fn a_killed_agent_leaks_no_plaintext_over_ipv6() -> Result<()> {
    kill_in_a_storm(Family::V6)
}

fn kill_in_a_storm(family: Family) -> Result<()> {
    let mut stage = Stage::start(Mode::Strict)?;
    let to = stage.server_address(family);
    let mut storm = Storm::start(&stage, family)?;
    for round in 0..3 {
        storm.wait_for(true)?;
        stage.mesh.agent_mut("a").kill9()?;
        let killed = stage.capture.mark()?;
        storm.wait_for(false)?;
        let trace = stage.capture.trace()?.since(killed);
        ensure!(trace.syns_to(to).is_empty(), "round {round}: direct SYNs {:?}", trace.syns_to(to));
        stage.mesh.agent_mut("a").restart()?;
    }
    storm.wait_for(true)?;
    drop(storm);
    let trace = stage.capture.trace()?;
    ensure!(!trace.contains(MARKER), "plaintext on the wire");
    let mut whole = 0;
    for flow in trace.flows_to(to) {
        // What the kill cut off may have no records; what is there must be TLS.
        let sent = flow.sent.bytes();
        ensure!(sent.is_empty() || sent.starts_with(&[22, 3]), "a direct connection: {sent:02x?}");
        whole += usize::from(flow.tls13().is_ok());
    }
    ensure!(whole >= seen(), "the capture would have seen more than {whole} connections");
    Ok(())
}

#[test]
#[cfg_attr(not(feature = "native"), ignore = "needs root: cargo xtask test native")]
fn a_pod_whose_agent_is_dead_lets_no_plaintext_in() -> Result<()> {
    let mut stage = Stage::start(Mode::Strict)?;
    claims::answer_is_right(&stage.call_from("client", Family::V4)?)?;
    stage.mesh.agent_mut("b").kill9()?;
    for family in Family::BOTH {
        for pod in ["outsider", "stranger", "client"] {
            claims::is_refused(&stage.call_from(pod, family)?)?;
        }
    }
    assert_eq!(stage.server.accepted()?.len(), 1, "nothing reached the application meanwhile");
    stage.mesh.agent_mut("b").restart()?;
    for family in Family::BOTH {
        claims::wire_is_tls(&stage, family)?;
        claims::server_sees_the_client(&stage, family)?;
    }
    Ok(())
}

#[test]
#[cfg_attr(not(feature = "native"), ignore = "needs root: cargo xtask test native")]
fn a_stopped_agent_leaves_its_pods_closed_until_it_is_back() -> Result<()> {
    let mut stage = Stage::start(Mode::Strict)?;
    ensure!(stage.mesh.agent_mut("a").terminate()?.success(), "SIGTERM is an orderly end");
    ensure!(!stage.world.node("a").pins()?.is_empty(), "a stopped agent leaves its pins");
    for family in Family::BOTH {
        claims::is_refused(&stage.call_from("client", family)?)?;
        let syns = stage.capture.trace()?.syns_to(stage.server_address(family)).len();
        ensure!(syns == 0, "{syns} direct SYNs on the wire");
    }
    stage.mesh.agent_mut("a").restart()?;
    for family in Family::BOTH {
        claims::wire_is_tls(&stage, family)?;
    }
    Ok(())
}

#[test]
#[cfg_attr(not(feature = "native"), ignore = "needs root: cargo xtask test native")]
fn an_uninstalled_node_is_as_if_there_had_been_no_mesh() -> Result<()> {
    let mut stage = Stage::start(Mode::Strict)?;
    for node in ["a", "b"] {
        stage.mesh.agent_mut(node).terminate()?;
        stage.mesh.agent(node).uninstall()?;
        assert_eq!(stage.world.node(node).pins()?, Vec::<std::path::PathBuf>::new());
    }
    for family in Family::BOTH {
        let mark = stage.capture.mark()?;
        let called = stage.call_from("client", family)?;
        claims::answer_is_right(&called)?;
        assert!(stage.capture.trace()?.since(mark).contains(MARKER));
        assert_eq!(stage.server.accepted()?.pop().map(|accepted| accepted.peer), called.local);
    }
    Ok(())
}

/// `client` connecting to `server` without pause.
struct Storm(Process);

impl Storm {
    fn start(stage: &Stage, family: Family) -> Result<Self> {
        let client = stage.world.pod("client");
        let mut command = client.app("storm")?;
        let to = stage.server_address(family).to_string();
        command.args(["--to", &to, "--say", MARKER, "--threads", &STORM_THREADS.to_string()]);
        Ok(Self(client.spawn(&mut command)?))
    }

    /// Waits for `seen` more attempts that were answered, or that were not.
    fn wait_for(&mut self, answered: bool) -> Result<()> {
        let (before, seen) = (self.count(answered)?, seen());
        wait_until(LIMIT, &format!("{seen} attempts with answered={answered}"), || {
            Ok((self.count(answered)? >= before + seen).then_some(()))
        })
    }

    fn count(&self, answered: bool) -> Result<usize> {
        let stdout = self.0.stdout()?;
        let attempts = whole_lines(&stdout).map(serde_json::from_str::<Attempt>);
        let attempts: Vec<Attempt> = attempts.collect::<Result<_, _>>()?;
        Ok(attempts.iter().filter(|attempt| attempt.answered == answered).count())
    }
}
