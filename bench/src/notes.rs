//! What the report says of its subjects.

/// What the subjects are and how they are used, so far as their names do not say it.
pub const SUBJECTS: &str = "\
Rows in italics are limits: they carry bytes and do nothing else that a bus does.

- **frame relay, one thread** is the limit for publishing: client, relay, client over Unix sockets. \
  The relay reads 64 KiB at a time, parses length-prefixed frames, writes once per destination and \
  read, and allocates nothing per frame. Its publisher gives each message to an asynchronous send \
  with a buffer of 64 KiB, and its subscriber gets each message as an owned value: the least that \
  a client does that sends and receives messages. With **two threads** it is the limit of a fan-out.
- **frame relay, load through Tokio's codec** is the same relay between clients that use \
  `LengthDelimitedCodec` with its default buffers; **one write a message** has a publisher that \
  writes each message at once; **load in bulk** has prepared batches of 64 KiB, which no \
  application could look at message by message: what the sockets carry.
- **chunk relay** copies whatever a read gives; requests through it are the limit for \
  request/response, each request in a write of its own. In 1→1 its load is in bulk.
- **raw ping-pong, one hop** has nothing between requester and answerer.
- **tokio mpsc** is the limit in memory: a bounded channel, with a `oneshot` for the answer. \
  **tokio broadcast** has the same capacity; its publisher yields while it is full, because it would \
  overwrite what nobody has taken.
- **iceoryx2** hands messages over in shared memory without a bus. Its users poll, and yield the \
  processor when there is nothing; a publisher retries while a subscriber's buffer of 256 is full.
- **whispeer** over Unix sockets: `publisher_bytes().send`, `subscribe_bytes`, `request_bytes` and \
  `serve_bytes`, with default settings and windows. In memory: `publisher().send` and `request` with \
  values of 16 bytes, unless the row says bytes.
- **NATS** over TCP on the loopback, for want of Unix sockets: `async-nats` with its own batching. \
  Not to lose messages at full speed, its server may keep 1 GB for a client (`max_pending`) and take \
  60 s for a write, and the client may keep a million messages for a subscription; and its publishers \
  keep a window (below). Debian's 2.9 and the newest stand beside each other.
- **Redis** over its Unix socket: publish/subscribe with pipelines of up to 128 messages, four under \
  way. Nothing limits what waits for a subscriber (`client-output-buffer-limit pubsub 0 0 0`), or it \
  would be cut off at full speed; nothing is persisted. It has no requests: they are two publishes.
- **Mosquitto** over its Unix socket, QoS 0: `rumqttc` with a channel of 1,024 requests. Nothing \
  limits what waits for a client (`max_queued_messages 0`), or messages would be dropped at full \
  speed. Requests are two publishes.
- **Zenoh's router**: sessions in client mode; puts that block under congestion, so that none is \
  dropped, and that may travel together; callbacks; no timestamps, no scouting. Requests are queries \
  to a queryable. Its client brings threads of its own.
- **tarpc** (bincode) and **tonic** (prost) over a Unix socket, client to server, with nothing \
  between: what a request costs without a bus.
- **a window** holds the publishers of NATS, Redis and Mosquitto back at full speed, because their \
  buses do not, and those of Zenoh over TCP, whose sockets hold seconds of small messages: at most 16,384 messages, or 16 MiB, over all streams are on their way to the slowest \
  subscription (256 in wildcard routing). Without it they publish seconds ahead of what they deliver, \
  and some drop messages or cut subscribers off in the end. Subscribers count in a file that publishers \
  look into; nothing of it goes over the bus.
- **t2_bus** over its Unix socket, typed requests, publishes as bytes with 256 under way. It is \
  measured with 16 bytes.
- **half load**: each subject's own rate at full speed is measured first, for half as long, and then \
  messages are sent at half of it. Each message has a time at which it is due, every 100 µs or less \
  often, whatever became of the ones before it; its latency counts from then to its receipt, on one \
  clock.
- **wildcard routing**: ten connections subscribe to 10,000 patterns each. Each message goes to a \
  topic that was never used before, and matches one pattern at each connection. Figures count \
  messages, not deliveries: compare with 1→10, times ten. Redis compares each message with all \
  patterns, one after the other. Zenoh's router is not in this row: it took more than two minutes to \
  take as many subscriptions.
- **subscriptions that come and go** are made and ended, one after the other, by a connection of \
  their own.
- **idle connections** have one subscription each, to a topic of its own, made by the ordinary \
  client. Counted is what the resident memory of the bus process grew by. The frame relay does no \
  more than to hold the sockets.
- **seen elsewhere** are figures of another machine with two cores, whose relay and load are not \
  this code. They say how far the machines compare; targets are judged within the run.
";
