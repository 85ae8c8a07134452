//! How all buses are, asked at one of them.
//!
//! `$bus/cluster` is served at each bus by its link. That asks all buses at `{prefix}.info`, which answer with their state in JSON, and tells what
//! has come within a second.

use std::sync::Arc;

use async_nats::{Client as Nats, Subscriber};
use bytes::Bytes;
use futures_util::StreamExt as _;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::Instant;
use whispeer::bus::{BusView, ClusterBus, ClusterStats};
use whispeer::client::{Client, RequestId};
use whispeer::{BusError, BusResult, ErrorReply};

use crate::limits;
use crate::members::Members;
use crate::subject::Subjects;
use crate::survey::{Survey, Surveyed};

/// Where a bus is asked for all of them.
const CLUSTER: &str = "$bus/cluster";

/// The code of an answer that says why nothing is known of the others.
const UNKNOWN: &str = "cluster-unknown";

/// The token of the subject where all buses are asked.
const INFO: &str = "info";

/// What it takes to tell how all buses are.
#[derive(Clone)]
pub(crate) struct Overview {
    pub(crate) bus: BusView,
    pub(crate) client: Client,
    pub(crate) nats: Nats,
    pub(crate) subjects: Subjects,
    pub(crate) name: String,
    pub(crate) members: Members,
}

impl Overview {
    /// Answers for this bus, and for all, until the bus ends.
    ///
    /// # Errors
    /// Why it has ended.
    ///
    /// # Cancel safety
    /// Who has asked and has no answer yet is told that there is none.
    pub(crate) async fn run(self) -> BusResult<()> {
        let mut questions = self.listen().await?;
        let mut serving = self.client.serve_bytes(CLUSTER).await?;
        let room = Arc::new(Semaphore::new(limits::OVERVIEWS));
        let mut asking = JoinSet::new();
        let mut last: Option<(Instant, Bytes)> = None;
        loop {
            tokio::select! {
                question = questions.next() => {
                    let Some(question) = question else { return Err(closed()) };
                    let Some(reply) = question.reply else { continue };
                    let now = Instant::now();
                    let known = last.take().filter(|(at, _)| now < *at + limits::OVERVIEW_AGAIN);
                    let (at, own) = match known {
                        Some(known) => known,
                        None => (now, serde_json::to_vec(&self.own()?).unwrap_or_default().into()),
                    };
                    last = Some((at, own.clone()));
                    let _ = self.nats.publish(reply, own).await;
                }
                asked = serving.recv() => {
                    let Some((_, request, _)) = asked else { return Err(closed()) };
                    let (overview, room) = (self.clone(), Arc::clone(&room));
                    asking.spawn(async move { overview.answer(request, room).await });
                }
                Some(_) = asking.join_next(), if !asking.is_empty() => {}
            }
        }
    }

    async fn listen(&self) -> BusResult<Subscriber> {
        self.nats.subscribe(self.subjects.own(INFO)).await.map_err(|_| closed())
    }

    /// This bus.
    fn own(&self) -> BusResult<ClusterBus> {
        Ok(ClusterBus { id: self.members.own(), name: self.name.clone(), stats: self.bus.stats()? })
    }

    async fn answer(&self, request: RequestId, room: Arc<Semaphore>) {
        let Ok(_place) = room.acquire().await else { return };
        let told = match self.all().await {
            Ok(all) => rmp_serde::to_vec_named(&all).map_err(|error| error.to_string()),
            Err(error) => Err(error.to_string()),
        };
        // Who has asked may be gone.
        let _ = match told {
            Ok(told) => self.client.respond_bytes(request, told.into()).await,
            Err(error) => self.client.respond_error(request, ErrorReply::new(UNKNOWN, error)).await,
        };
    }

    /// All buses that answer in time.
    async fn all(&self) -> BusResult<ClusterStats> {
        let survey = Survey::new(self.nats.clone(), self.subjects.own(INFO), self.members.clone());
        let read = |answer: &[u8]| {
            let bus = serde_json::from_slice::<ClusterBus>(answer).ok()?;
            Some((bus.id, bus))
        };
        let Surveyed { answers: mut buses, silent } =
            survey.ask(Bytes::new(), limits::OVERVIEW, read).await?;
        let own = self.own()?;
        buses.insert(own.id, own);
        Ok(ClusterStats { buses: buses.into_values().collect(), silent: silent.into_iter().collect() })
    }
}

fn closed() -> BusError {
    BusError::Closed { what: "the link to NATS".into() }
}
