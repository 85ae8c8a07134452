//! What waits to be sent on one link: a control lane and a data lane, and who is writing.

use std::io;

use tokio::time::Instant;

use super::{Batch, EncodedRun, Form, Sent};
use crate::error::BusError;
use crate::proto::{ContentRef, Frame, Header, Kind, Refusal};

/// The outgoing side of one link. It lives under its owner's lock; the writing itself happens
/// outside of it, by whoever has something to send, one at a time:
///
/// ```text
/// step = lanes.begin()
/// while step is Write(batch): unlock; try_send(batch); lock; step = lanes.finish(batch, …)
/// ```
#[derive(Debug)]
pub(crate) struct Lanes {
    form: Form,
    /// Bytes up to which the data lane takes more without being told to hold back.
    room: usize,
    /// Bytes that wait in both lanes and with the writer.
    waiting: usize,
    control: Batch,
    data: Batch,
    /// What the link did not take; it goes before everything else.
    rest: Option<Batch>,
    /// The memory of a batch that was sent.
    spare: Option<Batch>,
    /// Somebody is between `begin` and `finish`.
    writing: Option<usize>,
    /// The link was full; only the owner's task, which waits for room, begins again.
    blocked: bool,
    /// Nothing is taken or sent any more.
    closed: bool,
    /// Since when the link has taken nothing although something waits.
    stuck_since: Option<Instant>,
}

/// What the writer does next.
#[derive(Debug)]
pub(crate) enum Step {
    /// Nothing is left, or somebody else is at it.
    Idle,
    /// Send this, then call `finish`.
    Write(Batch),
    /// The link is full: the owner's task has to wait for room.
    Blocked,
}

impl Lanes {
    pub(crate) fn new(form: Form) -> Self {
        Self::with_room(form, usize::MAX)
    }

    /// Lanes that say so when `room` bytes wait; see [`has_room`](Self::has_room).
    pub(crate) fn with_room(form: Form, room: usize) -> Self {
        Self {
            form,
            room,
            waiting: 0,
            control: Batch::new(form),
            data: Batch::new(form),
            rest: None,
            spare: None,
            writing: None,
            blocked: false,
            closed: false,
            stuck_since: None,
        }
    }

    /// Adds a frame to the data lane; returns its size, or 0 when the lanes are closed.
    #[inline]
    pub(crate) fn data(&mut self, header: &Header, content: &ContentRef<'_>) -> usize {
        if self.closed {
            return 0;
        }
        let size = self.data.push(header, content);
        self.waiting += size;
        size
    }

    /// Adds the first `count` frames of a run to the data lane, numbered from `sequence` on; returns their
    /// size, or `None` when they have to be added one by one.
    #[inline]
    pub(crate) fn data_run(
        &mut self,
        run: &EncodedRun,
        count: usize,
        id: u32,
        sequence: u64,
    ) -> Option<usize> {
        if self.closed {
            return None;
        }
        let size = self.data.push_run(run, count, id, sequence)?;
        self.waiting += size;
        Some(size)
    }

    /// How many more bytes may be queued that could as well wait elsewhere.
    #[inline]
    pub(crate) fn room_left(&self) -> usize {
        self.room.saturating_sub(self.waiting)
    }

    /// Adds a frame to the control lane, which is sent before what waits in the data lane.
    pub(crate) fn control(&mut self, header: &Header, content: &ContentRef<'_>) {
        if !self.closed {
            self.waiting += self.control.push(header, content);
        }
    }

    /// Says goodbye behind what waits in the data lane.
    pub(crate) fn goodbye(&mut self, reason: &BusError) {
        if !self.closed {
            let payload = Refusal::from(reason).encode();
            let content = ContentRef::of_payload(&payload);
            self.waiting += self.data.push_last(&Header::new(Kind::Goodbye, 0, 0), &content);
        }
    }

    /// How the link carries frames.
    #[inline]
    pub(crate) fn form(&self) -> Form {
        self.form
    }

    /// Bytes that wait in both lanes and with the writer.
    #[inline]
    pub(crate) fn waiting(&self) -> usize {
        self.waiting
    }

    /// Whether nothing waits, also not within the link.
    pub(crate) fn is_drained(&self) -> bool {
        self.waiting == 0 && self.rest.is_none()
    }

    /// Whether more may be queued that could as well wait elsewhere. What must be queued still may.
    #[inline]
    pub(crate) fn has_room(&self) -> bool {
        self.waiting() < self.room
    }

    /// Whether at least half of the room is free again.
    pub(crate) fn has_ample_room(&self) -> bool {
        self.waiting() < self.room / 2
    }

    /// Bytes that wait in the control lane.
    pub(crate) fn control_waiting(&self) -> usize {
        self.control.size()
    }

    pub(crate) fn is_blocked(&self) -> bool {
        self.blocked
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.closed
    }

    /// Since when the link has taken nothing although something waits.
    pub(crate) fn stuck_since(&self) -> Option<Instant> {
        self.stuck_since
    }

    /// Takes what is to be written next, if nobody writes and the link is not full.
    pub(crate) fn begin(&mut self) -> Step {
        if self.writing.is_some() || self.blocked || self.closed {
            return Step::Idle;
        }
        self.next()
    }

    /// The owner's task found room again.
    pub(crate) fn unblock(&mut self) {
        self.blocked = false;
    }

    /// Gives back what is left of a batch and takes the next one.
    pub(crate) fn finish(&mut self, mut batch: Batch, sent: &io::Result<Sent>) -> Step {
        let before = self.writing.take().unwrap_or(0);
        if self.closed {
            self.waiting = 0;
            return Step::Idle;
        }
        self.waiting = self.waiting.saturating_sub(before - batch.size().min(before));
        match sent {
            Ok(Sent::All) if batch.is_empty() => {
                self.stuck_since = None;
                self.spare = batch.into_spare();
                self.next()
            }
            Ok(_) => {
                if batch.size() < before || self.stuck_since.is_none() {
                    self.stuck_since = Some(Instant::now());
                }
                batch.shrink();
                self.rest = Some(batch);
                self.blocked = true;
                Step::Blocked
            }
            Err(_) => {
                self.close();
                Step::Idle
            }
        }
    }

    /// Sends nothing until the owner's task says so; `false` while somebody still writes.
    pub(crate) fn hold(&mut self) -> bool {
        self.blocked = true;
        self.writing.is_none()
    }

    /// Takes out all frames that wait on a byte link, none of which has been sent in part, in the order in which
    /// they would have been sent. Nobody may be writing.
    pub(crate) fn take_frames(&mut self) -> Vec<Frame> {
        let mut frames = self.rest.take().map(|mut rest| rest.take_frames()).unwrap_or_default();
        frames.extend(self.control.take_frames());
        frames.extend(self.data.take_frames());
        self.waiting = 0;
        self.stuck_since = None;
        frames
    }

    /// Forgets what waits and takes nothing more.
    pub(crate) fn close(&mut self) {
        self.closed = true;
        self.control = Batch::new(self.form);
        self.data = Batch::new(self.form);
        self.rest = None;
        self.spare = None;
        self.waiting = self.writing.unwrap_or(0);
    }

    fn next(&mut self) -> Step {
        if self.closed {
            return Step::Idle;
        }
        let batch = if let Some(rest) = self.rest.take() {
            rest
        } else {
            let lane = match (self.control.is_empty(), self.data.is_empty()) {
                (false, _) => &mut self.control,
                (true, false) => &mut self.data,
                (true, true) => return Step::Idle,
            };
            let empty = self.spare.take().unwrap_or_else(|| Batch::new(self.form));
            std::mem::replace(lane, empty)
        };
        self.writing = Some(batch.size());
        Step::Write(batch)
    }
}

#[cfg(test)]
mod tests {
    //! Schedules of several threads that queue and write are explored by shuttle: nothing is lost, left
    //! behind or mixed, whoever comes in between.

    use std::io::IoSlice;

    use shuttle::sync::{Arc, Condvar, Mutex};
    use shuttle::thread;

    use super::*;
    use crate::proto::{HEADER_LEN, Kind, Layout};

    const ROOM: usize = 40;
    const FRAMES: u64 = 6;

    /// A link that takes [`ROOM`] bytes until its peer has read them.
    #[derive(Default)]
    struct NarrowLink {
        waiting: usize,
        received: Vec<u8>,
        busy: bool,
    }

    #[derive(Default)]
    struct Wake {
        pending: Mutex<bool>,
        changed: Condvar,
    }

    impl Wake {
        fn wake(&self) {
            *self.pending.lock().unwrap() = true;
            self.changed.notify_all();
        }

        fn wait(&self) {
            let mut pending = self.pending.lock().unwrap();
            while !*pending {
                pending = self.changed.wait(pending).unwrap();
            }
            *pending = false;
        }
    }

    struct Connection {
        lanes: Mutex<Lanes>,
        link: Mutex<NarrowLink>,
        /// Wakes the owner's task; the peer wakes it too when it has read.
        owner: Wake,
    }

    impl Connection {
        fn queue(&self, frame: u64, producer: u32, control: bool) {
            let header = Header::new(Kind::Deliver, producer, frame);
            let mut lanes = self.lanes.lock().unwrap();
            if control {
                lanes.control(&header, &ContentRef::empty());
            } else {
                lanes.data(&header, &ContentRef::of_payload(&[producer as u8; 5]));
            }
        }

        fn flush(&self) {
            let mut step = self.lanes.lock().unwrap().begin();
            loop {
                match step {
                    Step::Idle => return,
                    Step::Blocked => return self.owner.wake(),
                    Step::Write(mut batch) => {
                        let sent = self.try_send(&mut batch);
                        step = self.lanes.lock().unwrap().finish(batch, &sent);
                    }
                }
            }
        }

        fn try_send(&self, batch: &mut Batch) -> io::Result<Sent> {
            assert!(!std::mem::replace(&mut self.link.lock().unwrap().busy, true), "two writers at once");
            thread::yield_now();
            let mut link = self.link.lock().unwrap();
            while !batch.is_empty() && link.waiting < ROOM {
                let mut slices = [IoSlice::new(&[])];
                batch.slices(&mut slices);
                let count = slices[0].len().min(ROOM - link.waiting);
                link.received.extend_from_slice(&slices[0][..count]);
                link.waiting += count;
                batch.advance(count);
            }
            link.busy = false;
            Ok(if batch.is_empty() { Sent::All } else { Sent::Blocked })
        }

        /// What the owner's task does: it waits for room and goes on writing, until all is there.
        fn own(&self, total: usize) {
            while self.link.lock().unwrap().received.len() < total {
                self.owner.wait();
                let blocked = self.lanes.lock().unwrap().is_blocked();
                let room = {
                    let mut link = self.link.lock().unwrap();
                    // The peer reads.
                    link.waiting = 0;
                    true
                };
                if blocked && room {
                    self.lanes.lock().unwrap().unblock();
                    self.flush();
                }
                if self.lanes.lock().unwrap().is_blocked() {
                    self.owner.wake();
                }
            }
        }
    }

    fn check(received: &[u8], producers: u32) {
        let mut last = vec![0; producers as usize];
        let mut rest = received;
        while let Some(layout) = Layout::decode(rest, usize::MAX).unwrap() {
            let body = &rest[HEADER_LEN..layout.total];
            assert!(body.iter().all(|byte| u32::from(*byte) == layout.header.id), "frames are mixed");
            let last = &mut last[layout.header.id as usize];
            assert_eq!(layout.header.sequence, *last + 1, "a frame is lost or out of order");
            *last += 1;
            rest = &rest[layout.total..];
        }
        assert!(rest.is_empty() && last.iter().all(|last| *last == FRAMES), "frames are left behind");
    }

    #[test]
    fn whoever_writes_nothing_is_lost_or_mixed_or_left_behind() {
        let schedules = || {
            let connection = Arc::new(Connection {
                lanes: Mutex::new(Lanes::new(Form::Bytes)),
                link: Mutex::default(),
                owner: Wake::default(),
            });
            let producers: Vec<_> = (0..3)
                .map(|producer| {
                    let connection = Arc::clone(&connection);
                    thread::spawn(move || {
                        for frame in 1..=FRAMES {
                            connection.queue(frame, producer, producer == 2);
                            connection.flush();
                        }
                    })
                })
                .collect();
            let total = FRAMES as usize * (2 * (HEADER_LEN + 5) + HEADER_LEN);
            let owner = {
                let connection = Arc::clone(&connection);
                thread::spawn(move || connection.own(total))
            };
            for producer in producers {
                producer.join().unwrap();
            }
            // Whatever the last producer left is the owner's; one more look costs nothing.
            connection.owner.wake();
            owner.join().unwrap();
            check(&connection.link.lock().unwrap().received, 3);
        };
        shuttle::check_random(schedules, 500);
    }
}
