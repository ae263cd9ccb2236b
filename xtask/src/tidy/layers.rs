//! The layers of `mesh-agent/src` and what may import what: STYLE's table, as code.
use super::{Violation, paths::SourcePath};

/// The modules of each layer; imports point to lower ones.
const LAYERS: [&[&str]; 6] = [
    &["api", "model"],
    &["config", "policy", "state"],
    &["store", "sys", "telemetry"],
    &["bpf", "identity", "kubernetes", "opa", "tls"],
    &["admin", "cni", "pod", "proxy", "signing", "sources"],
    &["app", "args", "main"],
];

/// Allowed within a layer: a snapshot holds policies and what was configured.
const SIDEWAYS: [(&str, &str); 2] = [("state", "config"), ("state", "policy")];

/// The layer that wires everything, itself included.
const WIRING: usize = 5;

/// Fakes of any layer, for tests: they may import all, and only tests see them.
const EXEMPT: &str = "fake";

/// Modules below this layer hold values and rules only: no I/O, no clock, no log.
const FIRST_IMPURE: usize = 2;

/// What does I/O, reads clocks or logs, and so has no place among values and rules.
const IMPURE_CRATES: [&str; 8] = ["aya", "kube", "libc", "nix", "rustix", "rustls", "tokio", "tracing"];

/// Rules take the time as an argument.
const CLOCKS: [&str; 2] = ["Instant", "SystemTime"];

/// Checks the paths of the file `name` if it belongs to the agent.
pub(super) fn check(name: &str, paths: &[SourcePath]) -> Vec<Violation> {
    let Some(module) = module_of(name) else { return Vec::new() };
    let Some(from) = module.first().filter(|top| *top != EXEMPT) else { return Vec::new() };
    let Some(layer) = layer_of(from) else {
        return vec![Violation::new(name, 1, format!("module `{from}` has no layer: give it one in xtask's table"))];
    };
    let mut violations = Vec::new();
    for path in paths {
        let edge = target_of(path, &module).and_then(|to| judge(from, &to));
        let impurity = if layer < FIRST_IMPURE { impurity(path, layer, from) } else { None };
        violations.extend(edge.into_iter().chain(impurity).map(|what| Violation::new(name, path.line, what)));
    }
    violations
}

/// The module path of a file of the agent: `src/policy/set.rs` is `policy::set`. The root file only lists modules.
fn module_of(name: &str) -> Option<Vec<String>> {
    let path = name.strip_prefix("mesh-agent/src/")?.strip_suffix(".rs")?;
    if path == "lib" {
        return None;
    }
    Some(path.split('/').filter(|part| *part != "mod").map(str::to_owned).collect())
}

fn layer_of(module: &str) -> Option<usize> {
    LAYERS.iter().position(|modules| modules.contains(&module))
}

/// The top-level module of our own crate that `path` leads to from inside `module`.
fn target_of(path: &SourcePath, module: &[String]) -> Option<String> {
    let segments = &path.segments;
    let supers = segments.iter().take_while(|segment| *segment == "super").count();
    match segments.first()?.as_str() {
        "crate" | "mesh_agent" => segments.get(1).cloned(),
        "super" if supers >= module.len() + path.inline_modules => segments.get(supers).cloned(),
        _ => None,
    }
}

/// What is wrong with `from` importing `to`, if anything.
fn judge(from: &str, to: &str) -> Option<String> {
    if from == to || to == EXEMPT {
        return None;
    }
    let (source, target) = (layer_of(from)?, layer_of(to));
    let Some(target) = target else {
        return Some(format!("`{from}` (L{source}) imports `{to}`, which has no layer"));
    };
    let allowed = target < source || source == WIRING || SIDEWAYS.contains(&(from, to));
    (!allowed).then(|| format!("`{from}` (L{source}) imports `{to}` (L{target}): imports point down only"))
}

fn impurity(path: &SourcePath, layer: usize, from: &str) -> Option<String> {
    let segments: Vec<_> = path.segments.iter().map(String::as_str).collect();
    if segments.len() > 1 && IMPURE_CRATES.contains(&segments[0]) {
        return Some(format!("`{from}` (L{layer}) uses `{}`: values and rules do no I/O", segments[0]));
    }
    let reads_clock = segments.windows(2).any(|pair| CLOCKS.contains(&pair[0]) && pair[1] == "now");
    reads_clock.then(|| format!("`{from}` (L{layer}) reads a clock: take the time as an argument"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tidy::paths::{collect, parse};

    #[track_caller]
    fn check_sample(file: &str, source: &str, expected: &[&str]) {
        let found = check(&format!("mesh-agent/src/{file}"), &collect(&parse(source).unwrap()));
        let found: Vec<_> = found.into_iter().map(|violation| violation.what).collect();
        assert_eq!(found.len(), expected.len(), "{found:?}");
        for (found, expected) in found.iter().zip(expected) {
            assert!(found.contains(expected), "{found} without {expected}");
        }
    }

    #[test]
    fn downward_imports_pass() {
        check_sample("proxy/inbound.rs", "use crate::{model::Workload, policy, tls::accept}; use super::relay;", &[]);
        check_sample("state.rs", "use crate::policy::PolicySet; use crate::config::MeshConfig;", &[]);
        check_sample("app.rs", "use crate::{args::Args, proxy};", &[]);
    }

    #[test]
    fn upward_imports_are_found_in_every_form() {
        check_sample("tls/verify.rs", "use crate::proxy::Relay;", &["imports `proxy`"]);
        check_sample("tls/verify.rs", "use crate::{model::A, pod::{B, C}};", &["imports `pod`", "imports `pod`"]);
        check_sample("tls/verify.rs", "fn f() { crate::app::run() }", &["imports `app`"]);
        check_sample("tls/verify.rs", "use super::super::admin::Page;", &["imports `admin`"]);
        check_sample("tls.rs", "mod tests { use super::super::admin::Page; }", &["imports `admin`"]);
    }

    #[test]
    fn neighbours_do_not_import_one_another() {
        check_sample("proxy/relay.rs", "use crate::pod::Pod;", &["`proxy` (L4) imports `pod` (L4)"]);
        check_sample("policy.rs", "use crate::state::MeshState;", &["`policy` (L1) imports `state` (L1)"]);
    }

    #[test]
    fn values_and_rules_use_no_runtime_and_no_clock() {
        check_sample("policy/set.rs", "use tokio::sync::watch;", &["uses `tokio`"]);
        check_sample("model/svid.rs", "use {rustls::Error, std::fmt}; use rustls_pki_types::UnixTime;", &["`rustls`"]);
        check_sample("config.rs", "let now = std::time::SystemTime::now();", &["reads a clock"]);
        check_sample("tls.rs", "use tokio::net::TcpStream; let t = Instant::now();", &[]);
    }

    #[test]
    fn a_module_without_a_layer_is_reported_on_both_sides() {
        check_sample("misc.rs", "", &["`misc` has no layer"]);
        check_sample("tls.rs", "use crate::misc::f;", &["`misc`, which has no layer"]);
    }

    #[test]
    fn fakes_are_free_and_other_crates_too() {
        check_sample("fake.rs", "use crate::{app, proxy};", &[]);
        assert!(check("xtask/src/tls.rs", &collect(&parse("use crate::proxy;").unwrap())).is_empty());
    }
}
