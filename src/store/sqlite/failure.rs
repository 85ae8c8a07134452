//! What goes wrong with the file.

use rusqlite::{Error, ErrorCode};

use crate::error::StoreError;

/// What a store says of an error of SQLite.
pub(super) fn told(place: &str, error: &Error) -> StoreError {
    let (place, reason) = (place.to_owned(), error.to_string());
    match error.sqlite_error_code() {
        Some(ErrorCode::DiskFull) => StoreError::Full { place },
        Some(ErrorCode::ReadOnly | ErrorCode::PermissionDenied | ErrorCode::CannotOpen) => {
            StoreError::ReadOnly { place, reason }
        }
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => StoreError::Corrupt { place, reason },
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => StoreError::InUse { place },
        _ => StoreError::Failed { place, reason },
    }
}

/// Whether nothing more can be done with the file: nobody knows what is in it, or it is damaged.
pub(super) fn is_final(error: &StoreError) -> bool {
    matches!(error, StoreError::Failed { .. } | StoreError::Corrupt { .. })
}

/// What was read is not what a store writes.
pub(super) fn damaged(place: &str, what: &str) -> StoreError {
    StoreError::Corrupt { place: place.to_owned(), reason: what.to_owned() }
}
