//! Where a cluster keeps its CA: a Secret of type kubernetes.io/tls with `tls.crt`, `tls.key` and `ca.crt`, as cert-manager
//! writes them.

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use kube::api::PostParams;
use kube::core::ObjectMeta;
use zeroize::Zeroizing;

use super::{Kubernetes, KubernetesError, api, is_conflict, is_missing};

const CERTIFICATE: &str = "tls.crt";
const KEY: &str = "tls.key";
const ROOTS: &str = "ca.crt";

/// What is in the Secret. No Debug: it holds the key.
#[derive(Eq, PartialEq)]
pub struct CaSecret {
    /// PEM: the CA's certificate, then those of the CAs above it.
    pub certificates: String,
    /// PEM: the key.
    pub key: Zeroizing<String>,
    /// PEM: the roots.
    pub roots: Option<String>,
}

impl CaSecret {
    /// One with nothing in it.
    pub(crate) fn empty() -> Self {
        Self { certificates: String::new(), key: Zeroizing::default(), roots: None }
    }
}

impl Kubernetes {
    /// The CA of this Secret of ours; `None`: there is none.
    pub async fn ca_secret(&self, name: &str) -> Result<Option<CaSecret>, KubernetesError> {
        let found = match self.own::<Secret>().get(name).await {
            Ok(found) => found,
            Err(error) if is_missing(&error) => return Ok(None),
            Err(error) => return Err(api(&format!("get the Secret {}/{name}", self.namespace))(error)),
        };
        let mut data = found.data.unwrap_or_default();
        let mut text = |key: &str| {
            let ByteString(bytes) = data.remove(key)?;
            Some(String::from_utf8(bytes).map_err(|error| {
                drop(Zeroizing::new(error.into_bytes()));
                KubernetesError::Object(format!("`{key}` of the Secret {}/{name} is no text", self.namespace))
            }))
        };
        let missing =
            |key: &str| KubernetesError::Object(format!("the Secret {}/{name} has no `{key}`", self.namespace));
        let key = Zeroizing::new(text(KEY).transpose()?.ok_or_else(|| missing(KEY))?);
        let certificates = text(CERTIFICATE).transpose()?.ok_or_else(|| missing(CERTIFICATE))?;
        let roots = text(ROOTS).transpose()?.filter(|roots| !roots.is_empty());
        Ok(Some(CaSecret { certificates, key, roots }))
    }

    /// Makes the Secret. Returns whether it did: another replica may have been faster, and then its CA counts.
    pub async fn create_ca_secret(&self, name: &str, ca: &CaSecret) -> Result<bool, KubernetesError> {
        let bytes = |text: &str| ByteString(text.as_bytes().to_vec());
        let roots = ca.roots.as_deref().unwrap_or(&ca.certificates);
        let data = [(CERTIFICATE, bytes(&ca.certificates)), (KEY, bytes(&ca.key)), (ROOTS, bytes(roots))];
        let secret = Secret {
            metadata: ObjectMeta { name: Some(name.to_owned()), ..ObjectMeta::default() },
            type_: Some("kubernetes.io/tls".to_owned()),
            data: Some(data.map(|(key, value)| (key.to_owned(), value)).into()),
            ..Secret::default()
        };
        match self.own::<Secret>().create(&PostParams::default(), &secret).await {
            Ok(_) => Ok(true),
            Err(error) if is_conflict(&error) => Ok(false),
            Err(error) => Err(api(&format!("create the Secret {}/{name}", self.namespace))(error)),
        }
    }
}
