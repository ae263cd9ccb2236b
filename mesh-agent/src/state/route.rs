//! Decides where a diverted connection goes, and whether as mTLS or as plaintext.
//!
//! The only place that may say plaintext for an outbound connection.

use std::net::{IpAddr, SocketAddr};

use super::MeshState;
use crate::model::mesh::MtlsMode;
use crate::model::spiffe::SpiffeId;
use crate::model::workload::Workload;

/// What becomes of one outbound connection.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Route {
    /// Mutual TLS to the original destination, where this identity must answer.
    Mesh(SpiffeId),
    /// As the application meant it.
    Plaintext,
    /// Nobody is known yet to have this address of a pod or a service: ask again with a newer snapshot, and in the end take what is here.
    Unknown(Fallback),
}

/// What becomes of a connection whose destination stays unknown.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Fallback {
    /// As the application meant it: the mesh is permissive.
    Plaintext,
    /// Reset: the mesh is strict.
    Reset,
}

/// Routes a connection of `source` to its destination: the original one, or the endpoint chosen for it.
pub fn route(state: &MeshState, source: &Workload, destination: SocketAddr) -> Route {
    // Behind a service it may be the pod itself: that never leaves it, and meets no agent.
    if source.addresses.contains(&destination.ip()) {
        return Route::Plaintext;
    }
    if is_awaited(state, source, destination.ip()) {
        return unknown(state);
    }
    match state.at(destination.ip()) {
        Some(workload) if workload.exclude.inbound_ports.contains(&destination.port()) => Route::Plaintext,
        Some(workload) if state.modes().of(&workload.uid, destination.port()).mode == MtlsMode::Disable => {
            Route::Plaintext
        }
        Some(workload) => Route::Mesh(workload.identity.clone()),
        None => Route::Plaintext,
    }
}

/// Whether it isn't known yet who has this address, or whether its node serves it.
pub(super) fn is_awaited(state: &MeshState, source: &Workload, address: IpAddr) -> bool {
    match state.at(address) {
        _ if source.addresses.contains(&address) => false,
        Some(workload) => !workload.announced,
        None => state.is_unsettled(address) || (state.in_pod_ranges(address) && !state.is_outside(address)),
    }
}

/// An address of the mesh that nobody serves yet.
fn unknown(state: &MeshState) -> Route {
    Route::Unknown(match state.modes().whole().mode {
        MtlsMode::Disable | MtlsMode::Permissive => Fallback::Plaintext,
        MtlsMode::Strict => Fallback::Reset,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{SourceFile, parse};
    use crate::model::service::ServiceSpace;

    fn state(mode: &str) -> MeshState {
        let text = format!(
            "apiVersion: mesh.hauberk.dev/v1alpha1\n\
             kind: Mesh\n\
             metadata: {{name: mesh}}\n\
             spec:\n  trustDomain: test\n  mtls: {{mode: {mode}}}\n  podRanges: [10.0.0.0/8, 'fd00::/8']\n\
             \x20 issuer: {{embedded: {{certificate: ca.crt, key: ca.key}}}}\n\
             ---\n\
             apiVersion: mesh.hauberk.dev/v1alpha1\n\
             kind: Workload\n\
             metadata: {{name: web, namespace: shop}}\n\
             spec: {{node: b, addresses: [10.0.0.2, 'fd00::2'], exclude: {{inboundPorts: [9090]}}}}\n\
             ---\n\
             apiVersion: mesh.hauberk.dev/v1alpha1\n\
             kind: Workload\n\
             metadata: {{name: cart, namespace: shop}}\n\
             spec: {{node: a, addresses: [10.0.0.9]}}\n"
        );
        let mut config = parse(&[SourceFile { name: "mesh.yaml".into(), text }]).unwrap();
        config.service_space = ServiceSpace {
            ranges: ["172.20.0.0/16", "2001:db8:96::/112"].map(|range| range.parse().unwrap()).to_vec(),
            foreign: ["172.20.0.1", "192.0.2.20"].map(|address| address.parse().unwrap()).into(),
            unsettled: ["172.20.0.2", "192.0.2.10"].map(|address| address.parse().unwrap()).into(),
        };
        MeshState::new(config)
    }

    fn check(mode: &str, destination: &str) -> Route {
        let state = state(mode);
        route(&state, state.at("10.0.0.9".parse().unwrap()).unwrap(), destination.parse().unwrap())
    }

    #[test]
    fn a_workloads_address_must_answer_with_its_identity() {
        let web = Route::Mesh(SpiffeId::parse("spiffe://test/ns/shop/sa/default").unwrap());
        for destination in ["10.0.0.2:80", "[::ffff:10.0.0.2]:80", "[fd00::2]:80"] {
            assert_eq!(check("STRICT", destination), web);
            assert_eq!(check("PERMISSIVE", destination), web);
        }
    }

    #[test]
    fn a_pods_own_address_stays_in_the_pod() {
        assert_eq!(check("STRICT", "10.0.0.9:80"), Route::Plaintext);
    }

    #[test]
    fn plaintext_needs_an_excluded_port_or_a_destination_outside() {
        assert_eq!(check("STRICT", "10.0.0.2:9090"), Route::Plaintext);
        assert_eq!(check("STRICT", "192.0.2.1:80"), Route::Plaintext);
    }

    #[test]
    fn an_unknown_pod_is_reset_unless_the_mesh_is_permissive() {
        assert_eq!(check("STRICT", "10.0.0.3:80"), Route::Unknown(Fallback::Reset));
        assert_eq!(check("PERMISSIVE", "10.0.0.3:80"), Route::Unknown(Fallback::Plaintext));
    }

    #[test]
    fn an_address_that_an_unknown_service_may_have_is_as_an_unknown_pods() {
        let unknown =
            ["172.20.0.2:80", "172.20.0.3:80", "[::ffff:172.20.0.3]:80", "[2001:db8:96::9]:80", "192.0.2.10:80"];
        for destination in unknown {
            assert_eq!(check("STRICT", destination), Route::Unknown(Fallback::Reset), "{destination}");
            assert_eq!(check("PERMISSIVE", destination), Route::Unknown(Fallback::Plaintext), "{destination}");
            let address = destination.parse::<SocketAddr>().unwrap().ip();
            assert!(state("STRICT").is_diverted(address), "{destination}");
        }
        for foreign in ["172.20.0.1:443", "[::ffff:172.20.0.1]:443", "192.0.2.20:80"] {
            assert_eq!(check("STRICT", foreign), Route::Plaintext, "{foreign}");
            assert!(!state("STRICT").is_diverted(foreign.parse::<SocketAddr>().unwrap().ip()), "{foreign}");
        }
    }

    #[test]
    fn the_kernel_diverts_ranges_of_services_but_for_those_of_others() {
        let shown = |ranges: Vec<ipnet::IpNet>| {
            let mut shown: Vec<_> = ranges.iter().map(ToString::to_string).collect();
            shown.sort();
            shown
        };
        let state = state("STRICT");
        let diverted = ["10.0.0.0/8", "172.20.0.0/16", "192.0.2.10/32", "2001:db8:96::/112", "fd00::/8"];
        assert_eq!(shown(state.diverted().collect()), diverted);
        assert_eq!(shown(state.exempt().collect()), ["172.20.0.1/32"]);
    }
}
