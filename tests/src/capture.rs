//! Records every frame on the wire between the nodes, so that claims are made about packets and not about logs.
//!
//! A packet socket in the first node's namespace sees both directions. `trace` returns only when probes sent *after*
//! the call, one from either node, have been seen: then everything sent before has been seen too. And it compares with
//! the interface's own counters: a capture that missed frames proves nothing, so it fails.

mod flow;
mod packet;
mod tls;
mod trace;

use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use anyhow::{Context as _, Result, bail, ensure};
use nix::errno::Errno;
use nix::ifaddrs::getifaddrs;
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, bind, recv, socket};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

pub use flow::{Flow, Stream};
pub use packet::{Packet, Tcp};
pub use tls::Hello;
pub use trace::{Mark, Trace};

use crate::netns::Netns;
use crate::wait::{LIMIT, wait_until};

/// Enough for what two processors can send while this thread waits for one.
const BUFFER_BYTES: usize = 64 << 20;

/// Larger than any segment the kernel hands over in one piece.
const FRAME_BYTES: usize = 256 << 10;

/// How often the thread looks whether it shall end.
const POLL: Timespec = Timespec { tv_sec: 0, tv_nsec: 50_000_000 };

/// The discard port: nobody answers the probes.
const PROBE_PORT: u16 = 9;

/// A running capture; ends when dropped.
#[derive(Debug)]
pub struct Capture {
    frames: Arc<Mutex<Vec<Vec<u8>>>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
    ends: [(Netns, IpAddr); 2],
    interface: &'static str,
    counted_before: u64,
}

impl Capture {
    /// Records `interface` in the first of two namespaces; probes run between the given addresses.
    pub fn start(ends: [(&Netns, IpAddr); 2], interface: &'static str) -> Result<Self> {
        let ends = ends.map(|(netns, address)| (netns.clone(), address));
        let socket = ends[0].0.enter(|| open(interface))?;
        // After opening: a frame that comes in between is seen and not counted.
        let counted_before = count_frames(&ends[0].0, interface)?;
        let frames = Arc::new(Mutex::new(Vec::new()));
        let stop = Arc::new(AtomicBool::new(false));
        let thread = {
            let (frames, stop) = (Arc::clone(&frames), Arc::clone(&stop));
            std::thread::spawn(move || record(&socket, &frames, &stop))
        };
        Ok(Self { frames, stop, thread: Some(thread), ends, interface, counted_before })
    }

    /// Everything that was on the wire until now.
    pub fn trace(&self) -> Result<Trace> {
        self.settle()?;
        let counted = count_frames(&self.ends[0].0, self.interface)? - self.counted_before;
        let frames = wait_until(LIMIT, &format!("the capture has all {counted} frames"), || {
            let frames = self.lock();
            Ok((u64::try_from(frames.len())? >= counted).then(|| frames.clone()))
        })?;
        Trace::parse(frames)
    }

    /// A point in time: see `Trace::since`.
    pub fn mark(&self) -> Result<Mark> {
        self.settle()?;
        Ok(Mark::new(self.lock().len()))
    }

    /// Waits until everything that has been sent has been recorded.
    fn settle(&self) -> Result<()> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        for (from, to) in [(0, 1), (1, 0)] {
            let probe = format!("hauberk-probe-{}", NEXT.fetch_add(1, Ordering::Relaxed));
            let start = self.lock().len();
            let to = SocketAddr::new(self.ends[to].1, PROBE_PORT);
            self.ends[from].0.enter(|| send_probe(to, probe.as_bytes()))?;
            wait_until(LIMIT, "the capture sees its probe", || {
                let seen = self.lock()[start..].iter().any(|frame| frame.ends_with(probe.as_bytes()));
                ensure!(self.thread.as_ref().is_some_and(|thread| !thread.is_finished()), "the capture died");
                Ok(seen.then_some(()))
            })?;
        }
        Ok(())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Vec<u8>>> {
        self.frames.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

fn send_probe(to: SocketAddr, probe: &[u8]) -> Result<()> {
    let socket = UdpSocket::bind("0.0.0.0:0").context("bind the probe's socket")?;
    match socket.send_to(probe, to) {
        Err(error) if error.kind() != ErrorKind::ConnectionRefused => Err(error).context("send a probe"),
        _ => Ok(()),
    }
}

fn open(interface: &str) -> Result<OwnedFd> {
    let socket = socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::EthAll)
        .context("packet socket")?;
    let mut links = getifaddrs().context("list interfaces")?;
    let link = links
        .find_map(|found| (found.interface_name == interface).then(|| found.address?.as_link_addr().copied())?)
        .with_context(|| format!("no interface {interface}"))?;
    rustix::net::sockopt::set_socket_recv_buffer_size_force(&socket, BUFFER_BYTES).context("enlarge the buffer")?;
    bind(socket.as_raw_fd(), &link).context("bind the packet socket")?;
    forget(&socket)?;
    Ok(socket)
}

/// Drops what came before the bind took hold: frames of other interfaces, and connections whose next frames fell into
/// the moment in which the kernel moves the socket and it hears nothing.
fn forget(socket: &OwnedFd) -> Result<()> {
    loop {
        match recv(socket.as_raw_fd(), &mut [0], MsgFlags::MSG_DONTWAIT) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(Errno::EAGAIN) => return Ok(()),
            Err(error) => return Err(error).context("empty the packet socket"),
        }
    }
}

fn record(socket: &OwnedFd, frames: &Mutex<Vec<Vec<u8>>>, stop: &AtomicBool) {
    let mut buffer = vec![0; FRAME_BYTES];
    while !stop.load(Ordering::Relaxed) {
        let mut ready = [PollFd::new(socket, PollFlags::IN)];
        if !matches!(poll(&mut ready, Some(&POLL)), Ok(1)) {
            continue;
        }
        match recv(socket.as_raw_fd(), &mut buffer, MsgFlags::MSG_DONTWAIT) {
            Ok(length) => frames.lock().unwrap_or_else(PoisonError::into_inner).push(buffer[..length].to_vec()),
            Err(Errno::EAGAIN | Errno::EINTR) => {}
            // The interface is gone, and so is the world.
            Err(_) => return,
        }
    }
}

/// Frames that the interface has sent and received so far.
fn count_frames(netns: &Netns, interface: &str) -> Result<u64> {
    let statistics = netns.enter(|| std::fs::read_to_string("/proc/thread-self/net/dev").context("read counters"))?;
    let line = statistics
        .lines()
        .find_map(|line| line.trim_start().strip_prefix(interface)?.strip_prefix(':'))
        .with_context(|| format!("no counters of {interface}"))?;
    let columns: Vec<&str> = line.split_whitespace().collect();
    // Receive bytes, packets and six more; then transmit bytes, packets.
    let packets = [columns.get(1), columns.get(9)].map(|column| column.and_then(|column| column.parse::<u64>().ok()));
    match packets {
        [Some(received), Some(sent)] => Ok(received + sent),
        _ => bail!("unreadable counters of {interface}: {line}"),
    }
}
