//! The certificate: made for this run by a certification authority (CA) that is forgotten at once, or the user's own.
//! Makes the configuration of rustls from it. Knows no sockets.

use crate::message::Fault;
use crate::text::Failure;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
};
use rustls::CertificateError::{Expired, ExpiredContext, NotValidYet, NotValidYetContext};
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{CipherSuite, RootCertStore, ServerConfig};
use std::error::Error;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use time::{Duration, OffsetDateTime};

/// A certificate for this run, and the CA to trust for it, as PEM. The CA's key is gone when this returns: nobody can
/// make another certificate that those who trust the CA would accept. `fault`: what is to be wrong with it.
pub fn make(names: &[String], fault: Option<Fault>) -> Result<(Arc<ServerConfig>, String), Failure> {
    let failed = Failure::of("cannot make a certificate", "give one with --cert and --key, or use --http");
    try_make(names, fault).map_err(failed)
}

/// The user's own certificate chain and private key, with a warning where clients will refuse it.
pub fn load(certificate: &Path, key: &Path) -> Result<(Arc<ServerConfig>, Option<&'static str>), Failure> {
    let unreadable = |path: &Path, what: &str, error: pem::Error| {
        let what = match error {
            pem::Error::Io(error) => format!("cannot read {}: {error}", path.display()),
            _ => format!("{} holds no {what} in PEM form", path.display()),
        };
        Failure::new(what, FILES)
    };
    let chain = CertificateDer::pem_file_iter(certificate)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .and_then(|chain| if chain.is_empty() { Err(pem::Error::NoItemsFound) } else { Ok(chain) })
        .map_err(|error| unreadable(certificate, "certificate", error))?;
    // Once: it may be a pipe.
    let bytes = fs::read(key).map_err(|error| unreadable(key, "private key", pem::Error::Io(error)))?;
    if memchr::memmem::find(&bytes, b"ENCRYPTED").is_some() {
        let key = key.display();
        let advice = format!("write it without a passphrase: openssl pkey -in {key} -out plain.pem");
        return Err(Failure::new(format!("the private key in {key} is encrypted"), advice));
    }
    let private = PrivateKeyDer::from_pem_slice(&bytes).map_err(|error| unreadable(key, "private key", error))?;
    let warning = why_invalid_today(&chain);
    let config = configure(chain, private).map_err(|error| unusable(certificate, key, &error))?;
    Ok((config, warning))
}

fn unusable(certificate: &Path, key: &Path, error: &rustls::Error) -> Failure {
    let (certificate, key) = (certificate.display(), key.display());
    match error {
        rustls::Error::InconsistentKeys(_) => {
            Failure::new(format!("the key in {key} does not belong to the certificate in {certificate}"), FILES)
        }
        rustls::Error::InvalidCertificate(cause) if format!("{cause:?}").contains("UnsupportedCertVersion") => {
            let what = format!("the certificate in {certificate} is of X.509 version 1, which clients do not accept");
            Failure::new(what, "make one of version 3, which has names in it: mkcert does, and openssl with -addext")
        }
        rustls::Error::General(_) => {
            let what = format!("the private key in {key} is of a kind that is too weak, or not known here");
            Failure::new(what, "give one of ECDSA with P-256 or P-384, of Ed25519, or of RSA with 2048 bits or more")
        }
        error => Failure::new(format!("cannot use {certificate} with {key}: {error}"), FILES),
    }
}

/// By the dates in it, as a client would see them. What else a client could say is not looked at.
fn why_invalid_today(chain: &[CertificateDer<'static>]) -> Option<&'static str> {
    let mut roots = RootCertStore::empty();
    roots.add(chain.last()?.clone()).ok()?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider).build().ok()?;
    let name = ServerName::try_from("localhost").ok()?;
    match verifier.verify_server_cert(&chain[0], &chain[1..], &name, &[], UnixTime::now()) {
        Err(rustls::Error::InvalidCertificate(Expired | ExpiredContext { .. })) => Some("it has expired"),
        Err(rustls::Error::InvalidCertificate(NotValidYet | NotValidYetContext { .. })) => Some("it is not valid yet"),
        _ => None,
    }
}

fn configure(
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
) -> Result<Arc<ServerConfig>, rustls::Error> {
    let mut provider = rustls::crypto::ring::default_provider();
    // ring is slow at the SHA-384 of the other AES; see also `ignore_client_order`.
    provider.cipher_suites.sort_by_key(|suite| !AES_128.contains(&suite.suite()));
    let mut config = ServerConfig::builder_with_provider(Arc::new(provider))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain, key)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec(), b"http/1.0".to_vec()];
    config.ignore_client_order = true;
    // Each takes time in the handshake; a client that resumes gets a new one then.
    config.send_tls13_tickets = 1;
    Ok(Arc::new(config))
}

/// Passes the strictest verifiers, e.g. OpenSSL with X509_STRICT: key usages, key identifiers and a serial number are
/// there (RFC 5280, 4.2.1), names are in the subject alternative names, and the leaf is valid for less than 398 days.
fn try_make(names: &[String], fault: Option<Fault>) -> Result<(Arc<ServerConfig>, String), Box<dyn Error>> {
    let now = OffsetDateTime::now_utc();
    // A client on a machine whose clock is slow must not be told "not yet valid".
    let (not_before, not_after) = (now - Duration::days(1), now + Duration::days(396));

    let mut authority = CertificateParams::default();
    let made_at =
        format!("cleaner-test-server CA {} {:02}:{:02}:{:02} UTC", now.date(), now.hour(), now.minute(), now.second());
    authority.distinguished_name.push(DnType::CommonName, made_at);
    authority.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    authority.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    (authority.not_before, authority.not_after) = (not_before, not_after);
    let authority_key = KeyPair::generate()?;
    let other_key = (fault == Some(Fault::UntrustedRoot)).then(KeyPair::generate).transpose()?;
    let authority_certificate = authority.self_signed(other_key.as_ref().unwrap_or(&authority_key))?;

    let other = ["other.invalid".to_owned()];
    let names = if fault == Some(Fault::WrongHost) { &other } else { names };
    let mut leaf = CertificateParams::new(names)?;
    leaf.distinguished_name.push(DnType::CommonName, names[0].as_str());
    leaf.is_ca = IsCa::ExplicitNoCa;
    leaf.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    leaf.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    leaf.use_authority_key_identifier_extension = true;
    (leaf.not_before, leaf.not_after) = match fault {
        Some(Fault::Expired) => (now - Duration::days(30), now - Duration::days(1)),
        _ => (not_before, not_after),
    };
    let leaf_key = KeyPair::generate()?;
    let leaf_certificate = leaf.signed_by(&leaf_key, &Issuer::new(authority, authority_key))?;

    let key = PrivateKeyDer::Pkcs8(leaf_key.serialize_der().into());
    Ok((configure(vec![leaf_certificate.into()], key)?, authority_certificate.pem()))
}

/// What a client on this machine or beside it may call the server.
pub fn names<'a>(more: impl Iterator<Item = &'a String>) -> Vec<String> {
    let mut names = ["localhost", "127.0.0.1", "::1"].map(str::to_owned).to_vec();
    let machine = gethostname::gethostname().into_string().ok();
    for name in machine.into_iter().chain(more.cloned()) {
        if !name.is_empty() && name.is_ascii() && !names.contains(&name) {
            names.push(name);
        }
    }
    names
}

const FILES: &str =
    "give a PEM file with the certificate, then those that sign it, and the PEM file of its private key";
const AES_128: [CipherSuite; 3] = [
    CipherSuite::TLS13_AES_128_GCM_SHA256,
    CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
    CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
];
