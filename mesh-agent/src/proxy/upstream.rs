//! Opens the agent's own sockets inside a pod: outer ones toward other nodes, deliveries to the application.
//!
//! Each is flagged in its socket storage before it connects: an unflagged socket of the agent's is diverted or refused
//! like anybody's.

use std::io;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::os::fd::OwnedFd;
use std::sync::{Mutex, PoisonError};

use mesh_common::addr::IpKey;
use mesh_common::conn::{SockFacts, SockKind};
use rustix::io::Errno;
use rustix::net::bind;
use rustix::net::sockopt::{set_socket_reuseaddr, set_tcp_nodelay};
use tokio::net::{TcpSocket, TcpStream};

use super::listener::PodProxy;
use super::socket::{keep_alive, reset_on_close};
use crate::sys::netns::Netns;
use crate::sys::sockopt;

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
    let dead_peer = pod.shared.store.snapshot().mesh().timeouts.dead_peer;
    for way in pod.ports.ways(source.port()) {
        let way = *way;
        let result = connect(pod, destination, |socket| {
            bind_source(socket, source, way)?;
            keep_alive(socket, dead_peer)?;
            flag(pod, socket, &SockFacts { kind: SockKind::Outer as u16, pod: pod.number, ..SockFacts::default() })
        });
        match result.await {
            Err(ConnectError::Io(error)) if way != SourcePort::Any && is_port_trouble(&error) => {}
            Ok(stream) => {
                if stream.local_addr().map_err(ConnectError::Io)?.port() != source.port() {
                    pod.shared.metrics.source_port_changed();
                    pod.ports.refresh(&pod.netns);
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

/// The pod's `ip_local_port_range`, as last seen.
pub(super) struct SourcePorts(Mutex<RangeInclusive<u16>>);

impl SourcePorts {
    pub(super) fn of(netns: &Netns) -> Self {
        Self(Mutex::new(read_range(netns)))
    }

    /// The ways to get `port`, best first.
    fn ways(&self, port: u16) -> &'static [SourcePort] {
        ways(&self.0.lock().unwrap_or_else(PoisonError::into_inner), port)
    }

    /// Looks again: a port was lost, so the range may have been changed.
    fn refresh(&self, netns: &Netns) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = read_range(netns);
    }
}

fn read_range(netns: &Netns) -> RangeInclusive<u16> {
    netns.local_port_range().unwrap_or_else(|error| {
        tracing::warn!(%error, "the pod's ip_local_port_range can't be read");
        0..=u16::MAX
    })
}

/// Outside of `ip_local_port_range` a range of one would be ignored, silently.
fn ways(range: &RangeInclusive<u16>, port: u16) -> &'static [SourcePort] {
    const ALL: [SourcePort; 3] = [SourcePort::Range, SourcePort::Repair, SourcePort::Any];
    if range.contains(&port) { &ALL } else { &ALL[1..] }
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
            // In TIME_WAIT this socket must not keep the application from binding its port again. (Leaving repair mode
            // has cleared the option.)
            set_socket_reuseaddr(socket, true)?;
        }
        SourcePort::Any => {
            sockopt::set_bind_address_no_port(socket)?;
            bind(socket, &any_port)?;
        }
    }
    Ok(())
}

/// Says that the port is the trouble and not the destination: the option or the port isn't to be had, or, below 1024, not ours to take.
fn is_port_trouble(error: &io::Error) -> bool {
    let no_port = [Errno::ACCESS, Errno::ADDRNOTAVAIL, Errno::ADDRINUSE, Errno::NOPROTOOPT, Errno::PERM, Errno::INVAL];
    no_port.iter().any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
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
    reset_on_close(&socket);
    set_tcp_nodelay(&socket, true).map_err(|error| ConnectError::Io(error.into()))?;
    prepare(&socket).map_err(ConnectError::Io)?;
    let socket = TcpSocket::from_std_stream(socket.into());
    let limit = pod.shared.store.snapshot().mesh().timeouts.connect;
    match tokio::time::timeout(limit, socket.connect(destination)).await {
        Ok(result) => result.map_err(ConnectError::Io),
        Err(_elapsed) => Err(ConnectError::Timeout),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_outside_the_range_is_taken_in_repair_mode() {
        let range = 32_768..=60_999;
        assert_eq!(ways(&range, 40_000)[0], SourcePort::Range);
        assert_eq!(ways(&range, 1_000)[0], SourcePort::Repair);
        assert_eq!(ways(&range, 61_000).last(), Some(&SourcePort::Any));
    }

    #[test]
    fn a_port_that_takes_a_privilege_is_given_up_and_not_the_connection() {
        let error = |errno: Errno| io::Error::from_raw_os_error(errno.raw_os_error());
        assert!(is_port_trouble(&error(Errno::ACCESS)));
        assert!(!is_port_trouble(&error(Errno::CONNREFUSED)));
    }
}
