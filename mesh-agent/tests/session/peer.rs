//! A peer that can say what no honest agent would: rustls in user space, with its bytes in the test's hands.

use std::io;
use std::sync::Arc;

use mesh_agent::model::mesh::TlsSettings;
use rustls::{ClientConnection, Connection, ServerConfig, ServerConnection};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::ends::{Ids, Path, call, serve, sockets, time_limit};
use mesh_agent::tls::session::TlsStream;
use mesh_agent::tls::session_reason;

/// The peer's end.
pub(crate) struct Peer {
    pub(crate) tls: Connection,
    pub(crate) socket: TcpStream,
}

impl Peer {
    /// A client that has not begun.
    pub(crate) fn client(ids: &Ids, settings: &TlsSettings, socket: TcpStream) -> Self {
        let name = "0.0.0.0".try_into().unwrap();
        Self { tls: ClientConnection::new(ids.client(settings), name).unwrap().into(), socket }
    }

    /// A server that has not begun.
    pub(crate) fn server(config: Arc<ServerConfig>, socket: TcpStream) -> Self {
        Self { tls: ServerConnection::new(config).unwrap().into(), socket }
    }

    /// What rustls wants to send now.
    pub(crate) fn flight(&mut self) -> Vec<u8> {
        let mut bytes = vec![];
        while self.tls.wants_write() {
            self.tls.write_tls(&mut bytes).unwrap();
        }
        bytes
    }

    pub(crate) async fn send_flight(&mut self) {
        let flight = self.flight();
        self.socket.write_all(&flight).await.unwrap();
    }

    /// Reads once; `false` at the end.
    pub(crate) async fn read(&mut self) -> bool {
        let mut chunk = [0; 4096];
        let count = self.socket.read(&mut chunk).await.unwrap();
        let mut rest = &chunk[..count];
        while !rest.is_empty() {
            self.tls.read_tls(&mut rest).unwrap();
            self.tls.process_new_packets().unwrap();
        }
        count > 0
    }

    /// Goes on until its own part of the handshake is done; what it then wants to send is left.
    pub(crate) async fn shake(&mut self) {
        while self.tls.is_handshaking() {
            self.send_flight().await;
            if self.tls.is_handshaking() {
                assert!(self.read().await, "the handshake was cut off");
            }
        }
    }

    /// Encrypts `data` without sending it.
    pub(crate) fn seal(&mut self, data: &[u8]) -> Vec<u8> {
        io::Write::write_all(&mut self.tls.writer(), data).unwrap();
        self.flight()
    }

    /// Reads until `count` bytes of plaintext have come.
    pub(crate) async fn hear(&mut self, count: usize) -> Vec<u8> {
        let mut heard = vec![];
        while heard.len() < count {
            let mut chunk = [0; 1024];
            match io::Read::read(&mut self.tls.reader(), &mut chunk) {
                Ok(length) if length > 0 => heard.extend_from_slice(&chunk[..length]),
                _ => assert!(self.read().await, "the peer's stream ended after {heard:?}"),
            }
        }
        heard
    }
}

/// Our end as a server and a peer as its client, after the handshake.
pub(crate) async fn as_server(path: Path, settings: &TlsSettings) -> (TlsStream<TcpStream>, Peer) {
    let (ids, (near, far)) = (Ids::new().await, sockets().await);
    let mut peer = Peer::client(&ids, settings, far);
    let shaking = async {
        peer.shake().await;
        peer.send_flight().await;
    };
    let (session, ()) = tokio::join!(serve(near, path, &ids, settings), shaking);
    (session.unwrap().stream, peer)
}

/// Our end as a client and a peer as its server that sends `tickets`, after the handshake.
pub(crate) async fn as_client(path: Path, settings: &TlsSettings, tickets: usize) -> (TlsStream<TcpStream>, Peer) {
    let (ids, (near, far)) = (Ids::new().await, sockets().await);
    let mut config = Arc::unwrap_or_clone(ids.server(settings));
    config.send_tls13_tickets = tickets;
    config.session_storage = rustls::server::ServerSessionMemoryCache::new(32);
    let mut peer = Peer::server(Arc::new(config), far);
    let shaking = async {
        peer.shake().await;
        peer.send_flight().await;
    };
    let (session, ()) = tokio::join!(call(near, path, &ids, settings), shaking);
    (session.unwrap().stream, peer)
}

/// Our end as a client or as a server, with a peer that sends no tickets.
pub(crate) async fn in_role(client: bool, path: Path) -> (TlsStream<TcpStream>, Peer) {
    let settings = TlsSettings::default();
    if client { as_client(path, &settings, 0).await } else { as_server(path, &settings).await }
}

/// What TLS calls an error, or what the system does.
pub(crate) fn name(error: &io::Error) -> String {
    session_reason(error).map_or_else(|| format!("{:?}", error.kind()), str::to_owned)
}

/// Gives up a test that hangs.
pub(crate) async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(time_limit(), future).await.expect("the test hangs")
}
