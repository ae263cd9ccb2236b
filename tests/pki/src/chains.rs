//! Chains: the leaf is right, what is above it is not.

use crate::authority::Authority;
use crate::case::Case;
use crate::der::{sequence, tlv};
use crate::draft::{CRL_SIGN, DIGITAL_SIGNATURE, Draft, KEY_USAGE, NAME_CONSTRAINTS, Name};
use crate::key::Key;

const UNKNOWN: &[u32] = &[1, 3, 6, 1, 4, 1, 32473, 2];

/// What is wrong with an intermediate, the reason of the refusal, and how it is made.
type Bent<'a> = (&'static str, &'static str, &'a dyn Fn(&mut Draft));

struct Chains<'a> {
    root: &'a Authority,
    id: &'a str,
    cases: Vec<Case>,
}

pub(crate) fn cases(root: &Authority, id: &str) -> Vec<Case> {
    let mut chains = Chains { root, id, cases: Vec::new() };
    chains.good();
    chains.bent();
    chains.other_signers();
    chains.shapes();
    chains.cases
}

impl Chains<'_> {
    /// A good leaf by `authority`, with the chain that `send` makes of the right one.
    fn add(
        &mut self,
        name: &'static str,
        refused: Option<&'static str>,
        authority: &Authority,
        send: impl FnOnce(&mut Vec<Vec<u8>>),
    ) {
        let key = Key::new();
        let mut chain = vec![authority.sign(&Draft::leaf(self.id), &key)];
        chain.extend(authority.above().iter().cloned());
        send(&mut chain);
        self.cases.push(Case::new(name, refused, chain, &key));
    }

    fn good(&mut self) {
        let (root, intermediate) = (self.root, self.root.intermediate("below", |_| {}));
        self.add("below an intermediate", None, &intermediate, |_| {});
        let named = root.intermediate("named", |draft| {
            let domain = self.id.split('/').nth(2).unwrap_or_default();
            draft.names(&[Name::Uri(format!("spiffe://{domain}").as_bytes())]);
        });
        self.add("below an intermediate with the trust domain's ID", None, &named, |_| {});
        self.add("below two intermediates", None, &intermediate.intermediate("lower", |_| {}), |_| {});
        self.add("with the root sent along", None, root, |chain| chain.push(root.certificate().to_vec()));
        let stranger = Authority::root("stranger");
        self.add("with a needless certificate", None, root, |chain| chain.push(stranger.certificate().to_vec()));
        let lower = intermediate.intermediate("lower", |_| {});
        self.add("in another order", None, &lower, |chain| chain.swap(1, 2));
    }

    /// An intermediate that is right but for one thing.
    fn bent(&mut self) {
        let limits = |path: &[u8]| sequence(&[&tlv(0xa0, &[&sequence(&[path])])]);
        let (dns, uri) = (limits(&tlv(0x82, &[b"mesh.test"])), limits(&tlv(0x86, &[b"mesh.test"])));
        let edits: [Bent<'_>; 11] = [
            ("an issuer that is no CA", "issuer_not_a_ca", &|draft| draft.basic_constraints(false, None)),
            ("an issuer that may not sign", "issuer_key_usage", &|draft| draft.key_usage(DIGITAL_SIGNATURE)),
            ("an issuer that may sign revocations only", "issuer_key_usage", &|draft| draft.key_usage(CRL_SIGN)),
            ("an issuer without key usage", "issuer_key_usage", &|draft| draft.remove(KEY_USAGE)),
            ("an expired issuer", "expired", &|draft| draft.valid(-3600, -60)),
            ("an issuer that is not yet valid", "not_yet_valid", &|draft| draft.valid(600, 3600)),
            ("an issuer limited to DNS names", "name_constraints", &|draft| {
                draft.set(NAME_CONSTRAINTS, true, dns.clone());
            }),
            ("an issuer limited to URIs", "name_constraints", &|draft| {
                draft.set(NAME_CONSTRAINTS, true, uri.clone());
            }),
            ("an issuer with an unknown critical extension", "critical_extension", &|draft| {
                draft.set(UNKNOWN, true, vec![5, 0]);
            }),
            ("an issuer of another trust domain", "issuer_name", &|draft| {
                draft.names(&[Name::Uri(b"spiffe://other.test")]);
            }),
            ("an issuer with a forged signature", "bad_signature", &|draft| draft.forged = true),
        ];
        for (name, reason, edit) in edits {
            let authority = self.root.intermediate("bent", edit);
            self.add(name, Some(reason), &authority, |_| {});
        }
    }

    fn other_signers(&mut self) {
        let untrusted = Some("untrusted");
        self.add("by a foreign CA", untrusted, &Authority::root("stranger"), |_| {});
        let stranger = Authority::root("stranger");
        self.add("by a foreign CA that is sent along", untrusted, &stranger, |chain| {
            chain.push(stranger.certificate().to_vec());
        });
        let namesake = Authority::root("root");
        self.add("by a foreign CA with our CA's name", Some("bad_signature"), &namesake, |_| {});
        let (key, draft) = (Key::new(), Draft::leaf(self.id));
        let own = draft.sign(&key, &draft.subject, &key);
        self.cases.push(Case::new("signed by itself", untrusted, vec![own], &key));
        let workload = self.root.intermediate("workload", |draft| *draft = Draft::leaf(self.id));
        self.add("by a workload", Some("issuer_not_a_ca"), &workload, |_| {});
        let root = self.root;
        self.cases.push(Case::new(
            "the root itself",
            Some("ca_as_leaf"),
            vec![root.certificate().to_vec()],
            root.key(),
        ));
        let below = root.intermediate("below", |_| {});
        self.cases.push(Case::new("an intermediate itself", Some("ca_as_leaf"), below.above().to_vec(), below.key()));
    }

    fn shapes(&mut self) {
        let below = self.root.intermediate("below", |_| {});
        self.add("without its intermediate", Some("untrusted"), &below, |chain| chain.truncate(1));
        let last = self.root.intermediate("last", |draft| draft.basic_constraints(true, Some(0)));
        let beyond = last.intermediate("beyond", |_| {});
        self.add("beyond the path length", Some("path_length"), &beyond, |_| {});
        let mut deep = self.root.intermediate("0", |_| {});
        for depth in ["1", "2", "3", "4", "5"] {
            deep = deep.intermediate(depth, |_| {});
        }
        self.add("a chain of seven", Some("oversized_chain"), &deep, |_| {});
        self.add("a chain in a loop", Some("untrusted"), &looped(), |_| {});
        self.add("the leaf over and over", Some("oversized_chain"), self.root, |chain| {
            *chain = vec![chain[0].clone(); 10];
        });
    }
}

/// Two CAs that have signed each other, and nobody else has.
fn looped() -> Authority {
    let (left, right) = (Authority::root("left"), Authority::root("right"));
    let copy = |authority: &Authority| authority.key().clone();
    let left_by_right = right.intermediate_with(copy(&left), "left", |_| {});
    left_by_right.intermediate_with(copy(&right), "right", |_| {}).intermediate_with(copy(&left), "left", |_| {})
}
