//! A UDP socket, and who owns the work on it.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::task::Poll;

use quinn::{EndpointConfig, Runtime};
use socket2::{Domain, Protocol, SockAddr, SockRef, Type};
use tokio::runtime::Handle;
use tokio::task::AbortHandle;

use super::drive::{Drive, Hands, Work, lock};
use crate::limits;

/// A UDP socket, and the task that hands what arrives there to its connections. Both end with the last of the
/// listener and the connections, which own it together.
pub(super) struct Endpoint {
    pub(super) quinn: quinn::Endpoint,
    pub(super) hands: Arc<Hands>,
    receiving: Arc<Receiving>,
    task: AbortHandle,
}

/// The work of the task. Whoever drops the endpoint takes it, so that the socket is closed by then.
struct Receiving {
    work: Mutex<Option<Work>>,
    stopped: AtomicBool,
}

impl Endpoint {
    /// An endpoint at this address, within the current runtime. Without `server` nobody can connect to it.
    pub(super) fn bind(address: SocketAddr, server: Option<quinn::ServerConfig>) -> io::Result<Arc<Self>> {
        Self::over(bind(address)?, server)
    }

    /// An endpoint with this socket, within the current runtime.
    pub(super) fn over(
        socket: std::net::UdpSocket,
        server: Option<quinn::ServerConfig>,
    ) -> io::Result<Arc<Self>> {
        // The system gives what it allows. What does not fit is lost and sent again, more slowly.
        let _ = SockRef::from(&socket).set_recv_buffer_size(limits::UDP_BUFFER);
        let _ = SockRef::from(&socket).set_send_buffer_size(limits::UDP_BUFFER);
        socket.set_nonblocking(true)?;
        let runtime = Handle::current();
        let hands = Arc::new(Hands::new(runtime.clone()));
        let mut config = EndpointConfig::default();
        // quinn has a buffer ready for as many packets of this size as the system may hand over at a time.
        config.max_udp_payload_size(limits::QUIC_PACKET).map_err(io::Error::other)?;
        let shared: Arc<dyn Runtime> = Arc::clone(&hands) as _;
        let (quinn, drive) = hands.catch(|| quinn::Endpoint::new(config, server, socket, shared));
        let quinn = quinn?;
        let receiving =
            Arc::new(Receiving { work: Mutex::new(drive.into_work()), stopped: AtomicBool::new(false) });
        let task = runtime.spawn(Arc::clone(&receiving).run()).abort_handle();
        Ok(Arc::new(Self { quinn, hands, receiving, task }))
    }

    pub(super) fn local_addr(&self) -> io::Result<SocketAddr> {
        self.quinn.local_addr()
    }

    /// Calls quinn for a new connection, and returns with its result the work of that connection.
    pub(super) fn open<T>(&self, call: impl FnOnce(&quinn::Endpoint) -> T) -> (T, Drive) {
        self.hands.catch(|| call(&self.quinn))
    }
}

impl Drop for Endpoint {
    fn drop(&mut self) {
        self.receiving.stopped.store(true, Ordering::Release);
        // It may be that the task is at work, even further up on this thread; then it lets go of it itself.
        if let Ok(mut work) = self.receiving.work.try_lock() {
            drop(work.take());
        }
        self.task.abort();
    }
}

impl Receiving {
    async fn run(self: Arc<Self>) {
        std::future::poll_fn(|context| {
            let mut work = lock(&self.work);
            let ready = work.as_mut().is_none_or(|work| work.as_mut().poll(context).is_ready());
            if ready || self.stopped.load(Ordering::Acquire) {
                *work = None;
                return Poll::Ready(());
            }
            Poll::Pending
        })
        .await;
    }
}

fn bind(address: SocketAddr) -> io::Result<std::net::UdpSocket> {
    let socket = socket2::Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    if let IpAddr::V6(ip) = address.ip() {
        // All addresses of the host means those of IPv4 too; a single one only itself.
        socket.set_only_v6(!ip.is_unspecified())?;
    }
    socket.bind(&SockAddr::from(address))?;
    Ok(socket.into())
}
