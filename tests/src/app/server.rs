//! A server that answers lines and reports every connection that reaches it.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;

use anyhow::{Context as _, Result};
use socket2::{Domain, Socket, Type};

use super::{ANSWER, Served, report};

const BACKLOG: i32 = 1024;

pub(super) fn serve(port: u16, dual_stack: bool, greeting: Option<String>) -> Result<()> {
    let listeners = if dual_stack {
        vec![listen(SocketAddr::from((Ipv6Addr::UNSPECIFIED, port)), false)?]
    } else {
        listen_separately(port)?
    };
    report(&Served::Listening)?;
    let greeting = Arc::new(greeting);
    let threads: Vec<_> = listeners
        .into_iter()
        .map(|listener| {
            let greeting = Arc::clone(&greeting);
            std::thread::spawn(move || accept_all(&listener, &greeting))
        })
        .collect();
    threads.into_iter().try_for_each(|thread| thread.join().unwrap_or(Ok(())))
}

/// One socket an IP version.
pub(super) fn listen_separately(port: u16) -> Result<Vec<TcpListener>> {
    let v6 = listen(SocketAddr::from((Ipv6Addr::UNSPECIFIED, port)), true)?;
    Ok(vec![v6, listen(SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)), false)?])
}

fn listen(address: SocketAddr, only_v6: bool) -> Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    if address.is_ipv6() {
        socket.set_only_v6(only_v6)?;
    }
    socket.set_reuse_address(true)?;
    socket.bind(&address.into()).with_context(|| format!("bind {address}"))?;
    socket.listen(BACKLOG).context("listen")?;
    Ok(socket.into())
}

fn accept_all(listener: &TcpListener, greeting: &Arc<Option<String>>) -> Result<()> {
    loop {
        let (stream, peer) = listener.accept().context("accept")?;
        // A client that is gone has no getpeername; what accept() told stands.
        let getpeername = stream.peer_addr().unwrap_or(peer);
        let local = stream.local_addr().context("getsockname")?;
        report(&Served::Accepted { peer, getpeername, local })?;
        let greeting = Arc::clone(greeting);
        // A client's failure is its own affair.
        std::thread::spawn(move || drop(answer(&stream, greeting.as_deref())));
    }
}

fn answer(mut stream: &TcpStream, greeting: Option<&str>) -> Result<()> {
    if let Some(greeting) = greeting {
        stream.write_all(format!("{greeting}\n").as_bytes())?;
    }
    for line in BufReader::new(stream).lines() {
        let text = line?;
        stream.write_all(format!("{ANSWER}{text}\n").as_bytes())?;
        report(&Served::Line { text })?;
    }
    Ok(())
}
