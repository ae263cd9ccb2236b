//! Socket options that rustix and tokio lack.

use std::io;
use std::os::fd::{AsFd, AsRawFd};

use libc::{c_int, c_void, socklen_t};

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

/// How long sent data may stay unacknowledged before the connection is given up, in milliseconds.
pub fn set_user_timeout(socket: impl AsFd, milliseconds: u32) -> io::Result<()> {
    set(socket, libc::IPPROTO_TCP, libc::TCP_USER_TIMEOUT, &milliseconds)
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

const fn size_u32<T>() -> socklen_t {
    assert!(size_of::<T>() <= 64, "option values are small");
    #[expect(clippy::cast_possible_truncation, reason = "asserted above")]
    let size = size_of::<T>() as socklen_t;
    size
}
