//! What is known of a member that another bus feeds, as that one has the consumer.
//!
//! It has a subscription of its own there, whose id is the member's. What comes of that waits here as long as the member has no credit or no
//! room, which is within its window. What its client says of messages goes there in its order, and is answered by what comes back.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use bytes::Bytes;

use super::{Confirmation, Member, MemberId, State};
use crate::bus::budget::{Budget, Share};
use crate::bus::session::Session;
use crate::error::{BusError, BusResult};
use crate::limits;
use crate::proto::fields::{GapReason, attempt_of};
use crate::proto::{Content, Credit, Flags, Header, Kind};

/// `UNSUBSCRIBE`: deliver what waits before the end.
const DRAIN: Flags = Flags(1);

/// A member as the bus that feeds it knows it.
#[derive(Debug)]
pub(super) struct Fed {
    budget: Arc<Budget>,
    share: Share,
    /// Messages that it had been handed before.
    handed_before: u64,
    /// What its client has to take of these before the other bus is granted anew: that one believes the window to be whole.
    ahead: (u32, u64),
    /// What is to be granted to the other bus.
    grant: (u32, u64),
    /// What has come and waits for credit or room.
    waiting: VecDeque<Came>,
    waiting_bytes: usize,
    /// Who waits for an answer to what was said, by what that has said. One that is asked for twice is answered in that order.
    confirmations: BTreeMap<u64, VecDeque<Confirmation>>,
    /// The tokens of what it was handed and has said nothing of; no more than somebody may have unacknowledged, as nobody tells here whose time
    /// is over.
    open: BTreeSet<u64>,
    /// Nothing more comes.
    has_ended: bool,
}

/// What has come for a member.
#[derive(Debug)]
pub(super) enum Came {
    Message(Arc<Content>),
    Gap(u64, GapReason),
    /// It is drained, and nothing more comes.
    End,
}

impl Fed {
    /// A member with so much of its window left.
    pub(super) fn new(session: &Arc<Session>, window: (u32, u64), credit: Credit, handed: u64) -> Self {
        let whole = Credit::new(window);
        let messages = whole.messages.saturating_sub(credit.messages).max(0);
        let bytes = whole.bytes.saturating_sub(credit.bytes).max(0);
        Self {
            budget: session.shared_budget(),
            share: Share::default(),
            handed_before: handed,
            ahead: (u32::try_from(messages).unwrap_or(u32::MAX), bytes.unsigned_abs()),
            grant: (0, 0),
            waiting: VecDeque::new(),
            waiting_bytes: 0,
            confirmations: BTreeMap::new(),
            open: BTreeSet::new(),
            has_ended: false,
        }
    }

    /// Its client has given back so much of the window, which is no more than it had been handed.
    pub(super) fn grant(&mut self, messages: u32, bytes: u64) {
        let (before, bytes_before) = (self.ahead.0.min(messages), self.ahead.1.min(bytes));
        self.ahead = (self.ahead.0 - before, self.ahead.1 - bytes_before);
        self.grant.0 = self.grant.0.saturating_add(messages - before);
        self.grant.1 = self.grant.1.saturating_add(bytes - bytes_before);
    }

    /// What is to be granted to the other bus by now.
    pub(super) fn take_grant(&mut self) -> Option<(u32, u64)> {
        Some(std::mem::take(&mut self.grant)).filter(|grant| *grant != (0, 0))
    }

    /// Something has come.
    pub(super) fn push(&mut self, came: Came) {
        self.waiting_bytes += came.size();
        self.waiting.push_back(came);
        self.share.follow(self.waiting_bytes, &self.budget);
    }

    /// What is to be passed on of what its client says: that of messages which it has. Whether that is all of it.
    fn say(&mut self, header: &Header, payload: &[u8]) -> (Option<(Header, Bytes)>, bool) {
        let flags = header.flags;
        let is_known = match flags {
            // That is about a place in the stream.
            _ if flags.contains(Flags::WHEN_DONE) => true,
            _ if flags.contains(Flags::PROGRESS) => self.open.contains(&header.sequence),
            _ => self.open.remove(&header.sequence),
        };
        let is_done = ![Flags::WHEN_DONE, Flags::PROGRESS, Flags::REFUSE]
            .into_iter()
            .any(|other| flags.contains(other));
        if !is_done {
            return (is_known.then(|| (*header, Bytes::copy_from_slice(payload))), is_known);
        }
        let (further, _) = payload.as_chunks();
        let further = further.iter().map(|token| u64::from_le_bytes(*token));
        let mut open: Vec<u64> = further.clone().filter(|token| self.open.remove(token)).collect();
        if is_known && open.len() == further.len() {
            return (Some((*header, Bytes::copy_from_slice(payload))), true);
        }
        // The others are done all the same. Nobody waits for that: who has asked is told that not all of them are.
        let first = if is_known { Some(header.sequence) } else { open.pop() };
        let said = first.map(|sequence| {
            let rest: Vec<u8> = open.iter().flat_map(|token| token.to_le_bytes()).collect();
            let flags = Flags(flags.0 & !Flags::ACKNOWLEDGE.0);
            (Header { sequence, flags, ..*header }, Bytes::from(rest))
        });
        (said, false)
    }

    /// What the member gets next, if its client has credit for it.
    pub(super) fn next(&mut self, has_credit: bool) -> Option<Came> {
        if !has_credit && matches!(self.waiting.front(), Some(Came::Message(_))) {
            return None;
        }
        let came = self.waiting.pop_front()?;
        self.waiting_bytes = self.waiting_bytes.saturating_sub(came.size());
        self.share.follow(self.waiting_bytes, &self.budget);
        match &came {
            Came::Message(content) => {
                self.open.extend(attempt_of(content.fields()).map(|(_, attempt)| attempt.token));
                if self.open.len() > limits::CONSUMER_PENDING_MAX as usize {
                    self.open.pop_first();
                }
            }
            Came::Gap(..) => {}
            Came::End => self.has_ended = true,
        }
        Some(came)
    }

    pub(super) fn is_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Whether it is drained, has said of each message what became of it, and knows what came of that.
    pub(super) fn has_nothing_left(&self) -> bool {
        self.has_ended && self.open.is_empty() && self.confirmations.is_empty()
    }

    /// Who waits for the answer to what was said of this.
    pub(super) fn answered(&mut self, sequence: u64) -> Option<Confirmation> {
        let waiting = self.confirmations.get_mut(&sequence)?;
        let first = waiting.pop_front();
        if waiting.is_empty() {
            self.confirmations.remove(&sequence);
        }
        first
    }

    /// All who wait for an answer.
    pub(super) fn take_confirmations(&mut self) -> Vec<Confirmation> {
        std::mem::take(&mut self.confirmations).into_values().flatten().collect()
    }
}

impl Drop for Fed {
    fn drop(&mut self) {
        self.share.follow(0, &self.budget);
    }
}

impl Came {
    fn size(&self) -> usize {
        match self {
            Self::Message(content) => content.frame_size(),
            Self::Gap(..) | Self::End => 0,
        }
    }
}

/// What members have to say to the bus that feeds them, in its order. It is bounded in bytes
/// ([`CONSUMER_OUTGOING_BYTES`](limits::CONSUMER_OUTGOING_BYTES)), but for the ends of subscriptions: of these there is one a member.
#[derive(Debug, Default)]
pub(super) struct Outgoing {
    frames: VecDeque<(Header, Bytes)>,
    bytes: usize,
}

impl Outgoing {
    fn push(&mut self, header: Header, payload: Bytes) {
        self.bytes += limits::CONSUMER_OUTGOING_FRAME + payload.len();
        self.frames.push_back((header, payload));
    }

    pub(super) fn pop(&mut self) -> Option<(Header, Bytes)> {
        let (header, payload) = self.frames.pop_front()?;
        self.bytes = self.bytes.saturating_sub(limits::CONSUMER_OUTGOING_FRAME + payload.len());
        Some((header, payload))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }

    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }
}

impl State {
    /// The member whose subscription at the other bus has this id.
    pub(super) fn fed(&mut self, id: u32) -> Option<&mut Member> {
        // They are in the order of their ids.
        let place = self.members.binary_search_by_key(&MemberId::from(id), |member| member.id).ok()?;
        self.members.get_mut(place).filter(|member| member.fed.is_some())
    }

    /// Whether another bus feeds no member but this one.
    pub(super) fn feeds_nobody_but(&self, id: MemberId) -> bool {
        self.members.iter().all(|member| member.id == id || member.fed.is_none())
    }

    /// Passes on what a member's client says of its messages; `None` where no other bus feeds it.
    ///
    /// Only tokens of messages that it has been handed and has said nothing of are passed on: others wait here, unread, or are somebody else's.
    ///
    /// # Errors
    /// [`BusError::LimitReached`] where too much waits to be passed on, or for its answer, and `stale` where it has not all of the messages.
    pub(super) fn pass_on(
        &mut self,
        header: &Header,
        payload: &[u8],
        confirmation: &Confirmation,
        stale: impl FnOnce() -> BusError,
    ) -> Option<BusResult<()>> {
        let id = confirmation.member;
        let fed_as = self.member(id).filter(|member| member.fed.is_some())?.fed_as()?;
        if self.outgoing.bytes >= limits::CONSUMER_OUTGOING_BYTES {
            let what = "what is said of messages waits for the bus that has the consumer".to_owned();
            return Some(Err(BusError::LimitReached { what }));
        }
        let is_answered =
            header.flags.contains(Flags::ACKNOWLEDGE) || header.flags.contains(Flags::WHEN_DONE);
        if is_answered && let Err(error) = self.answers.are_owed(confirmation) {
            return Some(Err(error));
        }
        let fed = self.member(id).and_then(|member| member.fed.as_mut())?;
        let (said, is_whole) = fed.say(header, payload);
        if is_answered && is_whole {
            let owed = Confirmation { session: Arc::clone(&confirmation.session), ..*confirmation };
            fed.confirmations.entry(header.sequence).or_default().push_back(owed);
        } else if is_answered {
            // It is answered at once.
            self.answers.are_given(std::slice::from_ref(confirmation));
        }
        if let Some((passed, payload)) = said {
            self.outgoing.push(Header { id: fed_as, ..passed }, payload);
        }
        Some(if is_whole { Ok(()) } else { Err(stale()) })
    }

    /// Has the other bus hand a member nothing more; whether one feeds it.
    pub(super) fn drain_fed(&mut self, id: MemberId) -> bool {
        let Some(member) = self.member(id).filter(|member| member.fed.is_some()) else { return false };
        let fed_as = member.fed_as();
        if let Some(fed_as) = fed_as.filter(|_| !std::mem::replace(&mut member.is_drained, true)) {
            self.outgoing.push(Header::new(Kind::Unsubscribe, fed_as, 0).flagged(DRAIN), Bytes::new());
        }
        true
    }

    /// A member has gone: the other bus is told, with how many of its messages the application has taken, where the client has said so.
    pub(super) fn end_fed(&mut self, member: &mut Member) {
        let fed_as = member.fed_as();
        let (Some(mut fed), Some(fed_as)) = (member.fed.take(), fed_as) else { return };
        self.answers.are_given(&fed.take_confirmations());
        let taken = member.told_at_end.map_or(u64::MAX, |taken| taken.saturating_sub(fed.handed_before));
        self.outgoing.push(Header::new(Kind::Unsubscribe, fed_as, taken), Bytes::new());
    }

    /// No other bus feeds anybody any more. Returns who waits for an answer, and those that are drained and whose clients have not been told.
    pub(super) fn unfeed(
        &mut self,
    ) -> (Vec<Confirmation>, Vec<(Arc<Session>, crate::bus::subscription::Slot)>) {
        self.outgoing.clear();
        let (mut waiting, mut drained) = (Vec::new(), Vec::new());
        for member in &mut self.members {
            // Another bus may have the consumer by now, which has not refused it.
            member.left_out = None;
            let Some(mut fed) = member.fed.take() else { continue };
            waiting.extend(fed.take_confirmations());
            if member.is_drained && !fed.has_ended {
                drained.push((Arc::clone(&member.session), member.slot));
            }
        }
        (waiting, drained)
    }
}

impl Member {
    /// Whether another bus has refused it a moment ago.
    pub(super) fn is_left_out(&self) -> bool {
        self.left_out.is_some_and(|refused| refused.elapsed() < limits::CONSUMER_LINK_OPENS)
    }

    /// The id of its subscription at another bus. There is none for one that came behind four billion others.
    pub(super) fn fed_as(&self) -> Option<u32> {
        u32::try_from(self.id).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::fields::{Attempt, FieldsBuilder, Position};

    const WINDOW: (u32, u64) = (10, 1_000);

    fn message(token: u64) -> Came {
        let mut fields = FieldsBuilder::new();
        fields.position(Position::new(token, 1, false)).unwrap();
        fields.attempt(Attempt { token, number: 1, redelivered: false }).unwrap();
        Came::Message(Arc::new(Content::new(fields.finish().into(), "a".into(), Bytes::from_static(b"x"))))
    }

    #[test]
    fn what_its_client_had_before_is_taken_off_what_is_granted_on() {
        let (session, _peer) = Session::alone(1);
        let mut fed = Fed::new(&session, WINDOW, Credit { messages: 7, bytes: 600 }, 3);
        assert_eq!(fed.take_grant(), None);
        fed.grant(2, 300);
        assert_eq!(fed.take_grant(), None, "the other bus believes it to have that");
        fed.grant(5, 500);
        assert_eq!(fed.take_grant(), Some((4, 400)));
        fed.grant(5, 500);
        assert_eq!(fed.take_grant(), Some((5, 500)));
        // Bytes may be overdrawn by one message.
        let mut fed = Fed::new(&session, WINDOW, Credit { messages: 9, bytes: -200 }, 1);
        fed.grant(1, 1_200);
        assert_eq!(fed.take_grant(), None);
    }

    #[test]
    fn what_waits_counts_in_the_budget_and_messages_wait_for_credit() {
        let (session, _peer) = Session::alone(1);
        let mut fed = Fed::new(&session, WINDOW, Credit::new(WINDOW), 0);
        for token in 1..=3 {
            fed.push(message(token));
        }
        fed.push(Came::End);
        assert!(session.budget().used() > 0);
        assert!(fed.next(false).is_none());
        for token in 1..=3 {
            assert!(matches!(fed.next(true), Some(Came::Message(_))));
            assert!(fed.open.contains(&token));
        }
        assert!(matches!(fed.next(false), Some(Came::End)), "that needs none");
        assert!(!fed.has_nothing_left(), "three are open");
        fed.push(message(4));
        drop(fed);
        assert_eq!(session.budget().used(), 0);
    }

    fn tokens(tokens: &[u64]) -> Vec<u8> {
        tokens.iter().flat_map(|token| token.to_le_bytes()).collect()
    }

    #[test]
    fn nothing_is_passed_on_of_messages_that_a_member_does_not_have() {
        let (session, _peer) = Session::alone(1);
        let mut fed = Fed::new(&session, WINDOW, Credit::new(WINDOW), 0);
        (1..=6).for_each(|token| fed.push(message(token)));
        (1..=4).for_each(|_| _ = fed.next(true));
        let ack = |token, flags| Header::new(Kind::Ack, 7, token).flagged(flags);
        let asks = Flags::ACKNOWLEDGE;
        // It has been handed four, and two wait.
        assert_eq!(fed.say(&ack(5, asks), &[]), (None, false));
        assert_eq!(fed.say(&ack(6, Flags::REFUSE), &[]), (None, false));
        assert_eq!(fed.say(&ack(6, Flags::PROGRESS), &[]), (None, false));
        let (said, is_whole) = fed.say(&ack(5, asks), &tokens(&[1, 6, 2]));
        assert_eq!(
            said,
            Some((ack(2, Flags::NONE), Bytes::from(tokens(&[1])))),
            "those that it has are done"
        );
        assert!(!is_whole);
        let three = ack(3, asks);
        assert_eq!(fed.say(&three, &tokens(&[4])), (Some((three, Bytes::from(tokens(&[4])))), true));
        assert_eq!(fed.say(&three, &[]), (None, false), "that was said");
        let done = ack(6, Flags::WHEN_DONE);
        assert_eq!(fed.say(&done, &[]), (Some((done, Bytes::new())), true), "that is a place in the stream");
        assert!(fed.open.is_empty());
    }

    #[test]
    fn what_is_said_is_bounded_and_goes_out_in_its_order() {
        let mut outgoing = Outgoing::default();
        for token in 0..3 {
            outgoing.push(Header::new(Kind::Ack, 1, token), Bytes::from_static(b"12345678"));
        }
        assert_eq!(outgoing.bytes, 3 * (limits::CONSUMER_OUTGOING_FRAME + 8));
        let sent: Vec<_> = std::iter::from_fn(|| outgoing.pop()).map(|(header, _)| header.sequence).collect();
        assert_eq!((sent, outgoing.bytes), (vec![0, 1, 2], 0));
        assert!(outgoing.is_empty());
    }
}
