//! The control plane: etcd, the API server, the controller manager and the scheduler, in the switch's namespace.

use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use super::network::{API_PORT, API_SERVER, PODS, SERVICES};
use super::pki::Pki;
use super::{Cluster, Kubectl, STATE, UP, runner};
use crate::wait::wait_until;

/// Where [`etcd_arguments`] lets etcd listen.
pub(crate) const ETCD: &str = "http://127.0.0.1:2379";
const API: &str = "kube-apiserver";

/// What the API server writes down: every request of the mesh's own parts, without its content.
const AUDIT_POLICY: &str = "apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
- level: Metadata
  users: ['system:serviceaccount:hauberk-system:hauberk-agent', 'system:serviceaccount:hauberk-system:hauberk-ca']
- level: None
";
/// Where.
pub(super) const AUDIT_LOG: &str = "/var/lib/hauberk-k8s/log/audit.jsonl";

/// For an etcd with its data in `directory`.
pub(crate) fn etcd_arguments(directory: &Path) -> [String; 6] {
    // A lost write costs a cluster that is thrown away anyway; the short times are those of one member.
    let [fsync, heartbeat, election] =
        ["--unsafe-no-fsync", "--heartbeat-interval=10", "--election-timeout=100"].map(str::to_owned);
    let (listen, advertise) = (format!("--listen-client-urls={ETCD}"), format!("--advertise-client-urls={ETCD}"));
    [format!("--data-dir={}", directory.display()), listen, advertise, fsync, heartbeat, election]
}

/// The control plane that runs here.
#[derive(Clone, Debug)]
pub(super) struct Control {
    program: PathBuf,
    cgroup: PathBuf,
}

impl Control {
    /// Starts etcd and the API server, and waits for neither.
    pub(super) fn start(program: &Path, _written: &Pki) -> Result<Self> {
        let control = Self::found(program)?;
        let root = runner::cgroup_root()?;
        runner::make_cgroup(&root)?;
        runner::delegate(&root)?;
        let arguments = etcd_arguments(&Path::new(STATE).join("etcd"));
        control.run("etcd", arguments.iter().map(String::as_str))?;
        control.start_apiserver()?;
        Ok(control)
    }

    /// The control plane that was started before.
    pub(super) fn found(program: &Path) -> Result<Self> {
        Ok(Self { program: program.to_owned(), cgroup: runner::cgroup_root()?.join("control") })
    }

    /// Starts the API server.
    pub(super) fn start_apiserver(&self) -> Result<()> {
        let pki = format!("{STATE}/pki");
        let policy = format!("{STATE}/audit-policy.yaml");
        std::fs::write(&policy, AUDIT_POLICY).with_context(|| format!("write {policy}"))?;
        let arguments = format!(
            "--etcd-servers={ETCD}
            --audit-policy-file={policy}
            --audit-log-path={AUDIT_LOG}
            --bind-address={API_SERVER}
            --advertise-address={API_SERVER}
            --secure-port={API_PORT}
            --service-cluster-ip-range={SERVICES}
            --allow-privileged
            --authorization-mode=Node,RBAC
            --enable-admission-plugins=NodeRestriction
            --client-ca-file={pki}/ca.crt
            --tls-cert-file={pki}/apiserver.crt
            --tls-private-key-file={pki}/apiserver.key
            --cert-dir={STATE}/certs
            --kubelet-client-certificate={pki}/kubelet-client.crt
            --kubelet-client-key={pki}/kubelet-client.key
            --kubelet-preferred-address-types=InternalIP
            --service-account-issuer=https://kubernetes.default.svc
            --service-account-signing-key-file={pki}/service-accounts.key
            --service-account-key-file={pki}/service-accounts.pub"
        );
        self.run(API, arguments.split_whitespace())
    }

    /// Kills the API server.
    pub(super) fn stop_apiserver(&self) -> Result<()> {
        runner::kill(&self.cgroup.join(API))
    }

    /// Starts what only works with an API server.
    pub(super) fn start_controllers(&self) -> Result<()> {
        let pki = format!("{STATE}/pki");
        let common = format!("--leader-elect=false --bind-address=127.0.0.1 --cert-dir={STATE}/certs");
        let manager = format!(
            "{common}
            --kubeconfig={pki}/controller-manager.kubeconfig
            --use-service-account-credentials
            --service-account-private-key-file={pki}/service-accounts.key
            --root-ca-file={pki}/ca.crt
            --cluster-signing-cert-file={pki}/ca.crt
            --cluster-signing-key-file={pki}/ca.key
            --cluster-cidr={PODS}"
        );
        self.run("kube-controller-manager", manager.split_whitespace())?;
        let scheduler = format!("{common} --kubeconfig={pki}/scheduler.kubeconfig");
        self.run("kube-scheduler", scheduler.split_whitespace())
    }

    /// Waits until the API server says that it is ready.
    pub(super) fn wait_ready(&self, kubectl: &Kubectl) -> Result<()> {
        let netns = Cluster::control_netns();
        let address = SocketAddr::from((API_SERVER, API_PORT));
        let waited = wait_until(UP, "the API server is ready", || {
            ensure!(runner::is_populated(&self.cgroup.join(API)), "the API server ended");
            // Asked by a connection first: it costs nothing, and kubectl a quarter of a second.
            let listens = netns.enter(|| Ok(TcpStream::connect_timeout(&address, Duration::from_secs(1)).is_ok()))?;
            Ok((listens && kubectl.is_ready()?).then_some(()))
        });
        waited.with_context(|| format!("its log is {STATE}/log/{API}.log"))
    }

    fn run<'a>(&self, component: &str, arguments: impl IntoIterator<Item = &'a str>) -> Result<()> {
        let netns = format!("--net={}", Cluster::control_netns().path().display());
        let program = self.program.to_string_lossy().into_owned();
        let mut command = vec!["nsenter".to_owned(), netns, "--".to_owned(), program, component.to_owned()];
        command.extend(arguments.into_iter().map(str::to_owned));
        let log = PathBuf::from(format!("{STATE}/log/{component}.log"));
        runner::start(&self.cgroup.join(component), &log, command)
    }
}
