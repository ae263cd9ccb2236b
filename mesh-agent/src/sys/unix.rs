//! UNIX sockets of the agent that only root and its own user may open, and descriptors that travel over them.
//!
//! A socket's file has mode 0600 from the first moment on, and who connects is asked for, too: a file mode says nothing
//! about a descriptor that was handed on.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt};
use std::path::Path;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
    recvmsg, sendmsg,
};
use tokio::net::{UnixListener, UnixStream};

/// The most descriptors that one read takes; the kernel closes more.
const MAX_DESCRIPTORS: usize = 4;

/// Listens on `path`, for root and the agent's own user. Takes the place of a socket that nobody listens on any more; fails
/// if somebody does.
pub fn listen_privately(path: &Path) -> io::Result<UnixListener> {
    if std::os::unix::net::UnixStream::connect(path).is_ok() {
        return Err(io::ErrorKind::AddrInUse.into());
    }
    let directory = path.parent().unwrap_or(Path::new("/"));
    if !directory.as_os_str().is_empty() {
        std::fs::DirBuilder::new().recursive(true).mode(0o755).create(directory)?;
    }
    // Under another name until its mode is right: nobody else could connect meanwhile.
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}", std::process::id()));
    let temporary = directory.join(name);
    let listener = UnixListener::bind(&temporary)?;
    let placed = std::fs::set_permissions(&temporary, PermissionsExt::from_mode(0o600))
        .and_then(|()| std::fs::rename(&temporary, path));
    if placed.is_err() {
        std::fs::remove_file(&temporary)?;
    }
    placed.map(|()| listener)
}

/// Whether the kernel vouches for the other end (unix(7), SO_PEERCRED).
pub fn is_allowed(stream: &UnixStream) -> bool {
    let Ok(peer) = stream.peer_cred() else { return false };
    let allowed = may_ask(peer.uid(), rustix::process::geteuid().as_raw());
    if !allowed {
        tracing::warn!(target: "audit", { peer.uid = peer.uid(), peer.pid = peer.pid() }, "admin access refused");
    }
    allowed
}

/// Whether user `uid` may ask an agent that runs as `own`.
fn may_ask(uid: u32, own: u32) -> bool {
    uid == 0 || uid == own
}

/// Sends what fits of `bytes`, with a descriptor.
pub fn send_with(socket: impl AsFd, bytes: &[u8], descriptor: Option<BorrowedFd<'_>>) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let descriptors: Vec<_> = descriptor.into_iter().collect();
    if !descriptors.is_empty() && !control.push(SendAncillaryMessage::ScmRights(&descriptors)) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    Ok(sendmsg(socket, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL)?)
}

/// Receives into `bytes`, and the descriptors that come with them. 0: the other end has ended.
pub fn receive(socket: impl AsFd, bytes: &mut [u8], descriptors: &mut Vec<OwnedFd>) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let received = recvmsg(socket, &mut [IoSliceMut::new(bytes)], &mut control, RecvFlags::CMSG_CLOEXEC)?;
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(passed) = message {
            descriptors.extend(passed);
        }
    }
    Ok(received.bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_and_the_agents_own_user_may_ask() {
        assert_eq!(
            [(0, 0), (0, 500), (500, 500), (1000, 0), (1000, 500)].map(|(uid, own)| may_ask(uid, own)),
            [true, true, true, false, false]
        );
    }

    #[test]
    fn a_descriptor_travels_with_bytes() {
        let (one, other) = std::os::unix::net::UnixStream::pair().unwrap();
        let file = tempfile::tempfile().unwrap();
        assert_eq!(send_with(&one, b"hello", Some(file.as_fd())).unwrap(), 5);
        let (mut bytes, mut descriptors) = ([0; 16], Vec::new());
        assert_eq!(receive(&other, &mut bytes, &mut descriptors).unwrap(), 5);
        assert_eq!(&bytes[..5], b"hello");
        let of = |fd: BorrowedFd<'_>| rustix::fs::fstat(fd).unwrap().st_ino;
        assert_eq!(descriptors.iter().map(|fd| of(fd.as_fd())).collect::<Vec<_>>(), [of(file.as_fd())]);
    }
}
