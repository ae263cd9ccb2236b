//! getpeername and accept: applications see the peer that they would see without the mesh.
//!
//! An application's MPTCP socket is not the socket that connected (that is a subflow of it), so it has no facts; its
//! original destination is found by its addresses instead.
use mesh_common::{conn::ConnKey, divert::is_divert_port};

use super::{ctx::Connect, maps};

#[inline(always)]
pub fn getpeername<const V6: bool>(call: &Connect<'_, V6>) -> i32 {
    if let Some(facts) = call.facts() {
        if facts.replaces_peer() {
            call.set(&facts.address, facts.port);
        }
    } else if is_divert_port(call.port()) {
        // A diverted connection goes from the pod's own address to the same one.
        let own = call.address();
        let key = ConnKey {
            netns: call.netns(),
            source: own,
            destination: own,
            source_port: call.local_port(),
            destination_port: call.port(),
            padding: 0,
        };
        if let Some(facts) = maps::peer(&key) {
            call.set(&facts.address, facts.port);
        }
    }
    // The only verdict that this hook knows.
    1
}
