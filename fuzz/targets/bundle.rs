//! PEM that shall become a trust bundle.
#![no_main]
libfuzzer_sys::fuzz_target!(|input: &[u8]| mesh_fuzz::bundle::check(input));
