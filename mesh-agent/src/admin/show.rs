//! What `mesh-agent status`, `workloads`, `connections` and `certificates` print for people.

use super::table::{Cell, Style, Tone, render, render_pairs};
use super::view::{
    CertificateView, Certificates, ConnectionView, KubeletStatus, OlderConnections, Status, WorkloadView,
};

/// `mesh-agent status`.
pub fn status(status: &Status, style: Style) -> String {
    let ready = if status.ready { Cell("yes".to_owned(), Tone::Good) } else { bad(&status.pending.join("\n")) };
    let paths: Vec<_> = status.data_paths.iter().map(|path| format!("{}: {}", path.cipher, path.data_path)).collect();
    let config = &status.configuration;
    let cluster = config.cluster_answered.as_ref();
    let cluster = cluster.map(|when| format!("\nthe Kubernetes API answered last at {when}")).unwrap_or_default();
    let configuration = match &config.rejected {
        None => Cell(format!("{} in force since {}{cluster}", config.digest, config.in_force_since), Tone::Good),
        Some(rejected) => bad(&format!(
            "changed files rejected since {}; in force is {} of {}{cluster}\n{}",
            rejected.since, config.digest, config.in_force_since, rejected.reason
        )),
    };
    let issuer = match &status.issuer.failing_since {
        None => Cell("answers".to_owned(), Tone::Good),
        Some(since) => bad(&format!("no answer since {since}")),
    };
    let svids = match &status.issuer.next_expiry {
        None => "none".to_owned(),
        Some(expiry) => format!(
            "first expires {expiry}; {} issued, {} attempts failed; {} trusted",
            status.issuer.issued,
            status.issuer.failed,
            count(status.issuer.trust_roots, "root")
        ),
    };
    let workloads = format!("{} in the mesh, {} waiting", status.workloads_enrolled, status.workloads_pending);
    let mut pairs = vec![
        ("node", format!("{}, mesh-agent {}, since {}", status.node, status.version, status.started).into()),
        ("mesh", format!("{}, {}", status.trust_domain, status.mode).into()),
        ("ready", ready),
        ("configuration", configuration),
        ("issuer", issuer),
        ("svids", svids.into()),
        ("workloads", workloads.into()),
        ("connections", status.connections.to_string().into()),
        ("older", older(&status.older_connections)),
        ("data path", paths.join("\n").into()),
        ("audit log", audit(status)),
    ];
    pairs.extend(status.kubelet.as_ref().map(|status| ("probes", kubelet(status))));
    render_pairs(&pairs, style)
}

/// Whether probes reach applications at strict ports.
fn kubelet(status: &KubeletStatus) -> Cell {
    match (&status.cgroup, &status.problem) {
        (Some(cgroup), _) => format!("of the kubelet in {cgroup} pass").into(),
        (None, problem) => bad(&format!("none pass: {}", problem.as_deref().unwrap_or("no kubelet is known"))),
    }
}

/// Connections that the mesh has found, and does not carry as it should.
fn older(older: &OlderConnections) -> Cell {
    let OlderConnections { destroyed, left, failing, plaintext } = older;
    let text = format!("{destroyed} older than an enrolment were reset");
    if *left == 0 && *plaintext == 0 && failing.is_none() {
        return text.into();
    }
    let why = failing.as_ref().map(|why| format!(": {why}")).unwrap_or_default();
    bad(&format!("{left} older than an enrolment{why}\n{plaintext} in plaintext and older than STRICT\n{text}"))
}

fn audit(status: &Status) -> Cell {
    let Some(audit) = &status.audit else { return "off".into() };
    let head = format!("record {}, signed up to {}\n{}", audit.sequence, audit.checkpoint, audit.hash);
    match (&audit.failing, audit.lost) {
        (Some(why), lost) => bad(&format!("can't be written: {why}; {lost} events lost\n{head}")),
        (None, 0) => head.into(),
        (None, lost) => bad(&format!("{lost} events lost\n{head}")),
    }
}

/// `mesh-agent workloads`.
pub fn workloads(workloads: &[WorkloadView], style: Style) -> String {
    let row = |workload: &WorkloadView| {
        let state = match &workload.reason {
            None => Cell("in the mesh".to_owned(), Tone::Good),
            Some(reason) => bad(reason),
        };
        let addresses = workload.addresses.join(",");
        vec![workload.workload.as_str().into(), workload.identity.as_str().into(), addresses.into(), state]
    };
    let rows: Vec<_> = workloads.iter().map(row).collect();
    render(&["WORKLOAD", "IDENTITY", "ADDRESSES", "STATE"], &rows, style)
}

/// `mesh-agent connections`.
pub fn connections(connections: &[ConnectionView], style: Style) -> String {
    let row = |connection: &ConnectionView| {
        let peer = connection.peer.as_deref().map_or_else(|| Cell("plaintext".to_owned(), Tone::Bad), Cell::from);
        vec![
            connection.direction.as_str().into(),
            connection.source.as_str().into(),
            connection.destination.as_str().into(),
            connection.workload.as_str().into(),
            peer,
            connection.data_path.as_deref().unwrap_or("-").into(),
            age(connection.age_seconds).into(),
            bytes(connection.bytes_sent).into(),
            bytes(connection.bytes_received).into(),
        ]
    };
    let rows: Vec<_> = connections.iter().map(row).collect();
    let titles = ["DIRECTION", "SOURCE", "DESTINATION", "WORKLOAD", "PEER", "DATA PATH", "AGE", "SENT", "RECEIVED"];
    render(&titles, &rows, style)
}

/// `mesh-agent certificates`.
pub fn certificates(certificates: &Certificates, style: Style) -> String {
    let row = |kind: &str, certificate: &CertificateView| {
        let end = certificate.not_after.clone();
        vec![
            kind.into(),
            certificate.subject.as_str().into(),
            certificate.serial.as_str().into(),
            certificate.not_before.as_str().into(),
            if certificate.valid { end.into() } else { bad(&end) },
            certificate.issuer.as_str().into(),
        ]
    };
    let svids = certificates.svids.iter().map(|svid| row("svid", svid));
    let rows: Vec<_> = svids.chain(certificates.roots.iter().map(|root| row("root", root))).collect();
    render(&["KIND", "SUBJECT", "SERIAL", "NOT BEFORE", "NOT AFTER", "ISSUER"], &rows, style)
}

fn bad(text: &str) -> Cell {
    Cell(text.to_owned(), Tone::Bad)
}

fn count(count: usize, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

/// The two largest units.
fn age(seconds: u64) -> String {
    match (seconds / 86400, seconds / 3600 % 24, seconds / 60 % 60, seconds % 60) {
        (0, 0, 0, seconds) => format!("{seconds}s"),
        (0, 0, minutes, seconds) => format!("{minutes}m{seconds}s"),
        (0, hours, minutes, _) => format!("{hours}h{minutes}m"),
        (days, hours, ..) => format!("{days}d{hours}h"),
    }
}

fn bytes(bytes: u64) -> String {
    const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let unit = (bytes.ilog2() as usize / 10).min(UNITS.len()) - 1;
    #[expect(clippy::cast_precision_loss, reason = "one decimal is shown")]
    let value = bytes as f64 / f64::from(1_u32 << 10).powi(i32::try_from(unit + 1).unwrap_or_default());
    format!("{value:.1} {}", UNITS[unit])
}

#[cfg(test)]
mod tests {
    use super::super::view::{AuditStatus, CipherPath, Configuration, IssuerStatus, Rejected};
    use super::*;

    fn healthy() -> Status {
        Status {
            version: "0.1.0".to_owned(),
            node: "a".to_owned(),
            trust_domain: "mesh.test".to_owned(),
            mode: "STRICT".to_owned(),
            started: "2026-11-23T04:00:00Z".to_owned(),
            ready: true,
            data_paths: vec![CipherPath {
                cipher: "TLS_AES_256_GCM_SHA384".to_owned(),
                data_path: "userspace".to_owned(),
            }],
            configuration: Configuration {
                digest: "beef".to_owned(),
                in_force_since: "2026-11-23T04:00:00Z".to_owned(),
                rejected: None,
                cluster_answered: Some("2026-11-23T06:00:00Z".to_owned()),
            },
            issuer: IssuerStatus {
                next_expiry: Some("2026-11-24T04:00:00Z".to_owned()),
                trust_roots: 1,
                issued: 2,
                ..IssuerStatus::default()
            },
            workloads_enrolled: 2,
            connections: 3,
            audit: Some(AuditStatus {
                sequence: 9,
                checkpoint: 8,
                hash: "c0ffee".to_owned(),
                ..AuditStatus::default()
            }),
            kubelet: Some(KubeletStatus { cgroup: Some("/c/kubelet".to_owned()), problem: None }),
            ..Status::default()
        }
    }

    #[test]
    fn the_status_of_a_healthy_agent() {
        let expected = "\
node           a, mesh-agent 0.1.0, since 2026-11-23T04:00:00Z
mesh           mesh.test, STRICT
ready          yes
configuration  beef in force since 2026-11-23T04:00:00Z
               the Kubernetes API answered last at 2026-11-23T06:00:00Z
issuer         answers
svids          first expires 2026-11-24T04:00:00Z; 2 issued, 0 attempts failed; 1 root trusted
workloads      2 in the mesh, 0 waiting
connections    3
older          0 older than an enrolment were reset
data path      TLS_AES_256_GCM_SHA384: userspace
audit log      record 9, signed up to 8
               c0ffee
probes         of the kubelet in /c/kubelet pass
";
        assert_eq!(status(&healthy(), Style::default()), expected);
    }

    #[test]
    fn what_is_wrong_is_said_with_its_reason() {
        let rejected =
            Rejected { since: "2026-11-23T05:00:00Z".to_owned(), reason: "mesh.yaml: bad\nweb.yaml: bad".to_owned() };
        let mut ill = Status { ready: false, pending: vec!["demo/web: no such netns".to_owned()], ..healthy() };
        ill.configuration.rejected = Some(rejected);
        ill.configuration.cluster_answered = None;
        ill.issuer.failing_since = Some("2026-11-23T05:01:00Z".to_owned());
        ill.audit = None;
        ill.kubelet = Some(KubeletStatus { cgroup: None, problem: Some("not seen".to_owned()) });
        ill.older_connections =
            OlderConnections { destroyed: 1, left: 2, failing: Some("no permission".to_owned()), plaintext: 3 };
        let text = status(&ill, Style::default());
        for line in [
            "ready          demo/web: no such netns\n",
            "configuration  changed files rejected since 2026-11-23T05:00:00Z; in force is beef of 2026-11-23T04:00:00Z\n",
            "               mesh.yaml: bad\n               web.yaml: bad\n",
            "issuer         no answer since 2026-11-23T05:01:00Z\n",
            "audit log      off\n",
            "probes         none pass: not seen\n",
            "older          2 older than an enrolment: no permission\n               3 in plaintext and older than STRICT\n",
        ] {
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
    }

    #[test]
    fn workloads_connections_and_certificates_have_a_line_each() {
        let text = |text: &str| text.to_owned();
        let web = WorkloadView {
            workload: text("demo/web"),
            identity: text("spiffe://mesh.test/ns/demo/sa/web"),
            addresses: vec![text("10.0.0.1"), text("fd00::1")],
            enrolled: false,
            reason: Some(text("not enrolled yet")),
        };
        let expected = "\
WORKLOAD  IDENTITY                           ADDRESSES         STATE
demo/web  spiffe://mesh.test/ns/demo/sa/web  10.0.0.1,fd00::1  not enrolled yet
";
        assert_eq!(workloads(&[web], Style::default()), expected);
        let connection = ConnectionView {
            direction: text("outbound"),
            source: text("10.0.0.1:4000"),
            destination: text("10.0.0.2:80"),
            workload: text("spiffe://t/a"),
            peer: Some(text("spiffe://t/b")),
            data_path: Some(text("kernel")),
            age_seconds: 3725,
            bytes_sent: 1023,
            bytes_received: 5 << 20,
            ..ConnectionView::default()
        };
        let expected = "\
DIRECTION  SOURCE         DESTINATION  WORKLOAD      PEER          DATA PATH  AGE   SENT    RECEIVED
outbound   10.0.0.1:4000  10.0.0.2:80  spiffe://t/a  spiffe://t/b  kernel     1h2m  1023 B  5.0 MiB
";
        assert_eq!(connections(&[connection], Style::default()), expected);
        let root = CertificateView {
            subject: text("CN=mesh.test"),
            issuer: text("CN=mesh.test"),
            serial: text("aa"),
            not_before: text("2026-11-23T04:00:00Z"),
            not_after: text("2036-11-23T04:00:00Z"),
            ..CertificateView::default()
        };
        let expected = "\
KIND  SUBJECT       SERIAL  NOT BEFORE            NOT AFTER             ISSUER
root  CN=mesh.test  aa      2026-11-23T04:00:00Z  2036-11-23T04:00:00Z  CN=mesh.test
";
        assert_eq!(certificates(&Certificates { svids: Vec::new(), roots: vec![root] }, Style::default()), expected);
    }

    #[test]
    fn ages_and_sizes_are_short() {
        assert_eq!([0, 61, 3600, 90061].map(age), ["0s", "1m1s", "1h0m", "1d1h"]);
        assert_eq!([0, 1024, 1536, 1 << 40].map(bytes), ["0 B", "1.0 KiB", "1.5 KiB", "1.0 TiB"]);
    }
}
