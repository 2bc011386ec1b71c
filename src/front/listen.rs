//! The listeners that clients connect to, and what to say where a port cannot be had.

use crate::text::Failure;
use socket2::{Domain, Protocol, Socket, Type};
use std::collections::BTreeSet;
use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, ToSocketAddrs};

/// Listens on `port` of both loopback addresses, or of all addresses that `host` stands for. Port 0 becomes any port
/// that is free on all of them.
pub fn listen(host: Option<&str>, port: u16) -> Result<Vec<TcpListener>, Failure> {
    let addresses = match host {
        None => vec![IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)],
        Some(host) => resolve(host)?,
    };
    for _ in 0..ATTEMPTS {
        match listen_on_all(&addresses, port) {
            // Another program has the port on the second address only. With port 0 the next attempt gets another one.
            Err((address, error)) if port == 0 && address.port() != 0 && error.kind() == ErrorKind::AddrInUse => {}
            result => return result.map_err(|(address, error)| failure(address, &error, &addresses)),
        }
    }
    Err(Failure::new("cannot find a port that is free on all addresses", "name one with --port"))
}

fn resolve(host: &str) -> Result<Vec<IpAddr>, Failure> {
    let advice = "give --host an address of this machine, such as 0.0.0.0 for all";
    let failed = Failure::of(format!("cannot find the host {host}"), advice);
    let found = (host, 0).to_socket_addrs().map_err(failed)?;
    let addresses: BTreeSet<IpAddr> = found.map(|address| address.ip()).collect();
    Ok(addresses.into_iter().collect())
}

fn listen_on_all(addresses: &[IpAddr], mut port: u16) -> Result<Vec<TcpListener>, (SocketAddr, io::Error)> {
    let mut listeners: Vec<TcpListener> = Vec::new();
    for address in addresses {
        let (is_last, address) = (Some(address) == addresses.last(), SocketAddr::new(*address, port));
        match listen_on(address) {
            Ok(listener) => {
                port = listener.local_addr().map_or(port, |own| own.port());
                listeners.push(listener);
            }
            // A machine without IPv6, or without IPv4: the other address will do.
            Err(error) if is_missing(&error) && !(is_last && listeners.is_empty()) => {}
            Err(error) => return Err((address, error)),
        }
    }
    Ok(listeners)
}

fn listen_on(address: SocketAddr) -> io::Result<TcpListener> {
    // Windows lets two programs have the same port, one of all addresses and one of a single address, and neither is
    // told. That the port can be had of all addresses for a moment shows that it is free.
    #[cfg(windows)]
    bind(match address {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, address.port()).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, address.port()).into(),
    })?;
    let socket = bind(address)?;
    // Inherited by accepted sockets.
    socket.set_tcp_nodelay(true)?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

fn bind(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    // A restart must not wait for connections of the run before to be forgotten. On Windows the same option would let
    // two programs share the port.
    #[cfg(unix)]
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.bind(&address.into())?;
    Ok(socket)
}

fn is_missing(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::AddrNotAvailable | ErrorKind::Unsupported)
        || error.raw_os_error().is_some_and(|code| ADDRESS_FAMILY_NOT_SUPPORTED.contains(&code))
}

fn failure(address: SocketAddr, error: &io::Error, addresses: &[IpAddr]) -> Failure {
    // To be offered instead; 0, which stands for any, where there is none.
    let mut higher = address.port().saturating_add(1)..=u16::MAX;
    let mut other = || higher.find(|port| listen_on_all(addresses, *port).is_ok()).unwrap_or_default();
    let (why, advice) = match error.kind() {
        ErrorKind::AddrInUse => ("another program uses the port", format!("stop it, or start with --port {}", other())),
        // WSAEACCES, 10013: WSL, Docker and others with Hyper-V have hundreds of ports reserved at each start of Windows.
        ErrorKind::PermissionDenied if cfg!(windows) => {
            let list = "`netsh interface ipv4 show excludedportrange protocol=tcp` lists the ports that are kept";
            ("Windows keeps the port for itself", format!("start with --port {}; {list}", other()))
        }
        ErrorKind::PermissionDenied => {
            let advice = "start with another --port: systems keep some for themselves, such as those below 1024";
            ("the system does not allow it", advice.to_owned())
        }
        ErrorKind::AddrNotAvailable => {
            ("this machine has no such address", "give --host an address of this machine".to_owned())
        }
        _ => (&*error.to_string(), "start with another --port or --host".to_owned()),
    };
    Failure::new(format!("cannot listen on {address}: {why}"), advice)
}

const ATTEMPTS: usize = 20;
/// Connections that wait to be accepted; systems cut it to their own limit.
const BACKLOG: i32 = 1024;
/// EAFNOSUPPORT of Linux and macOS, WSAEAFNOSUPPORT of Windows; std has no name for it.
const ADDRESS_FAMILY_NOT_SUPPORTED: [i32; 3] = [97, 47, 10047];
