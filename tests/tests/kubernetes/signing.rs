//! Who gets certificates of the cluster's CA, asked by an openssl of the node with tokens of all kinds.

use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::{Context as _, Result, ensure};
use mesh_tests::cluster::{Meshed, Node, logs};
use mesh_tests::wait::wait_until;
use serde_json::{Value, json};

use crate::outages::agent_process;
use crate::{PATIENCE, SYSTEM};

/// What the signing API calls its protocol.
const ALPN: &str = "hauberk-issuer/1";
const SIGNING_PORT: u16 = 15_100;

/// An agent that is not ours: a node's openssl, and a key.
struct Applicant<'m> {
    node: &'m Node,
    ca: SocketAddr,
    files: tempfile::TempDir,
    request: String,
}

impl<'m> Applicant<'m> {
    fn new(meshed: &'m Meshed, node: usize) -> Result<Self> {
        let selector = "--selector=app.kubernetes.io/name=hauberk-ca";
        let ca = [SYSTEM, "get", "pods", selector, "--output=jsonpath={.items[0].status.podIP}"];
        let ca = SocketAddr::new(meshed.kubectl.run(&ca)?.parse()?, SIGNING_PORT);
        let node = &meshed.cluster.nodes()[node];
        let mut applicant = Self { node, ca, files: tempfile::tempdir()?, request: String::new() };
        let [key, request] = ["key.pem", "request.der"].map(|name| applicant.path(name));
        let kind = "req -new -nodes -newkey ec -pkeyopt ec_paramgen_curve:P-256 -subj /CN=x -outform DER";
        applicant
            .openssl(&[&kind.split(' ').collect::<Vec<_>>(), &["-keyout", &key, "-out", &request][..]].concat())?;
        applicant.request = applicant.openssl(&["base64", "-A", "-in", &request])?.trim().to_owned();
        Ok(applicant)
    }

    fn path(&self, name: &str) -> String {
        self.files.path().join(name).display().to_string()
    }

    fn openssl(&self, arguments: &[&str]) -> Result<String> {
        let output = self.node.command("openssl")?.args(arguments).output().context("start openssl")?;
        ensure!(output.status.success(), "openssl {arguments:?}: {output:?}");
        Ok(String::from_utf8(output.stdout)?)
    }

    /// Asks the CA; the answer, or the reason of its refusal.
    fn post(&self, path: &str, body: &Value, options: &[&str]) -> Result<Result<Value, String>> {
        let (body, asked) = (body.to_string(), self.path("asked"));
        let head = format!("POST {path} HTTP/1.1\r\nHost: ca\r\nContent-Type: application/json\r\n");
        std::fs::write(&asked, format!("{head}Connection: close\r\nContent-Length: {}\r\n\r\n{body}", body.len()))?;
        let mut client = self.node.command("openssl")?;
        client.args(["s_client", "-quiet", "-tls1_3", "-alpn", ALPN, "-connect", &self.ca.to_string()]).args(options);
        let output = client.stdin(std::fs::File::open(&asked)?).output().context("start openssl")?;
        let text = String::from_utf8(output.stdout)?;
        let (head, answer) = text.split_once("\r\n\r\n").with_context(|| format!("no answer: {text}"))?;
        let answer: Value = serde_json::from_str(answer).with_context(|| format!("read {text}"))?;
        Ok(match head.split(' ').nth(1) {
            Some("200") => Ok(answer),
            Some("403") => Err(answer["error"].as_str().unwrap_or_default().to_owned()),
            _ => anyhow::bail!("{text}"),
        })
    }

    fn join(&self, token: &str) -> Result<Result<Value, String>> {
        self.post("/v1/join", &json!({"token": token.trim(), "request": self.request}), &[])
    }

    /// Asks for a workload's SVID by the node's identity that it was given.
    fn svid(&self, node: &Value, account: &str) -> Result<Result<Value, String>> {
        let chain = node["chain"].as_array().context("no chain")?.iter().filter_map(Value::as_str);
        let pem: String =
            chain.map(|der| format!("-----BEGIN CERTIFICATE-----\n{der}\n-----END CERTIFICATE-----\n")).collect();
        let [certificate, key] = ["node.pem", "key.pem"].map(|name| self.path(name));
        std::fs::write(&certificate, pem)?;
        let asked = json!({"id": format!("spiffe://cluster.local/ns/shop/sa/{account}"), "request": self.request});
        self.post("/v1/svid", &asked, &["-cert", &certificate, "-cert_chain", &certificate, "-key", &key])
    }
}

/// The token that the agent of a node shows.
fn agents_token(meshed: &Meshed, node: usize) -> Result<String> {
    let process = agent_process(&meshed.cluster.nodes()[node])?;
    let path = PathBuf::from(format!("/proc/{process}/root/var/run/secrets/hauberk/token"));
    std::fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))
}

/// The service account `lasting` is used on node-2 alone.
pub(crate) fn an_agent_gets_certificates_for_its_own_node_alone(meshed: &Meshed) -> Result<()> {
    let [first, second] = [Applicant::new(meshed, 0)?, Applicant::new(meshed, 1)?];
    let joined = first.join(&agents_token(meshed, 0)?)?.map_err(anyhow::Error::msg)?;
    ensure!(first.svid(&joined, "client")?.is_ok(), "an agent gets nothing for its own pods");
    let refused = first.svid(&joined, "lasting")?.expect_err("for a pod of another node");
    assert_eq!(refused, "this node runs no workload with this identity");
    let other = second.join(&agents_token(meshed, 1)?)?.map_err(anyhow::Error::msg)?;
    ensure!(second.svid(&other, "lasting")?.is_ok(), "its own node's agent gets nothing for it");
    // Without a node's identity there is nothing to be had.
    let nobody = json!({"id": "spiffe://cluster.local/ns/shop/sa/client", "request": first.request});
    let refused = first.post("/v1/svid", &nobody, &[])?.expect_err("for nobody");
    assert_eq!(refused, "the caller has no node's identity");
    Ok(())
}

pub(crate) fn no_other_token_makes_an_agent(meshed: &Meshed) -> Result<()> {
    let applicant = Applicant::new(meshed, 0)?;
    let token = |options: &[&str]| meshed.kubectl.run(&[&[SYSTEM, "create", "token"], options].concat());
    let (audience, bound) = ("--audience=hauberk-ca", ["--bound-object-kind=Node", "--bound-object-name=node-1"]);
    let good = token(&[&["hauberk-agent", audience], &bound[..]].concat())?;
    ensure!(applicant.join(&good)?.is_ok(), "a token like an agent's is refused");
    for (options, reason) in [
        (vec!["hauberk-agent", bound[0], bound[1]], ""),
        (vec!["hauberk-agent", audience], "the token is bound to no node"),
        (
            vec!["hauberk-ca", audience, bound[0], bound[1]],
            "hauberk-ca's, not system:serviceaccount:hauberk-system:hauberk-agent's",
        ),
        (
            vec!["default", "--namespace=shop", audience, bound[0], bound[1]],
            "the token is system:serviceaccount:shop:default's",
        ),
    ] {
        let refused = applicant.join(&token(&options)?)?.expect_err(reason);
        ensure!(refused.contains(reason), "{options:?}: {refused}");
    }
    let refused = applicant.join("no.token.at-all")?.expect_err("for no token");
    ensure!(!refused.is_empty());
    let log = [SYSTEM, "logs", "--selector=app.kubernetes.io/name=hauberk-ca", "--tail=-1"];
    wait_until(PATIENCE, "the CA's audit", || {
        Ok((meshed.kubectl.run(&log)?.matches("svid refused").count() >= 7).then_some(()))
    })
    .with_context(|| logs(&meshed.kubectl))
}

/// Both sign with the key of the Secret; who holds the Lease writes the documents' status.
pub(crate) fn one_signing_service_takes_over_from_another(meshed: &Meshed) -> Result<()> {
    meshed.kubectl.run(&[SYSTEM, "scale", "deployment/hauberk-ca", "--replicas=2"])?;
    meshed.kubectl.run(&[SYSTEM, "rollout", "status", "deployment/hauberk-ca", "--timeout=60s"])?;
    let holder =
        || meshed.kubectl.run(&[SYSTEM, "get", "lease", "hauberk-ca", "--output=jsonpath={.spec.holderIdentity}"]);
    let first = holder()?;
    meshed.kubectl.run(&[SYSTEM, "delete", "pod", &first, "--wait=false"])?;
    wait_until(PATIENCE, "the other one leads", || Ok((holder()? != first).then_some(())))?;
    meshed.kubectl.run(&[SYSTEM, "scale", "deployment/hauberk-ca", "--replicas=1"])?;
    meshed.kubectl.run(&[SYSTEM, "rollout", "status", "deployment/hauberk-ca", "--timeout=60s"]).map(drop)
}
