//! Asks the kernel for every kind of program and map that our object needs, without loading the object.

use std::io;

use aya::maps::MapType;
use aya::programs::{ProgramError, ProgramType};
use aya::sys::{BpfHelper, is_helper_supported, is_map_supported, is_program_supported};

const PROGRAMS: [(&str, ProgramType); 5] = [
    ("cgroup/sock_addr", ProgramType::CgroupSockAddr),
    ("cgroup/skb", ProgramType::CgroupSkb),
    ("sock_ops", ProgramType::SockOps),
    ("sk_lookup", ProgramType::SkLookup),
    ("sched_cls", ProgramType::SchedClassifier),
];

const MAPS: [(&str, MapType); 6] = [
    ("hash", MapType::Hash),
    ("lru_hash", MapType::LruHash),
    ("lpm_trie", MapType::LpmTrie),
    ("ringbuf", MapType::RingBuf),
    ("sockmap", MapType::SockMap),
    ("sk_storage", MapType::SkStorage),
];

/// What came last of all that we need: kernel 5.15.
const NEWEST: (&str, ProgramType, BpfHelper) =
    ("bpf_get_netns_cookie in sock_ops", ProgramType::SockOps, BpfHelper::BPF_FUNC_get_netns_cookie);

/// The names of what this kernel lacks. An error: it doesn't say, for example for lack of privileges.
pub fn lacks() -> io::Result<Vec<&'static str>> {
    let mut lacks = Vec::new();
    for (name, program) in PROGRAMS {
        if !is_program_supported(program).map_err(own_error)? {
            lacks.push(name);
        }
    }
    for (name, map) in MAPS {
        if !is_map_supported(map).map_err(|error| error.io_error)? {
            lacks.push(name);
        }
    }
    let (name, program, helper) = NEWEST;
    if !is_helper_supported(program, helper).map_err(own_error)? {
        lacks.push(name);
    }
    Ok(lacks)
}

/// The system call's, which tells whether only privileges are missing.
fn own_error(error: ProgramError) -> io::Error {
    match error {
        ProgramError::SyscallError(error) => error.io_error,
        other => io::Error::other(other),
    }
}
