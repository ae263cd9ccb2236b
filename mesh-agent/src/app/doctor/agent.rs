//! What the node's agent says of itself, if one runs.

use std::path::Path;

use k8s_openapi::jiff::Timestamp;

use super::{Finding, told};
use crate::admin::client::{AskError, ask};
use crate::admin::view::{CertificateView, Certificates, Status};

/// A root that ends sooner should be replaced now: `ca rotate` takes the lifetime of all SVIDs.
const ROOT_LEFT_SECONDS: i64 = 30 * 24 * 3600;
/// SVIDs are renewed long before so little is left of them.
const SVID_LEFT: i64 = 5;

type Asked<T> = Result<T, AskError>;

pub(super) async fn asked(socket: &Path) -> (Asked<Status>, Asked<Certificates>) {
    (ask(socket, "/v1/status").await, ask(socket, "/v1/certificates").await)
}

pub(super) fn findings(status: Asked<Status>, certificates: Asked<Certificates>) -> Vec<Finding> {
    let status = match status {
        Ok(status) => status,
        Err(AskError::Connect { path, source }) => {
            let found = format!("none at {}: {source}", path.display());
            return vec![Finding::warn("agent", found, "install the mesh; if it is, read the agent's log")];
        }
        Err(error) => return vec![Finding::fail("agent", told(&error), "read the agent's log")],
    };
    let mut findings = vec![agent(&status), configuration(&status), issuer(&status)];
    findings.push(match certificates {
        Ok(certificates) => judge(&certificates, Timestamp::now()),
        Err(error) => Finding::fail("certificates", told(&error), "read the agent's log"),
    });
    findings
}

fn agent(status: &Status) -> Finding {
    let remedy = "`mesh-agent workloads` says for each why";
    if !status.ready {
        return Finding::warn("agent", format!("waits: {}", status.pending.join("; ")), remedy);
    }
    let (served, waiting) = (status.workloads_enrolled, status.workloads_pending);
    if waiting > 0 {
        return Finding::warn("agent", format!("ready, but {waiting} workloads are not served"), remedy);
    }
    Finding::ok("agent", format!("{}, ready, {served} workloads in the mesh", status.version))
}

fn configuration(status: &Status) -> Finding {
    let configuration = &status.configuration;
    match &configuration.rejected {
        None => Finding::ok("configuration", format!("{} in force", configuration.digest)),
        Some(rejected) => {
            let found = format!("rejected since {}: {}", rejected.since, rejected.reason.replace('\n', "; "));
            Finding::warn("configuration", found, "mend the document; the last good configuration stays in force")
        }
    }
}

fn issuer(status: &Status) -> Finding {
    match &status.issuer.failing_since {
        None => Finding::ok("issuer", "answers"),
        Some(since) => {
            let remedy = "kubectl --namespace=hauberk-system logs deployment/hauberk-ca, or the agent's own log";
            Finding::fail("issuer", format!("has not answered since {since}"), remedy)
        }
    }
}

fn judge(certificates: &Certificates, now: Timestamp) -> Finding {
    let all = || certificates.svids.iter().chain(&certificates.roots);
    if let Some(invalid) = all().find(|certificate| !certificate.valid) {
        let found = format!("{} is valid from {} to {}", invalid.subject, invalid.not_before, invalid.not_after);
        return Finding::fail("certificates", found, "compare the clocks of node and CA; read the agent's log");
    }
    let is_late =
        |svid: &&CertificateView| left(svid, now) * SVID_LEFT < seconds(&svid.not_after) - seconds(&svid.not_before);
    if let Some(late) = certificates.svids.iter().find(is_late) {
        let found = format!("{} ends at {} and is not renewed", late.subject, late.not_after);
        return Finding::warn("certificates", found, "see the check `issuer`");
    }
    if let Some(root) = certificates.roots.iter().find(|root| left(root, now) < ROOT_LEFT_SECONDS) {
        return Finding::warn(
            "certificates",
            format!("the root {} ends at {}", root.subject, root.not_after),
            "replace the root",
        );
    }
    let first = all().map(|certificate| certificate.not_after.as_str()).min().unwrap_or("never");
    let (svids, roots) = (certificates.svids.len(), certificates.roots.len());
    Finding::ok("certificates", format!("{svids} of workloads, {roots} of roots; the first ends at {first}"))
}

fn left(certificate: &CertificateView, now: Timestamp) -> i64 {
    seconds(&certificate.not_after) - now.as_second()
}

/// What our own agent writes is always a moment.
fn seconds(moment: &str) -> i64 {
    moment.parse::<Timestamp>().map(Timestamp::as_second).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::super::State;
    use super::*;

    fn certificate(not_before: &str, not_after: &str, valid: bool) -> CertificateView {
        CertificateView {
            subject: "x".to_owned(),
            not_before: not_before.to_owned(),
            not_after: not_after.to_owned(),
            valid,
            ..CertificateView::default()
        }
    }

    #[test]
    fn certificates_are_looked_at_before_they_end() {
        let now: Timestamp = "2026-06-01T12:00:00Z".parse().unwrap();
        let day = |not_after: &str| certificate("2026-06-01T00:00:00Z", not_after, true);
        let root = |not_after: &str| certificate("2026-01-01T00:00:00Z", not_after, true);
        let state = |svid: CertificateView, root: CertificateView| {
            judge(&Certificates { svids: vec![svid], roots: vec![root] }, now).state
        };
        let lasting = "2030-01-01T00:00:00Z";
        assert_eq!(state(day("2026-06-02T00:00:00Z"), root(lasting)), State::Ok);
        assert_eq!(state(day("2026-06-01T13:00:00Z"), root(lasting)), State::Warn);
        assert_eq!(state(day("2026-06-02T00:00:00Z"), root("2026-06-20T00:00:00Z")), State::Warn);
        let ended = certificate("2026-05-31T00:00:00Z", "2026-06-01T00:00:00Z", false);
        assert_eq!(state(ended, root(lasting)), State::Fail);
    }

    #[test]
    fn an_agent_that_waits_and_an_issuer_that_fails_are_told() {
        let mut status = Status { ready: true, ..Status::default() };
        let states = |status: &Status| {
            let all = findings(Ok(status.clone()), Ok(Certificates::default()));
            all.iter().map(|finding| (finding.check, finding.state)).collect::<Vec<_>>()
        };
        assert!(states(&status).iter().all(|(_, state)| *state == State::Ok));
        status.workloads_pending = 1;
        assert!(states(&status).contains(&("agent", State::Warn)));
        status.ready = false;
        status.issuer.failing_since = Some("2026-06-01T12:00:00Z".to_owned());
        let told = states(&status);
        assert!(told.contains(&("agent", State::Warn)) && told.contains(&("issuer", State::Fail)), "{told:?}");
    }
}
