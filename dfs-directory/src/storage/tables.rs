//! The applied state in redb: the ordered tables of `crate::state`, and a few values about them.
//!
//! One redb table, `state`: key = the table's number, one byte, then the record's key; and one,
//! `about`: name -> value (which log entry was applied last, with which membership). Both change
//! in the same transaction.
//!
//! Applying commits without a flush; `checkpoint` flushes everything committed so far. After a
//! crash the tables stand at a checkpoint, behind the log, and the log is applied again from
//! there.

use crate::state::tables::{Read, Table, TableError, Visit, Write};
use redb::{
    Database, Durability, ReadTransaction, ReadableDatabase, ReadableTable, TableDefinition,
    WriteTransaction,
};
use std::path::Path;

const STATE: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("state");
const ABOUT: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("about");

/// Bytes of redb's page cache.
const CACHE_BYTES: usize = 128 << 20;

/// The file of the tables in a data dir.
pub const FILE_NAME: &str = "tables.redb";

/// The tables on disk.
#[derive(Debug)]
pub struct Store {
    database: Database,
}

fn failed(what: &str) -> impl Fn(redb::Error) -> TableError {
    let what = what.to_owned();
    move |e| TableError(format!("{what}: {e}"))
}

/// redb has one error type per call; all of them convert into `redb::Error`.
fn doing<E: Into<redb::Error>>(what: &'static str) -> impl Fn(E) -> TableError {
    move |e| failed(what)(e.into())
}

fn stored_key(table: Table, key: &[u8]) -> Vec<u8> {
    let mut stored = Vec::with_capacity(key.len() + 1);
    stored.push(table as u8);
    stored.extend_from_slice(key);
    stored
}

impl Store {
    /// Opens the tables, creating empty ones if there are none.
    pub fn open(path: &Path) -> Result<Self, TableError> {
        let database = Database::builder()
            .set_cache_size(CACHE_BYTES)
            .create(path)
            .map_err(doing("open the state tables"))?;
        let store = Self { database };
        // Readers need the tables to exist.
        let mut writer = store.write()?;
        writer.touch()?;
        writer.commit()?;
        Ok(store)
    }

    /// A view of one moment: everything applied until now, nothing later.
    pub fn read(&self) -> Result<ReadView, TableError> {
        let transaction = self.database.begin_read().map_err(doing("read"))?;
        ReadView::new(transaction)
    }

    /// The one writer; waits for another one to end.
    pub fn write(&self) -> Result<Writer, TableError> {
        let mut transaction = self.database.begin_write().map_err(doing("begin"))?;
        transaction
            .set_durability(Durability::None)
            .map_err(doing("begin"))?;
        Ok(Writer { transaction })
    }

    /// Flushes everything committed so far to the disk.
    pub fn checkpoint(&self) -> Result<(), TableError> {
        let mut transaction = self.database.begin_write().map_err(doing("checkpoint"))?;
        transaction
            .set_durability(Durability::Immediate)
            .map_err(doing("checkpoint"))?;
        // An unclean stop then costs milliseconds at the next open, whatever the size.
        transaction.set_quick_repair(true);
        transaction.commit().map_err(doing("checkpoint"))
    }
}

/// A transaction that changes the tables; dropped without `commit` it changes nothing.
#[allow(missing_debug_implementations)]
pub struct Writer {
    transaction: WriteTransaction,
}

impl Writer {
    fn touch(&mut self) -> Result<(), TableError> {
        self.transaction
            .open_table(STATE)
            .map_err(doing("open tables"))?;
        self.transaction
            .open_table(ABOUT)
            .map_err(doing("open tables"))?;
        Ok(())
    }

    /// The tables, to be changed.
    pub fn tables(&mut self) -> Result<WriteView<'_>, TableError> {
        let state = self
            .transaction
            .open_table(STATE)
            .map_err(doing("open tables"))?;
        Ok(WriteView { state })
    }

    /// Sets a value about the tables.
    pub fn set_about(&mut self, name: &str, value: &[u8]) -> Result<(), TableError> {
        let mut about = self
            .transaction
            .open_table(ABOUT)
            .map_err(doing("open tables"))?;
        about.insert(name, value).map_err(doing("write"))?;
        Ok(())
    }

    /// Removes all records of all tables.
    pub fn clear(&mut self) -> Result<(), TableError> {
        self.transaction
            .delete_table(STATE)
            .map_err(doing("clear"))?;
        self.transaction
            .delete_table(ABOUT)
            .map_err(doing("clear"))?;
        self.touch()
    }

    /// Makes the changes visible to readers; durable at the next checkpoint.
    pub fn commit(self) -> Result<(), TableError> {
        self.transaction.commit().map_err(doing("commit"))
    }

    /// Makes the changes, and all earlier ones, durable.
    pub fn commit_durably(mut self) -> Result<(), TableError> {
        self.transaction
            .set_durability(Durability::Immediate)
            .map_err(doing("commit"))?;
        self.transaction.set_quick_repair(true);
        self.transaction.commit().map_err(doing("commit"))
    }
}

/// The tables inside a transaction that changes them.
#[allow(missing_debug_implementations)]
pub struct WriteView<'t> {
    state: redb::Table<'t, &'static [u8], &'static [u8]>,
}

/// The tables at one moment.
#[allow(missing_debug_implementations)]
pub struct ReadView {
    state: redb::ReadOnlyTable<&'static [u8], &'static [u8]>,
    about: redb::ReadOnlyTable<&'static str, &'static [u8]>,
}

impl ReadView {
    fn new(transaction: ReadTransaction) -> Result<Self, TableError> {
        Ok(Self {
            state: transaction
                .open_table(STATE)
                .map_err(doing("open tables"))?,
            about: transaction
                .open_table(ABOUT)
                .map_err(doing("open tables"))?,
        })
    }

    /// A value about the tables.
    pub fn about(&self, name: &str) -> Result<Option<Vec<u8>>, TableError> {
        let value = self.about.get(name).map_err(doing("read"))?;
        Ok(value.map(|v| v.value().to_vec()))
    }

    /// Visits all records of all tables in order, keys with the table's byte in front.
    pub fn visit_all(
        &self,
        mut visit: impl FnMut(&[u8], &[u8]) -> Result<(), TableError>,
    ) -> Result<(), TableError> {
        for record in self.state.iter().map_err(doing("scan"))? {
            let (key, value) = record.map_err(doing("scan"))?;
            visit(key.value(), value.value())?;
        }
        Ok(())
    }
}

fn get(
    state: &impl ReadableTable<&'static [u8], &'static [u8]>,
    table: Table,
    key: &[u8],
) -> Result<Option<Vec<u8>>, TableError> {
    let stored = stored_key(table, key);
    let value = state.get(stored.as_slice()).map_err(doing("read"))?;
    Ok(value.map(|v| v.value().to_vec()))
}

fn scan(
    state: &impl ReadableTable<&'static [u8], &'static [u8]>,
    table: Table,
    from: &[u8],
    visit: &mut Visit<'_>,
) -> Result<(), TableError> {
    let start = stored_key(table, from);
    let end = [table as u8 + 1];
    for record in state
        .range::<&[u8]>(start.as_slice()..end.as_slice())
        .map_err(doing("scan"))?
    {
        let (key, value) = record.map_err(doing("scan"))?;
        if visit(&key.value()[1..], value.value()).is_break() {
            break;
        }
    }
    Ok(())
}

impl Read for ReadView {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, TableError> {
        get(&self.state, table, key)
    }

    fn scan(&self, table: Table, from: &[u8], visit: &mut Visit<'_>) -> Result<(), TableError> {
        scan(&self.state, table, from, visit)
    }
}

impl Read for WriteView<'_> {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, TableError> {
        get(&self.state, table, key)
    }

    fn scan(&self, table: Table, from: &[u8], visit: &mut Visit<'_>) -> Result<(), TableError> {
        scan(&self.state, table, from, visit)
    }
}

impl Write for WriteView<'_> {
    fn put(&mut self, table: Table, key: &[u8], value: &[u8]) -> Result<(), TableError> {
        self.state
            .insert(stored_key(table, key).as_slice(), value)
            .map_err(doing("write"))?;
        Ok(())
    }

    fn delete(&mut self, table: Table, key: &[u8]) -> Result<(), TableError> {
        self.state
            .remove(stored_key(table, key).as_slice())
            .map_err(doing("write"))?;
        Ok(())
    }
}

impl WriteView<'_> {
    /// Writes a record as `ReadView::visit_all` gave it.
    pub fn put_raw(&mut self, key: &[u8], value: &[u8]) -> Result<(), TableError> {
        self.state.insert(key, value).map_err(doing("write"))?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::state::memory::MemoryTables;
    use proptest::prelude::*;
    use std::ops::ControlFlow;

    const TABLES: [Table; 3] = [Table::Meta, Table::Inodes, Table::Groups];

    fn all(tables: &dyn Read, table: Table, from: &[u8]) -> Vec<(Vec<u8>, Vec<u8>)> {
        let mut found = Vec::new();
        tables
            .scan(table, from, &mut |key, value| {
                found.push((key.to_vec(), value.to_vec()));
                ControlFlow::Continue(())
            })
            .unwrap();
        found
    }

    fn put(store: &Store, key: &[u8]) {
        let mut writer = store.write().unwrap();
        writer
            .tables()
            .unwrap()
            .put(Table::Inodes, key, b"value")
            .unwrap();
        writer.set_about("last", key).unwrap();
        writer.commit().unwrap();
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(20))]
        #[test]
        fn they_behave_as_tables_in_memory_do(
            steps in proptest::collection::vec(
                (0..3usize, proptest::collection::vec(0..4u8, 0..3), any::<Option<u8>>()), 1..60),
            from in proptest::collection::vec(0..4u8, 0..3),
        ) {
            let dir = tempfile::tempdir().unwrap();
            let store = Store::open(&dir.path().join("tables.redb")).unwrap();
            let mut model = MemoryTables::default();
            let mut writer = store.write().unwrap();
            {
                let mut view = writer.tables().unwrap();
                let both: [&mut dyn Write; 2] = [&mut view, &mut model];
                for tables in both {
                    for (table, key, value) in &steps {
                        match value {
                            Some(value) => tables.put(TABLES[*table], key, &[*value]).unwrap(),
                            None => tables.delete(TABLES[*table], key).unwrap(),
                        }
                    }
                }
                for table in TABLES {
                    prop_assert_eq!(all(&view, table, &from), all(&model, table, &from));
                }
            }
            writer.commit().unwrap();
            let view = store.read().unwrap();
            for table in TABLES {
                prop_assert_eq!(all(&view, table, &from), all(&model, table, &from));
            }
            for (table, key, _) in &steps {
                let table = TABLES[*table];
                prop_assert_eq!(view.get(table, key).unwrap(), model.get(table, key).unwrap());
            }
        }
    }

    #[test]
    fn a_view_shows_one_moment_and_an_abandoned_change_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("tables.redb")).unwrap();
        put(&store, b"1");
        let view = store.read().unwrap();
        put(&store, b"2");
        assert_eq!(all(&view, Table::Inodes, &[]).len(), 1);
        assert_eq!(view.about("last").unwrap().unwrap(), b"1");
        let mut writer = store.write().unwrap();
        writer
            .tables()
            .unwrap()
            .put(Table::Inodes, b"3", b"value")
            .unwrap();
        drop(writer);
        assert_eq!(all(&store.read().unwrap(), Table::Inodes, &[]).len(), 2);
    }

    #[test]
    fn after_a_crash_the_tables_stand_at_a_checkpoint() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("tables.redb");
        let store = Store::open(&path).unwrap();
        put(&store, b"1");
        store.checkpoint().unwrap();
        for n in 0..200u8 {
            put(&store, &[b'2', n]);
        }
        let crashed = dir.path().join("crashed.redb");
        std::fs::copy(&path, &crashed).unwrap();
        let after = Store::open(&crashed).unwrap();
        let view = after.read().unwrap();
        assert_eq!(
            all(&view, Table::Inodes, &[]),
            [(b"1".to_vec(), b"value".to_vec())]
        );
        assert_eq!(view.about("last").unwrap().unwrap(), b"1");
    }

    #[test]
    fn a_cleared_store_is_empty_and_usable() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("tables.redb")).unwrap();
        put(&store, b"1");
        let mut writer = store.write().unwrap();
        writer.clear().unwrap();
        writer
            .tables()
            .unwrap()
            .put(Table::Inodes, b"2", b"value")
            .unwrap();
        writer.commit_durably().unwrap();
        let view = store.read().unwrap();
        assert_eq!(
            all(&view, Table::Inodes, &[]),
            [(b"2".to_vec(), b"value".to_vec())]
        );
        assert_eq!(view.about("last").unwrap(), None);
    }
}
