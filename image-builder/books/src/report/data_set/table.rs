//! Rows on their way into one Parquet file, in groups that fit memory.

use std::fs::{self, File};
use std::io::{self, BufWriter};
use std::path::Path;
use std::sync::Arc;

use parquet::basic::Compression;
use parquet::data_type::{BoolType, ByteArray, ByteArrayType, DataType, Int32Type, Int64Type};
use parquet::errors::ParquetError;
use parquet::file::metadata::KeyValue;
use parquet::file::properties::WriterProperties;
use parquet::file::writer::{SerializedFileWriter, SerializedRowGroupWriter};
use parquet::schema::parser::parse_message_type;

use super::columns::{Column, Value};
use crate::exits::Histogram;

/// The key of the schema's name in a file's metadata.
const SCHEMA_KEY: &str = "tollgate.schema";

pub(super) struct Table<R: 'static> {
    columns: &'static [Column<R>],
    writer: SerializedFileWriter<BufWriter<File>>,
    rows: Vec<R>,
}

impl<R> std::fmt::Debug for Table<R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "a table of {} columns, {} rows waiting", self.columns.len(), self.rows.len())
    }
}

impl<R> Table<R> {
    /// Begins a file in a folder.
    pub(super) fn create(folder: &Path, schema: &str, columns: &'static [Column<R>]) -> io::Result<Self> {
        fs::create_dir_all(folder)?;
        let fields: String = columns.iter().map(field).collect();
        let message = parse_message_type(&format!("message rows {{ {fields} }}")).map_err(failed)?;
        let properties = WriterProperties::builder()
            .set_compression(Compression::SNAPPY)
            .set_created_by(concat!("tollgate ", env!("CARGO_PKG_VERSION")).to_owned())
            .set_key_value_metadata(Some(vec![KeyValue::new(SCHEMA_KEY.to_owned(), schema.to_owned())]))
            .build();
        let file = BufWriter::new(File::create(folder.join("part-0.parquet"))?);
        let writer = SerializedFileWriter::new(file, Arc::new(message), Arc::new(properties)).map_err(failed)?;
        Ok(Self { columns, writer, rows: Vec::new() })
    }

    /// Takes a row, which waits to be written.
    pub(super) fn add(&mut self, row: R) {
        self.rows.push(row);
    }

    /// Writes the rows that wait.
    pub(super) fn write(&mut self) -> io::Result<()> {
        if self.rows.is_empty() {
            return Ok(());
        }
        let mut group = self.writer.next_row_group().map_err(failed)?;
        for column in self.columns {
            write_column(&mut group, column, &self.rows).map_err(failed)?;
        }
        group.close().map_err(failed)?;
        self.rows.clear();
        Ok(())
    }

    /// Ends the file.
    pub(super) fn finish(mut self) -> io::Result<()> {
        self.write()?;
        let file = self.writer.into_inner().map_err(failed)?;
        file.into_inner()?.sync_all()
    }
}

/// A column in the language of Parquet's schemas.
fn field<R>(column: &Column<R>) -> String {
    let name = column.name;
    match column.value {
        Value::Text(_) => format!("required binary {name} (string); "),
        Value::U16(_) => format!("required int32 {name} (integer(16, false)); "),
        Value::U32(_) => format!("required int32 {name} (integer(32, false)); "),
        Value::U64(_) => format!("required int64 {name} (integer(64, false)); "),
        Value::OptionalU64(_) => format!("optional int64 {name} (integer(64, false)); "),
        Value::Flag(_) => format!("required boolean {name}; "),
        Value::Histogram(_) => format!(
            "required group {name} (list) {{ repeated group list {{ required int64 element (integer(64, false)); }} }} "
        ),
    }
}

type Group<'a> = SerializedRowGroupWriter<'a, BufWriter<File>>;

fn write_column<R>(group: &mut Group<'_>, column: &Column<R>, rows: &[R]) -> Result<(), ParquetError> {
    let rows = rows.iter();
    match column.value {
        Value::Text(of) => plain::<ByteArrayType>(group, rows.map(|row| ByteArray::from(of(row))).collect()),
        Value::U16(of) | Value::U32(of) => plain::<Int32Type>(group, rows.map(|row| of(row) as i32).collect()),
        Value::U64(of) => plain::<Int64Type>(group, rows.map(|row| of(row) as i64).collect()),
        Value::Flag(of) => plain::<BoolType>(group, rows.map(of).collect()),
        Value::OptionalU64(of) => {
            let values: Vec<Option<u64>> = rows.map(of).collect();
            let levels: Vec<i16> = values.iter().map(|value| i16::from(value.is_some())).collect();
            let there: Vec<i64> = values.into_iter().flatten().map(|value| value as i64).collect();
            write::<Int64Type>(group, &there, Some(&levels), None)
        }
        Value::Histogram(of) => {
            let (mut values, mut definitions, mut repetitions) = (vec![], vec![], vec![]);
            for counts in rows.map(|row| counts(of(row))) {
                // A list without an item has a level all the same.
                definitions.extend(std::iter::repeat_n(i16::from(!counts.is_empty()), counts.len().max(1)));
                repetitions.extend((0..counts.len().max(1)).map(|at| i16::from(at > 0)));
                values.extend(counts.into_iter().map(|count| count as i64));
            }
            write::<Int64Type>(group, &values, Some(&definitions), Some(&repetitions))
        }
    }
}

/// The exits in each bucket up to the last that has any.
fn counts(histogram: &Histogram) -> Vec<u64> {
    let behind_last = histogram.buckets().last().map_or(0, |last| last.bucket + 1);
    (0..behind_last).map(|bucket| histogram.of(bucket)).collect()
}

fn plain<T: DataType>(group: &mut Group<'_>, values: Vec<T::T>) -> Result<(), ParquetError> {
    write::<T>(group, &values, None, None)
}

/// Writes the next column of a group.
fn write<T: DataType>(
    group: &mut Group<'_>,
    values: &[T::T],
    definitions: Option<&[i16]>,
    repetitions: Option<&[i16]>,
) -> Result<(), ParquetError> {
    if let Some(mut column) = group.next_column()? {
        column.typed::<T>().write_batch(values, definitions, repetitions)?;
        column.close()?;
    }
    Ok(())
}

fn failed(error: ParquetError) -> io::Error {
    match error {
        ParquetError::External(error) => io::Error::other(error),
        error => io::Error::other(error),
    }
}
