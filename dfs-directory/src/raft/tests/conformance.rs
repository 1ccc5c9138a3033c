//! openraft's own suite for storages.

use crate::raft::log_store::LogStore;
use crate::raft::state_machine::StateMachine;
use crate::raft::types::{StorageError, TypeConfig};
use crate::state::level::FEATURE_LEVEL;
use crate::storage::Store;
use crate::storage::log::Log;
use openraft::testing::{StoreBuilder, Suite};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use tempfile::TempDir;

struct Builder;

impl StoreBuilder<TypeConfig, LogStore, StateMachine, TempDir> for Builder {
    async fn build(&self) -> Result<(TempDir, LogStore, StateMachine), StorageError> {
        let dir = tempfile::tempdir().unwrap();
        let log = Log::open(&dir.path().join("raft")).unwrap();
        let log = LogStore::new(log, 0, Arc::new(AtomicBool::new(false)));
        let store =
            Arc::new(Store::open(&dir.path().join(crate::storage::tables::FILE_NAME)).unwrap());
        let machine = StateMachine::open(store, dir.path(), 0, None, FEATURE_LEVEL).unwrap();
        Ok((dir, log, machine))
    }
}

#[test]
fn the_storage_passes_openrafts_suite() {
    Suite::test_all(Builder).unwrap();
}
