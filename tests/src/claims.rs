//! What the mesh claims, each as one function that looks at the evidence; the tests and the demo make the same claims.
//!
//! A claim that something did *not* happen is fenced by something that must: the application "saw no connection" means
//! that the next connection it saw was the fence's.

use anyhow::{Context as _, Result, ensure};

use crate::agent::AccessLine;
use crate::app::{ANSWER, Called};
use crate::capture::{Flow, Hello};
use crate::mesh::spiffe_id;
use crate::openssl;
use crate::stage::{EXPECTED_ACCOUNT, MARKER, PORT, Stage};
use crate::world::{Family, Server};

/// A connection that broke, as a client sees it: never a clean end, which could pass for an empty answer.
const REFUSED: [&str; 3] = ["ConnectionReset", "ConnectionRefused", "BrokenPipe"];

/// What the wire showed of one connection.
#[derive(Debug)]
pub struct OnTheWire {
    /// The connection.
    pub flow: Flow,
    /// What its handshake chose.
    pub hello: Hello,
}

/// Both ends' account of one connection.
#[derive(Debug)]
pub struct Accounts {
    /// From the client's agent.
    pub outbound: AccessLine,
    /// From the server's agent.
    pub inbound: AccessLine,
}

/// The application's answer is right.
pub fn answer_is_right(called: &Called) -> Result<()> {
    ensure!(called.answer.as_deref() == Some(&format!("{ANSWER}{MARKER}")), "the client reports {called:?}");
    Ok(())
}

/// `client` talks to `server`: right answer, TLS 1.3 on the original port between the applications' own addresses,
/// and the marker nowhere.
pub fn wire_is_tls(stage: &Stage, family: Family) -> Result<OnTheWire> {
    let mark = stage.capture.mark()?;
    let called = stage.call_from("client", family)?;
    answer_is_right(&called)?;
    let trace = stage.capture.trace()?.since(mark);
    ensure!(!trace.contains(MARKER), "the marker is on the wire");
    let to = stage.server_address(family);
    let hello = trace.all_tls13(to)?;
    let [flow] = trace.flows_to(to).try_into().ok().context("not exactly one connection on the wire")?;
    let own = stage.world.pod("client").address(family);
    ensure!(flow.client.ip() == own, "the wire shows {} instead of {own}", flow.client);
    Ok(OnTheWire { flow, hello })
}

/// Each agent names the other end by the SPIFFE ID of its certificate.
pub fn both_ends_name_each_other(stage: &Stage, family: Family) -> Result<Accounts> {
    let called = stage.call_from("client", family)?;
    answer_is_right(&called)?;
    let local = called.local.context("the client has no address")?.to_string();
    let (client, server) = (spiffe_id("client"), spiffe_id("server"));
    let to = stage.server_address(family).to_string();
    let outbound = stage.mesh.agent("a").wait_access(&[("direction", "outbound"), ("src.addr", &local)])?;
    let expected = [("src.id", &*client), ("peer.id", &server), ("dst.addr", &to), ("outcome", "ok")];
    ensure!(outbound.has(&expected), "expected {expected:?} in {outbound:?}");
    let inbound = stage.mesh.agent("b").wait_access(&[("direction", "inbound"), ("src.addr", &local)])?;
    let expected = [("dst.id", &*server), ("peer.id", &client), ("dst.addr", &to), ("outcome", "ok")];
    ensure!(inbound.has(&expected), "expected {expected:?} in {inbound:?}");
    Ok(Accounts { outbound, inbound })
}

/// The server saw the address and port that the client's own socket has.
pub fn server_sees_the_client(stage: &Stage, family: Family) -> Result<Called> {
    let called = stage.call_from("client", family)?;
    answer_is_right(&called)?;
    let accepted = stage.server.accepted()?.pop().context("the server saw no connection")?;
    ensure!(Some(accepted.peer) == called.local, "accept() told {}, not {:?}", accepted.peer, called.local);
    ensure!(Some(accepted.getpeername) == called.local, "getpeername() told {}", accepted.getpeername);
    let to = stage.server_address(family);
    ensure!(accepted.local == to, "getsockname() told {}", accepted.local);
    ensure!(called.peer == Some(to), "the client's getpeername() told {:?}", called.peer);
    ensure!(called.local.map(|local| local.ip()) == Some(stage.world.pod("client").address(family)));
    Ok(called)
}

/// A stock openssl client outside, with an SVID that no configuration lists, is served and named by its ID.
pub fn openssl_is_a_peer(stage: &Stage, family: Family) -> Result<AccessLine> {
    let svid = stage.mesh.svid("outside", "tester")?;
    let (pod, to) = (stage.world.pod("outsider"), stage.server_address(family));
    let mut client = openssl::client(&stage.world, pod, &svid, to, MARKER)?;
    client.wait_line("openssl has the answer", |line| line.contains(&format!("{ANSWER}{MARKER}")))?;
    let accepted = stage.server.accepted()?.pop().context("the server saw no connection")?;
    let own = pod.address(family);
    ensure!(accepted.peer.ip() == own, "the server saw {} instead of {own}", accepted.peer);
    client.kill9()?;
    let peer = accepted.peer.to_string();
    let line = stage.mesh.agent("b").wait_access(&[("direction", "inbound"), ("src.addr", &peer)])?;
    let id = format!("spiffe://{}/ns/outside/sa/tester", crate::mesh::TRUST_DOMAIN);
    ensure!(line.field("peer.id") == id, "the peer is {line:?}");
    Ok(line)
}

/// A plaintext client in `pod` is reset and the application sees no connection of it.
pub fn plaintext_is_refused(stage: &Stage, pod: &str, family: Family) -> Result<Called> {
    let before = stage.server.accepted()?.len();
    let called = stage.call_from(pod, family)?;
    is_refused(&called)?;
    only_the_fence_arrived(stage, &stage.server, "server", family, before)?;
    Ok(called)
}

/// A workload that presents another identity than its address should have is refused before it hears anything.
pub fn impostor_is_refused(stage: &Stage, family: Family) -> Result<AccessLine> {
    let before = stage.impostor.accepted()?.len();
    let mark = stage.capture.mark()?;
    let to = stage.world.address("impostor", family, PORT);
    let called = stage.world.pod("client").call(to, MARKER)?;
    is_refused(&called)?;
    let local = called.local.context("the client has no address")?.to_string();
    // A port may come again, with another destination.
    let ends = [("direction", "outbound"), ("src.addr", &*local), ("dst.addr", &to.to_string())];
    let line = stage.mesh.agent("a").wait_access(&ends)?;
    ensure!(line.field("outcome") != "ok", "the agent says {line:?}");
    ensure!(line.field("dst.id") != spiffe_id("impostor"), "node a should expect `{EXPECTED_ACCOUNT}`: {line:?}");
    ensure!(!stage.capture.trace()?.since(mark).contains(MARKER), "the marker is on the wire");
    only_the_fence_arrived(stage, &stage.impostor, "impostor", family, before)?;
    Ok(line)
}

/// While the agent of `client` is dead nothing of `client` reaches the wire; a new agent serves again.
pub fn dead_agent_fails_closed(stage: &mut Stage, family: Family) -> Result<()> {
    let to = stage.server_address(family);
    stage.mesh.agent_mut("a").kill9()?;
    let mark = stage.capture.mark()?;
    is_refused(&stage.call_from("client", family)?)?;
    let trace = stage.capture.trace()?.since(mark);
    ensure!(trace.syns_to(to).is_empty(), "on the wire: {:?}", trace.syns_to(to));
    stage.mesh.agent_mut("a").restart()?;
    wire_is_tls(stage, family).context("after the restart")?;
    Ok(())
}

/// The client's connection was refused or reset, and no byte came back.
pub fn is_refused(called: &Called) -> Result<()> {
    let error = called.error.as_deref().unwrap_or_default();
    ensure!(REFUSED.contains(&error) && called.answer.is_none(), "the client reports {called:?}");
    Ok(())
}

/// Makes one connection that must arrive, and checks that it is the only one since there were `before`.
/// `neighbour`, on the server's own node, agrees with the server's agent about who it is.
fn only_the_fence_arrived(stage: &Stage, server: &Server, pod: &str, family: Family, before: usize) -> Result<()> {
    let to = stage.world.address(pod, family, PORT);
    answer_is_right(&stage.world.pod("neighbour").call(to, MARKER)?)?;
    let accepted = server.accepted()?;
    ensure!(accepted.len() == before + 1, "the application saw {:?}", &accepted[before..]);
    let fence = stage.world.pod("neighbour").address(family);
    ensure!(accepted[before].peer.ip() == fence, "the application saw {:?}", accepted[before]);
    Ok(())
}
