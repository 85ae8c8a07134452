//! Who may be the only server of a topic, where several buses that are joined decide that together.
//!
//! ```text
//! SERVE without a group   claim -> whoever decides, for SERVE_CLAIM at the most   agrees -> served as ever
//!                                                                                 refuses -> FAILED with his error
//! ```
//!
//! What the bus refuses itself is no claim. Whoever decides is asked for what is served from then on; for what is served already there
//! are [`watch_served`](super::BusView::watch_served) and [`end_served`](super::BusView::end_served).

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use foldhash::fast::RandomState;
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::timeout;

use super::supervisor::Phase;
use super::task::SessionTask;
use crate::error::{BusError, BusResult};
use crate::limits;
use crate::proto::fields::{Options, ServeMode};
use crate::proto::{Content, ContentRef, Header, Kind, Refusal};
use crate::topic::Topic;

/// A session that wants to be the only server of a topic.
///
/// Dropped without a word it counts as agreed to: then it is this bus alone that decides.
#[derive(Debug)]
pub struct ServeClaim {
    topic: Topic,
    mode: ServeMode,
    verdict: oneshot::Sender<BusResult<()>>,
}

impl ServeClaim {
    /// The topic.
    #[must_use]
    pub fn topic(&self) -> &Topic {
        &self.topic
    }

    /// Whether it wants to serve what nobody else does, or in place of others.
    #[must_use]
    pub fn mode(&self) -> ServeMode {
        self.mode
    }

    /// Whether nobody waits for it any more: the session has ended, has taken it back, or has waited for too long.
    #[must_use]
    pub fn is_given_up(&self) -> bool {
        self.verdict.is_closed()
    }

    /// Lets the session serve. It may still be refused by the bus, where another one has come first.
    pub fn agree(self) {
        // Nobody may wait any more.
        let _ = self.verdict.send(Ok(()));
    }

    /// Refuses it with this error, which the session is told.
    pub fn refuse(self, error: BusError) {
        let _ = self.verdict.send(Err(error));
    }
}

/// The claims of sessions to be the only server of a topic, one after the other. Made by
/// [`BusView::serve_claims`](super::BusView::serve_claims); when it is dropped the bus decides alone again, also about what it was asked.
#[derive(Debug)]
pub struct ServeClaims {
    claims: mpsc::Receiver<ServeClaim>,
    phase: watch::Receiver<Phase>,
}

impl ServeClaims {
    /// The next claim; `None` when the bus has stopped.
    ///
    /// # Cancel safety
    /// No claim is lost when the future is dropped.
    pub async fn next(&mut self) -> Option<ServeClaim> {
        tokio::select! {
            claim = self.claims.recv() => claim,
            _ = self.phase.wait_for(|phase| *phase == Phase::Stopped) => None,
        }
    }
}

/// Whoever decides, if anybody does.
#[derive(Debug, Default)]
pub(super) struct Deciding {
    claims: Mutex<Option<mpsc::Sender<ServeClaim>>>,
}

impl Deciding {
    fn lock(&self) -> MutexGuard<'_, Option<mpsc::Sender<ServeClaim>>> {
        self.claims.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn begin(&self, phase: watch::Receiver<Phase>) -> BusResult<ServeClaims> {
        let mut deciding = self.lock();
        if deciding.as_ref().is_some_and(|claims| !claims.is_closed()) {
            let what = "whoever decides who is the only server of a topic: one for a bus".to_owned();
            return Err(BusError::LimitReached { what });
        }
        let (sender, claims) = mpsc::channel(limits::SERVE_CLAIMS);
        *deciding = Some(sender);
        Ok(ServeClaims { claims, phase })
    }

    /// Asks; `None` where nobody decides but this bus.
    fn ask(&self, topic: Topic, mode: ServeMode) -> BusResult<Option<oneshot::Receiver<BusResult<()>>>> {
        let (verdict, said) = oneshot::channel();
        let mut deciding = self.lock();
        let Some(claims) = &*deciding else { return Ok(None) };
        match claims.try_send(ServeClaim { topic, mode, verdict }) {
            Ok(()) => Ok(Some(said)),
            Err(mpsc::error::TrySendError::Full(_)) => {
                let what = format!("{} wishes to be the only server of a topic", limits::SERVE_CLAIMS);
                Err(BusError::Overloaded { what })
            }
            Err(mpsc::error::TrySendError::Closed(_)) => {
                *deciding = None;
                Ok(None)
            }
        }
    }
}

/// The claims of one session that are not decided yet.
#[derive(Default)]
pub(super) struct Claiming {
    /// By the id of the serving.
    entries: HashMap<u32, Claim, RandomState>,
    bytes: usize,
    last: u64,
    verdicts: JoinSet<(u32, u64, BusResult<()>)>,
}

struct Claim {
    /// Tells it from an earlier one of this id that was given up.
    number: u64,
    header: Header,
    content: Arc<Content>,
    waits: AbortHandle,
}

impl Claiming {
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Bytes of memory that they take.
    pub(super) fn held(&self) -> usize {
        self.bytes
    }

    fn push(
        &mut self,
        header: &Header,
        content: Arc<Content>,
        said: oneshot::Receiver<BusResult<()>>,
        runtime: &Handle,
    ) {
        self.last += 1;
        self.bytes += content.size();
        let (id, number) = (header.id, self.last);
        let verdict = async move {
            // Who says nothing in time, or ever, leaves it to this bus.
            let said = timeout(limits::SERVE_CLAIM, said).await;
            (id, number, said.ok().and_then(Result::ok).unwrap_or(Ok(())))
        };
        let waits = self.verdicts.spawn_on(verdict, runtime);
        self.entries.insert(id, Claim { number, header: *header, content, waits });
    }

    fn remove(&mut self, id: u32) -> Option<(Header, Arc<Content>)> {
        let Claim { header, content, waits, .. } = self.entries.remove(&id)?;
        waits.abort();
        self.bytes = self.bytes.saturating_sub(content.size());
        Some((header, content))
    }

    /// The next one that is decided and has not been given up.
    fn poll_decided(&mut self, context: &mut Context<'_>) -> Option<(Header, Arc<Content>, BusResult<()>)> {
        while let Poll::Ready(Some(decided)) = self.verdicts.poll_join_next(context) {
            // One that ended without a verdict was given up.
            let Ok((id, number, verdict)) = decided else { continue };
            if self.entries.get(&id).is_some_and(|claim| claim.number == number)
                && let Some((header, content)) = self.remove(id)
            {
                return Some((header, content, verdict));
            }
        }
        None
    }
}

impl fmt::Debug for Claiming {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Claiming").field("claims", &self.entries.len()).finish_non_exhaustive()
    }
}

impl SessionTask {
    /// Asks whoever decides over several buses whether the session may serve a topic alone; returns whether the answer comes later.
    ///
    /// # Errors
    /// Why this bus refuses it by itself.
    pub(super) fn claim_to_serve(&mut self, header: &Header, content: &ContentRef<'_>) -> BusResult<bool> {
        let options = Options::read(content.fields).map_err(Refusal::into_error)?;
        if options.group.is_some() || content.topic.first() == Some(&b'$') {
            return Ok(false);
        }
        let topic = self.may_serve(content)?;
        self.shared.services.check_free(&topic, &self.session, options.mode)?;
        let held = self.claiming.as_ref().map_or(0, |claiming| claiming.held());
        if held + content.frame_size() > limits::SERVE_CLAIM_BYTES {
            let what = format!("{held} bytes of wishes of this session to be the only server of a topic");
            return Err(BusError::LimitReached { what });
        }
        let Some(said) = self.shared.deciding.ask(topic, options.mode)? else { return Ok(false) };
        let claiming = self.claiming.get_or_insert_default();
        // Its verdict is looked for from the end of this turn on.
        claiming.push(header, content.shared(), said, &self.runtime);
        Ok(true)
    }

    /// Whether it is being decided about this serving.
    pub(super) fn is_claimed(&self, id: u32) -> bool {
        self.claiming.as_ref().is_some_and(|claiming| claiming.entries.contains_key(&id))
    }

    /// Gives up a serving that is being decided about; returns whether there is one.
    pub(super) fn give_up_claim(&mut self, id: u32) -> bool {
        let found = self.claiming.as_mut().is_some_and(|claiming| claiming.remove(id).is_some());
        if found {
            let header = Header::answering(Kind::Ended, Kind::Serve, id, 0);
            self.answer(|state| {
                state.data(&header, &ContentRef::empty());
            });
        }
        found
    }

    /// Begins the servings that are agreed to by now, and answers the others.
    pub(super) fn take_verdicts(&mut self, context: &mut Context<'_>) {
        let mut decided = false;
        loop {
            if self.matches_left() == 0 {
                context.waker().wake_by_ref();
                break;
            }
            let Some(claiming) = self.claiming.as_deref_mut() else { return };
            let Some((header, content, verdict)) = claiming.poll_decided(context) else { break };
            decided = true;
            self.count_frame();
            let served = verdict.and_then(|()| self.try_serve(&header, &content.borrowed()));
            self.answer_serve(header.id, &served);
        }
        self.claiming.take_if(|claiming| claiming.verdicts.is_empty());
        if decided {
            self.end_turn();
        }
    }
}
