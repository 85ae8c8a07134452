//! A relay of datagrams, over which they are lost, overtake each other and take their time.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::net::UdpSocket;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

/// What becomes of datagrams, in either direction. Which of them is drawn by numbers that are always the same.
#[derive(Debug, Clone, Copy, Default)]
pub struct Weather {
    /// How many in a thousand are lost.
    pub lost: u32,
    /// How many in a thousand go behind the next one.
    pub overtaken: u32,
    /// How long each is under way.
    pub delay: Duration,
    /// Nothing comes back.
    pub one_way: bool,
}

/// Passes datagrams on to one address for as long as it lives, and the answers back.
#[derive(Debug)]
pub struct Relay {
    address: SocketAddr,
    seen: Arc<Mutex<Vec<u8>>>,
    cuts: Arc<Mutex<Cuts>>,
    _tasks: JoinSet<io::Result<()>>,
}

/// Whose datagrams are all lost.
#[derive(Debug, Default)]
struct Cuts {
    /// Clients that there are.
    known: HashSet<SocketAddr>,
    /// Those who are cut off, both ways and for good.
    cut: HashSet<SocketAddr>,
    /// So is whoever comes, for as long as this holds.
    refuses: bool,
}

impl Cuts {
    /// Whether datagrams of and to this client go through.
    fn pass(&mut self, client: SocketAddr) -> bool {
        if self.refuses || self.cut.contains(&client) {
            return false;
        }
        self.known.insert(client);
        true
    }

    fn cut(&mut self, refuses: bool) {
        self.cut.extend(self.known.drain());
        self.refuses = refuses;
    }
}

/// Datagrams on their way in one direction; what is beyond is lost, as it would be elsewhere.
const UNDER_WAY: usize = 16 * 1024;

/// Bytes that are kept of what has been seen.
const KEPT: usize = 16 * 1024 * 1024;

/// Bytes of the largest datagram.
const DATAGRAM: usize = 64 * 1024;

impl Relay {
    /// Begins to relay to a port of this host.
    ///
    /// # Errors
    /// There is no port for it.
    pub async fn to(port: u16, weather: Weather) -> io::Result<Self> {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = socket.local_addr()?;
        let (seen, cuts) = (Arc::default(), Arc::default());
        let mut tasks = JoinSet::new();
        let state = (Arc::clone(&seen), Arc::clone(&cuts));
        tasks.spawn(relay(socket, (Ipv4Addr::LOCALHOST, port).into(), weather, state));
        Ok(Self { address, seen, cuts, _tasks: tasks })
    }

    /// Loses from now on all that those send and get who are there. Others are passed on.
    pub fn cut(&self) {
        lock(&self.cuts).cut(false);
    }

    /// The same, and also for those who come until [`pass`](Self::pass) or [`cut`](Self::cut).
    pub fn refuse(&self) {
        lock(&self.cuts).cut(true);
    }

    /// Passes on what those send who come from now on.
    pub fn pass(&self) {
        lock(&self.cuts).refuses = false;
    }

    /// The port to send to instead.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// Whether any datagram so far had this text in it.
    #[must_use]
    pub fn has_seen(&self, text: &str) -> bool {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.windows(text.len()).any(|window| window == text.as_bytes())
    }

    /// How many bytes it has seen.
    #[must_use]
    pub fn bytes_seen(&self) -> usize {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).len()
    }
}

fn lock(cuts: &Mutex<Cuts>) -> MutexGuard<'_, Cuts> {
    cuts.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Takes what clients send, and has a way to and fro for each of them.
async fn relay(
    socket: UdpSocket,
    to: SocketAddr,
    weather: Weather,
    (seen, cuts): (Arc<Mutex<Vec<u8>>>, Arc<Mutex<Cuts>>),
) -> io::Result<()> {
    let socket = Arc::new(socket);
    let mut ways: HashMap<SocketAddr, Way> = HashMap::new();
    let mut tasks = JoinSet::new();
    let mut buffer = vec![0; DATAGRAM];
    loop {
        let (count, from) = socket.recv_from(&mut buffer).await?;
        if !lock(&cuts).pass(from) {
            continue;
        }
        let way = match ways.entry(from) {
            Entry::Occupied(way) => way.into_mut(),
            Entry::Vacant(place) => {
                let onward = Arc::new(UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await?);
                let seed = u64::from(from.port());
                let back = Way::new(Arc::clone(&socket), from, weather, !seed, &seen, &mut tasks);
                tasks.spawn(return_answers(Arc::clone(&onward), back, from, Arc::clone(&cuts)));
                place.insert(Way::new(onward, to, weather, seed, &seen, &mut tasks))
            }
        };
        way.send(&buffer[..count]);
    }
}

/// Takes what comes for one client.
async fn return_answers(
    socket: Arc<UdpSocket>,
    mut back: Way,
    client: SocketAddr,
    cuts: Arc<Mutex<Cuts>>,
) -> io::Result<()> {
    let mut buffer = vec![0; DATAGRAM];
    loop {
        let (count, _) = socket.recv_from(&mut buffer).await?;
        if !back.weather.one_way && lock(&cuts).pass(client) {
            back.send(&buffer[..count]);
        }
    }
}

/// One direction between two sockets.
struct Way {
    weather: Weather,
    drawn: u64,
    /// One that the next one overtakes.
    held: Option<Vec<u8>>,
    queue: mpsc::Sender<(Instant, Vec<u8>)>,
    seen: Arc<Mutex<Vec<u8>>>,
}

impl Way {
    fn new(
        socket: Arc<UdpSocket>,
        to: SocketAddr,
        weather: Weather,
        seed: u64,
        seen: &Arc<Mutex<Vec<u8>>>,
        tasks: &mut JoinSet<io::Result<()>>,
    ) -> Self {
        let (queue, mut waiting) = mpsc::channel::<(Instant, Vec<u8>)>(UNDER_WAY);
        tasks.spawn(async move {
            while let Some((at, datagram)) = waiting.recv().await {
                sleep_until(at).await;
                // Nobody may be there any more.
                let _ = socket.send_to(&datagram, to).await;
            }
            Ok(())
        });
        Self { weather, drawn: seed | 1, held: None, queue, seen: Arc::clone(seen) }
    }

    /// A number below a thousand.
    fn draw(&mut self) -> u32 {
        // Xorshift (Marsaglia, 2003).
        self.drawn ^= self.drawn << 13;
        self.drawn ^= self.drawn >> 7;
        self.drawn ^= self.drawn << 17;
        u32::try_from((self.drawn >> 32) % 1000).unwrap_or_default()
    }

    fn send(&mut self, datagram: &[u8]) {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if seen.len() < KEPT {
            seen.extend_from_slice(datagram);
        }
        drop(seen);
        if self.draw() < self.weather.lost {
            return;
        }
        if self.draw() < self.weather.overtaken && self.held.is_none() {
            self.held = Some(datagram.to_vec());
            return;
        }
        self.pass(datagram.to_vec());
        if let Some(held) = self.held.take() {
            self.pass(held);
        }
    }

    fn pass(&self, datagram: Vec<u8>) {
        let _ = self.queue.try_send((Instant::now() + self.weather.delay, datagram));
    }
}
