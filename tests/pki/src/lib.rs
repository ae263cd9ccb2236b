//! Certificates for tests: right ones, odd ones, hostile ones.
//!
//! Written as DER by hand, so that no library's idea of a certificate keeps a wrong one from being made, and nothing is
//! shared with the agent, whose issuer and verifier are tested with them.

mod authority;
mod case;
mod chains;
mod der;
mod draft;
mod endpoint;
mod key;
mod leaves;

pub use authority::Authority;
pub use case::{Case, Roles, cases};
pub use draft::Draft;
pub use endpoint::{Pair, key_pair};
