//! One certificate chain that is offered to a verifier, and what must become of it.

use crate::authority::Authority;
use crate::key::Key;
use crate::{chains, leaves};

/// In which role a chain is refused; in the other it is accepted.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Roles {
    /// Both.
    Any,
    /// As a client.
    Client,
    /// As a server.
    Server,
}

/// A chain with the key of its leaf.
#[derive(Clone, Debug)]
pub struct Case {
    /// What is odd about it.
    pub name: &'static str,
    /// The reason by which it is refused, a label of the agent's; `None`: accepted.
    pub refused: Option<&'static str>,
    /// Whether it is refused in both roles.
    pub roles: Roles,
    /// DER, leaf first.
    pub chain: Vec<Vec<u8>>,
    /// PKCS #8 DER of the leaf's key.
    pub key: Vec<u8>,
    /// Whether it is an X.509 certificate at all, so that other programs can be made to send it.
    pub parses: bool,
}

impl Case {
    pub(crate) fn new(name: &'static str, refused: Option<&'static str>, chain: Vec<Vec<u8>>, key: &Key) -> Self {
        Self { name, refused, roles: Roles::Any, chain, key: key.private(), parses: true }
    }

    /// Why it is refused in this role.
    pub fn refused_as(&self, role: Roles) -> Option<&'static str> {
        self.refused.filter(|_| self.roles == Roles::Any || self.roles == role)
    }

    /// The leaf's key in PEM.
    pub fn key_pem(&self) -> String {
        pem::encode(&pem::Pem::new("PRIVATE KEY", self.key.as_slice()))
    }

    /// These certificates in PEM.
    pub fn pem(certificates: &[Vec<u8>]) -> String {
        let blocks: Vec<_> = certificates.iter().map(|der| pem::Pem::new("CERTIFICATE", der.as_slice())).collect();
        pem::encode_many(&blocks)
    }
}

/// Every case, for a mesh that trusts `root`, which must be free to have CAs below it; all mean to be `id`, or come near.
pub fn cases(root: &Authority, id: &str) -> Vec<Case> {
    let mut cases = leaves::cases(root, id);
    cases.extend(chains::cases(root, id));
    cases
}
