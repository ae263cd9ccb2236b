//! `--keep`: leaves the mesh running for the reader to try, until Ctrl-C.

use anyhow::{Result, bail};

use super::application::Application;
use super::story::Story;
use crate::agent::ADMIN;
use crate::process::Place;
use crate::stage::{MARKER, Stage};
use crate::world::{Family, WIRE};

pub(super) fn until_interrupted(story: &mut Story, stage: &Stage, application: &Application) -> Result<()> {
    story.chapter("Yours to try, until Ctrl-C")?;
    let world = &stage.world;
    let to = stage.server_address(Family::V4);
    let (client, outsider) = (world.pod("client"), world.pod("outsider"));
    story.line("   # a client in the mesh")?;
    story.line(&enter(client, &application.client(world, Family::V4)))?;
    story.line("   # a plaintext client outside")?;
    story.line(&enter(outsider, &format!("curl -v telnet://{to}")))?;
    story.line("   # a shell in the client's pod")?;
    story.line(&enter(client, "sh"))?;
    let node = world.node("a").place();
    let enter_node = format!("   nsenter --net={}", node.netns.path().display());
    story.line(&format!("   # the wire (look for {MARKER})\n{enter_node} tcpdump -A -n -i {WIRE}"))?;
    for node in world.nodes() {
        let agent = stage.mesh.agent(node.name());
        let netns = node.place().netns.path().display();
        story.line(&format!("   # the agent of node {}", node.name()))?;
        story.line(&format!("   nsenter --net={netns} curl -s http://{ADMIN}/metrics"))?;
        story.line(&format!("   tail -f {}", agent.log().display()))?;
    }
    // The signal ends the process, after everything has been removed (`guard`).
    loop {
        std::thread::park();
        if !world.directory().exists() {
            bail!("the world is gone");
        }
    }
}

/// What to type to run `command` in a pod: in its cgroup and in its namespace.
fn enter(place: &Place, command: &str) -> String {
    let (cgroup, netns) = (place.cgroup.display(), place.netns.path().display());
    format!("   sh -c 'echo $$ > {cgroup}/cgroup.procs; exec nsenter --net={netns} {command}'")
}
