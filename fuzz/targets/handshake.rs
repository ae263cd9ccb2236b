//! Bytes in the place of a handshake.
#![no_main]
libfuzzer_sys::fuzz_target!(|input: &[u8]| mesh_fuzz::handshake::check(input));
