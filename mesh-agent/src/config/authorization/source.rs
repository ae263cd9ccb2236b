//! Lowers who connects: identities, namespaces, service accounts, addresses.

use super::super::value;
use super::super::walk::{Fields, Node};
use super::{LAYER_7, list};
use crate::model::policy::{Match, Pattern, ServiceAccount, Source};
use crate::model::spiffe::SpiffeId;

const KNOWN: [&str; 8] = [
    "principals",
    "notPrincipals",
    "namespaces",
    "notNamespaces",
    "serviceAccounts",
    "notServiceAccounts",
    "ipBlocks",
    "notIpBlocks",
];

/// Why addresses that only a proxy reports are refused.
const REMOTE_IP: &str =
    "is what a layer-7 proxy reports, and nobody does here: use `ipBlocks`, the address of the connection";

/// Reads one item of `from`.
pub(super) fn lower(item: &Node<'_>, namespace: Option<&str>) -> Option<Source> {
    let node = item.object(&["source"])?.required("source")?;
    let elsewhere = [
        ("requestPrincipals", LAYER_7),
        ("notRequestPrincipals", LAYER_7),
        ("remoteIpBlocks", REMOTE_IP),
        ("notRemoteIpBlocks", REMOTE_IP),
    ];
    let fields = node.object_explaining(&KNOWN, &elsewhere)?;
    if KNOWN.iter().all(|name| fields.optional(name).is_none()) && !node.has_any(&elsewhere.map(|(name, _)| name)) {
        node.refuse("is empty, expected one of `principals`, `namespaces`, `serviceAccounts`, `ipBlocks` or their `not` forms; for everybody leave `from` out");
    }
    if fields.optional("serviceAccounts").is_some() {
        let both = ["principals", "namespaces"].into_iter().filter_map(|name| fields.optional(name));
        both.for_each(|node| node.refuse("can't be beside `serviceAccounts`, which says the same more exactly"));
    }
    Some(Source {
        principals: principals(&fields, ["principals", "notPrincipals"]),
        namespaces: namespaces(&fields, ["namespaces", "notNamespaces"]),
        service_accounts: list(&fields, ["serviceAccounts", "notServiceAccounts"], |node| {
            node.parse(|text| service_account(text, namespace))
        }),
        ip_blocks: list(&fields, ["ipBlocks", "notIpBlocks"], |node| node.parse(value::range_or_address)),
    })
}

/// Reads two lists of identities.
pub(super) fn principals(fields: &Fields<'_>, names: [&str; 2]) -> Match<Pattern> {
    list(fields, names, |node| node.parse(principal))
}

/// Reads two lists of namespaces.
pub(super) fn namespaces(fields: &Fields<'_>, names: [&str; 2]) -> Match<Pattern> {
    list(fields, names, |node| node.parse(namespace))
}

fn principal(text: &str) -> Result<Pattern, String> {
    let bare = text.strip_prefix("spiffe://").unwrap_or(text);
    let pattern = pattern(text, bare)?;
    if let Pattern::Exact(exact) = &pattern {
        let id = SpiffeId::parse(&format!("spiffe://{exact}")).map_err(|error| format!("`{text}` {error}"))?;
        if id.path().is_empty() {
            return Err(format!("`{text}` is not an identity like `example.org/ns/shop/sa/web`"));
        }
    }
    Ok(pattern)
}

fn namespace(text: &str) -> Result<Pattern, String> {
    let pattern = pattern(text, text)?;
    if let Pattern::Exact(exact) = &pattern {
        value::dns_label(exact)?;
    }
    Ok(pattern)
}

/// `text` is what was written, `bare` what counts of it.
fn pattern(text: &str, bare: &str) -> Result<Pattern, String> {
    let pattern = Pattern::parse(bare);
    let inner = match &pattern {
        Pattern::Present => return Ok(pattern),
        Pattern::Exact(inner) | Pattern::Prefix(inner) | Pattern::Suffix(inner) => inner,
    };
    if inner.contains('*') {
        return Err(format!("`{text}` has a `*` that is neither its first nor its last character"));
    }
    if inner.is_empty() || !inner.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-_/".contains(&byte)) {
        return Err(format!("`{text}` has a character that no identity has"));
    }
    Ok(pattern)
}

fn service_account(text: &str, namespace: Option<&str>) -> Result<ServiceAccount, String> {
    let (namespace, name) = match (text.split_once('/'), namespace) {
        (Some((namespace, name)), _) => (namespace, name),
        (None, Some(namespace)) => (namespace, text),
        (None, None) => return Err(format!("`{text}` has no namespace, write `<namespace>/{text}`")),
    };
    Ok(ServiceAccount { namespace: value::dns_label(namespace)?, name: value::dns_subdomain(name)? })
}
