//! The thread that a broker lives on: it owns the bus, the client, both runtimes and every task.
//!
//! ```text
//!  publish, subscribe ──► Shared (queue) ──► sending ──► Client ──► bus
//!                                               │          │
//!  Publishing ◄────────────── settling ◄────────┘          ▼
//!  handlers ◄── threads, or tasks ◄── a task for each subscription
//! ```
//!
//! The bus, the client and the first two tasks run on the keeper's own thread, where no code of the application ever does but the
//! bus's plugins. Handlers, and the reading of their types, have a runtime of their own, so that one that blocks holds up handlers alone.

use std::cell::Cell;
use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Poll;
use std::thread;

use tokio::runtime::{Builder, Runtime};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};

use super::builder::Encrypting;
use super::consumer::{Consumer, Telling};
use super::handling::Handling;
use super::persistence::{Kept, Persistence};
use super::queue::{Operation, Outgoing, Shared, Subscribe};
use super::stats::add;
use super::subscription::{Task, Tasks};
use crate::bus::{Bus, BusHandle};
use crate::client::{Acknowledgement, Client};
use crate::engine::Engines;
use crate::engine::compression::Compression;
use crate::error::{BusError, BusResult};
use crate::limits;
use crate::plugin::Plugins;
use crate::transport::{Address, MemoryConnector};

#[cfg(feature = "websocket")]
use super::parts::WebSocket;

/// Publishes whose outcome is awaited at a time, twice over. The bus lets no more than its window be under way.
const SETTLING: usize = limits::WINDOW_MESSAGES as usize;

/// Publishes that were sent, in their order.
type Sent = (Acknowledgement, oneshot::Sender<BusResult<usize>>);

thread_local! {
    /// The broker that this thread belongs to; 0 for none.
    static BROKER: Cell<u64> = const { Cell::new(0) };
}

/// Whether this thread is one of that broker's.
pub(super) fn is_own_thread(broker: u64) -> bool {
    // A thread that is ending belongs to nobody.
    BROKER.try_with(Cell::get).unwrap_or_default() == broker
}

/// What a broker begins with.
pub(super) struct Plan {
    pub(super) encryption: Option<Encrypting>,
    pub(super) compression: Option<Compression>,
    pub(super) persistence: Option<Persistence>,
    pub(super) plugins: Plugins,
    #[cfg(feature = "websocket")]
    pub(super) websocket: Option<(Address, WebSocket)>,
}

/// A running broker, as its owner sees it.
pub(super) struct Keeper {
    /// Where clients of the same process come to its bus, and others; nothing if it has joined another's.
    pub(super) connector: Option<MemoryConnector>,
    pub(super) addresses: Vec<Address>,
    pub(super) thread: thread::JoinHandle<()>,
    /// How it ended: with something left, or not. It has ended when the sender is gone, also where that has said nothing.
    pub(super) end: watch::Receiver<Option<Result<(), Left>>>,
}

/// What was left when a broker had no more time to drain.
#[derive(Debug, Clone, Copy)]
pub(super) struct Left {
    pub(super) queued: usize,
    pub(super) in_flight: usize,
    pub(super) subscriptions: usize,
}

/// Begins a broker. What is returned tells when it runs.
///
/// # Errors
/// What the system says when it gives no threads.
pub(super) fn start(
    shared: Arc<Shared>,
    plan: Plan,
) -> BusResult<impl Future<Output = BusResult<Keeper>> + Send + 'static> {
    let id = shared.id;
    let core = Builder::new_current_thread().enable_all().build().map_err(refused)?;
    let handlers = Builder::new_multi_thread()
        .worker_threads(shared.options.workers)
        .max_blocking_threads(shared.options.handlers)
        .thread_name("whispeer-handler")
        .on_thread_start(move || BROKER.set(id))
        .enable_all()
        .build()
        .map_err(refused)?;
    let (started, starting) = oneshot::channel();
    let (ended, end) = watch::channel(None);
    let keep = move || {
        BROKER.set(id);
        let shut = Shut(shared);
        keep(&core, handlers, &shut.0, plan, started, &ended);
        drop(core);
    };
    let thread = thread::Builder::new().name("whispeer-broker".into()).spawn(keep).map_err(refused)?;
    Ok(async move {
        let (connector, addresses) = starting.await.unwrap_or_else(|_| Err(super::publishing::closed()))?;
        Ok(Keeper { connector, addresses, thread, end })
    })
}

fn refused(error: std::io::Error) -> BusError {
    BusError::InvalidSettings(format!("the system gives no threads for a broker: {error}"))
}

/// Lets nobody wait for a broker that is not there any more, however it has ended.
struct Shut(Arc<Shared>);

impl Drop for Shut {
    fn drop(&mut self) {
        self.0.shut();
    }
}

type Started = (Option<MemoryConnector>, Vec<Address>);

fn keep(
    core: &Runtime,
    handlers: Runtime,
    shared: &Arc<Shared>,
    plan: Plan,
    started: oneshot::Sender<BusResult<Started>>,
    ended: &watch::Sender<Option<Result<(), Left>>>,
) {
    let runtime = handlers.handle().clone();
    let drained = core.block_on(async {
        let (bus, client, kept) = match begin(shared, plan).await {
            Ok(begun) => begun,
            Err(error) => {
                let _ = started.send(Err(error));
                return true;
            }
        };
        let connector = bus.as_ref().map(BusHandle::connector);
        let addresses = bus.as_ref().map(|bus| bus.local_addrs().to_vec()).unwrap_or_default();
        // Whoever built it has gone away if this fails, and so has the broker.
        if started.send(Ok((connector, addresses))).is_err() {
            shared.closing.send_replace(true);
        }
        let left = run(shared, &client, bus, kept, runtime).await;
        ended.send_replace(Some(left.map_or(Ok(()), Err)));
        left.is_none()
    });
    if drained {
        handlers.shutdown_timeout(limits::BROKER_HALT);
    } else {
        // A handler that blocks its thread cannot be ended; asynchronous ones end where they wait.
        handlers.shutdown_background();
    }
}

/// The bus, unless it is another's, the client, and what is kept.
type Begun = (Option<BusHandle>, Client, Option<Arc<Kept>>);

/// Starts the bus, unless there is another one to go to, and connects to it. The file of a broker that cannot begin is free when
/// that is told, so that another one may have it.
async fn begin(shared: &Shared, mut plan: Plan) -> BusResult<Begun> {
    #[cfg(feature = "websocket")]
    if plan.persistence.is_some() && plan.websocket.as_ref().is_some_and(|(_, websocket)| websocket.joins) {
        let what = "a broker that joins a bus keeps nothing: the bus does, if it has streams".to_owned();
        return Err(BusError::InvalidSettings(what));
    }
    #[cfg(feature = "websocket")]
    if !plan.plugins.is_empty() && plan.websocket.as_ref().is_some_and(|(_, websocket)| websocket.joins) {
        let what = "a broker that joins a bus has no plugins: give them to the bus".to_owned();
        return Err(BusError::InvalidSettings(what));
    }
    let kept = match plan.persistence.take() {
        Some(persistence) => Some(Arc::new(persistence.open().await?)),
        None => None,
    };
    let begun = begin_with(shared, plan, kept.clone()).await;
    if let (Err(_), Some(kept)) = (&begun, kept) {
        kept.close_within(limits::BROKER_HALT).await;
    }
    begun
}

async fn begin_with(shared: &Shared, plan: Plan, kept: Option<Arc<Kept>>) -> BusResult<Begun> {
    let mut engines = Engines::new();
    if let Some(compression) = plan.compression {
        engines = engines.with(compression);
    }
    if let Some(encryption) = plan.encryption {
        engines = engines.with(encryption.engine(kept.as_deref()).await?);
    }
    let client = Client::builder().name("broker").engines(engines);
    let streams = kept.as_ref().map(|kept| kept.streams.clone()).unwrap_or_default();
    let bus = Bus::builder().settings(shared.options.settings.clone()).streams(streams).plugins(plan.plugins);
    #[cfg(feature = "websocket")]
    let (bus, client) = match plan.websocket {
        Some((address, websocket)) if websocket.joins => {
            #[cfg(feature = "tls")]
            let client = client.tls(websocket.client_tls.unwrap_or_default());
            return Ok((None, client.connect(&address.to_string()).await?, None));
        }
        Some((address, websocket)) => {
            let bus = bus.listen(&address);
            #[cfg(feature = "tls")]
            let bus = match websocket.server_tls {
                Some(tls) => bus.tls(tls),
                None => bus,
            };
            let _ = websocket.joins;
            (bus, client)
        }
        None => (bus, client),
    };
    let bus = bus.start()?;
    let client = client.connect_memory(&bus.connector())?;
    // From the welcome on, publishes are sent in the order in which they are begun.
    client.ping().await?;
    Ok((Some(bus), client, kept))
}

/// Runs the broker until it is closed, and drains it. Returns what was left, if there was no time for all.
async fn run(
    shared: &Arc<Shared>,
    client: &Client,
    bus: Option<BusHandle>,
    kept: Option<Arc<Kept>>,
    runtime: tokio::runtime::Handle,
) -> Option<Left> {
    let (sent, settling) = mpsc::channel(SETTLING);
    let mut own = JoinSet::new();
    let tasks = Tasks { runtime, set: JoinSet::new(), telling: JoinSet::new() };
    own.spawn(send(Arc::clone(shared), client.clone(), sent, kept.clone(), tasks));
    own.spawn(settle(Arc::clone(shared), settling));
    // Its sender is in what is borrowed here.
    let _ = shared.closing.subscribe().wait_for(|closing| *closing).await;
    let limit = shared.options.drain_limit;
    let deadline = Instant::now() + limit;
    let drained = timeout_at(deadline, drain(shared, client)).await.is_ok();
    let subscriptions = shared.live().len();
    let (queued, in_flight) = shared.shut();
    own.shutdown().await;
    // What has been sent is flushed, as long as there is time; then the link is closed in any case.
    let _ = timeout_at(deadline, client.close()).await;
    if let Some(bus) = bus {
        bus.drain(deadline.saturating_duration_since(Instant::now())).await;
    }
    if let Some(kept) = kept {
        // A disk that does not answer has had its time.
        kept.close_within(deadline.saturating_duration_since(Instant::now()).max(limits::BROKER_HALT)).await;
    }
    if drained {
        return None;
    }
    tracing::warn!(
        queued,
        in_flight,
        subscriptions,
        ?limit,
        "a broker ended before all was sent and handled"
    );
    Some(Left { queued, in_flight, subscriptions })
}

/// Sends what is queued and lets handlers finish, with all that they publish meanwhile.
async fn drain(shared: &Shared, client: &Client) {
    loop {
        until(shared, || shared.settled().is_some()).await;
        // What a handler asks for from here on is for the next round, whether it is done by the end of this one or not.
        let Some(accepted) = shared.settled() else { continue };
        // The answer to the first may overtake deliveries that are written with it, that to the second cannot.
        for _ in 0..2 {
            // A connection that has ended brings nothing more, and its subscriptions end.
            let _ = client.flush().await;
        }
        shared.asked.send_modify(|asked| *asked += 1);
        let asked = *shared.asked.borrow();
        until(shared, || shared.live().iter().all(|live| live.answered() >= asked)).await;
        if shared.settled() == Some(accepted) {
            break;
        }
    }
    // Whatever has come all the same is handled before the subscriptions end.
    let _ = client.drain().await;
    until(shared, || shared.live().is_empty()).await;
    // From then on nothing is taken.
    until(shared, || shared.shut_if_settled()).await;
}

/// Waits for progress until it is so.
async fn until(shared: &Shared, is_so: impl Fn() -> bool) {
    loop {
        let mut progress = std::pin::pin!(shared.progress.notified());
        progress.as_mut().enable();
        if is_so() {
            return;
        }
        progress.await;
    }
}

/// Does what is queued, one after the other.
async fn send(
    shared: Arc<Shared>,
    client: Client,
    sent: mpsc::Sender<Sent>,
    kept: Option<Arc<Kept>>,
    mut tasks: Tasks,
) {
    let mut unflushed = false;
    loop {
        match shared.take() {
            None => shared.arrived.notified().await,
            Some(Operation::Publish(Outgoing { topic, fields, payload, told })) => {
                unflushed = true;
                let fields = match &kept {
                    Some(kept) => kept.fields(&topic, &fields),
                    None => Ok(fields.as_slice().into()),
                };
                let sending = match fields {
                    Ok(fields) => client.send_encoded(&topic, &fields, &payload).await,
                    Err(error) => Err(error),
                };
                match sending {
                    // The task that settles them ends after this one.
                    Ok(acknowledgement) => drop(sent.send((acknowledgement, told)).await),
                    Err(error) => {
                        finish(&shared, Err(error), told);
                        shared.settle(1);
                    }
                }
            }
            Some(Operation::Subscribe(subscribe)) => {
                // Subscribing would overtake what was published before, which the subscription then saw.
                if std::mem::take(&mut unflushed) {
                    // If the connection has ended, subscribing says so.
                    let _ = client.flush().await;
                }
                make(&shared, &client, kept.as_deref(), subscribe, &mut tasks).await;
                shared.settle(1);
            }
        }
    }
}

async fn make(
    shared: &Arc<Shared>,
    client: &Client,
    kept: Option<&Kept>,
    subscribe: Subscribe,
    tasks: &mut Tasks,
) {
    let Subscribe { pattern, options, call, control } = subscribe;
    if control.is_stopped() {
        let what = format!("the subscription to \"{pattern}\"");
        tasks.discard(call);
        return control.set_ready(Err(BusError::Closed { what }));
    }
    let options = options.map_or_else(|| shared.options.subscribe.clone(), |options| *options);
    let patience = options.patience();
    // What a broker without a store has for keeping is another's bus.
    let stays = options.keeps_position() && kept.is_none_or(Kept::outlives_broker);
    match client.subscribe_bytes_with(&pattern, options).await {
        Ok(subscription) => {
            let handling = Handling::new(Arc::clone(shared), Arc::clone(&control), pattern, call);
            match subscription.progress() {
                Some(progress) => {
                    let telling = Telling::begin(&mut tasks.telling, progress, patience);
                    tasks.spawn(Consumer::new(handling, subscription, stays, telling).run());
                }
                None => tasks.spawn(Task::new(handling, subscription).run()),
            }
            control.set_ready(Ok(()));
        }
        Err(error) => {
            add(&shared.counters.lost_subscriptions, 1);
            tracing::error!(pattern = &*pattern, %error, "a broker cannot subscribe");
            tasks.discard(call);
            control.set_ready(Err(error));
        }
    }
}

/// Tells how publishes went, as soon as each is known.
async fn settle(shared: Arc<Shared>, mut settling: mpsc::Receiver<Sent>) {
    let mut waiting: VecDeque<Sent> = VecDeque::new();
    let mut ended = false;
    poll_fn(|context| {
        loop {
            let mut settled = 0;
            while waiting.len() < SETTLING && !ended {
                match settling.poll_recv(context) {
                    Poll::Ready(Some(sent)) => waiting.push_back(sent),
                    Poll::Ready(None) => ended = true,
                    Poll::Pending => break,
                }
            }
            // They mostly come in order. One that waits for a subscription without room holds up no other.
            let mut index = 0;
            while index < waiting.len() {
                let Some((acknowledgement, _)) = waiting.get_mut(index) else { break };
                let Poll::Ready(result) = Pin::new(acknowledgement).poll(context) else {
                    index += 1;
                    continue;
                };
                if let Some((_, told)) = waiting.remove(index) {
                    finish(&shared, result, told);
                    settled += 1;
                }
            }
            if settled == 0 {
                return if ended && waiting.is_empty() { Poll::Ready(()) } else { Poll::Pending };
            }
            shared.settle(settled);
        }
    })
    .await;
}

fn finish(shared: &Shared, result: BusResult<usize>, told: oneshot::Sender<BusResult<usize>>) {
    let counters = &shared.counters;
    match &result {
        Ok(matched) => {
            add(&counters.published, 1);
            add(&counters.matched, *matched as u64);
        }
        Err(error) => {
            add(&counters.failed, 1);
            // One line for each would fill a disk when a link breaks.
            if counters.failed.load(Ordering::Relaxed).is_power_of_two() {
                tracing::warn!(%error, failed = counters.failed.load(Ordering::Relaxed), "publishes of a broker failed");
            }
        }
    }
    // Whoever published may not want to know.
    let _ = told.send(result);
}
