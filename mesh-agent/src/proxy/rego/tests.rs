//! What is remembered, and what happens without an answer.

use std::time::{Duration, UNIX_EPOCH};

use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use super::*;
use crate::model::rego::RegoModule;

fn settings(body: RegoBody) -> RegoSettings {
    let (rule, timeout, cache_for) = ("data.hauberk.allow".to_owned(), Duration::from_secs(5), Duration::from_mins(1));
    RegoSettings { body, rule, timeout, cache_for, fail_open: false }
}

fn module(rules: &str) -> RegoSettings {
    let text = format!("package hauberk\n{rules}\n");
    settings(RegoBody::Module(RegoModule::new("p.rego", &text, "data.hauberk.allow").unwrap()))
}

#[tokio::test]
async fn an_answer_is_remembered_unless_it_is_of_its_moment_or_another_policy_is_in_force() {
    let (rego, early, late) = (Rego::default(), UNIX_EPOCH, UNIX_EPOCH + Duration::from_secs(100));
    let timed = Arc::new(module("allow if { input.x == 1; time.now_ns() > 5000000000 }\nallow if input.x == 2"));
    assert!(!rego.decide(&timed, &json!({"x": 1}), early).await.allow);
    assert!(rego.decide(&timed, &json!({"x": 1}), late).await.allow);
    let steady = Arc::new(module("allow if input.x == 2"));
    let first = rego.decide(&steady, &json!({"x": 2}), early).await;
    // The same decision, by its name; also with settings that were read again.
    assert_eq!(rego.decide(&steady, &json!({"x": 2}), late).await, first);
    assert_eq!(rego.decide(&Arc::new((*steady).clone()), &json!({"x": 2}), late).await, first);
    assert!(!rego.decide(&Arc::new(module("allow if input.x == 3")), &json!({"x": 2}), late).await.allow);
    assert_ne!(rego.decide(&steady, &json!({"x": 2}), late).await.id, first.id);
}

#[tokio::test]
async fn without_an_answer_the_settings_decide_and_nothing_is_remembered() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let closed = Arc::new(RegoSettings { timeout: Duration::from_millis(50), ..settings(RegoBody::Server(address)) });
    let rego = Rego::default();
    let silent = rego.decide(&closed, &json!({}), UNIX_EPOCH).await;
    assert_eq!(
        (silent.allow, silent.reason, silent.detail.as_deref()),
        (false, "rego_failed", Some("OPA did not answer in time"))
    );
    let open = Arc::new(RegoSettings { fail_open: true, ..(*closed).clone() });
    assert!(rego.decide(&open, &json!({}), UNIX_EPOCH).await.allow);
    // Now it answers; also those that gave up.
    let generous = Arc::new(RegoSettings { timeout: Duration::from_secs(30), ..(*closed).clone() });
    let server = async {
        loop {
            let (mut socket, _) = listener.accept().await.unwrap();
            let mut request = vec![0; 4096];
            if socket.read(&mut request).await.is_ok_and(|read| read > 0) {
                assert!(request.starts_with(b"POST /v1/data/hauberk/allow HTTP/1.1"));
                let body = r#"{"result":true,"decision_id":"of-opa"}"#;
                let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len());
                drop(socket.write_all(answer.as_bytes()).await);
            }
        }
    };
    let question = json!({});
    let decision = tokio::select! {
        decision = rego.decide(&generous, &question, UNIX_EPOCH) => decision,
        () = server => unreachable!("a server serves for ever"),
    };
    assert_eq!((decision.allow, &*decision.id), (true, "of-opa"));
}
