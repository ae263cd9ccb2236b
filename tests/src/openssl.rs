//! The stock openssl program as a mesh peer: the wire is plain mutual TLS, so it needs nothing of ours but an SVID.

use std::fs::File;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context as _, Result};

use crate::mesh::SvidFiles;
use crate::process::Process;
use crate::world::{Pod, World};

/// What tells mesh TLS from an application's own.
pub const ALPN: &str = "hauberk/1";

/// A client in `pod` with `svid` that says `line` to `to` and keeps the connection; its output has the answer.
pub fn client(world: &World, pod: &Pod, svid: &SvidFiles, to: SocketAddr, line: &str) -> Result<Process> {
    let mut command = pod.command("openssl");
    command.args(["s_client", "-connect", &to.to_string(), "-tls1_3", "-alpn", ALPN, "-verify_return_error"]);
    with_svid(&mut command, svid);
    say(world, pod, &mut command, line)
}

/// Starts an `openssl s_client` that says `line` once connected and keeps the connection until it is killed.
pub fn say(world: &World, pod: &Pod, command: &mut Command, line: &str) -> Result<Process> {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    let path = world.directory().join(format!("line-{}", NEXT.fetch_add(1, Ordering::Relaxed)));
    std::fs::write(&path, format!("{line}\n")).context("write the line")?;
    // The line may begin with a letter that is a command.
    pod.spawn(command.args(["-ign_eof", "-nocommands"]).stdin(File::open(&path)?))
}

/// A server in `pod` with `svid` that tells every handshake message; it reverses lines.
pub fn server(pod: &Pod, svid: &SvidFiles, port: u16) -> Result<Process> {
    let mut command = pod.command("openssl");
    command.args(["s_server", "-accept", &port.to_string(), "-tls1_3", "-rev", "-msg", "-Verify", "1"]);
    command.args(["-alpn", ALPN]);
    with_svid(&mut command, svid);
    let mut process = pod.spawn(&mut command)?;
    process.wait_line("openssl listens", |line| line.contains("ACCEPT"))?;
    Ok(process)
}

/// The SPIFFE ID in a certificate file, as openssl prints it.
pub fn spiffe_id_of(pod: &Pod, certificate: &Path) -> Result<String> {
    let mut command = pod.command("openssl");
    command.args(["x509", "-noout", "-ext", "subjectAltName", "-in"]).arg(certificate);
    let text = pod.run(&mut command)?.success()?;
    let id = text.lines().find_map(|line| line.trim().strip_prefix("URI:"));
    id.map(str::to_owned).with_context(|| format!("a certificate without a URI: {text}"))
}

fn with_svid(command: &mut Command, svid: &SvidFiles) {
    command.arg("-cert").arg(&svid.certificate).arg("-key").arg(&svid.key).arg("-CAfile").arg(&svid.bundle);
}
