//! The peer that we are measured against: one haproxy a node, mutual TLS 1.3 between them, a full handshake for every
//! connection or resumed sessions, the cipher that our agents prefer, and a line in the log for every connection, as our agents write one.

use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use mesh_tests::mesh::{Mesh, SvidFiles};
use mesh_tests::process::Process;
use mesh_tests::wait::{LIMIT, wait_until};
use mesh_tests::world::{Node, World};

/// Where clients of the first node find their haproxy.
const ENTRANCE: u16 = 8000;

/// Where the second node's haproxy takes TLS.
const TUNNEL: u16 = 8443;

/// OpenSSL 3.0 offers X25519 by itself.
const GLOBAL: &str = "global\n  maxconn 8000\n  log stdout format raw local0\n\
    defaults\n  mode tcp\n  log global\n  maxconn 8000\n\
    \x20 timeout connect 10s\n  timeout client 1h\n  timeout server 1h\n";

/// Before 0 or 1, in the second node's log.
const RESUMED: &str = "resumed=";

/// The fields of haproxy's own format for TCP.
const LOG: &str = "%ci:%cp [%t] %ft %b/%s %Tw/%Tc/%Tt %B %ts %ac/%fc/%bc/%sc/%rc %sq/%bq";

/// What both ends of the TLS connection are told.
const TLS: &str = "verify required ssl-min-ver TLSv1.3 ciphersuites TLS_AES_256_GCM_SHA384";

/// Starts the pair on both nodes; `server` is where the second one delivers. `mesh` issues their certificates.
pub(crate) fn start(world: &World, mesh: &Mesh, server: SocketAddr, resumes: bool) -> Result<[Process; 2]> {
    // A session is resumed by a ticket of the server's that the client keeps.
    let (tickets, reuse) = if resumes { ("", "") } else { ("no-tls-tickets", "no-ssl-reuse") };
    let [first, second] = world.nodes() else { bail!("a world has two nodes") };
    let mut svids = Vec::new();
    for node in [first, second] {
        let svid = mesh.svid("bench", &format!("haproxy-{}", node.name()))?;
        svids.push((join(&svid, &world.directory().join(format!("haproxy-{}.pem", node.name())))?, svid.bundle));
    }
    let tunnel = SocketAddr::new(second.address(), TUNNEL);
    let far = format!(
        "listen tunnel\n  log-format \"{LOG} {RESUMED}%[ssl_fc_is_resumed]\"\n  bind {tunnel} ssl curves X25519 {tickets} {}\n  server app {server}\n",
        credentials(&svids[1])
    );
    let near = format!(
        "listen entrance\n  log-format \"{LOG}\"\n  bind {}\n  server tunnel {tunnel} ssl {reuse} {}\n",
        entrance(world),
        credentials(&svids[0])
    );
    let far = run(world, second, &far, tunnel)?;
    let near = run(world, first, &near, entrance(world))?;
    Ok([near, far])
}

/// Waits for a connection whose session was resumed, or was not.
pub(crate) fn prove(pair: &mut [Process; 2], resumes: bool) -> Result<()> {
    let says = format!("{RESUMED}{}", u8::from(resumes));
    pair[1].wait_line("haproxy's line of a connection", |line| line.ends_with(&says))?;
    Ok(())
}

/// What clients connect to.
pub(crate) fn entrance(world: &World) -> SocketAddr {
    SocketAddr::new(world.nodes()[0].address(), ENTRANCE)
}

fn credentials((certificate, bundle): &(PathBuf, PathBuf)) -> String {
    format!("crt {} ca-file {} {TLS}", certificate.display(), bundle.display())
}

/// haproxy wants certificate and key in one file.
fn join(svid: &SvidFiles, path: &Path) -> Result<PathBuf> {
    let parts = [&svid.certificate, &svid.key].map(fs::read_to_string);
    let [certificate, key] = parts.map(|text| text.context("read an SVID"));
    fs::write(path, certificate? + &key?).with_context(|| format!("write {}", path.display()))?;
    Ok(path.to_owned())
}

fn run(world: &World, node: &Node, section: &str, listens: SocketAddr) -> Result<Process> {
    let path = world.directory().join(format!("haproxy-{}.cfg", node.name()));
    fs::write(&path, format!("{GLOBAL}{section}")).with_context(|| format!("write {}", path.display()))?;
    let mut command = node.place().command("haproxy");
    command.arg("-db").arg("-f").arg(&path);
    let mut process = node.place().spawn(&mut command)?;
    wait_until(LIMIT, &format!("haproxy listens on {listens}"), || {
        if let Some(status) = process.exited()? {
            bail!("haproxy ended: {status}: {}{}", process.stdout()?, process.stderr()?);
        }
        // Until it listens, connecting fails.
        Ok(node.place().netns.enter(|| Ok(TcpStream::connect(listens)?)).is_ok().then_some(()))
    })?;
    Ok(process)
}
