//! What a hostile pod with CAP_NET_RAW tries: a SYN that never went through connect().

use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsRawFd as _;

use anyhow::{Context as _, Result, bail};
use etherparse::PacketBuilder;
use nix::ifaddrs::getifaddrs;
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, bind, send, socket};
use socket2::{Domain, Protocol, Socket, Type};

const SEQUENCE: u32 = 1_000_000;
const WINDOW: u16 = 64_240;
const HOP_LIMIT: u8 = 64;
/// Where the pod's traffic leaves.
const INTERFACE: &str = "eth0";

/// A SYN through a raw IP socket; the kernel writes the IP header.
pub(super) fn raw_syn(from: SocketAddr, to: SocketAddr) -> Result<()> {
    let socket = Socket::new(Domain::for_address(to), Type::RAW, Some(Protocol::TCP)).context("raw socket")?;
    socket.bind(&SocketAddr::new(from.ip(), 0).into()).context("bind")?;
    let segment = syn(from, to, None)?;
    let header = if to.is_ipv4() { 20 } else { 40 };
    socket.send_to(&segment[header..], &SocketAddr::new(to.ip(), 0).into()).context("send")?;
    Ok(())
}

/// A SYN as an Ethernet frame through a packet socket.
pub(super) fn packet_syn(from: SocketAddr, to: SocketAddr, gateway: &str) -> Result<()> {
    let links = getifaddrs().context("list interfaces")?;
    let link = links
        .filter(|interface| interface.interface_name == INTERFACE)
        .find_map(|interface| interface.address?.as_link_addr().copied())
        .context("no eth0")?;
    let socket = socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::EthAll)
        .context("packet socket")?;
    bind(socket.as_raw_fd(), &link).context("bind")?;
    let source = link.addr().context("eth0 has no hardware address")?;
    let frame = syn(from, to, Some((source, parse_mac(gateway)?)))?;
    send(socket.as_raw_fd(), &frame, MsgFlags::empty()).context("send")?;
    Ok(())
}

fn syn(from: SocketAddr, to: SocketAddr, ethernet: Option<([u8; 6], [u8; 6])>) -> Result<Vec<u8>> {
    let mut packet = Vec::new();
    let tcp = |builder: etherparse::PacketBuilderStep<etherparse::IpHeaders>| {
        builder.tcp(from.port(), to.port(), SEQUENCE, WINDOW).syn()
    };
    let builder = match (from.ip(), to.ip(), ethernet) {
        (IpAddr::V4(from), IpAddr::V4(to), None) => tcp(PacketBuilder::ipv4(from.octets(), to.octets(), HOP_LIMIT)),
        (IpAddr::V6(from), IpAddr::V6(to), None) => tcp(PacketBuilder::ipv6(from.octets(), to.octets(), HOP_LIMIT)),
        (IpAddr::V4(from), IpAddr::V4(to), Some((source, gateway))) => {
            tcp(PacketBuilder::ethernet2(source, gateway).ipv4(from.octets(), to.octets(), HOP_LIMIT))
        }
        (IpAddr::V6(from), IpAddr::V6(to), Some((source, gateway))) => {
            tcp(PacketBuilder::ethernet2(source, gateway).ipv6(from.octets(), to.octets(), HOP_LIMIT))
        }
        _ => bail!("two IP versions in one connection"),
    };
    builder.write(&mut packet, &[]).context("build a SYN")?;
    Ok(packet)
}

fn parse_mac(text: &str) -> Result<[u8; 6]> {
    let bytes: Result<Vec<u8>, _> = text.split(':').map(|byte| u8::from_str_radix(byte, 16)).collect();
    let bytes = bytes.with_context(|| format!("`{text}` is no hardware address"))?;
    bytes.as_slice().try_into().with_context(|| format!("`{text}` is no hardware address"))
}
