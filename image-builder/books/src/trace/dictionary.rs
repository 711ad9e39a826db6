//! Columns that repeat their values, as Parquet's dictionaries: the different values, and for each row the number of its own among
//! them, in as few bits as it takes.
//!
//! The `parquet` crate looks each value up in a hash table and compares it with the least and the greatest, which for ten million exits
//! takes most of the time. Here most values are found at once, the extremes are those of the dictionary, and a name goes by the number
//! that it belongs to.

use std::collections::HashMap;

use bytes::Bytes;
use parquet::basic::{Compression, Encoding};
use parquet::column::page::{CompressedPage, Page, PageWriter};
use parquet::column::writer::ColumnCloseResult;
use parquet::errors::ParquetError;
use parquet::file::metadata::ColumnChunkMetaData;
use parquet::file::statistics::Statistics;
use parquet::file::writer::{SerializedPageWriter, TrackedWrite};
use parquet::schema::types::ColumnDescPtr;

/// A column of a group of rows, encoded by itself.
pub(super) type Column = (Bytes, ColumnCloseResult);

/// The values of a column, in the order of its rows.
#[derive(Debug)]
pub(super) struct Dictionary {
    values: Vec<u64>,
    /// For each row the number of its value.
    rows: Vec<u32>,
    numbers: HashMap<u64, u32>,
    /// Values that came, by their hash, with their numbers: most come again soon.
    recent: Vec<(u64, u32)>,
}

/// The number of no value.
const NONE: u32 = u32::MAX;

impl Dictionary {
    const RECENT_BITS: u32 = 11;

    /// A column with room for so many rows.
    pub(super) fn with_capacity(rows: usize) -> Self {
        let recent = vec![(0, NONE); 1 << Self::RECENT_BITS];
        Self { values: Vec::new(), rows: Vec::with_capacity(rows), numbers: HashMap::new(), recent }
    }

    /// Adds a row.
    #[inline]
    pub(super) fn push(&mut self, value: u64) {
        // Knuth's multiplicative hash, as for phrases of text.
        let place = value.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (64 - Self::RECENT_BITS);
        let (known, number) = self.recent[place as usize];
        let number = if known == value && number != NONE { number } else { self.number(value, place as usize) };
        self.rows.push(number);
    }

    #[cold]
    fn number(&mut self, value: u64, place: usize) -> u32 {
        let values = &mut self.values;
        let number = *self.numbers.entry(value).or_insert_with(|| {
            values.push(value);
            values.len() as u32 - 1
        });
        self.recent[place] = (value, number);
        number
    }

    /// The different values, by their numbers.
    pub(super) fn values(&self) -> &[u64] {
        &self.values
    }

    /// The column of numbers.
    pub(super) fn numbers(&self) -> Numbers<'_> {
        Numbers { rows: &self.rows, of: None }
    }

    /// The column of texts that belong to the values: the different texts, and the column of their numbers.
    pub(super) fn texts<'t>(&self, text: impl Fn(u64) -> &'t str, of: &mut Vec<u32>) -> Vec<&'t str> {
        let (mut texts, mut known) = (Vec::new(), HashMap::new());
        of.clear();
        for &value in &self.values {
            let text = text(value);
            of.push(*known.entry(text).or_insert_with(|| {
                texts.push(text);
                texts.len() as u32 - 1
            }));
        }
        texts
    }

    /// The column whose numbers are `of` these.
    pub(super) fn numbers_of<'a>(&'a self, of: &'a [u32]) -> Numbers<'a> {
        Numbers { rows: &self.rows, of: Some(of) }
    }
}

/// For each row of a column the number of its value.
#[derive(Clone, Copy, Debug)]
pub(super) struct Numbers<'a> {
    rows: &'a [u32],
    /// The number that stands for each of these.
    of: Option<&'a [u32]>,
}

impl Numbers<'_> {
    #[inline]
    fn at(&self, row: u32) -> u64 {
        self.of.map_or(row, |of| of.get(row as usize).copied().unwrap_or_default()).into()
    }

    /// The numbers in Parquet's hybrid of run lengths and packed bits, behind the byte that tells their width. Of one value that all rows
    /// have, the length of the run is enough.
    fn encoded(&self, different: usize) -> Vec<u8> {
        let width = different.saturating_sub(1).checked_ilog2().map_or(0, |highest| highest + 1);
        let mut bytes = Vec::with_capacity(16 + self.rows.len() * width as usize / 8);
        bytes.push(width as u8);
        if width == 0 {
            leb128(&mut bytes, (self.rows.len() as u64) << 1);
            return bytes;
        }
        let groups = self.rows.len().div_ceil(8);
        leb128(&mut bytes, (groups as u64) << 1 | 1);
        let end = bytes.len() + groups * width as usize;
        // A number has 32 bits at most, and fewer wait for it.
        let (mut waiting, mut bits) = (0_u64, 0);
        for &row in self.rows {
            waiting |= self.at(row) << bits;
            bits += width;
            if bits >= u32::BITS {
                bytes.extend_from_slice(&(waiting as u32).to_le_bytes());
                waiting >>= u32::BITS;
                bits -= u32::BITS;
            }
        }
        bytes.extend_from_slice(&waiting.to_le_bytes());
        // The last group of eight is filled with zeros.
        bytes.resize(end, 0);
        bytes
    }

    /// A chunk of the column: a page with the different values, `plain` as they are and one behind the other, and a page of numbers.
    ///
    /// # Errors
    /// That of the crate.
    pub(super) fn chunk(
        &self,
        column: ColumnDescPtr,
        different: usize,
        plain: Vec<u8>,
        extremes: Statistics,
    ) -> Result<Column, ParquetError> {
        let mut encoded = TrackedWrite::new(Vec::new());
        let mut pages = SerializedPageWriter::new(&mut encoded);
        let numbers = self.encoded(different);
        let (num_values, num_rows) = (different as u32, self.rows.len() as u32);
        let (values, numbers_bytes) = (plain.len(), numbers.len());
        let buf = compressed(&plain)?;
        let page = Page::DictionaryPage { buf, num_values, encoding: Encoding::PLAIN, is_sorted: false };
        let first = pages.write_page(CompressedPage::new(page, values))?;
        let page = Page::DataPage {
            buf: compressed(&numbers)?,
            num_values: num_rows,
            encoding: Encoding::RLE_DICTIONARY,
            def_level_encoding: Encoding::RLE,
            rep_level_encoding: Encoding::RLE,
            statistics: None,
        };
        let second = pages.write_page(CompressedPage::new(page, numbers_bytes))?;
        pages.close()?;
        let metadata = ColumnChunkMetaData::builder(column)
            .set_compression(Compression::SNAPPY)
            .set_encodings(vec![Encoding::PLAIN, Encoding::RLE, Encoding::RLE_DICTIONARY])
            .set_total_compressed_size((first.compressed_size + second.compressed_size) as i64)
            .set_total_uncompressed_size((first.uncompressed_size + second.uncompressed_size) as i64)
            .set_num_values(num_rows.into())
            .set_dictionary_page_offset(Some(first.offset as i64))
            .set_data_page_offset(second.offset as i64)
            .set_statistics(extremes)
            .build()?;
        let close = ColumnCloseResult {
            bytes_written: first.bytes_written + second.bytes_written,
            rows_written: num_rows.into(),
            metadata,
            bloom_filter: None,
            column_index: None,
            offset_index: None,
        };
        Ok((Bytes::from(encoded.into_inner()?), close))
    }
}

fn compressed(page: &[u8]) -> Result<Bytes, ParquetError> {
    let compressed = snap::raw::Encoder::new().compress_vec(page);
    compressed.map(Bytes::from).map_err(|error| ParquetError::External(Box::new(error)))
}

fn leb128(bytes: &mut Vec<u8>, mut number: u64) {
    while number > 0x7f {
        bytes.push(number as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
}
