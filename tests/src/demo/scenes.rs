//! The chapters of the demo, in order.

use std::collections::BTreeSet;

use anyhow::{Context as _, Result, ensure};

use super::application::{Application, address, is_installed};
use super::story::{Story, dump};
use crate::agent::AccessLine;
use crate::claims;
use crate::stage::{EXPECTED_ACCOUNT, MARKER, Stage};
use crate::world::{Family, World};

/// How many counters are shown.
const SHOWN_COUNTERS: usize = 16;

pub(super) fn introduce(story: &mut Story, world: &World, application: &Application) -> Result<()> {
    story.chapter("Two nodes on this machine, joined by one wire")?;
    for node in world.nodes() {
        story.line(&format!("   node {} (network namespace {})", node.name(), node.place().netns.name()))?;
        for pod in world.pods().iter().filter(|pod| pod.node() == node.name()) {
            let [v4, v6] = Family::BOTH.map(|family| pod.address(family));
            let note = match pod.name() {
                "server" => application.server(),
                "client" => "the client",
                "impostor" => "a server whose address should be somebody else's",
                _ if !pod.is_workload() => "not in the mesh",
                _ => "",
            };
            story.line(&format!("     pod {:<10} {v4:<12} {v6:<18} {note}", pod.name()))?;
        }
    }
    Ok(())
}

pub(super) fn without_the_mesh(story: &mut Story, world: &World, application: &Application) -> Result<()> {
    story.chapter("Without the mesh")?;
    let capture = world.capture()?;
    for family in Family::BOTH {
        story.line(&format!("   client$ {}", application.client(world, family)))?;
        story.claim(&format!("{family}: without the mesh the wire shows the marker"), || {
            let mark = capture.mark()?;
            let answer = application.exchange(world, family)?;
            let trace = capture.trace()?.since(mark);
            ensure!(trace.contains(MARKER), "the capture does not show it: then it proves nothing later");
            let flows = trace.flows_to(address(world, family));
            let flow = flows.first().context("no connection on the wire")?;
            let sent = flow.sent.bytes();
            Ok(format!("answer: {answer}\n{} → {}\n{}", flow.client, flow.server, dump(&sent)))
        })?;
    }
    Ok(())
}

pub(super) fn with_the_mesh(story: &mut Story, stage: &Stage, application: &Application) -> Result<()> {
    story.chapter("With the mesh: one agent a node, mutual TLS required, the same programs")?;
    for family in Family::BOTH {
        story.line(&format!("   client$ {}", application.client(&stage.world, family)))?;
        let mark = stage.capture.mark()?;
        story.claim(&format!("{family}: the application's answers are right"), || {
            Ok(format!("answer: {}", application.exchange(&stage.world, family)?))
        })?;
        let trace = stage.capture.trace()?.since(mark);
        let to = address(&stage.world, family);
        story.claim(
            &format!("{family}: the wire has TLS 1.3 on the original port, between the same addresses"),
            || {
                let hello = trace.all_tls13(to)?;
                let flows = trace.flows_to(to);
                let flow = flows.first().context("no connection on the wire")?;
                let own = stage.world.pod("client").address(family);
                ensure!(flow.client.ip() == own, "the wire shows {} instead of {own}", flow.client);
                let chosen =
                    format!("cipher suite {:#06x}, key exchange group {:#06x}", hello.cipher_suite, hello.group);
                Ok(format!("{} → {}, {chosen}\n{}", flow.client, flow.server, dump(&flow.sent.bytes())))
            },
        )?;
        story.claim(&format!("{family}: the marker is nowhere on the wire"), || {
            ensure!(!trace.contains(MARKER), "it is there");
            Ok(String::new())
        })?;
    }
    Ok(())
}

pub(super) fn identities(story: &mut Story, stage: &Stage) -> Result<()> {
    story.chapter("Who is who")?;
    for family in Family::BOTH {
        story.claim(&format!("{family}: each side names the other's SPIFFE ID from its certificate"), || {
            let accounts = claims::both_ends_name_each_other(stage, family)?;
            let told = |side: &str, line: &AccessLine| {
                let tls: Vec<String> = ["tls.version", "tls.cipher", "tls.key_exchange", "datapath"]
                    .iter()
                    .map(|name| line.field(name))
                    .collect();
                format!("{side} peer {} ({})", line.field("peer.id"), tls.join(", "))
            };
            Ok([told("node a:", &accounts.outbound), told("node b:", &accounts.inbound)].join("\n"))
        })?;
        story.claim(&format!("{family}: the server sees the real client address and port"), || {
            let called = claims::server_sees_the_client(stage, family)?;
            Ok(called.local.map(|local| format!("both ends say {local}")).unwrap_or_default())
        })?;
        if is_installed("openssl") {
            story.claim(
                &format!("{family}: a stock openssl client with an SVID is a peer, under its own ID"),
                || {
                    let line = claims::openssl_is_a_peer(stage, family)?;
                    Ok(format!("node b: peer {}", line.field("peer.id")))
                },
            )?;
        } else {
            story.line("   skipped: openssl as a peer (it is not installed)")?;
        }
    }
    Ok(())
}

pub(super) fn refusals(story: &mut Story, stage: &Stage) -> Result<()> {
    story.chapter("Who is refused")?;
    for family in Family::BOTH {
        for pod in ["outsider", "stranger"] {
            let claim = format!("{family}: plaintext from `{pod}` is refused, and the application saw no connection");
            story.claim(&claim, || {
                let called = claims::plaintext_is_refused(stage, pod, family)?;
                Ok(format!("{pod}: {}", called.error.unwrap_or_default()))
            })?;
        }
        story.claim(&format!("{family}: a workload with another workload's identity is refused"), || {
            let line = claims::impostor_is_refused(stage, family)?;
            Ok(format!("node a expected `{EXPECTED_ACCOUNT}`: {} ({})", line.field("outcome"), line.field("reason")))
        })?;
    }
    Ok(())
}

pub(super) fn crash(story: &mut Story, stage: &mut Stage) -> Result<()> {
    story.chapter("The agent of node a is killed (kill -9), and started again")?;
    for family in Family::BOTH {
        story.claim(&format!("{family}: meanwhile its pods send nothing; afterwards they are served again"), || {
            claims::dead_agent_fails_closed(stage, family)?;
            Ok(String::new())
        })?;
    }
    Ok(())
}

pub(super) fn counters(story: &mut Story, stage: &Stage) -> Result<()> {
    story.chapter("What the agents count")?;
    for node in stage.world.nodes() {
        let metrics = stage.mesh.agent(node.name()).metrics()?;
        story.line(&format!("   node {}", node.name()))?;
        let is_counted = |line: &&str| !line.starts_with('#') && line.contains("_total") && !line.ends_with(" 0");
        let counted: BTreeSet<&str> = metrics.lines().filter(is_counted).collect();
        for line in counted.iter().take(SHOWN_COUNTERS) {
            story.line(&format!("     {line}"))?;
        }
    }
    Ok(())
}
