//! The veth filter before kernel 6.6, which has no link for it: a filter of the interface's clsact qdisc.
//!
//! Such a filter outlives its agent by itself, and no pin holds it. So the program is pinned beside the links as a mark,
//! by the interface's name: whoever removes the mark removes the filter first ([`detach_marked`]).

use std::error::Error;
use std::io;
use std::path::{Path, PathBuf};

use aya::programs::tc::{NlOptions, SchedClassifier, SchedClassifierLink, TcAttachOptions, TcError, TcHandle};
use aya::programs::{ProgramError, TcAttachType, tc};
use mesh_common::names;
use rustix::io::Errno;

type Cause = Box<dyn Error + Send + Sync>;

/// A place of our own among an interface's filters, always the same: there the kernel swaps programs in one step. Low,
/// since filters run in the order of their priority and one before us can let a packet through.
const PRIORITY: u16 = 17;
const HANDLE: TcHandle = TcHandle::new(0, 0x4842);

/// The mark of the filter on `interface`, which leads to the pod whose namespace has this cookie.
pub(super) fn mark(links: &Path, cookie: u64, interface: &str) -> PathBuf {
    links.join(format!("pod-{cookie}-clsact-{interface}"))
}

/// The interface that a pin of this name marks, if it is a mark.
fn marked(name: &str) -> Option<&str> {
    name.strip_prefix("pod-")?.split_once("-clsact-").map(|(_, interface)| interface)
}

/// Attaches `program` to `interface`, in the place of an earlier agent's if there is one.
pub(super) fn attach(program: &mut SchedClassifier, interface: &str, mark: &Path) -> Result<(), Cause> {
    match tc::qdisc_add_clsact(interface) {
        Err(TcError::NetlinkError(error)) if is(error.raw_os_error(), Errno::EXIST) => {}
        result => result?,
    }
    // Before the filter: there is never one that nobody knows of.
    match std::fs::remove_file(mark) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error.into()),
        _ => program.pin(mark)?,
    }
    let place = SchedClassifierLink::attached(interface, TcAttachType::Ingress, PRIORITY, HANDLE, None)?;
    let link = match program.attach_to_link(place) {
        Err(ProgramError::TcError(TcError::NetlinkError(error))) if is(error.raw_os_error(), Errno::NOENT) => {
            let options = NlOptions { priority: PRIORITY, handle: HANDLE, classid: None };
            program.attach_with_options(interface, TcAttachType::Ingress, TcAttachOptions::Netlink(options))?
        }
        result => result?,
    };
    // Dropping the link would remove the filter.
    std::mem::forget(program.take_link(link)?);
    Ok(())
}

/// Removes the filter that `pin` marks; nothing if `pin` is no mark, or the filter went with its interface.
pub(super) fn detach_marked(pin: &Path) -> io::Result<()> {
    let name = pin.file_name().unwrap_or_default().to_string_lossy();
    let Some(interface) = marked(&name) else { return Ok(()) };
    match tc::qdisc_detach_program(interface, TcAttachType::Ingress, names::VETH) {
        Ok(()) => Ok(()),
        Err(TcError::IoError(error))
            if error.kind() == io::ErrorKind::NotFound || is(error.raw_os_error(), Errno::NODEV) =>
        {
            Ok(())
        }
        Err(error) => Err(io::Error::other(error)),
    }
}

fn is(code: Option<i32>, errno: Errno) -> bool {
    code == Some(errno.raw_os_error())
}

#[cfg(test)]
mod tests {
    use super::{mark, marked};
    use std::path::Path;

    #[test]
    fn a_mark_names_its_interface_and_a_link_is_none() {
        let path = mark(Path::new("/links"), 7, "veth-clsact-1");
        assert_eq!(path, Path::new("/links/pod-7-clsact-veth-clsact-1"));
        assert_eq!(marked("pod-7-clsact-veth-clsact-1"), Some("veth-clsact-1"));
        assert_eq!(marked("pod-7-mesh_veth-veth0"), None);
        assert_eq!(marked("cgroup-7-clsact-veth0"), None);
    }
}
