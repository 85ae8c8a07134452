//! What is to be sent: frames to the bus, and messages to NATS.

use std::collections::VecDeque;

use bytes::Bytes;
use whispeer::BusError;
use whispeer::proto::{ContentRef, Flags, Header, Kind, Lane, Payload, Refusal};
use whispeer::topic::Topic;
use whispeer::transport::{Batch, Form};

use super::wire::Publish;
use crate::limits;
use crate::subject::Subjects;

/// Frames and messages that the two tables of requests have to send. Whoever runs them sees to it that little waits here: while it is
/// full, nothing more is read from the bus.
pub(super) struct Outputs {
    pub(super) frames: Batch,
    pub(super) messages: VecDeque<Publish>,
    /// What this bus says to itself, which NATS does not bring back; requests with their topics.
    pub(super) to_itself: VecDeque<(Option<Topic>, Publish)>,
    /// Where the bus gets answers, and where it is told of what it serves.
    own: (String, String),
    pub(super) message_bytes: usize,
    /// Bytes of the largest frame that the bus takes.
    pub(super) frame_limit: usize,
    /// Bytes of the largest message that NATS takes.
    pub(super) max_payload: usize,
}

impl Outputs {
    pub(super) fn new(form: Form, frame_limit: usize, subjects: &Subjects, own: u64) -> Self {
        Self {
            frames: Batch::new(form),
            messages: VecDeque::new(),
            to_itself: VecDeque::new(),
            own: (format!("{}.", subjects.of_replies(own)), subjects.of_cancels(own)),
            message_bytes: 0,
            frame_limit,
            max_payload: usize::MAX,
        }
    }

    /// Whether so much waits for NATS that the bus has to wait.
    pub(super) fn is_full(&self) -> bool {
        self.messages.len() >= limits::OUTBOX_MESSAGES || self.message_bytes >= limits::OUTBOX_BYTES
    }

    /// Queues a message.
    ///
    /// # Errors
    /// That NATS would not take it, which would cost the connection.
    pub(super) fn publish(&mut self, message: Publish) -> Result<(), BusError> {
        let size = message.size();
        if size > self.max_payload {
            return Err(BusError::FrameTooLarge { size, limit: self.max_payload });
        }
        if message.subject.starts_with(&self.own.0) || message.subject == self.own.1 {
            self.to_itself.push_back((None, message));
            return Ok(());
        }
        self.message_bytes += size;
        self.messages.push_back(message);
        Ok(())
    }

    /// Queues a request for this bus itself.
    pub(super) fn ask_itself(&mut self, topic: Topic, request: Publish) {
        self.to_itself.push_back((Some(topic), request));
    }

    /// Queues a message that is small.
    pub(super) fn tell(&mut self, message: Publish) {
        // A few headers are less than any `max_payload`.
        let _ = self.publish(message);
    }

    pub(super) fn next_message(&mut self) -> Option<Publish> {
        let message = self.messages.pop_front()?;
        self.message_bytes = self.message_bytes.saturating_sub(message.size());
        Some(message)
    }

    pub(super) fn forget_messages(&mut self) {
        self.messages.clear();
        self.message_bytes = 0;
    }

    pub(super) fn frame(&mut self, header: &Header, fields: &[u8], topic: &str, payload: &Bytes) {
        let payload = Payload::Bytes(payload.clone());
        self.frames.push(header, &ContentRef::with_payload(fields, topic.as_bytes(), &payload));
    }

    /// Answers what the bus has asked with an error.
    pub(super) fn refuse(&mut self, token: u64, end: Flags, error: &BusError) {
        let header = Header::new(Kind::Reply, 0, token).flagged(Flags::ERROR.with(end));
        self.frames.push(&header, &ContentRef::of_payload(&Refusal::from(error).encode()));
    }

    pub(super) fn grant(&mut self, lane: Lane, id: u64, messages: u32, bytes: u64) {
        let header = Header::new(Kind::Credit, messages, id).flagged(Flags(lane as u8));
        self.frames.push(&header, &ContentRef::of_payload(&bytes.to_le_bytes()));
    }

    pub(super) fn cancel(&mut self, request: u32) {
        self.frames.push(&Header::new(Kind::Cancel, request, 0), &ContentRef::empty());
    }
}
