//! The certificate and TLS: whom a client must trust, under which names, and what they agree on.

use std::fs;
use std::io::{self, Write};
#[cfg(unix)]
use std::process::Command;
use std::sync::Arc;

use rustls::client::Resumption;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::version::{TLS12, TLS13};
use rustls::{CertificateError, ClientConfig, HandshakeKind, ProtocolVersion, RootCertStore};
use tempfile::TempDir;

use crate::connection::{Connection, client_configuration};
use crate::front::refusal::open;
use crate::front::tls::{TLS_1_2, client_hello};
use crate::support::{Server, TASKS, local, loopback_addresses, text};
#[cfg(unix)]
use crate::{
    foreign::is_installed,
    support::{is_skipped_under_wine, run},
};

#[test]
fn the_certificate_verifies_for_every_local_name() {
    let server = Server::start(&[]);
    for address in loopback_addresses() {
        for name in ["localhost", "LOCALHOST", "127.0.0.1", "::1"] {
            // `connect_to` has verified the name.
            let mut connection = server.connect_to(address, name);
            connection.send(format!("GET {TASKS} HTTP/1.1\r\nHost: {name}\r\n\r\n"));

            assert_eq!(connection.read_response(false).status, 200, "{name} at {address}");
        }
    }
}

#[test]
fn the_certificate_is_for_no_other_name() {
    let server = Server::start(&[]);
    for name in ["example.org", "a.localhost", "127.0.0.2", "::2"] {
        let trust = client_configuration(server.authority(), rustls::ALL_VERSIONS);

        let error = handshake(&server, name, trust).expect_err("the name is wrong");

        let reason = rejection(&error);
        let wrong_name =
            matches!(reason, CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. });
        assert!(wrong_name, "{name}: {reason:?}");
    }
}

/// Such as what a container or an emulator calls the machine that it runs on.
#[test]
fn the_certificate_is_for_what_is_named() {
    let server = Server::start(&["--name", "host.docker.internal", "--name", "10.0.2.2"]);
    for name in ["host.docker.internal", "10.0.2.2", "localhost"] {
        let trust = client_configuration(server.authority(), rustls::ALL_VERSIONS);
        handshake(&server, name, trust).expect("a connection");
    }
}

#[test]
fn certificate_pem_is_the_authority_alone_and_no_key() {
    let server = Server::start(&[]);
    let pem = fs::read(server.record.path().join("certificate.pem")).expect("certificate.pem");

    let certificates: Vec<_> = CertificateDer::pem_slice_iter(&pem).collect();
    let [Ok(authority)] = certificates.as_slice() else {
        panic!("not one certificate: {certificates:?}");
    };
    let connection = server.connect();
    let shown = connection.agreed().peer_certificates().expect("the server has a certificate");
    assert_ne!(shown.first(), Some(authority), "the server shows the authority itself");
    let pem = String::from_utf8(pem).expect("PEM is ASCII");
    assert_eq!(pem.matches("-----BEGIN ").count(), 1, "{pem}");
    assert!(!pem.contains("PRIVATE KEY"), "{pem}");
}

#[test]
fn each_start_makes_a_certificate_of_its_own() {
    let [one, other] = [Server::start(&[]), Server::start(&[])];
    let trust = client_configuration(other.authority(), rustls::ALL_VERSIONS);

    let error = handshake(&one, "localhost", trust).expect_err("the authority is another one");

    let reason = rejection(&error);
    let untrusted = matches!(reason, CertificateError::UnknownIssuer | CertificateError::BadSignature);
    assert!(untrusted, "{reason:?}");
}

#[test]
fn tls_1_2_and_1_3_are_spoken_with_alpn_http_1_1() {
    let server = Server::start(&[]);
    for (version, expected) in [(&TLS12, ProtocolVersion::TLSv1_2), (&TLS13, ProtocolVersion::TLSv1_3)] {
        for (offered, agreed) in [
            (&[][..], None),
            (&["http/1.1"], Some("http/1.1")),
            (&["h2", "http/1.1"], Some("http/1.1")),
            (&["http/1.0"], Some("http/1.0")),
        ] {
            let mut trust = client_configuration(server.authority(), &[version]);
            trust.alpn_protocols = offered.iter().map(|name| name.as_bytes().to_vec()).collect();
            let mut connection = handshake(&server, "localhost", trust).expect("a connection");

            connection.send(format!("GET {TASKS} HTTP/1.1\r\nHost: localhost\r\n\r\n"));
            assert_eq!(connection.read_response(false).status, 200, "{expected:?} {offered:?}");
            assert_eq!(connection.agreed().protocol_version(), Some(expected));
            let protocol = connection.agreed().alpn_protocol();
            assert_eq!(protocol, agreed.map(str::as_bytes), "{expected:?} {offered:?}");
        }
    }
}

#[test]
fn a_client_can_resume_its_session() {
    let server = Server::start(&[]);
    for version in [&TLS12, &TLS13] {
        let mut trust = client_configuration(server.authority(), &[version]);
        trust.resumption = Resumption::in_memory_sessions(4);
        for expected in [HandshakeKind::Full, HandshakeKind::Resumed] {
            // A clone shares the memory of sessions.
            let mut connection = handshake(&server, "localhost", trust.clone()).expect("a connection");
            connection.send(format!("GET {TASKS} HTTP/1.1\r\nHost: localhost\r\n\r\n"));

            assert_eq!(connection.read_response(false).status, 200, "{version:?}");
            assert_eq!(connection.agreed().handshake_kind(), Some(expected), "{version:?}");
        }
    }
}

#[test]
fn ones_own_certificate_and_key_are_used() {
    let folder = TempDir::new().expect("a folder");
    let [certificate, key] = ["own.pem", "key.pem"].map(|name| folder.path().join(name));
    let own = rcgen::generate_simple_self_signed(["own.example".to_owned()]).expect("a certificate");
    fs::write(&certificate, own.cert.pem()).expect("the certificate");
    fs::write(&key, own.signing_key.serialize_pem()).expect("the key");
    let server = Server::start(&["--cert", text(&certificate), "--key", text(&key)]);
    assert_eq!(server.ready["certificate"], serde_json::Value::Null);

    let mut roots = RootCertStore::empty();
    roots.add(own.cert.der().clone()).expect("a root");
    let trust = client_configuration(roots, rustls::ALL_VERSIONS);
    let mut connection = handshake(&server, "own.example", trust).expect("a connection");

    connection.send(format!("GET {TASKS} HTTP/1.1\r\nHost: own.example\r\n\r\n"));
    assert_eq!(connection.read_response(false).status, 200);
    // Whether its key is RSA or ECDSA is not for the server to say.
    const RSA_WITH_AES_128_CBC_SHA: u16 = 0x002f;
    open(&server).write_all(&client_hello(TLS_1_2, &[RSA_WITH_AES_128_CBC_SHA], "own.example")).expect("a hello");
    let told = server.wait_for_failed_connection();
    assert!(told.contains("ECDHE and AES-GCM") && !told.contains("ECDSA"), "{told}");
}

#[test]
fn ones_own_certificate_that_has_expired_is_warned_about_and_a_client_that_says_so_is_told_of_dates() {
    let folder = TempDir::new().expect("a folder");
    let [certificate, key] = ["own.pem", "key.pem"].map(|name| text(&folder.path().join(name)).to_owned());
    let mut own = rcgen::CertificateParams::new(["localhost".to_owned()]).expect("a name");
    own.not_after = rcgen::date_time_ymd(2021, 1, 1);
    let own_key = rcgen::KeyPair::generate().expect("a key");
    let own = own.self_signed(&own_key).expect("a certificate");
    fs::write(local(&certificate), own.pem()).expect("the certificate");
    fs::write(local(&key), own_key.serialize_pem()).expect("the key");
    let server = Server::start(&["--cert", &certificate, "--key", &key]);
    server.wait_for_line(|line| line == format!("Certificate  {certificate}; warning: it has expired"));

    let mut roots = RootCertStore::empty();
    roots.add(own.der().clone()).expect("a root");
    let trust = client_configuration(roots, rustls::ALL_VERSIONS);
    handshake(&server, "localhost", trust).expect_err("it has expired");

    let told = server.wait_for_failed_connection();
    assert!(told.contains("has expired") && told.contains("client's clock") && !told.contains("give it"), "{told}");
}

#[cfg(unix)]
#[test]
fn ones_own_certificate_or_key_that_cannot_be_used_is_told_in_plain_words() {
    if is_skipped_under_wine("files that openssl makes") || !is_installed("openssl", &["version"], "a weak key") {
        return;
    }
    let folder = TempDir::new().expect("a folder");
    let make = "openssl req -x509 -days 9 -subj /CN=localhost -out a.pem -keyout a.key";
    for (script, what) in [
        (format!("{make} -newkey rsa:1024 -nodes"), "is of a kind that is too weak, or not known here"),
        (format!("{make} -newkey ec -pkeyopt ec_paramgen_curve:secp521r1 -nodes"), "or not known here"),
        (format!("{make} -newkey rsa:2048 -passout pass:word"), "is encrypted"),
        (
            "openssl req -newkey rsa:2048 -nodes -keyout a.key -subj /CN=localhost -out a.csr && \
             openssl x509 -req -in a.csr -signkey a.key -out a.pem"
                .to_owned(),
            "is of X.509 version 1, which clients do not accept",
        ),
    ] {
        let made = Command::new("sh").args(["-c", &script]).current_dir(folder.path()).output().expect("a shell");
        assert!(made.status.success(), "{script}: {}", String::from_utf8_lossy(&made.stderr));
        let [certificate, key] = ["a.pem", "a.key"].map(|name| folder.path().join(name));

        let refused = run(&["--cert", text(&certificate), "--key", text(&key), "--port", "0"]);

        assert_eq!(refused.code, Some(1), "{script}");
        let lines: Vec<&str> = refused.stderr.lines().collect();
        assert!(lines.len() == 2 && lines[0].ends_with(what), "{script}: {}", refused.stderr);
    }
}

fn handshake(server: &Server, name: &str, configuration: ClientConfig) -> io::Result<Connection> {
    Connection::tls(server.address(), name, Arc::new(configuration))
}

/// Why the client refused the certificate.
#[track_caller]
pub fn rejection(error: &io::Error) -> CertificateError {
    let cause = error.get_ref().and_then(|cause| cause.downcast_ref::<rustls::Error>());
    match cause {
        Some(rustls::Error::InvalidCertificate(reason)) => reason.clone(),
        _ => panic!("the handshake failed otherwise: {error}"),
    }
}
