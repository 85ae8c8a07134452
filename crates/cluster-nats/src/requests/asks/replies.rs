//! Replies on their way to the bus.
//!
//! One of a stream comes as its requester has room: what the server's bus has counted otherwise waits here, no more than the
//! window has messages.

use std::collections::VecDeque;

use bytes::Bytes;
use whispeer::BusError;
use whispeer::proto::{Flags, HEADER_LEN, Header, Kind};

use super::super::outputs::Outputs;
use super::super::wire::{self, Control};
use super::{Asks, protocol};
use crate::limits;

/// The replies of a stream.
pub(super) struct Stream {
    /// What its requester takes: messages and bytes.
    pub(super) room: (i64, i64),
    /// How many replies its server may send in all, as it has been told.
    pub(super) allowed: u64,
    /// Replies that wait for that.
    pub(super) waiting: VecDeque<Reply>,
}

pub(super) struct Reply {
    pub(super) flags: Flags,
    pub(super) fields: Vec<u8>,
    pub(super) payload: Bytes,
}

impl Reply {
    pub(super) fn size(&self) -> usize {
        HEADER_LEN + self.fields.len() + self.payload.len()
    }
}

impl Asks {
    /// The requester has room for more replies.
    pub(in crate::requests) fn credited(&mut self, token: u64, messages: u32, bytes: u64, out: &mut Outputs) {
        let Some(&number) = self.by_token.get(&token) else { return };
        let Some(ask) = self.by_number.get_mut(&number) else { return };
        let Some(stream) = &mut ask.stream else { return };
        stream.allowed = stream.allowed.saturating_add(u64::from(messages));
        stream.room.0 = stream.room.0.saturating_add(i64::from(messages));
        stream.room.1 = stream.room.1.saturating_add(i64::try_from(bytes).unwrap_or(i64::MAX));
        if let Some(server) = ask.server {
            let credit = Control::Credit { from: self.own.bus, number, messages };
            out.tell(wire::control(self.subjects.of_cancels(server.bus), credit));
        }
        self.hand_on(number, out);
    }

    pub(super) fn replied(&mut self, number: u64, reply: Reply, out: &mut Outputs) {
        let Some(ask) = self.by_number.get_mut(&number) else { return };
        let size = reply.size();
        if size > out.frame_limit {
            return self.fail(number, &BusError::FrameTooLarge { size, limit: out.frame_limit }, out);
        }
        let more = reply.flags.contains(Flags::MORE);
        match &mut ask.stream {
            None if more => self.fail(number, &protocol("several replies to a request that takes one"), out),
            // What belongs to a stream alone is not for a request that takes one.
            None if reply.flags.contains(Flags::END) => {
                self.fail(number, &protocol("the end of a stream as the answer to a plain request"), out);
            }
            None => {
                let token = ask.token;
                self.end(number);
                pass(token, &reply, out);
            }
            Some(stream) => {
                if more {
                    ask.replies += 1;
                    if ask.replies > stream.allowed {
                        return self.fail(number, &protocol("more replies than their window has"), out);
                    }
                }
                if self.bytes + size > limits::REQUEST_BYTES_OUT {
                    let what = format!("{} bytes of requests to other buses and replies to them", self.bytes);
                    return self.fail(number, &BusError::Overloaded { what }, out);
                }
                self.bytes += size;
                ask.size += size;
                stream.waiting.push_back(reply);
                self.hand_on(number, out);
            }
        }
    }

    /// Gives the bus the replies that their requester has room for.
    fn hand_on(&mut self, number: u64, out: &mut Outputs) {
        let Some(ask) = self.by_number.get_mut(&number) else { return };
        let Some(stream) = &mut ask.stream else { return };
        while let Some(reply) = stream.waiting.front() {
            let (size, more) = (reply.size(), reply.flags.contains(Flags::MORE));
            // The last one needs no room.
            if more && (stream.room.0 <= 0 || stream.room.1 <= 0) {
                return;
            }
            let Some(reply) = stream.waiting.pop_front() else { return };
            pass(ask.token, &reply, out);
            if !more {
                self.end(number);
                return;
            }
            stream.room.0 -= 1;
            stream.room.1 = stream.room.1.saturating_sub_unsigned(size as u64);
            ask.size -= size;
            self.bytes -= size;
        }
    }
}

fn pass(token: u64, reply: &Reply, out: &mut Outputs) {
    let header = Header::new(Kind::Reply, 0, token).flagged(reply.flags);
    out.frame(&header, &reply.fields, "", &reply.payload);
}
