//! Looks where pods really run, and mends what the plugin was not there to tell.

use std::io;
use std::path::Path;
use std::time::Duration;

use tokio::task::spawn_blocking;
use tokio::time::sleep;

use super::Decider;
use crate::model::workload::PodUid;
use crate::sys;
use crate::sys::netns::Netns;

/// How often pods that have ended are looked at, and after how many times those that run.
const HEAL: Duration = Duration::from_secs(1);
const ROUNDS: u32 = 10;

impl Decider {
    /// Finds pods that got a sandbox which nobody has handed over, because somebody had taken the plugin out of the network
    /// configuration just then. For ever.
    pub(super) async fn heal(&self) {
        for round in 0_u32.. {
            for (uid, last) in self.sandboxes.ended() {
                let netns = last.netns;
                let moved = look(&self.cgroup_root, &uid, move |cgroup| sys::pod::has_moved(cgroup, netns)).await;
                if moved == Some(true) && self.sandboxes.revive(&uid, &last) {
                    let workload = format!("{}/{}", last.pod.namespace, last.pod.name);
                    tracing::warn!(
                        target: "audit", workload,
                        "a pod got a sandbox that was not handed over: it is enrolled in place"
                    );
                }
            }
            if round % ROUNDS == 0 {
                self.end_those_that_moved().await;
            }
            sleep(HEAL).await;
        }
    }

    /// Ends sandboxes whose DEL has missed us too: they have lost their addresses, and the pod runs elsewhere. Where they
    /// have them, a process has only made itself a namespace of its own.
    async fn end_those_that_moved(&self) {
        for (uid, record, netns) in self.sandboxes.handed_over() {
            let (cookie, addresses) = (record.netns, record.addresses.clone());
            let moved = look(&self.cgroup_root, &uid, move |cgroup| {
                if !sys::pod::has_moved(cgroup, cookie)? {
                    return Ok(false);
                }
                let netns = Netns::of_descriptor(netns.try_clone()?)?;
                for address in addresses {
                    if netns.has_address(address)? {
                        return Ok(false);
                    }
                }
                Ok(true)
            });
            if moved.await == Some(true) {
                self.end(uid, record).await;
            }
        }
    }
}

/// Asks about the cgroup of a pod. Nothing is so of a pod that has none; `None`: it can't be found out.
pub(super) async fn look(
    root: &Path,
    uid: &PodUid,
    ask: impl FnOnce(&Path) -> io::Result<bool> + Send + 'static,
) -> Option<bool> {
    let (root, uid) = (root.to_owned(), uid.clone());
    let looked = spawn_blocking(move || match sys::pod::cgroup(&root, uid.as_str())? {
        Some(cgroup) => ask(&cgroup),
        None => Ok(false),
    });
    let looked = looked.await.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()));
    looked.inspect_err(|error| tracing::debug!(%error, "a pod's processes can't be looked at")).ok()
}
