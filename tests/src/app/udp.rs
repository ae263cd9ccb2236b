//! Datagrams, which the mesh leaves alone.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::time::Duration;

use anyhow::{Context as _, Result};

use super::{ANSWER, Served, report};

pub(super) fn serve(address: SocketAddr) -> Result<()> {
    let socket = UdpSocket::bind(address).with_context(|| format!("bind {address}"))?;
    report(&Served::Listening)?;
    let mut buffer = [0; 2048];
    loop {
        let (length, peer) = socket.recv_from(&mut buffer).context("receive")?;
        let answer = [ANSWER.as_bytes(), &buffer[..length]].concat();
        socket.send_to(&answer, peer).context("answer")?;
    }
}

pub(super) fn call(to: SocketAddr, say: &str) -> Result<()> {
    let any: SocketAddr = match to {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let socket = UdpSocket::bind(any).context("bind")?;
    socket.set_read_timeout(Some(Duration::from_secs(15)))?;
    socket.connect(to).context("connect")?;
    socket.send(say.as_bytes()).context("send")?;
    let mut buffer = [0; 2048];
    let length = socket.recv(&mut buffer).context("receive the answer")?;
    report(&String::from_utf8_lossy(&buffer[..length]))
}
