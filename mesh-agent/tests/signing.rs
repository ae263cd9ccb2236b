//! The signing API over loopback TCP: the real service, the real agent's side, real TLS.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking, also in its helpers")]

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use futures_util::future::BoxFuture;
use mesh_agent::config::{self, MeshConfig, SourceFile};
use mesh_agent::identity::ca::init_dir;
use mesh_agent::identity::rotate::CaDirectory;
use mesh_agent::identity::token::JoinToken;
use mesh_agent::identity::{EmbeddedIssuer, IssueError, Issuer, SecretKey};
use mesh_agent::model::mesh::{CaFiles, SvidSettings, TlsSettings};
use mesh_agent::model::spiffe::{SpiffeId, TrustDomain};
use mesh_agent::model::svid::X509Svid;
use mesh_agent::signing::server::SigningServer;
use mesh_agent::signing::{Anchor, Introducer, Introduction, JoinTokenFile, RemoteIssuer, Reviewer};
use mesh_agent::tls::datapath::DataPaths;
use mesh_agent::tls::handshake::{accept, connect};
use mesh_agent::tls::issuer::{IssuerAnchor, signing_client_config};
use mesh_agent::tls::{client_config, server_config};
use rustls_pki_types::CertificateDer;
use tokio::net::{TcpListener, TcpStream};

const LIMIT: Duration = Duration::from_secs(10);
const REFRESH: Duration = Duration::from_millis(50);

struct Stage {
    directory: tempfile::TempDir,
    issuer: Arc<EmbeddedIssuer>,
    address: String,
}

fn trust_domain() -> TrustDomain {
    TrustDomain::parse("mesh.test").unwrap()
}

fn workload(name: &str) -> SpiffeId {
    SpiffeId::of_service_account(&trust_domain(), "shop", name).unwrap()
}

fn documents() -> MeshConfig {
    let text = "
apiVersion: mesh.hauberk.dev/v1alpha1
kind: Mesh
metadata: {name: mesh}
spec:
  trustDomain: mesh.test
  podRanges: [10.0.0.0/8]
  issuer: {remote: {address: 'ca:15100', tokenFile: token}}
---
apiVersion: mesh.hauberk.dev/v1alpha1
kind: Workload
metadata: {name: web, namespace: shop}
spec: {node: a, serviceAccount: web, addresses: [10.1.2.3]}
";
    config::parse(&[SourceFile { name: PathBuf::from("mesh.yaml"), text: text.to_owned() }]).unwrap()
}

impl Stage {
    async fn start() -> Self {
        Self::start_with(None).await
    }

    /// Agents join with whatever the `reviewer` knows, as in a cluster.
    async fn start_with(reviewer: Option<Reviewer>) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path();
        init_dir(path, trust_domain(), SystemTime::now()).unwrap();
        let files = CaFiles::of_directory(path);
        let issuer = Arc::new(EmbeddedIssuer::open(trust_domain(), files, SvidSettings::default()).unwrap());
        let server = SigningServer::new(Arc::clone(&issuer), &path.join("journal"), &documents(), reviewer).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        tokio::spawn(server.run(listener, REFRESH));
        Self { directory, issuer, address }
    }

    fn path(&self) -> &Path {
        self.directory.path()
    }

    fn agent(&self, node: &str, token: &JoinToken) -> RemoteIssuer {
        let file = self.path().join(format!("{node}.token"));
        std::fs::write(&file, format!("{token}\n")).unwrap();
        let id = SpiffeId::of_node(&trust_domain(), node).unwrap();
        RemoteIssuer::new(JoinTokenFile { address: self.address.clone(), path: file }, trust_domain(), id)
    }

    fn token(&self, node: &str) -> JoinToken {
        JoinToken::issue(&self.issuer.ca(), node, Duration::from_mins(1), SystemTime::now()).unwrap()
    }
}

async fn svid(issuer: &RemoteIssuer, id: &SpiffeId) -> Result<X509Svid, IssueError> {
    let key = SecretKey::generate().unwrap();
    let issued = issuer.issue(id, &key, SystemTime::now()).await?;
    Ok(issued.into_svid(id, &key))
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_joins_and_gets_its_workloads_svids_and_no_others() {
    let stage = Stage::start().await;
    let agent = stage.agent("a", &stage.token("a"));
    assert!(agent.trust().borrow().bundle.roots.is_empty(), "before it has joined it trusts nobody");
    let web = svid(&agent, &workload("web")).await.unwrap();
    assert_eq!(agent.trust().borrow().bundle, stage.issuer.ca().anchors().bundle);
    let refused = svid(&agent, &workload("db")).await.unwrap_err();
    assert_eq!(refused.to_string(), "the issuer refuses: this node runs no workload with this identity");

    // Good for traffic with whoever trusts the same CA.
    let bundle = Arc::clone(&agent.trust().borrow().bundle);
    let settings = TlsSettings::default();
    let server = server_config(&web, [&*bundle], &settings).unwrap();
    let client = client_config(&web, [&*bundle], &workload("web"), &settings).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (address, paths) = (listener.local_addr().unwrap(), DataPaths::userspace());
    let (client, server) = tokio::join!(
        async { connect(TcpStream::connect(address).await.unwrap(), address.ip(), client, &paths, LIMIT).await },
        async { accept(listener.accept().await.unwrap().0, server, &paths, LIMIT).await },
    );
    assert_eq!((client.unwrap().peer, server.unwrap().peer), (workload("web"), workload("web")));
}

/// Introduces as a cluster does: roots that came another way, and a token that somebody else knows.
struct Introduced {
    address: String,
    token: &'static str,
    roots: Vec<CertificateDer<'static>>,
}

impl Introducer for Introduced {
    fn is_lasting(&self) -> bool {
        true
    }

    fn introduce(&self) -> BoxFuture<'_, Result<Introduction, IssueError>> {
        let (address, token) = (self.address.clone(), self.token.to_owned());
        let anchor = Anchor::Roots(self.roots.clone());
        Box::pin(async move { Ok(Introduction { address, token, anchor }) })
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_whose_token_is_reviewed_is_its_own_nodes_and_no_others() {
    let reviewer: Reviewer = Box::new(|token| {
        Box::pin(async move { token.strip_prefix("of-").map(str::to_owned).ok_or("nobody knows the token".to_owned()) })
    });
    let (stage, other) = (Stage::start_with(Some(reviewer)).await, Stage::start().await);
    let introduced = |node: &str, token, stage_of_roots: &Stage| {
        let roots = stage_of_roots.issuer.ca().anchors().bundle.roots.clone();
        let introducer = Introduced { address: stage.address.clone(), token, roots };
        RemoteIssuer::new(introducer, trust_domain(), SpiffeId::of_node(&trust_domain(), node).unwrap())
    };
    svid(&introduced("a", "of-a", &stage), &workload("web")).await.unwrap();
    let error = |agent: RemoteIssuer| async move { svid(&agent, &workload("web")).await.err().unwrap().to_string() };
    assert_eq!(
        error(introduced("b", "of-b", &stage)).await,
        "the issuer refuses: this node runs no workload with this identity"
    );
    // What it says of itself counts for nothing.
    assert_eq!(error(introduced("a", "of-b", &stage)).await, "ask the issuer");
    assert_eq!(error(introduced("a", "forged", &stage)).await, "the issuer refuses: nobody knows the token");
    // Who isn't recognised by the roots gets no token.
    let before = std::fs::read_to_string(stage.path().join("journal")).unwrap();
    assert_eq!(error(introduced("a", "of-a", &other)).await, "ask the issuer");
    assert_eq!(std::fs::read_to_string(stage.path().join("journal")).unwrap(), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reviewed_agent_joins_again_and_lasts_as_long_as_its_identity_without() {
    let (reviews, knows) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(true)));
    let (counted, known) = (Arc::clone(&reviews), Arc::clone(&knows));
    let reviewer: Reviewer = Box::new(move |_token| {
        counted.fetch_add(1, Ordering::Relaxed);
        let known = known.load(Ordering::Relaxed);
        Box::pin(async move { if known { Ok("a".to_owned()) } else { Err("the cluster has no node a".to_owned()) } })
    });
    let stage = Stage::start_with(Some(reviewer)).await;
    let roots = stage.issuer.ca().anchors().bundle.roots.clone();
    let introducer = Introduced { address: stage.address.clone(), token: "any", roots };
    let agent = RemoteIssuer::new(introducer, trust_domain(), SpiffeId::of_node(&trust_domain(), "a").unwrap());
    let (key, now) = (SecretKey::generate().unwrap(), SystemTime::now());
    let web = workload("web");
    let ask = |hours| agent.issue(&web, &key, now + Duration::from_hours(hours));
    for (hours, joined) in [(0, 1), (11, 1), (13, 2), (14, 3)] {
        ask(hours).await.unwrap();
        assert_eq!(reviews.load(Ordering::Relaxed), joined, "after {hours} hours");
    }
    // The node is gone: what it has is good to its end, and no longer.
    knows.store(false, Ordering::Relaxed);
    ask(23).await.unwrap();
    assert_eq!(ask(25).await.unwrap_err().to_string(), "the issuer refuses: the cluster has no node a");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_issuer_with_another_key_than_the_tokens_gets_no_token() {
    let (stage, other) = (Stage::start().await, Stage::start().await);
    let agent = stage.agent("a", &other.token("a"));
    let error = svid(&agent, &workload("web")).await.err().unwrap();
    assert!(matches!(error, IssueError::Unavailable(_)), "{error:?}");
    assert_eq!(std::fs::read_to_string(stage.path().join("journal")).unwrap(), "");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_workloads_svid_does_not_get_through_the_issuers_handshake() {
    let stage = Stage::start().await;
    let agent = stage.agent("a", &stage.token("a"));
    let web = svid(&agent, &workload("web")).await.unwrap();
    let bundle = Arc::clone(&agent.trust().borrow().bundle);
    let config = signing_client_config(Some(&web), &IssuerAnchor::Bundle(&bundle)).unwrap();
    let tcp = TcpStream::connect(&stage.address).await.unwrap();
    let name = std::net::IpAddr::from([0, 0, 0, 0]).into();
    let mut tls = tokio_rustls::TlsConnector::from(config).connect(name, tcp).await.unwrap();
    // TLS 1.3: the client learns with its first read what the server thinks of it.
    let error = tokio::io::AsyncReadExt::read_u8(&mut tls).await.unwrap_err();
    assert!(error.to_string().contains("CertificateUnknown"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_learns_of_a_new_root_and_outlives_the_old() {
    let stage = Stage::start().await;
    let agent = stage.agent("a", &stage.token("a"));
    let now = SystemTime::now();
    agent.refresh(now).await.unwrap();
    let (mut trust, trust_domain) = (agent.trust(), trust_domain());
    let ca = CaDirectory { path: stage.path(), trust_domain: &trust_domain };
    let first = trust.borrow_and_update().signer.clone();
    for (step, roots) in [("prepare", 2), ("activate", 2), ("retire", 1)] {
        match step {
            "prepare" => ca.prepare(now).unwrap(),
            "activate" => ca.activate().unwrap(),
            _ => ca.retire(Duration::ZERO, now).unwrap(),
        }
        let mut news = stage.issuer.trust();
        tokio::time::timeout(
            LIMIT,
            news.wait_for(|trust| trust.bundle.roots.len() == roots && (step == "prepare") == (trust.signer == first)),
        )
        .await
        .unwrap()
        .unwrap();
        // The service presents the new root as soon as its own SVID is replaced.
        let learnt = tokio::time::timeout(LIMIT, async {
            while agent.refresh(now).await.is_err() || !trust.has_changed().unwrap() {
                tokio::task::yield_now().await;
            }
        });
        learnt.await.unwrap_or_else(|_| panic!("{step} is not learnt"));
        assert_eq!(trust.borrow_and_update().bundle.roots.len(), roots, "{step}");
        svid(&agent, &workload("web")).await.unwrap();
    }
    assert_ne!(trust.borrow().signer, first);
}
