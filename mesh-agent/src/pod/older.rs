//! Finds a pod's connections that are older than its enrolment, and ends them unless they may stay.
//!
//! They are in plaintext and nobody has attested them; no hook and no listener of ours will ever see them. All there can be
//! are there when the pod is enrolled, if only as handshakes: later looks are for these alone, since afterwards the kubelet's
//! probes reach the application as well.

use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::spawn_blocking;
use tokio::time::Instant;

use crate::model::mesh::ExistingConnections;
use crate::model::socket::SocketStage;
use crate::model::workload::Workload;
use crate::state::{MeshState, older_than_enrolment};
use crate::sys::netns::Netns;
use crate::sys::sockdiag::{Listed, SockDiag};

/// When a pod is looked at again after its enrolment. A handshake that was under way then has ended within about a minute
/// (tcp(7), tcp_synack_retries), as a connection or not.
const LATER: [Duration; 3] = [Duration::from_secs(1), Duration::from_secs(10), Duration::from_secs(70)];

/// How often those that stay are counted again.
const RECOUNT: Duration = Duration::from_secs(30);

/// What the looks at one pod came to.
#[derive(Clone, Debug)]
pub(super) struct Older {
    /// Whether an agent had enrolled the pod before this enrolment.
    again: bool,
    enrolled: Instant,
    looks: usize,
    next: Option<Instant>,
    /// Those that the next look is for; `None`: all, it is the first.
    watched: Option<Watched>,
    /// Connections that are still there.
    pub(super) left: usize,
    /// Why they could not be ended.
    pub(super) failing: Option<String>,
}

/// Connections and handshakes, by their cookies.
type Watched = BTreeSet<[u8; 8]>;

/// One look.
struct Look {
    destroyed: usize,
    left: usize,
    watched: Option<Watched>,
    failing: Option<String>,
}

impl Older {
    /// Of a pod that is enrolled now. The first look is due at once.
    pub(super) fn of(again: bool) -> Self {
        let now = Instant::now();
        Self { again, enrolled: now, looks: 0, next: Some(now), watched: None, left: 0, failing: None }
    }

    /// When the pod must be looked at next.
    pub(super) fn due(&self) -> Option<Instant> {
        self.next
    }

    /// Looks, and ends what may not stay; returns how many connections that were.
    pub(super) async fn look(
        &mut self,
        state: &Arc<MeshState>,
        workload: &Arc<Workload>,
        netns: &Arc<Netns>,
        own: u64,
    ) -> usize {
        let (again, watched) = (self.again, self.watched.clone());
        let (on, of, inside) = (Arc::clone(state), Arc::clone(workload), Arc::clone(netns));
        // The kernel walks the sockets of all namespaces for it.
        let looked = spawn_blocking(move || look(&on, &of, &inside, own, (again, watched))).await;
        let looked = looked.unwrap_or_else(|panic| Err(io::Error::other(panic)));
        let look = looked.unwrap_or_else(|error| Look {
            destroyed: 0,
            left: self.left,
            watched: self.watched.clone(),
            failing: Some(error.to_string()),
        });
        let (destroyed, left) = (look.destroyed, look.left);
        if destroyed > 0 || left != self.left {
            let reason = look.failing.as_deref();
            let uid = &workload.uid;
            tracing::info!(target: "audit", workload = %uid, destroyed, left, reason, "connections older than the enrolment");
        } else if let Some(error) = look.failing.as_ref().filter(|_| look.failing != self.failing) {
            tracing::warn!(workload = %workload.uid, error, "connections older than the enrolment can't be looked for");
        }
        (self.left, self.failing, self.watched) = (left, look.failing, look.watched);
        let later = LATER.get(self.looks).map(|later| self.enrolled + *later);
        let later = later.filter(|_| self.watched.as_ref().is_none_or(|watched| !watched.is_empty()));
        self.looks += 1;
        self.next = later.or_else(|| (left > 0).then(|| Instant::now() + RECOUNT));
        destroyed
    }

    /// Makes the next look due at once, if there is anything to look at: the configuration is another one.
    pub(super) fn reconsider(&mut self) {
        if self.left > 0 {
            self.next = Some(Instant::now());
        }
    }
}

fn look(
    state: &MeshState,
    workload: &Workload,
    netns: &Netns,
    own: u64,
    (again, watched): (bool, Option<Watched>),
) -> io::Result<Look> {
    let kernel = SockDiag::open(netns)?;
    let listed = kernel.tcp_sockets(own)?;
    let sockets: Vec<_> = listed.iter().map(|listed| listed.socket).collect();
    let older = older_than_enrolment(state, workload, &sockets, again).into_iter().map(|at| &listed[at]);
    let older = older.filter(|one| watched.as_ref().is_none_or(|watched| watched.contains(&one.cookie())));
    let mut look = Look { destroyed: 0, left: 0, watched: Some(Watched::new()), failing: None };
    for one in older {
        if one.socket.stage == SocketStage::Opening {
            // It may be of our own listener: only as a connection it shows whose it is.
            look.watched.get_or_insert_default().insert(one.cookie());
        } else if let Err(why) = end(&kernel, one, state.mesh().existing, &mut look.destroyed) {
            look.left += 1;
            look.failing = why;
            look.watched.get_or_insert_default().insert(one.cookie());
        }
    }
    Ok(look)
}

/// Ends a connection, unless it may stay or can't be ended; then says why.
fn end(
    kernel: &SockDiag,
    one: &Listed,
    existing: ExistingConnections,
    destroyed: &mut usize,
) -> Result<(), Option<String>> {
    if existing == ExistingConnections::Keep {
        return Err(None);
    }
    match kernel.destroy(one) {
        Ok(was_there) => {
            *destroyed += usize::from(was_there);
            Ok(())
        }
        Err(error) if error.kind() == io::ErrorKind::Unsupported => {
            Err(Some("this kernel can't end them (CONFIG_INET_DIAG_DESTROY)".to_owned()))
        }
        Err(error) => Err(Some(error.to_string())),
    }
}
