//! The first bytes of a connection.
#![no_main]
libfuzzer_sys::fuzz_target!(|input: &[u8]| mesh_fuzz::hello::check(input));
