//! Why an agent, or a signing service, does not run.

use std::io;
use std::path::{Path, PathBuf};

use crate::bpf::BpfError;
use crate::identity::ca::{CaError, CaFileError};
use crate::kubernetes::KubernetesError;
use crate::model::spiffe::SpiffeIdError;
use crate::model::workload::NodeName;
use crate::signing::JournalError;
use crate::sources::file::LoadError;
use crate::tls::datapath::DataPathError;

/// Why an agent doesn't run.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The admin address can't be served.
    #[error("serve the admin endpoints on {address}")]
    Admin {
        /// The configured address.
        address: std::net::SocketAddr,
        /// The cause.
        source: io::Error,
    },
    /// The admin socket can't be served.
    #[error("serve the admin socket {}", path.display())]
    AdminSocket {
        /// The configured path.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// The CNI socket can't be served.
    #[error("serve the CNI socket {}", path.display())]
    CniSocket {
        /// The configured path.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// The kernel side doesn't stand.
    #[error(transparent)]
    Bpf(#[from] BpfError),
    /// The CA can't be used.
    #[error(transparent)]
    Ca(#[from] CaFileError),
    /// A CA isn't fit for use.
    #[error(transparent)]
    UnfitCa(#[from] CaError),
    /// The cluster has had a CA, and its Secret is gone.
    #[error(
        "the Secret {namespace}/hauberk-ca is gone, and the cluster still trusts its CA: bring it back, or delete the \
         ConfigMap hauberk-trust-bundle to begin anew with another"
    )]
    LostCa {
        /// Where it should be.
        namespace: String,
    },
    /// The default Mesh can't be read.
    #[error("read {}", path.display())]
    DefaultMesh {
        /// Its file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// A cgroup can't be used.
    #[error("look up cgroup {}", path.display())]
    Cgroup {
        /// Which.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// The configuration is wrong: exit code 2.
    #[error(transparent)]
    Config(#[from] LoadError),
    /// The agent is where the kernel programs can't tell it from pods, or don't see it.
    #[error("the agent runs in cgroup {}, which {problem}", own.display())]
    Placement {
        /// The agent's own cgroup.
        own: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// The kernel can't do what the configuration wants of it.
    #[error(transparent)]
    DataPath(#[from] DataPathError),
    /// The number of descriptors can't be raised.
    #[error("raise the limit of open files")]
    Descriptors(#[source] io::Error),
    /// A network namespace can't be opened.
    #[error("open network namespace {}", path.display())]
    Netns {
        /// Which.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// The node's name can't be part of an identity.
    #[error("the node `{node}` can't have an identity")]
    NodeName {
        /// The name.
        node: NodeName,
        /// The cause.
        source: SpiffeIdError,
    },
    /// The signing service can't write down what it issues.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// The Kubernetes API can't be used.
    #[error(transparent)]
    Kubernetes(#[from] KubernetesError),
    /// The Mesh names an issuer that only a cluster has.
    #[error("the Mesh's issuer is `kubernetes`, and the configuration comes from files")]
    NoKubernetes,
    /// A tool needs a CA's key, and the configuration names a remote issuer.
    #[error("the Mesh has no embedded issuer")]
    NoEmbeddedCa,
    /// What an earlier agent wrote of pods can't be read.
    #[error("read {}", path.display())]
    Sandboxes {
        /// Its file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// The signing API's address can't be served.
    #[error("serve the signing API on {address}")]
    SigningAddress {
        /// The configured address.
        address: std::net::SocketAddr,
        /// The cause.
        source: io::Error,
    },
    /// Signals can't be caught.
    #[error("set up signals")]
    Signals(#[source] io::Error),
}

/// Makes an error of a cgroup.
pub(super) fn cgroup_error(path: &Path, source: io::Error) -> RunError {
    RunError::Cgroup { path: path.to_owned(), source }
}
