//! The Unix socket: who owns its path, who may connect, and what is left behind.

use std::fs;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::PathBuf;

use whispeer::Address;
use whispeer::auth::Principal;
use whispeer::prelude::*;
use whispeer::transport::{UnixListener, UnixOptions};

fn mode(path: &PathBuf) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

fn files(directory: &tempfile::TempDir) -> Vec<String> {
    let entries = fs::read_dir(directory.path()).unwrap();
    let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[tokio::test]
async fn the_socket_is_private_unless_asked_otherwise_and_goes_at_the_end() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("bus");
    let bus = listen_and_serve_unix(&path).unwrap();
    assert_eq!(mode(&path), 0o600);
    assert_eq!(files(&directory), ["bus", "bus.lock"]);
    bus.stop().await;
    assert_eq!(files(&directory), [""; 0]);
    let options = UnixOptions::default().mode(0o660);
    let bus = Bus::builder().listen_unix_with(&path, options).start().unwrap();
    assert_eq!(mode(&path), 0o660);
    bus.stop().await;
}

#[tokio::test]
async fn a_stale_socket_is_replaced() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("bus");
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    assert!(fs::metadata(&path).unwrap().file_type().is_socket());
    let refused = Client::new_unix(&path).await;
    assert!(matches!(refused, Err(BusError::Connect { .. })), "{refused:?}");
    let bus = listen_and_serve_unix(&path).unwrap();
    Client::new_unix(&path).await.unwrap().ping().await.unwrap();
    bus.stop().await;
}

#[tokio::test]
async fn a_live_socket_is_refused_and_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("bus");
    let bus = listen_and_serve_unix(&path).unwrap();
    let client = Client::new_unix(&path).await.unwrap();
    for _ in 0..3 {
        let second = listen_and_serve_unix(&path).map(drop);
        assert!(matches!(second, Err(BusError::AddressInUse { .. })), "{second:?}");
    }
    client.ping().await.unwrap();
    Client::new_unix(&path).await.unwrap().ping().await.unwrap();
    assert_eq!(files(&directory), ["bus", "bus.lock"]);
    bus.stop().await;
    listen_and_serve_unix(&path).unwrap().stop().await;
}

#[tokio::test]
async fn the_live_socket_of_another_program_is_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("other");
    let other = std::os::unix::net::UnixListener::bind(&path).unwrap();
    let refused = listen_and_serve_unix(&path).map(drop);
    assert!(matches!(refused, Err(BusError::AddressInUse { .. })), "{refused:?}");
    std::os::unix::net::UnixStream::connect(&path).unwrap();
    drop(other);
}

#[tokio::test]
async fn a_file_that_is_no_socket_is_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("notes");
    fs::write(&path, "precious").unwrap();
    match listen_and_serve_unix(&path).map(drop) {
        Err(BusError::Listen { reason, .. }) => assert!(reason.contains("not a socket"), "{reason}"),
        other => panic!("{other:?}"),
    }
    assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
    assert_eq!(files(&directory), ["notes"], "a refused bus leaves nothing behind");
}

#[tokio::test]
async fn a_path_that_cannot_be_is_refused_with_the_reason() {
    let directory = tempfile::tempdir().unwrap();
    let long = directory.path().join("x".repeat(200));
    let missing = directory.path().join("no/such/folder");
    for (path, word) in [(long, "long"), (missing, ""), (PathBuf::from("/"), "names no file")] {
        match listen_and_serve_unix(&path).map(drop) {
            Err(BusError::Listen { reason, .. }) => assert!(reason.contains(word), "{reason}"),
            other => panic!("{}: {other:?}", path.display()),
        }
    }
    let nobody = Client::new_unix(&directory.path().join("nobody")).await;
    assert!(matches!(nobody, Err(BusError::Connect { .. })), "{nobody:?}");
    assert_eq!(files(&directory), [""; 0]);
}

#[tokio::test]
async fn a_bus_that_cannot_have_all_its_addresses_starts_with_none() {
    let directory = tempfile::tempdir().unwrap();
    let (free, taken) = (directory.path().join("free"), directory.path().join("taken"));
    fs::write(&taken, "").unwrap();
    Bus::builder().listen_unix(&free).listen_unix(&taken).start().map(drop).unwrap_err();
    assert_eq!(files(&directory), ["taken"]);
}

#[tokio::test]
async fn the_kernel_says_who_a_peer_is() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("bus");
    let bus = listen_and_serve_unix(&path).unwrap();
    let _outside = Client::new_unix(&path).await.unwrap();
    let inside = Client::new_memory(&bus.connector()).unwrap();
    inside.ping().await.unwrap();
    let sessions = bus.sessions();
    let own = fs::metadata(&path).unwrap();
    let expected = Principal::Unix {
        uid: std::os::unix::fs::MetadataExt::uid(&own),
        gid: std::os::unix::fs::MetadataExt::gid(&own),
        pid: Some(i32::try_from(std::process::id()).unwrap()),
    };
    assert_eq!((&sessions[0].principal, sessions[0].transport.as_str()), (&expected, "unix"));
    assert_eq!((&sessions[1].principal, sessions[1].transport.as_str()), (&Principal::Local, "memory"));
}

#[tokio::test]
async fn one_bus_listens_on_several_addresses() {
    let directory = tempfile::tempdir().unwrap();
    let paths = [directory.path().join("one"), directory.path().join("two")];
    let bus = Bus::builder().listen_unix(&paths[0]).listen_unix(&paths[1]).start().unwrap();
    assert_eq!(bus.local_addrs().len(), 3);
    let (one, two) = (Client::new_unix(&paths[0]).await.unwrap(), Client::new_unix(&paths[1]).await.unwrap());
    let mut subscription = one.subscribe_bytes("news").await.unwrap();
    assert_eq!(two.publish_bytes("news", "across").await.unwrap(), 1);
    assert_eq!(subscription.recv().await.unwrap().1, "across");
}

#[tokio::test]
async fn a_socket_that_was_passed_on_is_served_and_its_file_left_to_its_maker() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("bus");
    let passed = std::os::unix::net::UnixListener::bind(&path).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o666)).unwrap();
    // Who connects before there is a bus waits for it.
    let early = tokio::spawn({
        let path = path.clone();
        async move { Client::new_unix(&path).await }
    });
    let bus = Bus::builder().listen_on(UnixListener::from_std(passed).unwrap()).start().unwrap();
    assert!(bus.local_addrs().contains(&Address::Unix(path.clone())));
    let client = early.await.unwrap().unwrap();
    client.request_bytes("$bus/stats", "".into()).await.expect("the bus's own user may ask");
    bus.stop().await;
    assert_eq!((files(&directory), mode(&path)), (vec!["bus".to_owned()], 0o666));
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_passed_socket_that_nobody_could_connect_to_is_refused() {
    use std::os::linux::net::SocketAddrExt;
    use std::os::unix::net;

    let refused = |listener| match UnixListener::from_std(listener) {
        Err(BusError::Listen { reason, .. }) => reason,
        other => panic!("{other:?}"),
    };
    let directory = tempfile::tempdir().unwrap();
    let address =
        net::SocketAddr::from_abstract_name(directory.path().as_os_str().as_encoded_bytes()).unwrap();
    let nameless = net::UnixListener::bind_addr(&address).unwrap();
    assert!(refused(nameless).contains("no path"));
    let (silent, _other) = net::UnixStream::pair().unwrap();
    assert!(refused(std::os::fd::OwnedFd::from(silent).into()).contains("no path"));
}
