//! Lowers `FederatedTrustDomain` objects: the roots of another mesh, valid for its own identities only.

use super::value;
use super::walk::Node;
use crate::model::bundle;
use crate::model::spiffe::TrustDomain;
use crate::model::svid::TrustBundle;

/// Reads `spec`; `None` only if something required is missing or unreadable.
pub(super) fn lower(spec: &Node<'_>) -> Option<TrustBundle> {
    let fields = spec.object(&["trustDomain", "bundle"])?;
    let trust_domain = fields.required("trustDomain").and_then(|node| node.parse(value::trust_domain));
    let text = fields.required("bundle");
    let trust_domain = trust_domain?;
    text?.parse(|text| read(&trust_domain, text))
}

fn read(trust_domain: &TrustDomain, text: &str) -> Result<TrustBundle, String> {
    let roots = bundle::parse(text).map_err(|error| format!("can't be used: {error}"))?;
    for (index, root) in roots.iter().enumerate() {
        bundle::check_ca(root, trust_domain).map_err(|error| format!("certificate {index} {error}"))?;
    }
    Ok(TrustBundle { trust_domain: trust_domain.clone(), roots })
}
