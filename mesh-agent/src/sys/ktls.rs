//! Kernel TLS (Documentation/networking/tls.rst): the protocol on top of TCP, its keys, and records with their types.

use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd};

use libc::{c_int, c_void};
use tokio::io::{Interest, ReadBuf};
use tokio::net::TcpStream;

use super::sockopt::set_bytes;

const TLS_RX_EXPECT_NO_PAD: c_int = 4;

/// Space for one control message of one byte, aligned as a header must be.
type Control = [u64; 4];

/// Which keys.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Way {
    /// For what is sent.
    Transmit,
    /// For what is received.
    Receive,
}

/// Puts the kernel's TLS on a connected socket; without keys it only passes through. Loads the module if need be.
///
/// Errors: ENOENT without the module, ENOTCONN once the connection has ended, EEXIST the second time.
pub fn attach(socket: impl AsFd) -> io::Result<()> {
    set_bytes(socket, libc::IPPROTO_TCP, libc::TCP_ULP, b"tls")
}

/// Sets keys: `crypto_info` is a `struct tls12_crypto_info_*` (linux/tls.h).
///
/// Errors: EBUSY if there are keys already and the kernel can't change them (below 6.14), EINVAL for a cipher that it
/// doesn't know, ENOPROTOOPT before [`attach`].
pub fn set_keys(socket: impl AsFd, way: Way, crypto_info: &[u8]) -> io::Result<()> {
    let name = match way {
        Way::Transmit => libc::TLS_TX,
        Way::Receive => libc::TLS_RX,
    };
    set_bytes(socket, libc::SOL_TLS, name, crypto_info)
}

/// Lets the kernel decrypt straight into the reader's memory: the peer does not pad. A record that is padded all the
/// same is decrypted a second time (kernel 6.0).
pub fn expect_no_padding(socket: impl AsFd) -> io::Result<()> {
    set_bytes(socket, libc::SOL_TLS, TLS_RX_EXPECT_NO_PAD, &1_u32.to_ne_bytes())
}

/// Receives records of one type, as many as are there and fit; returns the type. `None`: the peer has sent its FIN.
///
/// Errors: EBADMSG for a record that isn't authentic, EINVAL or EMSGSIZE for one whose header is nonsense.
pub fn try_recv(stream: &TcpStream, buf: &mut ReadBuf<'_>) -> io::Result<Option<u8>> {
    // SAFETY: the slice is only handed to recvmsg, which writes initialised bytes and none of the uninitialised kind.
    let unfilled = unsafe { buf.unfilled_mut() };
    let mut space: Control = [0; 4];
    let (count, record_type) = stream.try_io(Interest::READABLE, || {
        // SAFETY: a `u8` has the layout of a `MaybeUninit<u8>`; see above for what is written.
        let bytes = unsafe { std::slice::from_raw_parts_mut(unfilled.as_mut_ptr().cast::<u8>(), unfilled.len()) };
        recv(stream, bytes, &mut space)
    })?;
    // SAFETY: recvmsg has initialised this many bytes.
    unsafe { buf.assume_init(count) };
    buf.advance(count);
    Ok(record_type)
}

/// Sends `bytes` in a record of this type; `WouldBlock` if there is no room.
pub fn try_send(stream: &TcpStream, record_type: u8, bytes: &[u8]) -> io::Result<usize> {
    stream.try_io(Interest::WRITABLE, || send(stream, bytes, record_type))
}

fn recv(socket: impl AsFd, bytes: &mut [u8], space: &mut Control) -> io::Result<(usize, Option<u8>)> {
    let mut slice = IoSliceMut::new(bytes);
    let mut message = message((&raw mut slice).cast(), space);
    // SAFETY: the header points at one slice and at `space`, both of which outlive the call; the descriptor is borrowed.
    let count = unsafe { libc::recvmsg(socket.as_fd().as_raw_fd(), &raw mut message, 0) };
    let count = usize::try_from(count).map_err(|_negative| io::Error::last_os_error())?;
    // SAFETY: recvmsg has filled in `message`, whose control buffer is still `space`.
    let record_type = unsafe {
        let header = libc::CMSG_FIRSTHDR(&raw const message);
        let found = !header.is_null()
            && (*header).cmsg_level == libc::SOL_TLS
            && (*header).cmsg_type == libc::TLS_GET_RECORD_TYPE;
        found.then(|| libc::CMSG_DATA(header).read())
    };
    Ok((count, record_type))
}

fn send(socket: impl AsFd, bytes: &[u8], record_type: u8) -> io::Result<usize> {
    let mut space: Control = [0; 4];
    // The kernel reads from the slice; the header's type has no constness.
    let mut slice = IoSlice::new(bytes);
    let mut message = message((&raw mut slice).cast(), &mut space);
    // SAFETY: CMSG_LEN computes; the header's place is within `space`, which is aligned and large enough for it and
    // a byte.
    unsafe {
        message.msg_controllen = libc::CMSG_SPACE(1) as _;
        let header = libc::CMSG_FIRSTHDR(&raw const message);
        (*header).cmsg_level = libc::SOL_TLS;
        (*header).cmsg_type = libc::TLS_SET_RECORD_TYPE;
        (*header).cmsg_len = libc::CMSG_LEN(1) as _;
        libc::CMSG_DATA(header).write(record_type);
    }
    // SAFETY: the header points at one slice and at `space`, both of which outlive the call; the descriptor is borrowed.
    let count = unsafe { libc::sendmsg(socket.as_fd().as_raw_fd(), &raw const message, libc::MSG_NOSIGNAL) };
    usize::try_from(count).map_err(|_negative| io::Error::last_os_error())
}

/// A header of one slice and the space for one control message.
fn message(slice: *mut libc::iovec, space: &mut Control) -> libc::msghdr {
    // SAFETY: a msghdr is integers and pointers; zero is a value of each.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = slice;
    message.msg_iovlen = 1;
    message.msg_control = space.as_mut_ptr().cast::<c_void>();
    message.msg_controllen = size_of::<Control>() as _;
    message
}
