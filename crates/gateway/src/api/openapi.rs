//! The description of the API for programs: OpenAPI 3.1.

use std::sync::OnceLock;

use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::request::Parts;
use http::{HeaderValue, StatusCode, header};
use utoipa::openapi::path::Operation;
use utoipa::openapi::schema::{
    AnyOfBuilder, KnownFormat, ObjectBuilder, Schema, SchemaFormat, SchemaType, Type,
};
use utoipa::openapi::security::{Http, HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme};
use utoipa::openapi::{ContentBuilder, HeaderBuilder, Ref, RefOr, ResponseBuilder};
use utoipa::{Modify, OpenApi, PartialSchema, ToSchema};

use super::batch::{Batch, BatchPublished};
use super::body;
use super::failure::Failure;
use super::params::Params;
use super::publish::Published;
use super::{admin, batch, history, publish, request, subscribe, ticket};
use crate::problem::Problem;

#[derive(OpenApi)]
#[openapi(
    info(
        title = "whispeer",
        description = "The HTTP API of a whispeer bus. What somebody may do is decided by the bus, by its policy.",
        license(name = "MIT OR Apache-2.0", identifier = "MIT OR Apache-2.0"),
    ),
    paths(
        publish::publish, request::request, subscribe::subscribe, history::history, admin::topics, admin::sessions,
        admin::streams, admin::consumers, ticket::ticket,
    ),
    components(schemas(Problem, Batch, batch::BatchMessage, Published, BatchPublished)),
    tags(
        (name = "messages", description = "Publishing, subscribing and requests."),
        (name = "streams", description = "What streams of the bus keep."),
        (name = "tickets", description = "What stands for credentials in a URL."),
        (name = "administration", description = "What the bus tells administrators."),
    ),
    modifiers(&Common),
)]
struct Document;

/// The description itself.
pub(super) async fn document(parts: Parts) -> Result<Response, Failure> {
    static TEXT: OnceLock<Bytes> = OnceLock::new();
    Params::of(&parts.uri, &[])?;
    // Texts and lists can always be written.
    let text = TEXT.get_or_init(|| serde_json::to_vec(&Document::openapi()).unwrap_or_default().into());
    let kind = HeaderValue::from_static(body::JSON);
    Ok(([(header::CONTENT_TYPE, kind)], text.clone()).into_response())
}

/// What holds for all operations: who may ask, and how each can fail.
struct Common;

/// How an operation can fail, whichever it is.
const FAILURES: [(StatusCode, &str); 8] = [
    (StatusCode::BAD_REQUEST, "Something of the request is not as it has to be; the problem says what."),
    (StatusCode::UNAUTHORIZED, "Credentials are missing, wrong or over."),
    (
        StatusCode::FORBIDDEN,
        "The bus does not allow it to who asks (`denied`), or the page's origin is not listed (`origin`) or not said (`site`).",
    ),
    (StatusCode::MISDIRECTED_REQUEST, "The gateway is not known by this name."),
    (StatusCode::TOO_MANY_REQUESTS, "Too much is asked for, or passwords are guessed."),
    (StatusCode::INTERNAL_SERVER_ERROR, "Something is wrong on this side."),
    (
        StatusCode::SERVICE_UNAVAILABLE,
        "There is no room at the moment (`overloaded`, `full`), nobody serves the topic (`no-server`), a message could not be stored (`not-stored`), or the gateway drains (`draining`, `disconnected`).",
    ),
    (StatusCode::GATEWAY_TIMEOUT, "It did not end in time."),
];

/// How one can fail that takes a body.
const FAILURES_OF_BODIES: [(StatusCode, &str); 5] = [
    (StatusCode::REQUEST_TIMEOUT, "The body took too long."),
    (StatusCode::CONFLICT, "No stream keeps the topic (`not-durable`)."),
    (StatusCode::PAYLOAD_TOO_LARGE, "The body or the headers are too large."),
    (StatusCode::UNSUPPORTED_MEDIA_TYPE, "The body is of another kind than is taken."),
    (StatusCode::UNPROCESSABLE_ENTITY, "A plugin of the bus refuses it (`refused`, `sealed`)."),
];

impl Modify for Common {
    fn modify(&self, openapi: &mut utoipa::openapi::OpenApi) {
        let components = openapi.components.get_or_insert_default();
        let bearer = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).bearer_format("JWT");
        let bearer = bearer.description(Some("A token of an issuer of the bus's policy."));
        components.add_security_scheme("bearer", SecurityScheme::Http(bearer.build()));
        let mut basic = Http::new(HttpAuthScheme::Basic);
        basic.description = Some("A user of the bus's policy.".into());
        components.add_security_scheme("basic", SecurityScheme::Http(basic));
        let none: [&str; 0] = [];
        openapi.security = Some(vec![
            SecurityRequirement::new("bearer", none),
            SecurityRequirement::new("basic", none),
            // Where the policy lets in whoever shows nothing.
            SecurityRequirement::default(),
        ]);
        for path in openapi.paths.paths.values_mut() {
            for operation in [&mut path.get, &mut path.post].into_iter().flatten() {
                complete(operation);
            }
        }
    }
}

fn complete(operation: &mut Operation) {
    for parameter in operation.parameters.iter_mut().flatten() {
        // One that is left out is not there; no text stands for `null`.
        if let RefOr::T(parameter) = parameter
            && let Some(RefOr::T(Schema::Object(object))) = &mut parameter.schema
            && let SchemaType::Array(kinds) = &object.schema_type
            && let Some(kind) = kinds.iter().find(|kind| **kind != Type::Null)
        {
            object.schema_type = SchemaType::Type(kind.clone());
        }
    }
    let of_bodies = if operation.request_body.is_some() { &FAILURES_OF_BODIES[..] } else { &[] };
    for (status, description) in FAILURES.iter().chain(of_bodies) {
        operation.responses.responses.entry(status.as_str().to_owned()).or_insert_with(|| {
            let problem = ContentBuilder::new().schema(Some(Ref::from_schema_name("Problem"))).build();
            let mut response =
                ResponseBuilder::new().description(*description).content("application/problem+json", problem);
            let text = |description| {
                HeaderBuilder::new()
                    .schema(Some(ObjectBuilder::new().schema_type(Type::String)))
                    .description(Some(description))
                    .build()
            };
            if matches!(*status, StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE) {
                response = response.header("Retry-After", text("Seconds after which to try again."));
            }
            if *status == StatusCode::UNAUTHORIZED {
                response = response.header("WWW-Authenticate", text("How to say who one is."));
            }
            RefOr::T(response.build())
        });
    }
}

/// Any JSON.
pub(super) struct Payload;

impl PartialSchema for Payload {
    fn schema() -> RefOr<Schema> {
        let any = ObjectBuilder::new().schema_type(SchemaType::AnyValue);
        any.description(Some(
            "Any JSON. Binary is {\"$binary\":\"BASE64\"}; a payload that is encrypted or compressed by its publisher {\"$sealed\":\"BASE64\"}.",
        ))
        .build()
        .into()
    }
}

impl ToSchema for Payload {}

/// Bytes as they are.
pub(super) struct Octets;

impl PartialSchema for Octets {
    fn schema() -> RefOr<Schema> {
        let octets = ObjectBuilder::new().schema_type(Type::String);
        octets.format(Some(SchemaFormat::KnownFormat(KnownFormat::Binary))).build().into()
    }
}

impl ToSchema for Octets {}

/// A payload, or a batch.
pub(super) struct PublishBody;

impl PartialSchema for PublishBody {
    fn schema() -> RefOr<Schema> {
        let either = AnyOfBuilder::new().item(Payload::schema()).item(Ref::from_schema_name("Batch"));
        Schema::AnyOf(either.build()).into()
    }
}

impl ToSchema for PublishBody {}

/// What became of a message, or of each of a batch.
pub(super) struct PublishAnswer;

impl PartialSchema for PublishAnswer {
    fn schema() -> RefOr<Schema> {
        let either = AnyOfBuilder::new()
            .item(Ref::from_schema_name("Published"))
            .item(Ref::from_schema_name("BatchPublished"));
        Schema::AnyOf(either.build()).into()
    }
}

impl ToSchema for PublishAnswer {}
