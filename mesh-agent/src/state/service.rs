//! Decides which endpoint of a service a connection goes to.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use super::MeshState;
use crate::model::service::{Affinity, Endpoint, Service, TrafficPolicy};
use crate::model::workload::Workload;

/// Where a connection to an address goes.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Target {
    /// There: no service has the address.
    Itself(SocketAddr),
    /// To this endpoint of this service.
    Endpoint(Arc<Service>, SocketAddr),
    /// Nowhere: the connection is refused, as a port is where nobody listens.
    Nowhere(Arc<Service>, NoEndpoint),
}

/// Why a service has nobody for a connection.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum NoEndpoint {
    /// It doesn't have the port.
    Port,
    /// Nobody is ready.
    Ready,
}

impl NoEndpoint {
    /// A stable label.
    pub const fn reason(self) -> &'static str {
        match self {
            Self::Port => "no_service_port",
            Self::Ready => "no_endpoint",
        }
    }
}

/// Chooses for a connection of `source`, from `client`; `random` is one, and new for each connection.
pub fn choose(state: &MeshState, source: &Workload, client: IpAddr, destination: SocketAddr, random: u64) -> Target {
    let destination = SocketAddr::new(destination.ip().to_canonical(), destination.port());
    let Some(service) = state.service_at(destination.ip()) else { return Target::Itself(destination) };
    let service = Arc::clone(service);
    match candidates(&service, source, destination) {
        Err(none) => Target::Nowhere(service, none),
        Ok(endpoints) => {
            let chosen = match service.affinity {
                Affinity::None => endpoints[usize::try_from(random % endpoints.len() as u64).unwrap_or_default()],
                Affinity::ClientIp => closest(&endpoints, client),
            };
            Target::Endpoint(service, chosen)
        }
    }
}

/// Everyone that a connection of `source` may get; never empty.
pub fn candidates(
    service: &Service,
    source: &Workload,
    destination: SocketAddr,
) -> Result<Vec<SocketAddr>, NoEndpoint> {
    let port = service.ports.iter().find(|port| port.port == destination.port()).ok_or(NoEndpoint::Port)?;
    let counts = |endpoint: &&Endpoint| {
        let is_near = service.traffic == TrafficPolicy::Cluster || endpoint.node.as_ref() == Some(&source.node);
        endpoint.ready && is_near && endpoint.address.is_ipv4() == destination.is_ipv4()
    };
    let found: Vec<_> = port.endpoints.iter().filter(counts).map(|endpoint| endpoint.address).collect();
    if found.is_empty() { Err(NoEndpoint::Ready) } else { Ok(found) }
}

/// Rendezvous hashing (Thaler and Ravishankar, 1998): only the clients of an endpoint that goes get another one, and every
/// node chooses the same without asking.
fn closest(endpoints: &[SocketAddr], client: IpAddr) -> SocketAddr {
    let weigh = |endpoint: &&SocketAddr| (weight(client, **endpoint), **endpoint);
    *endpoints.iter().max_by_key(weigh).unwrap_or(&endpoints[0])
}

/// FNV-1a, and the finalizer of splitmix64: the former alone leaves the high bits alike for addresses that differ at the end.
fn weight(client: IpAddr, endpoint: SocketAddr) -> u64 {
    let octets = |address: IpAddr| match address {
        IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
        IpAddr::V6(address) => address.octets(),
    };
    let bytes =
        octets(client.to_canonical()).into_iter().chain(octets(endpoint.ip())).chain(endpoint.port().to_be_bytes());
    let hash =
        bytes.fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    let mixed = (hash ^ hash >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ mixed >> 31
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{SourceFile, parse};
    use std::collections::BTreeMap;

    /// `shop/db` at 10.96.0.1 and fd96::1, with the workloads one (node a), two and three (node b), of which three has no
    /// IPv6 address; and other's explicit endpoint.
    fn state(settings: &str) -> MeshState {
        let head = "---\napiVersion: mesh.hauberk.dev/v1alpha1\nkind:";
        let mut text = format!(
            "{head} Mesh\nmetadata: {{name: mesh}}\nspec: {{trustDomain: t, issuer: {{embedded: {{certificate: a, key: b}}}}}}\n\
             {head} Service\nmetadata: {{name: db, namespace: shop}}\nspec:\n  addresses: [10.96.0.1, 'fd96::1']\n  \
             ports: [{{port: 80, targetPort: 8080}}, {{port: 81}}]\n  selector: {{app: db}}\n{settings}\n\
             {head} Service\nmetadata: {{name: other, namespace: shop}}\nspec: {{addresses: [10.96.0.2], ports: [{{port: 5}}], endpoints: [192.0.2.1]}}\n\
             {head} Service\nmetadata: {{name: nobody, namespace: bank}}\nspec: {{addresses: [10.96.0.3], ports: [{{port: 80}}], selector: {{app: db}}}}\n"
        );
        for (name, node, addresses) in
            [("one", "a", "10.0.0.1, 'fd00::1'"), ("two", "b", "10.0.0.2, 'fd00::2'"), ("three", "b", "10.0.0.3")]
        {
            text += &format!(
                "{head} Workload\nmetadata: {{name: {name}, namespace: shop, labels: {{app: db}}}}\nspec: {{node: {node}, addresses: [{addresses}]}}\n"
            );
        }
        MeshState::new(parse(&[SourceFile { name: "m.yaml".into(), text }]).unwrap_or_else(|error| panic!("{error}")))
    }

    /// How often each endpoint is chosen by `clients` clients, ten times each.
    fn spread(settings: &str, to: &str, clients: u8) -> BTreeMap<String, usize> {
        let (state, mut chosen) = (state(settings), BTreeMap::new());
        let source = state.at("10.0.0.1".parse().unwrap()).unwrap();
        for client in 0..clients {
            for random in 0..10 {
                let to = to.parse().unwrap();
                let target = match choose(&state, source, IpAddr::from([10, 0, 9, client]), to, random) {
                    Target::Itself(address) => format!("itself {address}"),
                    Target::Endpoint(service, address) => format!("{} {address}", service.uid),
                    Target::Nowhere(service, why) => format!("{} {}", service.uid, why.reason()),
                };
                *chosen.entry(target).or_default() += 1;
            }
        }
        chosen
    }

    fn check(settings: &str, to: &str, expected: &[(&str, usize)]) {
        let expected: BTreeMap<_, _> = expected.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect();
        assert_eq!(spread(settings, to, 1), expected, "{to}");
    }

    #[test]
    fn a_service_stands_for_its_workloads_port_by_port() {
        check(
            "",
            "10.96.0.1:80",
            &[("shop/db 10.0.0.1:8080", 4), ("shop/db 10.0.0.2:8080", 3), ("shop/db 10.0.0.3:8080", 3)],
        );
        check("", "[::ffff:10.96.0.2]:5", &[("shop/other 192.0.2.1:5", 10)]);
        check("", "[fd96::1]:81", &[("shop/db [fd00::1]:81", 5), ("shop/db [fd00::2]:81", 5)]);
        check("  internalTrafficPolicy: Local", "10.96.0.1:81", &[("shop/db 10.0.0.1:81", 10)]);
    }

    #[test]
    fn what_no_service_has_is_itself_and_what_nobody_serves_is_refused() {
        check("", "10.0.0.2:80", &[("itself 10.0.0.2:80", 10)]);
        check("", "10.96.0.1:82", &[("shop/db no_service_port", 10)]);
        // A selector is for its own namespace.
        check("", "10.96.0.3:80", &[("bank/nobody no_endpoint", 10)]);
    }

    #[test]
    fn affinity_keeps_a_client_and_spreads_clients() {
        let settings = "  sessionAffinity: ClientIP";
        let one = spread(settings, "10.96.0.1:80", 1);
        assert_eq!(one.values().collect::<Vec<_>>(), [&10]);
        let all = spread(settings, "10.96.0.1:80", 240);
        assert!(all.len() == 3 && all.values().all(|count| (500..1100).contains(count)), "{all:?}");
    }

    #[test]
    fn who_loses_an_endpoint_gets_another_and_nobody_else_does() {
        let endpoints: Vec<SocketAddr> = (1..=5).map(|last| SocketAddr::from(([10, 0, 0, last], 80))).collect();
        let fewer = &endpoints[..4];
        for last in 0..=255 {
            let client = IpAddr::from([10, 0, 9, last]);
            let before = closest(&endpoints, client);
            assert!(before == endpoints[4] || before == closest(fewer, client), "{client}");
        }
    }
}
