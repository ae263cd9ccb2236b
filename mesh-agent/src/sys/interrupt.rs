//! Interrupts a blocking system call of another thread, and shows its bare error.

use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::time::{Duration, Instant};

/// Says what a blocking send of more than fits does when a signal interrupts it; `None`: nothing within `limit`.
///
/// Takes over a real-time signal for as long as it runs. `socket` blocks and is full or fills up; it is of no use after.
pub fn interrupted_send(socket: impl AsFd + Sync, limit: Duration) -> io::Result<Option<io::Error>> {
    let signal = libc::SIGRTMIN() + 5;
    let before = handle(signal, ignore as *const () as libc::sighandler_t)?;
    let (thread, ended) = (AtomicI32::new(0), AtomicBool::new(false));
    let error = std::thread::scope(|scope| {
        let sending = scope.spawn(|| {
            // SAFETY: gettid has no arguments and can't fail.
            thread.store(unsafe { libc::gettid() }, Ordering::Release);
            let error = send_until_refused(&socket);
            ended.store(true, Ordering::Release);
            error
        });
        let deadline = Instant::now() + limit;
        while !ended.load(Ordering::Acquire) {
            if Instant::now() >= deadline {
                // The last resort: what it waits for never comes, so end the connection.
                rustix::net::shutdown(&socket, rustix::net::Shutdown::Both)?;
            }
            std::thread::park_timeout(Duration::from_millis(1));
            let id = thread.load(Ordering::Acquire);
            if id != 0 {
                // SAFETY: the thread is of this process, and the signal has a handler; if it has just ended, the call fails.
                unsafe { libc::syscall(libc::SYS_tgkill, libc::getpid(), id, signal) };
            }
        }
        sending.join().map_err(|_panic| io::Error::other("the sending thread panicked"))
    });
    handle(signal, before)?;
    error
}

/// Sends until an error comes, and takes a short write for another beginning: only a call that sent nothing shows one.
fn send_until_refused(socket: impl AsFd) -> Option<io::Error> {
    let bytes = vec![0_u8; 1 << 20];
    loop {
        // SAFETY: `bytes` outlives the call and its length is passed; the descriptor is borrowed.
        let sent =
            unsafe { libc::send(socket.as_fd().as_raw_fd(), bytes.as_ptr().cast(), bytes.len(), libc::MSG_NOSIGNAL) };
        if sent < 0 {
            return Some(io::Error::last_os_error());
        }
    }
}

extern "C" fn ignore(_signal: libc::c_int) {}

/// Installs a handler that does not restart system calls; returns the one before.
fn handle(signal: libc::c_int, handler: libc::sighandler_t) -> io::Result<libc::sighandler_t> {
    // SAFETY: a sigaction is integers and a set of bits; zero is a value of each.
    let (mut action, mut before) = unsafe { (std::mem::zeroed::<libc::sigaction>(), std::mem::zeroed()) };
    action.sa_sigaction = handler;
    // SAFETY: both structures outlive the call; the handler is a function that does nothing, or was there before.
    let result = unsafe { libc::sigaction(signal, &raw const action, &raw mut before) };
    if result == 0 { Ok(before.sa_sigaction) } else { Err(io::Error::last_os_error()) }
}
