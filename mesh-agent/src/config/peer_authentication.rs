//! Lowers `PeerAuthentication` objects, except for what the Mesh's root namespace means: see `config::assemble`.

use std::collections::BTreeMap;

use super::object::Metadata;
use super::policy::{self, ELSEWHERE, MODES};
use super::value;
use super::walk::Node;
use crate::model::mesh::MtlsMode;
use crate::model::policy::PeerAuthentication;

/// Reads `spec`; `None` only if something required is missing or unreadable.
pub(super) fn lower(metadata: &Metadata, spec: &Node<'_>) -> Option<PeerAuthentication> {
    let fields = spec.object_explaining(&["selector", "mtls", "portLevelMtls"], &ELSEWHERE)?;
    let scope = policy::scope(metadata, &fields);
    let overall = fields.optional("mtls").and_then(|node| mode(&node));
    let mut ports = BTreeMap::new();
    if let Some(node) = fields.optional("portLevelMtls") {
        if scope.labels.is_empty() {
            node.refuse("needs a selector: ports are those of single workloads");
        }
        for (port, settings) in node.entries() {
            match port.parse::<u16>() {
                Ok(port) if port != 0 => drop(ports.insert(port, mode(&settings))),
                _ => settings.refuse(format!("`{port}` is not a port (1 to 65535)")),
            }
        }
    }
    Some(PeerAuthentication { name: policy::name(metadata)?, scope, mode: overall, ports })
}

/// `UNSET` and nothing at all mean the same: what the next wider document says.
fn mode(node: &Node<'_>) -> Option<MtlsMode> {
    let mode = node.object(&["mode"])?.optional("mode")?;
    mode.parse(|text| if text == "UNSET" { Ok(None) } else { value::choice(&MODES)(text).map(Some) })?
}
