//! What this node trusts and how it shows who it is: the CA's certificate, its own, and its key.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use rustls::client::{ClientConfig, Resumption};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, DnsName, PrivateKeyDer};
use rustls::server::{NoServerSessionStorage, ServerConfig, WebPkiClientVerifier};
use rustls::RootCertStore;
use serde::Deserialize;

use super::words;
use crate::io::failure::{Failure, FailureKind};

/// What both sides must say they speak inside TLS.
const PROTOCOL: &[u8] = b"blockpair/1";

/// As the control plane hands it over. Not `Debug`: it has the key.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Spec {
    node: String,
    ca_pem: String,
    chain_pem: String,
    key_pem: String,
}

/// One generation of certificates. Connections keep the one they were made with.
pub struct Trust {
    node: String,
    pub(super) client: Arc<ClientConfig>,
    pub(super) server: Arc<ServerConfig>,
}

impl fmt::Debug for Trust {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The configurations hold the key.
        f.debug_struct("Trust")
            .field("node", &self.node)
            .finish_non_exhaustive()
    }
}

fn unusable(what: &str, why: impl fmt::Display) -> Failure {
    Failure::new(
        FailureKind::Invalid,
        format!("{what} cannot be used: {why}"),
        "make new certificates for this node: blockpair cluster rotate, on a node whose certificates work",
    )
}

fn certificates(what: &str, pem: &str) -> Result<Vec<CertificateDer<'static>>, Failure> {
    let found: Vec<_> = CertificateDer::pem_slice_iter(pem.as_bytes())
        .collect::<Result<_, _>>()
        .map_err(|error| unusable(what, error))?;
    if found.is_empty() {
        return Err(unusable(what, "there is no certificate in it"));
    }
    Ok(found)
}

/// The name of a node as certificates have it.
///
/// # Errors
/// When it can stand in none; for people.
pub fn dns_name(node: &str) -> Result<DnsName<'static>, String> {
    DnsName::try_from(node.to_owned()).map_err(|_| format!("{node:?} cannot be a name in a certificate"))
}

/// Whether a certificate is that of `node`, for people if not.
pub fn check_name(certificate: &CertificateDer<'_>, node: &str) -> Result<(), String> {
    let name = rustls::pki_types::ServerName::DnsName(dns_name(node)?);
    let parsed = webpki::EndEntityCert::try_from(certificate).map_err(|error| error.to_string())?;
    parsed.verify_is_valid_for_subject_name(&name).map_err(|_| {
        let names: Vec<&str> = parsed.valid_dns_names().collect();
        words::not_valid_for(node, &names)
    })
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

impl Trust {
    /// Reads what the control plane says: {"node", "ca_pem", "chain_pem", "key_pem"}.
    ///
    /// # Errors
    /// `invalid` when a part is no PEM or no certificate or key, or when they do not belong together. The texts name
    /// the part, and quote nothing of a key.
    pub fn parse(text: &str) -> Result<Trust, Failure> {
        let spec: Spec = serde_json::from_str(text).map_err(|error| {
            Failure::new(
                FailureKind::Invalid,
                format!(
                    "the node's certificates are not understood: {} at line {} column {}",
                    // Its own text could quote a value, and with it the key.
                    match error.classify() {
                        serde_json::error::Category::Data => "a part is missing, unknown or of another type",
                        _ => "no JSON",
                    },
                    error.line(),
                    error.column()
                ),
                "use a control plane and an engine of the same version",
            )
        })?;
        let mut roots = RootCertStore::empty();
        for certificate in certificates("the cluster's CA certificate", &spec.ca_pem)? {
            let added = roots.add(certificate);
            added.map_err(|error| unusable("the cluster's CA certificate", words::why(&error)))?;
        }
        let roots = Arc::new(roots);
        let own = "this node's certificate";
        let chain = certificates(own, &spec.chain_pem)?;
        let key = PrivateKeyDer::from_pem_slice(spec.key_pem.as_bytes())
            // The error's own text could quote what stands where the key should.
            .map_err(|_| unusable("this node's key", "there is no private key in it"))?;
        check_name(&chain[0], &spec.node).map_err(|why| unusable(own, why))?;

        let refused = |error: rustls::Error| unusable(own, words::why(&error));
        let verifier = WebPkiClientVerifier::builder_with_provider(roots.clone(), provider())
            // Whoever has not shown a certificate yet is told no name of the cluster.
            .clear_root_hint_subjects()
            .build()
            .map_err(|error| unusable("the cluster's CA certificate", error))?;
        let mut server = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(refused)?
            .with_client_cert_verifier(verifier)
            .with_single_cert(chain.clone(), key.clone_key())
            .map_err(refused)?;
        server.alpn_protocols = vec![PROTOCOL.to_vec()];
        // Every connection proves itself anew: a certificate that is trusted no more must not live on in a ticket.
        server.session_storage = Arc::new(NoServerSessionStorage {});
        server.send_tls13_tickets = 0;
        let mut client = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(refused)?
            .with_root_certificates(roots)
            .with_client_auth_cert(chain, key)
            .map_err(refused)?;
        client.alpn_protocols = vec![PROTOCOL.to_vec()];
        // It would tell everybody on the way the node's name, and nobody needs it.
        client.enable_sni = false;
        client.resumption = Resumption::disabled();
        Ok(Trust {
            node: spec.node,
            client: Arc::new(client),
            server: Arc::new(server),
        })
    }
}

/// The trust of a daemon, shared by its listener and its engines. New connections use the newest.
#[derive(Clone, Debug, Default)]
pub struct TrustStore(Arc<Mutex<Option<Arc<Trust>>>>);

impl TrustStore {
    pub fn set(&self, trust: Option<Trust>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = trust.map(Arc::new);
    }

    pub fn get(&self) -> Option<Arc<Trust>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
