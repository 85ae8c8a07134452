//! The work of a connection, done by whoever uses it.
//!
//! quinn gives the work of a connection to a task: to take in what has arrived for it, to send what is due, to
//! look at its clock. Here whoever reads a link does it while it waits, and whoever writes to it does it once it
//! has written. So nothing waits for a task to be scheduled, nobody has to own one, and what was written before
//! a process ends is with the system by then.

use std::cell::Cell;
use std::fmt;
use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Instant;

use atomic_waker::AtomicWaker;
use quinn::{AsyncTimer, AsyncUdpSocket, Connection, Runtime, TokioRuntime, VarInt};
use tokio::runtime::Handle;
use tokio::time::{Sleep, sleep_until, timeout};

use crate::limits;

/// How often the work is looked at again, as it goes on: a few hundred packets, then it is another turn's.
const ROUNDS: usize = 8;

/// Some work that quinn wants to have done until it ends.
pub(super) type Work = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Gives quinn what it needs of Tokio, and keeps the work that it would have spawned for whoever caused it.
pub(super) struct Hands {
    /// Where timers belong that are made outside of any runtime.
    runtime: Handle,
    catching: Mutex<()>,
    caught: Mutex<Option<Work>>,
}

impl Hands {
    pub(super) fn new(runtime: Handle) -> Self {
        Self { runtime, catching: Mutex::default(), caught: Mutex::default() }
    }

    /// Calls quinn, and returns with its result the work that it asked to have done.
    pub(super) fn catch<T>(&self, call: impl FnOnce() -> T) -> (T, Drive) {
        let _one_at_a_time = lock(&self.catching);
        let result = call();
        (result, Drive(lock(&self.caught).take()))
    }
}

impl fmt::Debug for Hands {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Hands").finish_non_exhaustive()
    }
}

impl Runtime for Hands {
    fn new_timer(&self, at: Instant) -> Pin<Box<dyn AsyncTimer>> {
        let _entered = Handle::try_current().is_err().then(|| self.runtime.enter());
        let fired = Arc::<Fired>::default();
        let waker = Arc::clone(&fired).into();
        Box::pin(Timer { sleep: Box::pin(sleep_until(at.into())), fired, waker })
    }

    fn spawn(&self, work: Work) {
        *lock(&self.caught) = Some(work);
    }

    fn wrap_udp_socket(&self, socket: std::net::UdpSocket) -> io::Result<Arc<dyn AsyncUdpSocket>> {
        TokioRuntime.wrap_udp_socket(socket)
    }

    fn now(&self) -> Instant {
        TokioRuntime.now()
    }
}

thread_local! {
    /// Somebody does the work of a connection who does not wait for it.
    static IN_PASSING: Cell<bool> = const { Cell::new(false) };
}

/// A timer that only its owner's task waits for. Who passes by may be outside of the timer's runtime, or outlive
/// it; he sets it, which needs no runtime, and looks at the clock himself.
#[derive(Debug)]
struct Timer {
    sleep: Pin<Box<Sleep>>,
    fired: Arc<Fired>,
    waker: Waker,
}

/// Whether a timer has woken somebody since it was last waited for. It wakes nobody again before it is.
#[derive(Debug, Default)]
struct Fired {
    fired: AtomicBool,
    waiting: AtomicWaker,
}

impl Wake for Fired {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.fired.store(true, Ordering::Release);
        self.waiting.wake();
    }
}

impl AsyncTimer for Timer {
    fn reset(mut self: Pin<&mut Self>, at: Instant) {
        self.sleep.as_mut().reset(at.into());
    }

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        if IN_PASSING.get() {
            if self.fired.fired.load(Ordering::Acquire) {
                // The owner has to wait for it anew, though what was due may be done.
                context.waker().wake_by_ref();
            }
            return Poll::Pending;
        }
        self.fired.waiting.register(context.waker());
        self.fired.fired.store(false, Ordering::Release);
        let Self { sleep, waker, .. } = &mut *self;
        Future::poll(sleep.as_mut(), &mut Context::from_waker(waker))
    }
}

/// The work of one connection or endpoint, until it has ended.
pub(super) struct Drive(Option<Work>);

impl Drive {
    /// Does what there is to do now.
    fn poll(&mut self, context: &mut Context<'_>) {
        if let Some(work) = &mut self.0
            && work.as_mut().poll(context).is_ready()
        {
            self.0 = None;
        }
    }

    /// Does what there is to do now without waiting for more.
    fn pass(&mut self, context: &mut Context<'_>) {
        let before = IN_PASSING.replace(true);
        self.poll(context);
        IN_PASSING.set(before);
    }

    fn has_ended(&self) -> bool {
        self.0.is_none()
    }

    /// The work itself.
    pub(super) fn into_work(self) -> Option<Work> {
        self.0
    }

    /// Waits for `future`, and does the work meanwhile.
    pub(super) async fn until<F: Future>(&mut self, future: F) -> F::Output {
        let mut future = pin!(future);
        poll_fn(|context| {
            self.poll(context);
            future.as_mut().poll(context)
        })
        .await
    }

    /// Goes on with the work of a connection that has failed until whatever its other side had sent before has arrived. It
    /// would be answered with a reset otherwise, which says nothing, and outdoes the reason that came just before.
    pub(super) async fn linger(mut self) {
        let ended = poll_fn(|context| {
            self.poll(context);
            if self.has_ended() { Poll::Ready(()) } else { Poll::Pending }
        });
        // Who hears nothing by then is not there.
        let _ = timeout(limits::REFUSAL_LINGER, ended).await;
    }
}

/// A connection and its work, which end together.
pub(super) struct Driven {
    pub(super) connection: Connection,
    pub(super) drive: Drive,
}

impl Drop for Driven {
    /// Tells the other side, which would wait for a sign of life otherwise.
    fn drop(&mut self) {
        self.connection.close(CLOSED, &[]);
        self.drive.pass(&mut Context::from_waker(Waker::noop()));
    }
}

/// Says that a side has closed a connection, for reasons that frames tell, if at all.
const CLOSED: VarInt = VarInt::from_u32(0);

/// Nobody does the work.
const RESTING: u8 = 0;
/// Somebody does it.
const WORKING: u8 = 1;
/// Somebody does it, and there has come more since he looked.
const MORE: u8 = 2;

/// Who is woken when a connection has something to do, or has room again.
#[derive(Debug, Default)]
pub(super) struct Signals {
    /// The task that owns the link.
    owner: AtomicWaker,
    phase: AtomicU8,
    /// It is the owner who works.
    attending: AtomicBool,
    room: AtomicBool,
}

/// Wakes the owner, unless somebody is at work who will look again.
struct WakeForWork(Arc<Signals>);

impl Wake for WakeForWork {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        let phase = &self.0.phase;
        if phase.compare_exchange(WORKING, MORE, Ordering::AcqRel, Ordering::Acquire) == Err(RESTING) {
            self.0.owner.wake();
        }
    }
}

/// Wakes the owner, unless it is he who is at work: others do not take what he waits for.
struct WakeForOwner(Arc<Signals>);

impl Wake for WakeForOwner {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if self.0.attending.load(Ordering::Acquire) {
            self.0.phase.store(MORE, Ordering::Release);
        } else {
            self.0.owner.wake();
        }
    }
}

/// Notes that there is room, for whoever waits for it.
struct WakeForRoom(Arc<Signals>);

impl Wake for WakeForRoom {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.0.room.store(true, Ordering::Release);
        self.0.owner.wake();
    }
}

/// How the work of a connection is done, and who is told.
pub(super) struct Worker {
    signals: Arc<Signals>,
    for_work: Waker,
    for_owner: Waker,
    for_room: Waker,
}

impl Worker {
    pub(super) fn new() -> Self {
        let signals = Arc::new(Signals::default());
        let for_work = Arc::new(WakeForWork(Arc::clone(&signals))).into();
        let for_owner = Arc::new(WakeForOwner(Arc::clone(&signals))).into();
        let for_room = Arc::new(WakeForRoom(Arc::clone(&signals))).into();
        Self { signals, for_work, for_owner, for_room }
    }

    /// What happens from here on is seen by whoever works next.
    pub(super) fn begin(&self) {
        self.signals.phase.store(WORKING, Ordering::Release);
    }

    /// Waits as the owner, in the task of `owner`, for what `poll` gives, and does the work meanwhile. What `poll`
    /// waits for happens within the work alone, and one at a time does that.
    pub(super) fn wait<T>(
        &self,
        owner: &Context<'_>,
        drive: &mut Drive,
        mut poll: impl FnMut(&mut Context<'_>) -> Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        self.signals.owner.register(owner.waker());
        self.signals.attending.store(true, Ordering::Release);
        let waited = self.attend(drive, &mut poll);
        self.signals.attending.store(false, Ordering::Release);
        if waited.is_pending() {
            self.rest();
        }
        waited
    }

    fn attend<T>(
        &self,
        drive: &mut Drive,
        poll: &mut impl FnMut(&mut Context<'_>) -> Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        let mut context = Context::from_waker(&self.for_owner);
        for _ in 0..ROUNDS {
            self.begin();
            let mut ready = poll(&mut context);
            if ready.is_pending() && drive.has_ended() {
                // Nobody does what is waited for any more.
                ready = Poll::Ready(Err(io::ErrorKind::NotConnected.into()));
            }
            if ready.is_ready() {
                // Who gets something comes again, so he need not be woken for it.
                self.signals.phase.store(RESTING, Ordering::Release);
                return ready;
            }
            drive.poll(&mut Context::from_waker(&self.for_work));
            if !drive.has_ended() && self.signals.phase.load(Ordering::Acquire) != MORE {
                break;
            }
        }
        Poll::Pending
    }

    /// Does the work in passing. What is left is the owner's.
    pub(super) fn pass(&self, drive: &mut Drive) {
        for _ in 0..ROUNDS {
            self.begin();
            drive.pass(&mut Context::from_waker(&self.for_work));
            if drive.has_ended() || self.signals.phase.load(Ordering::Acquire) != MORE {
                break;
            }
        }
        self.rest();
    }

    /// Nobody works any more; what has come meanwhile is the owner's.
    fn rest(&self) {
        if self.signals.phase.swap(RESTING, Ordering::AcqRel) == MORE {
            self.signals.owner.wake();
        }
    }

    /// What a write has to be tried with; [`has_room`](Self::has_room) tells from then on.
    pub(super) fn room_context(&self) -> Context<'_> {
        self.signals.room.store(false, Ordering::Release);
        Context::from_waker(&self.for_room)
    }

    /// Whether there may be room, after there was none.
    pub(super) fn has_room(&self) -> bool {
        self.signals.room.load(Ordering::Acquire)
    }
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::{Instant, advance};

    use super::*;

    /// How often it was woken.
    #[derive(Default)]
    struct Count(AtomicU8);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_timer_that_is_set_in_passing_wakes_its_owner() {
        const WHILE: Duration = Duration::from_millis(10);
        let count = Arc::<Count>::default();
        let waker = Waker::from(Arc::clone(&count));
        let mut owner = Context::from_waker(&waker);
        let woken = || count.0.load(Ordering::Relaxed);
        let in_passing = |timer: &mut Pin<Box<dyn AsyncTimer>>| {
            IN_PASSING.set(true);
            timer.as_mut().reset((Instant::now() + WHILE).into_std());
            assert!(timer.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
            IN_PASSING.set(false);
        };
        let hands = Hands::new(Handle::current());
        let mut timer = hands.new_timer((Instant::now() + WHILE).into_std());
        assert!(timer.as_mut().poll(&mut owner).is_pending());
        advance(WHILE / 2).await;
        in_passing(&mut timer);
        advance(WHILE - Duration::from_millis(2)).await;
        assert_eq!(woken(), 0, "it was set again");
        advance(2 * WHILE).await;
        assert_eq!(woken(), 1);
        // It has been used up, so whoever sets it again has the owner wait for it.
        in_passing(&mut timer);
        assert_eq!(woken(), 2);
        assert!(timer.as_mut().poll(&mut owner).is_pending());
        advance(2 * WHILE).await;
        assert_eq!(woken(), 3);
    }

    #[test]
    fn what_comes_while_somebody_works_is_left_to_the_owner_once() {
        let count = Arc::<Count>::default();
        let waker = Waker::from(Arc::clone(&count));
        let woken = || count.0.load(Ordering::Relaxed);
        let worker = Worker::new();
        let mut drive = Drive(Some(Box::pin(std::future::pending())));
        let waiting =
            worker.wait(&Context::from_waker(&waker), &mut drive, |_| Poll::<io::Result<()>>::Pending);
        assert!(waiting.is_pending());
        worker.begin();
        worker.for_work.wake_by_ref();
        assert_eq!(woken(), 0, "whoever works looks again");
        worker.pass(&mut drive);
        assert_eq!(woken(), 0, "and has");
        worker.for_work.wake_by_ref();
        assert_eq!(woken(), 1, "nobody works");
        // What the owner waits for is not for those who pass.
        let mut reader = None;
        let waiting = worker.wait(&Context::from_waker(&waker), &mut drive, |context| {
            reader = Some(context.waker().clone());
            Poll::<io::Result<()>>::Pending
        });
        assert!(waiting.is_pending());
        let mut drive = Drive(Some(Box::pin(poll_fn(move |_| {
            if let Some(reader) = reader.take() {
                reader.wake();
            }
            Poll::Pending
        }))));
        worker.pass(&mut drive);
        assert_eq!(woken(), 2);
        // Work that never ends for now is the owner's.
        let mut drive = Drive(Some(Box::pin(poll_fn(|context| {
            context.waker().wake_by_ref();
            Poll::Pending
        }))));
        let waiting =
            worker.wait(&Context::from_waker(&waker), &mut drive, |_| Poll::<io::Result<()>>::Pending);
        assert!(waiting.is_pending());
        assert_eq!(woken(), 3);
    }

    #[test]
    fn work_that_has_ended_is_waited_for_by_nobody() {
        let worker = Worker::new();
        let mut drive = Drive(Some(Box::pin(std::future::ready(()))));
        let context = Context::from_waker(Waker::noop());
        let waiting = worker.wait(&context, &mut drive, |_| Poll::<io::Result<()>>::Pending);
        assert!(matches!(waiting, Poll::Ready(Err(_))));
    }
}
