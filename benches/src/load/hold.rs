//! Idle connections, kept to see what they weigh.

use std::io;
use std::net::{SocketAddr, TcpStream};

use anyhow::{Context as _, Result};

use super::wire::{ask, connect};
use super::{READY, say};

/// Opens the connections, says so, and keeps them until it is killed.
pub(super) fn run(to: SocketAddr, connections: usize) -> Result<()> {
    let open = || -> io::Result<TcpStream> {
        let stream = connect(to)?;
        // A connection has been used before it idles: its buffers and keys are what they will be.
        ask(&stream)?;
        Ok(stream)
    };
    let _held: Vec<TcpStream> =
        (0..connections).map(|_| open()).collect::<io::Result<_>>().with_context(|| format!("connect to {to}"))?;
    say(READY)?;
    loop {
        std::thread::park();
    }
}
