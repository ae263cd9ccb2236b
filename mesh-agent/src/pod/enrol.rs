//! Enrols one pod, in the order in which nothing can leak: listeners, links, map entries. Only then its SVID is asked for:
//! until it is there, connections wait in the listeners' queues.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use mesh_common::addr::IpKey;
use mesh_common::divert::PodDivert;
use mesh_common::steer::{Direction as Steering, PodSteer, listener_slot};
use mesh_common::{EXCLUDED_PORTS, PortList};
use rustix::net::{bind, listen, sockopt::set_socket_reuseaddr};
use tokio::net::TcpListener;
use tokio::sync::watch;

use crate::bpf::{BpfError, Kernel, Maps};
use crate::model::svid::X509Svid;
use crate::model::workload::{PodUid, Workload};
use crate::sys;
use crate::sys::cgroup::{self, Cgroup};
use crate::sys::netns::Netns;
use crate::telemetry::Direction;

/// As long as the kernel allows; `net.core.somaxconn` cuts it.
const BACKLOG: i32 = 4096;

/// A pod that the kernel side is ready for. Who carries its connections takes the listeners.
pub struct Enrolled {
    /// Which workload.
    pub workload: Arc<Workload>,
    /// The pod's number.
    pub number: u32,
    /// The pod's namespace.
    pub netns: Arc<Netns>,
    /// The agent's listeners inside the pod.
    pub listeners: Vec<(Direction, TcpListener)>,
    /// The workload's SVID, always the newest.
    pub svid: watch::Receiver<Arc<X509Svid>>,
}

/// Why a pod isn't enrolled.
#[derive(Debug, thiserror::Error)]
pub enum PodError {
    /// The kernel side failed.
    #[error(transparent)]
    Bpf(#[from] BpfError),
    /// Its cgroup can't be used.
    #[error("look up cgroup {}", path.display())]
    Cgroup {
        /// The configured path.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// It shares the agent's own namespace: a hostNetwork pod.
    #[error("the workload is on the host's network: it can't be enrolled")]
    HostNetwork,
    /// Its interfaces can't be listed.
    #[error("list the pod's interfaces")]
    Interfaces(#[source] io::Error),
    /// No listener inside its namespace.
    #[error("listen inside the pod on {address}")]
    Listen {
        /// Family and loopback address.
        address: SocketAddr,
        /// The cause.
        source: io::Error,
    },
    /// The configuration doesn't say where its namespace is.
    #[error("the workload has no spec.netns")]
    NoNetns,
    /// Nothing of it runs on this machine.
    #[error("find the pod {pod}")]
    Pod {
        /// Its uid.
        pod: PodUid,
        /// The cause.
        source: io::Error,
    },
    /// Its namespace can't be opened.
    #[error("open network namespace {}", path.display())]
    Netns {
        /// The configured path.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
}

/// Where a workload is on this machine.
pub(super) struct Place {
    /// Its network namespace.
    pub(super) netns: Netns,
    /// Its cgroup; all zero: any.
    pub(super) cgroup: Cgroup,
}

/// What is known of the namespace of a pod that was handed over.
pub(super) enum Handed {
    /// It is open.
    Open(Arc<OwnedFd>),
    /// An earlier agent had it: its cookie.
    Known(u64),
}

/// Finds a workload's namespace and cgroup: those that its document names, or those of its pod below `root`.
pub(super) fn locate(
    mount: &Path,
    root: &Path,
    workload: &Workload,
    handed: Option<Handed>,
) -> Result<Place, PodError> {
    let (netns, cgroup) = match &workload.pod {
        Some(pod) => {
            let lost = |source| PodError::Pod { pod: pod.clone(), source };
            let path = sys::pod::cgroup(root, pod.as_str()).map_err(lost)?;
            let path = path.ok_or_else(|| lost(io::Error::new(io::ErrorKind::NotFound, "it has no cgroup")))?;
            let netns = match handed {
                Some(Handed::Open(handed)) => handed.try_clone().and_then(Netns::of_descriptor),
                Some(Handed::Known(cookie)) => sys::pod::netns(&path, Some(cookie)),
                None => sys::pod::netns(&path, None),
            };
            (netns.map_err(lost)?, Some(path))
        }
        None => {
            let path = workload.netns.as_ref().ok_or(PodError::NoNetns)?;
            let netns = Netns::open(path).map_err(|source| PodError::Netns { path: path.clone(), source })?;
            (netns, workload.cgroup.clone())
        }
    };
    let own = Path::new("/proc/self/ns/net");
    let own = Netns::open(own).map_err(|source| PodError::Netns { path: own.to_owned(), source })?;
    if own.cookie() == netns.cookie() {
        return Err(PodError::HostNetwork);
    }
    let look_up = |path: PathBuf| cgroup::lookup(mount, &path).map_err(|source| PodError::Cgroup { path, source });
    let cgroup = cgroup.map(look_up).transpose()?.unwrap_or(Cgroup { id: 0, level: 0 });
    Ok(Place { netns, cgroup })
}

/// Lets TIME_WAIT hold a port for an instant instead of a minute: diverted connections and deliveries share one address
/// pair, which tcp_tw_reuse=2, the default, doesn't take for loopback. An instant is a second, or since kernel 6.14 what
/// tcp_tw_reuse_delay says, in milliseconds; TCP timestamps, which tick each of them, tell old segments from new ones
/// (RFC 6191). Restored with the end of this agent's work for the pod. `again`: an earlier agent has enrolled the pod.
pub(super) fn reuse_ports(netns: &mut Netns, workload: &Workload, again: bool) {
    if let Err(error) = netns.set_sysctl_until_drop("ipv4/tcp_tw_reuse", "1", again) {
        tracing::warn!(%error, workload = %workload.uid, "many short connections at once may run out of ports");
    }
    match netns.set_sysctl_until_drop("ipv4/tcp_tw_reuse_delay", "10", again) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            tracing::warn!(%error, workload = %workload.uid, "a port can be used again after a second at the earliest");
        }
        _ => {}
    }
}

/// Opens the listeners and puts them into the kernel's slots.
pub(super) fn open_listeners(
    maps: &Maps,
    workload: &Workload,
    netns: &Netns,
    number: u32,
) -> Result<Vec<(Direction, TcpListener)>, PodError> {
    let mut listeners = Vec::new();
    for v6 in [false, true] {
        if !workload.addresses.iter().any(|address| address.is_ipv6() == v6) {
            continue;
        }
        let loopback = if v6 { IpAddr::V6(Ipv6Addr::LOCALHOST) } else { IpAddr::V4(Ipv4Addr::LOCALHOST) };
        let address = SocketAddr::new(loopback, 0);
        for (direction, steering) in
            [(Direction::Inbound, Steering::Inbound), (Direction::Outbound, Steering::Outbound)]
        {
            let error = |source| PodError::Listen { address, source };
            let socket = open_listener(netns, &address).map_err(error)?;
            maps.set_listener(listener_slot(number, steering, v6), &socket)?;
            listeners.push((direction, TcpListener::from_std(socket.into()).map_err(error)?));
        }
    }
    Ok(listeners)
}

fn open_listener(netns: &Netns, address: &SocketAddr) -> io::Result<OwnedFd> {
    let socket = netns.tcp_socket(address)?;
    // Never SO_REUSEPORT: root in a pod has the agent's uid and could share the port.
    set_socket_reuseaddr(&socket, false)?;
    bind(&socket, address)?;
    listen(&socket, BACKLOG)?;
    Ok(socket)
}

/// Attaches the pod's programs.
pub(super) fn attach(kernel: &mut Kernel, netns: &Netns) -> Result<(), PodError> {
    let host_ends = sys::link::host_ends(netns).map_err(PodError::Interfaces)?;
    Ok(kernel.attach_pod(netns, &host_ends)?)
}

/// Writes the pod's map entries: what makes its traffic mesh traffic comes last.
pub(super) fn publish(
    maps: &Maps,
    workload: &Workload,
    cgroup: Cgroup,
    cookie: u64,
    number: u32,
) -> Result<(), PodError> {
    let steer =
        PodSteer { netns: cookie, pod: number, excluded_ports: ports(&workload.exclude.inbound_ports), padding: 0 };
    maps.set_exclusions(number, &workload.exclude.outbound_ranges)?;
    for address in &workload.addresses {
        maps.set_address(IpKey::from(*address), &steer)?;
    }
    let of_family = |v6: bool| workload.addresses.iter().find(|address| address.is_ipv6() == v6);
    let pod = PodDivert {
        cgroup: cgroup.id,
        address4: of_family(false).map(|address| IpKey::from(*address)).unwrap_or_default(),
        address6: of_family(true).map(|address| IpKey::from(*address)).unwrap_or_default(),
        pod: number,
        cgroup_level: cgroup.level,
        excluded_ports: ports(&workload.exclude.outbound_ports),
    };
    Ok(maps.set_pod(cookie, &pod)?)
}

/// The configuration has checked that there are no more than slots.
fn ports(listed: &[u16]) -> PortList {
    let mut ports = [0; EXCLUDED_PORTS];
    for (slot, port) in ports.iter_mut().zip(listed) {
        *slot = *port;
    }
    ports
}
