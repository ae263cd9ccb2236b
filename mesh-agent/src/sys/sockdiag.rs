//! Lists a pod's TCP sockets and ends them: NETLINK_SOCK_DIAG (sock_diag(7)), asked inside the pod's namespace.
//!
//! Own encoding of one request, since the crate for this protocol knows no SOCK_DESTROY. All bytes, no pointers: nothing
//! here is unsafe. The layouts are those of `linux/netlink.h` and `linux/inet_diag.h`, in host order but for ports and addresses.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;

use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netlink, recv, send, socket_with};

use super::netns::Netns;
use crate::model::socket::{SocketOwner, SocketStage, TcpSocket};

const SOCK_DIAG_BY_FAMILY: u16 = 20;
const SOCK_DESTROY: u16 = 21;
const NLM_F_REQUEST: u16 = 1;
const NLM_F_ACK: u16 = 4;
const NLM_F_DUMP: u16 = 0x300;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const INET_DIAG_CGROUP_ID: u16 = 21;

const TCP_SYN_RECV: u8 = 3;
const TCP_TIME_WAIT: u8 = 6;
const TCP_CLOSE: u8 = 7;
const TCP_LISTEN: u8 = 10;
/// All but what only remains of a connection. Handshakes that listeners wait for are among them.
const STATES: u32 = 0xfff & !(1 << TCP_TIME_WAIT | 1 << TCP_CLOSE | 1);

/// `struct nlmsghdr`.
const HEADER: usize = 16;
/// `struct inet_diag_sockid`: ports, addresses, interface, cookie.
const ID: usize = 48;
/// `struct inet_diag_msg`, before its attributes.
const MESSAGE: usize = 72;
/// More than the kernel puts into one datagram.
const ANSWER: usize = 1 << 16;

/// A socket, as listed; the kernel knows by its cookie if another one has its addresses by now.
#[derive(Clone, Debug)]
pub struct Listed {
    /// What it is.
    pub socket: TcpSocket,
    family: u8,
    id: [u8; ID],
}

impl Listed {
    /// No other socket of this machine has it, had it or will have it; a connection has that of its handshake.
    pub fn cookie(&self) -> [u8; 8] {
        let mut cookie = [0; 8];
        cookie.copy_from_slice(&self.id[ID - 8..]);
        cookie
    }
}

/// Asks about one namespace.
#[derive(Debug)]
pub struct SockDiag(OwnedFd);

impl SockDiag {
    /// Opens a socket inside `netns`.
    pub fn open(netns: &Netns) -> io::Result<Self> {
        let protocol = Some(netlink::SOCK_DIAG);
        let made =
            netns.enter(|| socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, protocol))?;
        Ok(Self(made?))
    }

    /// Every listener and connection of TCP; `own` is the cgroup of the agent's sockets.
    pub fn tcp_sockets(&self, own: u64) -> io::Result<Vec<Listed>> {
        let mut all = Vec::new();
        for family in [libc::AF_INET, libc::AF_INET6] {
            let family = u8::try_from(family).map_err(io::Error::other)?;
            self.send(SOCK_DIAG_BY_FAMILY, NLM_F_DUMP, family, &[0; ID])?;
            let mut done = false;
            while !done {
                for (kind, body) in messages(&self.receive()?) {
                    match kind {
                        NLMSG_ERROR => error_of(body)?,
                        // A dump that fails half-way tells so at its end.
                        NLMSG_DONE => {
                            error_of(body)?;
                            done = true;
                        }
                        _ => all.extend(listed(body, own)),
                    }
                }
            }
        }
        Ok(all)
    }

    /// Ends a connection as a reset would: its owner gets ECONNABORTED, its peer a reset. `false`: it was gone already.
    /// [`io::ErrorKind::Unsupported`]: this kernel can't (CONFIG_INET_DIAG_DESTROY). Needs CAP_NET_ADMIN.
    pub fn destroy(&self, listed: &Listed) -> io::Result<bool> {
        self.send(SOCK_DESTROY, NLM_F_ACK, listed.family, &listed.id)?;
        for (kind, body) in messages(&self.receive()?) {
            if kind == NLMSG_ERROR {
                return match error_of(body) {
                    Ok(()) => Ok(true),
                    Err(error) if error.raw_os_error() == Some(Errno::NOENT.raw_os_error()) => Ok(false),
                    Err(error) => Err(error),
                };
            }
        }
        Err(io::ErrorKind::InvalidData.into())
    }

    fn send(&self, kind: u16, flags: u16, family: u8, id: &[u8; ID]) -> io::Result<()> {
        let protocol = u8::try_from(libc::IPPROTO_TCP).map_err(io::Error::other)?;
        let mut body = vec![family, protocol, 0, 0];
        body.extend(STATES.to_ne_bytes());
        body.extend(id);
        let length = u32::try_from(HEADER + body.len()).map_err(io::Error::other)?;
        let mut request = length.to_ne_bytes().to_vec();
        request.extend(kind.to_ne_bytes());
        request.extend((NLM_F_REQUEST | flags).to_ne_bytes());
        // Sequence number and port: one question at a time, on a socket of its own.
        request.extend([0; 8]);
        request.extend(body);
        send(&self.0, &request, SendFlags::empty())?;
        Ok(())
    }

    fn receive(&self) -> io::Result<Vec<u8>> {
        let mut answer = vec![0; ANSWER];
        let (length, _) = recv(&self.0, &mut answer[..], RecvFlags::empty())?;
        answer.truncate(length);
        Ok(answer)
    }
}

/// Kind and body of each message of a datagram.
fn messages(mut datagram: &[u8]) -> Vec<(u16, &[u8])> {
    let mut found = Vec::new();
    while let (Some(length), Some(kind)) = (u32_at(datagram, 0), u16_at(datagram, 4)) {
        let length = length as usize;
        let Some(body) = datagram.get(HEADER..length) else { break };
        found.push((kind, body));
        datagram = datagram.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    found
}

/// `struct nlmsgerr`; 0 is an acknowledgement.
fn error_of(body: &[u8]) -> io::Result<()> {
    let code = u32_at(body, 0).ok_or(io::ErrorKind::InvalidData)?.cast_signed();
    if code == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(-code)) }
}

fn listed(body: &[u8], own: u64) -> Option<Listed> {
    let message: &[u8; MESSAGE] = body.get(..MESSAGE)?.try_into().ok()?;
    let (family, state) = (message[0], message[1]);
    let id: [u8; ID] = message[4..4 + ID].try_into().ok()?;
    let address = |at: usize| -> Option<IpAddr> {
        match i32::from(family) {
            libc::AF_INET => Some(IpAddr::from(<[u8; 4]>::try_from(&id[at..at + 4]).ok()?)),
            _ => Some(IpAddr::from(<[u8; 16]>::try_from(&id[at..at + 16]).ok()?)),
        }
    };
    let port = |at: usize| u16::from_be_bytes([id[at], id[at + 1]]);
    let owner = match (u32_at(message, MESSAGE - 4)?, cgroup(&body[MESSAGE..])) {
        (_, Some(cgroup)) if cgroup == own => SocketOwner::Agent,
        (0, _) => SocketOwner::Nobody,
        _ => SocketOwner::Other,
    };
    let (local, remote) = (SocketAddr::new(address(4)?, port(0)), SocketAddr::new(address(20)?, port(2)));
    let stage = match state {
        TCP_LISTEN => SocketStage::Listener,
        TCP_SYN_RECV => SocketStage::Opening,
        _ => SocketStage::Connection,
    };
    Some(Listed { socket: TcpSocket { local, remote, stage, owner }, family, id })
}

/// The cgroup in which a socket was made, from the attributes: also an accepted one's, which has its listener's.
fn cgroup(mut attributes: &[u8]) -> Option<u64> {
    loop {
        let (length, kind) = (usize::from(u16_at(attributes, 0)?), u16_at(attributes, 2)?);
        let value = attributes.get(4..length)?;
        if kind == INET_DIAG_CGROUP_ID {
            return Some(u64::from_ne_bytes(value.try_into().ok()?));
        }
        attributes = attributes.get(length.next_multiple_of(4)..)?;
    }
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_cut_off_or_nonsense_is_no_message() {
        for datagram in [&[][..], &[0; 15], &[0; 64], &[200, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]] {
            assert!(messages(datagram).is_empty(), "{datagram:?}");
        }
        assert!(listed(&[2; MESSAGE - 1], 0).is_none());
        assert!(cgroup(&[1, 0, 21, 0]).is_none() && cgroup(&[0; 8]).is_none());
    }

    /// Needs no privilege: the namespace is the test's own.
    #[test]
    fn this_programs_own_connection_is_listed_at_both_ends() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let client = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (_server, from) = listener.accept().unwrap();
        let protocol = Some(netlink::SOCK_DIAG);
        let made = socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, protocol).unwrap();
        let all = SockDiag(made).tcp_sockets(0).unwrap();
        let to = client.peer_addr().unwrap();
        let found = |local, remote| {
            all.iter().any(|listed| {
                let TcpSocket { local: ours, remote: theirs, stage, owner } = listed.socket;
                (ours, theirs, stage, owner) == (local, remote, SocketStage::Connection, SocketOwner::Other)
            })
        };
        assert!(found(from, to) && found(to, from), "{all:?}");
        assert!(
            all.iter().any(|listed| listed.socket.stage == SocketStage::Listener && listed.socket.local == to),
            "{all:?}"
        );
    }
}
