//! The cluster's certificates and kubeconfigs: one CA, and a name for each component, which RBAC knows.

use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use mesh_pki::{Authority, Pair};

use super::network::{API_PORT, API_SERVER, FIRST_SERVICE};

/// Longer than anybody keeps such a cluster.
const VALID_SECONDS: i64 = 30 * 24 * 3600;

/// What the API server is called by.
const NAMES: [&str; 4] =
    ["kubernetes.default.svc", "kubernetes", "kubernetes.default", "kubernetes.default.svc.cluster.local"];

/// The CA, and where its files are.
pub(super) struct Pki {
    authority: Authority,
    directory: PathBuf,
}

impl Pki {
    /// Writes what the control plane needs below `state`.
    pub(super) fn make(state: &Path) -> Result<Self> {
        let directory = state.join("pki");
        fs::create_dir_all(&directory).with_context(|| format!("make {}", directory.display()))?;
        let authority = Authority::root_with("hauberk-k8s", |draft| draft.valid(-60, VALID_SECONDS));
        write(&directory.join("ca.crt"), &authority.certificate_pem())?;
        write(&directory.join("ca.key"), &authority.key_pem())?;
        let [signs, checks] = mesh_pki::key_pair();
        write(&directory.join("service-accounts.key"), &signs)?;
        write(&directory.join("service-accounts.pub"), &checks)?;
        let pki = Self { authority, directory };
        let addresses = [API_SERVER, FIRST_SERVICE, Ipv4Addr::LOCALHOST].map(IpAddr::V4);
        pki.write_pair("apiserver", &pki.authority.server(&NAMES, &addresses, VALID_SECONDS))?;
        pki.write_pair("kubelet-client", &pki.client("system:masters", "kubelet-client"))?;
        pki.write_pair("admin", &pki.client("system:masters", "admin"))?;
        write(&state.join("admin.kubeconfig"), &kubeconfig(&pki.directory, "admin"))?;
        for user in ["controller-manager", "scheduler"] {
            pki.write_pair(user, &pki.client("", &format!("system:kube-{user}")))?;
            write(&pki.directory.join(format!("{user}.kubeconfig")), &kubeconfig(&pki.directory, user))?;
        }
        Ok(pki)
    }

    /// Writes what the node `name` needs to `directory`, which its components know as `seen_as`.
    pub(super) fn write_node(&self, name: &str, directory: &Path, seen_as: &Path) -> Result<()> {
        fs::create_dir_all(directory).with_context(|| format!("make {}", directory.display()))?;
        write(&directory.join("ca.crt"), &self.authority.certificate_pem())?;
        let users = [("kubelet", self.client("system:nodes", &format!("system:node:{name}")))];
        let users = users.into_iter().chain([("kube-proxy", self.client("", "system:kube-proxy"))]);
        for (user, pair) in users {
            write_pair(directory, user, &pair)?;
            write(&directory.join(format!("{user}.kubeconfig")), &kubeconfig(seen_as, user))?;
        }
        Ok(())
    }

    fn client(&self, organization: &str, common_name: &str) -> Pair {
        self.authority.client(organization, common_name, VALID_SECONDS)
    }

    fn write_pair(&self, name: &str, pair: &Pair) -> Result<()> {
        write_pair(&self.directory, name, pair)
    }
}

fn write_pair(directory: &Path, name: &str, pair: &Pair) -> Result<()> {
    write(&directory.join(format!("{name}.crt")), &pair.certificate)?;
    write(&directory.join(format!("{name}.key")), &pair.key)
}

fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).with_context(|| format!("write {}", path.display()))?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).with_context(|| format!("protect {}", path.display()))
}

fn kubeconfig(directory: &Path, user: &str) -> String {
    let directory = directory.display();
    format!(
        "apiVersion: v1
kind: Config
current-context: hauberk
contexts:
- name: hauberk
  context: {{cluster: hauberk, user: {user}}}
clusters:
- name: hauberk
  cluster: {{server: \"https://{API_SERVER}:{API_PORT}\", certificate-authority: \"{directory}/ca.crt\"}}
users:
- name: {user}
  user: {{client-certificate: \"{directory}/{user}.crt\", client-key: \"{directory}/{user}.key\"}}
"
    )
}
