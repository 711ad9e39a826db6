//! Any table: a heading and rows of text, written as columns, JSON, CSV or Markdown.

use comfy_table::{CellAlignment, ColumnConstraint, ContentArrangement, Table, Width, presets};

use crate::terminal::{FIXED_COLUMNS, Terminal, lines_of};

/// A form in which a [`Sheet`] can be written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "clap", derive(clap::ValueEnum))]
pub enum SheetFormat {
    /// Aligned columns for people.
    #[default]
    Table,
    /// An array of objects.
    Json,
    /// A line for each row, after a heading.
    Csv,
    /// A table for a document.
    Markdown,
}

/// The signs of a CSV file, which spreadsheets expect by their locale.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CsvSigns {
    /// The sign between cells.
    pub delimiter: u8,
    /// Whether decimals stand behind a comma.
    pub decimal_comma: bool,
}

/// Those of RFC 4180, and a point.
impl Default for CsvSigns {
    fn default() -> Self {
        Self { delimiter: b',', decimal_comma: false }
    }
}

/// A table of text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sheet {
    heading: Vec<String>,
    numeric: Vec<bool>,
    rows: Vec<Vec<String>>,
}

/// The least columns that a text gets, if it has as many.
const TEXT_COLUMNS: usize = 12;
/// Blanks beside a column.
const PADDING: usize = 2;

impl Sheet {
    /// A sheet with these columns; those whose name ends in `#` hold numbers and are set flush right.
    pub fn new(heading: &[impl AsRef<str>]) -> Self {
        let heading = || heading.iter().map(AsRef::as_ref);
        Self {
            heading: heading().map(|name| name.trim_end_matches('#').to_owned()).collect(),
            numeric: heading().map(|name| name.ends_with('#')).collect(),
            rows: Vec::new(),
        }
    }

    /// Adds a row, a cell for each column.
    pub fn row(&mut self, cells: Vec<String>) {
        debug_assert_eq!(cells.len(), self.heading.len());
        self.rows.push(cells);
    }

    /// Whether there is no row.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// The columns: the name of each, and whether it holds numbers.
    pub(super) fn columns(&self) -> impl Iterator<Item = (&str, bool)> {
        self.heading.iter().map(String::as_str).zip(self.numeric.iter().copied())
    }

    /// The rows, a cell for each column.
    pub(super) fn rows(&self) -> &[Vec<String>] {
        &self.rows
    }

    /// Writes the sheet, for a file or a pipe.
    pub fn render(&self, format: SheetFormat) -> String {
        self.within(format, FIXED_COLUMNS)
    }

    /// Writes the sheet for standard output, as wide as that is.
    pub fn shown(&self, format: SheetFormat) -> String {
        self.within(format, Terminal::of_stdout().columns)
    }

    /// Writes the sheet, as a table in so many columns.
    pub fn within(&self, format: SheetFormat, columns: u16) -> String {
        match format {
            SheetFormat::Table if self.least_columns() > usize::from(columns) => self.stacked(columns.into()),
            SheetFormat::Table => self.aligned(presets::NOTHING, ContentArrangement::Dynamic, columns),
            SheetFormat::Markdown => self.aligned(presets::ASCII_MARKDOWN, ContentArrangement::Disabled, columns),
            SheetFormat::Csv => self.csv(CsvSigns::default()),
            SheetFormat::Json => self.json(),
        }
    }

    /// Columns that a table needs in order to be read: numbers and words whole, texts in some words a line.
    fn least_columns(&self) -> usize {
        self.least().sum()
    }

    /// The columns that each column needs in order to be read.
    fn least(&self) -> impl Iterator<Item = usize> {
        let longest_word = |name: &str| name.split(' ').map(|word| word.chars().count()).max().unwrap_or(0);
        let of_cells =
            move |at: usize, of: &dyn Fn(&str) -> usize| self.rows.iter().map(|row| of(&row[at])).max().unwrap_or(0);
        self.columns().enumerate().map(move |(at, (name, numeric))| {
            let widest = of_cells(at, &|cell| cell.chars().count());
            let cells = if numeric { widest } else { widest.min(TEXT_COLUMNS).max(of_cells(at, &longest_word)) };
            cells.max(longest_word(name)) + PADDING
        })
    }

    /// Rows as blocks, for terminals on which columns would be torn: the row's first text, and below it the names of the columns
    /// with their figures, as many in a line as fit.
    fn stacked(&self, columns: usize) -> String {
        const INDENT: &str = "  ";
        let (before, after): (Vec<usize>, Vec<usize>) = {
            let named = self.numeric.iter().position(|numeric| !numeric).unwrap_or(0);
            (0..self.heading.len()).partition(|&at| at <= named)
        };
        // A number by itself says nothing.
        let named = if self.numeric.iter().all(|&numeric| numeric) { self.heading.first() } else { None };
        let mut text = String::new();
        for row in &self.rows {
            let cells = before.iter().map(|&at| row[at].trim()).filter(|cell| !cell.is_empty());
            let title: Vec<&str> = named.map(String::as_str).into_iter().chain(cells).collect();
            text += &(textwrap::fill(&title.join(" "), lines_of(columns)) + "\n");
            let pair = |&at: &usize| {
                let pair = format!("{} {}", self.heading[at], row[at]);
                // A pair is not torn unless it is longer than a line.
                if pair.chars().count() + INDENT.len() > columns { pair } else { pair.replace(' ', "\u{a0}") }
            };
            let pairs: Vec<String> = after.iter().filter(|&&at| !row[at].is_empty()).map(pair).collect();
            let options = lines_of(columns).initial_indent(INDENT).subsequent_indent(INDENT);
            text += &(textwrap::fill(&pairs.join("  "), options).replace('\u{a0}', " ") + "\n");
        }
        text
    }

    fn aligned(&self, preset: &str, arrangement: ContentArrangement, columns: u16) -> String {
        let mut table = Table::new();
        table.load_preset(preset).set_content_arrangement(arrangement).set_width(columns);
        table.set_header(&self.heading);
        for row in &self.rows {
            table.add_row(row);
        }
        for (column, &numeric) in table.column_iter_mut().zip(&self.numeric) {
            if numeric {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        // The table would tear words to make columns equally wide.
        for (column, least) in table.column_iter_mut().zip(self.least()) {
            column.set_constraint(ColumnConstraint::LowerBoundary(Width::Fixed(
                u16::try_from(least).unwrap_or(u16::MAX),
            )));
        }
        table.trim_fmt() + "\n"
    }

    /// Writes the sheet as CSV with these signs.
    pub fn csv(&self, signs: CsvSigns) -> String {
        let mut writer = csv::WriterBuilder::new().delimiter(signs.delimiter).from_writer(Vec::new());
        // Writing to memory can't fail, and every row has the heading's length.
        let _ = writer.write_record(&self.heading);
        let sign = if signs.decimal_comma { "," } else { "." };
        for row in &self.rows {
            let cells = row.iter().zip(&self.numeric);
            let cells = cells.map(|(cell, &numeric)| if numeric { cell.replace('.', sign) } else { cell.clone() });
            let _ = writer.write_record(cells.collect::<Vec<_>>());
        }
        writer.into_inner().map_or_else(|_| String::new(), |bytes| String::from_utf8_lossy(&bytes).into_owned())
    }

    fn json(&self) -> String {
        let cell = |text: &String, numeric: bool| match text.parse::<u64>() {
            Ok(number) if numeric => number.into(),
            _ => serde_json::Value::from(text.as_str()),
        };
        let object = |row: &Vec<String>| -> serde_json::Value {
            let cells = row.iter().zip(&self.numeric).map(|(text, &numeric)| cell(text, numeric));
            self.heading.iter().map(|name| name.replace(' ', "_")).zip(cells).collect()
        };
        let rows: Vec<_> = self.rows.iter().map(object).collect();
        serde_json::to_string_pretty(&rows).unwrap_or_default() + "\n"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_word_is_torn() {
        let mut sheet = Sheet::new(&["platform", "processor", "remarks", "count#"]);
        let name = "corei7_sandy_bridge_2600k";
        let remarks = "has everything that a run needs, ".repeat(9);
        sheet.row([name, "a", &remarks, "18446744073709551615"].map(str::to_owned).to_vec());
        sheet.row([name, "of a Control-register access", &remarks, "1"].map(str::to_owned).to_vec());
        for columns in [40, 72, 80, 120] {
            let table = sheet.within(SheetFormat::Table, columns);
            for word in [name, "Control-register", "everything", "18446744073709551615"] {
                assert!(table.contains(word), "{word}\n{table}");
            }
            assert!(table.lines().all(|line| line.chars().count() <= columns.into()), "{columns}\n{table}");
        }
    }

    #[test]
    fn one_sheet_in_every_form() {
        let mut sheet = Sheet::new(&["no#", "full name"]);
        sheet.row(vec!["10".into(), "CPUID, \"quoted\"".into()]);
        assert_eq!(sheet.render(SheetFormat::Csv), "no,full name\n10,\"CPUID, \"\"quoted\"\"\"\n");
        let german = CsvSigns { delimiter: b';', decimal_comma: true };
        sheet.row(vec!["9.10".into(), "CR8.".into()]);
        assert_eq!(sheet.csv(german), "no;full name\n10;\"CPUID, \"\"quoted\"\"\"\n9,10;CR8.\n");
        sheet.rows.pop();
        assert!(sheet.render(SheetFormat::Json).contains("\"full_name\": \"CPUID, \\\"quoted\\\"\""));
        assert!(sheet.render(SheetFormat::Json).contains("\"no\": 10"));
        assert!(sheet.render(SheetFormat::Markdown).starts_with("| no | full name"));
        assert_eq!(sheet.render(SheetFormat::Table).lines().count(), 2);
    }
}
