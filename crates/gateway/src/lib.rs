//! HTTP and WebSocket for browsers and scripts, over a bus in the same process.
//!
//! A [`Gateway`] listens at `http://HOST:PORT` and lets in whoever has nothing but HTTP and JSON. Each WebSocket is a
//! session of the bus with a principal and rights of its own, and so is each caller of the HTTP API: the bus decides who may
//! do what, counts, and drops what is not taken. The gateway translates.
//!
//! | path | what is spoken there |
//! |---|---|
//! | `/api/v1/…` | publish, request, subscribe (Server-Sent Events), history, and what the bus tells administrators |
//! | `/ws`, `/api/publish` | the dialect of Turbine |
//! | `/popsub` | the dialect of PopSub |
//! | `/bus` | the bus's own protocol, over WebSocket |
//! | `/healthz`, `/readyz`, `/metrics` | for those who operate it |
//!
//! ```text
//!  browsers, scripts ──HTTP──► server ──► routes ──► api, turbine, popsub ──► Client ──memory──► bus
//!                               │ bounds, origins, rates, request ids, drain
//! ```
//!
//! | file | what it holds |
//! |---|---|
//! | `gateway`, `server` | the way in, and who accepts connections and for how long |
//! | `stream` | a connection whose writes have to get on |
//! | `routes` | which path leads where, and what every request passes |
//! | `pages` | the files of a folder |
//! | `settings`, `limits` | what can be set, and bounds that cannot |
//! | `shared` | what all requests share |
//! | `origins`, `rates` | which pages are let in, and how often somebody may ask |
//! | `cors` | what browsers are told of that |
//! | `problem` | errors as `application/problem+json` |
//! | `metrics`, `scrape` | what is counted, and who may read it |
//! | `token`, `development` | tokens of the dialects, and secrets for trying things out |
//! | `received` | what all that is being received may take together |
//! | `websocket`, `socket`, `subscriptions` | a WebSocket, its bounds, and what a session is subscribed to |
//! | `message`, `traced` | payloads of the bus as JSON and back; traces from HTTP to headers of messages |
//! | `tracer` | who records spans of that, if somebody does |
//! | `api`, `turbine`, `popsub`, `native` | what is spoken |
//!
//! **Bounds.** Connections in all and from one address, the head and body of a request, a WebSocket's message, sessions'
//! subscriptions and what waits for them, and how often somebody asks are bounded, each with an error or a count at the
//! bound. A connection that does not get on with a head, a body or an answer is closed.

mod api;
mod cors;
mod development;
mod gateway;
pub mod limits;
mod message;
mod metrics;
mod native;
mod origins;
mod pages;
mod popsub;
mod problem;
mod rates;
mod received;
mod routes;
mod scrape;
mod server;
pub mod settings;
mod shared;
mod socket;
mod stream;
mod subscriptions;
mod token;
mod traced;
pub mod tracer;
mod turbine;
mod websocket;

pub use development::Development;
pub use gateway::{Gateway, GatewayError};
pub use settings::Settings;
