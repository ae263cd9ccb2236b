//! A real Kubernetes API server on a world's node, with its etcd and nothing else: no kubelet, so a test decides what runs.
//!
//! Both are components of the one program that `tests/cluster` builds; MESH_CLUSTER_PROGRAM names it.

use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result};

use crate::cluster::{ETCD, etcd_arguments};
use crate::mesh::agent_bin;
use crate::process::{Place, Process};
use crate::wait::wait_until;
use crate::world::Node;

const PORT: u16 = 16443;
const TOKEN: &str = "tests-only";
/// A cold start on a busy machine.
const UP: Duration = Duration::from_secs(120);

/// The namespace `shop` in the mesh, the nodes `a` and `b` with the ranges of their pods, and a strict Mesh with the CA in `CA`.
const OBJECTS: &str = "apiVersion: v1
kind: Namespace
metadata: {name: shop, labels: {mesh.hauberk.dev/enrolled: 'true'}}
---
apiVersion: v1
kind: Node
metadata: {name: a}
spec: {podCIDR: 10.42.1.0/24, podCIDRs: [10.42.1.0/24]}
---
apiVersion: v1
kind: Node
metadata: {name: b}
spec: {podCIDR: 10.42.2.0/24, podCIDRs: [10.42.2.0/24]}
---
apiVersion: mesh.hauberk.dev/v1alpha1
kind: Mesh
metadata: {name: mesh}
spec: {trustDomain: mesh.test, mtls: {mode: STRICT}, issuer: {embedded: {certificate: CA/ca.crt, key: CA/ca.key}}}
";

/// The API server; killed when dropped.
#[derive(Debug)]
pub struct ApiServer {
    program: PathBuf,
    place: Place,
    directory: PathBuf,
    _etcd: Process,
    _server: Process,
}

impl ApiServer {
    /// Starts it in the namespace of `node`, with its files in `directory`, and waits until it serves the mesh's kinds.
    pub fn start(node: &Node, directory: &Path) -> Result<Self> {
        let program = std::env::var_os("MESH_CLUSTER_PROGRAM");
        let program = program.context("MESH_CLUSTER_PROGRAM isn't set: `cargo xtask test kubernetes`")?;
        let (program, place, directory) = (PathBuf::from(program), node.place().clone(), directory.join("kubernetes"));
        fs::create_dir_all(&directory)?;
        let key = directory.join("service-accounts.key").display().to_string();
        let mut openssl = place.command("openssl");
        place.run(openssl.args(["ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", &key]))?.success()?;
        fs::write(directory.join("tokens.csv"), format!("{TOKEN},admin,1,system:masters\n"))?;
        let mut etcd = place.command(&program);
        etcd.arg("etcd").args(etcd_arguments(&directory.join("etcd")));
        let etcd = place.spawn(&mut etcd)?;
        let (at, address) = (directory.display(), node.address());
        let arguments = format!(
            "kube-apiserver --etcd-servers={ETCD} --bind-address={address} --secure-port={PORT} --cert-dir={at}/certs
             --advertise-address={address} --token-auth-file={at}/tokens.csv --authorization-mode=AlwaysAllow
             --disable-admission-plugins=ServiceAccount --service-account-issuer=https://kubernetes.default.svc
             --service-account-signing-key-file={key} --service-account-key-file={key}
             --service-cluster-ip-range=10.96.0.0/16"
        );
        let mut server = place.command(&program);
        let server = place.spawn(server.args(arguments.split_whitespace()))?;
        let api = Self { program, place, directory, _etcd: etcd, _server: server };
        fs::write(api.kubeconfig(), kubeconfig(address))?;
        wait_until(UP, "the API server is ready", || {
            Ok(api.kubectl(&["get", "--raw", "/readyz"]).is_ok_and(|answer| answer == "ok").then_some(()))
        })?;
        let definitions = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/crds");
        api.kubectl(&["apply", "--kustomize", &definitions.to_string_lossy()])?;
        let established = ["wait", "--for=condition=Established", "crd", "--all", "--timeout=60s"];
        api.kubectl(&established)?;
        Ok(api)
    }

    /// The same, with a CA and what an agent needs: the namespace `shop` in the mesh, the nodes `a` and `b`, a strict Mesh.
    pub fn with_mesh(node: &Node, directory: &Path) -> Result<Self> {
        let ca = directory.join("ca");
        let mut init = node.place().command(agent_bin()?);
        node.place().run(init.args(["ca", "init", "--trust-domain", "mesh.test", "--dir"]).arg(&ca))?.success()?;
        let api = Self::start(node, directory)?;
        api.apply(&OBJECTS.replace("CA", &ca.display().to_string()))?;
        Ok(api)
    }

    /// For its clients.
    pub fn kubeconfig(&self) -> PathBuf {
        self.directory.join("kubeconfig")
    }

    /// Makes or changes objects.
    pub fn apply(&self, documents: &str) -> Result<()> {
        let file = self.directory.join("apply.yaml");
        fs::write(&file, documents)?;
        self.kubectl(&["apply", "-f", &file.display().to_string()]).map(drop)
    }

    /// Runs kubectl; returns what it prints.
    pub fn kubectl(&self, arguments: &[&str]) -> Result<String> {
        let mut command = self.place.command(&self.program);
        command.arg("kubectl").arg("--kubeconfig").arg(self.kubeconfig()).args(arguments);
        self.place.run(&mut command)?.success()
    }
}

fn kubeconfig(address: IpAddr) -> String {
    format!(
        "apiVersion: v1
kind: Config
current-context: it
contexts: [{{name: it, context: {{cluster: it, user: it, namespace: hauberk-system}}}}]
clusters: [{{name: it, cluster: {{server: \"https://{address}:{PORT}\", insecure-skip-tls-verify: true}}}}]
users: [{{name: it, user: {{token: {TOKEN}}}}}]
"
    )
}
