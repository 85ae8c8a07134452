//! Spans, as they are told to whoever records them.

use std::fmt::Write as _;
use std::sync::{Arc, Mutex};

use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::{Duration, timeout};
use whispeer::prelude::*;
use whispeer::trace::TraceContext;
use whispeer_gateway::tracer::{Operation, Outcome, Span, Tracer};
use whispeer_gateway::{Gateway, Settings, settings};

use crate::http::ask;
use crate::turbine::{API_KEY, KEY};

const LONG: Duration = Duration::from_secs(30);
const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

/// Numbers spans, and writes down what it is told.
#[derive(Debug)]
struct Recorder {
    /// Spans that have begun, and whether it gives them a context.
    begun: Mutex<u64>,
    has_contexts: bool,
    said: mpsc::Sender<String>,
}

struct Recorded {
    number: u64,
    context: Option<TraceContext>,
    said: Option<mpsc::Sender<String>>,
}

impl Tracer for Recorder {
    fn begin(&self, operation: &Operation<'_>, parent: Option<&TraceContext>) -> Box<dyn Span> {
        let mut begun = self.begun.lock().unwrap();
        *begun += 1;
        let number = *begun;
        let mut said = format!("{number} is ");
        match operation {
            Operation::Answer { method, route, path, .. } => {
                let _ = write!(said, "{method} {} at {path}", route.unwrap_or("-"));
            }
            Operation::Publish { topic, batch } => {
                let _ = write!(said, "publish to {topic:?}, batch {batch:?}");
            }
            Operation::Request { topic } => {
                let _ = write!(said, "request to {topic}");
            }
            other => panic!("{other:?}"),
        }
        let parent_id = parent.map_or(0, |parent| u64::from_be_bytes(parent.parent_id()));
        let _ = write!(said, ", of {parent_id:x}");
        self.said.try_send(said).unwrap();
        let trace = parent.map_or([7; 16], TraceContext::trace_id);
        let context = TraceContext::new(trace, number.to_be_bytes(), true).filter(|_| self.has_contexts);
        Box::new(Recorded { number, context, said: Some(self.said.clone()) })
    }
}

impl Span for Recorded {
    fn context(&self) -> Option<&TraceContext> {
        self.context.as_ref()
    }

    fn end(mut self: Box<Self>, outcome: Outcome) {
        self.said.take().unwrap().try_send(format!("{} ended: {outcome:?}", self.number)).unwrap();
    }
}

impl Drop for Recorded {
    fn drop(&mut self) {
        if let Some(said) = self.said.take() {
            said.try_send(format!("{} was given up", self.number)).unwrap();
        }
    }
}

struct Place {
    bus: BusHandle,
    gateway: Gateway,
    said: mpsc::Receiver<String>,
}

impl Place {
    async fn new(has_contexts: bool) -> Self {
        let bus = Bus::builder().start().unwrap();
        let (sender, said) = mpsc::channel(64);
        let mut settings = Settings::new("127.0.0.1:0".parse().unwrap());
        settings.turbine = Some(settings::Turbine::new(KEY, API_KEY));
        settings.tracer = Some(Arc::new(Recorder { begun: Mutex::new(0), has_contexts, said: sender }));
        let gateway = Gateway::start(&bus, settings).await.unwrap();
        Self { bus, gateway, said }
    }

    fn client(&self) -> Client {
        Client::new_memory(&self.bus.connector()).unwrap()
    }

    async fn ask(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> u16 {
        let own = [("content-type", "application/json"), ("x-api-key", API_KEY)];
        let headers = own.iter().chain(headers);
        let headers: Vec<_> =
            headers.map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        ask(self.gateway.local_addr(), method, path, &headers, body.as_bytes()).await.status
    }

    async fn said(&mut self) -> String {
        timeout(LONG, self.said.recv()).await.expect("it is said").unwrap()
    }
}

#[tokio::test]
async fn the_publish_of_turbine_is_a_span_within_its_request_which_the_message_names() {
    let mut place = Place::new(true).await;
    let mut messages = place.client().subscribe_bytes("a").await.unwrap();
    let status =
        place.ask("POST", "/api/publish", &[("traceparent", PARENT)], r#"{"channel":"a","data":1}"#).await;
    assert_eq!(status, 200);
    let Some(Event::Message(message)) = messages.next_event().await else { panic!("it was published") };
    let trace = message.headers.trace().unwrap();
    assert_eq!(trace.trace_id(), TraceContext::parse(PARENT, None).unwrap().trace_id());
    assert_eq!(trace.parent_id(), 2_u64.to_be_bytes());
    for expected in [
        "1 is POST /api/publish at /api/publish, of f067aa0ba902b7",
        "2 is publish to Some(\"a\"), batch None, of 1",
        "2 ended: Done",
        "1 ended: Answered(200)",
    ] {
        assert_eq!(place.said().await, expected);
    }
}

#[tokio::test]
async fn what_fails_says_why_and_a_query_is_told_to_nobody() {
    let mut place = Place::new(true).await;
    place.ask("POST", "/api/v1/publish?topic=a//b&ttl=5", &[], "1").await;
    place.ask("GET", "/nothing?secret", &[], "").await;
    for expected in [
        "1 is POST /api/v1/publish at /api/v1/publish, of 0",
        "2 is publish to Some(\"a//b\"), batch None, of 1",
        "2 ended: Failed(\"invalid-topic\")",
        "1 ended: Answered(400)",
        "3 is GET - at /nothing, of 0",
        "3 ended: Answered(404)",
    ] {
        assert_eq!(place.said().await, expected);
    }
}

#[tokio::test]
async fn a_caller_who_goes_away_gives_up_what_is_done_for_him() {
    let mut place = Place::new(true).await;
    let mut serving = place.client().serve_bytes("slow").await.unwrap();
    let mut stream = TcpStream::connect(place.gateway.local_addr()).await.unwrap();
    let head =
        "POST /api/v1/request?topic=slow HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json";
    stream.write_all(format!("{head}\r\ncontent-length: 1\r\n\r\n1").as_bytes()).await.unwrap();
    let request = serving.next_request().await.unwrap();
    assert_eq!(request.headers.trace().unwrap().parent_id(), 2_u64.to_be_bytes());
    drop(stream);
    let (_, _) = (place.said().await, place.said().await);
    let mut given_up = [place.said().await, place.said().await];
    given_up.sort();
    assert_eq!(given_up, ["1 was given up", "2 was given up"]);
}

#[tokio::test]
async fn where_nothing_was_begun_the_trace_of_the_caller_goes_on_as_it_came() {
    let place = Place::new(false).await;
    let mut messages = place.client().subscribe_bytes("a").await.unwrap();
    let traced = [("traceparent", PARENT), ("tracestate", "vendor=1")];
    place.ask("POST", "/api/v1/publish?topic=a", &traced, "1").await;
    let Some(Event::Message(message)) = messages.next_event().await else { panic!("it was published") };
    assert_eq!(message.headers.find("traceparent"), Some(PARENT));
    assert_eq!(message.headers.find("tracestate"), Some("vendor=1"));
}
