//! Two bpf(2) commands that aya 0.14 keeps private: open a pinned link, and put another program under it.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

const BPF_OBJ_GET: libc::c_int = 7;
const BPF_LINK_UPDATE: libc::c_int = 29;

/// The start of `union bpf_attr` for BPF_OBJ_GET (kernel's linux/bpf.h).
#[repr(C)]
struct ObjGet {
    path: u64,
    fd: u32,
    flags: u32,
}

/// The start of `union bpf_attr` for BPF_LINK_UPDATE.
#[repr(C)]
struct LinkUpdate {
    link: u32,
    program: u32,
    flags: u32,
    old_program: u32,
}

/// Opens a pinned object.
pub fn open_pinned(path: &Path) -> io::Result<OwnedFd> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let attributes = ObjGet { path: path.as_ptr() as u64, fd: 0, flags: 0 };
    let fd = command(BPF_OBJ_GET, &attributes)?;
    // SAFETY: the kernel has just returned this descriptor; nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Replaces the program of a live link, without a moment in between.
pub fn update_link(link: impl AsFd, program: impl AsFd) -> io::Result<()> {
    let raw = |fd: i32| u32::try_from(fd).map_err(io::Error::other);
    let link = raw(link.as_fd().as_raw_fd())?;
    let program = raw(program.as_fd().as_raw_fd())?;
    command(BPF_LINK_UPDATE, &LinkUpdate { link, program, flags: 0, old_program: 0 }).map(drop)
}

fn command<T>(command: libc::c_int, attributes: &T) -> io::Result<i32> {
    // SAFETY: `attributes` outlives the call and its size is passed; the kernel reads the rest as zero.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_ref(attributes), size_of::<T>()) };
    match i32::try_from(result) {
        Ok(fd) if fd >= 0 => Ok(fd),
        _ => Err(io::Error::last_os_error()),
    }
}
