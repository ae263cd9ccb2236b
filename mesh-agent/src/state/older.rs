//! Decides which of a pod's sockets are connections that the mesh should carry and doesn't.
//!
//! In an enrolled pod there can be none but those that are older than its enrolment: since then the kernel diverts and
//! steers. The rule repeats what it does (`mesh-common`, divert.rs and steer.rs) for sockets that no hook has seen.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::MeshState;
use crate::model::socket::{SocketOwner, SocketStage, TcpSocket};
use crate::model::workload::Workload;

/// The positions in `sockets`, all of the pod of `workload` at its enrolment, of those that are older; handshakes among them
/// may become the agent's. `again`: an agent has enrolled the pod before, and what it had may still be closing.
pub fn older_than_enrolment(state: &MeshState, workload: &Workload, sockets: &[TcpSocket], again: bool) -> Vec<usize> {
    let listening: BTreeSet<u16> = sockets
        .iter()
        .filter(|socket| socket.stage == SocketStage::Listener)
        .map(|socket| socket.local.port())
        .collect();
    let is_older = |socket: &TcpSocket| {
        let is_candidate = match (socket.stage, socket.owner) {
            (SocketStage::Listener, _) | (_, SocketOwner::Agent) => false,
            (SocketStage::Connection, SocketOwner::Nobody) => !again,
            (SocketStage::Opening, _) | (_, SocketOwner::Other) => true,
        };
        is_candidate && belongs_into_mesh(state, workload, socket, &listening)
    };
    sockets.iter().enumerate().filter(|(_, socket)| is_older(socket)).map(|(position, _)| position).collect()
}

fn belongs_into_mesh(state: &MeshState, workload: &Workload, socket: &TcpSocket, listening: &BTreeSet<u16>) -> bool {
    let (local, remote) = (socket.local.ip().to_canonical(), socket.remote.ip().to_canonical());
    if stays_in_pod(remote) || workload.addresses.contains(&remote) {
        return false;
    }
    let exclude = &workload.exclude;
    // The kernel doesn't tell who has connected. A port that is listened on is a server's.
    if listening.contains(&socket.local.port()) {
        return workload.addresses.contains(&local) && !exclude.inbound_ports.contains(&socket.local.port());
    }
    // It may also be of a server that has stopped to listen.
    !exclude.inbound_ports.contains(&socket.local.port())
        && !exclude.outbound_ports.contains(&socket.remote.port())
        && !exclude.outbound_ranges.iter().any(|range| range.contains(&remote))
        && state.is_diverted(remote)
}

fn stays_in_pod(remote: IpAddr) -> bool {
    let link_local = match remote {
        IpAddr::V4(remote) => remote.is_link_local(),
        IpAddr::V6(remote) => remote.is_unicast_link_local(),
    };
    link_local || remote.is_loopback() || remote.is_unspecified()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{SourceFile, parse};

    const TEXT: &str = "
apiVersion: mesh.hauberk.dev/v1alpha1
kind: Mesh
metadata: {name: mesh}
spec:
  trustDomain: test
  podRanges: [10.0.0.0/8, 'fd00::/8']
  issuer: {embedded: {certificate: a, key: b}}
---
apiVersion: mesh.hauberk.dev/v1alpha1
kind: Workload
metadata: {name: web, namespace: shop}
spec:
  node: a
  addresses: [10.0.0.2, 'fd00::2']
  exclude: {inboundPorts: [9090], outboundPorts: [53], outboundRanges: [10.9.0.0/16]}
";

    fn socket(local: &str, remote: &str, owner: SocketOwner) -> TcpSocket {
        let stage = if remote == "0.0.0.0:0" { SocketStage::Listener } else { SocketStage::Connection };
        TcpSocket { local: local.parse().unwrap(), remote: remote.parse().unwrap(), stage, owner }
    }

    /// Whether a socket goes, in a pod with servers on 80 and 9090.
    fn goes(local: &str, remote: &str, owner: SocketOwner, again: bool) -> bool {
        let state = MeshState::new(parse(&[SourceFile { name: "m.yaml".into(), text: TEXT.to_owned() }]).unwrap());
        let workload = state.at("10.0.0.2".parse().unwrap()).unwrap();
        let listener = |port| socket(&format!("0.0.0.0:{port}"), "0.0.0.0:0", SocketOwner::Other);
        let sockets = [listener(80), listener(9090), socket(local, remote, owner)];
        let found = older_than_enrolment(&state, workload, &sockets, again);
        assert!(!found.contains(&0) && !found.contains(&1), "listeners stay");
        found == [2]
    }

    #[test]
    fn connections_of_both_directions_go_over_both_families() {
        for (local, remote) in [
            ("10.0.0.2:80", "10.0.0.3:40000"),
            ("10.0.0.2:80", "192.0.2.1:40000"),
            ("[::ffff:10.0.0.2]:80", "[::ffff:10.0.0.3]:40000"),
            ("[fd00::2]:80", "[2001:db8::1]:40000"),
            ("10.0.0.2:40000", "10.0.0.3:5432"),
            ("[fd00::2]:40000", "[fd00::3]:5432"),
            // Its server listens no more.
            ("10.0.0.2:81", "10.0.0.3:40000"),
        ] {
            assert!(goes(local, remote, SocketOwner::Other, false), "{local} {remote}");
        }
    }

    #[test]
    fn what_the_mesh_leaves_alone_stays() {
        for (local, remote) in [
            ("10.0.0.2:9090", "10.0.0.3:40000"),
            ("10.0.0.2:40000", "10.0.0.3:53"),
            ("10.0.0.2:40000", "10.9.0.3:5432"),
            ("10.0.0.2:40000", "192.0.2.1:443"),
            ("127.0.0.1:80", "127.0.0.1:40000"),
            ("[fe80::2]:40000", "[fe80::1]:80"),
            // Diverted, or delivered by the agent.
            ("10.0.0.2:40000", "10.0.0.2:15900"),
            ("10.0.0.2:80", "10.0.0.2:40000"),
            // Not one of the workload's addresses.
            ("10.77.0.1:80", "10.0.0.3:40000"),
        ] {
            assert!(!goes(local, remote, SocketOwner::Other, false), "{local} {remote}");
        }
    }

    #[test]
    fn the_agents_own_stay_and_orphans_where_they_may_be_its() {
        let check = |owner, again| goes("10.0.0.2:40000", "10.0.0.3:80", owner, again);
        assert!(!check(SocketOwner::Agent, false) && !check(SocketOwner::Agent, true));
        assert!(check(SocketOwner::Nobody, false) && !check(SocketOwner::Nobody, true));
        assert!(check(SocketOwner::Other, true));
    }
}
