//! Lowers `Revocation` objects, except for whether their identities are of this mesh: see `config::assemble`.

use super::object::Metadata;
use super::value;
use super::walk::{Fields, Node};
use crate::model::crl::Crl;
use crate::model::revocation::{Revocation, Serial};
use crate::model::spiffe::SpiffeId;
use crate::model::workload::NodeName;

/// What can be revoked.
const KINDS: [&str; 4] = ["spiffeIds", "serials", "nodes", "crl"];

/// The lists of a file with no document around them.
pub(super) fn of_crl_file(name: &str, text: &str) -> Result<Revocation, String> {
    let (spiffe_ids, serials, nodes) = Default::default();
    Ok(Revocation { name: name.to_owned(), spiffe_ids, serials, nodes, crls: crl(text)? })
}

/// Reads `spec`; `None` only if something required is missing or unreadable.
pub(super) fn lower(metadata: &Metadata, spec: &Node<'_>) -> Option<Revocation> {
    let fields = spec.object(&KINDS)?;
    if KINDS.iter().all(|name| fields.optional(name).is_none()) {
        spec.refuse("revokes nothing, expected `spiffeIds`, `serials`, `nodes` or `crl`");
    }
    let spiffe_ids = list(&fields, "spiffeIds", spiffe_id);
    let serials = list(&fields, "serials", serial);
    let nodes = list(&fields, "nodes", |text| value::dns_subdomain(text).map(|name| NodeName::new(&name)));
    let crls = fields.optional("crl").and_then(|node| node.parse(crl)).unwrap_or_default();
    Some(Revocation { name: metadata.name.clone()?, spiffe_ids, serials, nodes, crls })
}

/// An empty list is a mistake: its author means to revoke somebody.
fn list<T: PartialEq>(fields: &Fields<'_>, name: &str, parse: impl Fn(&str) -> Result<T, String>) -> Vec<T> {
    let node = fields.optional(name);
    node.map(|node| node.some_distinct(|item| item.parse(&parse))).unwrap_or_default()
}

fn spiffe_id(text: &str) -> Result<SpiffeId, String> {
    SpiffeId::parse(text).map_err(|error| format!("`{text}` {error}"))
}

fn crl(text: &str) -> Result<Vec<Crl>, String> {
    crate::model::crl::parse(text).map_err(|error| error.to_string())
}

fn serial(text: &str) -> Result<Serial, String> {
    Serial::parse(text).ok_or_else(|| format!("`{text}` is not a serial number like `4f:0a:1b` or `4f0a1b`"))
}
