//! Where configuration comes from.

pub mod file;
pub mod kubernetes;
pub mod watch;
