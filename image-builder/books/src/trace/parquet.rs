//! A trace as Parquet: a column for each property of an exit, in groups of rows that fit memory.

use std::io::{self, Write};
use std::sync::Arc;

use bytes::Bytes;
use parquet::basic::{Compression, Encoding};
use parquet::column::writer::{ColumnCloseResult, get_column_writer, get_typed_column_writer};
use parquet::data_type::{ByteArray, ByteArrayType, DataType, Int32Type, Int64Type};
use parquet::errors::ParquetError;
use parquet::file::properties::{WriterProperties, WriterPropertiesPtr};
use parquet::file::writer::{SerializedFileWriter, SerializedPageWriter, TrackedWrite};
use parquet::schema::parser::parse_message_type;
use parquet::schema::types::{ColumnPath, SchemaDescPtr, SchemaDescriptor};

use super::block::Block;
use super::pipeline::Pipeline;
use super::{Sink, row_name};

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

/// Rows of a group, or a few more.
const GROUP_ROWS: usize = 1 << 17;

pub(super) struct Parquet<W: Write + Send> {
    writer: SerializedFileWriter<W>,
    pipeline: Pipeline<Vec<Column>>,
}

/// A column of a group, encoded by itself.
type Column = (Bytes, ColumnCloseResult);

fn failed(error: ParquetError) -> io::Error {
    match error {
        ParquetError::External(error) => io::Error::other(error),
        error => io::Error::other(error),
    }
}

impl<W: Write + Send> Parquet<W> {
    pub(super) fn new(out: W) -> io::Result<Self> {
        let schema = Arc::new(parse_message_type(SCHEMA).map_err(failed)?);
        let tsc = ColumnPath::from("tsc");
        let properties = WriterProperties::builder()
            .set_compression(Compression::SNAPPY)
            // No two time stamps are alike, and each is a little above the one before.
            .set_column_dictionary_enabled(tsc.clone(), false)
            .set_column_encoding(tsc, Encoding::DELTA_BINARY_PACKED)
            .set_created_by(concat!("tollgate ", env!("CARGO_PKG_VERSION")).to_owned());
        let properties = Arc::new(properties.build());
        let columns = Arc::new(SchemaDescriptor::new(Arc::clone(&schema)));
        let writer = SerializedFileWriter::new(out, schema, Arc::clone(&properties)).map_err(failed)?;
        let encode = Encoder { columns, properties };
        let pipeline = Pipeline::new(move |block, _| encode.group(block).map_err(failed));
        Ok(Self { writer, pipeline })
    }

    fn write(&mut self, columns: Vec<Column>) -> io::Result<()> {
        let mut group = self.writer.next_row_group().map_err(failed)?;
        for (bytes, column) in columns {
            group.append_column(&bytes, column).map_err(failed)?;
        }
        group.close().map(drop).map_err(failed)
    }
}

impl<W: Write + Send> Sink for Parquet<W> {
    fn block_exits(&self) -> usize {
        GROUP_ROWS
    }

    fn push(&mut self, block: Block) -> io::Result<()> {
        match self.pipeline.push(block, Vec::new())? {
            Some(columns) => self.write(columns),
            None => Ok(()),
        }
    }

    fn end(mut self: Box<Self>) -> io::Result<()> {
        while let Some(columns) = self.pipeline.next()? {
            self.write(columns)?;
        }
        self.writer.close().map(drop).map_err(failed)
    }
}

/// Encodes groups of rows.
struct Encoder {
    columns: SchemaDescPtr,
    properties: WriterPropertiesPtr,
}

#[derive(Default)]
struct Rows {
    vcpu: Vec<i32>,
    tsc: Vec<i64>,
    reason: Vec<i32>,
    name: Vec<ByteArray>,
    qualification: Vec<i64>,
    rip: Vec<i64>,
    symbol: Vec<ByteArray>,
    cycles: Vec<i64>,
}

impl Encoder {
    fn group(&self, block: &Block) -> Result<Vec<Column>, ParquetError> {
        let mut rows = Rows::default();
        let (mut name, mut symbol) = (ByteArray::from(""), ByteArray::from(""));
        block.unpack(|exits| {
            let vcpu = exits.vcpu as i32;
            for event in exits {
                rows.vcpu.push(vcpu);
                rows.tsc.push(event.tsc as i64);
                rows.reason.push(event.reason.into());
                rows.name.push(again(&mut name, row_name(event.reason)));
                rows.qualification.push(event.qualification as i64);
                rows.rip.push(event.rip as i64);
                rows.symbol.push(again(&mut symbol, block.symbols.find(event.rip)));
                rows.cycles.push(event.cycles as i64);
            }
        });
        Ok(vec![
            self.column::<Int32Type>(0, &rows.vcpu)?,
            self.column::<Int64Type>(1, &rows.tsc)?,
            self.column::<Int32Type>(2, &rows.reason)?,
            self.column::<ByteArrayType>(3, &rows.name)?,
            self.column::<Int64Type>(4, &rows.qualification)?,
            self.column::<Int64Type>(5, &rows.rip)?,
            self.column::<ByteArrayType>(6, &rows.symbol)?,
            self.column::<Int64Type>(7, &rows.cycles)?,
        ])
    }

    fn column<T: DataType>(&self, at: usize, values: &[T::T]) -> Result<Column, ParquetError> {
        let mut encoded = TrackedWrite::new(Vec::new());
        let pages = Box::new(SerializedPageWriter::new(&mut encoded));
        let writer = get_column_writer(self.columns.column(at), Arc::clone(&self.properties), pages);
        let mut writer = get_typed_column_writer::<T>(writer);
        writer.write_batch(values, None, None)?;
        let column = writer.close()?;
        Ok((Bytes::from(encoded.into_inner()?), column))
    }
}

/// The same text again, without a copy of it.
fn again(last: &mut ByteArray, text: &str) -> ByteArray {
    if last.data() != text.as_bytes() {
        *last = ByteArray::from(text);
    }
    last.clone()
}
