//! What became of a document, in its own status.

use k8s_openapi::jiff::Timestamp;
use kube::Api;
use kube::api::Patch;
use kube::core::DynamicObject;
use serde_json::json;

use super::{Kubernetes, KubernetesError, api, applied, resource};
use crate::config::{API_GROUP, API_VERSION, Told, Verdict};

/// Longer messages are cut: the API server takes 32 KiB.
const MAX_MESSAGE_BYTES: usize = 8 * 1024;

/// The condition of a document by which its author learns what became of it.
pub const ACCEPTED: &str = "Accepted";

/// What a document's condition should say; `None`: it says so already. `now` as in RFC 3339.
fn tell(verdict: &Verdict, now: impl FnOnce() -> String) -> Option<Told> {
    let mut message = verdict.mistakes.as_ref().map(ToString::to_string).unwrap_or_default();
    message.truncate(message.floor_char_boundary(MAX_MESSAGE_BYTES));
    let (generation, accepted) = (verdict.generation, verdict.mistakes.is_none());
    let before = verdict.told.as_ref();
    let is_told = |told: &Told| (told.generation, told.accepted, &told.message) == (generation, accepted, &message);
    if before.is_some_and(is_told) {
        return None;
    }
    // Since then the status is what it is, and not the message.
    let since = before.filter(|told| told.accepted == accepted).map(|told| told.since.clone());
    Some(Told { generation, accepted, message, since: since.unwrap_or_else(now) })
}

impl Kubernetes {
    /// Writes the condition [`ACCEPTED`] of the document that was judged, if it doesn't say so yet; `plural` names its kind in the
    /// API.
    pub async fn judge(&self, verdict: &Verdict, plural: &str) -> Result<(), KubernetesError> {
        let Some(told) = tell(verdict, || Timestamp::now().to_string()) else { return Ok(()) };
        let Verdict { kind, name, .. } = verdict;
        let resource = resource(kind, plural);
        let documents: Api<DynamicObject> = if name.namespace.is_empty() {
            Api::all_with(self.client.clone(), &resource)
        } else {
            Api::namespaced_with(self.client.clone(), &name.namespace, &resource)
        };
        let (status, reason) = if told.accepted { ("True", "Accepted") } else { ("False", "Invalid") };
        let condition = json!({
            "type": ACCEPTED, "status": status, "reason": reason, "message": told.message,
            "observedGeneration": told.generation, "lastTransitionTime": told.since,
        });
        let patch = json!({
            "apiVersion": format!("{API_GROUP}/{API_VERSION}"), "kind": kind, "metadata": {"name": name.name},
            "status": {"conditions": [condition]},
        });
        let what = format!("write the status of the {kind} {}", name.name);
        documents.patch_status(&name.name, &applied(), &Patch::Apply(patch)).await.map_err(api(&what))?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{ConfigError, ConfigErrors};
    use crate::model::cluster::ObjectName;

    #[test]
    fn a_condition_is_written_when_it_says_something_new_and_keeps_its_time_while_its_status_stays() {
        let name = ObjectName { namespace: "shop".to_owned(), name: "p".to_owned() };
        let mistake = |reason: &str| {
            let (field, reason) = ("spec".to_owned(), reason.to_owned());
            Some(ConfigErrors(vec![ConfigError { file: None, document: None, object: None, field, reason }]))
        };
        let mut verdict =
            Verdict { kind: "K".to_owned(), name, generation: 1, mistakes: mistake("is bad"), told: None };
        let mut check = |generation, mistakes, expected: Option<(bool, &str, &str)>| {
            (verdict.generation, verdict.mistakes) = (generation, mistakes);
            let told = tell(&verdict, || format!("time {generation}"));
            let shown = told.as_ref().map(|told| (told.accepted, told.message.as_str(), told.since.as_str()));
            assert_eq!(shown, expected);
            verdict.told = told.or(verdict.told.take());
        };
        check(1, mistake("is bad"), Some((false, "spec: is bad", "time 1")));
        check(1, mistake("is bad"), None);
        check(2, mistake("is worse"), Some((false, "spec: is worse", "time 1")));
        check(3, None, Some((true, "", "time 3")));
        check(4, None, Some((true, "", "time 3")));
        check(4, None, None);
    }
}
