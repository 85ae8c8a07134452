//! What every store promises, by the stores of the library.

use proptest::prelude::*;
use whispeer::store::{Durability, MemoryStore, SqliteOptions, SqliteStore, Store};
use whispeer_testkit::store_contract::{self, StoreCase};

mod in_memory {
    use super::*;

    async fn run(case: StoreCase) {
        case(&MemoryStore::new()).await;
    }

    whispeer_testkit::for_each_store_case!(run);
}

mod in_a_file {
    use super::*;

    async fn run(case: StoreCase) {
        let folder = tempfile::tempdir().unwrap();
        case(&SqliteStore::open(&folder.path().join("db"), SqliteOptions::new()).unwrap()).await;
    }

    whispeer_testkit::for_each_store_case!(run);
}

#[tokio::test]
async fn whose_consumers_are_is_known_when_a_file_is_opened_again() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("db");
    let store = SqliteStore::open(&path, SqliteOptions::new()).unwrap();
    store_contract::a_consumer_is_the_first_owners_who_comes(&store).await;
    store.close().await.unwrap();
    let again = SqliteStore::open(&path, SqliteOptions::new()).unwrap();
    assert_eq!(store_contract::owners(&again).await, ["billing bob", "worker bob"]);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn a_file_says_what_memory_says(steps in store_contract::steps()) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("db");
            // What the disk does is for other tests.
            let options = SqliteOptions::new().durability(Durability::PowerLossLosesTheLatest);
            let open = async || SqliteStore::open(&path, options.clone()).unwrap();
            store_contract::says_what_memory_says(steps, open).await;
        });
    }
}
