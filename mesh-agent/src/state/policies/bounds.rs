//! A namespace tightens what holds for the whole mesh, and loosens it only if the Mesh names it.

use super::*;

fn check(settings: &str, documents: &[&str], peer: &str) -> String {
    let documents: Vec<_> = documents.iter().map(|policy| format!("AuthorizationPolicy {policy}")).collect();
    let documents: Vec<_> = documents.iter().map(String::as_str).collect();
    shown(&decide_in(&mesh(settings, &documents), peer))
}

const WIDE: &str = "wide {rules: [{from: [{source: {namespaces: [curl, mon]}}]}]}";
const SHOP: &str = "shop/own {rules: [{from: [{source: {namespaces: [curl, guest]}}]}]}";
const MON: &str = "td/ns/mon/sa/mon";
const GUEST: &str = "td/ns/guest/sa/guest";

#[test]
fn without_leave_both_must_allow() {
    assert_eq!(check("", &[WIDE, SHOP], CURL), "ok by shop/own[0]");
    assert_eq!(check("", &[WIDE, SHOP], MON), "no by shop/own");
    assert_eq!(check("", &[WIDE, SHOP], GUEST), "no by wide");
    assert_eq!(check("", &[WIDE], GUEST), "no by wide");
    assert_eq!(check("", &[SHOP], GUEST), "ok by shop/own[0]");
}

#[test]
fn with_leave_one_is_enough_as_in_istio() {
    for settings in ["  mayLoosen: ['*']", "  mayLoosen: [shop]", "  mayLoosen: [shop/own]"] {
        for peer in [CURL, MON] {
            assert_eq!(check(settings, &[WIDE, SHOP], peer), "ok by wide[0]", "{settings} {peer}");
        }
        assert_eq!(check(settings, &[WIDE, SHOP], GUEST), "ok by shop/own[0]", "{settings}");
        assert_eq!(check(settings, &["wide {}", SHOP], MON), "no by wide", "{settings}");
        assert_eq!(check(settings, &[SHOP], MON), "no by shop/own", "{settings}");
    }
    assert_eq!(check("  mayLoosen: [bank, shop/other]", &[WIDE, SHOP], GUEST), "no by wide");
}

#[test]
fn a_deny_of_the_operator_holds_whoever_may_loosen() {
    let deny = "wide {action: DENY, rules: [{from: [{source: {namespaces: [guest]}}]}]}";
    assert_eq!(check("  mayLoosen: ['*']", &[deny, SHOP], GUEST), "no by wide[0]");
}
