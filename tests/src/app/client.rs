//! A client that says one line and tells how it went.

use std::io::{BufRead as _, BufReader, ErrorKind, Write as _};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::time::Duration;

use socket2::{Domain, Socket, Type};

use super::Called;
use crate::scale;

/// Longer than any deadline of the mesh: a hang shall show as one.
const PATIENCE: Duration = Duration::from_secs(15);

pub(super) fn call(to: SocketAddr, say: &str, greeted: bool, mapped: bool) -> Called {
    let mut called = Called::default();
    if let Err(error) = talk(to, say, greeted, mapped, &mut called) {
        called.error = Some(describe(&error));
    }
    called
}

fn talk(to: SocketAddr, say: &str, greeted: bool, mapped: bool, called: &mut Called) -> std::io::Result<()> {
    let stream = if mapped { connect_mapped(to)? } else { TcpStream::connect(to)? };
    called.local = stream.local_addr().ok();
    called.peer = stream.peer_addr().ok();
    stream.set_read_timeout(Some(scale::longer(PATIENCE)))?;
    let mut reader = BufReader::new(&stream);
    if greeted {
        called.greeting = Some(read_line(&mut reader)?);
    }
    (&stream).write_all(format!("{say}\n").as_bytes())?;
    called.answer = Some(read_line(&mut reader)?);
    Ok(())
}

pub(super) fn read_line(reader: &mut BufReader<&TcpStream>) -> std::io::Result<String> {
    let mut line = String::new();
    match reader.read_line(&mut line)? {
        0 => Err(ErrorKind::UnexpectedEof.into()),
        _ => Ok(line.trim_end().to_owned()),
    }
}

fn connect_mapped(to: SocketAddr) -> std::io::Result<TcpStream> {
    let ip = match to.ip() {
        IpAddr::V4(ip) => ip.to_ipv6_mapped(),
        IpAddr::V6(ip) => ip,
    };
    let socket = Socket::new(Domain::IPV6, Type::STREAM, None)?;
    socket.set_only_v6(false)?;
    socket.connect(&SocketAddr::new(ip.into(), to.port()).into())?;
    Ok(socket.into())
}

fn describe(error: &std::io::Error) -> String {
    format!("{:?}", error.kind())
}
