//! The command line. Every flag has an environment variable, for a DaemonSet's manifest.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::cni::plugin::KNOWN;
use crate::telemetry::log::LogFormat;

pub mod audit;
pub mod cni;
pub mod doctor;
pub mod inspect;

use audit::{AuditArgs, AuditCommand};
use cni::{CniArgs, CniPlace};
use doctor::DoctorArgs;
use inspect::{ADMIN_SOCKET, ExplainArgs, InspectArgs, Output};

/// Node agent of the Hauberk service mesh: mutual TLS between workloads without sidecars.
#[derive(Debug, Parser)]
#[command(name = "mesh-agent", version)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
    /// How log lines look.
    #[arg(long, global = true, env = "HAUBERK_LOG_FORMAT", value_enum, default_value_t = LogFormat::Text)]
    pub log_format: LogFormat,
    /// What is logged: a level, or directives such as `info,access=off,mesh_agent::proxy=debug`.
    #[arg(long, global = true, env = "HAUBERK_LOG", default_value = "info")]
    pub log: String,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Serve the workloads of one node.
    Run(RunArgs),
    /// Show how this node's agent does.
    Status(InspectArgs),
    /// List this node's workloads.
    Workloads(InspectArgs),
    /// List the connections that are carried now.
    Connections(InspectArgs),
    /// List this node's SVIDs, and the roots that it trusts.
    Certificates(InspectArgs),
    /// Manage an embedded certification authority.
    #[command(subcommand)]
    Ca(CaCommand),
    /// Issue an SVID from the embedded CA into files, for tools such as openssl. Writes a private key: for tests.
    Svid(SvidArgs),
    /// Say what would become of a connection, and which policy decides: by what the agent has in force, or by the documents of
    /// a directory. Exit code 1: denied; 2: there is nothing to explain.
    Explain(ExplainArgs),
    /// Say whether this node, and its cluster, are fit for the mesh, before and after it is installed. Exit code 1: they are not.
    Check(DoctorArgs),
    /// Look at configuration and policy without an agent.
    #[command(subcommand)]
    Policy(PolicyCommand),
    /// Print the JSON Schema of documents, or the CustomResourceDefinitions for Kubernetes.
    Schema(SchemaArgs),
    /// Look at an audit log.
    #[command(subcommand)]
    Audit(AuditCommand),
    /// Try what this node's kernel can do of TLS, and print it. Exit code 1: nothing.
    Probe,
    /// Answer a container runtime as its CNI plugin, which the program also is when it is called `hauberk-cni`.
    Cni,
    /// Take the mesh off this node: remove every pinned program and map. Pods talk plaintext afterwards.
    Uninstall(UninstallArgs),
}

/// The `policy` commands.
#[derive(Debug, Subcommand)]
pub enum PolicyCommand {
    /// Check a directory of YAML documents as `run` reads it. Exit code 2: an agent would not take it.
    Check(PolicyCheckArgs),
}

/// For `policy check`.
#[derive(Args, Debug)]
pub struct PolicyCheckArgs {
    /// The directory (*.yaml, *.yml).
    #[arg(value_name = "DIR")]
    pub directory: PathBuf,
    /// How to print.
    #[arg(long, short, value_enum, default_value_t = Output::Table)]
    pub output: Output,
}

/// For `schema`.
#[derive(Args, Debug)]
pub struct SchemaArgs {
    /// The kind, such as Workload; upper and lower case don't matter. Without it: any document, or all definitions.
    #[arg(value_name = "KIND")]
    pub kind: Option<String>,
    /// Print CustomResourceDefinitions in YAML instead.
    #[arg(long)]
    pub crds: bool,
}

/// Where an agent finds things.
#[derive(Args, Debug)]
pub struct RunArgs {
    /// Directory of YAML documents (*.yaml, *.yml).
    #[arg(long, env = "HAUBERK_CONFIG", value_name = "DIR", required_unless_present = "kubernetes")]
    pub config: Option<PathBuf>,
    /// Take documents and pods from the Kubernetes API, found by the pod's service account or by a kubeconfig.
    #[arg(long, env = "HAUBERK_KUBERNETES", conflicts_with = "config")]
    pub kubernetes: bool,
    /// This node's name: workloads with this `spec.node` are served.
    #[arg(long, env = "HAUBERK_NODE")]
    pub node: String,
    /// Cgroup that holds the agent and its pods [default: the cgroup2 mount; in a pod, what is above `kubepods`].
    #[arg(long, env = "HAUBERK_CGROUP_ROOT", value_name = "DIR")]
    pub cgroup_root: Option<PathBuf>,
    /// Name of the agent's own pod, in whose status it says that it has withdrawn from the node.
    #[arg(long, env = "HAUBERK_POD", value_name = "NAME", requires = "kubernetes")]
    pub pod: Option<String>,
    /// Cgroup of the kubelet: its probes reach applications in every mode [default: that of root's process `kubelet`,
    /// `kubelite` or `k3s`].
    #[arg(long, env = "HAUBERK_KUBELET_CGROUP", value_name = "DIR")]
    pub kubelet_cgroup: Option<PathBuf>,
    /// Directory for pins, on a bpf file system.
    #[arg(long, env = "HAUBERK_BPFFS", value_name = "DIR", default_value = "/sys/fs/bpf/hauberk")]
    pub bpffs: PathBuf,
    /// UNIX socket for `status` and the like; mode 0600, for root and the agent's user alone.
    #[arg(long, env = "HAUBERK_ADMIN_SOCKET", value_name = "PATH", default_value = ADMIN_SOCKET)]
    pub admin_socket: PathBuf,
    /// Address of /metrics, /readyz and /healthz.
    #[arg(long, env = "HAUBERK_ADMIN", value_name = "ADDR:PORT", default_value = "127.0.0.1:15090")]
    #[arg(value_parser = address_with_port)]
    pub admin: SocketAddr,
    /// Seconds that open connections get after SIGTERM, before they are reset. A second signal ends the wait.
    #[arg(long, env = "HAUBERK_DRAIN_TIMEOUT_SECONDS", value_name = "SECONDS", default_value_t = 10)]
    pub drain_timeout: u64,
    /// The CNI plugin.
    #[command(flatten)]
    pub cni: CniArgs,
    /// The audit log.
    #[command(flatten)]
    pub audit: AuditArgs,
}

/// Also an IPv6 address without brackets, as a manifest makes it that puts the node's address before a port.
fn address_with_port(text: &str) -> Result<SocketAddr, String> {
    let bare = || {
        let (address, port) = text.rsplit_once(':')?;
        Some(SocketAddr::new(IpAddr::V6(address.parse().ok()?), port.parse().ok()?))
    };
    text.parse().ok().or_else(bare).ok_or_else(|| "neither 192.0.2.1:80 nor [2001:db8::1]:80".to_owned())
}

/// The `ca` commands.
#[derive(Debug, Subcommand)]
pub enum CaCommand {
    /// Make a CA: ca.crt, and ca.key with mode 0600. Never overwrites one.
    Init(CaInitArgs),
    /// Make a CA below another one, whose key can then go offline: ca.crt, ca.key (mode 0600), bundle.pem.
    Intermediate(CaIntermediateArgs),
    /// Print the roots of a CA's directory.
    Bundle(CaBundleArgs),
    /// Sign SVIDs for the agents of other nodes.
    Serve(CaServeArgs),
    /// Print a join token: what lets the agent of one node join, once.
    Token(CaTokenArgs),
    /// Print a Revocation of everything that a node got from this CA's service: the certificates that are still good, and
    /// the node's own identity. What the same workloads have on other nodes stays good.
    RevokeNode(CaRevokeNodeArgs),
    /// Replace the root of a CA's directory, in three steps, without a gap.
    Rotate(CaRotateArgs),
}

/// For `ca init`.
#[derive(Args, Debug)]
pub struct CaInitArgs {
    /// Directory for the two files; made if missing.
    #[arg(long, value_name = "DIR")]
    pub dir: PathBuf,
    /// Name of the trust domain, such as cluster.local.
    #[arg(long)]
    pub trust_domain: String,
}

/// For `ca intermediate`.
#[derive(Args, Debug)]
pub struct CaIntermediateArgs {
    /// Directory of the CA above.
    #[arg(long, value_name = "DIR")]
    pub root: PathBuf,
    /// Directory for the files; made if missing.
    #[arg(long, value_name = "DIR")]
    pub dir: PathBuf,
    /// Name of the trust domain.
    #[arg(long)]
    pub trust_domain: String,
}

/// For `ca bundle`.
#[derive(Args, Debug)]
pub struct CaBundleArgs {
    /// Directory of the CA.
    #[arg(long, value_name = "DIR")]
    pub dir: PathBuf,
    /// Name of the trust domain.
    #[arg(long)]
    pub trust_domain: String,
    /// How the roots are written.
    #[arg(long, value_enum, default_value_t = BundleFormat::Pem)]
    pub format: BundleFormat,
}

/// A form of trust bundles.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
pub enum BundleFormat {
    /// Certificates in PEM.
    Pem,
    /// A SPIFFE bundle: a JWK Set.
    Spiffe,
}

/// For `ca serve`.
#[derive(Args, Debug)]
pub struct CaServeArgs {
    /// Directory of YAML documents: its Mesh says how long SVIDs live, its Workloads which node may have which.
    #[arg(long, env = "HAUBERK_CONFIG", value_name = "DIR", required_unless_present = "kubernetes")]
    pub config: Option<PathBuf>,
    /// Serve the agents of a Kubernetes cluster: documents and pods come from its API, and so does the CA, from a Secret that
    /// is made if it is missing.
    #[arg(long, env = "HAUBERK_KUBERNETES", conflicts_with = "config")]
    pub kubernetes: bool,
    /// Directory of the CA: ca.crt, ca.key, bundle.pem if its root is elsewhere. The journal is written there.
    #[arg(long, env = "HAUBERK_CA", value_name = "DIR")]
    pub dir: PathBuf,
    /// With --kubernetes: a Mesh document that is created if the cluster has none.
    #[arg(long, env = "HAUBERK_DEFAULT_MESH", value_name = "FILE", requires = "kubernetes")]
    pub default_mesh: Option<PathBuf>,
    /// Address of the signing API.
    #[arg(long, env = "HAUBERK_CA_LISTEN", value_name = "ADDR:PORT", default_value = "[::]:15100")]
    pub listen: SocketAddr,
    /// The audit log.
    #[command(flatten)]
    pub audit: AuditArgs,
}

/// For `ca token`.
#[derive(Args, Debug)]
pub struct CaTokenArgs {
    /// Directory of the CA.
    #[arg(long, env = "HAUBERK_CA", value_name = "DIR")]
    pub dir: PathBuf,
    /// Name of the trust domain.
    #[arg(long)]
    pub trust_domain: String,
    /// The node that may join.
    #[arg(long)]
    pub node: String,
    /// Seconds until the token ends.
    #[arg(long, value_name = "SECONDS", default_value_t = 600)]
    pub lifetime: u64,
}

/// For `ca revoke-node`.
#[derive(Args, Debug)]
pub struct CaRevokeNodeArgs {
    /// Directory of the CA, with the journal.
    #[arg(long, env = "HAUBERK_CA", value_name = "DIR")]
    pub dir: PathBuf,
    /// Name of the trust domain.
    #[arg(long)]
    pub trust_domain: String,
    /// The node.
    #[arg(long)]
    pub node: String,
}

/// For `ca rotate`.
#[derive(Args, Debug)]
pub struct CaRotateArgs {
    /// The step.
    #[arg(value_enum)]
    pub step: RotateStep,
    /// Directory of the CA.
    #[arg(long, value_name = "DIR")]
    pub dir: PathBuf,
    /// Name of the trust domain.
    #[arg(long)]
    pub trust_domain: String,
    /// For `retire`: seconds that the new root must have signed for; at least the lifetime of an SVID.
    #[arg(long, value_name = "SECONDS", default_value_t = 24 * 3600)]
    pub min_age: u64,
}

/// A step of `ca rotate`.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
pub enum RotateStep {
    /// Make a new root and let everybody trust it.
    Prepare,
    /// Let the new root sign. Not before all agents trust it (mesh_trust_roots is 2 everywhere).
    Activate,
    /// Trust the old root no more.
    Retire,
}

/// For `svid`.
#[derive(Args, Debug)]
pub struct SvidArgs {
    /// Directory of YAML documents; its Mesh names the CA.
    #[arg(long, env = "HAUBERK_CONFIG", value_name = "DIR")]
    pub config: PathBuf,
    /// Namespace of the identity.
    #[arg(long)]
    pub namespace: String,
    /// Service account of the identity.
    #[arg(long)]
    pub service_account: String,
    /// Directory for tls.crt, tls.key (mode 0600) and ca.crt; made if missing.
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
}

/// For `uninstall`.
#[derive(Args, Debug)]
pub struct UninstallArgs {
    /// Take the mesh off every node of the Kubernetes cluster, and wait until it is off; then delete its objects.
    #[arg(long)]
    pub kubernetes: bool,
    /// With --kubernetes: seconds to wait for the nodes. Those that are left are named, and the exit code is 1.
    #[arg(long, value_name = "SECONDS", default_value_t = 300)]
    pub timeout: u64,
    /// Directory of the pins.
    #[arg(long, env = "HAUBERK_BPFFS", value_name = "DIR", default_value = "/sys/fs/bpf/hauberk")]
    pub bpffs: PathBuf,
    /// Where the CNI plugin is, if it is installed.
    #[command(flatten)]
    pub place: CniPlace,
    /// File that tells the plugin which namespaces are enrolled; removed with it.
    #[arg(long, env = "HAUBERK_CNI_KNOWN", value_name = "FILE", default_value = KNOWN)]
    pub cni_known: PathBuf,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn the_admin_address_may_be_a_nodes_of_either_family() {
        let expected: SocketAddr = "[2001:db8::1]:15090".parse().unwrap();
        for text in ["[2001:db8::1]:15090", "2001:db8::1:15090"] {
            assert_eq!(address_with_port(text), Ok(expected));
        }
        assert_eq!(address_with_port("192.0.2.1:15090"), Ok("192.0.2.1:15090".parse().unwrap()));
        for wrong in ["192.0.2.1", "2001:db8::1", "15090", ":15090", "[2001:db8::1]"] {
            assert!(address_with_port(wrong).is_err(), "{wrong}");
        }
    }
}
