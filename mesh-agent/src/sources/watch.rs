//! Takes changes of the configuration directory while the agent runs: whole and valid, or not at all.
//!
//! The directory is looked at twice a second, which costs one `stat` a file and sees everything: an editor that renames
//! over a file, the kubelet that swaps a link to a directory, and file systems that notify nobody.

use std::convert::Infallible;
use std::io;
use std::panic::resume_unwind;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::task::spawn_blocking;
use tokio::time::{MissedTickBehavior, interval};

use super::file::{self, LoadError};
use crate::config::MeshConfig;
use crate::state::MeshState;
use crate::store::Publisher;
use crate::sys::file::Look;
use crate::telemetry::Metrics;

/// A change is taken once two looks in a row have seen it: within a second, and not while somebody still writes.
const LOOK: Duration = Duration::from_millis(500);

/// Why a changed configuration isn't taken.
#[derive(Debug, thiserror::Error)]
pub enum Rejection {
    /// It can't be read, or holds mistakes.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// Only a new agent could take it.
    #[error("only a restart of the agent can change {}", .0.join(", "))]
    NeedsRestart(Vec<&'static str>),
}

/// What the files look like from outside. Nothing: no directory.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
struct Looks(Vec<(PathBuf, Look)>);

impl Looks {
    fn of(directory: &Path) -> Self {
        let look = |path: PathBuf| Look::at(&path).map(|look| (path, look));
        let all = file::files(directory).and_then(|paths| paths.into_iter().map(look).collect::<io::Result<_>>());
        all.map(Self).unwrap_or_default()
    }
}

/// A directory, and what of it is in force.
#[derive(Debug)]
pub struct Watch {
    directory: PathBuf,
    in_force: MeshConfig,
    loaded: Looks,
    seen: Looks,
}

impl Watch {
    /// Reads the first configuration.
    pub fn begin(directory: &Path) -> Result<Self, LoadError> {
        // Before reading: what changes meanwhile is then read once more.
        let loaded = Looks::of(directory);
        let in_force = file::load(directory)?;
        Ok(Self { directory: directory.to_owned(), in_force, seen: loaded.clone(), loaded })
    }

    /// The last good configuration.
    pub fn in_force(&self) -> &MeshConfig {
        &self.in_force
    }

    /// Publishes each good configuration and reports each that isn't, for ever.
    pub async fn run(mut self, publisher: Publisher, metrics: Arc<Metrics>) -> Infallible {
        metrics.configuration(SystemTime::now(), None);
        let (workloads, revocations) = (self.in_force.workloads.len(), self.in_force.revocations.len());
        tracing::info!(target: "audit", digest = %self.in_force.digest, workloads, revocations, "configuration taken");
        let mut timer = interval(LOOK);
        timer.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            timer.tick().await;
            let look = spawn_blocking(move || {
                let outcome = self.look();
                (self, outcome)
            });
            let (watch, outcome) = look.await.unwrap_or_else(|panic| resume_unwind(panic.into_panic()));
            self = watch;
            match outcome {
                None => {}
                Some(Ok(())) => {
                    publisher.publish(MeshState::after(self.in_force.clone(), Some(&publisher.snapshot())));
                    metrics.configuration(SystemTime::now(), None);
                    let policies = self.in_force.policy_names();
                    metrics.keep_policies(|policy| policies.contains(policy));
                    tracing::info!(
                        target: "audit",
                        digest = %self.in_force.digest,
                        workloads = self.in_force.workloads.len(),
                        revocations = self.in_force.revocations.len(),
                        "changed configuration taken"
                    );
                }
                Some(Err(rejection)) => {
                    tracing::error!(target: "audit", reason = %rejection, "changed configuration rejected");
                    metrics.configuration(SystemTime::now(), Some(rejection.to_string()));
                }
            }
        }
    }

    /// Looks once. Says what became of a change, if there is one that has settled.
    fn look(&mut self) -> Option<Result<(), Rejection>> {
        let seen = Looks::of(&self.directory);
        let settled = seen == self.seen;
        self.seen = seen;
        if !settled || self.seen == self.loaded {
            return None;
        }
        let loaded = file::load(&self.directory);
        let after = Looks::of(&self.directory);
        if after != self.seen {
            self.seen = after;
            return None;
        }
        self.loaded = after;
        Some(self.take(loaded))
    }

    fn take(&mut self, loaded: Result<MeshConfig, LoadError>) -> Result<(), Rejection> {
        let next = loaded?;
        let fixed = self.in_force.mesh.needs_restart(&next.mesh);
        if !fixed.is_empty() {
            return Err(Rejection::NeedsRestart(fixed));
        }
        self.in_force = next;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    const MESH: &str = "
apiVersion: mesh.hauberk.dev/v1alpha1
kind: Mesh
metadata: {name: mesh}
spec:
  trustDomain: test
  issuer: {embedded: {certificate: ca.crt, key: ca.key}}
";

    fn revocation(name: &str) -> String {
        let head = "apiVersion: mesh.hauberk.dev/v1alpha1\nkind: Revocation";
        format!("{head}\nmetadata: {{name: {name}}}\nspec: {{serials: ['{name}']}}\n")
    }

    /// Looks until there is news; how many looks that took, what came out, and the revocations in force.
    fn check(watch: &mut Watch) -> (usize, String, Vec<String>) {
        let news = (1..=9).find_map(|looks| Some((looks, watch.look()?)));
        let (looks, outcome) = news.map_or((0, "nothing".to_owned()), |(looks, outcome)| {
            (looks, outcome.map_or_else(|rejection| rejection.to_string(), |()| "taken".to_owned()))
        });
        (looks, outcome, watch.in_force().revocations.iter().map(|revocation| revocation.name.clone()).collect())
    }

    fn news(outcome: &str, names: &[&str]) -> (usize, String, Vec<String>) {
        let looks = if outcome == "nothing" { 0 } else { 2 };
        (looks, outcome.to_owned(), names.iter().map(|name| (*name).to_owned()).collect())
    }

    #[test]
    fn a_change_is_taken_once_it_has_settled_however_it_was_made() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        fs::write(at("mesh.yaml"), MESH).unwrap();
        let mut watch = Watch::begin(directory.path()).unwrap();
        assert_eq!(check(&mut watch), news("nothing", &[]));
        fs::write(at("r.yaml"), revocation("aa")).unwrap();
        assert_eq!(check(&mut watch), news("taken", &["aa"]));
        // As an editor does it.
        fs::write(at("r.yaml~"), revocation("bb")).unwrap();
        fs::rename(at("r.yaml~"), at("r.yaml")).unwrap();
        assert_eq!(check(&mut watch), news("taken", &["bb"]));
        fs::remove_file(at("r.yaml")).unwrap();
        assert_eq!(check(&mut watch), news("taken", &[]));
        // As the kubelet does it.
        for name in ["aa", "bb"] {
            fs::create_dir(at(name)).unwrap();
            fs::write(at(name).join("r.yaml"), revocation(name)).unwrap();
            std::os::unix::fs::symlink(name, at("new")).unwrap();
            fs::rename(at("new"), at("..data")).unwrap();
            drop(std::os::unix::fs::symlink("..data/r.yaml", at("r.yaml")));
            assert_eq!(check(&mut watch), news("taken", &[name]));
        }
    }

    #[test]
    fn a_wrong_configuration_never_replaces_a_good_one() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        fs::write(at("mesh.yaml"), MESH).unwrap();
        fs::write(at("r.yaml"), revocation("aa")).unwrap();
        let mut watch = Watch::begin(directory.path()).unwrap();
        let bad = revocation("bb").replace("serials", "serial") + "---\nkind: Secret\n";
        fs::write(at("r.yaml"), bad).unwrap();
        let (_, outcome, names) = check(&mut watch);
        assert_eq!((outcome.lines().count(), &*names), (4, &["aa".to_owned()][..]), "{outcome}");
        assert!(outcome.contains("r.yaml: document 1 (Revocation bb): spec.serial: unknown field"), "{outcome}");
        assert_eq!(check(&mut watch), news("nothing", &["aa"]));
        fs::write(at("r.yaml"), revocation("bb")).unwrap();
        fs::write(at("mesh.yaml"), MESH.replace("Domain: test", "Domain: other")).unwrap();
        assert_eq!(check(&mut watch), news("only a restart of the agent can change spec.trustDomain", &["aa"]));
        fs::write(at("mesh.yaml"), MESH).unwrap();
        assert_eq!(check(&mut watch), news("taken", &["bb"]));
        fs::remove_dir_all(directory.path()).unwrap();
        let missing = format!("list {}", directory.path().display());
        assert_eq!(check(&mut watch), news(&missing, &["bb"]));
    }
}
