//! However an application opens its connection, it goes through the mesh: there is no way around by another system call,
//! option or protocol. Raw and packet sockets are in `attest.rs`.

use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use mesh_tests::claims;
use mesh_tests::mesh::Mode;
use mesh_tests::stage::{MARKER, PORT, Stage};
use mesh_tests::world::Family;

/// Opens `s` in its own way, with `family`, `to` and `own` (the pod's address) at hand.
const WAYS: [(&str, &str); 8] = [
    ("a plain connect", "s = socket(family, SOCK_STREAM); s.connect(to)"),
    ("TCP Fast Open", "s = socket(family, SOCK_STREAM); line = line[s.sendto(line, 0x20000000, to):]"),
    (
        "a non-blocking connect",
        "s = socket(family, SOCK_STREAM); s.setblocking(False); s.connect_ex(to); select.select([], [s], [], 10); \
         s.setblocking(True)",
    ),
    ("MPTCP", "s = socket(family, SOCK_STREAM, 262); s.connect(to)"),
    ("SO_BINDTODEVICE", "s = socket(family, SOCK_STREAM); s.setsockopt(SOL_SOCKET, 25, b'eth0'); s.connect(to)"),
    ("bind before connect", "s = socket(family, SOCK_STREAM); s.bind((own, 23456)); s.connect(to)"),
    ("bind to a low port", "s = socket(family, SOCK_STREAM); s.bind((own, 789)); s.connect(to)"),
    (
        "a second connect after AF_UNSPEC",
        "s = socket(family, SOCK_STREAM); s.connect(to); \
         ctypes.CDLL(None).connect(s.fileno(), bytes(16), 16) == 0 or sys.exit('disconnect'); s.connect(to)",
    ),
];

fn script(way: &str) -> String {
    format!(
        "import ctypes, select, sys\n\
         from socket import *\n\
         host, port, own, line = sys.argv[1], int(sys.argv[2]), sys.argv[3], (sys.argv[4] + '\\n').encode()\n\
         family, to = (AF_INET6 if ':' in host else AF_INET), (host, port)\n\
         {way}\n\
         s.settimeout(15)\n\
         s.sendall(line)\n\
         print(s.getpeername()[:2], s.recv(1000).decode())\n"
    )
}

#[test]
#[cfg_attr(not(feature = "native"), ignore = "needs root: cargo xtask test native")]
fn a_connect_by_io_uring_is_diverted() -> Result<()> {
    let stage = Stage::start(Mode::Strict)?;
    let client = stage.world.pod("client");
    for family in Family::BOTH {
        let (mark, to) = (stage.capture.mark()?, stage.server_address(family));
        let mut command = client.app("uring-call")?;
        let told = client.run(command.args(["--to", &to.to_string(), "--say", MARKER]))?.success()?;
        claims::answer_is_right(&serde_json::from_str(&told)?)?;
        let trace = stage.capture.trace()?.since(mark);
        trace.all_tls13(to)?;
        ensure!(!trace.contains(MARKER), "{family}: the marker is on the wire");
    }
    Ok(())
}

#[test]
#[cfg_attr(not(feature = "native"), ignore = "needs root: cargo xtask test native")]
fn every_way_to_open_a_connection_is_diverted() -> Result<()> {
    let stage = Stage::start(Mode::Strict)?;
    let client = stage.world.pod("client");
    for family in Family::BOTH {
        let (to, own) = (stage.server_address(family), client.address(family).to_string());
        for (name, way) in WAYS {
            if name == "MPTCP" && !Path::new("/proc/sys/net/mptcp").exists() {
                continue;
            }
            let mark = stage.capture.mark()?;
            let mut command = client.command("python3");
            command.args(["-c", &script(way), &to.ip().to_string(), &PORT.to_string(), &own, MARKER]);
            let told = client.run(&mut command)?.success().with_context(|| format!("{name} over {family}"))?;
            ensure!(told.contains(&format!("'{}', {PORT}", to.ip())), "{name} over {family}: the peer is {told}");
            ensure!(told.contains(MARKER), "{name} over {family}: {told}");
            let trace = stage.capture.trace()?.since(mark);
            trace.all_tls13(to).with_context(|| format!("{name} over {family}"))?;
            ensure!(!trace.contains(MARKER), "{name} over {family}: the marker is on the wire");
        }
    }
    Ok(())
}
