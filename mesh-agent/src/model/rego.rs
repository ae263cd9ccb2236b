//! Authorization in Rego: where the policy is, and evaluation of one that is here.
//!
//! A module is evaluated by regorus, with what a connection asks as `input` (`state::rego`). It has neither files nor
//! network; the only thing from outside is `time.now_ns()`, whose use is noticed: such an answer holds for its moment only.

use std::fmt;
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use regorus::utils::limits::ExecutionTimerConfig;
use regorus::{Engine, Value};

/// Work between two looks at the time limit.
const CHECK_INTERVAL: NonZeroU32 = NonZeroU32::new(64).expect("not zero");

/// How long a module may take when it is tried with an empty input: whoever loads it waits.
const TRIAL: Duration = Duration::from_secs(1);

/// How Rego is asked.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct RegoSettings {
    /// Who answers.
    pub body: RegoBody,
    /// The rule whose value is the answer, such as `data.hauberk.allow`.
    pub rule: String,
    /// How long an answer may take.
    pub timeout: Duration,
    /// How long an answer holds. Longer than a live connection may outlive a change at an OPA server.
    pub cache_for: Duration,
    /// Without an answer, the connection is allowed. Otherwise it is denied.
    pub fail_open: bool,
}

/// Who answers.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum RegoBody {
    /// This agent.
    Module(RegoModule),
    /// `host:port` of an OPA server.
    Server(String),
}

/// A module that compiles.
#[derive(Clone)]
pub struct RegoModule {
    name: String,
    text: Arc<str>,
    rule: String,
    /// Engines at rest, each with its clock.
    idle: Arc<Mutex<Vec<Ready>>>,
}

/// An engine that has the module, and what it knows of the time.
type Ready = (Engine, Arc<Clock>);

/// What `time.now_ns()` says, and whether somebody asked.
#[derive(Debug, Default)]
struct Clock {
    nanoseconds: AtomicI64,
    asked: AtomicBool,
}

/// What a policy says of a connection.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct RegoAnswer {
    /// Whether it may be.
    pub allow: bool,
    /// Why, in the policy's own words.
    pub reason: Option<String>,
    /// Whether the answer is the same for a while.
    pub holds: bool,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum RegoError {
    /// The module has a mistake, or took too long.
    #[error("{0}")]
    Evaluation(String),
    /// The rule's value is no answer.
    #[error("the rule's value is neither a boolean nor an object with the boolean `allow`")]
    Answer,
}

impl RegoModule {
    /// Compiles a module, which must have the rule and come to an end without an input.
    pub fn new(name: &str, text: &str, rule: &str) -> Result<Self, String> {
        let module = Self { name: name.to_owned(), text: text.into(), rule: rule.to_owned(), idle: Arc::default() };
        let (mut engine, clock) = module.engine().map_err(|error| one_line(&error))?;
        engine.set_input(Value::new_object());
        engine.set_execution_timer_config(ExecutionTimerConfig { limit: TRIAL, check_interval: CHECK_INTERVAL });
        engine.eval_rule(rule.to_owned()).map_err(|error| one_line(&error))?;
        module.rest(engine, clock);
        Ok(module)
    }

    /// Asks it. The answer is right for `now`.
    pub fn evaluate(&self, input: &str, now: SystemTime, limit: Duration) -> Result<RegoAnswer, RegoError> {
        let failed = |error: anyhow::Error| RegoError::Evaluation(one_line(&error));
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let (mut engine, clock) = idle.map_or_else(|| self.engine().map_err(failed), Ok)?;
        let nanoseconds = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
        clock.nanoseconds.store(i64::try_from(nanoseconds).unwrap_or(i64::MAX), Ordering::Relaxed);
        clock.asked.store(false, Ordering::Relaxed);
        engine.set_execution_timer_config(ExecutionTimerConfig { limit, check_interval: CHECK_INTERVAL });
        engine.set_input_json(input).map_err(failed)?;
        let value = engine.eval_rule(self.rule.clone()).map_err(failed)?;
        let holds = !clock.asked.load(Ordering::Relaxed);
        // One that failed isn't used again: nobody knows what it is like.
        self.rest(engine, clock);
        let json = if value == Value::Undefined { None } else { Some(value.to_json_str().map_err(failed)?) };
        let value = json.map(|text| serde_json::from_str(&text)).transpose().map_err(|error| failed(error.into()))?;
        let answer = RegoAnswer::read(value.as_ref())?;
        Ok(RegoAnswer { holds: holds && answer.holds, ..answer })
    }

    fn engine(&self) -> anyhow::Result<Ready> {
        let (mut engine, clock) = (Engine::new(), Arc::new(Clock::default()));
        let read = Arc::clone(&clock);
        let now_ns = move |_: Vec<Value>| {
            read.asked.store(true, Ordering::Relaxed);
            Ok(Value::from(read.nanoseconds.load(Ordering::Relaxed)))
        };
        engine.add_extension("time.now_ns".to_owned(), 0, Box::new(now_ns))?;
        engine.add_policy(self.name.clone(), self.text.to_string())?;
        Ok((engine, clock))
    }

    fn rest(&self, engine: Engine, clock: Arc<Clock>) {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).push((engine, clock));
    }
}

impl RegoAnswer {
    /// Understands a rule's value; `None`: it is undefined, which denies.
    pub fn read(value: Option<&serde_json::Value>) -> Result<Self, RegoError> {
        use serde_json::Value as Json;
        let (allow, reason, holds) = match value {
            None => (false, None, true),
            Some(Json::Bool(allow)) => (*allow, None, true),
            Some(Json::Object(fields)) => {
                let allow = fields.get("allow").and_then(Json::as_bool).ok_or(RegoError::Answer)?;
                let reason = fields.get("reason").and_then(Json::as_str).map(str::to_owned);
                (allow, reason, fields.get("cache").and_then(Json::as_bool).unwrap_or(true))
            }
            Some(_) => return Err(RegoError::Answer),
        };
        Ok(Self { allow, reason, holds })
    }
}

fn one_line(error: &anyhow::Error) -> String {
    format!("{error:#}").split_whitespace().collect::<Vec<_>>().join(" ")
}

/// By what somebody wrote.
impl PartialEq for RegoModule {
    fn eq(&self, other: &Self) -> bool {
        (&self.name, &self.text, &self.rule) == (&other.name, &other.text, &other.rule)
    }
}

impl Eq for RegoModule {}

impl fmt::Debug for RegoModule {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("RegoModule").field("name", &self.name).field("rule", &self.rule).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(5);

    fn module(rules: &str) -> Result<RegoModule, String> {
        RegoModule::new("p.rego", &format!("package hauberk\n{rules}\n"), "data.hauberk.allow")
    }

    fn ask(rules: &str, input: &str) -> Result<RegoAnswer, String> {
        module(rules)
            .unwrap()
            .evaluate(input, UNIX_EPOCH + Duration::from_secs(9), LIMIT)
            .map_err(|error| error.to_string())
    }

    fn answer(allow: bool, reason: Option<&str>, holds: bool) -> Result<RegoAnswer, String> {
        Ok(RegoAnswer { allow, reason: reason.map(str::to_owned), holds })
    }

    #[test]
    fn a_boolean_or_an_object_is_an_answer_and_undefined_denies() {
        assert_eq!(ask("allow if input.port == 80", r#"{"port": 80}"#), answer(true, None, true));
        assert_eq!(ask("allow if input.port == 80", r#"{"port": 81}"#), answer(false, None, true));
        let object = r#"allow := {"allow": true, "reason": "because", "cache": false}"#;
        assert_eq!(ask(object, "{}"), answer(true, Some("because"), false));
        for nonsense in ["allow := 1", r#"allow := {"allow": "yes"}"#, r#"allow := {"reason": "x"}"#] {
            let error = "the rule's value is neither a boolean nor an object with the boolean `allow`";
            assert_eq!(ask(nonsense, "{}"), Err(error.to_owned()));
        }
    }

    #[test]
    fn an_answer_that_used_the_time_is_for_its_moment() {
        let later = "allow if { input.port == 80; time.now_ns() > 8000000000 }";
        assert_eq!(ask(later, r#"{"port": 80}"#), answer(true, None, false));
        assert_eq!(ask(later, r#"{"port": 81}"#), answer(false, None, true), "the time was not asked for");
        // An engine that rested does not remember.
        let module = module(later).unwrap();
        for (port, holds) in [(80, false), (81, true), (80, false)] {
            let answer = module.evaluate(&format!(r#"{{"port": {port}}}"#), UNIX_EPOCH, LIMIT).unwrap();
            assert_eq!((answer.allow, answer.holds), (false, holds));
        }
    }

    #[test]
    fn a_module_that_does_not_compile_or_lacks_the_rule_is_refused() {
        let refused = |rules: &str| module(rules).unwrap_err();
        assert!(refused("allow if {").contains("p.rego:3:1"), "{}", refused("allow if {"));
        assert!(refused("deny := true").contains("not a valid rule path"), "{}", refused("deny := true"));
        assert!(refused("allow if http.send({})").contains("http.send"), "{}", refused("allow if http.send({})"));
    }

    #[test]
    fn an_endless_policy_is_stopped() {
        let heavy =
            "allow if { input.x; some a in numbers.range(1, 3000); some b in numbers.range(1, 3000); a * b == -1 }";
        let error =
            module(heavy).unwrap().evaluate(r#"{"x": true}"#, UNIX_EPOCH, Duration::from_millis(5)).unwrap_err();
        assert!(error.to_string().contains("time"), "{error}");
        let error = module(&heavy.replace("input.x; ", "")).unwrap_err();
        assert!(error.contains("time"), "{error}");
    }
}
