//! The end of a bus in good order: it takes nothing new and finishes what is in flight.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::task::yield_now;
use tokio::time::{Instant, sleep, timeout};

use super::Shared;
use super::session::Session;
use crate::limits;
use crate::proto::{Header, Kind};

/// How often a draining bus looks whether everything is finished, if that takes no time.
const POLL: Duration = Duration::from_millis(10);

/// How often it does at least, however long it takes: who waits for the end notices no more than that.
const SLOWEST_POLL: Duration = Duration::from_secs(1);

/// How much longer than a look at the sessions the pause after it is: that leaves 95 % of a core to those who have
/// something to finish.
const PAUSE_FOR_WORK: u32 = 19;

/// Sessions that are told something, or looked at, before others get their turn: some ten to some hundred microseconds.
const PIECE: usize = 256;

/// The sequence of the `PING` behind `DRAINING`, which no other one comes to.
pub(super) const DRAIN_PING: u64 = u64::MAX;

/// How far a drain is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Drain {
    /// The bus does not drain.
    No,
    /// It takes nothing new.
    Begun,
    /// What was in flight for its clients is finished; companions are waited for.
    Quiet,
}

impl Shared {
    /// Takes nothing new, tells clients so, and waits until what is in flight has been finished or `grace` has passed.
    pub(super) async fn drain(&self, grace: Duration) {
        let until = Instant::now() + grace;
        if !self.draining.swap(true, Ordering::Relaxed) {
            self.alone.store(true, Ordering::Relaxed);
            self.drains.send_replace(Drain::Begun);
            self.tell_draining().await;
        }
        let answers_until = Some(Instant::now() + limits::DRAIN_ANSWER);
        let mut watch = Watch { answers_until, ..Watch::default() };
        while Instant::now() < until && !watch.finds_quiet(self).await {
            sleep(watch.pause().min(until.saturating_duration_since(Instant::now()))).await;
        }
        self.drains.send_replace(Drain::Quiet);
        let left = until.saturating_duration_since(Instant::now());
        // Whether they have ended or not, the bus stops now.
        let _ = timeout(left, self.companions_ended()).await;
    }

    /// Does so once an administrator has asked for it.
    pub(super) async fn drain_when_asked(&self) {
        let mut asked = self.stop_asked.subscribe();
        loop {
            let grace = asked.wait_for(Option::is_some).await.ok().and_then(|asked| *asked);
            let Some(grace) = grace else { return std::future::pending().await };
            tokio::select! {
                () = self.drain(grace) => return,
                // It is asked again, with another time.
                changed = asked.changed() => if changed.is_err() { return },
            }
        }
    }

    async fn tell_draining(&self) {
        for piece in self.clients_in_any_order().chunks(PIECE) {
            for session in piece {
                session.tell_draining();
            }
            yield_now().await;
        }
    }
}

/// What a draining bus knows of those for whom something is in flight.
#[derive(Default)]
struct Watch {
    /// The session at which the last look ended: as long as it is busy there is no need for others.
    busy: Option<Arc<Session>>,
    /// How long the last look took, without what others did meanwhile.
    work: Duration,
    /// Until when clients are waited for that have not answered that they know.
    answers_until: Option<Instant>,
}

impl Watch {
    /// Whether nothing is in flight for any client.
    async fn finds_quiet(&mut self, shared: &Shared) -> bool {
        self.work = Duration::ZERO;
        self.answers_until = self.answers_until.filter(|until| Instant::now() < *until);
        let waits = self.answers_until.is_some();
        let is_busy = |session: &Session| session.is_busy() || waits && session.is_to_answer();
        let known = self.busy.take();
        self.busy = self.timed(|| known.filter(|session| is_busy(session)));
        if self.busy.is_some() {
            return false;
        }
        // A request that waits for a server is in flight at its requester. What leaves a publish that
        // waits is seen at a group or a session, and what leaves a group at the session that it goes to:
        // they are looked at in this order.
        let clients = self.timed(|| {
            let none_waits = shared.publishes_waiting.load(Ordering::Relaxed) == 0;
            let groups_are_empty = none_waits && shared.router.parked_in_groups() == (0, 0);
            groups_are_empty.then(|| shared.clients_in_any_order())
        });
        let Some(clients) = clients else { return false };
        for piece in clients.chunks(PIECE) {
            self.busy = self.timed(|| piece.iter().find(|session| is_busy(session)).cloned());
            if self.busy.is_some() {
                return false;
            }
            yield_now().await;
        }
        true
    }

    fn timed<T>(&mut self, work: impl FnOnce() -> T) -> T {
        let start = Instant::now();
        let done = work();
        self.work += start.elapsed();
        done
    }

    /// How long to wait for the next look.
    fn pause(&self) -> Duration {
        self.work.saturating_mul(PAUSE_FOR_WORK).clamp(POLL, SLOWEST_POLL)
    }
}

impl Session {
    /// Tells its client that the bus drains. What that sends until it knows is in flight as well, and its answer comes behind that.
    pub(super) fn tell_draining(&self) {
        self.send_control(&Header::new(Kind::Draining, 0, 0), &[]);
        self.send_control(&Header::new(Kind::Ping, 0, DRAIN_PING), &[]);
    }

    /// Whether its client is there and has not answered that it knows of the drain.
    fn is_to_answer(&self) -> bool {
        let is_lost = self.sender().resumable().is_some_and(|link| link.is_lost());
        !is_lost && !self.knows_drain.load(Ordering::Relaxed) && !self.lock().closed
    }

    /// Whether something is in flight for its client.
    fn is_busy(&self) -> bool {
        // What a broken connection has not brought over waits for its client to come back.
        let link = self.sender().resumable().filter(|link| link.is_lost());
        let state = self.lock();
        // One that has ended is on nobody's list.
        !state.closed
            && (link.is_some_and(|link| link.held() > 0)
                || state.in_flight() > 0
                || state.parked_bytes > 0
                || state.lanes.waiting() > 0)
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::pin::pin;

    use super::*;
    use crate::bus::Bus;
    use crate::client::Client;

    /// How often a future has to be polled until it ends.
    async fn turns<T>(future: impl Future<Output = T>) -> (usize, T) {
        let (mut future, mut turns) = (pin!(future), 0);
        let ended = poll_fn(|context| {
            turns += 1;
            future.as_mut().poll(context)
        });
        let ended = ended.await;
        (turns, ended)
    }

    #[tokio::test]
    async fn a_bus_of_many_sessions_drains_in_pieces_and_looks_first_where_it_had_to_wait() {
        let bus = Bus::builder().start().unwrap();
        let mut clients = Vec::new();
        for _ in 0..2 * PIECE + 1 {
            let client = Client::new_memory(&bus.connector()).unwrap();
            client.ping().await.unwrap();
            clients.push(client);
        }
        let mut serving = clients[1].serve_bytes("slow").await.unwrap();
        let requester = clients[0].clone();
        let asked = tokio::spawn(async move { requester.request_bytes("slow", "?".into()).await });
        let (_, id, _) = serving.recv().await.unwrap();
        let shared = bus.shared();
        shared.draining.store(true, Ordering::Relaxed);
        let (told, ()) = turns(shared.tell_draining()).await;
        assert!(told > 3, "{told} turns");

        let mut watch = Watch::default();
        assert!(!watch.finds_quiet(shared).await);
        let (again, quiet) = turns(watch.finds_quiet(shared)).await;
        assert_eq!((again, quiet), (1, false), "one session tells enough");
        clients[1].respond_bytes(id, "!".into()).await.unwrap();
        asked.await.unwrap().unwrap();
        while !watch.finds_quiet(shared).await {
            yield_now().await;
        }
        let (all, quiet) = turns(watch.finds_quiet(shared)).await;
        assert!(all > 3 && quiet, "{all} turns");
    }

    #[test]
    fn a_bus_looks_more_rarely_the_longer_a_look_takes() {
        let pause = |work| Watch { work, ..Watch::default() }.pause();
        assert_eq!(pause(Duration::ZERO), POLL);
        assert_eq!(pause(Duration::from_millis(10)), Duration::from_millis(190));
        assert_eq!(pause(Duration::MAX), SLOWEST_POLL);
    }
}
