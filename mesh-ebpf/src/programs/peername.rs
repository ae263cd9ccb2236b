//! getpeername and accept: applications see the peer that they would see without the mesh.
use super::ctx::Connect;

#[inline(always)]
pub fn getpeername<const V6: bool>(call: &Connect<'_, V6>) -> i32 {
    if let Some(facts) = call.facts() {
        if facts.replaces_peer() {
            call.set(&facts.address, facts.port);
        }
    }
    // The only verdict that this hook knows.
    1
}
