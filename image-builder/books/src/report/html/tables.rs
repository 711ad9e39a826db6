//! Tables of a page: captioned, with a heading for each row, sortable, and scrolling by themselves where they are wide.

use maud::{Markup, Render, html};

use crate::report::Sheet;

/// The most rows of a table that a page has room for.
const MOST_ROWS: usize = 2000;

/// One cell of a row.
pub(super) struct Cell {
    text: Markup,
    value: Option<f64>,
    class: &'static str,
}

impl Cell {
    /// Text, or a number as it was written elsewhere.
    pub(super) fn text(text: impl AsRef<str>) -> Self {
        let text = text.as_ref();
        Self { text: text.render(), value: number(text), class: "" }
    }

    /// A cell with this text, sorted by this value.
    pub(super) fn of(text: Markup, value: Option<f64>) -> Self {
        Self { text, value, class: "" }
    }

    /// An exact number.
    pub(super) fn count(count: u64) -> Self {
        Self::text(count.to_string())
    }

    /// Marks it with a class of the style sheet.
    pub(super) fn marked(mut self, class: &'static str) -> Self {
        self.class = class;
        self
    }
}

/// The value by which a cell is sorted: the number before a unit or a plus sign.
fn number(text: &str) -> Option<f64> {
    text.trim_end_matches('%').split('+').find(|part| !part.is_empty())?.parse().ok()
}

/// A column's name, and the way to read its cells.
pub(super) struct Column<'a> {
    pub(super) name: &'a str,
    pub(super) numeric: bool,
    /// The direction in which the rows are sorted by it as they stand, if they are.
    pub(super) sorted: Option<&'static str>,
    /// The meaning of the name, where it needs saying.
    pub(super) about: &'a str,
}

impl<'a> Column<'a> {
    pub(super) fn new(name: &'a str, numeric: bool) -> Self {
        Self { name, numeric, sorted: None, about: "" }
    }
}

/// A table. The first column heads the rows; `groups` are headings over several columns, `last` is a row that stays last.
pub(super) struct Table<'a> {
    pub(super) caption: Markup,
    pub(super) groups: Vec<(String, usize)>,
    pub(super) columns: Vec<Column<'a>>,
    pub(super) rows: Vec<Vec<Cell>>,
    pub(super) last: Option<Vec<Cell>>,
}

impl Render for Table<'_> {
    fn render(&self) -> Markup {
        let left_out = self.rows.len().saturating_sub(MOST_ROWS);
        html! {
            div.scroll tabindex="0" role="group" aria-label="Table that scrolls sideways" {
                table.sortable {
                    caption { (self.caption) }
                    thead {
                        @if !self.groups.is_empty() {
                            tr {
                                @for (name, columns) in &self.groups {
                                    @if name.is_empty() { td colspan=(columns) {} }
                                    @else { th scope="colgroup" colspan=(columns) { (name) } }
                                }
                            }
                        }
                        tr {
                            @for column in &self.columns {
                                th scope="col" class=[column.numeric.then_some("n")] aria-sort=[column.sorted]
                                    title=[Some(column.about).filter(|about| !about.is_empty())] { (column.name) }
                            }
                        }
                    }
                    tbody { @for row in self.rows.iter().take(MOST_ROWS) { (self.row(row)) } }
                    @if let Some(row) = &self.last { tfoot { (self.row(row)) } }
                }
            }
            @if left_out > 0 {
                p.note { (left_out) " more rows are left out here; the figures below the page, as JSON, have them all." }
            }
        }
    }
}

impl Table<'_> {
    fn row(&self, cells: &[Cell]) -> Markup {
        html! {
            tr {
                @for (at, (cell, column)) in cells.iter().zip(&self.columns).enumerate() {
                    @let class = match (column.numeric, cell.class) {
                        (true, "") => Some("n".to_owned()),
                        (true, class) => Some(format!("n {class}")),
                        (false, "") => None,
                        (false, class) => Some(class.to_owned()),
                    };
                    @let value = cell.value.filter(|_| column.numeric);
                    @if at == 0 { th scope="row" class=[class] data-v=[value] { (cell.text) } }
                    @else { td class=[class] data-v=[value] { (cell.text) } }
                }
            }
        }
    }
}

/// Any sheet as a table; its first column of text comes first.
pub(super) fn sheet(caption: &str, sheet: &Sheet) -> Markup {
    let columns: Vec<(&str, bool)> = sheet.columns().collect();
    let heading = columns.iter().position(|&(_, numeric)| !numeric).unwrap_or(0);
    let mut order: Vec<usize> = vec![heading];
    order.extend((0..columns.len()).filter(|&at| at != heading));
    let row = |cells: &Vec<String>| order.iter().map(|&at| Cell::text(&cells[at])).collect();
    Table {
        caption: html! { (caption) },
        groups: Vec::new(),
        columns: order.iter().map(|&at| Column::new(columns[at].0, columns[at].1)).collect(),
        rows: sheet.rows().iter().map(row).collect(),
        last: None,
    }
    .render()
}
