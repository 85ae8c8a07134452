//! The integration tests: a module a subject.

mod attach;
mod conformance;
mod examples;
mod ground;
mod hostile;
mod import_rule;
mod introspection;
mod lifecycle;
mod limits;
mod policies;
mod regressions;
mod requests;
mod unix;
