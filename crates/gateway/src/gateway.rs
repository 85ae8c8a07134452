//! The way in.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use thiserror::Error;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use whispeer::bus::BusView;
use whispeer::{BusError, BusHandle};

use crate::routes::router;
use crate::server::{Server, listen};
use crate::settings::Settings;
use crate::shared::Shared;

/// Why there is no gateway.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum GatewayError {
    /// A setting cannot be used; the text names it and says what to write instead.
    #[error("{0}")]
    Settings(String),
    /// It cannot listen there.
    #[error("cannot listen on http://{address}: {error}")]
    Listen {
        /// Where.
        address: SocketAddr,
        /// What the system said.
        error: io::Error,
    },
    /// What the bus said.
    #[error(transparent)]
    Bus(#[from] BusError),
}

/// HTTP and WebSocket over a bus.
///
/// It ends when the bus drains or stops. Dropping it stops it at once.
///
/// # Examples
/// ```
/// use tokio::io::{AsyncReadExt, AsyncWriteExt};
/// use tokio::net::TcpStream;
/// use whispeer::prelude::*;
/// use whispeer_gateway::{Gateway, Settings};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let bus = Bus::builder().start()?;
/// let gateway = Gateway::start(&bus, Settings::new("127.0.0.1:0".parse()?)).await?;
///
/// let mut connection = TcpStream::connect(gateway.local_addr()).await?;
/// connection.write_all(b"GET /healthz HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").await?;
/// let mut answer = String::new();
/// connection.read_to_string(&mut answer).await?;
/// assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.ends_with("\r\n\r\nok"));
///
/// gateway.stop().await;
/// # Ok(())
/// # }
/// ```
pub struct Gateway {
    local: Vec<SocketAddr>,
    end: watch::Sender<Phase>,
    grace: Duration,
    task: JoinHandle<()>,
}

/// How far it has come to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd)]
pub(crate) enum Phase {
    Running,
    /// Nothing new is taken, and what is there finishes.
    Draining,
}

impl Gateway {
    /// Starts it over a bus in this process.
    ///
    /// # Errors
    /// For a setting that cannot be used, and if it cannot listen there.
    pub async fn start(bus: &BusHandle, settings: Settings) -> Result<Self, GatewayError> {
        Self::start_over(bus.view(), settings).await
    }

    /// Starts it over a bus that somebody else has the handle of.
    ///
    /// # Errors
    /// As [`start`](Self::start).
    pub async fn start_over(bus: BusView, settings: Settings) -> Result<Self, GatewayError> {
        let listeners = listen(&settings.listen)?;
        Self::start_on(bus, listeners, settings)
    }

    /// Starts it on sockets that listen already, whatever the settings say of where.
    ///
    /// # Errors
    /// For a setting that cannot be used, and if there is no socket.
    pub fn start_on(
        bus: BusView,
        listeners: Vec<TcpListener>,
        settings: Settings,
    ) -> Result<Self, GatewayError> {
        let local: Vec<_> = listeners.iter().filter_map(|listener| listener.local_addr().ok()).collect();
        if local.is_empty() {
            return Err(GatewayError::Settings("there is no socket that listens".into()));
        }
        let (end, phase) = watch::channel(Phase::Running);
        let grace = settings.grace;
        let shared = Arc::new(Shared::new(bus, settings, &local, phase.clone())?);
        let router = router(&shared);
        let server = Server::new(Arc::clone(&shared), listeners, router);
        let begin = end.clone();
        let task = tokio::spawn(async move {
            let drained = shared.bus.draining();
            let ends = async move {
                drained.await;
                begin.send_replace(Phase::Draining);
                std::future::pending::<()>().await;
            };
            tokio::select! {
                () = server.run(phase, grace) => {}
                () = ends => {}
            }
        });
        Ok(Self { local, end, grace, task })
    }

    /// Where it listens, in the order in which that was given.
    #[must_use]
    pub fn local_addrs(&self) -> &[SocketAddr] {
        &self.local
    }

    /// The first address at which it listens.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        // There is one; without, it is not started.
        self.local.first().copied().unwrap_or_else(|| ([0, 0, 0, 0], 0).into())
    }

    /// Takes nothing new, lets what is there finish for as long as the settings say, and ends.
    ///
    /// # Cancel safety
    /// When the future is dropped it stops at once.
    pub async fn stop(mut self) {
        self.end.send_replace(Phase::Draining);
        // The server bounds it by the same time; what is beside it takes no time.
        let _ = timeout(self.grace + Duration::from_secs(1), &mut self.task).await;
    }

    /// Waits until it has ended, as the bus has.
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped.
    pub async fn join(&mut self) {
        let _ = (&mut self.task).await;
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl fmt::Debug for Gateway {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Gateway").field("local", &self.local).finish_non_exhaustive()
    }
}
