//! Opens the agent's own sockets inside a pod: outer ones toward other nodes, deliveries to the application.
//!
//! Each is flagged in its socket storage before it connects: an unflagged socket of the agent's is diverted or refused
//! like anybody's.

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::time::Duration;

use mesh_common::addr::IpKey;
use mesh_common::conn::{SockFacts, SockKind};
use rustix::io::Errno;
use rustix::net::bind;
use rustix::net::sockopt::{
    set_socket_keepalive, set_tcp_keepcnt, set_tcp_keepidle, set_tcp_keepintvl, set_tcp_nodelay,
};
use tokio::net::{TcpSocket, TcpStream};

use super::listener::PodProxy;
use crate::sys::sockopt;

/// A dead peer is noticed after this long without an answer, whether or not data is in flight.
const DEAD_PEER_SECONDS: u32 = 60;

/// Why there is no upstream connection.
#[derive(Debug)]
pub(super) enum ConnectError {
    /// The kernel or the far end said no.
    Io(io::Error),
    /// Nobody answered in time.
    Timeout,
}

impl ConnectError {
    /// A stable label.
    pub(super) fn reason(&self) -> &'static str {
        match self {
            Self::Timeout => "connect_timeout",
            Self::Io(error) => match error.kind() {
                io::ErrorKind::ConnectionRefused => "connect_refused",
                io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable => "unreachable",
                _ => "connect",
            },
        }
    }
}

/// Connects to `destination` from the pod, from the application's own address and port where that can be.
pub(super) async fn outer(
    pod: &PodProxy,
    source: SocketAddr,
    destination: SocketAddr,
) -> Result<TcpStream, ConnectError> {
    for way in [SourcePort::Range, SourcePort::Repair, SourcePort::Any] {
        let result = connect(pod, destination, |socket| {
            bind_source(socket, source, way)?;
            keep_alive(socket)?;
            flag(pod, socket, &SockFacts { kind: SockKind::Outer as u16, pod: pod.number, ..SockFacts::default() })
        });
        match result.await {
            Err(ConnectError::Io(error)) if way != SourcePort::Any && is_port_trouble(&error) => {}
            Ok(stream) => {
                if way == SourcePort::Any || stream.local_addr().map_err(ConnectError::Io)?.port() != source.port() {
                    pod.shared.metrics.source_port_changed();
                }
                return Ok(stream);
            }
            other => return other,
        }
    }
    unreachable!("the last way has no way after it")
}

/// Connects to the pod's own application, which will see `client` as its peer.
pub(super) async fn delivery(
    pod: &PodProxy,
    client: SocketAddr,
    application: SocketAddr,
) -> Result<TcpStream, ConnectError> {
    connect(pod, application, |socket| {
        // From the address that it goes to: one that has left the pod must not be looked for elsewhere. The egress
        // filter drops what tries to all the same. (SO_BINDTODEVICE to `lo` makes the address unreachable.)
        bind_source(socket, application, SourcePort::Any)?;
        set_tcp_nodelay(socket, true)?;
        let facts = SockFacts {
            address: IpKey::from(client.ip()),
            port: client.port(),
            kind: SockKind::Delivery as u16,
            pod: pod.number,
            ..SockFacts::default()
        };
        flag(pod, socket, &facts)
    })
    .await
}

/// How to get the application's source port, best first.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum SourcePort {
    /// As a range of one: the port stays shareable. Kernel 6.3; ignored outside `ip_local_port_range`.
    Range,
    /// bind() in repair mode: also a port that the application has bound itself.
    Repair,
    /// Whatever the kernel gives.
    Any,
}

fn bind_source(socket: &OwnedFd, source: SocketAddr, way: SourcePort) -> io::Result<()> {
    let any_port = SocketAddr::new(source.ip(), 0);
    match way {
        SourcePort::Range => {
            sockopt::set_bind_address_no_port(socket)?;
            sockopt::set_source_port(socket, source.port())?;
            bind(socket, &any_port)?;
        }
        SourcePort::Repair => {
            sockopt::set_repair(socket, true)?;
            bind(socket, &source)?;
            sockopt::set_repair(socket, false)?;
        }
        SourcePort::Any => {
            sockopt::set_bind_address_no_port(socket)?;
            bind(socket, &any_port)?;
        }
    }
    Ok(())
}

/// Says that the port is the trouble and not the destination: the option or the port isn't to be had.
fn is_port_trouble(error: &io::Error) -> bool {
    let no_port = [Errno::ADDRNOTAVAIL, Errno::ADDRINUSE, Errno::NOPROTOOPT, Errno::PERM, Errno::INVAL];
    no_port.iter().any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
}

fn keep_alive(socket: &OwnedFd) -> io::Result<()> {
    set_tcp_nodelay(socket, true)?;
    set_socket_keepalive(socket, true)?;
    set_tcp_keepidle(socket, Duration::from_secs(u64::from(DEAD_PEER_SECONDS) / 2))?;
    set_tcp_keepintvl(socket, Duration::from_secs(10))?;
    set_tcp_keepcnt(socket, 3)?;
    sockopt::set_user_timeout(socket, DEAD_PEER_SECONDS * 1000)
}

fn flag(pod: &PodProxy, socket: &OwnedFd, facts: &SockFacts) -> io::Result<()> {
    pod.shared.maps.set_facts(socket, facts).map_err(io::Error::other)
}

async fn connect(
    pod: &PodProxy,
    destination: SocketAddr,
    prepare: impl FnOnce(&OwnedFd) -> io::Result<()>,
) -> Result<TcpStream, ConnectError> {
    let socket = pod.netns.tcp_socket(&destination).map_err(ConnectError::Io)?;
    prepare(&socket).map_err(ConnectError::Io)?;
    let socket = TcpSocket::from_std_stream(socket.into());
    let limit = pod.shared.store.snapshot().mesh().timeouts.connect;
    match tokio::time::timeout(limit, socket.connect(destination)).await {
        Ok(result) => result.map_err(ConnectError::Io),
        Err(_elapsed) => Err(ConnectError::Timeout),
    }
}
