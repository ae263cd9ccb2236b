//! `mesh-agent explain`: by the documents of a directory, or by what a running agent has in force.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use jiff::Timestamp;

use super::check::Checked;
use super::inspect::{InspectError, in_form};
use crate::admin::client::{AskError, ask_about};
use crate::admin::explain::{
    ArrivalView, ConsideredView, ExplainRequest, Explained, ExplainedConnection, RouteView, ServiceView,
};
use crate::args::inspect::Output;
use crate::model::service::ServiceUid;
use crate::model::workload::{Workload, WorkloadUid};
use crate::policy::{Cause, Verdict};
use crate::sources::file::{self, LoadError};
use crate::state::{Arrival, Explanation, Fallback, MeshState, Route, candidates, explain};

/// Why a connection can't be explained.
#[derive(Debug, thiserror::Error)]
pub enum ExplainError {
    /// The running agent can't explain it, and says why.
    #[error("{0}")]
    Agent(String),
    /// The running agent doesn't tell.
    #[error(transparent)]
    Ask(#[from] AskError),
    /// The documents can't be used.
    #[error(transparent)]
    Documents(#[from] LoadError),
    /// Nobody has this name or address.
    #[error("there is no workload `{0}`: a name is like `namespace/name`, and an address must be one of a workload")]
    Nobody(String),
    /// It isn't somebody and a port.
    #[error("`{0}` is no destination like `10.1.2.3:80`, `[fd00::1]:80` or `namespace/name:80`")]
    Destination(String),
    /// The two have no address of one family.
    #[error("`{source_name}` has no address of the family of {destination}")]
    Family {
        /// Who connects.
        source_name: String,
        /// To where.
        destination: SocketAddr,
    },
    /// The answer can't be written.
    #[error(transparent)]
    Output(#[from] InspectError),
}

/// Says what would become of a connection by the documents of a directory. Exit code 1: denied.
pub fn explain_documents(
    directory: &Path,
    asked: &ExplainRequest,
    output: Output,
    now: SystemTime,
) -> Result<Checked, ExplainError> {
    shown(&explained(&MeshState::new(file::load(directory)?), asked, now)?, output)
}

/// Says what would become of a connection by what the agent at `socket` has in force. Exit code 1: denied.
pub async fn explain_running(socket: &Path, asked: &ExplainRequest, output: Output) -> Result<Checked, ExplainError> {
    let answer: Result<Explained, String> = ask_about(socket, "/v1/explain", asked).await?;
    shown(&answer.map_err(ExplainError::Agent)?, output)
}

fn shown(explained: &Explained, output: Output) -> Result<Checked, ExplainError> {
    let text = in_form(explained, output, || explained.to_string())?;
    Ok(Checked { text, code: u8::from(!explained.allowed) })
}

/// Explains by one snapshot.
pub(super) fn explained(state: &MeshState, asked: &ExplainRequest, now: SystemTime) -> Result<Explained, ExplainError> {
    let source = find(state, &asked.source)?;
    let destination = destination(state, &asked.destination, &source)?;
    let service = state.service_at(destination);
    let (targets, refused) = match service.map(|service| candidates(state, service, &source, destination)) {
        None => (vec![destination], None),
        Some(Ok(endpoints)) => (endpoints, None),
        Some(Err(none)) => (Vec::new(), Some(none)),
    };
    let family = || ExplainError::Family { source_name: asked.source.clone(), destination };
    let of_family = |address: &&IpAddr| address.is_ipv6() == destination.ip().to_canonical().is_ipv6();
    let address = *source.addresses.iter().find(of_family).ok_or_else(family)?;
    let each: Option<Vec<_>> = targets.into_iter().map(|target| explain(state, &source, target, now)).collect();
    let each = each.ok_or_else(family)?;
    let allowed = refused.is_none() && each.iter().all(Explanation::is_allowed);
    let asks = state.rego().filter(|_| allowed && each.iter().any(|one| one.arrival.is_some()));
    Ok(Explained {
        source: source.uid.to_string(),
        identity: source.identity.to_string(),
        address: address.to_string(),
        destination: destination.to_string(),
        service: service.map(|service| ServiceView {
            name: service.uid.to_string(),
            affinity: service.affinity.name().to_owned(),
            refused: refused.map(|none| none.reason().to_owned()),
        }),
        allowed,
        connections: each.into_iter().map(connection).collect(),
        rego: asks.map(|rego| rego.rule.clone()),
    })
}

fn connection(explained: Explanation) -> ExplainedConnection {
    let allowed = explained.is_allowed();
    let route = match explained.route {
        Route::Mesh(expects) => RouteView::Mtls { expects: expects.to_string() },
        Route::Plaintext => RouteView::Plaintext,
        Route::Unknown(Fallback::Plaintext) => RouteView::Unknown { then: "plaintext".to_owned() },
        Route::Unknown(Fallback::Reset) => RouteView::Unknown { then: "reset".to_owned() },
    };
    let destination = explained.destination.to_string();
    ExplainedConnection { destination, allowed, route, arrival: explained.arrival.map(arrival) }
}

fn arrival(arrival: Arrival) -> ArrivalView {
    let (allowed, cause) = match arrival.decision.verdict {
        Verdict::Allowed(cause) => (true, cause),
        Verdict::Denied(cause) => (false, Some(cause)),
    };
    let (policy, rule) = cause.map(|Cause { policy, rule }| (policy.to_string(), rule)).unzip();
    let until = arrival.holds_until.and_then(|until| Timestamp::try_from(until).ok());
    let considered = arrival.considered.into_iter().map(|asked| ConsideredView {
        action: asked.action.name().to_owned(),
        policy: asked.policy.to_string(),
        rule: asked.rule,
    });
    ArrivalView {
        workload: arrival.workload.to_string(),
        mode: arrival.mode.mode.name().to_owned(),
        mode_by: arrival.mode.by.map(|by| by.to_string()),
        mode_limited: arrival.mode.is_limited,
        allowed,
        policy,
        rule: rule.flatten(),
        holds_until: until.map(|until| format!("{until:.0}")),
        considered: considered.collect(),
    }
}

fn find(state: &MeshState, who: &str) -> Result<Arc<Workload>, ExplainError> {
    let by_address = who.parse().ok().and_then(|address: IpAddr| state.at(address));
    let by_name = || state.workload(&WorkloadUid::new(who.split_once('/')?.0, who.split_once('/')?.1));
    by_address.or_else(by_name).cloned().ok_or_else(|| ExplainError::Nobody(who.to_owned()))
}

/// Who is named is reached by the first address that the source has the family of; a workload comes before a service.
fn destination(state: &MeshState, to: &str, source: &Workload) -> Result<SocketAddr, ExplainError> {
    if let Ok(address) = to.parse() {
        return Ok(address);
    }
    let malformed = || ExplainError::Destination(to.to_owned());
    let (name, port) = to.rsplit_once(':').ok_or_else(malformed)?;
    let port = port.parse().map_err(|_not_a_port| malformed())?;
    let workload = find(state, name);
    let service = name.split_once('/').and_then(|(namespace, name)| state.service(&ServiceUid::new(namespace, name)));
    let addresses = match (&workload, service) {
        (Ok(workload), _) => &workload.addresses,
        (Err(_), Some(service)) => &service.addresses,
        (Err(_), None) => return Err(ExplainError::Nobody(name.to_owned())),
    };
    let reachable = |address: &&IpAddr| source.addresses.iter().any(|own| own.is_ipv6() == address.is_ipv6());
    let address = addresses.iter().find(reachable).or(addresses.first());
    Ok(SocketAddr::new(*address.ok_or_else(malformed)?, port))
}

#[cfg(test)]
mod tests;
