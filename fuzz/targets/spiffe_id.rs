//! Text that shall be a SPIFFE ID.
#![no_main]
libfuzzer_sys::fuzz_target!(|input: &[u8]| mesh_fuzz::spiffe_id::check(input));
