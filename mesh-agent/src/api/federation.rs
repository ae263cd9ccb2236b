//! `FederatedTrustDomain`: the roots of another mesh.

use schemars::JsonSchema;

use super::text::{Pem, TrustDomain};

/// Another trust domain whose identities are accepted. Its roots are good for its own identities only.
#[derive(Clone, Debug, Eq, JsonSchema, PartialEq)]
#[schemars(rename_all = "camelCase", deny_unknown_fields)]
pub struct FederatedTrustDomainSpec {
    /// Its name; not the Mesh's own.
    pub trust_domain: TrustDomain,
    /// Its roots: PEM or a SPIFFE bundle.
    pub bundle: Pem,
}
