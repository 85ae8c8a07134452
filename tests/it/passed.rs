//! Buses on sockets of a network that somebody else has made.

use std::net::{SocketAddr, TcpListener, UdpSocket};

use whispeer::Address;
use whispeer::bus::BusBuilder;
use whispeer::prelude::*;
use whispeer::transport::{ClientTls, PassedSocket, ServerTls};
use whispeer_testkit::certificates::Certificates;

use crate::certified::asking;

const SCHEMES: [&str; 5] = ["tcp", "tls", "ws", "wss", "quic"];

/// What somebody else makes for an address of this scheme, and a copy that he keeps.
fn passed(scheme: &str, bind: &str) -> (PassedSocket, PassedSocket) {
    match scheme {
        "quic" => {
            let socket = UdpSocket::bind(bind).unwrap();
            (socket.try_clone().unwrap().into(), socket.into())
        }
        _ => {
            let listener = TcpListener::bind(bind).unwrap();
            (listener.try_clone().unwrap().into(), listener.into())
        }
    }
}

fn address(scheme: &str) -> Address {
    format!("{scheme}://localhost:0").parse().unwrap()
}

fn builder(made: &Certificates) -> BusBuilder {
    Bus::builder().tls(ServerTls::pem(made.server.pem(), made.server.key_pem()))
}

async fn connect(made: &Certificates, scheme: &str, to: SocketAddr) -> BusResult<Client> {
    let tls = ClientTls::new().ca_pem(made.authority.pem());
    Client::builder().tls(tls).connect(&format!("{scheme}://{to}")).await
}

fn refusal(builder: BusBuilder) -> String {
    let error = builder.start().map(drop).unwrap_err();
    assert!(matches!(error, BusError::Listen { .. }), "{error:?}");
    error.to_string()
}

#[tokio::test]
async fn a_bus_serves_what_it_was_passed_and_says_the_port_of_it() {
    let made = Certificates::new();
    for scheme in SCHEMES {
        let (given, kept) = passed(scheme, "127.0.0.1:0");
        let bus = builder(&made).listen_passed(&address(scheme), [given]).start().unwrap();
        let local = kept.local_addr().unwrap();
        let said = bus.local_addrs()[0].to_string();
        assert_eq!(said, format!("{scheme}://localhost:{}", local.port()));
        connect(&made, scheme, local).await.unwrap().ping().await.unwrap();
        bus.stop().await;
    }
}

#[tokio::test]
async fn who_connects_between_two_buses_is_served_by_the_second() {
    let made = Certificates::new();
    for scheme in SCHEMES {
        let (first, kept) = passed(scheme, "127.0.0.1:0");
        let local = kept.local_addr().unwrap();
        let bus = builder(&made).listen_passed(&address(scheme), [first]).start().unwrap();
        connect(&made, scheme, local).await.unwrap().ping().await.unwrap();
        bus.stop().await;
        let between = connect(&made, scheme, local);
        let after = async {
            // The client's first turn has come before, in which it connects.
            tokio::task::yield_now().await;
            builder(&made).listen_passed(&address(scheme), [kept]).start().unwrap()
        };
        let (client, _bus) = tokio::join!(between, after);
        client.unwrap().ping().await.unwrap();
    }
}

/// Two with one port; none where there is no IPv6.
fn of_both_families(scheme: &str) -> Option<(PassedSocket, PassedSocket)> {
    let bind = |local: (&str, u16)| match scheme {
        "quic" => UdpSocket::bind(local).map(PassedSocket::from),
        _ => TcpListener::bind(local).map(PassedSocket::from),
    };
    loop {
        let six = bind(("::1", 0)).ok()?;
        // Somebody else may have the port at the other address.
        if let Ok(four) = bind(("127.0.0.1", six.local_addr().unwrap().port())) {
            return Some((six, four));
        }
    }
}

#[tokio::test]
async fn sockets_of_both_families_are_one_address() {
    let made = Certificates::new();
    for scheme in ["tcp", "quic"] {
        let Some((six, four)) = of_both_families(scheme) else { return };
        let (six_at, four_at) = (six.local_addr().unwrap(), four.local_addr().unwrap());
        let bus = builder(&made).listen_passed(&address(scheme), [six, four]).start().unwrap();
        assert_eq!(bus.local_addrs().len(), 2, "it and the memory's");
        for local in [six_at, four_at] {
            connect(&made, scheme, local).await.unwrap().ping().await.unwrap();
        }
    }
}

#[tokio::test]
async fn without_any_socket_the_address_is_bound() {
    let bus = Bus::builder().listen_passed::<TcpListener>(&address("tcp"), []).start().unwrap();
    Client::connect(&bus.local_addrs()[0].to_string()).await.unwrap().ping().await.unwrap();
}

#[tokio::test]
async fn sockets_that_do_not_do_are_refused_with_a_reason() {
    let made = Certificates::new();
    let refused = |scheme: &str, sockets: Vec<PassedSocket>| {
        refusal(builder(&made).listen_passed(&address(scheme), sockets))
    };
    let tcp = || passed("tcp", "127.0.0.1:0").0;
    let udp = || passed("quic", "127.0.0.1:0").0;
    for scheme in ["tcp", "tls", "ws", "wss"] {
        assert!(refused(scheme, vec![udp()]).contains("it is one of UDP"), "{scheme}");
    }
    assert!(refused("quic", vec![tcp()]).contains("QUIC needs one of UDP"));
    let silent = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    silent.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    assert!(refused("tcp", vec![TcpListener::from(silent).into()]).contains("does not listen"));
    let connected = UdpSocket::bind("127.0.0.1:0").unwrap();
    connected.connect("127.0.0.1:9").unwrap();
    assert!(refused("quic", vec![connected.into()]).contains("hears one peer only"));
    for (scheme, sockets) in [("tcp", [tcp(), tcp()]), ("quic", [udp(), udp()])] {
        let several = refused(scheme, sockets.into());
        assert!(several.contains("have the ports"), "{several}");
    }
    let named = refusal(Bus::builder().listen_passed(&Address::Unix("bus".into()), [tcp()]));
    assert!(named.contains("no port of a host"), "{named}");
}

#[tokio::test]
async fn where_the_socket_is_bound_decides_whom_a_bus_has_to_ask() {
    let made = Certificates::new();
    for scheme in SCHEMES {
        // The address says localhost, and other hosts would reach it all the same.
        let everywhere = || passed(scheme, "0.0.0.0:0").0;
        let refused = refusal(builder(&made).listen_passed(&address(scheme), [everywhere()]));
        assert!(refused.contains("allow_anyone"), "{scheme}: {refused}");
        builder(&made)
            .listen_passed(&address(scheme), [everywhere()])
            .allow_anyone()
            .start()
            .map(drop)
            .unwrap();
    }
    Bus::builder()
        .tls(asking(&made))
        .listen_passed(&address("tls"), [passed("tls", "0.0.0.0:0").0])
        .start()
        .map(drop)
        .unwrap();
}
