//! A TCP socket in a pod's network namespace, as the kernel lists it: what the mesh needs to know whether it carries it.

use std::net::SocketAddr;

/// One socket.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct TcpSocket {
    /// The pod's end.
    pub local: SocketAddr,
    /// The other end; meaningless for a listener.
    pub remote: SocketAddr,
    /// How far it is.
    pub stage: SocketStage,
    /// Whose it is.
    pub owner: SocketOwner,
}

/// How far a socket is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum SocketStage {
    /// It waits for connections.
    Listener,
    /// A handshake that a listener waits for: no process can have it yet.
    Opening,
    /// A connection.
    Connection,
}

/// Whose a socket is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum SocketOwner {
    /// The agent's.
    Agent,
    /// No process has it: it was closed and still sends, or nobody has accepted it yet.
    Nobody,
    /// Another process'.
    Other,
}
