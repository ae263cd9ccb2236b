//! The stock openssl program as a mesh peer: the wire is plain mutual TLS, so it needs nothing of ours but an SVID.

use std::fs::File;
use std::net::SocketAddr;
use std::path::Path;

use anyhow::{Context as _, Result};

use crate::mesh::SvidFiles;
use crate::process::Process;
use crate::world::{Pod, World};

/// What tells mesh TLS from an application's own.
pub const ALPN: &str = "hauberk/1";

/// Says one line once connected and then keeps the connection until it is killed.
const CLIENT: &str = r#"(cat "$1"; shift; exec cat) | { shift; exec openssl s_client "$@" 2>&1; }"#;

/// A client in `pod` with `svid` that says `line` to `to`; its output has the answer.
pub fn client(world: &World, pod: &Pod, svid: &SvidFiles, to: SocketAddr, line: &str) -> Result<Process> {
    let file = world.directory().join(format!("line-{}", to.is_ipv6()));
    std::fs::write(&file, format!("{line}\n")).context("write the line")?;
    let mut command = pod.command("sh");
    command.args(["-c", CLIENT, "sh"]).arg(&file).args(["-connect", &to.to_string(), "-tls1_3", "-ign_eof"]);
    command.args(["-alpn", ALPN, "-verify_return_error", "-nocommands"]);
    with_svid(&mut command, svid);
    pod.spawn(command.stdin(File::open("/dev/null")?))
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

fn with_svid(command: &mut std::process::Command, svid: &SvidFiles) {
    command.arg("-cert").arg(&svid.certificate).arg("-key").arg(&svid.key).arg("-CAfile").arg(&svid.bundle);
}
