//! TLS errors in words: who is refused, why, and what to do.

use std::fmt;
use std::io;

use rustls::{AlertDescription, CertificateError, Error, PeerIncompatible};

const RENEW: &str = "renew it: blockpair cluster rotate";

/// A connection that ended because one side does not trust or understand the other, in words for people.
#[derive(Debug)]
struct Refusal(String);

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Refusal {}

/// An error that says that trust, not the network, is what is missing.
pub fn refusal(text: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::PermissionDenied, Refusal(text.into()))
}

/// Whether it is one of [`refusal`].
pub fn is_refusal(error: &io::Error) -> bool {
    error.get_ref().is_some_and(|inner| inner.is::<Refusal>())
}

pub(super) fn not_valid_for(node: &str, names: &[&str]) -> String {
    match names {
        [] => format!("the certificate has no name, and {node} is expected"),
        names => format!("the certificate is that of {}, not of {node}", names.join(", ")),
    }
}

/// What is wrong, about the other side as "it".
pub(super) fn why(error: &Error) -> String {
    match error {
        Error::InvalidCertificate(problem) => certificate(problem),
        Error::NoCertificatesPresented => {
            "it shows no certificate: only members of the cluster may connect".into()
        }
        Error::PeerIncompatible(
            PeerIncompatible::SupportedVersionsExtensionRequired
            | PeerIncompatible::ServerDoesNotSupportTls12Or13
            | PeerIncompatible::ServerTlsVersionIsDisabledByOurConfig
            | PeerIncompatible::Tls12NotOffered
            | PeerIncompatible::Tls12NotOfferedOrEnabled,
        ) => "it does not speak TLS 1.3, and nothing older is accepted".into(),
        Error::NoApplicationProtocol => "it speaks TLS, but not blockpair's protocol inside".into(),
        Error::AlertReceived(alert) => refused(*alert),
        Error::InvalidMessage(_) => "what it sends is no TLS".into(),
        Error::InconsistentKeys(_) => "the key is not that of the certificate".into(),
        other => format!("TLS: {other}"),
    }
}

fn certificate(problem: &CertificateError) -> String {
    match problem {
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            format!("its certificate has expired; {RENEW}")
        }
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            "its certificate is not valid yet; compare the clocks of both nodes".into()
        }
        CertificateError::UnknownIssuer | CertificateError::BadSignature => {
            "its certificate is not from this cluster's CA; it is no member, or no more".into()
        }
        CertificateError::NotValidForNameContext { expected, presented } => {
            let names: Vec<&str> = presented
                .iter()
                .map(|name| {
                    // As the library prints it: DnsName("a").
                    name.trim_start_matches("DnsName(\"").trim_end_matches("\")")
                })
                .collect();
            not_valid_for(&expected.to_str(), &names)
        }
        CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => {
            "its certificate is not one of a node".into()
        }
        other => format!("its certificate is not accepted: {other}"),
    }
}

/// What the other side says of us.
fn refused(alert: AlertDescription) -> String {
    let why = match alert {
        AlertDescription::UnknownCA | AlertDescription::DecryptError => {
            "is not from its cluster's CA; this node is no member there, or no more"
        }
        AlertDescription::CertificateExpired => {
            "has expired or is not valid yet; renew it (blockpair cluster rotate), and compare the clocks"
        }
        AlertDescription::CertificateRevoked => "is revoked",
        AlertDescription::BadCertificate => "is not that of the node it expects",
        AlertDescription::UnsupportedCertificate => "is not one of a node",
        AlertDescription::CertificateRequired => "is missing",
        AlertDescription::ProtocolVersion => return "it refuses this version of TLS".into(),
        AlertDescription::NoApplicationProtocol => {
            return "it speaks TLS, but not blockpair's protocol inside".into()
        }
        AlertDescription::AccessDenied => {
            return "it has no certificates: it is in no cluster (blockpair cluster join)".into()
        }
        other => return format!("it ended TLS with the alert {other:?}"),
    };
    format!("it refuses this node: the certificate {why}")
}
