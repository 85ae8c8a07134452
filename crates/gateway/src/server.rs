//! Who accepts connections, and for how long each may take.

use std::collections::HashMap;
use std::future::poll_fn;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Poll;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tower::ServiceExt;

use crate::api::Stranger;
use crate::gateway::{GatewayError, Phase};
use crate::limits;
use crate::rates::block_of;
use crate::shared::{Remote, Shared};
use crate::stream::TimedStream;

/// Listens at all of these addresses.
///
/// # Errors
/// At which it cannot, and why.
pub(crate) fn listen(addresses: &[SocketAddr]) -> Result<Vec<TcpListener>, GatewayError> {
    let mut listeners = Vec::new();
    let mut chosen = None;
    for address in addresses {
        let mut address = *address;
        if address.port() == 0 {
            address.set_port(chosen.unwrap_or(0));
        }
        let failed = |error| GatewayError::Listen { address, error };
        let listener = listen_at(address).map_err(failed)?;
        chosen = Some(listener.local_addr().map_err(failed)?.port());
        listeners.push(listener);
    }
    if listeners.is_empty() {
        return Err(GatewayError::Settings("there is no address to listen at".into()));
    }
    Ok(listeners)
}

fn listen_at(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    // A gateway that is started again finds connections of the one before that are not forgotten yet.
    #[cfg(unix)]
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(limits::BACKLOG)
}

pub(crate) struct Server {
    shared: Arc<Shared>,
    listeners: Vec<TcpListener>,
    router: Router,
    places: Arc<Places>,
}

/// Places for connections, in all and for each address.
struct Places {
    all: Arc<Semaphore>,
    per_address: usize,
    taken: Mutex<HashMap<IpAddr, usize>>,
}

/// A place, until it is dropped.
struct Place {
    _of_all: OwnedSemaphorePermit,
    of_address: Option<(Arc<Places>, IpAddr)>,
}

impl Places {
    /// A place for a connection from there.
    ///
    /// # Errors
    /// Which bound is reached.
    fn take(self: &Arc<Self>, address: IpAddr) -> Result<Place, &'static str> {
        let of_all = Arc::clone(&self.all).try_acquire_owned().map_err(|_| "connections")?;
        let block = block_of(address);
        // That is everybody on this host, and everybody behind a proxy there.
        if block.is_loopback() {
            return Ok(Place { _of_all: of_all, of_address: None });
        }
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let count = taken.entry(block).or_default();
        if *count >= self.per_address {
            return Err("connections_of_address");
        }
        *count += 1;
        Ok(Place { _of_all: of_all, of_address: Some((Arc::clone(self), block)) })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let Some((places, block)) = &self.of_address else { return };
        let mut taken = places.taken.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = taken.get_mut(block) {
            *count -= 1;
            if *count == 0 {
                taken.remove(block);
            }
        }
    }
}

impl Server {
    pub(crate) fn new(shared: Arc<Shared>, listeners: Vec<TcpListener>, router: Router) -> Self {
        let places = Arc::new(Places {
            all: Arc::new(Semaphore::new(shared.settings.max_connections.min(Semaphore::MAX_PERMITS))),
            per_address: shared.settings.max_connections_per_address,
            taken: Mutex::default(),
        });
        Self { shared, listeners, router, places }
    }

    /// Serves until it is to drain, and then for as long as what is there takes, at most `grace`.
    pub(crate) async fn run(self, mut phase: watch::Receiver<Phase>, grace: Duration) {
        let Self { shared, listeners, router, places } = self;
        let mut connections = JoinSet::new();
        let mut turn = 0;
        loop {
            tokio::select! {
                accepted = accept(&listeners, &mut turn) => match accepted {
                    Ok((stream, address)) => match places.take(address.ip()) {
                        Ok(place) => {
                            // A small answer or message is not to wait for the next one.
                            let _ = stream.set_nodelay(true);
                            // What is upgraded outlives the task that is spawned here, and keeps its place.
                            let held = (shared.metrics.connected(), place);
                            let stream = TimedStream::new(stream, limits::STALL_TIME, held);
                            connections.spawn(serve(stream, address, router.clone(), phase.clone()));
                        }
                        // Closed without a word: whoever is over a bound gets no work of ours.
                        Err(bound) => {
                            shared.metrics.refused("http", bound);
                            tracing::debug!(%address, bound, "a connection is refused: the bound is reached");
                        }
                    },
                    Err(error) => {
                        tracing::warn!(%error, "no connection can be accepted; trying again");
                        // File descriptors that are used up come back when connections end.
                        sleep(Duration::from_millis(100)).await;
                    }
                },
                Some(_) = connections.join_next(), if !connections.is_empty() => {}
                () = drains(&mut phase) => break,
            }
        }
        drop(listeners);
        let all_end = async {
            while connections.join_next().await.is_some() {}
            shared.sockets_closed().await;
        };
        if timeout(grace, all_end).await.is_err() {
            tracing::info!(?grace, "connections that have not ended in time are closed");
        }
    }
}

/// The next connection at any of these, each of which goes first in turn: a flood at one leaves the others their part.
///
/// # Cancel safety
/// No connection is lost when the future is dropped.
async fn accept(listeners: &[TcpListener], turn: &mut usize) -> io::Result<(TcpStream, SocketAddr)> {
    poll_fn(|context| {
        let (before, first) = listeners.split_at(*turn % listeners.len().max(1));
        let accepted = first.iter().chain(before).map(|listener| listener.poll_accept(context));
        let accepted = accepted.into_iter().find(Poll::is_ready).unwrap_or(Poll::Pending);
        *turn = turn.wrapping_add(usize::from(accepted.is_ready()));
        accepted
    })
    .await
}

/// Waits until it is to drain. Where nobody is left to say so, it is.
async fn drains(phase: &mut watch::Receiver<Phase>) {
    let _ = phase.wait_for(|phase| *phase >= Phase::Draining).await;
}

/// Serves one connection to its end.
async fn serve(stream: TimedStream, address: SocketAddr, router: Router, mut phase: watch::Receiver<Phase>) {
    let stream = TokioIo::new(stream);
    let stranger = Arc::new(Stranger::default());
    let service = router.map_request(move |mut request: http::Request<hyper::body::Incoming>| {
        request.extensions_mut().insert(Remote(address));
        request.extensions_mut().insert(Arc::clone(&stranger));
        request.map(Body::new)
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits::HEAD_TIME)
        .max_buf_size(limits::HEAD_BYTES)
        .serve_connection(stream, TowerToHyperService::new(service))
        .with_upgrades();
    let mut connection = pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = drains(&mut phase) => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%address, %error, "a connection has ended with an error");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_so_many_places_and_gets_them_back() {
        let all = Arc::new(Semaphore::new(3));
        let places = Arc::new(Places { all, per_address: 1, taken: Mutex::default() });
        let [one, other, own] = ["192.0.2.1", "192.0.2.2", "127.0.0.1"].map(|ip| ip.parse().unwrap());
        let first = places.take(one).unwrap();
        assert_eq!(places.take(one).err(), Some("connections_of_address"));
        drop(first);
        let _first = places.take(one).unwrap();
        let (_second, _third) = (places.take(own).unwrap(), places.take(own).unwrap());
        assert_eq!(places.take(other).err(), Some("connections"));
    }
}
