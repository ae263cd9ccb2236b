//! Whose a service account's token is: what it says of itself, and what the API server says of it.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use k8s_openapi::api::authentication::v1::TokenReviewStatus;
use serde::Deserialize;

/// Extra information of a token that is bound to a pod: the node that the pod runs on (since Kubernetes 1.32).
const NODE_OF_TOKEN: &str = "authentication.kubernetes.io/node-name";
const NO_NODE: &str = "the token is bound to no node (needs Kubernetes 1.32)";

/// Whose token it must be.
#[derive(Debug)]
pub(super) struct Expected<'a> {
    /// The service account, as the API server calls its user.
    pub(super) user: &'a str,
    /// Whom the token is for.
    pub(super) audience: &'a str,
}

#[derive(Deserialize)]
struct Claims {
    #[serde(default)]
    sub: String,
    #[serde(default)]
    aud: Audience,
    #[serde(rename = "kubernetes.io", default)]
    bound: Bound,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Audience {
    One(String),
    Several(Vec<String>),
}

impl Default for Audience {
    fn default() -> Self {
        Self::Several(Vec::new())
    }
}

#[derive(Default, Deserialize)]
struct Bound {
    node: Option<Object>,
}

#[derive(Deserialize)]
struct Object {
    name: String,
}

impl Expected<'_> {
    /// Why a token can't be the right one by its own word. Nothing of that is believed: it only keeps strangers from having
    /// the API server asked for them.
    pub(super) fn turns_away(&self, token: &str) -> Option<String> {
        let mut parts = token.split('.');
        let (Some(_), Some(claims), Some(_), None) = (parts.next(), parts.next(), parts.next(), parts.next()) else {
            return Some("the token is no service account's".to_owned());
        };
        let claims = URL_SAFE_NO_PAD.decode(claims).ok();
        let Some(claims) = claims.and_then(|claims| serde_json::from_slice::<Claims>(&claims).ok()) else {
            return Some("the token is no service account's".to_owned());
        };
        let is_for_us = match &claims.aud {
            Audience::One(audience) => audience == self.audience,
            Audience::Several(audiences) => audiences.iter().any(|audience| audience == self.audience),
        };
        if !is_for_us {
            return Some(format!("the token is not for {}", self.audience));
        }
        if claims.sub != self.user {
            return Some(self.anothers(&claims.sub));
        }
        claims.bound.node.is_none_or(|node| node.name.is_empty()).then(|| NO_NODE.to_owned())
    }

    /// The node of the agent whose token was reviewed, or why it is not the right token.
    pub(super) fn node(&self, status: TokenReviewStatus) -> Result<String, String> {
        let is_for_us = status.audiences.unwrap_or_default().iter().any(|audience| audience == self.audience);
        if status.authenticated != Some(true) || !is_for_us {
            return Err(status.error.unwrap_or_else(|| "the API server does not know the token".to_owned()));
        }
        let user = status.user.unwrap_or_default();
        let name = user.username.unwrap_or_default();
        if name != self.user {
            return Err(self.anothers(&name));
        }
        let mut nodes = user.extra.unwrap_or_default().remove(NODE_OF_TOKEN).unwrap_or_default().into_iter();
        match (nodes.next(), nodes.next()) {
            (Some(node), None) if !node.is_empty() => Ok(node),
            _ => Err(NO_NODE.to_owned()),
        }
    }

    fn anothers(&self, name: &str) -> String {
        format!("the token is {name}'s, not {}'s", self.user)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    const AGENT: &str = "system:serviceaccount:hauberk-system:hauberk-agent";
    const EXPECTED: Expected<'_> = Expected { user: AGENT, audience: "hauberk-ca" };

    fn status(changed: &[(&str, Value)]) -> TokenReviewStatus {
        let mut status = json!({
            "authenticated": true, "audiences": ["other", "hauberk-ca"],
            "user": {"username": AGENT, "extra": {NODE_OF_TOKEN: ["node-1"]}},
        });
        for (pointer, value) in changed {
            *status.pointer_mut(pointer).unwrap() = value.clone();
        }
        serde_json::from_value(status).unwrap()
    }

    #[test]
    fn only_an_agents_token_that_is_bound_to_its_node_names_a_node() {
        assert_eq!(EXPECTED.node(status(&[])), Ok("node-1".to_owned()));
        let another = |name: &str| format!("the token is {name}'s, not {AGENT}'s");
        let (unknown, no_node) = ("the API server does not know the token", NO_NODE.to_owned());
        for (pointer, value, why) in [
            ("/authenticated", json!(false), unknown.to_owned()),
            ("/authenticated", Value::Null, unknown.to_owned()),
            ("/audiences", json!(["https://kubernetes.default.svc"]), unknown.to_owned()),
            ("/audiences", json!([]), unknown.to_owned()),
            ("/audiences", Value::Null, unknown.to_owned()),
            (
                "/user/username",
                json!("system:serviceaccount:hauberk-system:default"),
                another("system:serviceaccount:hauberk-system:default"),
            ),
            (
                "/user/username",
                json!("system:serviceaccount:shop:hauberk-agent"),
                another("system:serviceaccount:shop:hauberk-agent"),
            ),
            ("/user/username", json!("admin"), another("admin")),
            ("/user", json!({}), another("")),
            ("/user/extra", json!({}), no_node.clone()),
            ("/user/extra", json!({NODE_OF_TOKEN: []}), no_node.clone()),
            ("/user/extra", json!({NODE_OF_TOKEN: [""]}), no_node.clone()),
            ("/user/extra", json!({NODE_OF_TOKEN: ["node-1", "node-2"]}), no_node.clone()),
        ] {
            assert_eq!(EXPECTED.node(status(&[(pointer, value.clone())])), Err(why), "{pointer} {value}");
        }
        let mut expired = status(&[("/authenticated", json!(false))]);
        expired.error = Some("token has expired".to_owned());
        assert_eq!(EXPECTED.node(expired), Err("token has expired".to_owned()));
        assert_eq!(EXPECTED.node(TokenReviewStatus::default()), Err(unknown.to_owned()));
    }

    fn token(claims: &Value) -> String {
        format!("e30.{}.c2ln", URL_SAFE_NO_PAD.encode(claims.to_string()))
    }

    #[test]
    fn a_stranger_is_turned_away_by_its_own_word() {
        let node = json!({"node": {"name": "node-1", "uid": "u"}, "namespace": "hauberk-system"});
        let good = json!({"aud": ["hauberk-ca"], "sub": AGENT, "kubernetes.io": node});
        assert_eq!(EXPECTED.turns_away(&token(&good)), None);
        let one = json!({"aud": "hauberk-ca", "sub": AGENT, "kubernetes.io": node});
        assert_eq!(EXPECTED.turns_away(&token(&one)), None);
        for (wrong, why) in [
            (json!({"aud": ["kubernetes"], "sub": AGENT, "kubernetes.io": node}), "not for hauberk-ca"),
            (json!({"sub": AGENT, "kubernetes.io": node}), "not for hauberk-ca"),
            (
                json!({"aud": ["hauberk-ca"], "sub": "system:serviceaccount:shop:web", "kubernetes.io": node}),
                "shop:web's",
            ),
            (json!({"aud": ["hauberk-ca"], "sub": AGENT}), "bound to no node"),
            (json!({"aud": ["hauberk-ca"], "sub": AGENT, "kubernetes.io": {"pod": {"name": "x"}}}), "bound to no node"),
            (json!("agent"), "no service account's"),
        ] {
            let said = EXPECTED.turns_away(&token(&wrong)).unwrap();
            assert!(said.contains(why), "{wrong}: {said}");
        }
        for garbage in ["", "a", "a.b", "a.b.c", "e30.e30.e30.e30", "..", "e30.\u{e4}.e30"] {
            assert!(EXPECTED.turns_away(garbage).is_some(), "{garbage}");
        }
    }
}
