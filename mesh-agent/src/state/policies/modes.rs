//! The narrowest document decides on the mode, within the operator's bound.

use super::*;

/// The modes of port 80 and of port 81 of shop/web.
fn check(settings: &str, documents: &[&str]) -> [String; 2] {
    let documents: Vec<_> = documents.iter().map(|document| format!("PeerAuthentication {document}")).collect();
    let config = mesh(settings, &documents.iter().map(String::as_str).collect::<Vec<_>>());
    let modes = Modes::new(&config.mesh, &Roster::new(config.workloads.clone()), &config.peer_authentication, None);
    [80, 81].map(|port| {
        let EffectiveMode { mode, by, is_limited } = modes.of(&web(), port);
        let by = by.as_ref().map(|by| format!(" by {by}")).unwrap_or_default();
        format!("{}{by}{}", mode.name(), if is_limited { ", limited" } else { "" })
    })
}

/// Where everybody may choose.
const FREE: &str = "  mtls: {mode: PERMISSIVE}\n  minimumMode: DISABLE";
const SELECTED: &str = "selector: {matchLabels: {app: web}}";

#[test]
fn the_narrowest_document_decides() {
    let (namespace, mesh) = ("shop/all {mtls: {mode: STRICT}}", "hauberk-system/all {mtls: {mode: DISABLE}}");
    let own = format!("shop/own {{{SELECTED}, mtls: {{mode: PERMISSIVE}}, portLevelMtls: {{80: {{mode: DISABLE}}}}}}");
    let unset = format!("shop/own {{{SELECTED}, mtls: {{mode: UNSET}}, portLevelMtls: {{80: {{mode: DISABLE}}}}}}");
    let other = "shop/other {selector: {matchLabels: {app: db}}, mtls: {mode: DISABLE}}";
    assert_eq!(check("", &[]), ["STRICT", "STRICT"]);
    assert_eq!(check(FREE, &[]), ["PERMISSIVE", "PERMISSIVE"]);
    assert_eq!(check(FREE, &[mesh]), ["DISABLE by hauberk-system/all"; 2]);
    assert_eq!(check(FREE, &[mesh, namespace, other]), ["STRICT by shop/all"; 2]);
    assert_eq!(check(FREE, &[mesh, namespace, &own]), ["DISABLE by shop/own", "PERMISSIVE by shop/own"]);
    assert_eq!(check(FREE, &[mesh, namespace, &unset]), ["DISABLE by shop/own", "STRICT by shop/all"]);
    assert_eq!(check(FREE, &["bank/all {mtls: {mode: STRICT}}"]), ["PERMISSIVE"; 2]);
}

#[test]
fn of_equally_narrow_documents_the_strictest_decides() {
    let documents =
        ["shop/a {mtls: {mode: PERMISSIVE}}", "shop/b {mtls: {mode: STRICT}}", "shop/c {mtls: {mode: STRICT}}"];
    assert_eq!(check(FREE, &documents), ["STRICT by shop/b"; 2]);
}

#[test]
fn a_namespace_tightens_and_loosens_only_with_leave() {
    let loose = "shop/loose {mtls: {mode: PERMISSIVE}}";
    let strict = "shop/strict {mtls: {mode: STRICT}}";
    assert_eq!(check("", &[loose]), ["STRICT by shop/loose, limited"; 2]);
    assert_eq!(check("  minimumMode: PERMISSIVE", &[loose]), ["PERMISSIVE by shop/loose"; 2]);
    assert_eq!(
        check("  minimumMode: PERMISSIVE", &["shop/x {mtls: {mode: DISABLE}}"]),
        ["PERMISSIVE by shop/x, limited"; 2]
    );
    assert_eq!(check("  mayLoosen: [shop/loose]", &[loose]), ["PERMISSIVE by shop/loose"; 2]);
    assert_eq!(check("  mtls: {mode: PERMISSIVE}", &[strict]), ["STRICT by shop/strict"; 2]);
    // The operator's own documents keep to its minimum as well.
    assert_eq!(check("  minimumMode: STRICT", &["wide {mtls: {mode: DISABLE}}"]), ["STRICT by wide, limited"; 2]);
    assert_eq!(check("", &["wide {mtls: {mode: PERMISSIVE}}"]), ["PERMISSIVE by wide"; 2]);
}
