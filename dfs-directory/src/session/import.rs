//! Sessions after an import: none.
//!
//! A session that lived when the backup was made has lost what it held, as if its mount had been
//! away for long. Its number, and those of later ones that the file servers know, are not given again.

use super::keys;
use super::records::NumberRecord;
use crate::state::IMPORT_JUMP;
use crate::state::record::{load_record, store_record};
use crate::state::tables::{Table, TableError, Write};

/// Makes the imported tables safe for servers that went on. The session tables are empty.
pub fn imported(tables: &mut dyn Write) -> Result<(), TableError> {
    let next: Option<NumberRecord> = load_record(tables, Table::Meta, keys::NEXT_SESSION)?;
    let number = next.map_or(1, |next| next.number) + IMPORT_JUMP;
    store_record(
        tables,
        Table::Meta,
        keys::NEXT_SESSION,
        &NumberRecord { number },
    )
}
