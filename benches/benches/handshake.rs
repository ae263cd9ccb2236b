//! What a handshake costs both ends together, full or resumed: cryptography, our own code, and four
//! small messages over loopback.
//!
//! Both ends take turns on one thread, so that the time is processor time. `cargo xtask bench --only connect` shows what
//! is left of the difference where there are also sockets, kernel and relay.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use divan::Bencher;
use mesh_agent::identity::{LocalCa, SvidManager};
use mesh_agent::model::mesh::{DataPathMode, KeyExchange, SvidSettings, TlsSettings};
use mesh_agent::model::spiffe::{SpiffeId, TrustDomain};
use mesh_agent::tls::datapath::DataPaths;
use mesh_agent::tls::handshake::{accept, connect};
use mesh_agent::tls::probe::probe;
use mesh_agent::tls::{client_config, server_config};
use rustls::{ClientConfig, ServerConfig};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

/// Where the server is said to be.
const ADDRESS: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// Nothing here waits for anybody.
const TIME_LIMIT: Duration = Duration::from_secs(10);

fn main() {
    divan::main();
}

/// Two ends that know each other.
struct Ends {
    client: Arc<ClientConfig>,
    server: Arc<ServerConfig>,
    paths: DataPaths,
}

impl Ends {
    async fn new(settings: &TlsSettings) -> Self {
        let trust_domain = TrustDomain::parse("mesh.bench").expect("a trust domain");
        let id = |account| SpiffeId::of_service_account(&trust_domain, "bench", account).expect("an identity");
        let (web, redis, now) = (id("web"), id("redis"), SystemTime::now());
        let ca = LocalCa::create(trust_domain.clone(), SvidSettings::default(), now).expect("a CA");
        let manager = SvidManager::new(Arc::new(ca));
        let [web, redis] = [manager.svid(&web, now).await, manager.svid(&redis, now).await]
            .map(|svid| Arc::clone(&svid.expect("an SVID").borrow()));
        let bundle = Arc::clone(&manager.trust().borrow().bundle);
        let client = client_config(&web, [&*bundle], &redis.id, settings).expect("a client");
        let server = server_config(&redis, [&*bundle], settings).expect("a server");
        Self { client, server, paths: DataPaths::new(settings, probe).expect("a data path") }
    }

    /// Says whether the session was resumed. A byte back brings the server's ticket along.
    async fn handshake(&self, (near, far): (TcpStream, TcpStream)) -> bool {
        let (client, server) = tokio::join!(
            connect(near, ADDRESS, Arc::clone(&self.client), &self.paths, TIME_LIMIT),
            accept(far, Arc::clone(&self.server), &self.paths, TIME_LIMIT)
        );
        let (mut client, mut server) = (client.expect("a client's session"), server.expect("a server's session"));
        server.stream.write_u8(1).await.expect("write");
        server.stream.flush().await.expect("flush");
        client.stream.read_u8().await.expect("read");
        client.info.resumed
    }
}

/// Two connected sockets.
async fn sockets() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind((ADDRESS, 0)).await.expect("listen");
    let near = TcpStream::connect(listener.local_addr().expect("an address")).await.expect("connect");
    let far = listener.accept().await.expect("accept").0;
    // As the agents do; otherwise each message would wait for the acknowledgement of the one before.
    for end in [&near, &far] {
        end.set_nodelay(true).expect("no delay");
    }
    (near, far)
}

fn handshakes(bencher: Bencher<'_, '_>, group: KeyExchange, resumption: bool) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let data_path = DataPathMode::Userspace;
    let settings = TlsSettings { key_exchange: vec![group], data_path, resumption, ..TlsSettings::default() };
    let ends = runtime.block_on(Ends::new(&settings));
    // The first has nothing to resume.
    runtime.block_on(async { ends.handshake(sockets().await).await });
    let bencher = bencher.with_inputs(|| runtime.block_on(sockets()));
    bencher.bench_local_values(|pair| assert_eq!(runtime.block_on(ends.handshake(pair)), resumption));
}

#[divan::bench(args = [KeyExchange::X25519MlKem768, KeyExchange::X25519])]
fn full(bencher: Bencher<'_, '_>, group: KeyExchange) {
    handshakes(bencher, group, false);
}

#[divan::bench(args = [KeyExchange::X25519MlKem768, KeyExchange::X25519])]
fn resumed(bencher: Bencher<'_, '_>, group: KeyExchange) {
    handshakes(bencher, group, true);
}
