//! What comes instead of a good handshake: who sends it is told what to do, or else the console tells it.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CertificateError, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};

use crate::connection::{Connection, client_configuration};
use crate::front::certificate::rejection;
use crate::front::refusal::{next_client, open, read_to_the_end, wait_for_word_about};
use crate::process::Process;
use crate::support::{LIMIT, REPORT, Server, TASKS, WITH_AND_WITHOUT_TLS, command, program};

#[test]
fn plain_http_on_the_https_port_is_told_the_right_url() {
    let server = Server::start(&["--timeout", "1"]);
    let url = |path: &str| format!("{}{path}", server.url());
    let body = "x".repeat(4_000_000);
    for (what, sent, meant) in [
        ("a GET", format!("GET {TASKS}?a=b HTTP/1.1\r\nHost: a\r\n\r\n"), url(TASKS) + "?a=b"),
        ("HTTP/1.0", format!("GET {TASKS} HTTP/1.0\r\n\r\n"), url(TASKS)),
        ("a POST", format!("POST {REPORT} HTTP/1.1\r\nContent-Length: 4000000\r\n\r\n{body}"), url(REPORT)),
        ("a client of a proxy", format!("GET http://localhost{TASKS} HTTP/1.1\r\nHost: a\r\n\r\n"), url(TASKS)),
        ("a wrong header", format!("GET {TASKS} HTTP/1.1\r\nno colon\r\n\r\n"), url("")),
        ("LF alone", format!("GET {TASKS} HTTP/1.1\nHost: a\n\n"), url("")),
        ("half a head", format!("GET {TASKS} HTTP/1.1\r\nHost:"), url("")),
    ] {
        let event = server.journal().len();
        let mut connection = Connection::plain(server.address());
        connection.send(sent);
        assert!(!connection.has_ended(), "{what}: closed without an answer");

        let sentence = connection.read_response(false).assert_error(400);

        assert_eq!(server.wait_for_event(event)["error"], sentence, "{what}");
        assert!(sentence.starts_with("this port speaks HTTPS: use https://localhost:"), "{what}: {sentence}");
        assert!(sentence.contains(&meant), "{what}: {sentence}");
        connection.assert_closed();
        next_client(&server);
    }
}

/// As `https_proxy=http://localhost:5000` has it done.
#[test]
fn who_takes_the_server_for_a_proxy_is_told_so() {
    let server = Server::start(&[]);
    let mut connection = Connection::plain(server.address());
    connection.send("CONNECT production.example:443 HTTP/1.1\r\nHost: production.example:443\r\n\r\n");

    let sentence = connection.read_response(false).assert_error(400);

    assert_eq!(sentence, "takes this server for a proxy: unset https_proxy, or set no_proxy=localhost");
    assert_eq!(server.wait_for_event(1)["error"], sentence);
}

#[test]
fn tls_on_the_http_port_gets_an_alert_and_the_console_names_http() {
    let server = Server::start(&["--http"]);
    let mut stream = open(&server);
    stream.write_all(&client_hello(TLS_1_2, &[SUITE], "localhost")).expect("the server reads");

    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).expect("no reset");

    const INTERNAL_ERROR: u8 = 80;
    assert_eq!(answer, [21, 3, 1, 0, 2, 2, INTERNAL_ERROR]);
    let told = server.wait_for_failed_connection();
    assert!(told.contains(server.url()), "{told}");
    assert!(told.contains("TLS"), "{told}");
}

#[test]
fn what_is_neither_tls_nor_http_is_closed_and_the_console_shows_it() {
    let server = Server::start(&["--timeout", "1"]);
    for (what, sent, shown) in [
        ("SSH", &b"SSH-2.0-OpenSSH_9.9\r\n"[..], "SSH-2.0-OpenSSH_9.9"),
        ("a mail server's client", b"EHLO localhost\r\n", "EHLO localhost"),
        ("a word without line end", b"hello", "hello"),
        ("an alert of TLS", b"\x15\x03\x03\x00\x02\x01\x00", "15"),
        ("bytes beyond ASCII", b"\xff\xfe\x00\x01\xff\xff", r"\xff\xfe\0"),
        ("an escape sequence", b"\x1b[2J\x1b]0;title\x07", "[2J"),
        ("TLS that is none", b"\x16\x03\x01\x00\x05hello", ""),
        ("a TLS record of the wrong version", b"\x16\xff\xff\x00\x05hello", ""),
    ] {
        let told = assert_closed_without_answer(&server, sent);

        assert!(told.contains(shown), "{what}: {told}");
        assert!(told.contains("TLS"), "{what}: {told}");
        assert!(!told.contains(char::is_control), "{what}: {told:?}");
    }
}

#[test]
fn a_client_that_rejects_the_certificate_is_on_the_console_with_what_to_do() {
    let server = Server::start(&[]);
    let trusts_nobody = client_configuration(RootCertStore::empty(), rustls::ALL_VERSIONS);
    let error = Connection::tls(server.address(), "localhost", trusts_nobody.into()).expect_err("nobody is trusted");
    assert_eq!(rejection(&error), CertificateError::UnknownIssuer);
    let told = server.wait_for_failed_connection();
    assert!(told.contains("unknown_ca"), "{told}");
    assert_advises_trust(&told);

    for (alert, name) in [(48, "unknown_ca"), (42, "bad_certificate"), (46, "certificate_unknown")] {
        let mut stream = open(&server);
        let client = handshake_halfway(&mut stream, "localhost");
        stream.write_all(&[21, 3, 3, 0, 2, 2, alert]).expect("the server reads");

        let told = wait_for_word_about(&server, client);

        assert!(told.starts_with(&format!("does not trust the certificate (TLS alert {name}): ")), "{told}");
        assert_advises_trust(&told);
        next_client(&server);
    }
    for (alert, name, sender) in [(80, "internal_error", "Java"), (40, "handshake_failure", "Erlang")] {
        let mut fails = open(&server);
        let client = handshake_halfway(&mut fails, "localhost");
        fails.write_all(&[21, 3, 3, 0, 2, 2, alert]).expect("the server reads");
        let told = wait_for_word_about(&server, client);
        assert!(told.starts_with(&format!("probably does not trust the certificate (TLS alert {name}, ")), "{told}");
        assert!(told.contains(sender), "{told}");
        assert_advises_trust(&told);
    }
    let mut hangs_up = open(&server);
    let client = handshake_halfway(&mut hangs_up, "localhost");
    drop(hangs_up);
    let told = wait_for_word_about(&server, client);
    assert!(told.starts_with("probably does not trust the certificate ("), "{told}");
    assert_advises_trust(&told);
    next_client(&server);
}

#[test]
fn without_a_record_the_advice_is_to_start_with_one() {
    let process = Process::spawn(command(&program()).args(["--port", "0"]));
    let port = process.stdout.wait_for(LIMIT, |captured| {
        let line = captured.lines.iter().find_map(|line| line.split("https://localhost:").nth(1))?;
        line.split('/').next()?.parse::<u16>().ok()
    });
    let mut stream = TcpStream::connect(("127.0.0.1", port.expect("a URL in the banner"))).expect("the server listens");
    handshake_halfway(&mut stream, "localhost");
    drop(stream);

    let told = process.stdout.wait_for(LIMIT, |captured| {
        captured.lines.iter().find(|line| line.contains("certificate") && line.contains("127.0.0.1:")).cloned()
    });

    let told = told.expect("a word about the client");
    assert_advises_trust(&told);
    assert!(told.contains("--record"), "{told}");
}

#[test]
fn old_tls_and_old_ciphers_are_on_the_console_with_what_is_needed() {
    let server = Server::start(&[]);
    for (what, hello, words) in [
        ("SSL 3.0", client_hello(0x0300, &[SUITE], ""), ["TLS 1.1 or older", "TLS 1.2"]),
        ("TLS 1.0", client_hello(0x0301, &[SUITE], ""), ["TLS 1.1 or older", "TLS 1.2"]),
        ("TLS 1.1", client_hello(0x0302, &[SUITE], ""), ["TLS 1.1 or older", "TLS 1.2"]),
        ("TLS 1.1 without extensions", hello_without_extensions(0x0302), ["TLS 1.1 or older", "TLS 1.2"]),
        ("a name with a space", client_hello(TLS_1_2, &[SUITE], "local host"), ["server name", "spaces in the host"]),
        ("no common cipher", client_hello(TLS_1_2, &[RSA_WITH_AES_128_CBC_SHA], ""), ["cipher suite", "ECDHE_ECDSA"]),
    ] {
        let mut stream = open(&server);
        let client = stream.local_addr().expect("an address");
        stream.write_all(&hello).expect("the server reads");

        let answer = read_to_the_end(&mut stream);
        let told = wait_for_word_about(&server, client);

        const ALERT: u8 = 21;
        assert_eq!(answer.first(), Some(&ALERT), "{what}: {}", answer.escape_ascii());
        for word in words {
            assert!(told.contains(word), "{what}: {told}");
        }
        next_client(&server);
    }
}

#[test]
fn every_server_name_is_accepted_and_one_that_the_certificate_lacks_is_noted() {
    let server = Server::start(&[]);
    for name in ["localhost", "127.0.0.1", "::1", "production.example"] {
        let mut stream = open(&server);
        let client = handshake_halfway(&mut stream, name);
        const BAD_CERTIFICATE: u8 = 42;
        stream.write_all(&[21, 3, 3, 0, 2, 2, BAD_CERTIFICATE]).expect("the server reads");

        let told = wait_for_word_about(&server, client);

        // An address is no name, and the server is not told which one was used.
        let is_name = !name.ends_with('1');
        assert_eq!(told.contains(&format!("it asked for \"{name}\"")), is_name, "{name}: {told}");
        assert_eq!(told.contains("the certificate is for localhost, "), name != "localhost", "{name}: {told}");
        assert_eq!(told.contains("--name "), name != "localhost", "{name}: {told}");
    }
}

#[test]
fn a_name_with_a_star_is_for_each_name_below_it() {
    let server = Server::start(&["--name", "*.example.test"]);
    for (name, member) in [("a.EXAMPLE.test", "note"), ("a.b.example.test", "error"), ("example.test", "error")] {
        let index = server.journal().len();
        let configuration = Arc::new(client_configuration(server.authority(), rustls::ALL_VERSIONS));
        let connected = Connection::tls(server.address(), name, configuration);
        assert_eq!(connected.is_ok(), member == "note", "{name}");
        if let Ok(mut connection) = connected {
            connection.finish_sending();
            connection.assert_closed();
        }
        let event = server.wait_for_event(index);
        assert!(event[member].is_string(), "{name}: {event}");
        assert_eq!(event[member].as_str().is_some_and(|told| told.contains("--name ")), member == "error", "{event}");
    }
}

#[test]
fn who_offers_only_http_2_is_told_how_to_offer_http_1() {
    let server = Server::start(&[]);
    let mut configuration = client_configuration(server.authority(), rustls::ALL_VERSIONS);
    configuration.alpn_protocols = vec![b"h2".to_vec()];

    Connection::tls(server.address(), "localhost", configuration.into()).expect_err("no common protocol");

    let told = server.wait_for_failed_connection();
    assert!(told.contains("HTTP/1.1") && told.contains("--http1.1"), "{told}");
}

/// Pools connect in advance, and ports are probed; neither is a mistake of the client.
#[test]
fn a_connection_that_is_closed_in_order_before_a_request_is_a_note_and_no_error() {
    for arguments in WITH_AND_WITHOUT_TLS {
        let server = Server::start(arguments);
        drop(open(&server));
        let probed = server.wait_for_event(1);
        let mut dialled = server.connect();
        dialled.finish_sending();
        dialled.assert_closed();
        drop(dialled);
        let dialled = server.wait_for_event(2);

        for (event, words) in [
            (probed, "without a word"),
            (dialled, if arguments.is_empty() { "probably does not trust the certificate (" } else { "" }),
        ] {
            assert_eq!((event["event"].as_str(), event.get("error")), (Some("connection"), None), "{event}");
            assert!(event["note"].as_str().is_some_and(|note| note.contains(words)), "{event}");
        }
    }
}

/// curl looks at the name only after the handshake of TLS 1.3.
#[test]
fn who_hangs_up_after_the_handshake_and_asked_for_another_name_has_made_a_mistake() {
    let server = Server::start(&[]);
    let mut stream = open(&server);
    let mut configuration = client_configuration(server.authority(), rustls::ALL_VERSIONS);
    configuration.dangerous().set_certificate_verifier(std::sync::Arc::new(Credulous));
    let name = "production.example".try_into().expect("a name");
    let mut client = rustls::ClientConnection::new(configuration.into(), name).expect("a client");
    while client.is_handshaking() {
        client.complete_io(&mut stream).expect("a handshake");
    }
    client.send_close_notify();
    client.complete_io(&mut stream).expect("the server reads");
    read_to_the_end(&mut stream);
    drop(stream);

    let event = server.wait_for_event(1);

    let error = event["error"].as_str().expect("an error");
    assert!(error.contains("it asked for \"production.example\", and the certificate is for localhost, "), "{error}");
}

#[track_caller]
fn assert_closed_without_answer(server: &Server, sent: &[u8]) -> String {
    let mut stream = open(server);
    let client = stream.local_addr().expect("an address");
    stream.write_all(sent).expect("the server reads");
    let answer = read_to_the_end(&mut stream);
    // What could be TLS may get an alert.
    let is_alert = answer.is_empty() || (sent[0] == 22 && answer[0] == 21);
    assert!(is_alert, "an answer: {}", answer.escape_ascii());
    let told = wait_for_word_about(server, client);
    next_client(server);
    told
}

#[track_caller]
fn assert_advises_trust(told: &str) {
    for word in ["trust", "certificate.pem", "verification"] {
        assert!(told.contains(word), "no {word} in: {told}");
    }
}

/// Sends a hello and reads the beginning of the server's answer, which must go on with the handshake.
#[track_caller]
fn handshake_halfway(stream: &mut TcpStream, name: &str) -> SocketAddr {
    stream.write_all(&client_hello(TLS_1_2, &[SUITE], name)).expect("the server reads");
    let mut answer = [0; 6];
    stream.read_exact(&mut answer).expect("the server answers");
    const HANDSHAKE: u8 = 22;
    const SERVER_HELLO: u8 = 2;
    assert_eq!((answer[0], answer[5]), (HANDSHAKE, SERVER_HELLO), "{name}");
    stream.local_addr().expect("an address")
}

/// The first message of a handshake (RFC 5246, 7.4.1.2), in a record.
pub fn client_hello(version: u16, suites: &[u16], name: &str) -> Vec<u8> {
    const SERVER_NAME: u16 = 0;
    const GROUPS: u16 = 10;
    const SIGNATURE_ALGORITHMS: u16 = 13;
    let mut extensions = Vec::new();
    if !name.is_empty() {
        let entry = [&[0][..], &with_length(name.as_bytes())].concat();
        extension(&mut extensions, SERVER_NAME, &with_length(&entry));
    }
    extension(&mut extensions, GROUPS, &with_length(&[0, 0x1d, 0, 0x17]));
    extension(&mut extensions, SIGNATURE_ALGORITHMS, &with_length(&[4, 3, 8, 4, 4, 1]));
    hello(version, suites, &with_length(&extensions))
}

/// As clients from before 2008 send it.
fn hello_without_extensions(version: u16) -> Vec<u8> {
    hello(version, &[SUITE], &[])
}

fn hello(version: u16, suites: &[u16], extensions: &[u8]) -> Vec<u8> {
    let suites: Vec<u8> = suites.iter().flat_map(|suite| suite.to_be_bytes()).collect();
    let no_session_id = [0];
    let no_compression = [1, 0];
    let body =
        [&version.to_be_bytes()[..], &[7; 32], &no_session_id, &with_length(&suites), &no_compression, extensions]
            .concat();
    let message = [&[1, 0][..], &with_length(&body)].concat();
    [&[22, 3, 1][..], &with_length(&message)].concat()
}

fn extension(extensions: &mut Vec<u8>, number: u16, content: &[u8]) {
    extensions.extend(number.to_be_bytes());
    extensions.extend(with_length(content));
}

fn with_length(bytes: &[u8]) -> Vec<u8> {
    let length = u16::try_from(bytes.len()).expect("shorter than 64 KiB");
    [&length.to_be_bytes()[..], bytes].concat()
}

pub const TLS_1_2: u16 = 0x0303;
const RSA_WITH_AES_128_CBC_SHA: u16 = 0x002f;
/// ECDHE_ECDSA with AES-128-GCM, which the server knows.
pub const SUITE: u16 = 0xc02b;

/// Accepts every certificate in the handshake.
#[derive(Debug)]
struct Credulous;

impl ServerCertVerifier for Credulous {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ECDSA_NISTP256_SHA256]
    }
}
