//! Lowers `spec.authorization` of the Mesh: who is asked in Rego, and how. The module's text is another file's: see
//! `config::assemble`.

use std::time::Duration;

use super::value;
use super::walk::Node;
use crate::model::rego::{RegoBody, RegoModule, RegoSettings};

/// Bounds of an answer's time: below, nothing would ever be answered; above, no client would wait.
const MIN_TIMEOUT: Duration = Duration::from_millis(1);
const MAX_TIMEOUT: Duration = Duration::from_secs(10);
/// The longest time for which an answer is believed: what changes elsewhere shall reach live connections.
const MAX_CACHE: Duration = Duration::from_mins(5);

const DEFAULT_TIMEOUT: Duration = Duration::from_millis(100);
/// So that a change at an OPA server reaches live connections within 5 s.
const DEFAULT_CACHE: Duration = Duration::from_secs(4);
const DEFAULT_RULE: &str = "data.hauberk.allow";

/// What the Mesh says. A module is named only.
#[derive(Debug)]
pub(super) struct RegoDraft {
    pub(super) source: Source,
    rule: String,
    timeout: Duration,
    cache_for: Duration,
    fail_open: bool,
}

/// Where answers come from.
#[derive(Debug)]
pub(super) enum Source {
    /// The module in this file.
    File(String),
    /// An OPA server.
    Server(String),
}

impl RegoDraft {
    /// Compiles the module of this text.
    pub(super) fn with_module(&self, name: &str, text: &str) -> Result<RegoSettings, String> {
        RegoModule::new(name, text, &self.rule).map(|module| self.finish(RegoBody::Module(module)))
    }

    /// With who answers.
    pub(super) fn finish(&self, body: RegoBody) -> RegoSettings {
        let Self { source: _, rule, timeout, cache_for, fail_open } = self;
        let (rule, timeout, cache_for, fail_open) = (rule.clone(), *timeout, *cache_for, *fail_open);
        RegoSettings { body, rule, timeout, cache_for, fail_open }
    }
}

/// Reads `spec.authorization`.
pub(super) fn lower(node: &Node<'_>) -> Option<RegoDraft> {
    let rego = node.object(&["rego"])?.required("rego")?;
    let fields = rego.object(&["policy", "server", "rule", "timeout", "cacheFor", "onFailure"])?;
    let source = match (fields.optional("policy"), fields.optional("server")) {
        (Some(policy), None) => policy.parse(file_name).map(Source::File),
        (None, Some(server)) => server.parse(local_server).map(Source::Server),
        _ => {
            rego.refuse("needs exactly one of `policy` and `server`");
            None
        }
    };
    let read = |name, min, max, default| {
        fields.optional(name).and_then(|node| node.parse(value::duration(min, max))).unwrap_or(default)
    };
    let rule = fields.optional("rule").and_then(|node| node.parse(rule)).unwrap_or_else(|| DEFAULT_RULE.to_owned());
    let on_failure = value::choice(&[("Deny", false), ("Allow", true)]);
    Some(RegoDraft {
        rule,
        timeout: read("timeout", MIN_TIMEOUT, MAX_TIMEOUT, DEFAULT_TIMEOUT),
        cache_for: read("cacheFor", Duration::ZERO, MAX_CACHE, DEFAULT_CACHE),
        fail_open: fields.optional("onFailure").and_then(|node| node.parse(on_failure)).unwrap_or(false),
        source: source?,
    })
}

fn file_name(text: &str) -> Result<String, String> {
    let is_name = text.ends_with(".rego") && !text.contains('/');
    if is_name {
        Ok(text.to_owned())
    } else {
        Err(format!("`{text}` is not a file beside the documents like `policy.rego`"))
    }
}

fn rule(text: &str) -> Result<String, String> {
    let is_word = |word: &str| {
        let mut bytes = word.bytes();
        bytes.next().is_some_and(|first| first.is_ascii_alphabetic() || first == b'_')
            && bytes.all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
    };
    let mut words = text.split('.');
    let is_rule = words.next() == Some("data") && text.split('.').count() > 2 && words.all(is_word);
    if is_rule { Ok(text.to_owned()) } else { Err(format!("`{text}` is not a rule like `{DEFAULT_RULE}`")) }
}

/// Plain HTTP never leaves the node: an answer that somebody else could write would open every door.
fn local_server(text: &str) -> Result<String, String> {
    let authority = text.strip_prefix("http://").map(|rest| rest.trim_end_matches('/')).unwrap_or_default();
    let address: Option<std::net::SocketAddr> = authority.parse().ok();
    match address {
        Some(address) if address.ip().is_loopback() => Ok(address.to_string()),
        _ => Err(format!("`{text}` is not an OPA server on this node like `http://127.0.0.1:8181`")),
    }
}
