//! iceoryx2: what shared memory between two processes carries, without a bus and without a copy.
//!
//! Nothing wakes its users; they poll, and give up the processor when there is nothing. A
//! publisher waits while a subscriber's buffer is full.

use std::path::Path;
use std::time::Duration;

use anyhow::{Result, anyhow};
use bytes::Bytes;
use futures_util::future::FutureExt;
use iceoryx2::node::{Node, NodeBuilder};
use iceoryx2::port::client::Client;
use iceoryx2::port::publisher::Publisher as Port;
use iceoryx2::prelude::{BackpressureStrategy, ServiceName, ipc};
use iceoryx2::service::port_factory::publish_subscribe::PortFactory;
use iceoryx2::service::port_factory::request_response::PortFactory as RequestFactory;

use crate::address::Address;
use crate::load::client::{PubSub, Publisher, Receiving, Requester};
use crate::load::message::SMALLEST_BYTES;
use crate::load::receiver::{Receiver, Step};

/// Messages that wait for a subscriber.
const BUFFER_MESSAGES: usize = 256;

/// Publishers, and subscribers, of a topic.
const PORTS: usize = 64;

/// Requests under way.
const REQUESTS: usize = 64;

/// Time for all subscribers to see a new publisher.
const MEETING: Duration = Duration::from_millis(200);

/// Bytes of the largest payload.
const PAYLOAD_BYTES: usize = 64 * 1024;

type Service = ipc::Service;
type Asking = Client<Service, [u8], (), [u8], ()>;
type Requests = RequestFactory<Service, [u8], (), [u8], ()>;

/// A node, and the name under which it meets the others of a run.
pub struct Iceoryx2 {
    node: Node<Service>,
    run: String,
    asking: Option<Asking>,
}

impl Iceoryx2 {
    fn new(address: &Address) -> Result<Self> {
        // The directory of a run has a name of its own.
        let run = address
            .path()?
            .parent()
            .and_then(Path::file_name)
            .map(|name| name.to_string_lossy().into_owned())
            .unwrap_or_default();
        iceoryx2::prelude::set_log_level(iceoryx2::prelude::LogLevel::Error);
        Ok(Self {
            node: NodeBuilder::new().create::<Service>().map_err(failed)?,
            run,
            asking: None,
        })
    }

    fn name(&self, topic: &str) -> Result<ServiceName> {
        let name = format!("whispeer-bench/{}/{topic}", self.run);
        ServiceName::new(&name).map_err(failed)
    }

    fn topic(&self, topic: &str) -> Result<PortFactory<Service, [u8], ()>> {
        self.node
            .service_builder(&self.name(topic)?)
            .publish_subscribe::<[u8]>()
            .enable_safe_overflow(false)
            .subscriber_max_buffer_size(BUFFER_MESSAGES)
            .max_publishers(PORTS)
            .max_subscribers(PORTS)
            .max_nodes(2 * PORTS)
            .open_or_create()
            .map_err(failed)
    }

    fn requests(&self) -> Result<Requests> {
        self.node
            .service_builder(&self.name("echo")?)
            .request_response::<[u8], [u8]>()
            .max_active_requests_per_client(REQUESTS)
            .max_loaned_requests(REQUESTS)
            .open_or_create()
            .map_err(failed)
    }
}

impl PubSub for Iceoryx2 {
    type Publisher = Iceoryx2Publisher;
    type Held = ();

    async fn connect(address: &Address) -> Result<Self> {
        Self::new(address)
    }

    async fn publisher(&self, topic: &str, payload_bytes: usize) -> Result<Iceoryx2Publisher> {
        let payload_bytes = payload_bytes.max(SMALLEST_BYTES);
        let port = self
            .topic(topic)?
            .publisher_builder()
            .initial_max_slice_len(payload_bytes)
            .backpressure_strategy(BackpressureStrategy::RetryUntilDelivered)
            .create()
            .map_err(failed)?;
        // What overflows the buffer of a subscriber that has not seen its publisher yet is
        // dropped. Subscribers look for publishers when they poll.
        tokio::time::sleep(MEETING).await;
        Ok(Iceoryx2Publisher {
            port,
            payload_bytes,
        })
    }

    async fn subscribe(&self, patterns: Vec<String>, mut receiver: Receiver) -> Result<Receiving> {
        let topic = patterns.first().map(String::as_str).unwrap_or_default();
        let service = self.topic(topic)?;
        let subscriber = service
            .subscriber_builder()
            .buffer_size(BUFFER_MESSAGES)
            .create()
            .map_err(failed)?;
        Ok(async move {
            loop {
                match subscriber.receive().map_err(failed)? {
                    Some(message) => {
                        if receiver.accept(message.payload())? == Step::End {
                            return Ok(receiver);
                        }
                    }
                    None => idle().await,
                }
            }
        }
        .boxed_local())
    }

    async fn hold(&self, _: &str) -> Result<()> {
        Ok(())
    }

    async fn release(&self, (): ()) -> Result<()> {
        Ok(())
    }
}

/// Lets the other subscriptions of this process look, and then the other processes.
async fn idle() {
    std::thread::yield_now();
    tokio::task::yield_now().await;
}

impl Requester for Iceoryx2 {
    async fn connect(address: &Address) -> Result<Self> {
        let mut this = Self::new(address)?;
        let client = this
            .requests()?
            .client_builder()
            .initial_max_slice_len(PAYLOAD_BYTES)
            .create()
            .map_err(failed)?;
        this.asking = Some(client);
        Ok(this)
    }

    async fn answerer(address: &Address) -> Result<Self> {
        Self::new(address)
    }

    async fn answer(self, ready: impl FnOnce()) -> Result<()> {
        let server = self
            .requests()?
            .server_builder()
            .initial_max_slice_len(PAYLOAD_BYTES)
            .create()
            .map_err(failed)?;
        ready();
        loop {
            match server.receive().map_err(failed)? {
                Some(request) => {
                    let payload = request.payload();
                    let answer = request.loan_slice_uninit(payload.len()).map_err(failed)?;
                    answer.write_from_slice(payload).send().map_err(failed)?;
                }
                None => std::thread::yield_now(),
            }
        }
    }

    async fn request<T>(&self, payload: Bytes, look: impl FnOnce(&[u8]) -> T) -> Result<T> {
        let client = self
            .asking
            .as_ref()
            .ok_or_else(|| anyhow!("this node does not ask"))?;
        let request = client.loan_slice_uninit(payload.len()).map_err(failed)?;
        let pending = request.write_from_slice(&payload).send().map_err(failed)?;
        loop {
            match pending.receive().map_err(failed)? {
                Some(answer) => return Ok(look(answer.payload())),
                None => idle().await,
            }
        }
    }
}

/// Publishes from shared memory.
pub struct Iceoryx2Publisher {
    port: Port<Service, [u8], ()>,
    payload_bytes: usize,
}

impl Publisher for Iceoryx2Publisher {
    async fn send(&mut self, write: impl FnOnce(&mut [u8])) -> Result<()> {
        let mut message = self.port.loan_slice(self.payload_bytes).map_err(failed)?;
        write(message.payload_mut());
        message.send().map_err(failed)?;
        Ok(())
    }
}

fn failed(error: impl std::fmt::Debug) -> anyhow::Error {
    anyhow!("iceoryx2: {error:?}")
}

/// Removes the shared memory of processes that were ended.
pub fn tidy() {
    // A node looks for dead ones when it is made. Where that fails, the next run tries again.
    drop(NodeBuilder::new().create::<Service>());
}
