//! Lets aya copy the shared types into and out of maps. The only `unsafe` of this crate.
//!
//! Each type is `repr(C)`, built of integers alone and without padding: its fields sum up to the size that the assert
//! next to its declaration demands.
use crate::{
    addr::IpKey,
    conn::{ConnKey, SockFacts},
    divert::{PodDivert, Settings},
    event::Event,
    steer::PodSteer,
};

macro_rules! plain {
    ($($shared:ty),+) => { $(
        // SAFETY: `repr(C)` of integers without padding, so every byte is initialised and every pattern is valid.
        unsafe impl aya::Pod for $shared {}
    )+ };
}

plain!(ConnKey, Event, IpKey, PodDivert, PodSteer, Settings, SockFacts);
