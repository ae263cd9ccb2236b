//! The system calls that `doctor` probes with and no safe library offers. The only `unsafe` of xtask.
#![expect(unsafe_code, reason = "bpf(2) and three socket options have no safe wrapper in our dependencies")]

use std::{
    ffi::c_int,
    io,
    os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd},
};

/// `linux/in.h`; newer than our libc's definitions.
const IP_LOCAL_PORT_RANGE: c_int = 51;

// linux/bpf.h
const BPF_PROG_LOAD: c_int = 5;
const BPF_PROG_QUERY: c_int = 16;
/// How many programs of one kind at one cgroup we can name.
const MAX_QUERIED: usize = 64;

/// Two instructions, `r0 = 1; exit`: the verdict "allow" of every program type we probe.
static ALLOW: [u64; 2] = [0x0000_0001_0000_00b7, 0x0000_0000_0000_0095];
static LICENSE: &[u8] = b"Dual MIT/GPL\0";

/// The head of `union bpf_attr` for BPF_PROG_LOAD, up to the last field we set.
#[repr(C)]
#[derive(Default)]
struct LoadAttr {
    prog_type: u32,
    insn_cnt: u32,
    insns: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buf: u64,
    kern_version: u32,
    prog_flags: u32,
    prog_name: [u8; 16],
    prog_ifindex: u32,
    expected_attach_type: u32,
}

/// The head of `union bpf_attr` for BPF_PROG_QUERY.
#[repr(C)]
#[derive(Default)]
struct QueryAttr {
    target_fd: u32,
    attach_type: u32,
    query_flags: u32,
    attach_flags: u32,
    prog_ids: u64,
    prog_cnt: u32,
    padding: u32,
}

/// Loads a trivial program; dropping the descriptor unloads it. Nothing is attached.
pub(crate) fn load_program(program_type: u32, attach_type: u32) -> io::Result<OwnedFd> {
    let mut attr = LoadAttr {
        prog_type: program_type,
        insn_cnt: 2,
        insns: ALLOW.as_ptr().addr() as u64,
        license: LICENSE.as_ptr().addr() as u64,
        expected_attach_type: attach_type,
        ..LoadAttr::default()
    };
    let descriptor = bpf(BPF_PROG_LOAD, &mut attr)?;
    // SAFETY: the kernel has just made this descriptor for us, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}

/// The ids of the programs that are attached to exactly this cgroup.
pub(crate) fn attached_programs(cgroup: BorrowedFd<'_>, attach_type: u32) -> io::Result<Vec<u32>> {
    let mut ids = vec![0_u32; MAX_QUERIED];
    let mut attr = QueryAttr {
        target_fd: cgroup.as_raw_fd().cast_unsigned(),
        attach_type,
        prog_ids: ids.as_mut_ptr().expose_provenance() as u64,
        prog_cnt: u32::try_from(ids.len()).unwrap_or(u32::MAX),
        ..QueryAttr::default()
    };
    bpf(BPF_PROG_QUERY, &mut attr)?;
    ids.truncate(usize::try_from(attr.prog_cnt).unwrap_or(0));
    Ok(ids)
}

fn bpf<T>(command: c_int, attr: &mut T) -> io::Result<c_int> {
    // SAFETY: `attr` is a prefix of `union bpf_attr` and its size is passed; the buffers it points to outlive the call.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attr), size_of::<T>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { c_int::try_from(result).map_err(io::Error::other) }
}

/// Puts the kernel's TLS layer on a connected socket, which may load the module.
pub(crate) fn set_ulp_tls(socket: BorrowedFd<'_>) -> io::Result<()> {
    let name = b"tls";
    // SAFETY: the value is the three bytes of `name`, whose length is passed; the descriptor is borrowed.
    let result =
        unsafe { libc::setsockopt(socket.as_raw_fd(), libc::IPPROTO_TCP, libc::TCP_ULP, name.as_ptr().cast(), 3) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// The cookie of the network namespace that the socket is in.
pub(crate) fn netns_cookie(socket: BorrowedFd<'_>) -> io::Result<u64> {
    getsockopt(socket, libc::SOL_SOCKET, libc::SO_NETNS_COOKIE)
}

/// The socket's own range of local ports; 0 is "none".
pub(crate) fn local_port_range(socket: BorrowedFd<'_>) -> io::Result<u32> {
    getsockopt(socket, libc::IPPROTO_IP, IP_LOCAL_PORT_RANGE)
}

/// An integer option; the caller's type decides the size.
fn getsockopt<T: From<u8>>(socket: BorrowedFd<'_>, level: c_int, option: c_int) -> io::Result<T> {
    let mut value = T::from(0);
    let mut length = libc::socklen_t::try_from(size_of::<T>()).unwrap_or(0);
    // SAFETY: `value` outlives the call and `length` is its size; any bytes are a valid integer.
    let result = unsafe {
        libc::getsockopt(socket.as_raw_fd(), level, option, std::ptr::from_mut(&mut value).cast(), &mut length)
    };
    if result == 0 { Ok(value) } else { Err(io::Error::last_os_error()) }
}

// A field in the wrong place would make every probe say "missing".
const _: () = assert!(std::mem::offset_of!(LoadAttr, expected_attach_type) == 68 && size_of::<LoadAttr>() == 72);
const _: () = assert!(std::mem::offset_of!(QueryAttr, prog_cnt) == 24 && size_of::<QueryAttr>() == 32);
