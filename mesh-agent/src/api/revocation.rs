//! `Revocation`: what takes an identity's standing away before it expires.

use schemars::JsonSchema;

use super::rule::{self, Rule};
use super::text::{DnsSubdomain, Pem, Serial, SpiffeId};

/// What is revoked: handshakes with it fail, and its live connections are reset within 5 s. Everything that is listed is.
#[derive(Clone, Debug, Eq, JsonSchema, PartialEq)]
#[schemars(rename_all = "camelCase", deny_unknown_fields, extend("x-rules" = [something()]))]
pub struct RevocationSpec {
    /// Identities, of trust domains that the mesh knows.
    #[schemars(length(min = 1), extend("uniqueItems" = true))]
    pub spiffe_ids: Option<Vec<SpiffeId>>,
    /// Certificates.
    #[schemars(length(min = 1), extend("uniqueItems" = true))]
    pub serials: Option<Vec<Serial>>,
    /// Nodes: what their agents hold for themselves.
    #[schemars(length(min = 1), extend("uniqueItems" = true))]
    pub nodes: Option<Vec<DnsSubdomain>>,
    /// A CA's own list (X.509 CRL, PEM).
    pub crl: Option<Pem>,
}

fn something() -> Rule {
    let reason = "revokes nothing, expected `spiffeIds`, `serials`, `nodes` or `crl`";
    rule::some_of(&["spiffeIds", "serials", "nodes", "crl"], reason)
}
