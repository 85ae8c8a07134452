//! Last wills: what is published when a session ends without having been closed.

use std::sync::Arc;

use super::Shared;
use super::deputy::Mandate;
use super::task::SessionTask;
use crate::error::{BusError, BusResult};
use crate::plugin::Changed;
use crate::proto::fields::Options;
use crate::proto::{Content, ContentRef, Header, Kind, Payload, Refusal};
use crate::topic::TopicPattern;

impl SessionTask {
    /// Keeps a will in place of the one before, or takes that back.
    pub(super) fn set_will(&mut self, header: &Header, content: &ContentRef<'_>) {
        let result = self.try_set_will(content);
        let id = header.id;
        self.answer(|state| match &result {
            Ok(()) => state.accept(Kind::Will, id, 0),
            Err(error) => state.fail(Kind::Will, id, 0, error),
        });
    }

    fn try_set_will(&mut self, content: &ContentRef<'_>) -> BusResult<()> {
        if content.topic.is_empty() {
            self.will = None;
            return Ok(());
        }
        if self.shared.is_draining() {
            return Err(BusError::Draining { what: "the bus".into() });
        }
        let options = Options::read(content.fields).map_err(Refusal::into_error)?;
        if options.several_topics || options.deliver_at.is_some() {
            let what = "a will goes to one topic, when the session ends".to_owned();
            return Err(BusError::InvalidSettings(what));
        }
        let topic = TopicPattern::from_utf8(content.topic)?;
        self.may_publish(topic.as_str(), topic.is_reserved())?;
        self.stream_of(&topic, options.quality)?;
        self.will = Some(content.shared());
        Ok(())
    }

    /// Bytes of memory that the will takes.
    pub(super) fn will_held(&self) -> usize {
        self.will.as_ref().map_or(0, |will| will.size())
    }

    /// Has the will published, as the session ends for this reason.
    pub(super) fn execute_will(&mut self, reason: &BusError) {
        let Some(content) = self.will.take() else { return };
        // By its client, or with the bus: there is nobody to tell then.
        if matches!(reason, BusError::Closed { .. }) || self.shared.is_draining() {
            return;
        }
        let content = match self.judge(&content.borrowed()) {
            Ok(None) => content,
            Ok(Some(Changed { fields, topic, payload })) => {
                let payload = payload.map_or_else(|| content.shared_payload(), Payload::Bytes);
                Arc::new(Content::new(fields.into(), topic.as_str().to_owned().into(), payload))
            }
            Err(error) => {
                let session = self.session.id;
                return tracing::warn!(session, %error, "the will of a session is not published");
            }
        };
        let mandate = Mandate { author: self.author(), content };
        let Shared { deputy, budget, streams, .. } = &*self.shared;
        // One that cannot be published says so when it is tried.
        let topic = TopicPattern::from_utf8(mandate.content.topic()).ok();
        let stream = topic.and_then(|topic| streams.of(&topic).ok().flatten());
        if let Err(error) = deputy.publish(stream.map(|stream| &**stream), mandate, budget) {
            tracing::warn!(session = self.session.id, %error, "the will of a session is not published");
        }
    }
}
