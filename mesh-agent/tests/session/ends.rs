//! Two ends of a session over loopback, each with an SVID of its own.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use mesh_agent::identity::{LocalCa, SvidManager};
use mesh_agent::model::connection::DataPath;
use mesh_agent::model::mesh::{CipherSuite, DataPathMode, SvidSettings, TlsSettings};
use mesh_agent::model::spiffe::{SpiffeId, TrustDomain};
use mesh_agent::model::svid::{TrustBundle, X509Svid};
use mesh_agent::tls::datapath::DataPaths;
use mesh_agent::tls::handshake::{HandshakeError, accept, connect};
use mesh_agent::tls::probe::probe;
use mesh_agent::tls::session::TlsStream;
use mesh_agent::tls::{TlsSession, client_config, server_config};
use rustls::{ClientConfig, ServerConfig};
use tokio::net::{TcpListener, TcpStream};

/// The time limit of a handshake, and of anything that could hang.
pub(crate) fn time_limit() -> Duration {
    Duration::from_secs(30) * u32::try_from(scale()).unwrap()
}

/// How much slower than a developer's machine this one is (tests/src/scale.rs).
pub(crate) fn scale() -> usize {
    std::env::var("MESH_TEST_SCALE").map_or(1, |scale| scale.parse().unwrap())
}

/// Where every server is.
pub(crate) const ADDRESS: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// Where one end's records are protected.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Path {
    Kernel,
    Userspace,
}

impl Path {
    fn label(self) -> DataPath {
        match self {
            Self::Kernel => DataPath::Kernel,
            Self::Userspace => DataPath::Userspace,
        }
    }

    pub(crate) fn data_paths(self, settings: &TlsSettings) -> DataPaths {
        let data_path = match self {
            Self::Kernel => DataPathMode::Kernel,
            Self::Userspace => DataPathMode::Userspace,
        };
        DataPaths::new(&TlsSettings { data_path, ..settings.clone() }, probe).expect("this kernel has TLS")
    }
}

/// Whether this kernel can replace keys.
pub(crate) fn kernel_rekeys() -> bool {
    probe().is_ok_and(|support| support.rekey)
}

/// Settings that allow one cipher.
pub(crate) fn only(cipher: CipherSuite) -> TlsSettings {
    TlsSettings { cipher_suites: vec![cipher], ciphers_chosen: true, ..TlsSettings::default() }
}

/// Two workloads of one mesh.
pub(crate) struct Ids {
    bundle: Arc<TrustBundle>,
    web: Arc<X509Svid>,
    redis: Arc<X509Svid>,
}

impl Ids {
    pub(crate) async fn new() -> Self {
        let trust_domain = TrustDomain::parse("mesh.test").unwrap();
        let id = |account| SpiffeId::of_service_account(&trust_domain, "demo", account).unwrap();
        let (web, redis, now) = (id("web"), id("redis"), SystemTime::now());
        let ca = LocalCa::create(trust_domain.clone(), SvidSettings::default(), now).unwrap();
        let manager = SvidManager::new(Arc::new(ca));
        let (web, redis) = (manager.svid(&web, now).await.unwrap(), manager.svid(&redis, now).await.unwrap());
        let (web, redis) = (Arc::clone(&web.borrow()), Arc::clone(&redis.borrow()));
        Self { bundle: Arc::clone(&manager.trust().borrow().bundle), web, redis }
    }

    pub(crate) fn client(&self, settings: &TlsSettings) -> Arc<ClientConfig> {
        client_config(&self.web, [&*self.bundle], &self.redis.id, settings).unwrap()
    }

    pub(crate) fn server(&self, settings: &TlsSettings) -> Arc<ServerConfig> {
        server_config(&self.redis, [&*self.bundle], settings).unwrap()
    }
}

/// Two connected sockets.
pub(crate) async fn sockets() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let near = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let far = listener.accept().await.unwrap().0;
    near.set_nodelay(true).unwrap();
    far.set_nodelay(true).unwrap();
    (near, far)
}

/// Our end as a server, on `socket`.
pub(crate) async fn serve(
    socket: TcpStream,
    path: Path,
    ids: &Ids,
    settings: &TlsSettings,
) -> Result<TlsSession<TcpStream>, HandshakeError> {
    accept(socket, ids.server(settings), &path.data_paths(settings), time_limit()).await
}

/// Our end as a client, on `socket`.
pub(crate) async fn call(
    socket: TcpStream,
    path: Path,
    ids: &Ids,
    settings: &TlsSettings,
) -> Result<TlsSession<TcpStream>, HandshakeError> {
    connect(socket, ADDRESS, ids.client(settings), &path.data_paths(settings), time_limit()).await
}

/// A session between two ends of ours: client and server.
pub(crate) async fn session(
    (near, far): (Path, Path),
    settings: &TlsSettings,
) -> (TlsStream<TcpStream>, TlsStream<TcpStream>) {
    let (ids, (client, server)) = (Ids::new().await, sockets().await);
    let (client, server) = tokio::join!(call(client, near, &ids, settings), serve(server, far, &ids, settings));
    let (client, server) = (client.unwrap(), server.unwrap());
    assert_eq!((client.info.data_path, server.info.data_path), (near.label(), far.label()));
    (client.stream, server.stream)
}
