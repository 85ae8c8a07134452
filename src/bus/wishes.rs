//! Wishes for links to buses that have consumers of a store that several buses share.
//!
//! ```text
//! members wait for a consumer of another bus   LinkWish -> whoever joins the buses   grant(link) -> a session at that bus
//!                                                                                    dropped     -> it is asked again a while later
//! ```
//!
//! What is spoken over such a link is the protocol, as over any other: whoever grants it carries frames, and knows nothing of consumers.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{mpsc, oneshot, watch};

use super::supervisor::Phase;
use crate::error::{BusError, BusResult};
use crate::limits;
use crate::proto::fields::Epoch;
use crate::store::Name;
use crate::transport::Link;

/// Members of a shared consumer want a link to the bus that has it.
///
/// Dropped without a word it is made again a while later, as long as they wait.
#[derive(Debug)]
pub struct LinkWish {
    stream: Name,
    epoch: Epoch,
    consumer: Name,
    link: oneshot::Sender<Link>,
}

impl LinkWish {
    /// The stream, as it is called at this bus.
    #[must_use]
    pub fn stream(&self) -> &str {
        self.stream.as_str()
    }

    /// The epoch of the stream, by which the same one is known at other buses.
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// The consumer.
    #[must_use]
    pub fn consumer(&self) -> &str {
        self.consumer.as_str()
    }

    /// Whether nobody waits for it any more: the members have gone, or have the consumer at this bus by now.
    #[must_use]
    pub fn is_given_up(&self) -> bool {
        self.link.is_closed()
    }

    /// Gives them a link at whose other end that bus has [attached](super::BusView::attach) it to a
    /// [peer that shares consumers](crate::transport::Peer::sharing). It is closed where nobody waits for it any more.
    pub fn grant(self, link: Link) {
        if let Err(link) = self.link.send(link) {
            link.sender.close();
        }
    }
}

/// The wishes of a bus for links, one after the other. Made by [`BusView::link_wishes`](super::BusView::link_wishes); when it is dropped, members
/// wait until their bus has the consumer itself.
#[derive(Debug)]
pub struct LinkWishes {
    wishes: mpsc::Receiver<LinkWish>,
    phase: watch::Receiver<Phase>,
}

impl LinkWishes {
    /// The next wish; `None` when the bus has stopped.
    ///
    /// # Cancel safety
    /// No wish is lost when the future is dropped.
    pub async fn next(&mut self) -> Option<LinkWish> {
        tokio::select! {
            wish = self.wishes.recv() => wish,
            _ = self.phase.wait_for(|phase| *phase == Phase::Stopped) => None,
        }
    }
}

/// Whoever brings links to other buses, if anybody does.
#[derive(Debug, Default)]
pub(crate) struct Wishing {
    wishes: Mutex<Option<mpsc::Sender<LinkWish>>>,
}

impl Wishing {
    fn lock(&self) -> MutexGuard<'_, Option<mpsc::Sender<LinkWish>>> {
        self.wishes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// # Errors
    /// [`BusError::LimitReached`] where somebody does already.
    pub(super) fn begin(&self, phase: watch::Receiver<Phase>) -> BusResult<LinkWishes> {
        let mut wishing = self.lock();
        if wishing.as_ref().is_some_and(|wishes| !wishes.is_closed()) {
            let what = "whoever brings links to buses that have shared consumers: one for a bus".to_owned();
            return Err(BusError::LimitReached { what });
        }
        let (sender, wishes) = mpsc::channel(limits::LINK_WISHES);
        *wishing = Some(sender);
        Ok(LinkWishes { wishes, phase })
    }

    /// Asks for a link to the bus that has this consumer; `None` where nobody brings any, or has too many wishes to look at by now.
    pub(super) fn ask(
        self: &Arc<Self>,
        stream: Name,
        epoch: Epoch,
        consumer: Name,
    ) -> Option<oneshot::Receiver<Link>> {
        let (link, granted) = oneshot::channel();
        let wishing = self.lock();
        wishing.as_ref()?.try_send(LinkWish { stream, epoch, consumer, link }).ok()?;
        Some(granted)
    }
}
