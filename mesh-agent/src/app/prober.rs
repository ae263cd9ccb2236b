//! Keeps the kernel's idea of the kubelet true: its probes reach applications in every mode.
//!
//! The kernel knows the kubelet by its cgroup's id. A service manager removes that cgroup when the kubelet stops and makes another one
//! when it starts; and the kubelet may come later than the agent. So one looks again, all the time.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use super::error::{RunError, cgroup_error};
use crate::bpf::{BpfError, Maps};
use crate::sys::cgroup::{self, Cgroup};
use crate::sys::kubelet::{self, Kubelet};
use crate::sys::netns::Netns;

/// How often one looks: well below the seconds that a kubelet takes to start.
const LOOK: Duration = Duration::from_secs(2);

/// The cgroup whose processes probe, or why there is none.
pub(super) type Attested = Result<PathBuf, String>;

/// Tells the kernel whose connections are probes.
pub(super) struct Prober {
    maps: Arc<Maps>,
    mount: PathBuf,
    root: PathBuf,
    /// The kubelet's cgroup, where somebody has named it.
    configured: Option<PathBuf>,
    /// The node's network namespace: probes come from there.
    netns: u64,
    current: Option<Current>,
    told: watch::Sender<Attested>,
}

struct Current {
    path: PathBuf,
    cgroup: Cgroup,
    process: Option<Kubelet>,
}

impl Prober {
    /// Looks for the first time; an earlier agent's word counts no longer. `None`: there is no kubelet, and none is `expected`, as
    /// outside of Kubernetes.
    pub(super) fn start(
        maps: Arc<Maps>,
        configured: Option<PathBuf>,
        mount: PathBuf,
        root: PathBuf,
        expected: bool,
    ) -> Result<Option<Self>, RunError> {
        if let Some(outside) = configured.as_deref().filter(|path| !path.starts_with(&mount)) {
            cgroup::lookup(&mount, outside).map_err(|source| cgroup_error(outside, source))?;
        }
        let own = Path::new("/proc/self/ns/net");
        let own = Netns::open(own).map_err(|source| RunError::Netns { path: own.to_owned(), source })?;
        maps.set_prober(0, 0, 0)?;
        let (told, _) = watch::channel(Err("not looked for yet".to_owned()));
        let mut prober = Self { maps, mount, root, configured, netns: own.cookie(), current: None, told };
        if !expected && prober.search().is_err() {
            return Ok(None);
        }
        prober.look()?;
        Ok(Some(prober))
    }

    /// What is found, always.
    pub(super) fn view(&self) -> watch::Receiver<Attested> {
        self.told.subscribe()
    }

    /// Looks again and again.
    pub(super) async fn run(mut self) -> Result<(), RunError> {
        let mut timer = tokio::time::interval(LOOK);
        loop {
            timer.tick().await;
            self.look()?;
        }
    }

    fn look(&mut self) -> Result<(), BpfError> {
        if self.stands() {
            return Ok(());
        }
        match self.search() {
            Ok(found) => {
                let is_new = self.current.as_ref().is_none_or(|current| current.cgroup != found.cgroup);
                if is_new {
                    self.maps.set_prober(found.cgroup.id, found.cgroup.level, self.netns)?;
                    let cgroup = found.path.display();
                    tracing::info!(%cgroup, cgroup.id = found.cgroup.id, "the kubelet's probes reach applications in every mode");
                    drop(self.told.send_replace(Ok(found.path.clone())));
                }
                self.current = Some(found);
            }
            // It starts again in the same cgroup, as k0s has it.
            Err(_) if self.exists() => {}
            Err(why) => {
                if self.current.take().is_some() {
                    self.maps.set_prober(0, 0, 0)?;
                }
                if self.told.borrow().as_ref() != Err(&why) {
                    tracing::warn!(reason = why, "the kubelet's probes are refused at strict ports");
                    drop(self.told.send_replace(Err(why)));
                }
            }
        }
        Ok(())
    }

    /// Whether nothing has changed, cheaply.
    fn stands(&self) -> bool {
        self.exists()
            && self.current.as_ref().is_some_and(|current| current.process.as_ref().is_none_or(Kubelet::stands))
    }

    fn exists(&self) -> bool {
        let is_there =
            |current: &Current| cgroup::lookup(&self.mount, &current.path).is_ok_and(|cgroup| cgroup == current.cgroup);
        self.current.as_ref().is_some_and(is_there)
    }

    fn search(&self) -> Result<Current, String> {
        let before = self.current.as_ref().map(|current| &*current.path);
        search(self.configured.as_deref(), &self.mount, &self.root, before)
    }
}

/// The cgroup by which the kubelet's probes are known: as configured, or as found.
pub(super) fn known_by(configured: Option<&Path>, mount: &Path, root: &Path) -> Attested {
    search(configured, mount, root, None).map(|found| found.path)
}

fn search(configured: Option<&Path>, mount: &Path, root: &Path, before: Option<&Path>) -> Result<Current, String> {
    let (path, process) = match configured {
        Some(path) => (path.to_owned(), None),
        None => {
            let found = kubelet::find(mount, root).map_err(|error| format!("list processes: {error}"))?;
            let path = only(&found.iter().map(|kubelet| &*kubelet.cgroup).collect(), before)?;
            let process = found.into_iter().find(|kubelet| kubelet.cgroup == path);
            (path, process)
        }
    };
    let cgroup = cgroup::lookup(mount, &path).map_err(|error| format!("{}: {error}", path.display()))?;
    Ok(Current { path, cgroup, process })
}

/// The kubelet's cgroup among those of all who say so. Of several that of before stays: else nobody knows which.
fn only(found: &BTreeSet<&Path>, before: Option<&Path>) -> Result<PathBuf, String> {
    let several = || {
        let all: Vec<_> = found.iter().map(|cgroup| cgroup.display().to_string()).collect();
        format!("several processes could be the kubelet; name the right one's cgroup: {}", all.join(", "))
    };
    match (found.first(), before) {
        (_, Some(before)) if found.contains(before) => Ok(before.to_owned()),
        (None, _) => {
            Err("no process of root's is called kubelet, kubelite or k3s and has a cgroup of its own".to_owned())
        }
        (Some(one), _) if found.len() == 1 => Ok((*one).to_owned()),
        (Some(_), _) => Err(several()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_several_kubelets_that_of_before_stays_and_else_there_is_none() {
        let [one, other] = ["/c/kubelet.service", "/c/session.scope"].map(Path::new);
        let only = |found: &[&'static str], before| {
            only(&found.iter().map(Path::new).collect(), before).map_err(|why| why.contains("several"))
        };
        assert_eq!(only(&["/c/kubelet.service", "/c/session.scope"], Some(one)), Ok(one.to_owned()));
        assert_eq!(only(&["/c/kubelet.service", "/c/session.scope"], None), Err(true));
        assert_eq!(only(&["/c/session.scope"], Some(one)), Ok(other.to_owned()));
        assert_eq!(only(&[], Some(one)), Err(false));
    }
}
