//! Every bound of the link, with its unit, its reason and what happens at it.

use std::time::Duration;

/// Topics that are numbered, at each bus. One that is new takes the place of the one that has been quiet for longest. So the end of
/// what was lost of that may not be noticed.
pub const NUMBERED_TOPICS: usize = 100_000;

/// Bytes that they take, of which the same holds: so many topics have names of some 50 bytes.
pub const NUMBERED_BYTES: usize = 64 * 1024 * 1024;

/// Bytes that such a topic takes beside its name and its subjects.
pub const NUMBERED_TOPIC: usize = 512;

/// Topics of other buses whose numbers are known here. One that is new takes the place of the one that came first; what is lost of
/// that before its next message is not noticed.
pub const KNOWN_TOPICS: usize = 200_000;

/// Bytes that they take, of which the same holds: so many topics have names of some 75 bytes.
pub const KNOWN_BYTES: usize = 128 * 1024 * 1024;

/// Bytes that such a topic takes beside its name, with who publishes to it here.
pub const KNOWN_TOPIC: usize = 512;

/// Patterns that are subscribed to at NATS. Where there are more at a bus, it subscribes to all topics instead, and leaves out what is
/// not for it: that takes less of NATS than so many subscriptions.
pub const INTEREST_PATTERNS: usize = 32_768;

/// For how long a topic is quiet before its number is told once more, so that others find out that its last messages were lost.
pub const QUIET: Duration = Duration::from_secs(1);

/// Position marks that are sent in one go. The others follow with the next tick, so that a link that comes back is not filled by them.
pub const MARKS: usize = 8_192;

/// How young a subscription may be at NATS, for what was sent before it not to count as lost: as long as it may take to reach all of
/// NATS's servers.
pub const SETTLING: Duration = Duration::from_secs(1);

/// How long a message waits for the ones before it, where several subscriptions bring the same topic.
pub const REORDERING: Duration = Duration::from_millis(100);

/// Messages that wait for the ones before them. At this many they wait no longer.
pub const REORDERED: usize = 8_192;

/// Bytes of such messages, at which they wait no longer: what a fast network brings within the time for which they may.
pub const REORDERED_BYTES: usize = 16 * 1024 * 1024;

/// How long a subscription at NATS that ends is read on at the most, where NATS does not answer that it has sent all that it had for it. As long
/// as a call to NATS may take elsewhere. So many patterns may end at the same time as there may be, and one for all topics; beyond these the first ones
/// end at once.
pub const ENDING: Duration = Duration::from_secs(5);

/// How long NATS may hold messages up that are to be sent, and with them their publishers. After that they are dropped and counted, and
/// told as gaps elsewhere. Half of what the bus lets a subscriber hold up its publishers by default.
pub const SENDING: Duration = Duration::from_millis(500);

/// How long a subscriber without room may hold up what comes from elsewhere. It is one stream for all of them, so this is short.
pub const BLOCKING: Duration = Duration::from_millis(20);

/// The window of the subscription that takes what is published here: messages and bytes.
pub const OUTBOUND_WINDOW: (u32, u64) = (16_384, 16 * 1024 * 1024);

/// Messages that are taken of one subscription at NATS in a row.
pub const INBOUND_RUN: usize = 256;

/// Such runs that are read before they are looked at.
pub const INBOUND_RUNS: usize = 32;

/// Messages of all subscriptions that were read of NATS and wait for the bus. More are dropped and counted, and are gaps: about a tenth of a second of
/// what comes at the most.
pub const INBOUND_MESSAGES: usize = 65_536;

/// Bytes of such messages, of which the same holds.
pub const INBOUND_BYTES: usize = 64 * 1024 * 1024;

/// How long messages may have been given to the bus until that is asked what has become of them: so much later subscribers hear what it has
/// refused, at the least.
pub const OUTCOMES_AFTER: Duration = Duration::from_millis(20);

/// Messages after which it is asked before that: as many as it has under way for a session by default.
pub const OUTCOMES: u64 = 1_024;

/// Messages whose answers are waited for one by one, at which each is looked at and not the first alone. Those that the bus has not answered are
/// bounded by its window.
pub const OUTCOMES_WAITING: usize = 16_384;

/// Servers that a link is told of. More are refused; those of a cluster tell of each other, so that a few are enough.
pub const LINK_SERVERS: usize = 64;

/// Bytes of a file with a key, with credentials or with certificates. A larger one is no such file and is not read.
pub const LINK_FILE_BYTES: u64 = 1024 * 1024;

/// How long a server may take to let a link in, TLS included; then another one is tried.
pub const LINK_CONNECT: Duration = Duration::from_secs(5);

/// How long nothing may come from NATS until it is asked whether it is there. After three such intervals without an answer the link counts
/// as broken: 6 seconds, where a bus and its clients have 30 for each other.
pub const LINK_PING: Duration = Duration::from_secs(2);

/// The pause after the first attempt to connect that failed. It doubles with each, and up to half of it is left out by chance, so that many
/// buses do not come back at the same moment.
pub const LINK_PAUSE_FIRST: Duration = Duration::from_millis(50);

/// The longest of these pauses: so much later than NATS a link is back at the most, beside what connecting takes.
pub const LINK_PAUSE_LAST: Duration = Duration::from_secs(5);

/// Messages of a subscription at NATS that wait to be taken. More are dropped, which counts as a disturbance of the link. Where they may be large they
/// are taken at once, into a queue that is bounded in bytes as well.
pub const LINK_SUBSCRIPTION_MESSAGES: usize = 8192;

/// What waits to be sent to NATS, in messages and commands. Whoever sends more waits, also while NATS is away.
pub const LINK_COMMANDS: usize = 2048;

/// How long a link that is closed may take to hand over what it was given; then it is left.
pub const LINK_CLOSE: Duration = Duration::from_secs(2);

/// Different errors of a server, such as subjects that it does not allow, that are logged until the link breaks. More are not.
pub const LINK_COMPLAINTS: usize = 16;

/// Characters of an error that are kept to be shown.
pub const LINK_ERROR_CHARACTERS: usize = 300;

/// How often it is looked for what a server says of itself, a millisecond apart, when it has let a link in: that comes a moment later.
pub const LINK_GREETING_LOOKS: usize = 50;

/// How often a bus tells the others that it is there, as long as there are at most [`MEMBERS_AT_FULL_RATE`]. A bus counts as gone after
/// three times as long: a few seconds, which is about what a restart takes.
pub const HEARTBEAT: Duration = Duration::from_secs(1);

/// Buses above which heartbeats become rarer: each is sent every `buses / 128` seconds then, rounded up. So a bus hears no more than about 128
/// in a second, however many there are, and a cluster of 1,000 has 125,000 deliveries of some 150 bytes in a second in place of a
/// million. And that a bus of as many hangs is noticed after 24 seconds, within the 30 that a bus and its clients have for each other.
pub const MEMBERS_AT_FULL_RATE: usize = 128;

/// Heartbeats in a row that a bus may miss before it counts as gone.
pub const HEARTBEATS_MISSED: u32 = 3;

/// Other buses that a bus keeps count of; some 200 bytes each. One more is told once in the log and left out, and what it answers is an error.
pub const MEMBERS: usize = 1_024;

/// Bytes of the name of a bus; a longer one is cut.
pub const MEMBER_NAME_BYTES: usize = 64;

/// Bytes of a heartbeat. One of more is not a bus's and is ignored.
pub const HEARTBEAT_BYTES: usize = 1_024;

/// What a bus says of its interval is taken for at most this, so that nobody is there for ever.
pub const HEARTBEAT_MAX: Duration = Duration::from_secs(60);

/// News of members that wait for somebody who listens. Beyond that he is told that he has missed some, and looks at the table.
pub const MEMBER_EVENTS: usize = 1_024;

/// Requests of this bus that others have not answered. One more is answered `OVERLOADED`.
pub const REQUESTS_OUT: usize = 65_536;

/// Bytes of such requests, and of parts of replies to them that wait for their requesters. One more is answered `OVERLOADED`.
pub const REQUEST_BYTES_OUT: usize = 64 * 1024 * 1024;

/// Requests of others that this bus has not answered, unless a session of the bus may have fewer (`Settings::max_requests`). One more is
/// answered `OVERLOADED`.
pub const REQUESTS_IN: usize = 65_536;

/// Bytes of such requests; below what the bus allows a session, so that it is told here and not there. One more is answered `OVERLOADED`.
pub const REQUEST_BYTES_IN: usize = 48 * 1024 * 1024;

/// Topics served at this bus that others can ask: a subscription at NATS each. Those beyond are served to this bus alone, which is told
/// once in the log.
pub const SERVED_TOPICS: usize = 100_000;

/// Bytes that wait to be given to NATS, at which this bus's requests and replies to others are not read any more. So the bus holds them back.
pub const OUTBOX_BYTES: usize = 8 * 1024 * 1024;

/// Messages that do so.
pub const OUTBOX_MESSAGES: usize = 4_096;

/// Turns over what has come, of one sort, before the other sorts have theirs.
pub const TURN: usize = 256;

/// How long a bus works on a request of another one before it says that it has it. Most are answered by then, which says the same; and it is
/// well below the time after which a bus that is silent counts as gone.
pub const ACCEPT_AFTER: Duration = Duration::from_millis(100);

/// How long a request that no bus has said to have waits, when one is gone that may have had it. Others have said so by then.
pub const DOUBT: Duration = Duration::from_millis(500);

/// How long a bus has its topics with a single server without renewing its lease, unless it is set otherwise; it renews it every third of that time. Longer
/// than its connection takes to move to another server of NATS, and short enough to wait for.
pub const LEASE: Duration = Duration::from_secs(10);

/// The shortest that a lease may last: each bus writes three times in it.
pub const LEASE_SHORTEST: Duration = Duration::from_secs(1);

/// Which part of a lease is added before another bus ends it: so much faster may the clock of one run than that of the other. Those of
/// machines differ by less than a thousandth.
pub const LEASE_MARGIN: u32 = 10;

/// How long a session waits to hear whether it may be the only server of a topic, where JetStream does not answer; then it serves at its own bus.
/// Less than the bus waits itself ([`SERVE_CLAIM`](whispeer::limits::SERVE_CLAIM)).
pub const LEASE_CLAIM: Duration = Duration::from_secs(2);

/// Such sessions that wait, of one bus; the others wait at the bus, which has a bound for them.
pub const LEASE_CLAIMS: usize = 16_384;

/// Steps at the bucket of leases that are under way at once; the others wait.
pub const LEASES_AT_ONCE: usize = 64;

/// When a step that had no answer is tried again, or a lease looked at whose bus seems to be gone.
pub const LEASE_RETRY: Duration = Duration::from_millis(250);

/// After how long a topic that another bus has is looked at once more before somebody is refused: that bus may be about to release it.
pub const LEASE_SECOND_LOOK: Duration = Duration::from_millis(100);

/// When a topic is looked at again that another bus was asked to release.
pub const LEASE_YIELD: Duration = Duration::from_millis(50);

/// When it is looked again for JetStream where there was none.
pub const LEASE_LOOK: Duration = Duration::from_secs(30);

/// Leases of other buses that a bus keeps in mind, to know which are not renewed; one for each of the most buses there may be.
pub const LEASES_SEEN: usize = MEMBERS;

/// How long the bucket keeps an entry that nobody writes again: those of buses that are gone, and their topics.
pub const LEASE_UNUSED: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// How old the entry of a topic may become before its bus writes it again; far less than [`LEASE_UNUSED`], so that NATS's clock may jump by days.
pub const LEASE_REWRITE: Duration = Duration::from_secs(24 * 60 * 60);

/// Entries of the bucket: topics with a single server of all buses, and leases. Beyond that no topic is leased, which is tried again.
pub const LEASE_ENTRIES: i64 = 1_000_000;

/// How long after a bus has begun to drain, or has left, its servers may be on their way to other buses: requests that nobody takes are asked
/// again meanwhile, each for as long at the most. A client that goes to another bus needs some milliseconds, and half a second where it has to try several.
pub const SERVERS_MOVE: Duration = Duration::from_secs(2);

/// Between two times that such a request is asked: a hundred tries at the most.
pub const ASK_PAUSE: Duration = Duration::from_millis(20);

/// How long after NATS has said that nobody serves a topic it is waited whether another bus has said a moment before that it drains: news of buses
/// and answers of NATS are heard side by side.
pub const NEWS: Duration = Duration::from_millis(5);

/// How long it is waited until NATS has said that it has ended a subscription: it does so within a round trip, unless somebody listens to
/// all of its subjects. What comes later is lost.
pub const UNSUBSCRIBING: Duration = Duration::from_millis(250);

/// How long the link finishes what is under way before it leaves a server of NATS that is about to end: less than the ten seconds that the server
/// gives by default. What is under way then fails.
pub const LINK_MOVE: Duration = Duration::from_secs(4);

/// How long requests to others wait then for the connection to another server. After that they fail as where there is none.
pub const LINK_MOVE_GAP: Duration = Duration::from_secs(5);

/// How long a bus that is about to end subscriptions waits until the others send no requests. Whoever takes longer sends on, and what is on its way
/// from him at that moment may be lost.
pub const PAUSE_ANSWER: Duration = Duration::from_millis(250);

/// How long requests to others wait for a bus that ends subscriptions. It needs two round trips, and [`UNSUBSCRIBING`] where NATS does not say that they have ended.
pub const PAUSE: Duration = Duration::from_millis(500);

/// Messages that are sent to NATS as one, at the most: as many as are taken from the bus in a row.
pub const BATCH_MESSAGES: usize = 256;

/// Bytes of them all: what a message costs by itself is small beside these.
pub const BATCH_BYTES: usize = 64 * 1024;

/// Bytes of one of them. A larger one goes by itself: copying it takes longer than is won.
pub const BATCHED_MESSAGE: usize = 4 * 1024;

/// Bytes that a header takes in a message beside its name and value, and all of them together; NATS counts them towards `max_payload`.
pub const HEADER_OVERHEAD: usize = 16;

/// How long the link goes on when the bus drains, until NATS has what was published there, and others have their answers. The bus has bounds
/// of its own for that, which are shorter as a rule.
pub const LINK_END: Duration = Duration::from_secs(30);

/// How long it takes until a link that the bus has cut off begins anew.
pub const LINK_AGAIN: Duration = Duration::from_secs(1);

/// How long after it has begun anew a link takes what comes to be wanted for what was wanted before, so that what was sent meanwhile is missing: that is
/// told at once, if it still is.
pub const WANTED_BEFORE: Duration = Duration::from_secs(5);

/// Between two times that others are asked for marks: what disturbs the link often comes in numbers.
pub const ASK_AGAIN: Duration = Duration::from_secs(1);

/// How long the other buses may take to say how they are. Those that take longer are told as silent.
pub const OVERVIEW: Duration = Duration::from_secs(1);

/// Between two times that a bus says how it is: all who ask meanwhile get the same.
pub const OVERVIEW_AGAIN: Duration = Duration::from_millis(100);

/// Questions of this kind that are under way at a bus, and as many of who is there. One more waits.
pub const OVERVIEWS: usize = 4;

/// Bytes in which another bus tells that somebody comes or goes. What is larger is no bus's, as names and patterns have bounds, and counts as missed.
pub const PRESENCE_EVENT_BYTES: usize = 16 * 1024;

/// How long other buses may take to say which topics they serve that meet a pattern. Those there that take longer are not asked, which is
/// counted: a bus that was killed is waited for so long until it is missed.
pub const SERVING_TOLD: Duration = Duration::from_secs(1);

/// Questions of this kind that a bus asks at once. One more waits.
pub const SERVING_SURVEYS: usize = 64;

/// Bytes of such an answer beside its topics.
pub const SERVING_ANSWER_BYTES: usize = 256;

/// How long a call to a store in JetStream waits for NATS unless it is told otherwise; then it is refused as busy, and the bus asks again. Longer
/// than a server takes to start again, or a cluster to elect a leader.
pub const JETSTREAM_ANSWER: Duration = Duration::from_secs(5);

/// Bytes of calls that wait for JetStream: as many as a file's store has by default. More are refused as busy.
pub const JETSTREAM_QUEUE_BYTES: usize = 256 * 1024 * 1024;

/// Bytes of what was sent to JetStream and is not stored yet. The next ones wait for these: ten milliseconds at 1 GiB/s.
pub const JETSTREAM_WINDOW_BYTES: usize = 8 * 1024 * 1024;

/// Messages of NATS of which the same holds.
pub const JETSTREAM_WINDOW: usize = 1024;

/// Bytes that a call counts as beside the messages that it brings.
pub const JETSTREAM_CALL_BYTES: usize = 512;

/// Bytes of what this bus has stored last, kept in memory for those who read on at the end of a stream.
pub const JETSTREAM_CACHE_BYTES: usize = 16 * 1024 * 1024;

/// Messages of a page that are fetched at the same time.
pub const JETSTREAM_FETCHES: usize = 64;

/// How long nothing is heard of what was sent until it is sent again. Longer than a write takes, and shorter than a call waits.
pub const JETSTREAM_RESEND: Duration = Duration::from_secs(1);

/// How long after it was begun to send again nothing that is out of order has it begin once more: what was under way by then is stored within that.
pub const JETSTREAM_REWIND: Duration = Duration::from_millis(250);

/// How long a reader of the journal waits for an answer about it. One that a leader was asked for who is gone does not come; then it asks again.
pub const JETSTREAM_ASK: Duration = Duration::from_secs(2);

/// How often a consumer that has no entry to send says that it is there.
pub const JETSTREAM_HEARTBEAT: Duration = Duration::from_secs(1);

/// How long one may be silent until another is made in its place: the server that had it may be gone. Two heartbeats, and what they may be late.
pub const JETSTREAM_SILENCE: Duration = Duration::from_millis(2_500);

/// How long an entry that is stored may take to come, at the most: at first it is [`JETSTREAM_SILENCE`], and twice as long each time where nothing has
/// come, as a server that has just been started, or is behind, may take its time for the first.
pub const JETSTREAM_PATIENCE: Duration = Duration::from_secs(20);

/// How often the leader is asked where the journal ends while nothing comes of it. The server that pushes it may be behind and not know that: one that was cut off
/// may take minutes to catch up.
pub const JETSTREAM_LOOK: Duration = Duration::from_secs(5);

/// How long servers may tell less of the journal than was read of it until that counts as lost. One that has led, and was cut off, tells what it knew
/// until it notices, which takes up to ten seconds; and one that is elected in its place, for which it takes up to nine, may have
/// to catch up at first (the intervals `lostQuorumInterval` and `maxElectionTimeout` of nats-server).
pub const JETSTREAM_DOUBT: Duration = Duration::from_secs(30);

/// How long an entry is waited for that any of the servers may answer with. One that is cut off does not.
pub const JETSTREAM_DIRECT: Duration = Duration::from_millis(500);

/// How long the leader alone is asked for entries where another server has not answered.
pub const JETSTREAM_INDIRECT: Duration = Duration::from_secs(5);

/// How soon an entry is asked for again that should be there and is not yet; it doubles each time.
pub const JETSTREAM_MISSING: Duration = Duration::from_millis(50);

/// How long it is remembered that an entry was not there. Who wants it asks again sooner.
pub const JETSTREAM_MISSED_FOR: Duration = Duration::from_secs(10);

/// Entries that should be there and are not, of which it is remembered since when. Of more that is forgotten, so that they are waited for longer.
pub const JETSTREAM_MISSED: usize = 1024;

/// How often it is looked which calls have waited too long.
pub const JETSTREAM_TICK: Duration = Duration::from_millis(100);

/// Answers of calls that were told that the store is busy and were done nevertheless, kept for those who ask again. More are forgotten, the
/// oldest first.
pub const JETSTREAM_LATE: usize = 1024;

/// Bytes of one message of an image, at the most: a quarter of what NATS takes by default.
pub const JETSTREAM_CHUNK_BYTES: usize = 256 * 1024;

/// Bytes of one header, at the most: JetStream takes no more than 64 KiB for all headers of a message. What is longer goes in parts.
pub const JETSTREAM_HEADER_VALUE: usize = 48 * 1024;

/// Bytes of the headers of a message beside those of its fields: what whispeer says of it, and the topic of one to a pattern.
pub const JETSTREAM_HEADER_BYTES: usize = 8 * 1024;

/// Entries of the journal after which an image is written, at the least.
pub const JETSTREAM_IMAGE_ENTRIES: u64 = 4096;

/// Bytes that could be freed after which one is, at the least.
pub const JETSTREAM_IMAGE_GARBAGE: u64 = 16 * 1024 * 1024;

/// Bytes of an image at the most: an index of about 50 million messages. Without a new one the journal only grows, and that is told in the log.
pub const JETSTREAM_IMAGE_BYTES: usize = 1024 * 1024 * 1024;

/// Writers that the journal knows: one of each store that is open, and what those were who ended without a word. The one longest unheard of goes.
pub const JETSTREAM_WRITERS: usize = 1024;

/// How long a consumer is its bus's after that was last heard of.
pub const JETSTREAM_LEASE: Duration = Duration::from_secs(15);

/// How often a bus with nothing to store is heard of.
pub const JETSTREAM_IDLE: Duration = Duration::from_secs(5);

/// Between two times that a bus marks its topics again for those who ask: a mark for each topic that was published to lately.
pub const MARK_AGAIN: Duration = Duration::from_secs(2);

/// Tunnels to other buses and from them, of one bus: one for each consumer whose members are at both. Beyond these, members wait until their bus has the
/// consumer itself.
pub const TUNNELS: usize = 1_024;

/// Messages with data that are under way in a tunnel, in each direction. The next ones wait until the other end has read half of these.
pub const TUNNEL_WINDOW: u64 = 64;

/// Bytes of data in such a message, at the most; where NATS takes less, less. So no more than 4 MiB are under way.
pub const TUNNEL_CHUNK: usize = 64 * 1024;

/// Bytes that wait to be sent by a tunnel. Whoever has more waits.
pub const TUNNEL_OUTGOING_BYTES: usize = 256 * 1024;

/// How long it is waited for the bus that has a consumer to say so. It is asked again a quarter of a second later.
pub const TUNNEL_OPENS: Duration = Duration::from_secs(1);

/// How often an end of a tunnel says how far it is, where it has nothing else to say: so soon a lost message is noticed that none has followed.
pub const TUNNEL_BEAT: Duration = Duration::from_secs(1);

/// How long an end may be silent, as long as a connection to NATS that hangs: then it is gone.
pub const TUNNEL_SILENT: Duration = Duration::from_secs(6);
