//! Bounds of streams and stores.

use std::time::Duration;

/// Bytes of the name of a stream or consumer: it stands in settings, listings and topics of the bus.
pub const STORE_NAME_BYTES: usize = 64;

/// Streams of one store: each is looked at for a topic that is new.
pub const STREAMS: usize = 256;

/// Patterns of one stream.
pub const STREAM_PATTERNS: usize = 64;

/// Consumers of one stream: each is told of what is new.
pub const STREAM_CONSUMERS: usize = 1024;

/// Consumers of one stream that one principal may make, where there is a policy: a quarter of all, so that four have to conspire
/// to keep others out. The next one is refused with [`BusError::LimitReached`](crate::BusError::LimitReached). The default of
/// `Settings::max_consumers_per_principal`.
pub const CONSUMERS_OF_ONE: usize = STREAM_CONSUMERS / 4;

/// Bytes that a stored message counts as, beside its topic, fields and payload: what its row and its entries in indexes
/// take in a file. Measured, beside fields and payload: 35 B with ten million messages of 100 B and one topic, 43 B with
/// mixed sizes around 70 B and ten topics, 49 B with ten thousand topics, whose part of the index is less full. What a row
/// leaves empty of its page is counted besides; see [`store::weight`](crate::store::weight).
pub const STORED_OVERHEAD: usize = 48;

/// Messages that are dropped for one that comes, or at one step of a sweep, at the most: some milliseconds, in which nothing
/// else is stored. What is over goes with the next ones.
pub const RETENTION_STEP: u64 = 1024;

/// Bytes of these in a file, likewise, as the pages of large messages take their time: 1 GiB took 0.8 s. The last one may exceed
/// them. Calls that are written together are no more once those before have dropped so much.
pub const RETENTION_STEP_BYTES: u64 = 16 * 1024 * 1024;

/// How long a stream knows the ids of messages unless it is told otherwise: longer than a client tries to come
/// back by default.
pub const MESSAGE_ID_WINDOW: Duration = Duration::from_secs(120);

/// How far the last message of a stream may be ahead of the clock, so that times do not go back where one is corrected, or a file
/// goes to another host: more than clocks that are kept right differ by. Beyond that the clock was wrong then, and what comes has
/// the time that it is; else all of it would have the wrong one, and none would grow too old before that has come.
pub const CLOCK_AHEAD: Duration = Duration::from_secs(60);

/// Ids that are forgotten with one message, at the most, as their time is over: more than one comes with it, so that they grow fewer.
/// A clock that is ahead for a moment has no more of them forgotten than messages come in it.
pub const MESSAGE_IDS_AGED: usize = 2;

/// Ids of messages that a stream knows unless it is told otherwise; then it forgets the oldest. It is
/// [`MESSAGE_ID_WINDOW`] at 8,700 publishes a second with quality 2, and shorter with more.
pub const MESSAGE_IDS: u64 = 1 << 20;

/// Bytes that the id of a message counts as: what its row and its entry in an index take in a file. Measured: 84 B, of one
/// publisher as of 3,000. The rest is for what publishers that come and go leave empty of their pages.
pub const MESSAGE_ID_BYTES: u64 = 100;

/// One part in so many of the bytes that a stream may take is for ids at the most, so that messages have the rest. A stream of
/// 400 MiB knows as many as [`MESSAGE_IDS`].
pub const MESSAGE_IDS_PART: u64 = 4;

/// Messages that a stream keeps until they are due, and likewise the bus for topics of no stream. One principal has at most as many
/// of them, and bytes, as it leaves free: however many there are that take what they can get, others find room. The bus's own process
/// may have all.
pub const DELAYED_MESSAGES: u64 = 65_536;

/// Bytes of these in a stream, counted as those of other messages.
pub const DELAYED_BYTES: u64 = 64 * 1024 * 1024;

/// Wills of sessions that have ended and are yet to be published: as many as there may be sessions.
pub const WILLS_WAITING: usize = 65_536;

/// Joins and leaves that wait to be told to those who watch presence. More are counted, and told as missed.
pub const PRESENCE_EVENTS: usize = 16_384;

/// Patterns that are listed as changed for one who watches what is subscribed to. Beyond that he looks at all that there is: as many as
/// make that the lesser work.
pub const INTEREST_CHANGES: usize = 65_536;

/// How much later a message may be published at the most.
pub const DELAY_MAX: Duration = Duration::from_secs(366 * 24 * 60 * 60);

/// Messages of one page of a stream, unless it is told otherwise: enough that asking for it costs little of reading it.
pub const STORE_PAGE_MESSAGES: usize = 1024;

/// Bytes of one page, likewise. A page may be longer by one message. A subscription that reads a stream has two at the most, one that
/// is going out and the next, and none while it has no credit.
pub const STORE_PAGE_BYTES: u64 = 256 * 1024;

/// Messages of a page of history that a client asks for, unless it says otherwise: what a person looks through.
pub const HISTORY_MESSAGES: u32 = 1024;

/// Bytes of the frames of such a page, likewise.
pub const HISTORY_BYTES: u64 = 1024 * 1024;

/// Messages of a page of history at the most: a client holds all of them at once. Who wants more than that reads the stream by
/// a subscription.
pub const HISTORY_MESSAGES_MAX: u32 = 65_536;

/// Bytes of the frames of a page of history at the most, likewise. The last message may exceed them.
pub const HISTORY_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// Messages that are looked at for one page, whether or not they belong to it: some ten milliseconds.
pub const STORE_LOOKS: usize = 16 * 1024;

/// How often a bus has its streams drop what is too old: what is over its age by more than that is seldom read.
pub const STREAM_SWEEP: Duration = Duration::from_secs(1);

/// How long introspection waits for a store to tell of its streams. One that takes longer has trouble with its disk.
pub const STORE_ANSWER: Duration = Duration::from_secs(2);

/// How much later than it is due a bus publishes a delayed message that another bus of the same store has taken in: where that is there, it
/// has done so by then, and both need not fetch it. So much later those come whose bus has ended, or began anew.
pub const DELAYED_ELSEWHERE: Duration = Duration::from_secs(2);

/// How often a consumer that another bus has is asked for, by subscriptions that wait for it. It is what a hand-over takes where that bus
/// gives it up; a store knows without asking anybody that it has not.
pub const CONSUMER_HAND_OVER: Duration = Duration::from_millis(250);

/// Wishes for links to buses that have shared consumers, which whoever brings them has not looked at. One more is made again after
/// [`CONSUMER_HAND_OVER`].
pub const LINK_WISHES: usize = 1024;

/// How long a bus that has a shared consumer may take to let another one in. Then that one looks for it again.
pub const CONSUMER_LINK_OPENS: Duration = Duration::from_secs(5);

/// Bytes of what members of a consumer that another bus has say of their messages, which wait for the link to that bus: 65,536
/// acknowledgements. What is said beyond is refused with [`BusError::LimitReached`](crate::BusError::LimitReached), or the message comes again.
pub const CONSUMER_OUTGOING_BYTES: usize = 4 * 1024 * 1024;

/// Bytes that such an acknowledgement counts as, beside further tokens.
pub const CONSUMER_OUTGOING_FRAME: usize = 64;

/// Bytes that are given to such a link at once.
pub const CONSUMER_LINK_BATCH: usize = 64 * 1024;

/// How long a reader of a stream waits before it asks a store again that was busy; it doubles each time. Shorter than a person
/// notices, and longer than a few writes take.
pub const STORE_RETRY: Duration = Duration::from_millis(10);

/// The most of such times: as many readers as a bus may have ask a busy store some ten thousand times a second then, which costs it
/// little to refuse.
pub const STORE_RETRY_MAX: Duration = Duration::from_secs(1);

/// For how long a reader asks a store again that is busy. After that its subscription ends with what the store says: something
/// is wrong with it that does not pass. A store that several buses have is elsewhere, and is waited for as long as it is away.
pub const STORE_PATIENCE: Duration = Duration::from_secs(10);

/// Bytes that a call counts as which waits for a store, beside the messages that it brings: its place in queues, the publish
/// that it is for, and whom to tell.
pub const STORE_CALL_BYTES: usize = 512;

/// Bytes of calls that wait for a store in a file: twice the default [byte budget](super::BYTE_BUDGET), in which a bus counts
/// them as well, so that publishers wait before. More are refused as
/// [`StoreError::LimitReached`](crate::store::StoreError), and those that bring no messages at twice as many.
pub const STORE_QUEUE_BYTES: usize = 1024 * 1024 * 1024;

/// Bytes of messages that are written to a file together, and calls; they share one wait for the disk.
pub const STORE_GROUP_BYTES: u64 = 4 * 1024 * 1024;

/// Calls that are written together. See [`STORE_GROUP_BYTES`].
pub const STORE_GROUP: usize = 1024;

/// How long an acknowledgement is waited for unless it is told otherwise: as long as other systems wait, and longer than most
/// handlers take.
pub const ACK_WAIT: Duration = Duration::from_secs(30);

/// The shortest such time: below it a message would be sent again while its acknowledgement is on the way.
pub const ACK_WAIT_MIN: Duration = Duration::from_millis(10);

/// The longest such time, also where it grows with the attempts, and the longest delay that a refusal can ask for.
pub const ACK_WAIT_MAX: Duration = Duration::from_secs(24 * 3600);

/// The time until a message is sent again that was refused without saying when, at the first attempt; it doubles with each.
pub const RETRY_DELAY: Duration = Duration::from_secs(1);

/// The most of such times.
pub const RETRY_DELAY_MAX: Duration = Duration::from_secs(60);

/// Attempts after which a message is a dead letter, unless it is told otherwise.
pub const MAX_DELIVER: u32 = 5;

/// Messages that a consumer has been handed and has not acknowledged, unless it is told otherwise: as many as the default
/// window of a subscription.
pub const CONSUMER_PENDING: u32 = 1024;

/// The most of them that can be asked for, [`CONSUMER_ENTRY_BYTES`] each at the bus.
pub const CONSUMER_PENDING_MAX: u32 = 64 * 1024;

/// Bytes that a message counts as in the byte budget, and in its session's [part](super::SESSION_PART) of it, that somebody has and
/// has not acknowledged, or that comes again: what a consumer knows of it. Beyond that nobody is handed more than one. Measured by what the
/// memory of a process grows when a consumer hands over 400,000, 600,000 and 800,000 messages in their order: 241, 230 and 216 B each, as
/// the table of tokens is full to a different part; and 9 B more where all of them have been refused.
pub const CONSUMER_ENTRY_BYTES: usize = 256;

/// Bytes that a message counts as, likewise, of which a consumer knows less: that it is done and not written yet, or what the store
/// has told of it. Calculated: the nodes of the trees that they are in, filled in order and so by half, take 19 B, 24 B with the attempts that have
/// failed, and 32 B for what the store has told.
pub const CONSUMER_MARK_BYTES: usize = 40;

/// How often a consumer whose members may not be handed more, as the byte budget or a session's [part](super::SESSION_PART) of it is spent, looks whether that is
/// so still. It does as well with each acknowledgement of its own.
pub const CONSUMER_LOOK_AGAIN: Duration = Duration::from_secs(1);

/// Acknowledgements of which a subscription waits to hear that they are kept, and messages of which it waits to hear that they
/// are done. As many as it can have been handed. What it says beyond them is taken, and whoever waits is told
/// [`BusError::LimitReached`](crate::BusError::LimitReached).
pub const CONSUMER_WAITING: usize = CONSUMER_PENDING_MAX as usize;

/// Bytes that each of them counts as in the byte budget.
pub const CONSUMER_WAITING_BYTES: usize = 100;

/// A subscription that is alone in its group leaves this part of what the group may have unacknowledged, one of so many, to
/// those that come: it may be stuck by then.
pub const GROUP_RESERVE: usize = 8;

/// Messages behind one another that are looked at for dead letters that are put away in one transaction, which is no more than a
/// page of the store.
pub const DEAD_TOGETHER: u64 = 256;

/// How far a consumer reads on behind a message that it is not done with: what is done behind it is remembered one by one. It is
/// handed nothing new until that one is done, also where that takes long as it was refused with a long delay. As much may be done
/// that a store does not take.
pub const CONSUMER_SPREAD: u64 = 128 * 1024;

/// Messages that plugins keep from some members of a consumer and that the others have not been offered yet; and likewise dead
/// ones that are yet to be put away. Then no further ones are handed over: all of them are looked through for who may have them.
pub const CONSUMER_ASIDE: usize = 1024;

/// Messages of which a store notes together that they may have been handed over: it costs one wait for the disk.
pub const CONSUMER_STRIDE: u64 = 1024;

/// Subscriptions that share one consumer.
pub const CONSUMER_MEMBERS: usize = 1024;

/// Dead letters that a stream keeps unless it is told otherwise; then the oldest go. One change names no more of them: it is
/// refused as [`BusError::LimitReached`](crate::BusError::LimitReached).
pub const DEAD_LETTERS: u64 = 100_000;

/// Bytes of these, likewise: as many as that where each counts 2.6 KiB. Without such a bound whoever refuses large messages
/// would fill the disk.
pub const DEAD_LETTER_BYTES: u64 = 256 * 1024 * 1024;

/// How long a bus that stops lets consumers finish writing where they are.
pub const CONSUMERS_GRACE: Duration = Duration::from_secs(2);

/// How often it looks whether they have.
pub const CONSUMERS_LOOK: Duration = Duration::from_millis(2);

/// Bytes that a session counts as which has ended while a store still has publishes of it, beside these: its routes and what
/// keeps its counts. So those who connect, publish and go while a store stalls come to the end of the byte budget.
pub const ENDED_SESSION_BYTES: usize = 16 * 1024;
