//! Policies as documents: what they may say, and thirty that are broken, each with the exact text of its mistake.

use super::{MESH, WORKLOAD, accepted, file};
use crate::config::parse;
use crate::model::mesh::{KeyExchange, MtlsMode};
use crate::model::policy::{Action, Condition, Loosener, Pattern, PolicyName};

const AUTHORIZATION: &str = "AuthorizationPolicy";
const AUTHENTICATION: &str = "PeerAuthentication";

pub(super) fn document(kind: &str, spec: &str) -> String {
    format!(
        "apiVersion: mesh.hauberk.dev/v1alpha1\nkind: {kind}\nmetadata: {{name: p, namespace: shop}}\nspec: {spec}\n"
    )
}

#[test]
fn everything_can_be_said() {
    let policy = "
  selector: {matchLabels: {app: web}}
  action: DENY
  rules:
  - from:
    - source: {principals: ['spiffe://td/ns/a/sa/b', 'td/*'], notNamespaces: ['*'], ipBlocks: [10.0.0.1, 'fd00::/8']}
    - source: {serviceAccounts: [web, bank/db]}
    to:
    - operation: {ports: ['80', 443], notPorts: [22]}
    when:
    - {key: destination.port, values: ['80']}
    - time: {days: [Sat..Mon], from: '22:00', to: '06:30', timeZone: Europe/Berlin}
";
    let mode = "{selector: {matchLabels: {app: web}}, mtls: {mode: UNSET}, portLevelMtls: {8080: {mode: DISABLE}, '81': {mode: UNSET}}}";
    let settings = "  rootNamespace: ops\n  minimumMode: PERMISSIVE\n  mayLoosen: ['*', bank, shop/p]\n  tls: {keyExchange: RequirePostQuantum}\n";
    let text = format!(
        "{MESH}{settings}---{WORKLOAD}---\n{}---\n{}",
        document(AUTHORIZATION, policy),
        document(AUTHENTICATION, mode)
    );
    let config = accepted(&text);
    let policy = &config.authorization[0];
    assert_eq!(
        (policy.name.as_str(), policy.action, policy.scope.labels["app"].as_str()),
        ("shop/p", Action::Deny, "web")
    );
    let rule = &policy.rules[0];
    let exact = Pattern::Exact("td/ns/a/sa/b".to_owned());
    assert_eq!(rule.from[0].principals.any, [exact, Pattern::Prefix("td/".to_owned())]);
    assert_eq!(rule.from[0].namespaces.not, [Pattern::Present]);
    assert_eq!(rule.from[0].ip_blocks.any, ["10.0.0.1/32".parse().unwrap(), "fd00::/8".parse().unwrap()]);
    let accounts: Vec<_> = rule.from[1].service_accounts.any.iter().map(|account| account.namespace.as_str()).collect();
    assert_eq!(
        (accounts, &rule.to[0].ports.any, &rule.to[0].ports.not),
        (vec!["shop", "bank"], &vec![80, 443], &vec![22])
    );
    let Condition::Time(window) = &rule.when[1] else { panic!("{:?}", rule.when) };
    assert_eq!((window.from, window.to, window.days), (22 * 60, 390, [true, false, false, false, false, true, true]));
    let modes = &config.peer_authentication[0];
    assert_eq!((modes.mode, &modes.ports), (None, &[(81, None), (8080, Some(MtlsMode::Disable))].into()));
    let bounds = &config.mesh.bounds;
    assert_eq!((bounds.root_namespace.as_str(), bounds.minimum_mode), ("ops", Some(MtlsMode::Permissive)));
    let one = Loosener::Policy(PolicyName::new(Some("shop"), "p"));
    assert_eq!(bounds.may_loosen, [Loosener::Everybody, Loosener::Namespace("bank".to_owned()), one]);
    assert_eq!(config.mesh.tls.key_exchange, [KeyExchange::X25519MlKem768]);
}

/// Kind, `spec`, and the mistake.
pub(super) const BROKEN: [(&str, &str, &str); 30] = [
    (AUTHORIZATION, "{action: Allow}", "spec.action: `Allow` is not one of `ALLOW`, `DENY`, `AUDIT`"),
    (
        AUTHORIZATION,
        "{action: CUSTOM, rules: [{}]}",
        "spec.action: `CUSTOM` is not possible here: no external authorizer is asked; expected `ALLOW`, `DENY` or `AUDIT`",
    ),
    (
        AUTHORIZATION,
        "{action: DENY}",
        "spec: has no rules, so it never matches; for every connection write `rules: [{}]`",
    ),
    (
        AUTHORIZATION,
        "{provider: {name: opa}}",
        "spec.provider: belongs to the action CUSTOM, which is not possible here",
    ),
    (
        AUTHORIZATION,
        "{targetRef: {kind: Gateway}}",
        "spec.targetRef: policies select workloads here, not gateways or services: use `selector`",
    ),
    (AUTHORIZATION, "{selector: {app: web}}", "spec.selector.app: unknown field"),
    (
        AUTHORIZATION,
        "{selector: {matchLabels: {app: 1}}}",
        "spec.selector.matchLabels[app]: is a number, expected a string",
    ),
    (AUTHORIZATION, "{rules: {}}", "spec.rules: is an object, expected a list"),
    (AUTHORIZATION, "{rules: [{froms: []}]}", "spec.rules[0].froms: unknown field, did you mean `from`?"),
    (AUTHORIZATION, "{rules: [{from: []}]}", "spec.rules[0].from: is empty, expected at least one item"),
    (
        AUTHORIZATION,
        "{rules: [{from: [{source: {}}]}]}",
        "spec.rules[0].from[0].source: is empty, expected one of `principals`, `namespaces`, `serviceAccounts`, `ipBlocks` or their `not` forms; for everybody leave `from` out",
    ),
    (
        AUTHORIZATION,
        "{rules: [{from: [{principals: [a]}]}]}",
        "spec.rules[0].from[0].principals: unknown field|spec.rules[0].from[0].source: is required",
    ),
    (
        AUTHORIZATION,
        "{rules: [{from: [{source: {principals: [web]}}]}]}",
        "spec.rules[0].from[0].source.principals[0]: `web` is not an identity like `example.org/ns/shop/sa/web`",
    ),
    (
        AUTHORIZATION,
        "{rules: [{from: [{source: {principals: ['td/*/web']}}]}]}",
        "spec.rules[0].from[0].source.principals[0]: `td/*/web` has a `*` that is neither its first nor its last character",
    ),
    (
        AUTHORIZATION,
        "{rules: [{from: [{source: {principals: ['td/ns/a b']}}]}]}",
        "spec.rules[0].from[0].source.principals[0]: `td/ns/a b` has a character that no identity has",
    ),
    (
        AUTHORIZATION,
        "{rules: [{from: [{source: {namespaces: [Shop]}}]}]}",
        "spec.rules[0].from[0].source.namespaces[0]: `Shop` is not a DNS label (a-z, 0-9 and inner `-`, at most 63 characters)",
    ),
    (
        AUTHORIZATION,
        "{rules: [{from: [{source: {serviceAccounts: [web], namespaces: [a]}}]}]}",
        "spec.rules[0].from[0].source.namespaces: can't be beside `serviceAccounts`, which says the same more exactly",
    ),
    (
        AUTHORIZATION,
        "{rules: [{from: [{source: {ipBlocks: [10.0.0.1/8]}}]}]}",
        "spec.rules[0].from[0].source.ipBlocks[0]: `10.0.0.1/8` has bits set after its prefix, did you mean `10.0.0.0/8`?",
    ),
    (
        AUTHORIZATION,
        "{rules: [{from: [{source: {ipBlocks: [ten]}}]}]}",
        "spec.rules[0].from[0].source.ipBlocks[0]: `ten` is not an IP address or a CIDR range like `10.0.0.0/8`",
    ),
    (
        AUTHORIZATION,
        "{rules: [{from: [{source: {requestPrincipals: ['*']}}]}]}",
        "spec.rules[0].from[0].source.requestPrincipals: needs the content of requests, which the mesh does not read: check it in the application or in a layer-7 proxy, and say here who may connect (`source.principals`, `operation.ports`)",
    ),
    (
        AUTHORIZATION,
        "{rules: [{from: [{source: {remoteIpBlocks: [10.0.0.1]}}]}]}",
        "spec.rules[0].from[0].source.remoteIpBlocks: is what a layer-7 proxy reports, and nobody does here: use `ipBlocks`, the address of the connection",
    ),
    (
        AUTHORIZATION,
        "{rules: [{to: [{operation: {methods: [GET]}}]}]}",
        "spec.rules[0].to[0].operation.methods: needs the content of requests, which the mesh does not read: check it in the application or in a layer-7 proxy, and say here who may connect (`source.principals`, `operation.ports`)",
    ),
    (
        AUTHORIZATION,
        "{rules: [{to: [{operation: {ports: ['http']}}]}]}",
        "spec.rules[0].to[0].operation.ports[0]: `http` is not a port (1 to 65535)",
    ),
    (
        AUTHORIZATION,
        "{rules: [{when: [{key: 'request.auth.claims[iss]', values: [x]}]}]}",
        "spec.rules[0].when[0].key: `request.auth.claims[iss]` needs the content of requests, which the mesh does not read: check it in the application or in a layer-7 proxy, and say here who may connect (`source.principals`, `operation.ports`)",
    ),
    (
        AUTHORIZATION,
        "{rules: [{when: [{key: source.port}]}]}",
        "spec.rules[0].when[0].key: `source.port` is not one of `source.ip`, `source.namespace`, `source.principal`, `destination.ip`, `destination.port`|spec.rules[0].when[0]: compares with nothing, expected `values` or `notValues`",
    ),
    (
        AUTHORIZATION,
        "{rules: [{when: [{time: {from: '8:00', timeZone: Berlin}}]}]}",
        "spec.rules[0].when[0].time.from: `8:00` is not a time of day like `08:00`|spec.rules[0].when[0].time.timeZone: `Berlin` is not a time zone like `Europe/Berlin`",
    ),
    (
        AUTHORIZATION,
        "{rules: [{when: [{time: {days: [Monday], from: '10:00', to: '10:00'}}]}]}",
        "spec.rules[0].when[0].time.days[0]: `Monday` is not a day like `Mon` or days like `Mon..Fri`|spec.rules[0].when[0].time: ends when it begins; a whole day is from \"00:00\" to \"24:00\"",
    ),
    (
        AUTHENTICATION,
        "{mtls: {mode: strict}}",
        "spec.mtls.mode: `strict` is not one of `STRICT`, `PERMISSIVE`, `DISABLE`",
    ),
    (
        AUTHENTICATION,
        "{portLevelMtls: {8080: {mode: STRICT}}}",
        "spec.portLevelMtls: needs a selector: ports are those of single workloads",
    ),
    (
        AUTHENTICATION,
        "{selector: {matchLabels: {a: b}}, portLevelMtls: {http: {mode: STRICT}}}",
        "spec.portLevelMtls[http]: `http` is not a port (1 to 65535)",
    ),
];

#[test]
fn every_mistake_has_its_text() {
    for (kind, spec, expected) in BROKEN {
        let errors = parse(&[file("mesh.yaml", MESH), file("p.yaml", &document(kind, spec))]).unwrap_err().to_string();
        let expected: Vec<_> =
            expected.split('|').map(|line| format!("p.yaml: document 1 ({kind} shop/p): {line}")).collect();
        assert_eq!(errors.lines().collect::<Vec<_>>(), expected, "{spec}");
    }
}

#[test]
fn mistakes_that_need_the_mesh() {
    let check = |mesh: &str, document: &str, expected: &str| {
        let errors = parse(&[file("mesh.yaml", mesh), file("p.yaml", document)]).unwrap_err().to_string();
        assert_eq!(errors, expected);
    };
    let root = document(AUTHENTICATION, "{selector: {matchLabels: {a: b}}}");
    let reason =
        "a mesh-wide PeerAuthentication is for all workloads: put it into the namespace of those that it selects";
    let expected = format!("p.yaml: document 1 (PeerAuthentication shop/p): spec.selector: {reason}");
    check(&format!("{MESH}  rootNamespace: shop\n"), &root, &expected);
    let twice = document(AUTHORIZATION, "{}");
    let expected = "p.yaml: document 2 (AuthorizationPolicy shop/p): metadata.name: is already in p.yaml document 1";
    check(MESH, &format!("{twice}---\n{twice}"), expected);
    let bare =
        twice.replace(", namespace: shop", "").replace("{}", "{rules: [{from: [{source: {serviceAccounts: [web]}}]}]}");
    let expected = "p.yaml: document 1 (AuthorizationPolicy p): spec.rules[0].from[0].source.serviceAccounts[0]: `web` has no namespace, write `<namespace>/web`";
    check(MESH, &bare, expected);
    let expected = "mesh.yaml: document 1 (Mesh mesh): spec.mayLoosen[0]: `Shop` is not a DNS label (a-z, 0-9 and inner `-`, at most 63 characters)";
    check(&format!("{MESH}  mayLoosen: [Shop]\n"), WORKLOAD, expected);
    let expected = "mesh.yaml: document 1 (Mesh mesh): spec.tls.keyExchange: `PostQuantum` is neither `RequirePostQuantum` nor a list of groups";
    check(&format!("{MESH}  tls: {{keyExchange: PostQuantum}}\n"), WORKLOAD, expected);
}

/// What documentation shows is right.
#[test]
fn the_documents_examples_are_right() {
    let text = include_str!("../../../../docs/policy.md");
    let examples: Vec<_> = text.split("```yaml\n").skip(1).filter_map(|rest| rest.split_once("```")).collect();
    assert!(examples.len() > 5);
    for (example, _) in examples {
        let whole = if example.contains("kind: Mesh\n") { String::new() } else { format!("{MESH}---\n") };
        accepted(&format!("{whole}{example}"));
    }
}
