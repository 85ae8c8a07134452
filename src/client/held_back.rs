//! Publishes of an earlier session for which the window of the new one has no room yet.
//!
//! A bus that is come back to may have a smaller window than the one before, and ends a session that sends past it. So what is
//! sent again, and what had not been sent, goes as credit comes, before all that is published later. A `PING` that is to
//! follow them waits with them.

use std::collections::VecDeque;

use crate::proto::{Credit, Frame, Header, Kind};
use crate::transport::Lanes;

/// Frames in their order. Publishes are as many as the windows of earlier sessions had room for, at the most.
#[derive(Debug, Default)]
pub(super) struct HeldBack(VecDeque<Frame>);

impl HeldBack {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Holds these publishes back, which are numbered from 1 on.
    pub(super) fn hold(&mut self, publishes: impl Iterator<Item = Frame>) {
        let numbered = (1..).zip(publishes).map(|(sequence, Frame { header, content })| {
            let header = Header::new(Kind::Publish, 0, sequence).flagged(header.flags);
            Frame { header, content }
        });
        self.0 = numbered.collect();
    }

    /// Holds a frame back that is no publish, behind those that are there.
    pub(super) fn follow(&mut self, frame: Frame) {
        self.0.push_back(frame);
    }

    /// Takes the publishes, to hold them back at another session. Nobody waits for what followed them any more.
    pub(super) fn take(&mut self) -> impl Iterator<Item = Frame> + use<> {
        std::mem::take(&mut self.0).into_iter().filter(|frame| frame.header.kind == Kind::Publish)
    }

    /// Puts into the lanes what there is credit for; whether that was anything.
    pub(super) fn release(&mut self, credit: &mut Credit, lanes: &mut Lanes) -> bool {
        let before = self.0.len();
        while let Some(frame) = self.0.pop_front() {
            let is_publish = frame.header.kind == Kind::Publish;
            if is_publish && !credit.is_left() {
                self.0.push_front(frame);
                break;
            }
            if is_publish {
                credit.spend(frame.content.frame_size());
            }
            lanes.data(&frame.header, &frame.content.borrowed());
        }
        self.0.len() < before
    }
}
