//! What Rego is asked: a connection's facts as JSON, the same for a module here and for an OPA server.

use std::net::{IpAddr, SocketAddr};

use serde_json::{Value, json};

use super::MeshState;
use crate::model::spiffe::SpiffeId;
use crate::model::workload::{Workload, WorkloadUid};

/// The `input` for a connection to `workload`. `peer` is `None` for plaintext: then `source.principal` is null. What is
/// said of the source's workload comes from its address, and only if that is the peer's.
pub fn rego_input(
    state: &MeshState,
    workload: &WorkloadUid,
    peer: Option<&SpiffeId>,
    source: IpAddr,
    destination: SocketAddr,
) -> Value {
    let from = state.at(source).filter(|from| Some(&from.identity) == peer);
    let to = state.workload(workload);
    json!({
        "source": {
            "principal": peer.map(SpiffeId::to_string),
            "namespace": peer.and_then(SpiffeId::namespace),
            "serviceAccount": peer.and_then(SpiffeId::service_account),
            "address": source.to_canonical().to_string(),
            "workload": from.map(|from| described(from)),
        },
        "destination": {
            "principal": to.map(|to| to.identity.to_string()),
            "address": destination.ip().to_canonical().to_string(),
            "port": destination.port(),
            "workload": to.map(|to| described(to)),
        },
    })
}

fn described(workload: &Workload) -> Value {
    json!({ "uid": workload.uid.to_string(), "labels": workload.labels })
}
