//! Socket options that rustix and tokio lack.

use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::time::Duration;

use libc::{c_int, c_void, socklen_t};

use crate::model::connection::PathQuality;

const SO_NETNS_COOKIE: c_int = 71;
const IP_LOCAL_PORT_RANGE: c_int = 51;

/// Cookie of the socket's network namespace (kernel 5.14).
pub fn netns_cookie(socket: impl AsFd) -> io::Result<u64> {
    let mut cookie = 0_u64;
    let mut size = size_u32::<u64>();
    // SAFETY: `cookie` and `size` outlive the call and `size` is `cookie`'s; the descriptor is borrowed.
    let result = unsafe {
        libc::getsockopt(
            socket.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            SO_NETNS_COOKIE,
            (&raw mut cookie).cast::<c_void>(),
            &raw mut size,
        )
    };
    if result == 0 { Ok(cookie) } else { Err(io::Error::last_os_error()) }
}

/// Takes the source port from a range of this one, without making it unshareable as bind() does (kernel 6.3; ignored
/// for ports outside of `ip_local_port_range`).
pub fn set_source_port(socket: impl AsFd, port: u16) -> io::Result<()> {
    let range = u32::from(port) << 16 | u32::from(port);
    // The option is IPv4's, but sockets of both families obey it.
    set(socket, libc::IPPROTO_IP, IP_LOCAL_PORT_RANGE, &range)
}

/// Chooses the port at connect() even though an address is bound, when the 4-tuple is known.
pub fn set_bind_address_no_port(socket: impl AsFd) -> io::Result<()> {
    set(socket, libc::IPPROTO_IP, libc::IP_BIND_ADDRESS_NO_PORT, &1)
}

/// In repair mode, bind() takes a port that other sockets hold; needs CAP_NET_ADMIN.
pub fn set_repair(socket: impl AsFd, on: bool) -> io::Result<()> {
    set(socket, libc::IPPROTO_TCP, libc::TCP_REPAIR, &c_int::from(on))
}

/// What the kernel knows of a peer's answers.
#[derive(Clone, Copy, Debug)]
pub struct PeerState {
    /// Segments sent and not acknowledged.
    pub in_flight: u32,
    /// Probes of a shut window or an idle peer since the last answer.
    pub unanswered_probes: u8,
    /// How long ago the last acknowledgement came.
    pub last_answer: Duration,
}

/// Reads a TCP socket's [`PeerState`].
pub fn peer_state(socket: impl AsFd) -> io::Result<PeerState> {
    let info = tcp_info(socket)?;
    Ok(PeerState {
        in_flight: info.tcpi_unacked,
        unanswered_probes: info.tcpi_probes,
        last_answer: Duration::from_millis(u64::from(info.tcpi_last_ack_recv)),
    })
}

/// Reads a TCP socket's [`PathQuality`]; also of one that has just been closed by its peer.
pub fn path_quality(socket: impl AsFd) -> io::Result<PathQuality> {
    let info = tcp_info(socket)?;
    Ok(PathQuality { rtt: Duration::from_micros(u64::from(info.tcpi_rtt)), retransmits: info.tcpi_total_retrans })
}

fn tcp_info(socket: impl AsFd) -> io::Result<libc::tcp_info> {
    // SAFETY: a tcp_info is plain integers; zero is a value of each.
    let mut info: libc::tcp_info = unsafe { std::mem::zeroed() };
    let mut size = size_u32::<libc::tcp_info>();
    // SAFETY: `info` and `size` outlive the call and `size` is `info`'s; the descriptor is borrowed.
    let result = unsafe {
        libc::getsockopt(
            socket.as_fd().as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            (&raw mut info).cast::<c_void>(),
            &raw mut size,
        )
    };
    if result == 0 { Ok(info) } else { Err(io::Error::last_os_error()) }
}

fn set<T: Copy>(socket: impl AsFd, level: c_int, name: c_int, value: &T) -> io::Result<()> {
    // SAFETY: `value` outlives the call and its size is passed; the descriptor is borrowed.
    let result = unsafe {
        libc::setsockopt(
            socket.as_fd().as_raw_fd(),
            level,
            name,
            std::ptr::from_ref(value).cast::<c_void>(),
            size_u32::<T>(),
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Sets an option whose value is a string of bytes.
pub(super) fn set_bytes(socket: impl AsFd, level: c_int, name: c_int, value: &[u8]) -> io::Result<()> {
    let size = socklen_t::try_from(value.len()).map_err(|_too_long| io::ErrorKind::InvalidInput)?;
    // SAFETY: `value` outlives the call and its length is passed; the descriptor is borrowed.
    let result =
        unsafe { libc::setsockopt(socket.as_fd().as_raw_fd(), level, name, value.as_ptr().cast::<c_void>(), size) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

const fn size_u32<T>() -> socklen_t {
    assert!(size_of::<T>() <= 512, "option values are small");
    #[expect(clippy::cast_possible_truncation, reason = "asserted above")]
    let size = size_of::<T>() as socklen_t;
    size
}
