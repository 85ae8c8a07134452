//! A relay between clients and a bus over TCP whose connections can be made to fail.
//!
//! It passes bytes on in both directions and knows nothing of them. A test tells it what to do to all
//! connections at once: cut them, in the middle of whatever is under way; stand still; or close one direction.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// What the relay does with its connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Order {
    /// Passes on what comes.
    Pass,
    /// Passes nothing on, and keeps the connections.
    Stall,
    /// Ends those that have begun before, and refuses new ones.
    Refuse,
}

#[derive(Debug, Clone, Copy)]
struct Orders {
    order: Order,
    /// Connections with a lower number are cut.
    first_alive: u64,
    /// Connections with a lower number pass nothing more on to the client, and tell it that.
    closed_to_client: u64,
    delay: Duration,
}

/// A relay. It ends, with its connections, when it is dropped.
#[derive(Debug)]
pub struct Relay {
    address: SocketAddr,
    orders: watch::Sender<Orders>,
    accepted: watch::Receiver<u64>,
    _task: JoinSet<()>,
}

impl Relay {
    /// A relay to the port on this host.
    ///
    /// # Errors
    /// No port can be listened on.
    pub async fn to(port: u16) -> io::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let address = listener.local_addr()?;
        let orders = watch::Sender::new(Orders {
            order: Order::Pass,
            first_alive: 0,
            closed_to_client: 0,
            delay: Duration::ZERO,
        });
        let (counted, accepted) = watch::channel(0);
        let mut task = JoinSet::new();
        task.spawn(accept(listener, port, orders.subscribe(), counted));
        Ok(Self { address, orders, accepted, _task: task })
    }

    /// The port to connect to.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// Connections that have been made so far.
    #[must_use]
    pub fn accepted(&self) -> u64 {
        *self.accepted.borrow()
    }

    /// Waits until so many connections have been made.
    pub async fn wait_for(&mut self, count: u64) {
        let _ = self.accepted.wait_for(|accepted| *accepted >= count).await;
    }

    fn order(&self, change: impl FnOnce(&mut Orders)) {
        self.orders.send_modify(change);
    }

    /// Ends all connections, wherever they are. New ones are passed on.
    pub fn cut(&self) {
        let alive = self.accepted() + 1;
        self.order(|orders| {
            orders.order = Order::Pass;
            orders.first_alive = alive;
        });
    }

    /// Ends all connections and lets none come until [`pass`](Self::pass) or [`cut`](Self::cut).
    pub fn refuse(&self) {
        let alive = self.accepted() + 1;
        self.order(|orders| {
            orders.order = Order::Refuse;
            orders.first_alive = alive;
        });
    }

    /// Passes nothing on until [`pass`](Self::pass) or [`cut`](Self::cut).
    pub fn stall(&self) {
        self.order(|orders| orders.order = Order::Stall);
    }

    /// Passes on again.
    pub fn pass(&self) {
        self.order(|orders| orders.order = Order::Pass);
    }

    /// Closes the direction to the clients, whose bytes still reach the bus.
    pub fn close_to_clients(&self) {
        let closed = self.accepted() + 1;
        self.order(|orders| orders.closed_to_client = closed);
    }

    /// Passes each piece on so much later.
    pub fn delay(&self, delay: Duration) {
        self.order(|orders| orders.delay = delay);
    }
}

async fn accept(
    listener: TcpListener,
    port: u16,
    orders: watch::Receiver<Orders>,
    counted: watch::Sender<u64>,
) {
    let mut connections = JoinSet::new();
    while let Ok((client, _)) = listener.accept().await {
        while connections.try_join_next().is_some() {}
        if orders.borrow().order == Order::Refuse {
            continue;
        }
        let Ok(bus) = TcpStream::connect(("127.0.0.1", port)).await else { continue };
        let number = *counted.borrow() + 1;
        counted.send_replace(number);
        let orders = orders.clone();
        connections.spawn(async move {
            let _ = client.set_nodelay(true);
            let _ = bus.set_nodelay(true);
            let (client_read, client_write) = client.into_split();
            let (bus_read, bus_write) = bus.into_split();
            let mut alive = orders.clone();
            let orders = Arc::new(orders);
            tokio::select! {
                _ = alive.wait_for(|orders| orders.first_alive > number) => {}
                _ = async { tokio::join!(
                    pass(client_read, bus_write, Arc::clone(&orders), None),
                    pass(bus_read, client_write, orders, Some(number)),
                ) } => {}
            }
        });
    }
}

/// Passes one direction on; with a number, the direction to the client of that connection.
async fn pass(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    orders: Arc<watch::Receiver<Orders>>,
    number: Option<u64>,
) {
    let mut orders = (*orders).clone();
    let mut buffer = vec![0; 16 * 1024];
    loop {
        if orders.wait_for(|orders| orders.order != Order::Stall).await.is_err() {
            return;
        }
        let closed = |orders: &Orders| number.is_some_and(|number| orders.closed_to_client > number);
        let read = tokio::select! {
            read = from.read(&mut buffer) => Some(read),
            () = async { drop(orders.wait_for(closed).await) } => None,
        };
        let count = match read {
            Some(Ok(count @ 1..)) => count,
            Some(_) => {
                let _ = to.shutdown().await;
                return;
            }
            None => {
                let _ = to.shutdown().await;
                // The other direction goes on.
                return std::future::pending().await;
            }
        };
        let delay = orders.borrow().delay;
        if !delay.is_zero() {
            tokio::time::sleep(delay).await;
        }
        if orders.wait_for(|orders| orders.order != Order::Stall).await.is_err() {
            return;
        }
        if to.write_all(buffer.get(..count).unwrap_or_default()).await.is_err() {
            return;
        }
    }
}
