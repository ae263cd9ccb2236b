//! Sockets inside a pod's network namespace, made by a thread that enters it, makes one, and leaves at once.
//!
//! A socket keeps its namespace, so nothing else has to happen inside. There is no await between entering and leaving.

use std::fs::File;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, socket_with};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::sockopt;

/// Each thread sees its own namespace's settings here. In a container the machine's procfs comes first: a container's own is
/// read-only unless it is privileged.
fn sysctls() -> &'static Path {
    let machines = Path::new("/host/proc/sys/net");
    if machines.exists() { machines } else { Path::new("/proc/sys/net") }
}

/// An open network namespace. Keeps the namespace alive: drop it when the pod is withdrawn.
#[derive(Debug)]
pub struct Netns {
    fd: OwnedFd,
    cookie: u64,
    /// Settings with the values that they had.
    changed: Vec<(&'static str, String)>,
}

impl Netns {
    /// Opens a namespace by its file, such as `/run/netns/web` or `/proc/<pid>/ns/net`.
    pub fn open(path: &Path) -> io::Result<Self> {
        Self::of_descriptor(OwnedFd::from(File::open(path)?))
    }

    /// Takes an open one.
    pub fn of_descriptor(fd: OwnedFd) -> io::Result<Self> {
        let probe = inside(&fd, || socket_with(AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC, None))??;
        let cookie = sockopt::netns_cookie(&probe)?;
        Ok(Self { fd, cookie, changed: Vec::new() })
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

    /// Whether the namespace has this address, as a socket would.
    pub fn has_address(&self, address: IpAddr) -> io::Result<bool> {
        let address = SocketAddr::new(address, 0);
        match bind(&self.tcp_socket(&address)?, &address) {
            Ok(()) => Ok(true),
            Err(Errno::ADDRNOTAVAIL) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// The ports that the namespace gives to sockets that ask for none.
    pub fn local_port_range(&self) -> io::Result<RangeInclusive<u16>> {
        let text = self.sysctl("ipv4/ip_local_port_range")?;
        let mut ports = text.split_whitespace().map(str::parse);
        match (ports.next(), ports.next()) {
            (Some(Ok(low)), Some(Ok(high))) => Ok(low..=high),
            _ => Err(io::Error::new(io::ErrorKind::InvalidData, format!("not a port range: {text}"))),
        }
    }

    /// Reads one of the namespace's settings, by its path below `/proc/sys/net`.
    pub fn sysctl(&self, name: &str) -> io::Result<String> {
        let text = inside(&self.fd, || std::fs::read_to_string(sysctls().join(name)))??;
        Ok(text.trim_end().to_owned())
    }

    /// Changes such a setting until this `Netns` is dropped. Where it has that value already, an agent that was killed may
    /// have `left` it: then the drop brings what the caller's own namespace has, the best guess at what was before.
    pub fn set_sysctl_until_drop(&mut self, name: &'static str, value: &str, left: bool) -> io::Result<()> {
        let before = self.sysctl(name)?;
        if before != value {
            self.write_sysctl(name, value)?;
            self.changed.push((name, before));
        } else if left {
            let own = std::fs::read_to_string(sysctls().join(name))?;
            self.changed.push((name, own.trim_end().to_owned()));
        }
        Ok(())
    }

    fn write_sysctl(&self, name: &str, value: &str) -> io::Result<()> {
        inside(&self.fd, || std::fs::write(sysctls().join(name), value))?
    }

    /// Runs `action` on this thread inside the namespace. It must not block for long, and what it starts stays inside.
    pub fn enter<T>(&self, action: impl FnOnce() -> T) -> io::Result<T> {
        inside(&self.fd, action)
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        for (name, before) in self.changed.iter().rev() {
            if let Err(error) = self.write_sysctl(name, before) {
                tracing::warn!(%error, name, before, "a setting of a pod is not restored");
            }
        }
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
