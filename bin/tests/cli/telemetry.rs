//! Spans of the gateway: the real binary, to a collector of these tests' own.

#[cfg(feature = "otel")]
mod collector;

use std::io::{Read, Write};
use std::net::TcpStream;

use crate::support::{Place, Running};

/// The trace of a caller, which was sampled.
const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

/// Serves, with these variables; gives the address of HTTP.
fn served(place: &Place, more: &[&str], variables: &[(&str, &str)]) -> (Running, String) {
    let arguments = [&["serve", "unix:my_bus", "http://127.0.0.1:0"][..], more].concat();
    let mut command = place.command(&arguments);
    let mut bus = Running::new(command.envs(variables.iter().copied()).spawn().unwrap());
    let ready = bus.wait_for("ready on");
    let address = ready.split_whitespace().last().unwrap().strip_prefix("http://").unwrap();
    (bus, address.to_owned())
}

/// Sends a request, and gives the answer as it comes.
fn ask(address: &str, head: &str, body: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    let length = body.len();
    write!(
        stream,
        "{head}\r\nhost: localhost\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{body}"
    )
    .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

#[test]
fn a_line_of_the_log_names_the_trace_of_the_request_that_it_is_about() {
    let place = Place::new();
    let (mut bus, address) = served(&place, &["--log", "info", "--log-format", "json"], &[]);
    ask(&address, &format!("GET /healthz HTTP/1.1\r\ntraceparent: {PARENT}"), "");
    ask(&address, "GET /healthz HTTP/1.1\r\ntraceparent: 00-0-0-00", "");
    let mut line = || serde_json::from_str::<serde_json::Value>(&bus.wait_for("answered")).unwrap();
    assert_eq!(line()["span"]["trace_id"], PARENT[3..35]);
    assert!(line()["span"].get("trace_id").is_none());
}

#[cfg(not(feature = "otel"))]
#[test]
fn without_the_feature_it_is_said_that_nothing_is_exported() {
    let place = Place::new();
    let endpoint = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9");
    let (bus, address) = served(&place, &[], &[endpoint]);
    assert!(ask(&address, "GET /healthz HTTP/1.1", "").ends_with("ok"));
    bus.signal("TERM");
    let said = bus.end().errors;
    assert_eq!(said.matches("feature `otel`").count(), 1, "{said}");
}

#[cfg(feature = "otel")]
mod exported {
    use std::time::{Duration, Instant};

    use bytes::Bytes;
    use whispeer::Client;
    use whispeer::client::{Event, Headers, Subscription};

    use super::collector::{Behaviour, Collector, Exported, attribute, hex};
    use super::*;
    use crate::support::with_certificates;

    /// What is exported by a bus that ends at once.
    fn ended(bus: Running) -> String {
        bus.signal("TERM");
        let ended = bus.end();
        assert_eq!(ended.code(), 0, "{ended:?}");
        ended.errors
    }

    /// A subscriber on the bus, and the headers of what it gets.
    struct Subscriber {
        runtime: tokio::runtime::Runtime,
        subscription: Subscription<Bytes>,
        _client: Client,
    }

    impl Subscriber {
        fn of(place: &Place, pattern: &str) -> Self {
            let runtime =
                tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
            let (subscription, client) = runtime.block_on(async {
                let client = Client::new_unix(&place.path("my_bus")).await.unwrap();
                (client.subscribe_bytes(pattern).await.unwrap(), client)
            });
            Self { runtime, subscription, _client: client }
        }

        fn headers(&mut self) -> Headers {
            match self.runtime.block_on(self.subscription.next_event()) {
                Some(Event::Message(message)) => message.headers,
                other => panic!("{other:?}"),
            }
        }
    }

    fn publish(address: &str, query: &str, traceparent: &str) -> String {
        let trace =
            if traceparent.is_empty() { String::new() } else { format!("\r\ntraceparent: {traceparent}") };
        let head = format!("POST /api/v1/publish{query} HTTP/1.1\r\ncontent-type: application/json{trace}");
        ask(address, &head, "{\"pears\":3}")
    }

    fn named<'a>(exported: &'a Exported, name: &str) -> &'a collector::Span {
        let spans = &exported.spans;
        let found: Vec<_> = spans.iter().filter(|span| span.name == name).collect();
        let [only] = found[..] else { panic!("{name} in {spans:?}") };
        only
    }

    #[test]
    fn a_message_by_http_is_a_child_of_its_publisher_and_that_of_the_request_and_that_of_the_caller() {
        let (place, collector) = (Place::new(), Collector::start(Behaviour::Takes));
        let (bus, address) = served(&place, &[], &[("OTEL_EXPORTER_OTLP_ENDPOINT", &collector.endpoint())]);
        let mut subscriber = Subscriber::of(&place, "orders/*");
        let traced = format!("{PARENT}\r\ntracestate: congo=t61rcWkgMzE\r\nuser-agent: curl/8");
        assert!(publish(&address, "?topic=orders/7&ttl=5", &traced).starts_with("HTTP/1.1 200"));
        let headers = subscriber.headers();
        ended(bus);
        let exported = collector.stop();

        let request = named(&exported, "POST /api/v1/publish");
        assert_eq!(hex(&request.trace_id), PARENT[3..35]);
        assert_eq!(hex(&request.parent_span_id), PARENT[36..52]);
        assert_eq!(request.trace_state, "congo=t61rcWkgMzE");
        assert_eq!(request.kind, collector::SERVER);
        assert_eq!(request.status.as_ref().map_or(0, |status| status.code), 0);
        assert!(
            request.end_time_unix_nano >= request.start_time_unix_nano && request.start_time_unix_nano > 0
        );
        for (name, expected) in [
            ("http.request.method", "POST"),
            ("http.route", "/api/v1/publish"),
            ("http.response.status_code", "200"),
            ("url.scheme", "http"),
            ("url.path", "/api/v1/publish"),
            ("client.address", "127.0.0.1"),
            ("network.protocol.version", "1.1"),
            ("user_agent.original", "curl/8"),
        ] {
            assert_eq!(attribute(&request.attributes, name), expected, "{name}");
        }

        let publish = named(&exported, "publish");
        assert_eq!((&publish.trace_id, &publish.parent_span_id), (&request.trace_id, &request.span_id));
        assert_eq!(publish.kind, collector::PRODUCER);
        for (name, expected) in [
            ("messaging.system", "whispeer"),
            ("messaging.operation.name", "publish"),
            ("messaging.operation.type", "send"),
            ("messaging.destination.name", "orders/7"),
        ] {
            assert_eq!(attribute(&publish.attributes, name), expected, "{name}");
        }

        let trace = headers.trace().unwrap();
        assert_eq!(
            (&trace.trace_id()[..], &trace.parent_id()[..]),
            (&publish.trace_id[..], &publish.span_id[..])
        );
        assert!(trace.is_sampled());
        assert_eq!(trace.tracestate(), Some("congo=t61rcWkgMzE"));

        assert_eq!(attribute(&exported.resource, "service.name"), "whispeer");
        assert_eq!(attribute(&exported.resource, "service.version"), env!("CARGO_PKG_VERSION"));
        assert_eq!(exported.path, "/v1/traces");
        assert_eq!(exported.scope, "whispeer");
    }

    #[test]
    fn a_request_to_a_server_that_fails_says_why_and_probes_say_nothing() {
        let (place, collector) = (Place::new(), Collector::start(Behaviour::Takes));
        let (bus, address) = served(&place, &[], &[("OTEL_EXPORTER_OTLP_ENDPOINT", &collector.endpoint())]);
        let head = "POST /api/v1/request?topic=none HTTP/1.1\r\ncontent-type: application/json";
        let answer = ask(&address, head, "1");
        assert!(answer.starts_with("HTTP/1.1 5"), "{answer}");
        let status = answer.split(' ').nth(1).unwrap();
        for path in ["/healthz", "/readyz", "/metrics"] {
            ask(&address, &format!("GET {path} HTTP/1.1"), "");
        }
        ask(&address, "BREW /pot HTTP/1.1", "");
        ended(bus);
        let exported = collector.stop();
        let request = named(&exported, "POST /api/v1/request");
        assert!(request.parent_span_id.is_empty());
        assert_eq!(request.status.as_ref().unwrap().code, collector::ERROR);
        assert_eq!(attribute(&request.attributes, "error.type"), status);
        let asked = named(&exported, "request");
        assert_eq!((asked.kind, &asked.parent_span_id), (collector::CLIENT, &request.span_id));
        assert_eq!(attribute(&asked.attributes, "error.type"), "no-server");
        let other = named(&exported, "HTTP");
        assert_eq!(attribute(&other.attributes, "http.request.method"), "_OTHER");
        assert_eq!(attribute(&other.attributes, "http.request.method_original"), "BREW");
        assert_eq!(exported.spans.len(), 3, "{:?}", exported.spans);
    }

    #[test]
    fn a_batch_is_one_span_and_what_has_a_trace_of_its_own_keeps_it() {
        let (place, collector) = (Place::new(), Collector::start(Behaviour::Takes));
        let (bus, address) = served(&place, &[], &[("OTEL_EXPORTER_OTLP_ENDPOINT", &collector.endpoint())]);
        let mut subscriber = Subscriber::of(&place, "**");
        let head = format!(
            "POST /api/v1/publish HTTP/1.1\r\ncontent-type: application/json\r\ntraceparent: {PARENT}"
        );
        let own = "00-11111111111111111111111111111111-2222222222222222-01";
        let body = format!(
            r#"{{"messages":[{{"topic":"a","payload":1}},{{"topic":"b","payload":2,"headers":[["traceparent","{own}"]]}}]}}"#
        );
        assert!(ask(&address, &head, &body).starts_with("HTTP/1.1 200"));
        let (first, second) = (subscriber.headers(), subscriber.headers());
        ended(bus);
        let exported = collector.stop();
        let publish = named(&exported, "publish");
        assert_eq!(attribute(&publish.attributes, "messaging.batch.message_count"), "2");
        assert!(publish.attributes.iter().all(|attribute| attribute.key != "messaging.destination.name"));
        assert_eq!(first.trace().unwrap().parent_id()[..], publish.span_id[..]);
        assert_eq!(second.find("traceparent"), Some(own));
    }

    #[test]
    fn what_its_caller_has_not_sampled_is_not_exported_and_says_so_to_subscribers() {
        let (place, collector) = (Place::new(), Collector::start(Behaviour::Takes));
        let (bus, address) = served(&place, &[], &[("OTEL_EXPORTER_OTLP_ENDPOINT", &collector.endpoint())]);
        let mut subscriber = Subscriber::of(&place, "a");
        publish(&address, "?topic=a", &PARENT.replace("-01", "-00"));
        let trace = subscriber.headers().trace().unwrap();
        assert_eq!(hex(&trace.trace_id()), PARENT[3..35]);
        assert!(!trace.is_sampled());
        ended(bus);
        assert!(collector.stop().spans.is_empty());
    }

    #[test]
    fn the_sampler_of_the_variables_decides_and_so_do_their_names() {
        let (place, collector) = (Place::new(), Collector::start(Behaviour::Takes));
        let endpoint = format!("{}/own/path", collector.endpoint());
        let variables = [
            ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", endpoint.as_str()),
            ("OTEL_TRACES_SAMPLER", "always_on"),
            ("OTEL_SERVICE_NAME", "shop-bus"),
            ("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment.name=test,service.version=7"),
            ("OTEL_EXPORTER_OTLP_HEADERS", "x-key=of%20the%20collector"),
        ];
        let (bus, address) = served(&place, &[], &variables);
        publish(&address, "?topic=a", &PARENT.replace("-01", "-00"));
        ended(bus);
        let exported = collector.stop();
        assert_eq!(hex(&named(&exported, "publish").trace_id), PARENT[3..35]);
        assert_eq!(attribute(&exported.resource, "service.name"), "shop-bus");
        assert_eq!(attribute(&exported.resource, "service.version"), "7");
        assert_eq!(attribute(&exported.resource, "deployment.environment.name"), "test");
        assert_eq!(exported.path, "/own/path");
        assert!(exported.heads.contains("x-key: of the collector"), "{}", exported.heads);
    }

    #[test]
    fn the_setting_goes_before_the_variable_as_a_flag_and_behind_it_in_the_file() {
        let place = Place::new();
        let (one, other) = (Collector::start(Behaviour::Takes), Collector::start(Behaviour::Takes));
        let variable = ("OTEL_EXPORTER_OTLP_ENDPOINT", &*other.endpoint());
        let (bus, address) = served(&place, &["--telemetry-endpoint", &one.endpoint()], &[variable]);
        publish(&address, "?topic=flag", "");
        ended(bus);
        place.write("bus.toml", &format!("[telemetry]\nendpoint = \"{}\"\n", one.endpoint()));
        for (variables, topic) in [(&[variable][..], "variable"), (&[], "file")] {
            let (bus, address) = served(&place, &["--config", "bus.toml"], variables);
            publish(&address, &format!("?topic={topic}"), "");
            ended(bus);
        }
        let topics = |exported: Exported| -> Vec<String> {
            let spans = exported.spans.iter().filter(|span| span.name == "publish");
            spans.map(|span| attribute(&span.attributes, "messaging.destination.name")).collect()
        };
        assert_eq!(topics(one.stop()), ["flag", "file"]);
        assert_eq!(topics(other.stop()), ["variable"]);
    }

    #[test]
    fn without_an_endpoint_a_trace_goes_on_as_it_came() {
        let place = Place::new();
        let disabled = [("OTEL_SDK_DISABLED", "true"), ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")];
        for variables in [&[][..], &disabled] {
            let (bus, address) = served(&place, &[], variables);
            let mut subscriber = Subscriber::of(&place, "a");
            publish(&address, "?topic=a", PARENT);
            assert_eq!(subscriber.headers().find("traceparent"), Some(PARENT));
            let said = ended(bus);
            assert!(!said.contains("spans"), "{said}");
        }
    }

    #[test]
    fn a_collector_that_is_away_is_told_of_once_and_holds_up_nobody() {
        let place = Place::new();
        // What listened there does no longer.
        let collector = Collector::start(Behaviour::Takes);
        let endpoint = collector.endpoint();
        collector.stop();
        let variables = [
            ("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint.as_str()),
            ("OTEL_EXPORTER_OTLP_HEADERS", "authorization=Bearer%20s3cret-of-the-collector"),
            ("OTEL_BSP_SCHEDULE_DELAY", "20"),
            ("WHISPEER_LOG", "trace"),
        ];
        let (mut bus, address) = served(&place, &[], &variables);
        publish(&address, "?topic=a", PARENT);
        let told = bus.wait_for("spans cannot be exported");
        assert!(told.contains(&endpoint) && told.contains("serving goes on"), "{told}");
        for _ in 0..20 {
            assert!(publish(&address, "?topic=a", PARENT).starts_with("HTTP/1.1 200"));
        }
        let begun = Instant::now();
        let said = ended(bus);
        assert!(begun.elapsed() < Duration::from_secs(4), "{:?}", begun.elapsed());
        assert!(
            !said[said.find(&told).unwrap() + told.len()..].contains("spans cannot be exported"),
            "{said}"
        );
        assert!(said.contains("spans were not exported"), "{said}");
        assert!(!said.contains("s3cret"), "{said}");
    }

    #[test]
    fn a_collector_that_never_answers_does_not_keep_the_process() {
        let (place, collector) = (Place::new(), Collector::start(Behaviour::Silent));
        let variables = [
            ("OTEL_EXPORTER_OTLP_ENDPOINT", &*collector.endpoint()),
            ("OTEL_BSP_MAX_QUEUE_SIZE", "8"),
            ("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "4"),
        ];
        let (mut bus, address) = served(&place, &[], &variables);
        for _ in 0..20 {
            assert!(publish(&address, "?topic=a", PARENT).starts_with("HTTP/1.1 200"));
        }
        // The queue is bounded, and that is told as well.
        bus.wait_for("SpanDroppingStarted");
        let begun = Instant::now();
        let said = ended(bus);
        assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
        assert!(said.contains("has not taken all spans in time"), "{said}");
        assert!(said.contains("dropped_span_count"), "{said}");
    }

    #[test]
    fn a_second_signal_waits_for_no_collector() {
        let (place, collector) = (Place::new(), Collector::start(Behaviour::Silent));
        let (mut bus, address) =
            served(&place, &[], &[("OTEL_EXPORTER_OTLP_ENDPOINT", &*collector.endpoint())]);
        publish(&address, "?topic=a", PARENT);
        bus.signal("TERM");
        bus.wait_for("draining");
        let begun = Instant::now();
        bus.signal("TERM");
        ended(bus);
        assert!(begun.elapsed() < Duration::from_secs(4), "{:?}", begun.elapsed());
    }

    #[test]
    fn a_collector_that_refuses_is_told_of_with_what_it_says_and_so_is_one_that_takes_spans_again() {
        let (place, collector) = (Place::new(), Collector::start(Behaviour::RefusesFirst));
        let variables =
            [("OTEL_EXPORTER_OTLP_ENDPOINT", &*collector.endpoint()), ("OTEL_BSP_SCHEDULE_DELAY", "20")];
        let (mut bus, address) = served(&place, &[], &variables);
        publish(&address, "?topic=a", PARENT);
        let told = bus.wait_for("spans cannot be exported");
        assert!(told.contains("401"), "{told}");
        publish(&address, "?topic=b", PARENT);
        bus.wait_for("again");
        ended(bus);
        let exported = collector.stop();
        assert_eq!(attribute(&named(&exported, "publish").attributes, "messaging.destination.name"), "b");
    }

    #[test]
    fn a_collector_by_tls_has_to_show_a_certificate_of_a_ca_that_is_trusted() {
        let place = with_certificates();
        let collector = Collector::start_tls(&place);
        let endpoint = collector.tls_endpoint();
        let endpoint = ("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint.as_str());
        let (mut bus, address) = served(&place, &[], &[endpoint, ("OTEL_BSP_SCHEDULE_DELAY", "20")]);
        publish(&address, "?topic=untrusted", "");
        let told = bus.wait_for("spans cannot be exported");
        assert!(told.contains("UnknownIssuer"), "{told}");
        ended(bus);
        let trusted = ("OTEL_EXPORTER_OTLP_CERTIFICATE", "certs/ca.pem");
        let (bus, address) = served(&place, &[], &[endpoint, trusted]);
        publish(&address, "?topic=trusted", "");
        ended(bus);
        let exported = collector.stop();
        let topic = attribute(&named(&exported, "publish").attributes, "messaging.destination.name");
        assert_eq!(topic, "trusted");
    }

    #[test]
    fn what_cannot_be_an_endpoint_is_refused_with_what_can() {
        let place = Place::new();
        for (endpoint, said) in [
            ("collector:4318", "http://HOST:PORT"),
            ("http://name:s3cret@collector:4318", "without a password"),
        ] {
            let refused = place.run(&["serve", "http://127.0.0.1:0", "--telemetry-endpoint", endpoint]);
            assert_eq!(refused.code(), 2, "{refused:?}");
            assert!(refused.errors.contains(said), "{refused:?}");
        }
        for (endpoint, certificate, said) in [
            ("https://localhost:4318", "none.pem", "OTEL_EXPORTER_OTLP_CERTIFICATE"),
            ("localhost:4318", "", "http://localhost:4318"),
        ] {
            let mut command = place.command(&["serve", "http://127.0.0.1:0"]);
            command.env("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint);
            command.env("OTEL_EXPORTER_OTLP_CERTIFICATE", certificate);
            let refused = Running::new(command.spawn().unwrap()).end();
            assert_eq!(refused.code(), 2, "{refused:?}");
            assert!(refused.errors.contains(said), "{refused:?}");
        }
    }
}
