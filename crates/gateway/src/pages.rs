//! The files of a folder.

use std::path::Path;

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use percent_encoding::percent_decode_str;
use tower::ServiceExt;
use tower_http::services::ServeDir;

use crate::problem::Problem;

/// Serves the files of this folder, but for those whose path has a name that begins with a dot: they were not put there to be seen.
pub(crate) fn routes(folder: &Path) -> Router {
    let files = ServeDir::new(folder);
    let serve = async move |request: Request| {
        if !may_be_served(request.uri().path()) {
            return missing();
        }
        match files.clone().oneshot(request).await {
            Ok(response) if response.status() == StatusCode::NOT_FOUND => missing(),
            Ok(response) => response.map(Body::new),
            Err(never) => match never {},
        }
    };
    Router::new().fallback(serve)
}

fn missing() -> Response {
    Problem::new(StatusCode::NOT_FOUND, "there is no such page").into_response()
}

/// Whether each name of a path, as it is meant, is one that a file in the folder may have and be seen by.
fn may_be_served(path: &str) -> bool {
    path.split('/').all(|name| match percent_decode_str(name).decode_utf8() {
        // What divides names elsewhere may not come in within one.
        Ok(name) => !name.starts_with('.') && !name.contains(['/', '\\', '\0']),
        Err(_) => false,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_looked_at_as_they_are_meant() {
        for path in
            ["/", "/a.html", "/a%20b.html", "/%C3%A4/b.html", "/a//b", "/100%.html", "/a..b", "/%252e%252e"]
        {
            assert!(may_be_served(path), "{path}");
        }
        for path in [
            "/.env",
            "/%2eenv",
            "/%2Eenv",
            "/a/.git/config",
            "/..",
            "/%2e%2e/a",
            "/%2e%2e%2fa",
            "/..%2Fa",
            "/..%5Ca",
            "/a%2Fb",
            "/a%2F..%2F..%2Fb",
            "/a%5cb",
            "/a\\b",
            "/a%00.html",
            "/%00",
            "/%ff.html",
            "/%C3.html",
        ] {
            assert!(!may_be_served(path), "{path}");
        }
    }
}
