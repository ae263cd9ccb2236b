//! The stock openssl program as a mesh peer: the wire is plain mutual TLS, so it needs nothing of ours but an SVID.

use std::fs::File;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context as _, Result};
use mesh_pki::Case;

use crate::mesh::SvidFiles;
use crate::process::{Finished, Process};
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

/// A chain in files, however odd it is.
#[derive(Debug)]
pub struct OddChain {
    leaf: PathBuf,
    above: PathBuf,
    key: PathBuf,
}

impl OddChain {
    /// Writes a case's chain and key.
    pub fn write(world: &World, case: &Case) -> Result<Self> {
        let directory = world.directory().join("odd").join(case.name.replace(' ', "-"));
        std::fs::create_dir_all(&directory).with_context(|| format!("make {}", directory.display()))?;
        let chain = Self {
            leaf: directory.join("leaf.pem"),
            above: directory.join("above.pem"),
            key: directory.join("key.pem"),
        };
        std::fs::write(&chain.leaf, Case::pem(&case.chain[..1]))?;
        std::fs::write(&chain.above, Case::pem(&case.chain[1..]))?;
        std::fs::write(&chain.key, case.key_pem())?;
        Ok(chain)
    }

    /// Offers it as a client, from the address `from` of `pod`; ends with the handshake.
    pub fn offer(&self, pod: &Pod, from: SocketAddr, to: SocketAddr) -> Result<Finished> {
        let mut command = pod.command("openssl");
        command.args(["s_client", "-connect", &to.to_string(), "-bind", &from.to_string()]);
        pod.run(self.present(&mut command))
    }

    /// Offers it as a server to whoever comes; it reverses lines.
    pub fn serve(&self, pod: &Pod, port: u16) -> Result<Process> {
        let mut command = pod.command("openssl");
        command.args(["s_server", "-accept", &port.to_string(), "-rev", "-verify", "1"]);
        let mut process = pod.spawn(self.present(&mut command))?;
        process.wait_line("openssl listens", |line| line.contains("ACCEPT"))?;
        Ok(process)
    }

    fn present<'c>(&self, command: &'c mut Command) -> &'c mut Command {
        // openssl itself would refuse to send some of them.
        command.args(["-tls1_3", "-alpn", ALPN, "-cipher", "DEFAULT:@SECLEVEL=0"]);
        command.arg("-cert").arg(&self.leaf).arg("-key").arg(&self.key);
        if std::fs::metadata(&self.above).is_ok_and(|file| file.len() > 0) {
            command.arg("-cert_chain").arg(&self.above);
        }
        command
    }
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
