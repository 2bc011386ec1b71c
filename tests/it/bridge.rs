//! The way from the front to the loop: nothing that a client sends, and no other program, can take it.

#[cfg(unix)]
use std::fs;

use crate::api::report::{MULTIPART, form};
use crate::connection::Connection;
#[cfg(unix)]
use crate::support::{DOWNLOAD, data_folder, is_skipped_under_wine, text};
use crate::support::{REPORT, Server, TASKS, WITH_AND_WITHOUT_TLS};

/// They wait together behind a report that takes the loop long, each with numbers of its own making. The bridge's begin
/// where nobody can guess; what a client sends under that name must not come near them, before or behind.
#[test]
fn a_header_with_the_name_of_the_bridges_number_leads_no_answer_astray() {
    let server = Server::start(&["--http"]);
    let mut clients: Vec<Connection> = (0..50).map(|_| server.connect()).collect();
    let body = form(&vec![b'x'; 30_000_000]);
    let mut slow = server.connect();
    let framing = format!("Content-Type: {MULTIPART}\r\nContent-Length: {}", body.len());
    slow.send(format!("POST {REPORT} HTTP/1.1\r\nHost: localhost\r\n{framing}\r\n\r\n"));
    slow.send(body);
    for (index, client) in clients.iter_mut().enumerate() {
        let forged = format!("Number: {}\r\nnumber: {}", index + 2, u64::MAX - index as u64);
        client.send(format!("GET /of/client-{index}- HTTP/1.1\r\nHost: localhost\r\n{forged}\r\n\r\n"));
    }

    for (index, client) in clients.iter_mut().enumerate() {
        let sentence = client.read_response(false).assert_error(404);
        assert!(sentence.contains(&format!("/of/client-{index}-")), "to client {index}: {sentence}");
    }
    assert_eq!(slow.read_response(false).status, 200);
}

/// CVE-2026-66752 of tiny_http 0.12: it leaves a body unread whose length is a Transfer-Encoding, and takes it for the
/// next request. Here it never sees a body.
#[test]
fn no_request_can_be_smuggled_in_a_body() {
    let smuggled = format!("GET {TASKS}?smuggled HTTP/1.1\r\nHost: localhost\r\n\r\n");
    let chunked = format!("Transfer-Encoding: chunked\r\n\r\n{:x}\r\n{smuggled}\r\n0\r\n\r\n", smuggled.len());
    for arguments in WITH_AND_WITHOUT_TLS {
        let server = Server::start(arguments);
        let mut connection = server.connect();
        for (method, target, status) in
            [("GET", TASKS, 200), ("POST", TASKS, 405), ("PUT", "/nowhere", 404), ("POST", REPORT, 200)]
        {
            let index = server.journal().len();
            connection.send(format!("{method} {target} HTTP/1.1\r\nHost: localhost\r\n{chunked}"));

            assert_eq!(connection.read_response(false).status, status, "{method} {target}");
            assert_eq!(server.wait_for_event(index)["bytes_in"], smuggled.len(), "{method} {target}");
        }
        connection.finish_sending();
        connection.assert_closed();
        assert_eq!(server.journal().len(), 5, "a start and four requests");
    }
}

/// CVE-2026-66753 of tiny_http 0.12: it lets CR LF into the headers of an answer. Here it writes no answer, and what is
/// not the server's own is escaped.
#[test]
#[cfg(unix)]
fn nothing_foreign_ends_a_header_of_an_answer() {
    if is_skipped_under_wine("names with line ends, which Windows does not have") {
        return;
    }
    let folder = data_folder();
    fs::write(folder.path().join("2\r\nX-Injected: 1.zip"), "zip").expect("a download");
    fs::rename(folder.path().join("1797242037.zip"), folder.path().join("a\r\nX-Injected: 1.zip")).expect("a name");
    let server = Server::start(&["--data", text(folder.path())]);
    for target in [
        &format!("{DOWNLOAD}?id=1"),
        &format!("{DOWNLOAD}?id=2"),
        "/%0d%0aX-Injected:%201",
        "/?a=%0d%0aX-Injected:%201",
    ] {
        let response = server.get(target);

        assert_eq!(response.header("X-Injected"), None, "{target}");
        assert!(response.headers.iter().all(|(_, value)| !value.contains(['\r', '\n'])), "{target}");
    }
}

/// Whoever could connect to the loop itself could end the program, e.g. by a length of terabytes.
#[test]
#[cfg(target_os = "linux")]
fn nobody_can_connect_to_the_loop() {
    if is_skipped_under_wine("the ports of all programs belong to wine's own server") {
        return;
    }
    let server = Server::start(&[]);

    let ports = listening_ports(&server);

    assert!(!ports.is_empty(), "the server listens");
    assert!(ports.iter().all(|port| *port == server.port()), "{ports:?}, not only {}", server.port());
}

/// The TCP ports on which the server's process listens, from the tables of `/proc`.
#[cfg(target_os = "linux")]
fn listening_ports(server: &Server) -> Vec<u16> {
    const LISTENING: &str = "0A";
    let process = format!("/proc/{}", server.process_id());
    let descriptors = fs::read_dir(format!("{process}/fd")).expect("the process has descriptors");
    let open: Vec<String> = descriptors
        .filter_map(|descriptor| fs::read_link(descriptor.ok()?.path()).ok()?.into_os_string().into_string().ok())
        .collect();
    let mut ports = Vec::new();
    for table in ["tcp", "tcp6"] {
        let table = fs::read_to_string(format!("{process}/net/{table}")).expect("a table of sockets");
        for row in table.lines().skip(1) {
            let fields: Vec<&str> = row.split_whitespace().collect();
            if fields[3] == LISTENING && open.contains(&format!("socket:[{}]", fields[9])) {
                let port = fields[1].rsplit(':').next().expect("a port");
                ports.push(u16::from_str_radix(port, 16).expect("a hexadecimal port"));
            }
        }
    }
    ports
}
