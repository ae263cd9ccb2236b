//! The verifier's table: odd and hostile certificates, each refused for its own reason.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use mesh_pki::{Authority, Roles, cases};
use rustls::client::danger::ServerCertVerifier as _;
use rustls::crypto::aws_lc_rs;
use rustls::server::danger::ClientCertVerifier as _;
use rustls::{CertificateError, Error};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

use super::pki::id;
use crate::tls::PeerError;
use crate::tls::verify::{Accepted, SpiffeVerifier};

const ID: &str = "spiffe://mesh.test/ns/demo/sa/server";

fn verifier(root: &Authority, accepted: Accepted) -> SpiffeVerifier {
    let root = CertificateDer::from(root.certificate().to_vec());
    let algorithms = aws_lc_rs::default_provider().signature_verification_algorithms;
    let anchors = vec![webpki::anchor_from_trusted_cert(&root).unwrap().to_owned()];
    SpiffeVerifier { anchors: HashMap::from([(id(ID).trust_domain().clone(), anchors)]), accepted, algorithms }
}

fn reason(result: Result<(), Error>) -> Option<&'static str> {
    let Err(Error::InvalidCertificate(error)) = result else { return result.err().map(|_| "not a certificate's") };
    Some(match error {
        CertificateError::ExpiredContext { .. } => "expired",
        CertificateError::NotValidYetContext { .. } => "not_yet_valid",
        CertificateError::UnknownIssuer => "untrusted",
        CertificateError::Other(error) => error.0.downcast_ref::<PeerError>().unwrap().reason(),
        other => panic!("{other:?} has no label"),
    })
}

#[test]
fn every_odd_certificate_is_judged_by_its_oddity() {
    let root = Authority::root("root");
    let (workloads, one) =
        (verifier(&root, Accepted::Workloads), Arc::new(verifier(&root, Accepted::Workload(id(ID)))));
    let cases = cases(&root, ID);
    let (name, now) = (ServerName::try_from("0.0.0.0").unwrap(), UnixTime::now());
    let mut wrong = Vec::new();
    for case in &cases {
        let chain: Vec<_> = case.chain.iter().map(|der| CertificateDer::from(der.as_slice())).collect();
        let as_client = workloads.verify_client_cert(&chain[0], &chain[1..], now).map(drop);
        let as_server = one.verify_server_cert(&chain[0], &chain[1..], &name, &[], now).map(drop);
        for (role, found) in [(Roles::Client, reason(as_client)), (Roles::Server, reason(as_server))] {
            // Who must be one workload must not be a part of the mesh either, but for another reason.
            let expected = match case.refused_as(role) {
                Some("wrong_role") if role == Roles::Server => Some("wrong_identity"),
                expected => expected,
            };
            if found != expected {
                wrong.push(format!("{} as {role:?}: {found:?}, not {expected:?}", case.name));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    let refused = cases.iter().filter(|case| case.refused.is_some());
    assert!(refused.clone().count() >= 50, "{}", refused.count());
    let names: BTreeSet<_> = cases.iter().map(|case| case.name).collect();
    assert_eq!(names.len(), cases.len(), "each oddity has its name");
}
