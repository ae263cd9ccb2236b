//! What a stranger sends in the place of a handshake: it gets nowhere, ends only itself, and no more is read than the
//! bounds allow.

use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::pin::Pin;
use std::sync::{Arc, LazyLock};
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use mesh_agent::identity::{LocalCa, SvidManager};
use mesh_agent::model::mesh::{SvidSettings, TlsSettings};
use mesh_agent::model::spiffe::{SpiffeId, TrustDomain};
use mesh_agent::tls::datapath::DataPaths;
use mesh_agent::tls::handshake::{accept, connect};
use mesh_agent::tls::record::{MAX_CHAIN_BYTES, MAX_HELLO_BYTES};
use mesh_agent::tls::{Transport, client_config, server_config};
use rustls::{ClientConfig, ServerConfig};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::runtime::{Builder, Runtime};

/// Both ends of ours, made once.
struct Ends {
    runtime: Runtime,
    client: Arc<ClientConfig>,
    server: Arc<ServerConfig>,
}

static ENDS: LazyLock<Ends> = LazyLock::new(|| make().expect("an SVID of a CA of our own"));

fn make() -> Result<Ends, Box<dyn std::error::Error>> {
    let runtime = Builder::new_current_thread().enable_time().build()?;
    let trust_domain = TrustDomain::parse("mesh.test")?;
    let id = SpiffeId::of_service_account(&trust_domain, "demo", "web")?;
    let (now, settings) = (SystemTime::now(), TlsSettings::default());
    let lifetime = SvidSettings { lifetime: SvidSettings::MAX_LIFETIME, ..SvidSettings::default() };
    let manager = SvidManager::new(Arc::new(LocalCa::create(trust_domain, lifetime, now)?));
    let svid = runtime.block_on(manager.svid(&id, now))?;
    let (svid, bundle) = (Arc::clone(&svid.borrow()), Arc::clone(&manager.trust().borrow().bundle));
    let client = client_config(&svid, [&*bundle], &id, &settings)?;
    Ok(Ends { runtime, client, server: server_config(&svid, [&*bundle], &settings)? })
}

/// Checks `input`: its first byte says whether a server or a client of ours gets the rest.
pub fn check(input: &[u8]) {
    let Some((role, sent)) = input.split_first() else { return };
    let (paths, limit) = (DataPaths::userspace(), Duration::from_secs(5));
    let mut read = 0;
    let stranger = Stranger { sent, read: &mut read };
    let failed = match role % 2 {
        0 => ENDS.runtime.block_on(accept(stranger, Arc::clone(&ENDS.server), &paths, limit)).err(),
        _ => ENDS
            .runtime
            .block_on(connect(stranger, IpAddr::V4(Ipv4Addr::LOCALHOST), Arc::clone(&ENDS.client), &paths, limit))
            .err(),
    };
    let failed = failed.expect("nobody authenticates without a key");
    assert_ne!(failed.reason(), "timeout", "a stranger that has hung up can't hang us");
    assert!(read <= MAX_HELLO_BYTES + MAX_CHAIN_BYTES, "{read} bytes were read");
}

/// Sends what it has, whatever it is told, and hangs up.
struct Stranger<'a> {
    sent: &'a [u8],
    read: &'a mut usize,
}

impl AsyncRead for Stranger<'_> {
    fn poll_read(mut self: Pin<&mut Self>, _cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let count = buf.remaining().min(self.sent.len());
        buf.put_slice(&self.sent[..count]);
        self.sent = &self.sent[count..];
        *self.read += count;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Stranger<'_> {
    fn poll_write(self: Pin<&mut Self>, _cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

impl Transport for Stranger<'_> {
    fn socket(&self) -> Option<&TcpStream> {
        None
    }
}
