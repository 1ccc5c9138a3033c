//! The tables in memory: for tests, models and the simulation.

use super::tables::{Read, Table, TableError, Visit, Write};
use std::collections::BTreeMap;

/// Ordered tables without a disk.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct MemoryTables {
    records: BTreeMap<(Table, Vec<u8>), Vec<u8>>,
}

impl Read for MemoryTables {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, TableError> {
        Ok(self.records.get(&(table, key.to_vec())).cloned())
    }

    fn scan(&self, table: Table, from: &[u8], visit: &mut Visit<'_>) -> Result<(), TableError> {
        for ((at, key), value) in self.records.range((table, from.to_vec())..) {
            if *at != table || visit(key, value).is_break() {
                break;
            }
        }
        Ok(())
    }
}

impl Write for MemoryTables {
    fn put(&mut self, table: Table, key: &[u8], value: &[u8]) -> Result<(), TableError> {
        self.records.insert((table, key.to_vec()), value.to_vec());
        Ok(())
    }

    fn delete(&mut self, table: Table, key: &[u8]) -> Result<(), TableError> {
        self.records.remove(&(table, key.to_vec()));
        Ok(())
    }
}
