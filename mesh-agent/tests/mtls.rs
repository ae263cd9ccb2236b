//! The parts together: SVIDs from the embedded CA, through the manager, into handshakes on loopback TCP.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use mesh_agent::identity::{LocalCa, SvidManager};
use mesh_agent::model::mesh::{KeyExchange, SvidSettings, TlsSettings};
use mesh_agent::model::spiffe::{SpiffeId, TrustDomain};
use mesh_agent::tls::datapath::DataPaths;
use mesh_agent::tls::handshake::{accept, connect};
use mesh_agent::tls::{client_config, server_config};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

const TIME_LIMIT: Duration = Duration::from_secs(10);

#[tokio::test]
async fn svids_of_the_embedded_ca_authenticate_both_ends() {
    let trust_domain = TrustDomain::parse("cluster.local").unwrap();
    let web = SpiffeId::of_service_account(&trust_domain, "shop", "web").unwrap();
    let redis = SpiffeId::of_service_account(&trust_domain, "shop", "redis").unwrap();
    let now = SystemTime::now();
    let manager = SvidManager::new(Arc::new(LocalCa::create(trust_domain, SvidSettings::default(), now).unwrap()));
    let (web_svid, redis_svid) = (manager.svid(&web, now).await.unwrap(), manager.svid(&redis, now).await.unwrap());
    let (bundle, settings) = (Arc::clone(&manager.trust().borrow().bundle), TlsSettings::default());
    let client = client_config(&web_svid.borrow(), [&*bundle], &redis, &settings).unwrap();
    let server = server_config(&redis_svid.borrow(), [&*bundle], &settings).unwrap();

    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (address, paths) = (listener.local_addr().unwrap(), DataPaths::userspace());
    let (client, server) = tokio::join!(
        async {
            connect(TcpStream::connect(address).await.unwrap(), address.ip(), Arc::clone(&client), &paths, TIME_LIMIT)
                .await
        },
        async { accept(listener.accept().await.unwrap().0, server, &paths, TIME_LIMIT).await },
    );
    let (mut client, mut server) = (client.unwrap(), server.unwrap());
    assert_eq!((&client.peer, &server.peer), (&redis, &web));
    assert_eq!(client.info.key_exchange, KeyExchange::X25519MlKem768);

    client.stream.write_all(b"PING\r\n").await.unwrap();
    client.stream.shutdown().await.unwrap();
    let mut text = String::new();
    server.stream.read_to_string(&mut text).await.unwrap();
    server.stream.write_all(b"PONG\r\n").await.unwrap();
    server.stream.shutdown().await.unwrap();
    let mut answer = String::new();
    client.stream.read_to_string(&mut answer).await.unwrap();
    assert_eq!((text.as_str(), answer.as_str()), ("PING\r\n", "PONG\r\n"));
}
