//! Tasks that run beside a bus and belong to it: what joins it to something else.

use std::fmt;
use std::pin::Pin;

use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::{BusBuilder, BusView, Shared};
use crate::error::{BusError, BusResult};
use crate::limits;

type Task = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Those that are to be started with a bus.
#[derive(Default)]
pub(super) struct Companions(Vec<Box<dyn FnOnce(BusView) -> Task + Send>>);

impl BusBuilder {
    /// Runs a task beside the bus, which begins when clients are let in and belongs to the bus: a gateway, a link to other buses.
    /// It is given a [`BusView`], by which it connects as a client does.
    ///
    /// When the bus drains, [`BusView::draining`] tells it. The drain waits for it, too, once nothing else is in flight, but no
    /// longer than [`COMPANION_GRACE`](crate::limits::COMPANION_GRACE); the bus serves its sessions meanwhile. When the bus stops without a drain,
    /// its sessions end as all do, and it has as long to end itself. What is still there then is dropped where it waits.
    ///
    /// One that ends, or panics, ends nothing but itself; a panic is logged. A bus that it should not outlive has to be ended by
    /// whoever holds the [`BusHandle`](super::BusHandle).
    ///
    /// [`start`](Self::start) fails with [`BusError::InvalidSettings`] for more than
    /// [`COMPANIONS`](crate::limits::COMPANIONS).
    ///
    /// # Examples
    /// Greets everybody, and says goodbye when the bus drains:
    /// ```
    /// use std::time::Duration;
    ///
    /// use whispeer::auth::Principal;
    /// use whispeer::bus::BusView;
    /// use whispeer::prelude::*;
    /// use whispeer::transport::Peer;
    ///
    /// async fn greet(bus: BusView) -> BusResult<()> {
    ///     let porter = Principal::Token { issuer: "house".into(), subject: "porter".into() };
    ///     let link = bus.connect(Peer::new(porter, "memory"))?;
    ///     let client = Client::builder().name("porter").connect_link(link)?;
    ///     let mut door = client.serve_bytes("door").await?;
    ///     loop {
    ///         tokio::select! {
    ///             Some((_, request, _)) = door.recv() => client.respond_bytes(request, "welcome".into()).await?,
    ///             () = bus.draining() => return client.close().await,
    ///         }
    ///     }
    /// }
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> BusResult<()> {
    /// let bus = Bus::builder()
    ///     .companion(|bus| async move {
    ///         if let Err(error) = greet(bus).await {
    ///             eprintln!("the porter has gone: {error}");
    ///         }
    ///     })
    ///     .start()?;
    /// let client = Client::new_memory(&bus.connector())?;
    /// # while bus.served().is_empty() { tokio::task::yield_now().await; }
    /// assert_eq!(client.request_bytes("door", "".into()).await?, "welcome");
    /// bus.drain(Duration::from_secs(5)).await;
    /// # Ok(())
    /// # }
    /// ```
    pub fn companion<F, Fut>(mut self, run: F) -> Self
    where
        F: FnOnce(BusView) -> Fut + Send + 'static,
        Fut: Future<Output = ()> + Send + 'static,
    {
        // Called within its task, so that a panic is its own from the first line on.
        self.companions.0.push(Box::new(|view| Box::pin(async move { run(view).await })));
        self
    }
}

impl Companions {
    /// That they are not too many.
    pub(super) fn check(&self) -> BusResult<()> {
        if self.0.len() > limits::COMPANIONS {
            let what = format!("{} companions; a bus takes {} at the most", self.0.len(), limits::COMPANIONS);
            return Err(BusError::InvalidSettings(what));
        }
        Ok(())
    }

    /// Starts all of them; `running` has their number from here on.
    pub(super) fn begin(self, view: &BusView, running: &watch::Sender<usize>) -> JoinSet<()> {
        let mut tasks = JoinSet::new();
        for run in self.0 {
            running.send_modify(|count| *count += 1);
            let ended = Ended(running.clone());
            let task = run(view.clone());
            tasks.spawn(async move {
                let _ended = ended;
                task.await;
            });
        }
        tasks
    }
}

impl fmt::Debug for Companions {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} companions", self.0.len())
    }
}

/// Counts one less when its task has ended, however that was.
struct Ended(watch::Sender<usize>);

impl Drop for Ended {
    fn drop(&mut self) {
        self.0.send_modify(|count| *count = count.saturating_sub(1));
    }
}

/// Notices those that end, and logs those that panic, for as long as it is polled.
pub(super) async fn attend(companions: &mut JoinSet<()>) {
    all_ended(companions).await;
    std::future::pending().await
}

/// Gives them time to end, and drops those that do not.
pub(super) async fn finish(mut companions: JoinSet<()>) {
    if timeout(limits::COMPANION_GRACE, all_ended(&mut companions)).await.is_err() {
        tracing::warn!(left = companions.len(), "companions of the bus that did not end in time are dropped");
    }
    companions.shutdown().await;
}

async fn all_ended(companions: &mut JoinSet<()>) {
    while let Some(ended) = companions.join_next().await {
        if let Err(error) = ended {
            tracing::error!(%error, "a companion of the bus ended abnormally; the bus goes on without it");
        }
    }
}

impl Shared {
    /// Waits until all companions have ended, but not for long.
    pub(super) async fn companions_ended(&self) {
        let mut running = self.companions.subscribe();
        // Those that take longer are told of when the bus stops.
        let _ = timeout(limits::COMPANION_GRACE, running.wait_for(|count| *count == 0)).await;
    }
}
