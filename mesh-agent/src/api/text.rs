//! Texts of a certain form: names, addresses, durations.
//!
//! The forms are those of `config`'s walkers, as far as a pattern can say them; the agent checks the rest.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde_json::json;

use super::rule::{self, CRD, RULES, form};

macro_rules! octet {
    () => {
        "(25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])"
    };
}

macro_rules! v4 {
    () => {
        concat!("(", octet!(), "[.]){3}", octet!())
    };
}

macro_rules! v6 {
    () => {
        "[0-9a-fA-F:.]*:[0-9a-fA-F:.]*"
    };
}

macro_rules! range {
    () => {
        concat!(v4!(), "/(3[0-2]|[12]?[0-9])|", v6!(), "/(12[0-8]|1[01][0-9]|[1-9]?[0-9])")
    };
}

macro_rules! day {
    () => {
        "Mon|Tue|Wed|Thu|Fri|Sat|Sun"
    };
}

macro_rules! label {
    () => {
        "[a-z0-9]([a-z0-9-]*[a-z0-9])?"
    };
}

macro_rules! subdomain {
    () => {
        concat!(label!(), "([.]", label!(), ")*")
    };
}

macro_rules! wild {
    () => {
        "[*][A-Za-z0-9._/-]*|[A-Za-z0-9._/-]+[*]"
    };
}

macro_rules! texts {
    ($($(#[doc = $doc:literal])+ $name:ident $schema:tt)+) => {$(
        $(#[doc = $doc])+
        #[derive(Clone, Debug, Eq, PartialEq)]
        pub struct $name(pub String);

        impl JsonSchema for $name {
            fn inline_schema() -> bool {
                true
            }

            fn schema_name() -> Cow<'static, str> {
                stringify!($name).into()
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                let mut schema = json_schema!($schema);
                schema.insert("type".to_owned(), "string".into());
                schema
            }
        }
    )+};
}

texts! {
    /// An absolute path.
    AbsolutePath {RULES: [form("^/", "is not an absolute path")]}
    /// An IP address that other pods can reach.
    Address {"pattern": concat!("^(", v4!(), "|", v6!(), ")$"), "maxLength": 45}
    /// An IP address, or a range of them.
    AddressOrRange {"pattern": concat!("^(", v4!(), "|", v6!(), "|", range!(), ")$"), "maxLength": 49}
    /// A number of bytes, such as `64Mi`: with `Ki`, `Mi`, `Gi` or `Ti`.
    Bytes {RULES: [rule::bytes()]}
    /// A day of the week, or several of them: `Mon`, `Mon..Fri`.
    Days {"pattern": concat!("^(", day!(), ")([.][.](", day!(), "))?$")}
    /// An RFC 1123 label, such as a namespace.
    DnsLabel {"pattern": concat!("^", label!(), "$"), "maxLength": 63}
    /// An RFC 1123 subdomain, such as the name of an object.
    DnsSubdomain {"pattern": concat!("^", subdomain!(), "$"), "maxLength": 253}
    /// A duration: whole numbers with `h`, `m`, `s`, `ms`.
    Duration {RULES: [rule::duration()]}
    /// `host:port`; IPv6 addresses in brackets.
    HostAndPort {RULES: [form(concat!("^(", subdomain!(), "|[[][0-9a-fA-F:.]+[]]):[0-9]{1,5}$"), "is not a host and a port like `ca.example.org:15100` or `[fd00::1]:15100`")]}
    /// The value of a label.
    LabelValue {"pattern": "^([A-Za-z0-9]([A-Za-z0-9_.-]*[A-Za-z0-9])?)?$", "maxLength": 63}
    /// A namespace, `namespace/name` of a policy, or `*`.
    Loosener {"pattern": concat!("^([*]|", label!(), "(/", subdomain!(), ")?)$"), "maxLength": 317}
    /// A namespace; `*` may be its first or last character, or all of it.
    NamespacePattern {"pattern": concat!("^(", wild!(), "|", label!(), ")$"), "maxLength": 64}
    /// The URL of an OPA server on this node, such as `http://127.0.0.1:8181`.
    OpaServer {RULES: [form("^http://(127([.][0-9]{1,3}){3}|[[]::1[]]):[0-9]{1,5}/*$", "is not an OPA server on this node like `http://127.0.0.1:8181`")]}
    /// A path; a relative one begins at the documents.
    Path {"minLength": 1}
    /// One or several objects in PEM; a bundle may also be a SPIFFE bundle (JSON).
    Pem {"minLength": 1}
    /// An identity without its scheme, such as `example.org/ns/shop/sa/web`; `*` may be its first or last character.
    Principal {"pattern": concat!("^(spiffe://)?(", wild!(), "|[a-z0-9._-]+(/[A-Za-z0-9._-]+)+)$"), "maxLength": 2048}
    /// A range of addresses without host bits, such as `10.0.0.0/8`.
    Range {"pattern": concat!("^(", range!(), ")$"), "maxLength": 49}
    /// The name of a file beside the documents, such as `policy.rego`.
    RegoFile {RULES: [form("^[^/]*[.]rego$", "is not a file beside the documents like `policy.rego`")]}
    /// The path of a rule, such as `data.hauberk.allow`.
    RegoRule {RULES: [form("^data([.][A-Za-z_][A-Za-z0-9_]*){2,}$", "is not a rule like `data.hauberk.allow`")]}
    /// The serial number of a certificate in hexadecimal, with or without colons.
    Serial {"pattern": "^:*([0-9a-fA-F]:*){1,42}$"}
    /// A service account: `namespace/name`, or `name` in the policy's own namespace.
    ServiceAccount {"pattern": concat!("^(", label!(), "/)?", subdomain!(), "$"), "maxLength": 317}
    /// A SPIFFE ID.
    SpiffeId {"pattern": "^spiffe://[a-z0-9._-]+(/[A-Za-z0-9._-]+)*$", "maxLength": 2048}
    /// A time of day, from `00:00` to `24:00`.
    TimeOfDay {"maxLength": 16, RULES: [form("^(([01][0-9]|2[0-3]):[0-5][0-9]|24:00)$", "is not a time of day like `08:00`")]}
    /// A time zone, such as `Europe/Berlin`.
    TimeZone {"pattern": "^[A-Za-z0-9_+-]+(/[A-Za-z0-9_+-]+)*$"}
    /// The name of a trust domain, such as `example.org`.
    TrustDomain {"pattern": "^[a-z0-9._-]+$", "maxLength": 255}
}

/// A port as a number or, as Istio writes it, as a text.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Port {
    /// A number.
    Number(u16),
    /// A text.
    Text(String),
}

impl JsonSchema for Port {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Port".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        // Each bound is for one of the two: `pattern` for texts, the others for numbers.
        let either = json!({"minimum": 1, "maximum": 65535, "pattern": PORT});
        let mut crd = either.clone();
        crd["x-kubernetes-int-or-string"] = true.into();
        let mut schema = json_schema!({"type": ["integer", "string"], CRD: crd});
        schema
            .as_object_mut()
            .into_iter()
            .for_each(|fields| fields.extend(either.as_object().cloned().unwrap_or_default()));
        schema
    }
}

/// What a condition compares with: a text; a port also as a number.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum ConditionValue {
    /// A port.
    Number(u16),
    /// A text.
    Text(String),
}

impl JsonSchema for ConditionValue {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "ConditionValue".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": ["integer", "string"], CRD: {"x-kubernetes-int-or-string": true}})
    }
}

/// The form of a port in a text.
pub(super) const PORT: &str = "^[1-9][0-9]{0,4}$";
