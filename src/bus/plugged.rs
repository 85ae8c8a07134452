//! Where plugins have their say: messages on their way in and out, subscriptions, and the end of a session.
//!
//! All of it is behind one look at [`SessionTask::plugged`], which is empty where there are no plugins. Of sessions of the
//! bus itself they see what is delivered for others: what they have published later, or left behind. No lock is held while a plugin is called.

use std::collections::{BTreeMap, HashMap};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use foldhash::fast::RandomState;
use tokio::runtime::Handle;
use tokio::task::JoinHandle;

use super::backlog;
use super::requests::claim;
use super::router::Target;
use super::session::State;
use super::task::SessionTask;
use crate::auth::Action;
use crate::error::{BusError, BusResult};
use crate::limits;
use crate::plugin::{Changed, Delivery, Hooks, Plugins, Publishing, Receiver, Session, Subscribing};
use crate::proto::fields::Options;
use crate::proto::{Content, ContentRef, HEADER_LEN, Header, Kind, Payload, Refusal};
use crate::topic::TopicPattern;

/// What a session has to do with plugins.
pub(super) struct Plugged {
    plugins: Arc<Plugins>,
    /// The session as they see it; `None` where it is one of the bus's own, which they are only asked about where it
    /// publishes for others.
    session: Option<Arc<Session>>,
    asking: Asking,
}

impl Plugged {
    /// A session that plugins have let in.
    pub(super) fn new(plugins: Arc<Plugins>, session: Arc<Session>) -> Box<Self> {
        Box::new(Self { plugins, session: Some(session), asking: Asking::default() })
    }

    /// A session of the bus's own. Who sees what is delivered sees as well what was published later, or left behind.
    pub(super) fn of_bus(plugins: &Arc<Plugins>) -> Option<Box<Self>> {
        let plugins = Some(plugins).filter(|plugins| plugins.want(Hooks::DELIVER)).map(Arc::clone)?;
        Some(Box::new(Self { plugins, session: None, asking: Asking::default() }))
    }

    /// Bytes of memory that wait for plugins.
    pub(super) fn held(&self) -> usize {
        self.asking.bytes
    }
}

/// Subscriptions that plugins are asked about, in the order in which they came. There may be as many as a session may have,
/// so that none is searched for.
#[derive(Default)]
struct Asking {
    entries: BTreeMap<u64, Asked>,
    places: HashMap<u32, u64, RandomState>,
    next: u64,
    bytes: usize,
}

struct Asked {
    header: Header,
    content: Arc<Content>,
    /// What they say, once they have been asked.
    answer: Option<Answer>,
}

/// A task that is stopped when nobody waits for it any more.
struct Answer(JoinHandle<BusResult<()>>);

impl Drop for Answer {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Asking {
    fn push(&mut self, header: &Header, content: Arc<Content>) {
        self.bytes += content.size();
        self.places.insert(header.id, self.next);
        self.entries.insert(self.next, Asked { header: *header, content, answer: None });
        self.next += 1;
    }

    fn remove(&mut self, id: u32) -> Option<Asked> {
        let asked = self.entries.remove(&self.places.remove(&id)?)?;
        self.bytes = self.bytes.saturating_sub(asked.content.size());
        Some(asked)
    }

    /// Asks about as many as may be asked about at a time.
    fn begin(&mut self, runtime: &Handle, plugins: &Arc<Plugins>, session: &Session) {
        for asked in self.entries.values_mut().take(limits::PLUGIN_SUBSCRIBES) {
            if asked.answer.is_some() {
                continue;
            }
            let subscribing = subscribing(session, &asked.content);
            let plugins = Arc::clone(plugins);
            let answer = async move { plugins.subscribe(&subscribing?).await };
            asked.answer = Some(Answer(runtime.spawn(answer)));
        }
    }

    /// The first that has been answered; pending while none is there or the first has not.
    fn poll_first(&mut self, context: &mut Context<'_>) -> Poll<(Asked, BusResult<()>)> {
        let Some(mut first) = self.entries.first_entry() else { return Poll::Pending };
        let id = first.get().header.id;
        let Some(answer) = &mut first.get_mut().answer else { return Poll::Pending };
        let Poll::Ready(joined) = Pin::new(&mut answer.0).poll(context) else { return Poll::Pending };
        // A task that ended without an answer was stopped with its runtime.
        let said = joined.unwrap_or_else(|_| Err(BusError::Closed { what: "the bus".into() }));
        self.remove(id).map_or(Poll::Pending, |asked| Poll::Ready((asked, said)))
    }
}

/// Why a message does not go on.
struct Rejected {
    error: BusError,
    /// The topic that it had by then, where it is a plugin that refuses it.
    topic: Option<TopicPattern>,
}

impl From<BusError> for Rejected {
    fn from(error: BusError) -> Self {
        Self { error, topic: None }
    }
}

/// A subscription as plugins see it.
fn subscribing(session: &Session, content: &Content) -> BusResult<Subscribing> {
    let options = Options::read(content.fields()).map_err(Refusal::into_error)?;
    let mut subscribing = Subscribing::new(session.clone(), TopicPattern::from_utf8(content.topic())?);
    subscribing.group = options.group.map(str::to_owned);
    subscribing.start = options.start;
    subscribing.headers = Subscribing::headers_of(content.fields());
    Ok(subscribing)
}

impl SessionTask {
    /// The plugins that want this hook, and the session as they see it.
    fn plugins(&self, hook: Hooks) -> Option<(Arc<Plugins>, Arc<Session>)> {
        let plugged = self.plugged.as_ref().filter(|plugged| plugged.plugins.want(hook))?;
        Some((Arc::clone(&plugged.plugins), Arc::clone(plugged.session.as_ref()?)))
    }

    /// The plugins that want to see where a message on this topic goes.
    fn plugins_at_delivery(&self, topic: &[u8]) -> Option<Arc<Plugins>> {
        let plugged = self.plugged.as_ref().filter(|plugged| plugged.plugins.want(Hooks::DELIVER))?;
        // What the bus has to say for itself is none of theirs.
        let is_own = plugged.session.is_none() && topic.starts_with(b"$");
        (!is_own).then(|| Arc::clone(&plugged.plugins))
    }

    /// Shows a publish to the plugins and gives what they have made of it to every match.
    ///
    /// # Errors
    /// Why it is refused, whoever refuses it.
    pub(super) fn judge_and_deliver(
        &mut self,
        header: &Header,
        content: &ContentRef<'_>,
        waited: Duration,
    ) -> Result<Option<u64>, BusError> {
        if self.plugins(Hooks::PUBLISH).is_none() {
            return self.deliver_all(header, content, waited);
        }
        if !content.fields.is_empty()
            && Options::read(content.fields).map_err(Refusal::into_error)?.several_topics
        {
            // They see it when its topics are known.
            return self.deliver_all(header, content, waited);
        }
        let changed = match self.ask_to_publish(content) {
            Ok(Some(changed)) => changed,
            Ok(None) => return self.deliver_all(header, content, waited),
            Err(Rejected { error, topic: None }) => return Err(error),
            Err(Rejected { error, topic: Some(topic) }) => {
                return self.refuse_unless_stored(header, content, &topic, error).map(|()| None);
            }
        };
        let payload = match changed.payload {
            Some(payload) => Some(Payload::Bytes(payload)),
            None => content.shared_payload(),
        };
        let topic = changed.topic.as_str().as_bytes();
        let now = match &payload {
            Some(payload) => ContentRef::with_payload(&changed.fields, topic, payload),
            None => ContentRef::lent(&changed.fields, topic, content.payload()),
        };
        // Its publisher gets the credit back that it has spent.
        self.arrived_size = Some(content.frame_size());
        // A new topic has no route from before, unless the session may publish there.
        let delivered = self.deliver_all(header, &now, waited);
        self.arrived_size = None;
        delivered
    }

    /// What plugins make of a message that its session may publish; `None` if it stays as it is.
    pub(super) fn judge(&mut self, content: &ContentRef<'_>) -> BusResult<Option<Changed>> {
        self.ask_to_publish(content).map_err(|rejected| rejected.error)
    }

    fn ask_to_publish(&mut self, content: &ContentRef<'_>) -> Result<Option<Changed>, Rejected> {
        let Some((plugins, session)) = self.plugins(Hooks::PUBLISH) else { return Ok(None) };
        let mut message = Publishing::new(&session, content)?;
        self.may_publish(message.topic().as_str(), message.topic().is_reserved())?;
        if let Err(error) = plugins.publish(&mut message) {
            return Err(Rejected { error, topic: Some(message.topic().clone()) });
        }
        let Some(changed) = message.finish()? else { return Ok(None) };
        let payload = changed.payload.as_ref().map_or_else(|| content.weight(), |payload| payload.len());
        let size = HEADER_LEN + changed.fields.len() + changed.topic.as_str().len() + payload;
        let limit = self.shared.settings.frame_limit;
        match size > limit {
            true => Err(BusError::FrameTooLarge { size, limit }.into()),
            false => Ok(Some(changed)),
        }
    }

    /// Gives a message to every target that plugins let it pass to; returns the number of matches.
    pub(super) fn deliver_judged(
        &mut self,
        targets: &[Target],
        content: &ContentRef<'_>,
        size: usize,
        asked: backlog::Asked,
    ) -> u64 {
        let Some(plugins) = self.plugins_at_delivery(content.topic) else {
            return self.fan_out(targets, std::slice::from_ref(content), size, asked);
        };
        if targets.len() > 1 && !content.is_value() && content.payload().len() >= limits::SHARED_PAYLOAD {
            // One copy for all, whatever their number.
            let _ = content.shared();
        }
        let mut matches = 0;
        for target in targets {
            let passes = match target {
                Target::One { session, slot } => {
                    let pattern = {
                        let mut state = session.lock();
                        let Some(own) = state.subscriptions.at(*slot) else { continue };
                        if own.no_echo && session.id == self.session.id {
                            continue;
                        }
                        own.pattern.clone()
                    };
                    let receiver = Receiver::subscription(session.id, &session.peer.principal, &pattern);
                    plugins.deliver(&Delivery::new(receiver, content))
                }
                Target::Group(group) => {
                    let receiver = Receiver::group(&group.name, &group.pattern);
                    plugins.deliver(&Delivery::new(receiver, content))
                }
            };
            matches += match passes {
                true => {
                    let (target, content) = (std::slice::from_ref(target), std::slice::from_ref(content));
                    self.fan_out(target, content, size, asked)
                }
                false => self.withhold(target),
            };
        }
        matches
    }

    /// Counts a match that does not get its message, and tells it so.
    fn withhold(&mut self, target: &Target) -> u64 {
        let (session, slot) = match target {
            Target::One { session, slot } => (session, *slot),
            Target::Group(group) => {
                return group.withhold(self.session.id, &mut self.touched, &mut self.totals);
            }
        };
        let mut state = session.lock();
        let State { subscriptions, lanes, totals, parked_bytes, .. } = &mut *state;
        let Some(subscription) = subscriptions.at(slot) else { return 0 };
        let before = subscription.backlog.bytes();
        subscription.withhold(lanes, totals);
        *parked_bytes = (*parked_bytes + subscription.backlog.bytes()).saturating_sub(before);
        if state.note_parked(slot) {
            session.task.wake();
        }
        let uncounted = state.subscriptions.at(slot).is_some_and(|own| own.uncounted);
        claim(session, &mut state, &mut self.touched);
        if uncounted {
            self.totals.matched += 1;
        }
        u64::from(!uncounted)
    }

    /// Asks plugins about a subscription, where they want to be; returns whether its answer comes later.
    ///
    /// # Errors
    /// Why it is refused before they are asked.
    pub(super) fn ask_to_subscribe(
        &mut self,
        header: &Header,
        content: &ContentRef<'_>,
    ) -> Result<bool, BusError> {
        if self.plugins(Hooks::SUBSCRIBE).is_none() {
            return Ok(false);
        }
        Options::read(content.fields).map_err(Refusal::into_error)?;
        let pattern = TopicPattern::from_utf8(content.topic)?;
        self.check(Action::Subscribe, &pattern)?;
        let most = self.shared.settings.max_subscriptions;
        let count = self.session.lock().subscriptions.len();
        let Some(plugged) = &mut self.plugged else { return Ok(false) };
        if count + plugged.asking.entries.len() >= most {
            return Err(BusError::LimitReached { what: format!("this session has {most} subscriptions") });
        }
        let content = content.shared();
        if plugged.asking.bytes + content.size() > limits::PLUGIN_SUBSCRIBE_BYTES {
            let what = format!("{} bytes of subscriptions wait for plugins", plugged.asking.bytes);
            return Err(BusError::LimitReached { what });
        }
        plugged.asking.push(header, content);
        Ok(true)
    }

    /// Whether plugins are being asked about this subscription.
    pub(super) fn is_asked_about(&self, id: u32) -> bool {
        self.plugged.as_ref().is_some_and(|plugged| plugged.asking.places.contains_key(&id))
    }

    /// Gives up a subscription that plugins are being asked about; returns whether there is one.
    pub(super) fn give_up_asking(&mut self, id: u32) -> bool {
        let found = self.plugged.as_mut().is_some_and(|plugged| plugged.asking.remove(id).is_some());
        if found {
            self.answer(|state| {
                let header = Header::answering(Kind::Ended, Kind::Subscribe, id, 0);
                state.data(&header, &ContentRef::empty());
            });
        }
        found
    }

    /// Makes the subscriptions that plugins have agreed to by now, and answers the others.
    pub(super) fn take_answers(&mut self, context: &mut Context<'_>) {
        let mut answered = false;
        loop {
            let has_time = self.matches_left() > 0;
            let Some(plugged) = self.plugged.as_deref_mut() else { return };
            let Plugged { plugins, session: Some(session), asking } = plugged else { return };
            if asking.entries.is_empty() {
                break;
            }
            asking.begin(&self.runtime, plugins, session);
            if !has_time {
                context.waker().wake_by_ref();
                break;
            }
            let Poll::Ready((asked, said)) = asking.poll_first(context) else { break };
            answered = true;
            self.count_frame();
            match said {
                Ok(()) => self.admit_subscription(&asked.header, &asked.content.borrowed()),
                Err(error) => {
                    let id = asked.header.id;
                    self.answer(|state| state.fail(Kind::Subscribe, id, 0, &error));
                }
            }
        }
        if answered {
            self.end_turn();
        }
    }

    /// Tells plugins that the session has ended.
    pub(super) fn tell_end(&mut self, reason: BusError) -> impl Future<Output = ()> + Send + use<> {
        let plugged = self.plugged.take().map(|plugged| *plugged);
        // What it has left is still shown to those who see what is delivered.
        self.plugged = plugged.as_ref().and_then(|plugged| Plugged::of_bus(&plugged.plugins));
        async move {
            if let Some(Plugged { plugins, session: Some(session), .. }) = plugged {
                plugins.disconnect(&session, &reason).await;
            }
        }
    }

    /// Has plugins told of the end of a session that cannot tell by itself.
    pub(super) fn leave_end(&mut self) {
        if let Some(Plugged { plugins, session: Some(session), .. }) =
            self.plugged.take().map(|plugged| *plugged)
        {
            let reason = BusError::Disconnected { reason: "the task of the session was stopped".into() };
            plugins.note_end(session, reason);
        }
    }
}
