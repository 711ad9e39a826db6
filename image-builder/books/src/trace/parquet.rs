//! A trace as Parquet: a column for each property of an exit, in groups of rows that fit memory.

use std::io::{self, Write};
use std::sync::Arc;

use bytes::Bytes;
use parquet::basic::{Compression, Encoding};
use parquet::column::writer::{get_column_writer, get_typed_column_writer};
use parquet::data_type::{ByteArray, Int64Type};
use parquet::errors::ParquetError;
use parquet::file::properties::{EnabledStatistics, WriterProperties, WriterPropertiesPtr};
use parquet::file::statistics::Statistics;
use parquet::file::writer::{SerializedFileWriter, SerializedPageWriter, TrackedWrite};
use parquet::schema::parser::parse_message_type;
use parquet::schema::types::{ColumnPath, SchemaDescPtr, SchemaDescriptor};

use super::block::Block;
use super::dictionary::{Column, Dictionary, Numbers};
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
            // The extremes of a group are found at once; those of each page would be compared value by value.
            .set_statistics_enabled(EnabledStatistics::None)
            .set_offset_index_disabled(true)
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

impl Encoder {
    fn group(&self, block: &Block) -> Result<Vec<Column>, ParquetError> {
        let rows = block.exits.min(2 * GROUP_ROWS);
        let column = || Dictionary::with_capacity(rows);
        let (mut vcpu, mut reason, mut qualification, mut rip, mut cycles) =
            (column(), column(), column(), column(), column());
        let mut tsc = Vec::with_capacity(rows);
        block.unpack(|exits| {
            let of = exits.vcpu;
            for event in exits {
                vcpu.push(of);
                tsc.push(event.tsc as i64);
                reason.push(event.reason.into());
                qualification.push(event.qualification);
                rip.push(event.rip);
                cycles.push(event.cycles);
            }
        });
        let (mut name, mut symbol) = (Vec::new(), Vec::new());
        let names = reason.texts(|reason| row_name(reason as u16), &mut name);
        let symbols = rip.texts(|rip| block.symbols.find(rip), &mut symbol);
        Ok(vec![
            self.words(0, &vcpu)?,
            self.time_stamps(1, &tsc)?,
            self.words(2, &reason)?,
            self.texts(3, &names, reason.numbers_of(&name))?,
            self.long_words(4, &qualification)?,
            self.long_words(5, &rip)?,
            self.texts(6, &symbols, rip.numbers_of(&symbol))?,
            self.long_words(7, &cycles)?,
        ])
    }

    /// A column of 32 bits.
    fn words(&self, at: usize, rows: &Dictionary) -> Result<Column, ParquetError> {
        let plain = rows.values().iter().flat_map(|&value| (value as u32).to_le_bytes()).collect();
        let [min, max] = extremes(rows.values().iter().map(|&value| value as u32)).map(|value| value as i32);
        rows.numbers().chunk(
            self.columns.column(at),
            rows.values().len(),
            plain,
            Statistics::int32(Some(min), Some(max), None, Some(0), false),
        )
    }

    /// A column of 64 bits.
    fn long_words(&self, at: usize, rows: &Dictionary) -> Result<Column, ParquetError> {
        let plain = rows.values().iter().flat_map(|value| value.to_le_bytes()).collect();
        let [min, max] = extremes(rows.values().iter().copied()).map(|value| value as i64);
        rows.numbers().chunk(
            self.columns.column(at),
            rows.values().len(),
            plain,
            Statistics::int64(Some(min), Some(max), None, Some(0), false),
        )
    }

    fn texts(&self, at: usize, texts: &[&str], rows: Numbers<'_>) -> Result<Column, ParquetError> {
        let mut plain = Vec::new();
        for text in texts {
            plain.extend_from_slice(&(text.len() as u32).to_le_bytes());
            plain.extend_from_slice(text.as_bytes());
        }
        let [min, max] = extremes(texts.iter().copied()).map(ByteArray::from);
        rows.chunk(
            self.columns.column(at),
            texts.len(),
            plain,
            Statistics::byte_array(Some(min), Some(max), None, Some(0), false),
        )
    }

    fn time_stamps(&self, at: usize, values: &[i64]) -> Result<Column, ParquetError> {
        let mut encoded = TrackedWrite::new(Vec::new());
        let pages = Box::new(SerializedPageWriter::new(&mut encoded));
        let writer = get_column_writer(self.columns.column(at), Arc::clone(&self.properties), pages);
        let mut writer = get_typed_column_writer::<Int64Type>(writer);
        writer.write_batch(values, None, None)?;
        let mut column = writer.close()?;
        let [min, max] = extremes(values.iter().map(|&value| value as u64)).map(|value| value as i64);
        column.metadata = column
            .metadata
            .into_builder()
            .set_statistics(Statistics::int64(Some(min), Some(max), None, Some(0), false))
            .build()?;
        Ok((Bytes::from(encoded.into_inner()?), column))
    }
}

/// The least and the greatest; of none, those of a type that has nothing else to say.
fn extremes<T: Ord + Copy + Default>(values: impl Iterator<Item = T> + Clone) -> [T; 2] {
    [values.clone().min(), values.max()].map(Option::unwrap_or_default)
}
