//! Asks in Rego whether a connection may be, and remembers answers for a while.

use std::collections::HashMap;
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher as _;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Instant, SystemTime};

use serde_json::Value;

use crate::model::rego::{RegoAnswer, RegoBody, RegoSettings};
use crate::opa;

/// Answers that are remembered. When there are more, all are forgotten: a policy answers faster than a list is kept in order.
const MAX_ANSWERS: usize = 8192;

/// The reason where nobody answered.
pub(super) const NO_ANSWER: &str = "rego_failed";

/// A decision on one connection.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Decision {
    pub(super) allow: bool,
    /// The label in logs and metrics: `rego`, or [`NO_ANSWER`].
    pub(super) reason: &'static str,
    /// Names the decision in records; OPA's own, where it gave one.
    pub(super) id: Arc<str>,
    /// Why, in the policy's own words or as the failure has it.
    pub(super) detail: Option<Arc<str>>,
}

/// Who asks, for all connections of a node.
#[derive(Debug, Default)]
pub(super) struct Rego(Mutex<Remembered>);

/// Answers, and to whose questions.
#[derive(Debug, Default)]
struct Remembered {
    settings: Option<Arc<RegoSettings>>,
    answers: HashMap<String, (Decision, Instant)>,
}

impl Rego {
    /// Decides about `input`. Without an answer the settings decide, and that isn't remembered.
    pub(super) async fn decide(&self, settings: &Arc<RegoSettings>, input: &Value, now: SystemTime) -> Decision {
        let question = input.to_string();
        if let Some(decision) = self.recall(settings, &question) {
            return decision;
        }
        match answer(settings, input, &question, now).await {
            Ok((answer, id)) => {
                let id = id.unwrap_or_else(new_id).into();
                let detail = answer.reason.map(Arc::from);
                let decision = Decision { allow: answer.allow, reason: "rego", id, detail };
                if answer.holds {
                    self.remember(settings, question, &decision);
                }
                decision
            }
            Err(error) => {
                let detail = Some(error.into());
                Decision { allow: settings.fail_open, reason: NO_ANSWER, id: new_id().into(), detail }
            }
        }
    }

    fn recall(&self, settings: &Arc<RegoSettings>, question: &str) -> Option<Decision> {
        let mut remembered = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let same = remembered.settings.as_ref().is_some_and(|of| Arc::ptr_eq(of, settings) || of == settings);
        if !same {
            *remembered = Remembered::default();
        }
        remembered.settings = Some(Arc::clone(settings));
        let (decision, until) = remembered.answers.get(question)?;
        (Instant::now() < *until).then(|| decision.clone())
    }

    fn remember(&self, settings: &Arc<RegoSettings>, question: String, decision: &Decision) {
        let mut remembered = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // Others may be in force by now.
        if remembered.settings.as_ref().is_some_and(|of| Arc::ptr_eq(of, settings)) {
            if remembered.answers.len() >= MAX_ANSWERS {
                remembered.answers.clear();
            }
            remembered.answers.insert(question, (decision.clone(), Instant::now() + settings.cache_for));
        }
    }
}

async fn answer(
    settings: &RegoSettings,
    input: &Value,
    question: &str,
    now: SystemTime,
) -> Result<(RegoAnswer, Option<String>), String> {
    match &settings.body {
        RegoBody::Module(module) => {
            let answer = module.evaluate(question, now, settings.timeout).map_err(|error| error.to_string())?;
            Ok((answer, None))
        }
        RegoBody::Server(address) => {
            let asked = opa::ask(address, &settings.rule, input, settings.timeout).await;
            let answered = asked.map_err(|error| error.to_string())?;
            let answer = RegoAnswer::read(answered.result.as_ref()).map_err(|error| error.to_string())?;
            Ok((answer, answered.decision_id))
        }
    }
}

/// Hard to meet twice, which is all that a name in a log needs.
fn new_id() -> String {
    format!("{:016x}", RandomState::new().hash_one(Instant::now()))
}

#[cfg(test)]
mod tests;
