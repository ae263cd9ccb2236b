//! What a scrape shows, and that its size doesn't depend on who connects.

use super::*;
use crate::model::connection::DataPath;
use crate::model::mesh::KeyExchange;
use crate::model::revocation::{CertificateId, IssuerName, Serial};
use crate::model::spiffe::SpiffeId;
use crate::telemetry::audit::{AuditLog, AuditSettings, Destination};
use crate::telemetry::exposition::classic;
use crate::telemetry::{ConnectionSummary, End, Tls};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Instant;

fn session(resumed: bool) -> TlsInfo {
    let (cipher, key_exchange) = (CipherSuite::Aes256Gcm, KeyExchange::X25519MlKem768);
    TlsInfo { version: "TLSv1.3", cipher, key_exchange, data_path: DataPath::Kernel, resumed }
}

/// A connection, from its beginning to its end.
fn carry_one(metrics: &Metrics) {
    let active = metrics.opened(Direction::Inbound);
    metrics.handshake(Direction::Inbound, &session(true), Duration::from_millis(2));
    metrics.kernel_tls(&[CipherSuite::Aes128Gcm]);
    metrics.decided("allow", None);
    metrics.closed(&Closed {
        direction: "inbound",
        outcome: "ok",
        reason: "",
        tls: "TLSv1.3",
        bytes_sent: 5,
        bytes_received: 7,
    });
    drop(active);
}

#[test]
fn a_scrape_shows_every_family_with_its_unit() {
    let metrics = Metrics::new(Views {
        kernel: Box::new(|| vec![("connect_refused", 3)]),
        identity: Box::new(|| IdentityView {
            next_expiry: Some(UNIX_EPOCH + Duration::from_secs(5)),
            issued: 4,
            trust_roots: 2,
            ..IdentityView::default()
        }),
        audit: None,
        cluster: None,
        kubelet: Some(watch::channel(Err("not seen".to_owned())).1),
    });
    carry_one(&metrics);
    let text = metrics.encode().unwrap();
    for line in [
        "mesh_issuer_up 1.0",
        "mesh_kubelet_attested 0.0",
        "mesh_svids_issued_total 4",
        "mesh_trust_roots 2.0",
        "mesh_connections_opened_total{direction=\"inbound\"} 1",
        "mesh_connections_active{direction=\"inbound\"} 0",
        "mesh_relayed_bytes_total{direction=\"inbound\",flow=\"received\"} 7",
        "mesh_handshake_seconds_count{direction=\"inbound\",kind=\"resumed\"} 1",
        "mesh_tls_sessions_total{direction=\"inbound\",datapath=\"kernel\"} 1",
        "mesh_kernel_tls{cipher=\"TLS_AES_128_GCM_SHA256\"} 1",
        "mesh_kernel_tls{cipher=\"TLS_AES_256_GCM_SHA384\"} 0",
        "mesh_kernel_events_total{reason=\"connect_refused\"} 3",
        "mesh_svid_expiry_timestamp_seconds 5",
    ] {
        assert!(text.contains(line), "{line} is not in\n{text}");
    }
}

/// The names of all series that an agent with everything can show.
fn names() -> BTreeSet<String> {
    let directory = tempfile::tempdir().unwrap();
    let settings = AuditSettings {
        destination: Destination::File(directory.path().join("audit.jsonl")),
        max_bytes: 1 << 20,
        keep: 1,
        checkpoint_every: Duration::from_secs(60),
        node: "a".to_owned(),
    };
    let log = AuditLog::open(&settings).unwrap();
    let at = Some(UNIX_EPOCH);
    let metrics = Metrics::new(Views {
        kernel: Box::new(|| vec![("connect_refused", 3)]),
        identity: Box::new(move || IdentityView {
            next_expiry: at,
            next_lifetime: Some(Duration::from_secs(60)),
            root_expiry: at,
            issuer_failing_since: at,
            ..IdentityView::default()
        }),
        audit: Some(log.handle()),
        cluster: Some(watch::channel(at).1),
        kubelet: Some(watch::channel(Err(String::new())).1),
    });
    carry_one(&metrics);
    let text = classic(&metrics.encode().unwrap());
    let types = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '));
    let series = |(name, kind): (&str, &str)| match kind {
        "histogram" => ["_bucket", "_count", "_sum"].map(|part| format!("{name}{part}")).to_vec(),
        _ => vec![name.to_owned()],
    };
    types.flat_map(series).collect()
}

/// Every word of a text that looks like one of our metrics.
fn mentioned(text: &str) -> BTreeSet<String> {
    let words = text.split(|character: char| !character.is_ascii_alphanumeric() && character != '_');
    words.filter(|word| word.starts_with("mesh_")).map(str::to_owned).collect()
}

#[test]
fn alerts_and_dashboard_ask_for_what_there_is_and_the_documentation_has_it_all() {
    let all = names();
    for (file, text) in [
        ("rules.yaml", include_str!("../../../../deploy/components/monitoring/rules.yaml")),
        ("rules.test.yaml", include_str!("../../../../deploy/components/monitoring/rules.test.yaml")),
        ("dashboard.json", include_str!("../../../../deploy/components/monitoring/dashboard.json")),
    ] {
        let asked = mentioned(text);
        assert!(!asked.is_empty() && asked.is_subset(&all), "{file}: {:?}", asked.difference(&all).collect::<Vec<_>>());
    }
    let documented = mentioned(include_str!("../../../../docs/operations.md"));
    let family = |name: &String| {
        let histogram = ["_bucket", "_count", "_sum"].iter().find_map(|part| name.strip_suffix(part));
        histogram.unwrap_or(name).to_owned()
    };
    let missing: Vec<_> = all.iter().map(family).filter(|name| !documented.contains(name)).collect();
    assert!(missing.is_empty(), "docs/operations.md has no {missing:?}");
}

#[test]
fn ten_thousand_peers_make_no_more_series_than_one() {
    let metrics = Metrics::new(Views::none());
    let own = SpiffeId::parse("spiffe://test/ns/shop/sa/web").unwrap();
    let connect = |number: u32| {
        let peer = SpiffeId::parse(&format!("spiffe://test/ns/n{number}/sa/a{number}")).unwrap();
        let serial = Serial::parse(&format!("{number:08x}")).unwrap();
        let chain: Arc<[_]> = Arc::new([CertificateId { issuer: IssuerName::from_der(b""), serial }]);
        let source = std::net::SocketAddr::from((std::net::Ipv4Addr::from(0x0a00_0000 + number), 4000));
        for direction in [Direction::Inbound, Direction::Outbound] {
            let _active = metrics.opened(direction);
            metrics.handshake(direction, &session(number.is_multiple_of(2)), Duration::from_millis(1));
            let mut summary = ConnectionSummary::new(direction, source, source, own.clone(), Instant::now());
            summary.tls = Some(Tls { peer: peer.clone(), chain: Arc::clone(&chain), info: session(false) });
            for end in [End::Closed, End::Denied("revoked"), End::Failed("peer_dead"), End::Unproven("wrong_identity")]
            {
                summary.finish(end, &metrics);
            }
        }
    };
    let series = || metrics.encode().unwrap().lines().filter(|line| !line.starts_with('#')).count();
    (0..2).for_each(connect);
    let few = series();
    (2..10_000).for_each(connect);
    assert_eq!(series(), few);
    assert!(few < 200, "{few}");
}

#[test]
fn a_rejected_configuration_is_told_until_one_is_taken() {
    let metrics = Metrics::new(Views::none());
    let at = |seconds| UNIX_EPOCH + Duration::from_secs(seconds);
    metrics.configuration(at(1), None);
    metrics.configuration(at(2), Some("mesh.yaml: bad".to_owned()));
    let rejected = Some((at(2), "mesh.yaml: bad".to_owned()));
    assert_eq!(metrics.config_view(), ConfigView { in_force_since: at(1), rejected });
    assert!(classic(&metrics.encode().unwrap()).contains("\nmesh_config_in_force 0\n"));
    metrics.configuration(at(3), None);
    assert_eq!(metrics.config_view(), ConfigView { in_force_since: at(3), rejected: None });
}

#[test]
fn decisions_are_counted_by_policy_within_a_bound_and_forgotten_with_their_policy() {
    let metrics = Metrics::new(Views::none());
    metrics.decided("allow", None);
    metrics.decided("deny", Some("shop/db"));
    metrics.decided("deny", Some("shop/db"));
    for number in 0..2 * decisions::MAX_POLICIES {
        metrics.decided("audit", Some(&format!("many/{number}")));
    }
    let series = |text: &str| text.lines().filter(|line| line.starts_with("mesh_policy_decisions_total{")).count();
    let text = metrics.encode().unwrap();
    assert!(text.contains("mesh_policy_decisions_total{action=\"deny\",policy=\"shop/db\"} 2\n"), "{text}");
    assert!(text.contains("mesh_policy_decisions_total{action=\"allow\",policy=\"\"} 1\n"), "{text}");
    assert_eq!(series(&text), decisions::MAX_POLICIES + 2);
    metrics.keep_policies(|policy| policy == "shop/db");
    let text = metrics.encode().unwrap();
    assert!(text.contains("policy=\"shop/db\"} 2\n") && text.contains("policy=\"(other)\""), "{text}");
    assert_eq!(series(&text), 3, "{text}");
}
