//! How far a subscription is in the stream that it reads.

use crate::error::BusResult;
use crate::proto::fields::{Epoch, FieldsBuilder, Start};

/// Where a new session goes on, and what is left to read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Following {
    /// That of the stream, once the bus has said so.
    epoch: Option<Epoch>,
    /// The first sequence that was not there when the bus accepted the subscription.
    end: u64,
    /// Where to go on: `None` for as it was asked for.
    resume: Option<Start>,
    /// It began with what comes, and nothing has come yet.
    waits: bool,
    /// It began with the last messages: which those are changes with each that comes.
    begins_with_last: bool,
    /// Messages, and bytes of their frames, that may still come, if that has a limit.
    left: Option<(u32, u64)>,
    /// Where its reading ended.
    next: Option<u64>,
}

impl Following {
    /// One that asks for this.
    pub(super) fn new(start: Start, epoch: Option<Epoch>, limit: Option<(u32, u64)>) -> Self {
        let begins_with_last = matches!(start, Start::Last(_) | Start::LastPerTopic);
        Self { epoch, waits: start == Start::New, begins_with_last, left: limit, ..Self::default() }
    }

    /// The bus has accepted it: the stream has this epoch, and ends before this sequence.
    pub(super) fn accepted(&mut self, epoch: Epoch, end: u64) {
        let is_other = self.epoch.replace(epoch).is_some_and(|known| known != epoch);
        self.end = end;
        if is_other {
            // The bus begins with its oldest message.
            (self.resume, self.waits) = (Some(Start::All), false);
        } else if std::mem::take(&mut self.waits) {
            // What comes from now on must not be missed, also if the session ends before any of it has come.
            self.resume = Some(Start::From(end));
        }
    }

    /// A new session goes on here, whatever has come: what lies before it is done with. With 0 it begins as it was asked for.
    pub(super) fn go_on_from(&mut self, sequence: u64) {
        self.resume = (sequence > 0).then_some(Start::From(sequence));
    }

    /// A message has come.
    #[inline]
    pub(super) fn received(&mut self, sequence: u64, bytes: usize) {
        self.resume = Some(Start::From(sequence.saturating_add(1)));
        if let Some((messages, left)) = &mut self.left {
            *messages = messages.saturating_sub(1);
            *left = left.saturating_sub(bytes as u64);
        }
    }

    /// The bus has said that the stream is not the one that was read before: it begins with its oldest message if the epoch
    /// is another one, and otherwise with what comes.
    pub(super) fn recreated(&mut self) {
        if self.resume != Some(Start::All) {
            self.resume = Some(Start::From(self.end));
        }
    }

    /// Whether a new session goes on where the one before has ended. If not, messages may be missing in between.
    pub(super) fn goes_on(&self) -> bool {
        self.resume.is_some() || !self.begins_with_last
    }

    /// The bus has ended it, to go on with this sequence.
    pub(super) fn ended(&mut self, next: Option<u64>) {
        self.next = next;
    }

    /// The epoch of the stream; `None` before the bus has said so.
    pub(super) fn epoch(&self) -> Option<Epoch> {
        self.epoch
    }

    /// The first sequence that was not there when the bus accepted the subscription.
    pub(super) fn end(&self) -> u64 {
        self.end
    }

    /// Where its reading has ended, if it has.
    pub(super) fn next(&self) -> Option<u64> {
        self.next
    }

    /// Whether all has come that its limit allows, though the bus may not have said so.
    pub(super) fn is_complete(&self) -> bool {
        self.left.is_some_and(|(messages, bytes)| messages == 0 || bytes == 0)
    }

    /// It ends here by itself.
    pub(super) fn complete(&mut self) {
        if let Some(Start::From(sequence)) = self.resume {
            self.next = Some(sequence);
        }
    }

    /// The fields by which a new session asks for what the bus knows how far it is in: as at first, and of this stream.
    ///
    /// # Errors
    /// What [`FieldsBuilder`] says, though there was room for as much before.
    pub(super) fn epoch_fields(&self, asked: &[u8], start: Option<Start>) -> BusResult<Vec<u8>> {
        let mut fields = FieldsBuilder::new();
        fields.append_without_reading(asked)?;
        if let Some(start) = start {
            fields.start(start)?;
        }
        if let Some(epoch) = self.epoch {
            fields.epoch(epoch)?;
        }
        Ok(fields.finish())
    }

    /// The fields by which a new session asks for what is left; `None` where that is what was asked for at first.
    ///
    /// # Errors
    /// What [`FieldsBuilder`] says, though there was room for as much before.
    pub(super) fn fields(&self, asked: &[u8], start: Option<Start>) -> BusResult<Option<Vec<u8>>> {
        let Some(start) = self.resume.or(start) else { return Ok(None) };
        let mut fields = FieldsBuilder::new();
        fields.append_without_reading(asked)?;
        fields.start(start)?;
        if let Some(epoch) = self.epoch {
            fields.epoch(epoch)?;
        }
        if let Some((messages, bytes)) = self.left {
            fields.limit(messages, bytes)?;
        }
        Ok(Some(fields.finish()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::fields::Options;

    const ONE: Epoch = [1; 16];
    const OTHER: Epoch = [2; 16];

    /// What is asked for at a new session.
    fn again(following: &Following, start: Start) -> (Start, Option<Epoch>, Option<(u32, u64)>) {
        let mut asked = FieldsBuilder::new();
        asked.window(1, 1).unwrap();
        asked.start(start).unwrap();
        let fields = following.fields(asked.as_bytes(), Some(start)).unwrap().unwrap();
        let options = Options::read(&fields).unwrap();
        assert_eq!(options.window, Some((1, 1)));
        (options.start.unwrap(), options.epoch, options.limit)
    }

    #[test]
    fn whoever_acknowledges_goes_on_where_he_is_and_not_behind_what_has_come() {
        let mut following = Following::new(Start::All, None, None);
        following.accepted(ONE, 5);
        following.received(225, 100);
        following.go_on_from(1);
        assert_eq!(again(&following, Start::All).0, Start::From(1));
        following.received(225, 100);
        following.go_on_from(74);
        assert_eq!(again(&following, Start::All).0, Start::From(74));
        // Nothing was taken.
        following.received(225, 100);
        following.go_on_from(0);
        assert_eq!(again(&following, Start::All).0, Start::All);
    }

    #[test]
    fn a_new_session_goes_on_behind_the_last_message_or_where_the_stream_ended_at_first() {
        let mut following = Following::new(Start::New, None, None);
        assert_eq!(again(&following, Start::New), (Start::New, None, None));
        following.accepted(ONE, 7);
        assert_eq!(again(&following, Start::New), (Start::From(7), Some(ONE), None));
        following.accepted(ONE, 9);
        assert_eq!(again(&following, Start::New), (Start::From(7), Some(ONE), None), "nothing is skipped");
        following.received(8, 100);
        assert_eq!(again(&following, Start::New), (Start::From(9), Some(ONE), None));
        let mut all = Following::new(Start::All, None, None);
        all.accepted(ONE, 7);
        assert_eq!(again(&all, Start::All), (Start::All, Some(ONE), None));
    }

    #[test]
    fn a_stream_that_is_another_one_is_read_from_its_beginning() {
        let mut following = Following::new(Start::New, None, None);
        following.accepted(ONE, 7);
        following.received(100, 10);
        following.accepted(OTHER, 5);
        assert_eq!(again(&following, Start::New), (Start::All, Some(OTHER), None));
        following.received(1, 10);
        assert_eq!(again(&following, Start::New), (Start::From(2), Some(OTHER), None));
    }

    #[test]
    fn who_has_his_position_kept_asks_as_at_first_and_says_which_stream_he_knows() {
        let mut following = Following::new(Start::All, Some(OTHER), None);
        following.accepted(ONE, 7);
        following.received(3, 10);
        for start in [None, Some(Start::All)] {
            let mut asked = FieldsBuilder::new();
            asked.window(1, 1).unwrap();
            asked.epoch(OTHER).unwrap();
            let fields = following.epoch_fields(asked.as_bytes(), start).unwrap();
            let options = Options::read(&fields).unwrap();
            assert_eq!((options.window, options.start, options.epoch), (Some((1, 1)), start, Some(ONE)));
        }
    }

    #[test]
    fn a_stream_that_was_put_back_is_read_from_where_it_ended_then() {
        let mut following = Following::new(Start::All, None, None);
        following.accepted(ONE, 7);
        following.received(100, 10);
        following.accepted(ONE, 5);
        following.recreated();
        assert_eq!(again(&following, Start::All), (Start::From(5), Some(ONE), None));
        let mut other = Following::new(Start::From(100), Some(ONE), None);
        other.accepted(OTHER, 5);
        other.recreated();
        assert_eq!(again(&other, Start::From(100)), (Start::All, Some(OTHER), None));
    }

    #[test]
    fn one_that_asks_for_the_last_messages_again_may_miss_some_until_one_has_come() {
        for (start, goes_on) in [(Start::Last(3), false), (Start::LastPerTopic, false), (Start::All, true)] {
            let mut following = Following::new(start, None, None);
            following.accepted(ONE, 7);
            assert_eq!(following.goes_on(), goes_on, "{start:?}");
            following.received(4, 10);
            assert!(following.goes_on());
        }
    }

    #[test]
    fn what_is_left_of_a_limit_is_asked_for_and_nothing_when_all_has_come() {
        let mut following = Following::new(Start::All, None, Some((3, 1_000)));
        following.accepted(ONE, 10);
        following.received(4, 300);
        assert_eq!(again(&following, Start::All), (Start::From(5), Some(ONE), Some((2, 700))));
        assert!(!following.is_complete());
        following.received(5, 800);
        assert!(following.is_complete());
        following.complete();
        assert_eq!(following.next(), Some(6));
    }
}
