//! Unix sockets.
//!
//! A socket that was made and passed by somebody else, such as a service manager, is accepted on and
//! nothing more. For one made here, a lock file beside the socket (`PATH.lock`) decides who owns the path; whoever locks it makes sure
//! that it is still the file of that name, so that it can be removed at the end. The socket is bound
//! in a private directory, gets its mode there, and is renamed into place, so that it never exists
//! with wider rights than asked for.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use socket2::SockRef;
use tokio::net::UnixStream;

use super::socket::Socket;
use super::{Accepted, Address, Link, Listener, Peer, plain, resume};
use crate::auth::Principal;
use crate::error::{BusError, BusResult};

/// Bytes that the system may hold on their way to a peer: room for a few large frames, so that a
/// sender need not wait for its reader after each.
const SEND_BUFFER: usize = 512 * 1024;

/// How a Unix socket is made.
///
/// # Examples
/// ```
/// use whispeer::transport::UnixOptions;
///
/// // Members of the directory's group may connect too.
/// let options = UnixOptions::default().mode(0o660);
/// ```
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct UnixOptions {
    mode: u32,
}

impl Default for UnixOptions {
    /// Mode 0600: only the bus's own user may connect.
    fn default() -> Self {
        Self { mode: 0o600 }
    }
}

impl UnixOptions {
    /// Sets the permission bits of the socket file (default 0600). Whoever may write to the file may
    /// connect.
    #[must_use]
    pub fn mode(mut self, mode: u32) -> Self {
        self.mode = mode & 0o777;
        self
    }
}

/// Accepts connections on a Unix socket. If it made the socket file, that goes when it is dropped.
#[derive(Debug)]
pub struct UnixListener {
    listener: tokio::net::UnixListener,
    address: Address,
    own_uid: u32,
    /// `None` for a socket that somebody else made.
    made: Option<SocketFile>,
}

/// A socket file that was made here.
#[derive(Debug)]
struct SocketFile {
    path: PathBuf,
    /// Device and inode of our socket: another's file at the path is left alone.
    identity: (u64, u64),
    /// Held as long as the listener lives.
    _lock: Lock,
}

impl SocketFile {
    fn remove(&self) {
        let ours = fs::symlink_metadata(&self.path)
            .is_ok_and(|metadata| (metadata.dev(), metadata.ino()) == self.identity);
        if ours {
            // Whoever else removed it in between did what was wanted.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// The lock file of a path, locked. It goes when it is dropped, while the lock is still held.
#[derive(Debug)]
struct Lock {
    file: File,
    path: PathBuf,
}

impl Drop for Lock {
    fn drop(&mut self) {
        // Whoever else removed it in between did what was wanted.
        let _ = fs::remove_file(&self.path);
    }
}

impl UnixListener {
    /// Listens on the socket `path`. A file that a dead bus left behind is replaced.
    ///
    /// # Errors
    /// [`BusError::AddressInUse`] when a living bus listens there, which is left alone;
    /// [`BusError::NoRuntime`] outside a Tokio runtime; [`BusError::Listen`] for everything else, such
    /// as a path that is no socket, a missing folder or a path too long for the system.
    pub fn bind(path: &Path, options: &UnixOptions) -> BusResult<Self> {
        if tokio::runtime::Handle::try_current().is_err() {
            return Err(BusError::NoRuntime { what: "listening on a Unix socket" });
        }
        let address = Address::Unix(path.to_owned());
        let failed = |what: &str, error: io::Error| BusError::Listen {
            address: address.to_string(),
            reason: format!("{what}: {error}"),
            source: Some(Arc::new(error)),
        };
        let refused = |reason: &str| BusError::Listen {
            address: address.to_string(),
            reason: reason.into(),
            source: None,
        };
        let Some(name) = path.file_name() else {
            return Err(refused("the path names no file; give one such as \"my_bus\""));
        };
        let mut lock_name = name.to_owned();
        lock_name.push(".lock");
        // The private name is short, so that only this tells whether clients could use the path.
        std::os::unix::net::SocketAddr::from_pathname(path)
            .map_err(|error| failed(explain_bind(&error), error))?;
        let lock = take_lock(path.with_file_name(lock_name)).map_err(|error| match error.kind() {
            io::ErrorKind::WouldBlock => BusError::AddressInUse { address: address.to_string() },
            _ => failed("cannot lock the file beside it", error),
        })?;
        let own_uid = lock.file.metadata().map_err(|error| failed("cannot read the lock file", error))?.uid();
        match fs::symlink_metadata(path) {
            Ok(metadata) if !metadata.file_type().is_socket() => {
                return Err(refused(
                    "a file that is not a socket has this name; move it or choose another path",
                ));
            }
            // The lock is ours. A bus of another kind may listen there all the same.
            Ok(_) if std::os::unix::net::UnixStream::connect(path).is_ok() => {
                return Err(BusError::AddressInUse { address: address.to_string() });
            }
            Ok(_) | Err(_) => {}
        }
        let listener =
            bind_privately(path, options.mode).map_err(|error| failed(explain_bind(&error), error))?;
        let metadata =
            fs::symlink_metadata(path).map_err(|error| failed("cannot find the socket just made", error))?;
        let listener = tokio::net::UnixListener::from_std(listener)
            .map_err(|error| failed("cannot register the socket", error))?;
        let made =
            SocketFile { path: path.to_owned(), identity: (metadata.dev(), metadata.ino()), _lock: lock };
        Ok(Self { listener, address, own_uid, made: Some(made) })
    }

    /// Accepts on a socket that somebody else has made, such as a service manager that passed it on. Its
    /// file, with its mode and owner, is left to them, also at the end.
    ///
    /// # Errors
    /// [`BusError::NoRuntime`] outside a Tokio runtime; [`BusError::Listen`] for a socket that nobody can
    /// connect to, as it does not listen or has no path.
    ///
    /// # Examples
    /// ```
    /// use whispeer::prelude::*;
    /// use whispeer::transport::UnixListener;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> BusResult<()> {
    /// # let directory = tempfile::tempdir().unwrap();
    /// # let path = directory.path().join("my_bus");
    /// let passed = std::os::unix::net::UnixListener::bind(&path).unwrap();
    /// let bus = Bus::builder().listen_on(UnixListener::from_std(passed)?).start()?;
    /// Client::new_unix(&path).await?.ping().await?;
    /// bus.stop().await;
    /// assert!(path.exists());
    /// # Ok(())
    /// # }
    /// ```
    pub fn from_std(listener: std::os::unix::net::UnixListener) -> BusResult<Self> {
        if tokio::runtime::Handle::try_current().is_err() {
            return Err(BusError::NoRuntime { what: "listening on a Unix socket" });
        }
        let failed = |address: &str, reason: &str, source: Option<io::Error>| BusError::Listen {
            address: address.into(),
            reason: source.as_ref().map_or_else(|| reason.into(), |error| format!("{reason}: {error}")),
            source: source.map(Arc::new),
        };
        let unknown = "a socket that was passed on";
        let local =
            listener.local_addr().map_err(|error| failed(unknown, "cannot tell its address", Some(error)))?;
        let Some(path) = local.as_pathname() else {
            return Err(failed(unknown, "it has no path that clients could connect to", None));
        };
        let address = Address::Unix(path.to_owned());
        let text = address.to_string();
        if !SockRef::from(&listener).is_listener().is_ok_and(|listens| listens) {
            return Err(failed(&text, "the socket that was passed on does not listen", None));
        }
        let prepared = listener.set_nonblocking(true).and_then(|()| {
            let own_uid = own_uid()?;
            Ok((tokio::net::UnixListener::from_std(listener)?, own_uid))
        });
        let (listener, own_uid) =
            prepared.map_err(|error| failed(&text, "cannot register the socket", Some(error)))?;
        Ok(Self { listener, address, own_uid, made: None })
    }
}

/// The user that this process runs as, as the system tells those that it connects to.
fn own_uid() -> io::Result<u32> {
    let (one, _other) = UnixStream::pair()?;
    Ok(one.peer_cred()?.uid())
}

/// Locks the file `path`, and makes sure that no other bus removed it in between.
fn take_lock(path: PathBuf) -> io::Result<Lock> {
    const ATTEMPTS: usize = 16;
    for _ in 0..ATTEMPTS {
        let file = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(&path)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(io::ErrorKind::WouldBlock.into()),
            Err(TryLockError::Error(error)) => return Err(error),
        }
        let locked = file.metadata()?;
        if fs::symlink_metadata(&path)
            .is_ok_and(|named| (named.dev(), named.ino()) == (locked.dev(), locked.ino()))
        {
            return Ok(Lock { file, path });
        }
    }
    Err(io::Error::other("other buses come and go at this path; try again"))
}

fn explain_bind(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::NotFound => "the folder does not exist; make it first",
        io::ErrorKind::PermissionDenied => "no right to make files in that folder",
        io::ErrorKind::InvalidInput => {
            "the path is too long for a socket (about 80 bytes); choose a shorter one"
        }
        _ => "cannot make the socket",
    }
}

/// Binds a socket in a directory that only this user can enter, sets its mode, and renames it.
fn bind_privately(path: &Path, mode: u32) -> io::Result<std::os::unix::net::UnixListener> {
    let mut random = [0; 4];
    getrandom::fill(&mut random).map_err(io::Error::other)?;
    let directory = path.with_file_name(format!(".w{:08x}", u32::from_le_bytes(random)));
    DirBuilder::new().mode(0o700).create(&directory)?;
    let private = directory.join("s");
    let bound = std::os::unix::net::UnixListener::bind(&private).and_then(|listener| {
        listener.set_nonblocking(true)?;
        fs::set_permissions(&private, fs::Permissions::from_mode(mode))?;
        fs::rename(&private, path)?;
        Ok(listener)
    });
    if bound.is_err() {
        // The first error is the one to report; what could not be made cannot be removed.
        let _ = fs::remove_file(&private);
    }
    let _ = fs::remove_dir(&directory);
    bound
}

impl Listener for UnixListener {
    fn poll_accept(&mut self, context: &mut Context<'_>) -> Poll<io::Result<Accepted>> {
        let (stream, _) = ready!(self.listener.poll_accept(context))?;
        let credentials = stream.peer_cred()?;
        let principal =
            Principal::Unix { uid: credentials.uid(), gid: credentials.gid(), pid: credentials.pid() };
        Poll::Ready(Ok(Accepted::Open { link: link(stream)?, peer: Peer::new(principal, "unix") }))
    }

    fn local_addr(&self) -> &Address {
        &self.address
    }

    fn own_uid(&self) -> Option<u32> {
        Some(self.own_uid)
    }
}

impl Drop for UnixListener {
    fn drop(&mut self) {
        if let Some(made) = &self.made {
            made.remove();
        }
    }
}

/// Connects to the bus that listens on the socket `path`.
///
/// # Cancel safety
/// Dropping the future closes the connection.
///
/// # Errors
/// [`BusError::Connect`] that says whether nothing is there, nobody listens, or rights are missing.
pub async fn connect_unix(path: &Path) -> BusResult<Link> {
    let connected = UnixStream::connect(path).await.and_then(link);
    connected.map_err(|error| not_connected(path, error))
}

/// Connects with a link that outlives the connection.
pub(super) async fn connect_lasting(path: &Path) -> BusResult<Link> {
    let connected = UnixStream::connect(path).await.and_then(socket);
    connected.map(resume::link).map_err(|error| not_connected(path, error))
}

fn not_connected(path: &Path, error: io::Error) -> BusError {
    BusError::Connect {
        address: Address::Unix(path.to_owned()).to_string(),
        reason: explain_connect(path, &error),
        source: Some(Arc::new(error)),
    }
}

fn explain_connect(path: &Path, error: &io::Error) -> String {
    let start = format!("start a bus with `whispeer {}`", path.display());
    match error.kind() {
        io::ErrorKind::NotFound => format!("there is no such socket; {start}"),
        io::ErrorKind::ConnectionRefused => format!("no bus listens on this socket any more; {start}"),
        io::ErrorKind::PermissionDenied => {
            "no right to connect; the bus's user decides by the socket's mode (`--mode`)".into()
        }
        _ => error.to_string(),
    }
}

fn link(stream: UnixStream) -> io::Result<Link> {
    socket(stream).map(plain::link)
}

fn socket(stream: UnixStream) -> io::Result<Socket> {
    // A system that allows less gives less, and the link works all the same.
    let _ = SockRef::from(&stream).set_send_buffer_size(SEND_BUFFER);
    Socket::new(OwnedFd::from(stream.into_std()?))
}
