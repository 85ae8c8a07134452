//! The file in which streams are kept, in a build without the feature `sqlite`.

use std::sync::Arc;

use whispeer::store::Store;

use super::refused;
use crate::settings::StoreChoice;

/// There is none.
///
/// # Errors
/// That this build has no such feature.
pub(super) fn open(store: &StoreChoice, _byte_budget: usize) -> anyhow::Result<Arc<dyn Store>> {
    let chosen = store.folder.as_ref().map(|folder| format!(" in {}", folder.display())).unwrap_or_default();
    let failure =
        refused(&format!("this build of whispeer has no feature `sqlite`, which keeps streams{chosen}"));
    Err(failure.help("write storage = \"memory\" for each stream, or use another build").into())
}
