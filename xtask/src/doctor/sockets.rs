//! Probes socket options on real sockets: a kernel's version does not tell what its configuration left out.
use std::{
    io,
    net::{Ipv4Addr, TcpListener, TcpStream},
    os::fd::AsFd as _,
    path::Path,
};

use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netlink, recv, send, socket_with};

use super::table::{Row, Status};
use crate::sys;

/// Everything about sockets.
pub(crate) fn rows() -> Vec<Row> {
    match connected_pair() {
        Ok((client, _server)) => vec![netns_cookie(&client), port_range(&client), ktls(&client), destroy()],
        Err(error) => vec![Row::missing("loopback", error, "no TCP over 127.0.0.1: is the interface `lo` up?")],
    }
}

/// kTLS is refused on a socket that is not connected.
fn connected_pair() -> io::Result<(TcpStream, TcpStream)> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let client = TcpStream::connect(listener.local_addr()?)?;
    let (server, _) = listener.accept()?;
    Ok((client, server))
}

fn netns_cookie(socket: &TcpStream) -> Row {
    let follows = "pods cannot be told apart (kernel 5.14)";
    Row::probed("SO_NETNS_COOKIE", sys::netns_cookie(socket.as_fd()), Status::Missing, follows)
}

fn port_range(socket: &TcpStream) -> Row {
    let range = sys::local_port_range(socket.as_fd()).map(|_| "supported");
    let follows = "keeping an application's source port costs it the port's reuse (kernel 6.3)";
    Row::probed("IP_LOCAL_PORT_RANGE", range, Status::Degraded, follows)
}

fn ktls(socket: &TcpStream) -> Row {
    let loaded_before = tls_is_loaded();
    let set = sys::set_ulp_tls(socket.as_fd());
    ktls_row(set, loaded_before, tls_is_loaded())
}

fn destroy() -> Row {
    let follows = "connections that are older than the mesh can't be ended, only counted (CONFIG_INET_DIAG_DESTROY)";
    Row::probed("SOCK_DESTROY", try_destroy().map(|()| "supported"), Status::Degraded, follows)
}

/// Asks for the end of a connection that there can't be: none has port 0.
fn try_destroy() -> io::Result<()> {
    let protocol = Some(netlink::SOCK_DIAG);
    let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, protocol)?;
    // `struct nlmsghdr` (length, SOCK_DESTROY, NLM_F_REQUEST | NLM_F_ACK), then `struct inet_diag_req_v2` (family, TCP).
    let mut request = [0; 72];
    request[..4].copy_from_slice(&72_u32.to_ne_bytes());
    request[4..6].copy_from_slice(&21_u16.to_ne_bytes());
    request[6..8].copy_from_slice(&5_u16.to_ne_bytes());
    request[16..18].copy_from_slice(&[2, 6]);
    send(&socket, &request, SendFlags::empty())?;
    let mut answer = [0; 256];
    recv(&socket, &mut answer, RecvFlags::empty())?;
    // `struct nlmsgerr` begins with the errno, negative.
    let errno = i32::from_ne_bytes([answer[16], answer[17], answer[18], answer[19]]);
    match -errno {
        0 | libc::ENOENT => Ok(()),
        errno => Err(io::Error::from_raw_os_error(errno)),
    }
}

fn tls_is_loaded() -> bool {
    Path::new("/sys/module/tls").is_dir()
}

fn ktls_row(set: io::Result<()>, loaded_before: bool, loaded_now: bool) -> Row {
    let value = match (loaded_before, loaded_now) {
        (false, true) => "supported; this check loaded the module `tls`",
        _ => "supported",
    };
    let follows = match &set {
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => {
            "the kernel has no module `tls`, or may not load it (modprobe tls): TLS stays in user space"
        }
        _ => "TLS stays in user space",
    };
    Row::probed("kTLS", set.map(|()| value), Status::Degraded, follows)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::table::render;

    #[test]
    fn a_missing_tls_module_is_named_and_tolerated() {
        let row = ktls_row(Err(io::Error::from_raw_os_error(libc::ENOENT)), false, false);
        assert_eq!(row.status(), Status::Degraded);
        assert!(render(&[row]).contains("modprobe tls"));
    }

    #[test]
    fn a_module_that_the_check_loads_is_mentioned() {
        assert!(render(&[ktls_row(Ok(()), false, true)]).contains("loaded the module"));
        assert!(!render(&[ktls_row(Ok(()), true, true)]).contains("loaded the module"));
    }
}
