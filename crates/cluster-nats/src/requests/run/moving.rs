//! How the link goes to another server of NATS.

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::time::Instant;

use super::Running;
use crate::limits;

/// How far the connection is on its way to another server of NATS.
pub(super) enum Moving {
    No,
    /// The other buses are told.
    Telling(BoxFuture<'static, ()>, Instant),
    /// What is under way is finished first, until then.
    Finishing(Instant),
    /// The connection is given up.
    Leaving(BoxFuture<'static, ()>, Instant),
    /// Another one is waited for, until then.
    Away(Instant),
}

impl Running {
    /// The server of NATS is about to end: finishes what is under way, without letting more begin.
    pub(super) fn begin_to_move(&mut self) {
        if self.connected.is_some() && matches!(self.moving, Moving::No) {
            tracing::info!("the server of NATS is about to end: the link goes to another one");
            // Whoever finds nobody asks again, as he knows.
            let told = self.requests.members.tell_move(true);
            self.moving = Moving::Telling(told.boxed(), Instant::now() + limits::HEARTBEAT);
        }
    }

    pub(super) fn finish_first(&mut self) {
        self.asks.hold();
        self.served.pause();
        self.outbox.forget_subscriptions();
        self.moving = Moving::Finishing(Instant::now() + limits::LINK_MOVE);
    }

    pub(super) fn go_on_moving(&mut self) {
        let now = Instant::now();
        match &self.moving {
            Moving::Telling(_, until) if now >= *until => self.finish_first(),
            Moving::Finishing(until) => {
                let is_finished = self.out.messages.is_empty()
                    && self.outbox.is_idle()
                    && self.served.is_empty()
                    && self.serves.is_empty()
                    && !self.asks.are_under_way();
                if is_finished || now >= *until {
                    let nats = self.requests.nats.clone();
                    let left = async move {
                        // What was handed over last is sent.
                        let _ = nats.flush().await;
                        let _ = nats.force_reconnect().await;
                    };
                    self.moving = Moving::Leaving(left.boxed(), now + limits::LINK_MOVE_GAP);
                }
            }
            Moving::Leaving(_, until) | Moving::Away(until) if now >= *until => self.end_moving(),
            _ => {}
        }
    }

    pub(super) fn end_moving(&mut self) {
        self.moving = Moving::No;
        drop(self.requests.members.tell_move(false));
        for topic in self.served.resume() {
            self.subscribe(topic);
        }
        self.asks.release(self.connected.is_some(), &mut self.out);
    }
}

impl Moving {
    /// When it is looked at next, whatever happens.
    pub(super) fn until(&self) -> Option<Instant> {
        match self {
            Self::No => None,
            Self::Telling(_, until)
            | Self::Finishing(until)
            | Self::Leaving(_, until)
            | Self::Away(until) => Some(*until),
        }
    }

    /// Waits until the others are told, or the connection is given up, where that is under way.
    ///
    /// # Cancel safety
    /// It goes on with the next call.
    pub(super) async fn done(&mut self) {
        match self {
            Self::Telling(done, _) | Self::Leaving(done, _) => done.await,
            _ => std::future::pending().await,
        }
    }
}
