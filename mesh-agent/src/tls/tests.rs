//! Handshakes of a client and a server in one process.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustls::client::ResolvesClientCert;
use rustls::sign::CertifiedKey;
use rustls::time_provider::TimeProvider;
use rustls::{ClientConfig, ClientConnection, ServerConfig, ServerConnection, SignatureScheme};
use rustls_pki_types::UnixTime;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

use super::datapath::DataPaths;
use super::handshake::{HandshakeError, TlsSession, accept, connect};
use super::{ALPN, TlsConfigError, client_config, server_config, session_reason};
use crate::model::mesh::{CipherSuite, KeyExchange, TlsSettings};
use crate::model::svid::{TrustBundle, X509Svid};

mod certificates;
mod hostile;
mod pki;

use pki::{Ca, REDIS, WEB, id};

/// Where every server is.
const ADDRESS: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

const TIME_LIMIT: Duration = Duration::from_secs(10);

type Shaken = Result<TlsSession<DuplexStream>, HandshakeError>;

/// WEB as a client that expects REDIS.
fn web(ca: &Ca) -> ClientConfig {
    let config = client_config(&ca.svid(WEB), [&ca.bundle()], &id(REDIS), &TlsSettings::default()).unwrap();
    Arc::unwrap_or_clone(config)
}

/// REDIS as a server.
fn redis(ca: &Ca) -> ServerConfig {
    let config = server_config(&ca.svid(REDIS), [&ca.bundle()], &TlsSettings::default()).unwrap();
    Arc::unwrap_or_clone(config)
}

async fn shake(client: ClientConfig, server: ServerConfig) -> (Shaken, Shaken) {
    let (near, far) = duplex(1 << 16);
    let paths = DataPaths::userspace();
    tokio::join!(
        connect(near, ADDRESS, Arc::new(client), &paths, TIME_LIMIT),
        accept(far, Arc::new(server), &paths, TIME_LIMIT)
    )
}

fn reason(shaken: &Shaken) -> &'static str {
    shaken.as_ref().err().map_or("ok", HandshakeError::reason)
}

/// Shakes hands and expects these outcomes of client and server.
#[track_caller]
fn check(client: ClientConfig, server: ServerConfig, expected: (&str, &str)) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let (client, server) = runtime.block_on(shake(client, server));
    assert_eq!((reason(&client), reason(&server)), expected);
}

#[tokio::test]
async fn both_ends_learn_the_others_identity() {
    let ca = Ca::new();
    let (client, server) = shake(web(&ca), redis(&ca)).await;
    let (mut client, mut server) = (client.unwrap(), server.unwrap());
    assert_eq!((client.peer.to_string().as_str(), server.peer.to_string().as_str()), (REDIS, WEB));
    assert_eq!(client.info, server.info);
    assert_eq!(client.info.version, "TLSv1.3");
    assert_eq!(client.info.cipher, CipherSuite::Aes256Gcm);
    assert_eq!(client.info.key_exchange, KeyExchange::X25519MlKem768);
    client.stream.write_all(b"ping").await.unwrap();
    client.stream.shutdown().await.unwrap();
    let mut text = String::new();
    server.stream.read_to_string(&mut text).await.unwrap();
    assert_eq!(text, "ping");
}

#[tokio::test]
async fn settings_decide_what_is_negotiated() {
    let ca = Ca::new();
    let settings = TlsSettings {
        cipher_suites: vec![CipherSuite::Chacha20Poly1305],
        key_exchange: vec![KeyExchange::P256],
        ..TlsSettings::default()
    };
    let client = client_config(&ca.svid(WEB), [&ca.bundle()], &id(REDIS), &settings).unwrap();
    let (client, _server) = shake(Arc::unwrap_or_clone(client), redis(&ca)).await;
    let info = client.unwrap().info;
    assert_eq!((info.cipher, info.key_exchange), (CipherSuite::Chacha20Poly1305, KeyExchange::P256));
}

#[test]
fn a_wrong_identity_is_refused_before_the_clients_certificate_is_sent() {
    let ca = Ca::new();
    let server = server_config(&ca.svid(WEB), [&ca.bundle()], &TlsSettings::default()).unwrap();
    check(web(&ca), (*server).clone(), ("wrong_identity", "refused_by_peer"));

    let name = "0.0.0.0".try_into().unwrap();
    let mut client = ClientConnection::new(Arc::new(web(&ca)), name).unwrap();
    let mut server = ServerConnection::new(server).unwrap();
    transfer(&mut client, &mut server);
    server.process_new_packets().unwrap();
    assert_eq!(server.server_name(), None);
    transfer(&mut server, &mut client);
    client.process_new_packets().unwrap_err();
    transfer(&mut client, &mut server);
    assert!(matches!(server.process_new_packets().unwrap_err(), rustls::Error::AlertReceived(_)));
    assert!(server.peer_certificates().is_none());
}

fn transfer<A, B>(from: &mut rustls::ConnectionCommon<A>, to: &mut rustls::ConnectionCommon<B>) {
    let mut bytes = Vec::new();
    while from.wants_write() {
        from.write_tls(&mut bytes).unwrap();
    }
    let mut rest = bytes.as_slice();
    while !rest.is_empty() {
        to.read_tls(&mut rest).unwrap();
    }
}

#[tokio::test]
async fn a_refused_client_learns_it_from_its_first_read() {
    let (ca, stranger) = (Ca::new(), Ca::new());
    let client = client_config(&stranger.svid(WEB), [&ca.bundle()], &id(REDIS), &TlsSettings::default()).unwrap();
    let (client, server) = shake(Arc::unwrap_or_clone(client), redis(&ca)).await;
    assert_eq!(reason(&server), "untrusted");
    let error = client.unwrap().stream.read_u8().await.unwrap_err();
    assert_eq!(session_reason(&error), Some("alert_unknown_ca"));
}

#[test]
fn a_client_without_a_certificate_is_refused() {
    #[derive(Debug)]
    struct Nothing;
    impl ResolvesClientCert for Nothing {
        fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
            None
        }
        fn has_certs(&self) -> bool {
            false
        }
    }
    let ca = Ca::new();
    let mut client = web(&ca);
    client.client_auth_cert_resolver = Arc::new(Nothing);
    check(client, redis(&ca), ("ok", "no_certificate"));
}

#[test]
fn no_end_does_without_the_meshs_protocol() {
    let ca = Ca::new();
    for (offered, client_reason, server_reason) in
        [(None, "no_alpn", "no_alpn"), (Some(b"http/1.1".to_vec()), "no_alpn", "no_alpn")]
    {
        let offered: Vec<_> = offered.into_iter().collect();
        let mut client = web(&ca);
        client.alpn_protocols.clone_from(&offered);
        check(client, redis(&ca), (client_reason, server_reason));
        let mut server = redis(&ca);
        server.alpn_protocols = offered;
        check(web(&ca), server, (client_reason, server_reason));
    }
    assert_eq!(ALPN, b"hauberk/1");
}

/// Connects and passes a byte on (tickets come with the first data); says whether the session was resumed.
async fn resumes(client: &ClientConfig, server: &ServerConfig) -> Result<bool, (&'static str, &'static str)> {
    let (mut client, mut server) = match shake(client.clone(), server.clone()).await {
        (Ok(client), Ok(server)) => (client, server),
        (client, server) => return Err((reason(&client), reason(&server))),
    };
    assert_eq!((&client.peer, server.peer.path()), (&id(REDIS), id(WEB).path()));
    server.stream.write_all(b"x").await.unwrap();
    server.stream.flush().await.unwrap();
    client.stream.read_u8().await.unwrap();
    assert_eq!(client.info.resumed, server.info.resumed);
    Ok(client.info.resumed)
}

#[tokio::test]
async fn a_session_is_resumed_between_the_same_two_configurations_alone() {
    let ca = Ca::new();
    let (client, server) = (web(&ca), redis(&ca));
    assert_eq!(resumes(&client, &server).await, Ok(false));
    for _ in 0..3 {
        assert_eq!(resumes(&client, &server).await, Ok(true));
    }
    // A new SVID, or a new root, makes a new configuration at either end.
    assert_eq!(resumes(&web(&ca), &server).await, Ok(false));
    assert_eq!(resumes(&client, &redis(&ca)).await, Ok(false));
}

#[tokio::test]
async fn each_trust_domain_is_vouched_for_by_its_own_roots_alone() {
    const FAR: &str = "spiffe://other.test/ns/shop/sa/web";
    let (ca, other) = (Ca::new(), Ca::new());
    let trust_domain = id(FAR).trust_domain().clone();
    let federated = TrustBundle { trust_domain, ..other.bundle() };
    let settings = TlsSettings::default();
    let check = async |svid: X509Svid, bundles: &[&TrustBundle]| {
        let server = server_config(&ca.svid(REDIS), bundles.iter().copied(), &settings).unwrap();
        let client = client_config(&svid, [&ca.bundle()], &id(REDIS), &settings).unwrap();
        resumes(&client, &server).await.map_err(|(_, server)| server)
    };
    let (own, both) = (ca.bundle(), [&ca.bundle(), &federated]);
    assert_eq!(check(other.svid(FAR), &both).await, Ok(false));
    assert_eq!(check(ca.svid(WEB), &both).await, Ok(false));
    assert_eq!(check(other.svid(FAR), &[&own]).await, Err("foreign_trust_domain"));
    // Each CA in the other's name.
    assert_eq!(check(other.svid(WEB), &both).await, Err("untrusted"));
    assert_eq!(check(ca.svid(FAR), &both).await, Err("untrusted"));
}

#[tokio::test]
async fn nothing_is_resumed_where_one_end_does_not_want_it() {
    let (ca, off) = (Ca::new(), TlsSettings { resumption: false, ..TlsSettings::default() });
    let client = Arc::unwrap_or_clone(client_config(&ca.svid(WEB), [&ca.bundle()], &id(REDIS), &off).unwrap());
    let server = Arc::unwrap_or_clone(server_config(&ca.svid(REDIS), [&ca.bundle()], &off).unwrap());
    for (client, server) in [(&client, &redis(&ca)), (&web(&ca), &server)] {
        for _ in 0..2 {
            assert_eq!(resumes(client, server).await, Ok(false));
        }
    }
}

#[tokio::test]
async fn tickets_of_an_address_authenticate_nobody_else_who_gets_it() {
    let ca = Ca::new();
    let (client, server) = (web(&ca), redis(&ca));
    assert_eq!(resumes(&client, &server).await, Ok(false));
    // The address is WEB's now, and nobody has told the client.
    let other = Arc::unwrap_or_clone(server_config(&ca.svid(WEB), [&ca.bundle()], &TlsSettings::default()).unwrap());
    assert_eq!(resumes(&client, &other).await, Err(("wrong_identity", "refused_by_peer")));
    // And the other way round: the client expects WEB there.
    let expects = client_config(&ca.svid(WEB), [&ca.bundle()], &id(WEB), &TlsSettings::default()).unwrap();
    assert_eq!(resumes(&expects, &server).await, Err(("wrong_identity", "refused_by_peer")));
}

/// A clock that stands still.
#[derive(Debug)]
struct At(UnixTime);

impl TimeProvider for At {
    fn current_time(&self) -> Option<UnixTime> {
        Some(self.0)
    }
}

#[tokio::test]
async fn a_resumed_session_ends_with_the_certificates_that_began_it() {
    let ca = Ca::new();
    let (mut client, server) = (web(&ca), redis(&ca));
    assert_eq!(resumes(&client, &server).await, Ok(false));
    assert_eq!(resumes(&client, &server).await, Ok(true));
    // An hour later the ticket is still good, and the server's SVID is not.
    let later = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap() + Duration::from_mins(61);
    client.time_provider = Arc::new(At(UnixTime::since_unix_epoch(later)));
    assert_eq!(resumes(&client, &server).await, Err(("expired", "ok")));
}

#[tokio::test]
async fn older_tls_is_refused() {
    // A ClientHello (RFC 5246 §7.4.1.2) without the supported_versions extension, so of TLS 1.2.
    let mut hello = vec![0x16, 3, 1, 0, 45, 1, 0, 0, 41, 3, 3];
    hello.extend([7; 32]);
    hello.extend([0, 0, 2, 0xc0, 0x2b, 1, 0]);
    let (mut near, far) = duplex(1 << 16);
    near.write_all(&hello).await.unwrap();
    let shaken = accept(far, Arc::new(redis(&Ca::new())), &DataPaths::userspace(), TIME_LIMIT).await;
    assert_eq!(reason(&shaken), "incompatible");
}

#[tokio::test]
async fn silence_nonsense_and_hanging_up_have_their_own_reasons() {
    let (server, paths) = (Arc::new(redis(&Ca::new())), DataPaths::userspace());
    let (near, far) = duplex(64);
    assert_eq!(reason(&accept(far, Arc::clone(&server), &paths, Duration::ZERO).await), "timeout");
    drop(near);
    let (near, far) = duplex(64);
    drop(near);
    assert_eq!(reason(&accept(far, Arc::clone(&server), &paths, TIME_LIMIT).await), "closed");
    let (mut near, far) = duplex(64);
    near.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    assert_eq!(reason(&accept(far, server, &paths, TIME_LIMIT).await), "protocol");
}

#[test]
fn what_cannot_be_used_makes_no_configuration() {
    let ca = Ca::new();
    let mut svid = ca.svid(WEB);
    svid.private_key.clone_from(&ca.svid(WEB).private_key);
    let mismatch = server_config(&svid, [&ca.bundle()], &TlsSettings::default());
    assert!(matches!(mismatch, Err(TlsConfigError::Setup { .. })));

    let constrained = Ca::with(|params| {
        let permitted_subtrees = vec![rcgen::GeneralSubtree::DnsName("example".to_owned())];
        params.name_constraints = Some(rcgen::NameConstraints { permitted_subtrees, excluded_subtrees: vec![] });
    });
    let refused = server_config(&ca.svid(WEB), [&constrained.bundle()], &TlsSettings::default());
    assert!(matches!(refused, Err(TlsConfigError::RootConstrained { index: 0 })));
}
