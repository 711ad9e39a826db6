//! A trace as Parquet: a column for each property of an exit, in groups of rows that fit memory.

use std::io::{self, Write};
use std::sync::Arc;

use parquet::basic::Compression;
use parquet::data_type::{ByteArray, ByteArrayType, DataType, Int32Type, Int64Type};
use parquet::file::properties::WriterProperties;
use parquet::file::writer::{SerializedFileWriter, SerializedRowGroupWriter};
use parquet::schema::parser::parse_message_type;
use parquet::schema::types::ColumnPath;

use super::{Exit, Sink};

const SCHEMA: &str = "message exits {
    required int32 vcpu (integer(32, false));
    required int64 tsc (integer(64, false));
    required int32 reason (integer(16, false));
    required binary name (string);
    required int64 qualification (integer(64, false));
    required int64 rip (integer(64, false));
    required binary symbol (string);
    required int64 cycles (integer(64, false));
}";

/// The most rows of a group.
const GROUP_ROWS: usize = 1 << 17;

#[derive(Default)]
struct Columns {
    vcpu: Vec<i32>,
    tsc: Vec<i64>,
    reason: Vec<i32>,
    name: Vec<ByteArray>,
    qualification: Vec<i64>,
    rip: Vec<i64>,
    symbol: Vec<ByteArray>,
    cycles: Vec<i64>,
}

pub(super) struct Parquet<W: Write + Send> {
    writer: SerializedFileWriter<W>,
    columns: Columns,
    /// The last name and symbol, which the next row often has, too.
    last: (ByteArray, ByteArray),
}

fn failed(error: parquet::errors::ParquetError) -> io::Error {
    match error {
        parquet::errors::ParquetError::External(error) => io::Error::other(error),
        error => io::Error::other(error),
    }
}

impl<W: Write + Send> Parquet<W> {
    pub(super) fn new(out: W) -> io::Result<Self> {
        let schema = Arc::new(parse_message_type(SCHEMA).map_err(failed)?);
        let properties = WriterProperties::builder()
            .set_compression(Compression::SNAPPY)
            // No two time stamps are alike.
            .set_column_dictionary_enabled(ColumnPath::from("tsc"), false)
            .set_created_by(concat!("tollgate ", env!("CARGO_PKG_VERSION")).to_owned());
        let writer = SerializedFileWriter::new(out, schema, Arc::new(properties.build())).map_err(failed)?;
        Ok(Self { writer, columns: Columns::default(), last: (ByteArray::from(""), ByteArray::from("")) })
    }

    fn write_group(&mut self) -> io::Result<()> {
        let Columns { vcpu, tsc, reason, name, qualification, rip, symbol, cycles } = &mut self.columns;
        if vcpu.is_empty() {
            return Ok(());
        }
        let mut group = self.writer.next_row_group().map_err(failed)?;
        column::<Int32Type, W>(&mut group, vcpu)?;
        column::<Int64Type, W>(&mut group, tsc)?;
        column::<Int32Type, W>(&mut group, reason)?;
        column::<ByteArrayType, W>(&mut group, name)?;
        column::<Int64Type, W>(&mut group, qualification)?;
        column::<Int64Type, W>(&mut group, rip)?;
        column::<ByteArrayType, W>(&mut group, symbol)?;
        column::<Int64Type, W>(&mut group, cycles)?;
        group.close().map(drop).map_err(failed)
    }
}

/// Writes the next column of a group, and empties it.
fn column<T: DataType, W: Write + Send>(
    group: &mut SerializedRowGroupWriter<'_, W>,
    values: &mut Vec<T::T>,
) -> io::Result<()> {
    if let Some(mut column) = group.next_column().map_err(failed)? {
        column.typed::<T>().write_batch(values, None, None).map_err(failed)?;
        column.close().map_err(failed)?;
    }
    values.clear();
    Ok(())
}

/// The same text again, without a copy of it.
fn again(last: &mut ByteArray, text: &str) -> ByteArray {
    if last.data() != text.as_bytes() {
        *last = ByteArray::from(text);
    }
    last.clone()
}

impl<W: Write + Send> Sink for Parquet<W> {
    fn exit(&mut self, Exit { vcpu, event, name, symbol }: &Exit<'_>) -> io::Result<()> {
        let columns = &mut self.columns;
        columns.vcpu.push(*vcpu as i32);
        columns.tsc.push(event.tsc as i64);
        columns.reason.push(event.reason.into());
        columns.name.push(again(&mut self.last.0, name));
        columns.qualification.push(event.qualification as i64);
        columns.rip.push(event.rip as i64);
        columns.symbol.push(again(&mut self.last.1, symbol));
        columns.cycles.push(event.cycles as i64);
        if columns.vcpu.len() < GROUP_ROWS { Ok(()) } else { self.write_group() }
    }

    fn end(mut self: Box<Self>) -> io::Result<()> {
        self.write_group()?;
        self.writer.close().map(drop).map_err(failed)
    }
}
