//! The way from the front to the loop: nothing that a client sends, and no other program, can take it.

#[cfg(target_os = "linux")]
use std::fs;

use crate::support::{DOWNLOAD, Server, TASKS, data_folder, is_skipped_under_wine, text};

#[test]
fn a_header_with_the_proxys_private_name_has_no_effect() {
    let folder = data_folder();
    let server = Server::start(&["--data", text(folder.path())]);
    for forged in ["1", "2", "18446744073709551615", "-1", "x"] {
        let private = format!("Request-Number: {forged}");

        let download = server.request("GET", DOWNLOAD, &[&private, &private]);
        assert_eq!((download.status, download.body.len()), (200, 366), "{forged}");
        assert_eq!(server.request("GET", TASKS, &[&private]).body.len(), 128, "{forged}");
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
