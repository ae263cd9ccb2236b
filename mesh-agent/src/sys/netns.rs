//! Sockets inside a pod's network namespace, made by a thread that enters it, makes one, and leaves at once.
//!
//! A socket keeps its namespace, so nothing else has to happen inside. There is no await between entering and leaving.

use std::fs::File;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::sockopt;

/// An open network namespace. Keeps the namespace alive: drop it when the pod is withdrawn.
#[derive(Debug)]
pub struct Netns {
    fd: OwnedFd,
    cookie: u64,
}

impl Netns {
    /// Opens a namespace by its file, such as `/run/netns/web` or `/proc/<pid>/ns/net`.
    pub fn open(path: &Path) -> io::Result<Self> {
        let fd = OwnedFd::from(File::open(path)?);
        let probe = inside(&fd, || socket_with(AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC, None))??;
        let cookie = sockopt::netns_cookie(&probe)?;
        Ok(Self { fd, cookie })
    }

    /// What the kernel programs know the namespace by.
    pub const fn cookie(&self) -> u64 {
        self.cookie
    }

    /// The namespace's descriptor, for attaching a program to it.
    pub fn as_file(&self) -> &impl AsFd {
        &self.fd
    }

    /// A non-blocking TCP socket of this address' family.
    pub fn tcp_socket(&self, family_of: &SocketAddr) -> io::Result<OwnedFd> {
        let family = if family_of.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        Ok(inside(&self.fd, || socket_with(family, SocketType::STREAM, flags, None))??)
    }

    /// Runs `action` on this thread inside the namespace. It must not block for long, and what it starts stays inside.
    pub fn enter<T>(&self, action: impl FnOnce() -> T) -> io::Result<T> {
        inside(&self.fd, action)
    }
}

fn inside<T>(namespace: &OwnedFd, action: impl FnOnce() -> T) -> io::Result<T> {
    let network = Some(LinkNameSpaceType::Network);
    let home = File::open("/proc/thread-self/ns/net")?;
    move_into_link_name_space(namespace.as_fd(), network)?;
    let _return = Return(home);
    Ok(action())
}

/// Brings the thread home, also when `action` panics.
struct Return(File);

impl Drop for Return {
    fn drop(&mut self) {
        if move_into_link_name_space(self.0.as_fd(), Some(LinkNameSpaceType::Network)).is_err() {
            // A thread lost in a pod's namespace would make the next pod's sockets there.
            std::process::abort();
        }
    }
}
