//! Leaves by the mesh's own CA, each right but for one thing.

use crate::authority::Authority;
use crate::case::{Case, Roles};
use crate::der::{name, oid, sequence, tlv};
use crate::draft::{
    BASIC_CONSTRAINTS, CLIENT_AUTH, CRL_SIGN, DIGITAL_SIGNATURE, Draft, ECDSA_SHA1, EXTENDED_KEY_USAGE, KEY_CERT_SIGN,
    KEY_ENCIPHERMENT, KEY_USAGE, Name, SERVER_AUTH, SUBJECT_ALT_NAME,
};
use crate::key::Key;

/// An extension that nobody knows.
const UNKNOWN: &[u32] = &[1, 3, 6, 1, 4, 1, 32473, 1];
const CODE_SIGNING: &[u32] = &[1, 3, 6, 1, 5, 5, 7, 3, 3];

struct Leaves<'a> {
    root: &'a Authority,
    id: &'a str,
    cases: Vec<Case>,
}

pub(crate) fn cases(root: &Authority, id: &str) -> Vec<Case> {
    let mut leaves = Leaves { root, id, cases: Vec::new() };
    leaves.good();
    leaves.names();
    leaves.ids();
    leaves.usages();
    leaves.dates();
    leaves.encodings();
    leaves.cases
}

impl Leaves<'_> {
    fn add(&mut self, name: &'static str, refused: Option<&'static str>, edit: impl FnOnce(&mut Draft)) -> &mut Case {
        let (key, mut draft) = (Key::new(), Draft::leaf(self.id));
        edit(&mut draft);
        self.cases.push(Case::new(name, refused, vec![self.root.sign(&draft, &key)], &key));
        self.cases.last_mut().expect("a case was pushed")
    }

    fn refuse(&mut self, name: &'static str, reason: &'static str, edit: impl FnOnce(&mut Draft)) -> &mut Case {
        self.add(name, Some(reason), edit)
    }

    /// With these names instead of the right one.
    fn named(&mut self, name: &'static str, reason: &'static str, uri: &str) {
        self.refuse(name, reason, |draft| draft.names(&[Name::Uri(uri.as_bytes())]));
    }

    fn good(&mut self) {
        let id = self.id.as_bytes();
        self.add("a good leaf", None, |_| {});
        self.add("a DNS name beside the URI", None, |draft| draft.names(&[Name::Dns("web"), Name::Uri(id)]));
        self.add("an unknown extension that is not critical", None, |draft| {
            draft.set(UNKNOWN, false, vec![5, 0]);
        });
        self.add("no extended key usage", None, |draft| draft.remove(EXTENDED_KEY_USAGE));
        self.add("a subject, and names that are not critical", None, |draft| {
            draft.subject = name("web");
            for extension in draft.extensions.iter_mut().filter(|extension| extension.id == SUBJECT_ALT_NAME) {
                extension.critical = false;
            }
        });
        self.add("no basic constraints", None, |draft| draft.remove(BASIC_CONSTRAINTS));
    }

    fn names(&mut self) {
        let id = self.id.as_bytes();
        self.refuse("no subjectAltName", "no_uri_name", |draft| draft.remove(SUBJECT_ALT_NAME));
        self.refuse("a DNS name only", "no_uri_name", |draft| draft.names(&[Name::Dns("web")]));
        let common_name = self.id.to_owned();
        self.refuse("the ID as common name only", "no_uri_name", |draft| {
            draft.remove(SUBJECT_ALT_NAME);
            draft.subject = name(&common_name);
        });
        let two = "several_uri_names";
        self.refuse("two IDs", two, |draft| {
            draft.names(&[Name::Uri(id), Name::Uri(b"spiffe://mesh.test/ns/demo/sa/admin")]);
        });
        self.refuse("one ID twice", two, |draft| draft.names(&[Name::Uri(id), Name::Uri(id)]));
        self.refuse("another URI beside the ID", two, |draft| {
            draft.names(&[Name::Uri(id), Name::Uri(b"https://example")]);
        });
        self.refuse("a URI that is no text", "bad_certificate", |draft| {
            draft.names(&[Name::Uri(&[id, &[0xff]].concat())]);
        });
        let extra = Draft::leaf("spiffe://mesh.test/ns/demo/sa/admin").extensions.pop();
        self.refuse("subjectAltName twice", "bad_certificate", |draft| draft.extensions.extend(extra));
    }

    fn ids(&mut self) {
        let id = self.id.to_owned();
        let (domain, path) = id["spiffe://".len()..].split_once('/').expect("an ID with a path");
        let invalid = "invalid_spiffe_id";
        self.named("another scheme", invalid, &format!("https://{domain}/{path}"));
        self.named("a scheme in capitals", invalid, &format!("SPIFFE://{domain}/{path}"));
        self.named("a trust domain in capitals", invalid, &format!("spiffe://{}/{path}", domain.to_uppercase()));
        self.named("a port", invalid, &format!("spiffe://{domain}:443/{path}"));
        self.named("a user", invalid, &format!("spiffe://root@{domain}/{path}"));
        self.named("a relative segment", invalid, &format!("spiffe://{domain}/ns/../{path}"));
        self.named("an empty segment", invalid, &format!("spiffe://{domain}//{path}"));
        self.named("a slash at the end", invalid, &format!("{id}/"));
        self.named("percent-encoding", invalid, &format!("{id}%61"));
        self.named("a query", invalid, &format!("{id}?as=admin"));
        self.named("a fragment", invalid, &format!("{id}#admin"));
        self.named("a zero byte", invalid, &format!("{id}\0.evil"));
        self.named("a space", invalid, &format!("{id} "));
        self.named("no trust domain", invalid, &format!("spiffe:///{path}"));
        self.named("too long an ID", invalid, &format!("{id}/{}", "x".repeat(2048)));
        self.named("too long a trust domain", invalid, &format!("spiffe://{}/{path}", "x".repeat(256)));
        self.named("the trust domain's own ID", "no_workload", &format!("spiffe://{domain}"));
        self.named("another trust domain", "foreign_trust_domain", &format!("spiffe://other.test/{path}"));
        self.named("our trust domain's subdomain", "foreign_trust_domain", &format!("spiffe://a.{domain}/{path}"));
        self.named("a node's identity", "wrong_role", &format!("spiffe://{domain}/hauberk/node/a"));
        self.named("the issuer's identity", "wrong_role", &format!("spiffe://{domain}/hauberk/issuer"));
    }

    fn usages(&mut self) {
        self.refuse("the CA flag", "ca_as_leaf", |draft| draft.basic_constraints(true, None));
        self.refuse("may sign certificates", "ca_as_leaf", |draft| draft.key_usage(DIGITAL_SIGNATURE | KEY_CERT_SIGN));
        self.refuse("may sign revocations", "ca_as_leaf", |draft| draft.key_usage(DIGITAL_SIGNATURE | CRL_SIGN));
        self.refuse("may encipher keys only", "key_usage", |draft| draft.key_usage(KEY_ENCIPHERMENT));
        self.refuse("no key usage", "key_usage", |draft| draft.remove(KEY_USAGE));
        let purposes = "extended_key_usage";
        self.refuse("for servers only", purposes, |draft| draft.extended_key_usage(&[SERVER_AUTH])).roles =
            Roles::Client;
        self.refuse("for clients only", purposes, |draft| draft.extended_key_usage(&[CLIENT_AUTH])).roles =
            Roles::Server;
        self.refuse("for code signing only", purposes, |draft| draft.extended_key_usage(&[CODE_SIGNING]));
        self.refuse("for no purpose at all", purposes, |draft| draft.extended_key_usage(&[])).parses = false;
        self.refuse("an unknown critical extension", "critical_extension", |draft| {
            draft.set(UNKNOWN, true, vec![5, 0]);
        });
    }

    fn dates(&mut self) {
        self.refuse("expired", "expired", |draft| draft.valid(-3600, -60));
        self.refuse("not yet valid", "not_yet_valid", |draft| draft.valid(600, 3600));
        self.refuse("ends before it begins", "bad_certificate", |draft| draft.valid(3600, 600));
        self.refuse("a date that is none", "bad_certificate", |draft| {
            draft.not_after = tlv(0x17, &[b"991399999999Z"]);
        })
        .parses = false;
    }

    fn encodings(&mut self) {
        self.refuse("a forged signature", "bad_signature", |draft| draft.forged = true);
        self.refuse("signed with SHA-1", "signature_algorithm", |draft| draft.algorithms = [ECDSA_SHA1; 2]);
        self.refuse("two signature algorithms", "signature_algorithm", |draft| draft.algorithms[1] = ECDSA_SHA1);
        self.refuse("version 1", "key_usage", |draft| (draft.version, draft.extensions) = (None, Vec::new()));
        self.refuse("bytes after the end", "bad_certificate", |draft| draft.trailing = vec![0]).parses = false;
        self.refuse("half a certificate", "bad_certificate", |_| {}).chain[0].truncate(200);
        self.refuse("no certificate", "bad_certificate", |_| {}).chain[0] = sequence(&[&oid(UNKNOWN)]);
        for case in self.cases.iter_mut().rev().take(2) {
            case.parses = false;
        }
        self.refuse("larger than any SVID", "oversized_chain", |draft| {
            draft.set(UNKNOWN, false, tlv(0x04, &[&vec![7; 9000]]));
        });
    }
}
