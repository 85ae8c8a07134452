//! Which of the addresses in the configuration a socket of a network is for.
//!
//! A socket does not tell what is to be spoken on it. Its name can, if it is that of a transport; otherwise the address
//! that it is bound to is looked for among those in the configuration.

use std::net::{SocketAddr, ToSocketAddrs};

use whispeer::Address;
use whispeer::transport::{Endpoint, PassedSocket};

use crate::failure::{FAILED, Failure};

/// The names of sockets that say what is spoken there: the beginnings of addresses.
const TRANSPORTS: [&str; 5] = ["tcp", "tls", "ws", "wss", "quic"];

/// A socket of TCP or UDP that a service manager has passed on.
#[derive(Debug)]
pub(crate) struct NetworkSocket {
    pub(super) descriptor: usize,
    pub(super) name: String,
    pub(super) socket: PassedSocket,
}

/// An address to listen on, and the sockets that were made for it.
pub(crate) type Assigned = (Address, Vec<PassedSocket>);

/// Gives each socket to the one address that it is for. Addresses without any are left to be bound.
///
/// # Errors
/// A socket is for none of them, or for no single one. A bus that ignored it would leave clients waiting.
pub(crate) fn assign(addresses: Vec<Address>, sockets: Vec<NetworkSocket>) -> anyhow::Result<Vec<Assigned>> {
    let mut assigned: Vec<Assigned> = addresses.into_iter().map(|address| (address, Vec::new())).collect();
    for socket in sockets {
        let local = socket.socket.local_addr()?;
        let place = place(&assigned, &socket, local);
        let Some((_, sockets)) = place.and_then(|index| assigned.get_mut(index)) else {
            return Err(nowhere(&assigned, &socket, local).into());
        };
        sockets.push(socket.socket);
    }
    Ok(assigned)
}

/// The index of the address that the socket is for.
fn place(assigned: &[Assigned], socket: &NetworkSocket, local: SocketAddr) -> Option<usize> {
    let mut able: Vec<_> =
        assigned.iter().enumerate().filter(|(_, (address, _))| socket.can_speak(address)).collect();
    if able.len() != 1 || !socket.is_named() {
        able.retain(|(_, (address, _))| is_at(address, local));
    }
    match able[..] {
        [(index, _)] => Some(index),
        _ => None,
    }
}

impl NetworkSocket {
    fn is_udp(&self) -> bool {
        matches!(self.socket, PassedSocket::Udp(_))
    }

    /// Whether its name says what is spoken there.
    fn is_named(&self) -> bool {
        TRANSPORTS.contains(&self.name.as_str())
    }

    /// Whether what is spoken at the address can be what is to be spoken here.
    fn can_speak(&self, address: &Address) -> bool {
        let Some((transport, _)) = parts(address) else { return false };
        (transport == "quic") == self.is_udp() && (!self.is_named() || self.name == transport)
    }
}

/// What is spoken at an address of a network, and where.
fn parts(address: &Address) -> Option<(&'static str, &Endpoint)> {
    match address {
        Address::Tcp(endpoint) => Some(("tcp", endpoint)),
        Address::Tls(endpoint) => Some(("tls", endpoint)),
        Address::Quic(endpoint) => Some(("quic", endpoint)),
        Address::WebSocket(address) => {
            Some((if address.is_secure() { "wss" } else { "ws" }, address.endpoint()))
        }
        _ => None,
    }
}

/// Whether the address is, or a name in it stands for, the one that a socket is bound to.
fn is_at(address: &Address, local: SocketAddr) -> bool {
    let Some((_, endpoint)) = parts(address) else { return false };
    if endpoint.port() != local.port() {
        return false;
    }
    match (endpoint.host(), endpoint.port()).to_socket_addrs() {
        Ok(mut found) => found.any(|found| found.ip().to_canonical() == local.ip().to_canonical()),
        Err(error) => {
            tracing::warn!(%address, %error, "cannot tell which addresses the host has");
            false
        }
    }
}

fn nowhere(assigned: &[Assigned], socket: &NetworkSocket, local: SocketAddr) -> Failure {
    let NetworkSocket { descriptor, name, .. } = socket;
    let (kind, transports, example) = match socket.is_udp() {
        true => ("UDP", "quic", "quic"),
        false => ("TCP", "tcp, tls, ws or wss", "tls"),
    };
    let listed: Vec<_> = assigned.iter().map(|(address, _)| address.to_string()).collect();
    let listed = match listed.is_empty() {
        true => "there is none in the configuration".to_owned(),
        false => format!("the configuration has {}", listed.join(", ")),
    };
    let text = format!(
        "the service manager has passed descriptor {descriptor} ({name}), a socket of {kind} at {local}, which is for no \
         single address to listen on: {listed}"
    );
    let example = if socket.is_named() { name } else { example };
    Failure::new(FAILED, text).help(format!(
        "list what is spoken there in `listen`, such as \"{example}://{local}\"; the name of a transport \
         (FileDescriptorName={transports} in the .socket unit) stands for the one address of that transport"
    ))
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, UdpSocket};

    use super::*;

    fn tcp(name: &str) -> (NetworkSocket, u16) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        (NetworkSocket { descriptor: 3, name: name.to_owned(), socket: listener.into() }, port)
    }

    fn udp(name: &str) -> (NetworkSocket, u16) {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let port = socket.local_addr().unwrap().port();
        (NetworkSocket { descriptor: 4, name: name.to_owned(), socket: socket.into() }, port)
    }

    /// The index of the address that gets the socket, or why none does.
    fn given(addresses: &[String], socket: NetworkSocket) -> Result<usize, String> {
        let addresses = addresses.iter().map(|address| address.parse().unwrap()).collect();
        let assigned = assign(addresses, vec![socket]).map_err(|error| error.to_string())?;
        Ok(assigned.iter().position(|(_, sockets)| !sockets.is_empty()).unwrap())
    }

    #[test]
    fn a_socket_is_for_the_address_that_it_is_bound_to() {
        let (socket, port) = tcp("whispeer.socket");
        let addresses = ["tcp://localhost:1", "ws://[::1]:1", "unix:bus"].map(String::from).to_vec();
        let with = |address: String| [&addresses[..], &[address]].concat();
        assert_eq!(given(&with(format!("wss://localhost:{port}/bus")), socket), Ok(3));
        let (socket, port) = tcp("unknown");
        assert_eq!(given(&with(format!("tcp://127.0.0.1:{port}")), socket), Ok(3));
        let (socket, port) = udp("unknown");
        let both = [format!("tls://127.0.0.1:{port}"), format!("quic://127.0.0.1:{port}")];
        assert_eq!(given(&both, socket), Ok(1));
    }

    #[test]
    fn the_name_of_a_transport_stands_for_its_one_address() {
        let addresses =
            ["tls://bus.invalid:1", "ws://bus.invalid:1", "quic://bus.invalid:1"].map(String::from);
        assert_eq!(given(&addresses, tcp("tls").0), Ok(0));
        assert_eq!(given(&addresses, tcp("ws").0), Ok(1));
        assert_eq!(given(&addresses, udp("quic").0), Ok(2));
        // Of several, it is the one that the socket is bound to.
        let (socket, port) = tcp("tls");
        let addresses = ["tls://localhost:1".to_owned(), format!("tls://localhost:{port}")];
        assert_eq!(given(&addresses, socket), Ok(1));
    }

    #[test]
    fn an_address_may_have_several_sockets_and_others_none() {
        let (one, port) = tcp("unknown");
        let addresses = vec![
            format!("tcp://localhost:{port}").parse().unwrap(),
            "tls://localhost:1".parse().unwrap(),
            "ws://localhost:1".parse().unwrap(),
        ];
        let assigned = assign(addresses, vec![one, tcp("tls").0, tcp("tls").0]).unwrap();
        assert_eq!(assigned.iter().map(|(_, sockets)| sockets.len()).collect::<Vec<_>>(), [1, 2, 0]);
    }

    #[test]
    fn a_socket_for_no_single_address_is_refused_by_what_it_is() {
        for (addresses, (socket, port)) in [
            (&[][..], tcp("unknown")),
            (&["tcp://localhost:1"], tcp("unknown")),
            (&["tcp://localhost:1", "tcp://localhost:2"], tcp("tcp")),
            (&["tcp://localhost:1"], tcp("tls")),
            (&["tcp://localhost:1", "quic://localhost:1"], tcp("quic")),
            (&["tls://localhost:1"], udp("tls")),
            (&["unix:bus"], udp("unknown")),
        ] {
            let addresses: Vec<_> = addresses.iter().map(|address| (*address).to_owned()).collect();
            let refused = given(&addresses, socket).unwrap_err();
            assert!(refused.contains(&format!("127.0.0.1:{port}")), "{refused}");
            assert!(addresses.iter().all(|address| refused.contains(address)), "{refused}");
        }
        let (socket, port) = tcp("unknown");
        let twice = [format!("ws://localhost:{port}/a"), format!("ws://localhost:{port}/b")];
        assert!(given(&twice, socket).is_err());
    }
}
